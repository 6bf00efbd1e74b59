"""The quantised formats in the streaming layout: what is packed, and what the codes stand for.

Scales keep the files' own numbers to the bit, with one exception: NF4's are float32 products there and float16 here
(off by 2^-11 at most; a bfloat16 weight is by 2^-8). What a file stored can be had back (`weights/
kernels.py`), from `numbers` of each class.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .packed import Packed
from .packed_layout import (
    TILE,
    by_lane,
    by_row,
    pack_bytes,
    pack_crumbs,
    pack_nibbles,
    padded,
    unpack_bytes,
    unpack_crumbs,
    unpack_nibbles,
)

# The NF4 book times this lies closest to bfloat16 numbers: 0.06% off (root mean square) instead of 0.11%.
STRETCH = 1.43701


def _halves(values: Tensor, per_chunk: int) -> Tensor:
    """[T, C * n, 8, 2] to [T, C, 8, n, 2]: the groups of a chunk side by side."""
    return values.unflatten(1, (-1, per_chunk)).transpose(2, 3).contiguous()


def _whole(values: Tensor) -> Tensor:
    """Undo `_halves`."""
    return values.transpose(2, 3).flatten(1, 2)


def _apply(codes: Tensor, scales: Tensor) -> Tensor:
    """Multiply codes [rows, K] by scales [rows, groups]."""
    return (codes.unflatten(1, (scales.shape[1], -1)) * scales[..., None]).flatten(1)


class AWQ(Packed):
    """4-bit codes less a zero point, times a float16 scale a group of 32, 64 or 128; rounded to float16."""

    format = "awq"

    @classmethod
    def pack(cls, codes: Tensor, zeros: Tensor, scales: Tensor) -> AWQ:
        """codes uint8 [N, K]; zeros uint8 and scales float16 [N, groups]."""
        shape = (codes.shape[0], codes.shape[1])
        group = min(128, shape[1] // scales.shape[1])
        repeat = shape[1] // scales.shape[1] // group  # larger groups are several with one scale
        lanes = by_lane(padded(scales).repeat_interleave(repeat, dim=1))
        points = by_lane(padded(zeros).repeat_interleave(repeat, dim=1))
        points = points[..., 0] | points[..., 1] << 4
        if group == 32:
            lanes = _halves(lanes, 2)
            points = points.unflatten(1, (-1, 2)).transpose(2, 3).contiguous()
        return cls(shape, {"codes": pack_nibbles(padded(codes)), "scales": lanes, "extra": points}, group=group)

    def numbers(self, first: int = 0, last: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """codes uint8 [rows, K], zeros uint8 and scales float16 [rows, K / group], of whole tiles."""
        codes, scales, points = (self.tensors[name][first:last] for name in ("codes", "scales", "extra"))
        if self.group == 32:
            scales, points = _whole(scales), points.transpose(2, 3).flatten(1, 2)
        zeros = torch.stack((points & 15, points >> 4), dim=-1)
        return unpack_nibbles(codes), by_row(zeros), by_row(scales)

    def values(self, first: int, last: int) -> Tensor:
        codes, zeros, scales = self.numbers(first, last)
        steps = codes.float().unflatten(1, (scales.shape[1], -1)) - zeros.float()[..., None]
        return (steps * scales.float()[..., None]).half().float().flatten(1)


class NF4(Packed):
    """4-bit indices into a book of 16, times a scale a group of 64."""

    format = "nf4"
    SCALE = 1 / 256  # keeps float16 scales of 2.4e-7 to 256 normal

    book: Tensor

    @classmethod
    def pack(cls, codes: Tensor, scales: Tensor, book: Tensor) -> NF4:
        """codes uint8 [N, K]; scales float32 [N, K / 64 or coarser]; book float32 [16]."""
        shape = (codes.shape[0], codes.shape[1])
        lanes = by_lane(padded(scales.repeat_interleave(shape[1] // 64 // scales.shape[1], dim=1)))
        lanes = (lanes / (cls.SCALE * STRETCH)).half()
        found = cls(shape, {"codes": pack_nibbles(padded(codes), paired=True), "scales": lanes}, scale=cls.SCALE)
        found.group, found.book = 64, book.float() * STRETCH
        return found

    def like(self, shape: tuple[int, int], tensors: dict[str, Tensor]) -> NF4:
        found = NF4(shape, tensors, group=self.group, scale=self.scale)
        found.book = self.book
        return found

    def alike(self, other: Packed) -> bool:
        return super().alike(other) and isinstance(other, NF4) and torch.equal(self.book, other.book)

    def table(self, dtype: torch.dtype) -> Tensor:
        if dtype not in self._tables:
            self._tables[dtype] = self.book.to(dtype)
        return self._tables[dtype]

    def numbers(self, first: int = 0, last: int | None = None) -> tuple[Tensor, Tensor]:
        """codes uint8 [rows, K] and scales float32 [rows, K / 64], as rounded here."""
        codes, scales = (self.tensors[name][first:last] for name in ("codes", "scales"))
        return unpack_nibbles(codes, paired=True), by_row(scales).float() * self.scale * STRETCH

    def values(self, first: int, last: int) -> Tensor:
        codes, _ = self.numbers(first, last)
        scales = by_row(self.tensors["scales"][first:last]).float() * self.scale
        return _apply(self.book[codes.int()], scales)


class Q4_0(Packed):
    """4-bit codes less 8, times a float16 scale a group of 32."""

    format = "q4_0"

    @classmethod
    def pack(cls, codes: Tensor, scales: Tensor) -> Q4_0:
        """codes uint8 [N, K]; scales float16 [N, K / 32]."""
        tensors = {"codes": pack_nibbles(padded(codes)), "scales": _halves(by_lane(padded(scales)), 2)}
        return cls((codes.shape[0], codes.shape[1]), tensors, group=32)

    def numbers(self, first: int = 0, last: int | None = None) -> tuple[Tensor, Tensor]:
        codes, scales = (self.tensors[name][first:last] for name in ("codes", "scales"))
        return unpack_nibbles(codes), by_row(_whole(scales))

    def values(self, first: int, last: int) -> Tensor:
        codes, scales = self.numbers(first, last)
        return _apply(codes.float() - 8, scales.float())


class Q8_0(Packed):
    """8-bit codes, times a float16 scale a group of 32."""

    format = "q8_0"

    @classmethod
    def pack(cls, codes: Tensor, scales: Tensor) -> Q8_0:
        """codes int8 [N, K]; scales float16 [N, K / 32]."""
        tensors = {"codes": pack_bytes(padded(codes)), "scales": _halves(by_lane(padded(scales)), 2)}
        return cls((codes.shape[0], codes.shape[1]), tensors, group=32)

    def numbers(self, first: int = 0, last: int | None = None) -> tuple[Tensor, Tensor]:
        codes, scales = (self.tensors[name][first:last] for name in ("codes", "scales"))
        return unpack_bytes(codes).view(torch.int8), by_row(_whole(scales))

    def values(self, first: int, last: int) -> Tensor:
        codes, scales = self.numbers(first, last)
        return _apply(codes.float(), scales.float())


class Q4_K(Packed):
    """4-bit codes: (d * scale) * code - dmin * minimum; scale and minimum a group of 32, d and dmin a group of 256."""

    format = "q4_k"

    @classmethod
    def pack(cls, codes: Tensor, scales: Tensor, minima: Tensor, d: Tensor, dmin: Tensor) -> Q4_K:
        """codes uint8 [N, K]; scales and minima uint8 [N, K / 32]; d and dmin float16 [N, K / 256]."""
        small = torch.stack([_halves(by_lane(padded(t)), 2) for t in (scales, minima)], dim=-1)  # T C 8 h row 2
        large = torch.stack([by_lane(padded(t)) for t in (d, dmin)], dim=-2)  # T S 8 2 row
        tensors = {"codes": pack_nibbles(padded(codes)), "scales": small, "extra": large.contiguous()}
        return cls((codes.shape[0], codes.shape[1]), tensors)

    def numbers(self, first: int = 0, last: int | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        codes, small, large = (self.tensors[name][first:last] for name in ("codes", "scales", "extra"))
        scales, minima = (by_row(_whole(small[..., i])) for i in (0, 1))
        d, dmin = (by_row(large[..., i, :]) for i in (0, 1))
        return unpack_nibbles(codes), scales, minima, d, dmin

    def values(self, first: int, last: int) -> Tensor:
        codes, scales, minima, d, dmin = self.numbers(first, last)
        steps = _apply(scales.float(), d.float())
        lowest = _apply(minima.float(), dmin.float())
        return _apply(codes.float(), steps) - lowest.repeat_interleave(32, dim=1)


class Q6_K(Packed):
    """6-bit codes less 32, times (d * scale): int8 scales a group of 16, float16 d a group of 256."""

    format = "q6_k"

    @classmethod
    def pack(cls, codes: Tensor, scales: Tensor, d: Tensor) -> Q6_K:
        """codes uint8 [N, K] of 0..63; scales int8 [N, K / 16]; d float16 [N, K / 256]."""
        codes = padded(codes)
        tensors = {
            "codes": pack_nibbles(codes & 15, runs=4),
            "high": pack_crumbs(codes >> 4),
            "scales": _halves(by_lane(padded(scales)), 4),
            "extra": by_lane(padded(d)),
        }
        return cls((scales.shape[0], codes.shape[1]), tensors, group=16)

    def numbers(self, first: int = 0, last: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        low, high, small, d = (self.tensors[name][first:last] for name in ("codes", "high", "scales", "extra"))
        codes = unpack_nibbles(low, runs=4) | unpack_crumbs(high) << 4
        return codes, by_row(_whole(small)), by_row(d)

    def values(self, first: int, last: int) -> Tensor:
        codes, scales, d = self.numbers(first, last)
        return _apply(codes.float() - 32, _apply(scales.float(), d.float()))


class Int8(Packed):
    """8-bit codes, times a float32 scale a row."""

    format = "int8"

    @classmethod
    def pack(cls, codes: Tensor, scales: Tensor) -> Int8:
        """codes int8 [N, K]; scales float32 [N]."""
        tensors = {"codes": pack_bytes(padded(codes)), "scales": padded(scales).view(-1, TILE).clone()}
        return cls((codes.shape[0], codes.shape[1]), tensors)

    def numbers(self, first: int = 0, last: int | None = None) -> tuple[Tensor, Tensor]:
        codes, scales = (self.tensors[name][first:last] for name in ("codes", "scales"))
        return unpack_bytes(codes).view(torch.int8), scales.flatten()

    def values(self, first: int, last: int) -> Tensor:
        codes, scales = self.numbers(first, last)
        return codes.float() * scales[:, None]
