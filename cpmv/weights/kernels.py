"""Quantised layers and the kernels that multiply with them: repack a layer at its first use, and undo it exactly.

On a GPU the stored tensors give way to the streaming layout (`kernels/packed.py`), so that a weight is in memory once;
whoever asks for a stored tensor afterwards (saving, merging an adapter, `dequantize`) gets it made anew, equal to the
bit. On a CPU the file's tensors stay mapped and the repacked ones stand beside them (`weights/cpu.py`).
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ..kernels import launch
from ..kernels.packed import Packed, say_once
from ..kernels.packed_formats import AWQ, NF4, Q4_0, Q4_K, Q6_K, Q8_0, Int8
from ..kernels.packed_layout import CHUNK, TILE
from .awq import AWQLinear
from .awq import pack as pack_awq_words
from .awq import unpack as unpack_awq_words
from .gguf_blocks import GGUFEmbedding, GGUFLinear
from .int8 import Int8Linear
from .nf4 import NF4Linear
from .packed import PackedKernel, PackedLinear

# Weights that are taken apart at once while repacking: numbers are a byte or more each then.
_ELEMENTS_AT_ONCE = 1 << 23
_MAX_NF4_SCALE = 250.0


def pack(layer: PackedLinear) -> PackedKernel | None:
    """Return what multiplies with a layer's weight fast, made at the first call; None where nothing does."""
    if layer.kernel is None and not layer.kernel_refused:
        layer.kernel = _make(layer)
        layer.kernel_refused = layer.kernel is None
    return layer.kernel


def _make(layer: PackedLinear) -> PackedKernel | None:
    if launch.chosen_path() == "plain":
        say_once("quantised weights are dequantised at each use, as CPMV_KERNELS asks")
        return None
    device = layer.place
    if device.type == "cpu" and not launch.interpreting():
        from .cpu import pack_on_cpu

        return pack_on_cpu(layer)
    if device.type not in ("cuda", "cpu"):
        return None
    with torch.inference_mode(False), torch.no_grad():
        packed, reason = _repacked(layer)
    if packed is None:
        say_once(
            f"quantised weights without a kernel are dequantised at each use, which is slow: {reason}", logging.WARNING
        )
    elif device.type == "cuda":
        layer.give_way(packed, _STORED[type(layer)], lambda: _stored(layer, packed))
    return packed


