"""The block types of GGUF as numbers, and layers that keep them packed in memory.

Each function takes blocks as stored, uint8 [n, bytes], and returns float32 [n, elements], on any device. A block is
one or two float16 scales and small integers; the K types split 256 elements into 8 or 16 sub-blocks whose own scales
are 4 to 8 bits wide. In the formulas d is the scale, m the minimum, q the integer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .gguf import GGUFTensor
from .packed import PackedLinear, PackedWeight, Released
from .stored import Stored

# Non-linear 4-bit values of IQ4_NL, in 1/127 of a block's range or so; part of the format.
_IQ4_NL = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def _half(blocks: Tensor, at: int) -> Tensor:
    """The float16 at a byte offset of every block, float32 [n, 1]."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _nibbles(blocks: Tensor) -> Tensor:
    """Low nibbles, then high nibbles: uint8 [n, 2 * bytes]."""
    return torch.cat((blocks & 15, blocks >> 4), dim=1)


def _bits(blocks: Tensor) -> Tensor:
    """Bits of bytes, lowest first: uint8 [n, 8 * bytes]."""
    shifts = torch.arange(8, dtype=torch.uint8, device=blocks.device)
    return (blocks[:, :, None] >> shifts & 1).flatten(1)


def _q4_0(b: Tensor) -> Tensor:
    return _half(b, 0) * (_nibbles(b[:, 2:]).float() - 8)


def _q4_1(b: Tensor) -> Tensor:
    return _half(b, 0) * _nibbles(b[:, 4:]).float() + _half(b, 2)


def _q5_0(b: Tensor) -> Tensor:
    return _half(b, 0) * ((_nibbles(b[:, 6:]) | _bits(b[:, 2:6]) << 4).float() - 16)


def _q5_1(b: Tensor) -> Tensor:
    return _half(b, 0) * (_nibbles(b[:, 8:]) | _bits(b[:, 4:8]) << 4).float() + _half(b, 2)


def _q8_0(b: Tensor) -> Tensor:
    return _half(b, 0) * b[:, 2:].contiguous().view(torch.int8).float()


def _iq4_nl(b: Tensor) -> Tensor:
    book = torch.tensor(_IQ4_NL, dtype=torch.float32, device=b.device)
    return _half(b, 0) * book[_nibbles(b[:, 2:]).int()]


def _crumbs(quants: Tensor) -> Tensor:
    """2-bit numbers of uint8 [n, 64]: two halves of 32 bytes, each holding 4 runs of 32. uint8 [n, 16, 16]."""
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8, device=quants.device)
    return (quants.view(-1, 2, 1, 32) >> shifts[:, None] & 3).view(-1, 16, 16)


def _q2_k(b: Tensor) -> Tensor:
    scales = b[:, :16]
    d = _half(b, 80) * (scales & 15).float()
    m = _half(b, 82) * (scales >> 4).float()
    q = _crumbs(b[:, 16:80].contiguous()).float()
    return (d[:, :, None] * q - m[:, :, None]).flatten(1)


def _q3_k(b: Tensor) -> Tensor:
    low, high = _nibbles(b[:, 96:104]), b[:, 104:108]  # 16 scales: 4 low bits each, then 2 high bits each
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8, device=b.device)
    scales = low | (high[:, None] >> shifts[:, None] & 3).flatten(1) << 4
    d = _half(b, 108) * (scales.float() - 32)
    # The third bit of run r (of 32 elements) is bit r of the mask bytes; when it is clear, 4 is subtracted.
    runs = torch.arange(8, dtype=torch.uint8, device=b.device)
    third = (b[:, None, :32] >> runs[:, None] & 1).reshape(-1, 16, 16)
    q = (_crumbs(b[:, 32:96].contiguous()) | third << 2).float() - 4
    return (d[:, :, None] * q).flatten(1)


def _six_bit_scales(b: Tensor) -> tuple[Tensor, Tensor]:
    """The 8 scales and 8 minima of 6 bits that Q4_K and Q5_K pack into 12 bytes, float32 [n, 8] each."""
    first, second, third = b[:, 0:4], b[:, 4:8], b[:, 8:12]
    scales = torch.cat((first & 63, third & 15 | first >> 6 << 4), dim=1)
    minima = torch.cat((second & 63, third >> 4 | second >> 6 << 4), dim=1)
    return scales.float(), minima.float()


