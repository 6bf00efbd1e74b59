"""Quantised matrices on a CPU: repacked once so that few rows are multiplied at the speed of memory, many in bfloat16.

One layout for all formats (`cpu/weight.h`): tiles of 16 rows, codes of 4, 6 or 8 bits, scales beside them. Inputs are
never quantised. With AVX-512 BF16 few rows meet codes as bfloat16 and sum in float32; a float32 input is split into
two bfloat16 numbers. Elsewhere the same tiles are multiplied in float32 by what the compiler makes of vectors.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .cpu_build import library

ROWS = 16  # of a tile
_NONE, _FLAT, _ZERO, _NESTED, _NESTED_MINIMUM = range(5)
_KINDS = {"Q4_0": 0, "IQ4_NL": 0, "Q8_0": 1, "Q4_K": 2, "Q6_K": 3, "NF4": 4, "int8": 5}
_CENTRED = tuple(float(i - 8) for i in range(16))
_COUNTED = tuple(float(i) for i in range(16))
IQ4_NL = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
# A bound for what is dequantised at once when torch multiplies: 64 MiB in float32.
_AT_ONCE = 1 << 24
_LARGE_PAGE = 2 << 20


class _Weight(ctypes.Structure):
    """`Weight` of cpu/weight.h."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("bits", "mode", "lookup", "group", "outer", "padding")),
        *((name, ctypes.c_int64) for name in ("rows", "columns")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "codes",
                "high",
                "scales",
                "small",
                "minima",
                "outer_scales",
                "outer_minima",
                "row_scales",
            )
        ),
        ("table", ctypes.c_float * 16),
    )


