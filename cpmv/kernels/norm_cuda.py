"""Launch cuda/norm.cu: layer norm of narrow rows at the memory's speed, where `available` says it can."""

from __future__ import annotations

import ctypes
import functools
import logging
from pathlib import Path

import torch
from torch import Tensor

from .cuda import nvrtc

log = logging.getLogger("cpmv")

_WIDEST = 2048  # a row lies in one warp's registers
_WARPS = 4


class Arguments(ctypes.Structure):
    """`struct Args` of norm.cu."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "shift", "weight", "bias", "y")),
        ("eps", ctypes.c_float),
        ("rows", ctypes.c_int),
    ]


@functools.cache
def source() -> str:
    return (Path(__file__).parent / "cuda" / "norm.cu").read_text(encoding="utf-8")


def _kernel(size: int, dtype: torch.dtype, shifted: bool, rows: int) -> nvrtc.Kernel:
    macros = (("SIZE", size), ("BF16", int(dtype is torch.bfloat16)), ("SHIFTED", int(shifted)))
    return nvrtc.kernel(source(), "layer_norm", (*macros, ("WARPS", _WARPS), ("ROWS", rows)))


@functools.cache
def _works(index: int, size: int, dtype: torch.dtype) -> bool:
    try:
        with torch.cuda.device(index):
            for shifted in (False, True):
                _kernel(size, dtype, shifted, 1)
    except nvrtc.CompilerMissingError as error:
        log.info("layer norms use Triton's kernel instead of CUDA's: %s", error)
        return False
    return True


def available(x: Tensor) -> bool:
    """Whether rows like x [N, size] have this kernel: on CUDA, 16 bits, a narrow width that is a multiple of 128."""
    size = x.shape[1]
    if not x.is_cuda or x.element_size() != 2 or size % 128 or size > _WIDEST:
        return False
    index = torch.cuda.current_device()
    return x.device.index == index and _works(index, size, x.dtype)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, shift: Tensor | None, rows: int = 1) -> Tensor:
    """As `fused.layer_norm`, shift in float32. rows: how many a warp takes one after the other."""
    out = torch.empty_like(x)
    num_rows, size = x.shape
    arguments = Arguments(
        *(x.data_ptr(), None if shift is None else shift.data_ptr()),
        *(weight.data_ptr(), bias.data_ptr(), out.data_ptr(), eps, num_rows),
    )
    if num_rows:
        blocks = -(-num_rows // (_WARPS * rows))
        _kernel(size, x.dtype, shift is not None, rows).launch((blocks, 1), _WARPS * 32, 0, arguments)
    return out