def _runs_of_32(quants: Tensor) -> Tensor:
    """4-bit numbers of uint8 [n, 128]: each 32 bytes hold a run in the low nibbles, then one in the high."""
    parts = quants.reshape(-1, 4, 1, 32)
    return torch.cat((parts & 15, parts >> 4), dim=2).view(-1, 8, 32)


def _q4_k(b: Tensor) -> Tensor:
    scales, minima = _six_bit_scales(b[:, 4:16])
    d, m = _half(b, 0) * scales, _half(b, 2) * minima
    return (d[:, :, None] * _runs_of_32(b[:, 16:]).float() - m[:, :, None]).flatten(1)


def _q5_k(b: Tensor) -> Tensor:
    scales, minima = _six_bit_scales(b[:, 4:16])
    d, m = _half(b, 0) * scales, _half(b, 2) * minima
    runs = torch.arange(8, dtype=torch.uint8, device=b.device)
    fifth = b[:, None, 16:48] >> runs[:, None] & 1
    return (d[:, :, None] * (_runs_of_32(b[:, 48:]) | fifth << 4).float() - m[:, :, None]).flatten(1)


def _q6_k(b: Tensor) -> Tensor:
    low = b[:, :128].reshape(-1, 2, 1, 64)
    low = torch.cat((low & 15, low >> 4), dim=2).view(-1, 2, 4, 32)
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8, device=b.device)
    high = b[:, 128:192].reshape(-1, 2, 1, 32) >> shifts[:, None] & 3
    q = ((low | high << 4).float() - 32).view(-1, 16, 16)
    d = _half(b, 208) * b[:, 192:208].contiguous().view(torch.int8).float()
    return (d[:, :, None] * q).flatten(1)


DEQUANTIZERS: dict[str, Callable[[Tensor], Tensor]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
}


def dequantize(rows: Tensor, type_name: str, block_bytes: int) -> Tensor:
    """Turn rows as stored, uint8 [rows, row_bytes], into float32 [rows, elements]."""
    return DEQUANTIZERS[type_name](rows.reshape(-1, block_bytes)).view(rows.shape[0], -1)


class GGUFLinear(PackedLinear):
    """raw: uint8 [out, row_bytes], as stored. `dequantize()` is float32."""

    raw: Tensor

    def __init__(self, tensor: GGUFTensor, device: torch.device) -> None:
        super().__init__(tensor.shape[1], tensor.shape[0], torch.float32)
        self.block_type = tensor.type
        self.register_buffer("raw", tensor.raw().to(device))

    def dequantize_rows(self, start: int, stop: int) -> Tensor:
        return dequantize(self.raw[start:stop], self.block_type.name, self.block_type.nbytes)

    def released(self) -> Released:
        shape = (self.out_features, self.in_features)
        return {"weight": (torch.float16, shape, lambda: self.dequantize(torch.float16))}


class GGUFEmbedding(GGUFLinear):
    """A table whose rows are dequantised as they are looked up."""

    def rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Return rows [..., E] of int64 ids [...], cast to dtype."""
        unpacked = dequantize(self.raw[ids.flatten()], self.block_type.name, self.block_type.nbytes)
        return unpacked.to(dtype).view(*ids.shape, -1)

    def project(self, x: Tensor) -> Tensor:
        """Score x [..., E] against every row: the head of a model with tied embeddings."""
        out: Tensor = self(x)
        return out


def packed_weight(tensor: GGUFTensor, name: str, embedding: bool) -> PackedWeight:
    """Describe a quantised matrix that is to stay packed, under its released name."""
    layer = GGUFEmbedding if embedding else GGUFLinear
    stored = tensor.stored(tensor.raw, torch.uint8)
    shape = (tensor.shape[0], tensor.shape[1])
    return PackedWeight(name, "gguf", shape, [stored], lambda device: layer(tensor, device), embedding)


def plain_tensor(tensor: GGUFTensor) -> Stored:
    """Describe a tensor that is read as ordinary numbers; block types are dequantised to float32."""
    dtype = tensor.type.dtype
    if dtype is not None:
        return tensor.stored(lambda: tensor.file.tensor(tensor.offset, tensor.nbytes, dtype, tensor.shape), dtype)
    return tensor.stored(
        lambda: dequantize(tensor.raw(), tensor.type.name, tensor.type.nbytes).view(tensor.shape), torch.float32
    )
