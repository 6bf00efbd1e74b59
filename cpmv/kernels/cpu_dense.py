"""Products with matrices of 16-bit numbers where they lie, in a mapped file too.

Few rows at the speed of memory: torch reads such a matrix at less than half of it. Any rows where the matrix is of
another dtype than the input: torch casts it whole at every use, at 1 GB/s; here numbers are widened in registers, or
become bfloat16 strip by strip. Sums are float32.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from .cpu_build import library
from .cpu_packed import Matrix

# Up to so many rows the streaming product wins: over torch's, over casting first, over casting in strips.
_MOST_ROWS, _MOST_CAST_ROWS, _MOST_BEFORE_STRIPS = 2, 64, 8
_LEAST_ELEMENTS = 1 << 20


def dense(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """Return x [..., K] times weight [N, K] plus bias [N], in x's dtype; None where torch is the better or only way."""
    if x.device.type != "cpu" or weight.dtype not in (torch.bfloat16, torch.float16) or not x.numel():
        return None
    rows, columns = weight.shape
    num_rows, is_bf16 = x.numel() // columns, x.dtype is torch.bfloat16
    if (
        not (is_bf16 or x.dtype is torch.float32)
        or weight.numel() < _LEAST_ELEMENTS
        or not takes(weight)
        or (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
    ):
        return None
    found = library()
    if found is None:
        return None
    in_strips = is_bf16 and weight.dtype != x.dtype and bool(found.cpmv_has_many())
    most = _MOST_ROWS if weight.dtype == x.dtype else _MOST_BEFORE_STRIPS if in_strips else _MOST_CAST_ROWS
    if num_rows > most and not in_strips:
        return None
    inputs = x.contiguous()
    out = torch.empty(*x.shape[:-1], rows, dtype=x.dtype)
    added = None if bias is None else bias.detach().float().contiguous()
    is_stored_bf16, threads = weight.dtype is torch.bfloat16, torch.get_num_threads()
    if num_rows > most:
        found.cpmv_multiply_dense_many(
            weight.data_ptr(),
            is_stored_bf16,
            rows,
            columns,
            inputs.data_ptr(),
            num_rows,
            None if added is None else added.data_ptr(),
            out.data_ptr(),
            threads,
        )
    else:
        matrix = matrix_of(weight, added)
        found.cpmv_multiply(ctypes.addressof(matrix), inputs.data_ptr(), is_bf16, num_rows, out.data_ptr(), threads)
    return out


def takes(weight: Tensor) -> bool:
    """Whether a matrix can be multiplied where it lies, whatever is faster."""
    return (
        weight.device.type == "cpu"
        and weight.dtype in (torch.bfloat16, torch.float16)
        and weight.shape[0] % 4 == 0
        and weight.shape[1] % 16 == 0
        and weight.is_contiguous()
    )


def matrix_of(weight: Tensor, bias: Tensor | None) -> Matrix:
    """Describe the product with a matrix that `takes` allows; both tensors must outlive what is returned."""
    pointer = None if bias is None else bias.data_ptr()
    return Matrix(None, weight.data_ptr(), weight.dtype is torch.bfloat16, *weight.shape, pointer)
