"""LoRA (arXiv 2106.09685): a small trained product beside a frozen linear, y = base(x) + alpha / rank · B A x.

The base may hold plain or quantised weights; it is never touched, only read. `adapter` writes and reads the files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CpmvError
from .layers import Linear

# Named groups of linears; anything else is the end of a module's name, as in PEFT.
_GROUPS = {
    "language": r"llm\.model\.layers\.\d+\..*",
    "vision": r"vpm\.encoder\.layers\.\d+\..*",
    "resampler": r"resampler\..*",
    "all": r"(llm\.model\.layers|vpm\.encoder\.layers|resampler)\..*",
}


@dataclass(frozen=True)
class LoraConfig:
    """rank: width of the product. alpha: the product is scaled by alpha / rank. dropout: share of inputs to the
    product that are dropped while training. targets: "language", "vision", "resampler" or "all" linears, ends of module
    names such as "q_proj" (the language model's), whole names, or a regular expression over them, as in PEFT."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("language",)

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= 4096:
            raise CpmvError(f"LoRA rank is {self.rank}; give 1 to 4096, such as 16")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise CpmvError(f"LoRA alpha is {self.alpha}; give a number above 0, such as twice the rank")
        if not 0 <= self.dropout < 1:
            raise CpmvError(f"LoRA dropout is {self.dropout}; give 0 to below 1")


class LinearLike(Protocol):
    in_features: int
    out_features: int
    bias: nn.Parameter | None


class LoRALinear(nn.Module):
    """A linear map with a low-rank product beside it.

    base_layer: the frozen map, plain or quantised. lora_A [rank, in] and lora_B [out, rank] are float32; lora_B begins
    at zero, so the map begins unchanged. enabled: whether the product counts. `merged` is a plain linear that stands
    for both while merged.
    """

    merged: Linear | None

    def __init__(self, base: nn.Module, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        sizes = cast(LinearLike, base)
        self.in_features, self.out_features = sizes.in_features, sizes.out_features
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.scaling = alpha / rank
        self.enabled = True
        self.base_layer = base
        device = next(t for t in (*base.parameters(), *base.buffers())).device
        self.lora_A = nn.Parameter(torch.zeros(rank, self.in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(self.out_features, rank, device=device))
        self.register_module("merged", None)

    @property
    def bias(self) -> nn.Parameter | None:
        return cast(LinearLike, self.base_layer).bias

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw lora_A uniformly within ±1/√in, from a CPU generator; set lora_B to zero."""
        bound = 1 / math.sqrt(self.in_features)
        self.lora_A.copy_(torch.empty(self.lora_A.shape).uniform_(-bound, bound, generator=generator))
        self.lora_B.zero_()

    def forward(self, x: Tensor) -> Tensor:
        if self.merged is not None and self.enabled:
            return cast(Tensor, self.merged(x))
        out: Tensor = self.base_layer(x)
        if not self.enabled:
            return out
        inner = F.dropout(x, self.dropout) if self.dropout and self.training else x
        product = F.linear(F.linear(inner, self.lora_A.to(x.dtype)), self.lora_B.to(x.dtype))
        return out + product.to(out.dtype) * self.scaling

    @torch.no_grad()
    def weight(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return base and product as one weight [out, in]: summed in float32, rounded once to `dtype`, by default the
        stored one."""
        base = self.base_layer
        if isinstance(base, nn.Linear):
            stored, own = base.weight, base.weight.dtype
        else:
            packed = cast(Any, base)
            stored, own = packed.dequantize(torch.float32), packed.stored_dtype
        delta = self.scaling * (self.lora_B.float() @ self.lora_A.float())
        return (stored.float() + delta.to(stored.device)).to(dtype or own)

    def as_linear(self) -> Linear:
        """Return a plain linear with the merged weight; a bias is shared with the base."""
        weight, bias = self.weight(), self.bias
        layer = Linear(self.in_features, self.out_features, bias=bias is not None, device="meta")
        layer.weight = nn.Parameter(weight, requires_grad=False)
        layer.register_parameter("bias", bias)
        return layer

    def extra_repr(self) -> str:
        return f"rank={self.rank}, alpha={self.alpha:g}, dropout={self.dropout:g}"


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """Return the adapted linears by their names in the released model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


def lora_parameters(model: nn.Module) -> list[nn.Parameter]:
    return [p for layer in lora_layers(model).values() for p in (layer.lora_A, layer.lora_B)]


def find_targets(model: nn.Module, targets: tuple[str, ...]) -> list[str]:
    """Return the names of the linears that `targets` chooses (see `LoraConfig`). Raises CpmvError for one that
    chooses none."""
    linears = linear_names(model)
    chosen: set[str] = set()
    for target in targets:
        pattern = _target_pattern(target)
        found = [name for name in linears if pattern.fullmatch(name)]
        if not found:
            ends = sorted({name.rpartition(".")[2] for name in linears if name.startswith("llm.")})
            raise CpmvError(f"no linear is named {target!r}; choose of {', '.join(_GROUPS)}, or {', '.join(ends)}")
        chosen.update(found)
    return [name for name in linears if name in chosen]


def _target_pattern(target: str) -> re.Pattern[str]:
    if target in _GROUPS:
        return re.compile(_GROUPS[target])
    if re.search(r"[\\()|*\[]", target):
        try:
            return re.compile(target)
        except re.error as error:
            raise CpmvError(f"LoRA target {target!r} is no regular expression ({error})") from None
    if target.split(".")[0] in ("llm", "vpm", "resampler"):
        return re.compile(re.escape(target) + r"(\..*)?")
    # "q_proj" exists in the vision tower too; that one is meant only where its part is named.
    return re.compile(r"llm\.(.*\.)?" + re.escape(target))


def linear_names(model: nn.Module) -> list[str]:
    """Names of all linears that can be adapted; the head is none, because it may be the embedding table."""
    names = [name for name, module in model.named_modules() if is_linear(module)]
    return [name for name in names if not name.endswith("lm_head")]


def is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (hasattr(module, "dequantize") and hasattr(module, "in_features"))


def apply_lora(model: nn.Module, config: LoraConfig, seed: int = 0) -> list[str]:
    """Put adapters on the chosen linears of a model; return their names.

    Everything else of the model is frozen. The same seed draws the same start on any device.
    """
    if lora_layers(model):
        raise CpmvError("this model carries an adapter already; merge it first, or load the model without it")
    names = find_targets(model, config.targets)
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name in names:
        layer = LoRALinear(model.get_submodule(name), config.rank, config.alpha, config.dropout)
        layer.reset(generator)
        replace_module(model, name, layer.train(model.training))
    return names


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Let the model be its base inside the `with`: a reference policy that costs no memory."""
    layers = list(lora_layers(model).values())
    before = [layer.enabled for layer in layers]
    for layer in layers:
        layer.enabled = False
    try:
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer.enabled = value


def merge(model: nn.Module) -> None:
    """Compute with merged weights from now on. The base is kept, so that `unmerge` is exact; this costs its memory."""
    for layer in lora_layers(model).values():
        layer.merged = layer.as_linear()


def unmerge(model: nn.Module) -> None:
    """Go back to base and product."""
    for layer in lora_layers(model).values():
        layer.merged = None


def fold(model: nn.Module) -> int:
    """Replace every adapted linear by a plain one with the merged weight, for good; return how many there were."""
    layers = lora_layers(model)
    for name, layer in layers.items():
        replace_module(model, name, layer.as_linear())
    return len(layers)
