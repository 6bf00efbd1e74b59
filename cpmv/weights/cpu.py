"""Which quantised layers get the CPU's kernels, and what that does to memory.

A layer is repacked at its first product: about as many bytes as its file has for it (AWQ 1.01 times, NF4 1.04, Q4_K
1.03, others 1.00), now in memory rather than in mapped pages. The pages that were read for it are given back to the
system at once, so that nothing is held twice; the stored tensors stay readable, for saving and merging.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import mmap
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from ..kernels import cpu_packed
from ..kernels.cpu_build import is_likely, library
from ..kernels.cpu_packed import CPUPacked
from .awq import AWQLinear, unpack
from .gguf_blocks import GGUFLinear
from .int8 import Int8Linear
from .nf4 import NF4Linear
from .packed import PackedLinear, PackedWeight
from .plan import free_memory

log = logging.getLogger("cpmv")

# Smaller matrices are multiplied as they always were: exactly as their format rounds, and no slower.
_LEAST_ELEMENTS = 1 << 20
_KEPT_FREE_BYTES = 1 << 29
_GROWTH = 1.04  # NF4's, the most
_PAGE_WORDS = 1024  # int32 values in a page


def pack_on_cpu(layer: PackedLinear) -> CPUPacked | None:
    """Repack a layer of a file for the CPU's kernels, or return None where the plain path is the better or only one."""
    if layer.in_features * layer.out_features < _LEAST_ELEMENTS or library() is None:
        return None
    stored = [t for t in layer.buffers() if t.device.type == "cpu"]
    needed = sum(t.nbytes for t in stored)
    if needed * 1.1 + _KEPT_FREE_BYTES > free_memory(torch.device("cpu")):
        _warn_no_room()
        return None
    packed = _pack(layer)
    if packed is None:
        _warn_no_kernel(type(layer).__name__, _format_of(layer))
        return None
    for tensor in stored:
        _give_back(tensor)
    return packed


def repacked_bytes(weights: Iterable[PackedWeight]) -> int:
    """About how many stored bytes of a checkpoint will be held in memory, repacked, rather than in mapped files."""
    large = sum(w.nbytes for w in weights if w.shape[0] * w.shape[1] >= _LEAST_ELEMENTS and not w.embedding)
    fits = large * 1.1 + _KEPT_FREE_BYTES <= free_memory(torch.device("cpu"))
    return int(large * _GROWTH) if fits and is_likely() else 0


def _pack(layer: PackedLinear) -> CPUPacked | None:
    if isinstance(layer, AWQLinear):
        layer.qweight.flatten()[::_PAGE_WORDS].sum()  # its pages in order; repacking reads them across
        return cpu_packed.pack_awq(layer.qweight, unpack(layer.qzeros), layer.scales)
    if isinstance(layer, NF4Linear):
        state = layer.state
        scales = layer.scales(0, state.num_blocks)
        return cpu_packed.pack_nf4(layer.codes, scales, layer.quant_map, state.shape, state.blocksize)
    if isinstance(layer, Int8Linear):
        return cpu_packed.pack_int8(layer.codes, layer.scales)
    if isinstance(layer, GGUFLinear):
        return cpu_packed.pack_gguf(layer.raw, layer.block_type.name, layer.in_features)
    return None


def _format_of(layer: PackedLinear) -> str:
    return layer.block_type.name if isinstance(layer, GGUFLinear) else type(layer).__name__.removesuffix("Linear")


@lru_cache
def _warn_no_kernel(layer: str, name: str) -> None:
    log.warning(
        "%s weights have no CPU kernel for their block type or shape (%s); they are dequantised at each use",
        name,
        layer,
    )


@lru_cache(maxsize=1)
def _warn_no_room() -> None:
    log.warning(
        "memory is short, so that quantised weights stay in their files and are dequantised at each use, which is "
        "slow; free some, or use a smaller model"
    )


def _give_back(tensor: Tensor) -> None:
    """Let go of the pages of a mapped file that a tensor has touched; they are read again if they are needed again.

    Only of mappings that the system says are of a file: anonymous memory would be lost.
    """
    first = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if first >= last or not hasattr(mmap, "MADV_DONTNEED"):
        return
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text().splitlines():
            bounds, permissions, _, _, inode, *_ = line.split(maxsplit=5)
            start, end = (int(bound, 16) for bound in bounds.split("-"))
            if start <= first and last <= end and inode != "0" and permissions.endswith("p"):
                libc = ctypes.CDLL(None, use_errno=True)
                libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)
                return
