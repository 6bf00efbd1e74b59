"""8-bit weights with one scale a row: a layout of this project's own, the simplest that keeps a model whole.

A linear [out, in] is stored as `weight` int8 [out, in] and `weight_scale` float32 [out]; w = weight * weight_scale, in
the dtype that config.json names under `quantization_config.dtype`. Symmetric: codes from -127 to 127, zero is zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .packed import PackedLinear, PackedWeight, Released, as_stored
from .stored import Problem, Stored

METHOD = "cpmv-int8"  # quant_method in config.json
_SCALE = ".weight_scale"
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_HIGHEST = 127
_AT_ONCE = 1 << 24  # elements in float32 while rounding


class Int8Linear(PackedLinear):
    """codes: int8 [out, in]; scales: float32 [out]."""

    codes: Tensor
    scales: Tensor

    def __init__(self, codes: Tensor, scales: Tensor, dtype: torch.dtype) -> None:
        super().__init__(codes.shape[1], codes.shape[0], dtype)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)

    def dequantize_rows(self, start: int, stop: int) -> Tensor:
        rows = self.codes[start:stop].float() * self.scales[start:stop, None]
        return rows.to(self.stored_dtype)

    def released(self) -> Released:
        return as_stored({"weight": self.codes, "weight_scale": self.scales})


def collect(
    tensors: dict[str, Stored], quantization: dict[str, Any] | None
) -> tuple[dict[str, PackedWeight], list[Problem]]:
    """Take the 8-bit weights out of `tensors`: those with a `weight_scale`, where config.json names this format."""
    settings = quantization or {}
    found: dict[str, PackedWeight] = {}
    problems: list[Problem] = []
    if settings.get("quant_method") != METHOD:
        return found, problems
    dtype = _DTYPES.get(str(settings.get("dtype", "bfloat16")))
    if dtype is None:
        raise CheckpointError(
            f"config.json has int8 weights of dtype {settings.get('dtype')!r}; use {', '.join(_DTYPES)}"
        )
    for key in [k for k in tensors if k.endswith(_SCALE)]:
        name = f"{key.removesuffix(_SCALE)}.weight"
        scale, codes = tensors.pop(key), tensors.pop(name, None)
        try:
            found[name] = _describe(name, codes, scale, dtype)
        except ValueError as error:
            problems.append(Problem(name, scale.file, str(error)))
    return found, problems


def _describe(name: str, codes: Stored | None, scale: Stored, dtype: torch.dtype) -> PackedWeight:
    """Check shapes against each other. Raises ValueError with a reason."""
    if codes is None:
        raise ValueError("has a weight_scale but no weight")
    if codes.dtype != torch.int8 or scale.dtype != torch.float32:
        raise ValueError(f"has dtypes {codes.dtype} and {scale.dtype}; this format has int8 and float32")
    if len(codes.shape) != 2 or scale.shape != codes.shape[:1]:
        raise ValueError(f"has {list(codes.shape)} and scales {list(scale.shape)}, which do not belong together")

    def build(device: torch.device) -> Int8Linear:
        return Int8Linear(codes.read().to(device), scale.read().to(device), dtype)

    return PackedWeight(name, "int8", (codes.shape[0], codes.shape[1]), [codes, scale], build)


def quantize(weight: Tensor) -> dict[str, Tensor]:
    """Round a weight [out, in] to the tensors a file holds, by the name after the module's path."""
    if weight.ndim != 2:
        raise CheckpointError(f"only matrices can be quantised to int8, not shape {list(weight.shape)}")
    codes = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scales = torch.empty(weight.shape[0], device=weight.device)
    rows = max(1, _AT_ONCE // weight.shape[1])
    for start in range(0, weight.shape[0], rows):  # a head of 150,000 words is never held as float32
        part = slice(start, start + rows)
        values = weight[part].detach().float()
        scales[part] = (values.abs().amax(1) / _HIGHEST).clamp(min=1e-30)
        codes[part] = (values / scales[part, None]).round().clamp(-_HIGHEST, _HIGHEST)
    return {"weight": codes, "weight_scale": scales}
