"""AWQ checkpoints in the "gemm" layout: 4-bit codes with a zero point and a float16 scale for every group of inputs.

A linear [out, in] is stored transposed: `qweight` int32 [in, out/8], `qzeros` int32 [in/g, out/8], `scales` float16
[in/g, out]. Each int32 holds eight neighbouring outputs; its nibbles, lowest first, are columns 0 2 4 6 1 3 5 7.
Which layers are quantised is decided tensor by tensor: those with a `qweight`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .packed import PackedLinear, PackedWeight, Released, as_stored
from .stored import Problem, Stored

_PAGE_WORDS = 1024  # int32 values in a 4 KiB page
_PARTS = ("qweight", "qzeros", "scales")
_NIBBLE_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)


def unpack(packed: Tensor) -> Tensor:
    """Return the 4-bit numbers of int32 [rows, columns / 8], int8 [rows, columns] in column order."""
    words = packed.to(torch.int64)
    # The low half word holds the even columns in order, the high one the odd: spread each to every other byte.
    return (_spread(words & 0xFFFF) | _spread(words >> 16 & 0xFFFF) << 8).view(torch.int8)


def _spread(halves: Tensor) -> Tensor:
    """Move the 4 nibbles of 16-bit numbers, int64, to bytes 0, 2, 4 and 6."""
    pairs = (halves | halves << 24) & 0x000000FF000000FF
    return (pairs | pairs << 12) & 0x000F000F000F000F


def pack(numbers: Tensor) -> Tensor:
    """Undo `unpack`: int [rows, columns] of 0..15 to int32 [rows, columns / 8]."""
    words = numbers.view(numbers.shape[0], -1, 8)[..., list(_NIBBLE_COLUMNS)].to(torch.uint8)
    octets = words[..., 0::2] | words[..., 1::2] << 4
    return octets.contiguous().view(torch.int32).squeeze(-1)


class AWQLinear(PackedLinear):
    """qweight, qzeros, scales as stored; `dequantize()` is in the dtype of the scales."""

    qweight: Tensor
    qzeros: Tensor
    scales: Tensor

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        qweight, scales = tensors["qweight"], tensors["scales"]
        super().__init__(qweight.shape[0], scales.shape[1], scales.dtype)
        for name in _PARTS:
            self.register_buffer(name, tensors[name])
        self.group_size = qweight.shape[0] // scales.shape[0]
        self._paged_in = False

    @property
    def row_step(self) -> int:
        return 8

    def _rows(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        if not self._paged_in and self.qweight.device.type == "cpu":
            # Rows of the weight are columns of the mapped file: without reading its pages in order once, the first
            # use faults them in one by one (measured: 310 s instead of 84 s for a cold 7 GB file's first answer).
            self.qweight.flatten()[::_PAGE_WORDS].sum()
            self._paged_in = True
        return super()._rows(start, stop, dtype)

    def dequantize_rows(self, start: int, stop: int) -> Tensor:
        words = slice(start // 8, -(-stop // 8))
        codes = unpack(self.qweight[:, words]).view(-1, self.group_size, stop - start)  # [groups, g, rows]
        steps = codes - unpack(self.qzeros[:, words])[:, None]
        weight = steps.to(self.stored_dtype) * self.scales[:, None, start:stop]
        return weight.flatten(0, 1).t()

    def released(self) -> Released:
        return as_stored({name: getattr(self, name) for name in _PARTS})


def collect(
    tensors: dict[str, Stored], quantization: dict[str, Any] | None
) -> tuple[dict[str, PackedWeight], list[Problem]]:
    """Take the AWQ weights out of `tensors`.

    `quantization` is the config's `quantization_config`. Raises CheckpointError if it asks for another layout or
    another number of bits than this module reads.
    """
    keys = [k for k in tensors if k.endswith(".qweight")]
    settings = quantization or {}
    if keys:
        _check_settings(settings)
    found: dict[str, PackedWeight] = {}
    problems: list[Problem] = []
    for key in keys:
        module = key.removesuffix(".qweight")
        parts = {part: tensors.pop(f"{module}.{part}") for part in _PARTS if f"{module}.{part}" in tensors}
        try:
            found[f"{module}.weight"] = _describe(f"{module}.weight", parts, settings)
        except ValueError as error:
            problems.append(Problem(f"{module}.weight", parts["qweight"].file, str(error)))
    return found, problems


def _check_settings(settings: dict[str, Any]) -> None:
    bits = settings.get("bits", settings.get("w_bit", 4))
    version = str(settings.get("version", "gemm")).lower()
    method = settings.get("quant_method", "awq")
    if method != "awq":
        raise CheckpointError(
            f"config.json has quant_method {method!r} beside qweight tensors; only 'awq' is supported"
        )
    if bits != 4:
        raise CheckpointError(f"config.json has AWQ with {bits} bits; only 4 are supported")
    if version != "gemm":
        raise CheckpointError(f"config.json has AWQ version {version!r}; only 'gemm' is supported")
    if settings.get("zero_point", True) is not True:
        raise CheckpointError("config.json has AWQ without zero_point; only files with zero points are supported")


def _describe(name: str, parts: dict[str, Stored], settings: dict[str, Any]) -> PackedWeight:
    """Check shapes against each other and the config. Raises ValueError with a reason."""
    missing = [part for part in _PARTS if part not in parts]
    if missing:
        raise ValueError(f"has a qweight but no {' and no '.join(missing)}")
    qweight, qzeros, scales = (parts[part] for part in _PARTS)
    if qweight.dtype != torch.int32 or qzeros.dtype != torch.int32 or not scales.dtype.is_floating_point:
        raise ValueError(f"has dtypes {qweight.dtype}, {qzeros.dtype}, {scales.dtype}; AWQ has int32, int32, float16")
    if any(len(part.shape) != 2 for part in (qweight, qzeros, scales)):
        raise ValueError("has tensors that are no matrices")
    (inputs, words), (groups, outputs) = qweight.shape, scales.shape
    if 0 in (inputs, words, groups) or words * 8 != outputs or qzeros.shape != (groups, words) or inputs % groups:
        raise ValueError(
            f"has qweight {list(qweight.shape)}, qzeros {list(qzeros.shape)} and scales {list(scales.shape)}, "
            "which do not belong together"
        )
    wanted = settings.get("group_size", settings.get("q_group_size"))
    wanted = inputs if wanted == -1 else wanted  # -1: one group a row
    if wanted is not None and wanted != inputs // groups:
        raise ValueError(f"has groups of {inputs // groups} inputs, but config.json says group_size {wanted}")

    def build(device: torch.device) -> AWQLinear:
        return AWQLinear({part: parts[part].read().to(device) for part in _PARTS})

    return PackedWeight(name, "awq", (outputs, inputs), list(parts.values()), build)


def quantize(weight: Tensor, group_size: int = 128, clip: Tensor | None = None) -> dict[str, Tensor]:
    """Round a weight [out, in] to the tensors a released file holds, by the name after the module's path.

    Plain rounding between each group's extremes, or between `clip` [out, groups] times these; activation-aware scaling
    is done to the weight before (`awq_search` finds both).
    Raises CheckpointError if in is no multiple of group_size or out no multiple of 8.
    """
    rows, cols = weight.shape
    if cols % group_size or rows % 8:
        raise CheckpointError(f"a weight {[rows, cols]} cannot be AWQ with groups of {group_size} inputs")
    codes, zeros, scales = _round(weight, group_size, clip)
    codes = codes.view(rows, cols).to(torch.uint8)
    return {
        "qweight": pack(codes.t().contiguous()),
        "qzeros": pack(zeros.t().contiguous().to(torch.uint8)),
        "scales": scales.t().contiguous().half(),
    }


def rounded(weight: Tensor, group_size: int, clip: Tensor | None = None) -> Tensor:
    """Return what a weight [out, in] is once it has been quantised, float32."""
    codes, zeros, scales = _round(weight, group_size, clip)
    return codes.sub_(zeros.unsqueeze(-1)).mul_(scales.unsqueeze(-1)).view(weight.shape)


def _round(weight: Tensor, group_size: int, clip: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes [out, groups, g], zero points and steps [out, groups], float32, steps as float16 holds them."""
    groups = weight.detach().float().reshape(weight.shape[0], -1, group_size)
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    if clip is not None:
        low, high = low * clip, high * clip
    scales = ((high - low) / 15).clamp(min=1e-5).half().float()
    zeros = (-low / scales).round().clamp(0, 15)
    codes = (groups / scales.unsqueeze(-1)).add_(zeros.unsqueeze(-1)).round_().clamp_(0, 15)
    return codes, zeros, scales
