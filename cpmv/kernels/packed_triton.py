"""The same products and dequantisation as packed_cuda.py in Triton, for where NVRTC is missing, and in its interpreter.

Slower than the CUDA kernels (their layout is not Triton's), but the same numbers: a weight is dequantised in registers
to the dtype of x, exactly as `dequantize` rounds it, and sums are float32. One program takes rows of a few tiles and
walks over all inputs.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import launch
from .packed_layout import CHUNK, TILE

if TYPE_CHECKING:
    from .packed import Packed

_FORMATS = {"awq": 0, "nf4": 1, "q4_0": 2, "q8_0": 3, "q4_k": 4, "q6_k": 5, "int8": 6}
_MAX_DIRECT = 4  # rows of x that are summed one by one; more go through tl.dot, 16 at least


def available(device: torch.device) -> bool:
    """Whether Triton's kernels run there; the reason why not is logged once."""
    return launch.available(device)


@functools.cache
def _kernels() -> Any:
    from . import packed_triton_kernels

    return packed_triton_kernels


def _tensors(weight: Packed, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """codes, scales, extra, high; what a format has not got stands as its codes, and is not read."""
    codes = weight.tensors["codes"]
    high = weight.tensors.get("high", getattr(weight, "book", None))
    return (
        codes,
        weight.tensors.get("scales", codes),
        weight.tensors.get("extra", codes),
        codes if high is None else high,
    )


def multiply(
    weight: Packed,
    x: Tensor,
    norm: tuple[Tensor, float] | None,
    residual: Tensor | None,
    gated: bool,
    bias: Tensor | None,
) -> Tensor:
    """`Packed.multiply` by Triton kernels."""
    rows, width = len(x), weight.shape[0] // (2 if gated else 1)
    out = torch.empty(rows, width, dtype=x.dtype, device=x.device) if residual is None else residual
    x = x.contiguous()
    if norm is not None:
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + norm[1])
        x = y.to(x.dtype) * norm[0].to(x.dtype)
    tiles = weight.tiles // 2 if gated else weight.tiles
    direct = rows <= _MAX_DIRECT
    per_program = 2
    _kernels().multiply[(-(-tiles // per_program),)](
        *(x, *_tensors(weight, x.dtype), out if bias is None else bias.to(x.dtype), out),
        *(rows, weight.shape[0], weight.shape[1], tiles, weight.scale),
        FMT=_FORMATS[weight.format],
        GROUP=weight.group,
        TILES=per_program,
        ROWS=_padded(rows, direct),
        DIRECT=direct,
        GATED=gated,
        BIAS=bias is not None,
        RESIDUAL=residual is not None,
        HALF=x.dtype is torch.float16,
        num_warps=4,
    )
    return out


def _padded(rows: int, direct: bool) -> int:
    return max(1 if direct else 16, 1 << (rows - 1).bit_length())


def dequantize(weight: Packed, dtype: torch.dtype) -> Tensor:
    """`Packed.dequantize` by a Triton kernel."""
    out = torch.empty(weight.shape, dtype=dtype, device=weight.device)
    _kernels().dequantize[(weight.tiles, weight.shape[1] // CHUNK)](
        *(*_tensors(weight, dtype), out, weight.shape[0], weight.shape[1], weight.scale),
        FMT=_FORMATS[weight.format],
        GROUP=weight.group,
        TILE=TILE,
        num_warps=4,
    )
    return out