class Matrix(ctypes.Structure):
    """`Matrix` of cpu/products.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("packed", "dense")),
        *((name, ctypes.c_int64) for name in ("dense_is_bf16", "rows", "columns")),
        ("bias", ctypes.c_void_p),
    )


class CPUPacked:
    """A matrix [N, K] in tiles. Made by the functions below; `library()` must not be None."""

    def __init__(
        self,
        shape: tuple[int, int],
        bits: int,
        mode: int,
        group: int,
        table: Sequence[float] = _COUNTED,
        outer: int = 1,
        row_scales: Tensor | None = None,
    ) -> None:
        found = library()
        assert found is not None, "the CPU's kernels are not there"
        self._library, self.shape, self.device = found, shape, torch.device("cpu")
        rows, columns = shape
        tiles, groups = -(-rows // ROWS), columns // group
        words = columns * (8 if bits == 8 else 4) // 32
        self.tensors: dict[str, Tensor] = {"codes": _aligned((tiles, words, ROWS), torch.int32)}
        if bits == 6:
            self.tensors["high"] = _aligned((tiles, columns // 16, ROWS), torch.int32)
        if mode in (_FLAT, _ZERO):
            self.tensors["scales"] = _aligned((tiles, groups, ROWS), torch.float16)
        if mode in (_ZERO, _NESTED, _NESTED_MINIMUM):
            self.tensors["small"] = _aligned((tiles, groups, ROWS), torch.int8)
        if mode in (_NESTED, _NESTED_MINIMUM):
            self.tensors["outer_scales"] = _aligned((tiles, groups // outer, ROWS), torch.float16)
        if mode == _NESTED_MINIMUM:
            self.tensors["minima"] = _aligned((tiles, groups, ROWS), torch.uint8)
            self.tensors["outer_minima"] = _aligned((tiles, groups // outer, ROWS), torch.float16)
        if row_scales is not None:
            self.tensors["row_scales"] = F.pad(row_scales.float(), (0, tiles * ROWS - rows)).contiguous()
        lookup = tuple(table) not in (_CENTRED, _COUNTED)
        self._weight = _Weight(bits, mode, lookup, group, outer, 0, rows, columns)
        for name, tensor in self.tensors.items():
            setattr(self._weight, name, tensor.data_ptr())
        self._weight.table[:] = [float(value) for value in table]
        self._address = ctypes.addressof(self._weight)

    def __deepcopy__(self, memo: object) -> CPUPacked:
        """Weights do not change, so copies share them."""
        return self

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors.values())

    def multiply(
        self,
        x: Tensor,
        *,
        norm: tuple[Tensor, float] | None = None,
        residual: Tensor | None = None,
        gated: bool = False,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Return x [M, K] times the weight, [M, N] in x's dtype, for any M; `linear.multiply` says the rest."""
        if norm is not None:
            wide = x.float()
            wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm[1])
            x = wide.to(x.dtype) * norm[0]
        out = self._multiply(x, bias)
        if gated:
            gate, up = out.chunk(2, dim=-1)
            out = F.silu(gate) * up
        if residual is None:
            return out
        residual += out
        if residual.dtype is torch.float16:
            residual.clamp_(torch.finfo(torch.float16).min, torch.finfo(torch.float16).max)
        return residual

    def _multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if x.dtype not in (torch.bfloat16, torch.float32):
            return self._multiply(x.float(), bias).to(x.dtype)
        x, is_bf16, num_rows = x.contiguous(), x.dtype is torch.bfloat16, x.shape[0]
        if num_rows == 0:
            return x.new_empty(0, self.shape[0])
        if num_rows > self._library.cpmv_most_rows(self._address, is_bf16) and not (
            is_bf16 and self._library.cpmv_has_many()
        ):
            return self._multiply_dequantized(x, bias)
        added = None if bias is None else bias.detach().float().contiguous()
        out = torch.empty(num_rows, self.shape[0], dtype=x.dtype)
        threads = torch.get_num_threads()
        if num_rows <= self._library.cpmv_most_rows(self._address, is_bf16):
            matrix = self.matrix(added)
            self._library.cpmv_multiply(
                ctypes.addressof(matrix), x.data_ptr(), is_bf16, num_rows, out.data_ptr(), threads
            )
        else:
            pointer = None if added is None else added.data_ptr()
            self._library.cpmv_multiply_many(self._address, x.data_ptr(), num_rows, pointer, out.data_ptr(), threads)
        return out

    def matrix(self, bias: Tensor | None) -> Matrix:
        """Describe the product with this weight; `bias` float32 [N], which must outlive what is returned."""
        return Matrix(self._address, None, 0, *self.shape, None if bias is None else bias.data_ptr())

    def _multiply_dequantized(self, x: Tensor, bias: Tensor | None) -> Tensor:
        step = max(1, _AT_ONCE // self.shape[1] // ROWS) * ROWS
        parts = [
            F.linear(x, self.dequantize(x.dtype, first, min(first + step, self.shape[0])))
            for first in range(0, self.shape[0], step)
        ]
        out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return out if bias is None else out + bias.to(x.dtype)

    def dequantize(self, dtype: torch.dtype, first: int = 0, last: int | None = None) -> Tensor:
        """Return rows [first, last) as numbers of `dtype`, by default all; first is a multiple of 16."""
        last = self.shape[0] if last is None else last
        made = dtype if dtype in (torch.bfloat16, torch.float32) else torch.float32
        out = torch.empty(last - first, self.shape[1], dtype=made)
        self._library.cpmv_dequantize(
            self._address, first, last, made is torch.bfloat16, out.data_ptr(), torch.get_num_threads()
        )
        return out.to(dtype)

    def repack(self, kind: str, raw: Tensor) -> None:
        """Fill codes, and scales that lie among them, from rows as stored, uint8 [N, bytes]."""
        assert raw.stride(1) == 1 and raw.dtype.itemsize == 1
        self._library.cpmv_repack(self._address, _KINDS[kind], raw.data_ptr(), raw.stride(0), torch.get_num_threads())

    def repack_awq(self, qweight: Tensor) -> None:
        qweight = qweight.contiguous()
        self._library.cpmv_repack_awq(self._address, qweight.data_ptr(), torch.get_num_threads())

    def set(self, name: str, by_row: Tensor) -> None:
        """Fill scales or zeros from values [N, groups]."""
        tensor = self.tensors[name]
        padded = F.pad(by_row.to(tensor.dtype), (0, 0, 0, tensor.shape[0] * ROWS - by_row.shape[0]))
        tensor.copy_(padded.view(tensor.shape[0], ROWS, -1).transpose(1, 2))


def _aligned(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros that begin at a cache line; large ones at a large page, and made of such where the system has them.

    Streaming through pages of 4 KiB costs a tenth of the speed.
    """
    count = int(torch.Size(shape).numel()) * dtype.itemsize
    is_large = count >= _LARGE_PAGE
    unit = _LARGE_PAGE if is_large else 64
    room = torch.empty(count + unit, dtype=torch.uint8)  # pages that nobody touches are never taken
    start = -room.data_ptr() % unit
    if is_large and hasattr(mmap, "MADV_HUGEPAGE"):
        whole = count // _LARGE_PAGE * _LARGE_PAGE  # an end of its own pages, so that nothing is taken in vain
        libc = ctypes.CDLL(None)
        libc.madvise(ctypes.c_void_p(room.data_ptr() + start), ctypes.c_size_t(whole), mmap.MADV_HUGEPAGE)
    return room[start : start + count].zero_().view(dtype).view(shape)


def pack_awq(qweight: Tensor, zeros: Tensor, scales: Tensor) -> CPUPacked | None:
    """qweight int32 [K, N / 8] as stored; zeros int8 [groups, N]; scales [groups, N], exact in float16, or None."""
    groups, rows = scales.shape
    columns = qweight.shape[0]
    if columns // groups % 8 or not _exact_in_half(scales):
        return None
    packed = CPUPacked((rows, columns), 4, _ZERO, columns // groups, _CENTRED)
    packed.repack_awq(qweight)
    packed.set("scales", scales.t())
    packed.set("small", (8 - zeros).t())
    return packed


def pack_nf4(codes: Tensor, scales: Tensor, book: Tensor, shape: tuple[int, int], blocksize: int) -> CPUPacked | None:
    """codes uint8 [N * K / 2], the first of two in the high nibble; scales float32 [N * K / blocksize].

    Scales become float16 beside the largest of their row, float32: off by at most 2^-11. None if blocks cross rows.
    """
    rows, columns = shape
    if columns % blocksize or blocksize % 8:
        return None
    by_row = scales.view(rows, -1)
    largest = by_row.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny)
    packed = CPUPacked(shape, 4, _FLAT, blocksize, book.tolist(), row_scales=largest)
    packed.repack("NF4", codes.view(rows, -1))
    packed.set("scales", by_row / largest[:, None])
    return packed


def pack_int8(codes: Tensor, scales: Tensor) -> CPUPacked | None:
    """codes int8 [N, K]; scales float32 [N]."""
    if codes.shape[1] % 4:
        return None
    packed = CPUPacked((codes.shape[0], codes.shape[1]), 8, _NONE, codes.shape[1], row_scales=scales)
    packed.repack("int8", codes)
    return packed


# bits, mode, group, groups that share an outer scale, table
_GGUF: dict[str, tuple[int, int, int, int, Sequence[float]]] = {
    "Q4_0": (4, _FLAT, 32, 1, _CENTRED),
    "IQ4_NL": (4, _FLAT, 32, 1, IQ4_NL),
    "Q8_0": (8, _FLAT, 32, 1, _COUNTED),
    "Q4_K": (4, _NESTED_MINIMUM, 32, 8, _COUNTED),
    "Q6_K": (6, _NESTED, 16, 16, _COUNTED),
}


def pack_gguf(raw: Tensor, type_name: str, columns: int) -> CPUPacked | None:
    """raw uint8 [N, row_bytes] as stored. None for a block type that has no kernel."""
    if type_name not in _GGUF:
        return None
    bits, mode, group, outer, table = _GGUF[type_name]
    packed = CPUPacked((raw.shape[0], columns), bits, mode, group, table, outer)
    packed.repack(type_name, raw)
    return packed


def _exact_in_half(scales: Tensor) -> bool:
    return scales.dtype is torch.float16 or bool((scales.half().to(scales.dtype) == scales).all())
