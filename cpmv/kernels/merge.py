"""Weights that are multiplied together as one tensor, without a second copy: each parameter becomes a view of it.

One product instead of three (q, k, v) or two (gate, up). Parameters keep their names, shapes and identities, so files,
adapters and training see nothing; whoever multiplies asks `merged` each time, which notices when a parameter has moved.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def merge_decoder(llm: nn.Module) -> bool:
    """Merge q, k, v and gate, up of every layer of a `LanguageModel`; return whether all could be.

    Sets `qkv_weight` on each attention and `gate_up_weight` on each MLP: the whole tensor, or None where a layer is
    quantised, adapted or biased. Doing it again does nothing.
    """
    decoder: Any = llm.model
    return merge_layers(decoder.layers)


def merge_layers(layers: Iterable[Any]) -> bool:
    """The same of decoder layers."""
    complete = True
    for layer in layers:
        attention, mlp = layer.self_attn, layer.mlp
        attention.qkv_weight = merge_rows([attention.q_proj, attention.k_proj, attention.v_proj])
        mlp.gate_up_weight = merge_rows([mlp.gate_proj, mlp.up_proj])
        complete = complete and attention.qkv_weight is not None and mlp.gate_up_weight is not None
    return complete


def merge_rows(linears: Sequence[nn.Module], name: str = "weight", *, with_bias: bool = False) -> Tensor | None:
    """Make the parameters `name` of plain linears views of one tensor, in order; return it, or None if it cannot be.

    It cannot where one is no plain linear, has a bias when `with_bias` is false, or differs in dtype or device.
    """
    parts: list[nn.Parameter] = []
    for linear in linears:
        part = linear._parameters.get(name) if isinstance(linear, nn.Linear) else None
        if part is None or (linear.bias is None) == with_bias:
            return None
        parts.append(part)
    first = parts[0]
    if first.is_meta or any(p.dtype != first.dtype or p.device != first.device or p.is_inference() for p in parts):
        return None
    with torch.inference_mode(False), torch.no_grad():  # training may follow
        whole = _whole(parts)
        if whole is None:
            whole = torch.cat([p.detach() for p in parts])
            for part, rows in zip(parts, whole.split([p.shape[0] for p in parts]), strict=True):
                part.data = rows
    return whole


def pad_hidden(first: nn.Linear, second: nn.Linear, multiple: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pad the width between two linears with zeros: their parameters become views of padded tensors.

    Returns the first weight and bias and the second weight, the width between them a multiple of `multiple`. Zeros
    stay zeros through an activation that keeps 0, so the product is the same; products of even widths are faster.
    """
    hidden = first.out_features
    spare = -hidden % multiple
    if not spare:
        return first.weight.detach(), first.bias.detach(), second.weight.detach()
    with torch.inference_mode(False), torch.no_grad():
        weight = F.pad(first.weight.detach(), (0, 0, 0, spare))
        bias = F.pad(first.bias.detach(), (0, spare))
        back = F.pad(second.weight.detach(), (0, spare))
        first.weight.data, first.bias.data, second.weight.data = weight[:hidden], bias[:hidden], back[:, :hidden]
    return weight, bias, back


def _whole(parts: Sequence[Tensor]) -> Tensor | None:
    """The tensor that parts, neighbours in memory, already are views of."""
    first = parts[0]
    at = first.data_ptr()
    for part in parts:
        if part.data_ptr() != at or not part.is_contiguous():
            return None
        at += part.nbytes
    if at - first.data_ptr() > first.untyped_storage().nbytes() - first.storage_offset() * first.itemsize:
        return None  # neighbours by chance
    rows = sum(part.shape[0] for part in parts)
    return first.detach().as_strided((rows, *first.shape[1:]), first.stride())


def merged(whole: Tensor | None, parts: Iterable[Any]) -> Tensor | None:
    """Return `whole` while the weights of `parts` still are its rows, else None."""
    if whole is None:
        return None
    at = whole.data_ptr()
    for part in parts:
        weight = part._parameters.get("weight") if isinstance(part, nn.Linear) else None
        if weight is None or weight.data_ptr() != at:
            return None
        at += weight.nbytes
    return whole


class Snapshot:
    """Which modules and parameters something was derived from, so as to notice when they have changed since.

    Values changed in place are noticed by their version; those of tensors made under inference mode, which have none,
    are not.
    """

    def __init__(self, *roots: nn.Module) -> None:
        self._objects: list[tuple[dict[str, Any], str, Any]] = []
        self._tensors: list[tuple[Tensor, int, int]] = []
        for root in roots:
            for module in root.modules():
                self._objects += [(module._modules, key, child) for key, child in module._modules.items()]
                for key, parameter in module._parameters.items():
                    self._objects.append((module._parameters, key, parameter))
                    if parameter is not None:
                        self._tensors.append((parameter, parameter.data_ptr(), _version(parameter)))

    def holds(self) -> bool:
        """Whether nothing has changed."""
        return all(where.get(key) is thing for where, key, thing in self._objects) and all(
            tensor.data_ptr() == at and _version(tensor) == version for tensor, at, version in self._tensors
        )


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