def _repacked(layer: PackedLinear) -> tuple[Packed | None, str]:
    """Return the layer's weight in the streaming layout, or None and why not."""
    rows, inputs = layer.out_features, layer.in_features
    if isinstance(layer, GGUFEmbedding):
        return None, "a table whose rows are looked up as stored"
    if inputs % CHUNK:
        return None, f"{inputs} inputs are no multiple of {CHUNK}"
    if isinstance(layer, AWQLinear):
        if layer.group_size not in (32, 64) and layer.group_size % 128:
            return None, f"AWQ groups of {layer.group_size}"
        if layer.scales.dtype is not torch.float16:
            return None, f"AWQ scales in {layer.scales.dtype}"
    elif isinstance(layer, NF4Linear):
        size = layer.state.blocksize
        if size % 64 or inputs % size:
            return None, f"NF4 blocks of {size} in rows of {inputs}"
        largest = float(layer.scales(0, layer.state.num_blocks).abs().max())
        if not largest < _MAX_NF4_SCALE:
            return None, f"NF4 scales up to {largest:g}"
    elif isinstance(layer, GGUFLinear):
        if layer.block_type.name not in _GGUF:
            return None, f"GGUF blocks of type {layer.block_type.name}"
    elif not isinstance(layer, Int8Linear):
        return None, type(layer).__name__
    step = max(1, _ELEMENTS_AT_ONCE // inputs // TILE) * TILE
    parts = [_part(layer, i, min(i + step, rows)) for i in range(0, rows, step)]
    return (parts[0] if len(parts) == 1 else Packed.cat(parts)), ""


def _part(layer: PackedLinear, start: int, stop: int) -> Packed:
    """Repack rows [start, stop); start is a multiple of 16."""
    if isinstance(layer, AWQLinear):
        words = slice(start // 8, stop // 8)
        codes, zeros = (unpack_awq_words(t[:, words]).view(torch.uint8).t() for t in (layer.qweight, layer.qzeros))
        return AWQ.pack(codes.contiguous(), zeros.contiguous(), layer.scales[:, start:stop].t().contiguous())
    if isinstance(layer, NF4Linear):
        inputs, size = layer.in_features, layer.state.blocksize
        octets = layer.codes[start * inputs // 2 : stop * inputs // 2]
        codes = torch.stack((octets >> 4, octets & 15), dim=-1).view(stop - start, inputs)
        scales = layer.scales(start * inputs // size, stop * inputs // size).view(stop - start, -1)
        return NF4.pack(codes, scales, layer.quant_map)
    if isinstance(layer, Int8Linear):
        return Int8.pack(layer.codes[start:stop], layer.scales[start:stop])
    assert isinstance(layer, GGUFLinear)
    return _GGUF[layer.block_type.name][0](layer.raw[start:stop], layer.in_features)


def _halves(blocks: Tensor, start: int, stop: int) -> Tensor:
    """float16 numbers of bytes [start, stop) of every block [rows, blocks, bytes]: [rows, blocks, n]."""
    return blocks[..., start:stop].contiguous().view(torch.float16)


def _octets(values: Tensor) -> Tensor:
    return values.contiguous().view(torch.uint8)


def _pack_q4_0(raw: Tensor, inputs: int) -> Packed:
    blocks = raw.view(len(raw), -1, 18)
    quants = blocks[..., 2:]
    return Q4_0.pack(torch.cat((quants & 15, quants >> 4), dim=-1).flatten(1), _halves(blocks, 0, 2).flatten(1))


def _raw_q4_0(packed: Packed) -> Tensor:
    assert isinstance(packed, Q4_0)
    codes, scales = packed.numbers()
    quants = codes.unflatten(1, (-1, 2, 16))
    return torch.cat((_octets(scales[..., None]), quants[:, :, 0] | quants[:, :, 1] << 4), dim=-1).flatten(1)


def _pack_q8_0(raw: Tensor, inputs: int) -> Packed:
    blocks = raw.view(len(raw), -1, 34)
    return Q8_0.pack(blocks[..., 2:].contiguous().view(torch.int8).flatten(1), _halves(blocks, 0, 2).flatten(1))


def _raw_q8_0(packed: Packed) -> Tensor:
    assert isinstance(packed, Q8_0)
    codes, scales = packed.numbers()
    return torch.cat((_octets(scales[..., None]), codes.view(torch.uint8).unflatten(1, (-1, 32))), dim=-1).flatten(1)


def _pack_q4_k(raw: Tensor, inputs: int) -> Packed:
    """d, dmin; 12 bytes of 6-bit scales and minima; 128 bytes: each 32 hold a run of 32 low nibbles and one of high."""
    blocks = raw.view(len(raw), -1, 144)
    first, second, third = (blocks[..., i : i + 4] for i in (4, 8, 12))
    scales = torch.cat((first & 63, third & 15 | first >> 6 << 4), dim=-1).flatten(1)
    minima = torch.cat((second & 63, third >> 4 | second >> 6 << 4), dim=-1).flatten(1)
    quants = blocks[..., 16:].unflatten(-1, (4, 1, 32))
    codes = torch.cat((quants & 15, quants >> 4), dim=-2).reshape(len(raw), inputs)
    return Q4_K.pack(codes, scales, minima, _halves(blocks, 0, 2).flatten(1), _halves(blocks, 2, 4).flatten(1))


def _raw_q4_k(packed: Packed) -> Tensor:
    assert isinstance(packed, Q4_K)
    codes, scales, minima, d, dmin = packed.numbers()
    (low_s, high_s), (low_m, high_m) = (t.unflatten(1, (-1, 2, 4)).unbind(2) for t in (scales, minima))
    first, second = low_s | high_s >> 4 << 6, low_m | high_m >> 4 << 6
    third = high_s & 15 | (high_m & 15) << 4
    quants = codes.unflatten(1, (-1, 4, 2, 32))
    octets = (quants[..., 0, :] | quants[..., 1, :] << 4).flatten(2)
    return torch.cat((_octets(d[..., None]), _octets(dmin[..., None]), first, second, third, octets), dim=-1).flatten(1)


def _pack_q6_k(raw: Tensor, inputs: int) -> Packed:
    """128 bytes of low nibbles and 64 of high crumbs, by halves of 128 numbers; 16 int8 scales; d."""
    blocks = raw.view(len(raw), -1, 210)
    low = blocks[..., :128].unflatten(-1, (2, 1, 64))
    low = torch.cat((low & 15, low >> 4), dim=-2).unflatten(-1, (2, 32)).flatten(-3, -2)  # rows blocks 2 4 32
    crumbs = blocks[..., 128:192].unflatten(-1, (2, 1, 32))
    high = torch.cat([crumbs >> shift & 3 for shift in (0, 2, 4, 6)], dim=-2)
    codes = (low | high << 4).reshape(len(raw), inputs)
    return Q6_K.pack(
        codes, _octets(blocks[..., 192:208]).view(torch.int8).flatten(1), _halves(blocks, 208, 210).flatten(1)
    )


def _raw_q6_k(packed: Packed) -> Tensor:
    assert isinstance(packed, Q6_K)
    codes, scales, d = packed.numbers()
    places = codes.unflatten(1, (-1, 2, 4, 32))
    low = (places & 15).unflatten(-2, (2, 2)).flatten(-2)  # rows blocks 2 (low, high nibble) 64
    low = (low[..., 0, :] | low[..., 1, :] << 4).flatten(-2)
    high = places >> 4
    crumbs = high[..., 0, :] | high[..., 1, :] << 2 | high[..., 2, :] << 4 | high[..., 3, :] << 6
    steps = _octets(scales).unflatten(1, (-1, 16))
    return torch.cat((low, crumbs.flatten(-2), steps, _octets(d[..., None])), dim=-1).flatten(1)


_GGUF = {
    "Q4_0": (_pack_q4_0, _raw_q4_0),
    "Q8_0": (_pack_q8_0, _raw_q8_0),
    "Q4_K": (_pack_q4_k, _raw_q4_k),
    "Q6_K": (_pack_q6_k, _raw_q6_k),
}
# The buffers that a kernel's layout replaces. NF4's scales are small and stay, since float16 ones do not tell them.
_STORED: dict[type, tuple[str, ...]] = {
    AWQLinear: ("qweight", "qzeros", "scales"),
    NF4Linear: ("codes",),
    Int8Linear: ("codes", "scales"),
    GGUFLinear: ("raw",),
}


def _stored(layer: PackedLinear, packed: Packed) -> dict[str, Tensor]:
    """Make the stored tensors anew from the kernel's."""
    rows = layer.out_features
    if isinstance(layer, AWQLinear):
        assert isinstance(packed, AWQ)
        codes, zeros, scales = (t[:rows].t().contiguous() for t in packed.numbers())
        step = layer.group_size // packed.group
        return {
            "qweight": pack_awq_words(codes),
            "qzeros": pack_awq_words(zeros[::step].contiguous()),
            "scales": scales[::step].contiguous(),
        }
    if isinstance(layer, NF4Linear):
        assert isinstance(packed, NF4)
        codes = packed.numbers()[0][:rows].reshape(-1, 2)
        return {"codes": codes[:, 0] << 4 | codes[:, 1]}
    if isinstance(layer, Int8Linear):
        assert isinstance(packed, Int8)
        codes, scales = (t[:rows].clone() for t in packed.numbers())
        return {"codes": codes, "scales": scales}
    assert isinstance(layer, GGUFLinear)
    return {"raw": _GGUF[layer.block_type.name][1](packed)[:rows]}
