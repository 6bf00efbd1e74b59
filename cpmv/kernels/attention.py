"""Attention of one new token a row over a paged pool, from raw projections to the heads' result, in one launch.

Norm of queries and keys, rotary positions, the write of the new key and value, and the attention itself are one
kernel (`attention_triton`). `decode_attention_plain` is the truth it is compared with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from . import launch

# Queries that share a key, padded to what a tensor core takes.
_LEAST_QUERIES = 16


@dataclass(frozen=True)
class Paging:
    """Where rows lie in the pool, as int64 tensors on the device.

    position: [M], where each row's new token goes, which is how many it has before. table: [M, blocks], the pool's
    blocks that hold each row, its new token included; what comes after is never read.
    """

    position: Tensor
    table: Tensor


@dataclass(frozen=True)
class Heads:
    """How a row of projections divides, and the norms of its heads: weights [D] and the epsilon."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    q_norm: Tensor
    k_norm: Tensor
    eps: float


@dataclass(frozen=True)
class Split:
    """How `decode` is launched: programs that share a row's past, keys a step, loads in flight, warps."""

    parts: int
    keys: int = 64
    stages: int = 2
    warps: int = 4


def decode_attention_plain(
    qkv: Tensor, pools: tuple[Tensor, Tensor], paging: Paging, heads: Heads, rotary: tuple[Tensor, Tensor]
) -> Tensor:
    """`decode_attention` in plain torch, row by row, with the roundings of the model's own modules."""
    h, k, d = heads.num_heads, heads.num_kv_heads, heads.head_dim
    out = torch.empty(qkv.shape[0], h * d, dtype=qkv.dtype, device=qkv.device)
    block_size = pools[0].shape[1]
    for row, (place, blocks) in enumerate(zip(paging.position.tolist(), paging.table.tolist(), strict=True)):
        cos, sin = (torch.cat((part[place], part[place])) for part in rotary)
        q, new_k, new_v = qkv[row].view(-1, d).split((h, k, k))
        q, new_k = _norm(q, heads.q_norm, heads.eps), _norm(new_k, heads.k_norm, heads.eps)
        q, new_k = _rotate(q, cos, sin), _rotate(new_k, cos, sin)
        for pool, new in zip(pools, (new_k, new_v), strict=True):
            pool[blocks[place // block_size], place % block_size] = new
        held = [pool[blocks[: place // block_size + 1]].flatten(0, 1)[: place + 1] for pool in pools]
        keys, values = (part.transpose(0, 1).repeat_interleave(h // k, 0).float() for part in held)  # [H, T, D]
        out[row] = F.scaled_dot_product_attention(q.float()[:, None], keys, values)[:, 0].flatten().to(qkv.dtype)
    return out


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    y = x.float()
    return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def supports(num_heads: int, num_kv_heads: int, head_dim: int, block_size: int, dtype: torch.dtype) -> bool:
    """Whether the kernel takes heads and blocks of these sizes."""
    return (
        num_heads % num_kv_heads == 0
        and num_heads // num_kv_heads <= _LEAST_QUERIES
        and head_dim in (32, 64, 128, 256)
        and block_size & (block_size - 1) == 0
        and dtype in (torch.bfloat16, torch.float16, torch.float32)
    )


def choose_split(num_rows: int, num_kv_heads: int, max_keys: int, num_processors: int) -> Split:
    """Share rows among so many programs that every processor has one or two, and none less than a step of keys."""
    keys = 64
    parts = 1
    while 2 * parts * num_rows * num_kv_heads <= 2 * num_processors and 2 * parts * keys <= max(max_keys, keys):
        parts *= 2
    parts = min(parts, 64)
    steps = max_keys // parts // keys
    return Split(parts, keys, 2 if parts >= 16 else 3 if steps <= 8 and parts > 1 else 4)


def decode_attention(
    qkv: Tensor,
    pools: tuple[Tensor, Tensor],
    paging: Paging,
    heads: Heads,
    rotary: tuple[Tensor, Tensor],
    split: Split,
) -> Tensor:
    """Attend for one new token a row; its key and value are written to the pool. Returns [M, H * D].

    qkv [M, (H + 2 K) * D]: query, key and value projections as they come. pools: keys and values [blocks, block size,
    K, D]. rotary: cos and sin of every position, [positions, D / 2], in qkv's dtype. Rows must not share the block
    they write to, except rows whose results nobody wants.
    """
    from . import attention_triton as kernels

    h, k, d = heads.num_heads, heads.num_kv_heads, heads.head_dim
    num_rows, group = qkv.shape[0], h // k
    out = torch.empty(num_rows, h * d, dtype=qkv.dtype, device=qkv.device)
    part = out
    if split.parts > 1:
        size = num_rows * k * split.parts * group * (d + 2)
        part = torch.empty(size, dtype=torch.float32, device=qkv.device)
    pdl = launch.has_dependent_launch(qkv.device)
    launch.run(
        *(kernels.decode, (split.parts, k, num_rows)),
        *(qkv, *pools, paging.table, paging.position, heads.q_norm, heads.k_norm, *rotary, out, part),
        *(launch.counters(qkv.device), paging.table.shape[1], heads.eps, math.log2(math.e) / math.sqrt(d)),
        **dict(GROUP=group, HEADS=k, D=d, BLOCK=pools[0].shape[1], R=_LEAST_QUERIES, BT=split.keys),
        **dict(SPLIT=split.parts, STAGES=split.stages, PDL=pdl),
        **launch.options(split.warps, pdl),
    )
    return out
