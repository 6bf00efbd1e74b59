"""Keys and values of what the decoder has seen: what a cache must do, the contiguous one, and the paged one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy
import torch
from torch import Tensor

from .config import LanguageConfig


class KVCache(Protocol):
    """What the decoder asks of a cache. One forward pass appends to every layer, then advances once."""

    @property
    def length(self) -> int:
        """Positions held so far, padding included."""
        ...

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k, v [B, K, S, D] after the positions held; return all keys and values [B, K, length + S, D]."""
        ...

    def advance(self, num_tokens: int) -> None:
        """Count the tokens that every layer has just stored."""
        ...


class ContiguousCache:
    """One tensor a layer, [B, K, capacity, D], doubled when it is full."""

    def __init__(
        self,
        config: LanguageConfig,
        batch: int,
        max_len: int,
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> None:
        shape = (batch, config.num_key_value_heads, max(1, max_len), config.head_dim)
        self._keys = [torch.empty(shape, device=device, dtype=dtype) for _ in range(config.num_hidden_layers)]
        self._values = [torch.empty(shape, device=device, dtype=dtype) for _ in range(config.num_hidden_layers)]
        self._length = 0

    @property
    def length(self) -> int:
        return self._length

    @property
    def batch(self) -> int:
        return self._keys[0].shape[0]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        end = self._length + k.shape[2]
        for store, new in ((self._keys, k), (self._values, v)):
            held = store[layer]
            if end > held.shape[2]:
                room = held.new_empty((*held.shape[:2], max(end, 2 * held.shape[2]), held.shape[3]))
                room[:, :, : self._length] = held[:, :, : self._length]
                store[layer] = held = room
            held[:, :, self._length : end] = new
        return self._keys[layer][:, :, :end], self._values[layer][:, :, :end]

    def advance(self, num_tokens: int) -> None:
        self._length += num_tokens

    def reorder(self, indices: Tensor) -> None:
        """Let row i continue what row indices[i] held (indices int64 [B'], any B'): beams, or rows that go on."""
        used = slice(0, self._length)
        for store in (self._keys, self._values):
            for layer, held in enumerate(store):
                if indices.shape[0] == held.shape[0]:
                    held[:, :, used] = held[indices, :, used]
                else:
                    room = held.new_empty((indices.shape[0], *held.shape[1:]))
                    room[:, :, used] = held[indices, :, used]
                    store[layer] = room

    def truncate(self, length: int) -> None:
        """Forget every position from `length` on."""
        self._length = min(self._length, length)


@dataclass(frozen=True)
class CacheSpec:
    """What a decoder keeps for every token: keys and values of `num_layers` layers."""

    num_layers: int
    num_key_value_heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def bytes_per_token(self) -> int:
        return 2 * self.num_layers * self.num_key_value_heads * self.head_dim * self.dtype.itemsize


class PagedPool:
    """Keys and values in blocks that any sequence can own: one tensor a layer, [blocks, block size, K, D].

    Which sequence owns which block is not known here.
    """

    def __init__(self, spec: CacheSpec, num_blocks: int, block_size: int, device: torch.device | str) -> None:
        shape = (num_blocks, block_size, spec.num_key_value_heads, spec.head_dim)
        self.keys = [_zeros(shape, spec.dtype, device) for _ in range(spec.num_layers)]
        self.values = [_zeros(shape, spec.dtype, device) for _ in range(spec.num_layers)]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Zeros, never uninitialised: what lies beyond a sequence's end is masked, but NaN times 0 is NaN.

    On a CPU, pages that the system zeroes when they are first touched: torch.zeros would write, and so take, them all.
    """
    if torch.device(device).type != "cpu":
        return torch.zeros(shape, device=device, dtype=dtype)
    pages = numpy.zeros(math.prod(shape) * dtype.itemsize, dtype=numpy.uint8)
    return torch.from_numpy(pages).view(dtype).view(shape)


class PagedCache:
    """One forward pass over a packed row [1, S, E]: token i of the row is stored in slot slots[i] of the pool.

    slots: int64 [S], block * block size + place. The mask of the pass is `attention.Paged`, which knows the rest.
    """

    length = 0  # positions are the caller's

    def __init__(self, pool: PagedPool, slots: Tensor) -> None:
        self._pool, self._slots = pool, slots

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k, v [1, K, S, D] in their slots; return the layer's pools of keys and values."""
        pools = self._pool.keys[layer], self._pool.values[layer]
        for pool, new in zip(pools, (k, v), strict=True):
            pool.flatten(0, 1).index_copy_(0, self._slots, new[0].transpose(0, 1))
        return pools

    def place(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """The layer's pools of keys and values, and the slots, for a kernel that stores the tokens itself."""
        return self._pool.keys[layer], self._pool.values[layer], self._slots

    def advance(self, num_tokens: int) -> None:
        """Nothing to count: sequences know their own lengths."""
