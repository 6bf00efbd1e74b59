"""Attention behind one signature. Here it is torch's SDPA; faster kernels stand behind the same call later.

What stands where a mask would says how the sequences lie: a bool mask (dense), `Segments` (ragged in one row), or
`Paged` (ragged in one row, with keys and values in blocks of a shared pool).
"""

from __future__ import annotations

import contextlib
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


class Segments(NamedTuple):
    """Sequences that share one row without seeing each other, each causal in itself; stands where a mask would.

    offsets: int32 [n + 1], where each begins, and the row's end. longest: no segment has more tokens.
    """

    offsets: Tensor
    longest: int


class PagedGroup(NamedTuple):
    """Sequences of one packed row that bring equally many queries, so that they can be computed together.

    first: where their queries begin in the row. num_rows: sequences; num_queries: each brings so many, its newest.
    blocks: int64 [num_rows * blocks], the pool blocks that hold each sequence, padded with any block. num_keys: most
    keys that a sequence has. mask: bool [num_rows, 1, num_queries, num_keys], true where a query may look; None for
    one sequence, whose newest tokens the queries are: each sees the keys up to its own.
    """

    first: int
    num_rows: int
    num_queries: int
    blocks: Tensor
    num_keys: int
    mask: Tensor | None


class PagedRows(NamedTuple):
    """Any sequences of one packed row, told by tensors alone, so that one recording serves whatever they are.

    queries: int32 [n + 1], where each begins in the row; what lies behind the last is nobody's. blocks: int64 [B], the
    pool blocks of all, sequence after sequence. keys: int32 [n + 1], where each one's keys begin among the places of
    the blocks; num_keys: int32 [n], how many it has, its queries' own, the newest, included. longest: the most queries.
    """

    queries: Tensor
    blocks: Tensor
    keys: Tensor
    num_keys: Tensor
    longest: int


class Paged(NamedTuple):
    """One packed row of many sequences' newest tokens, whose keys and values (k, v) are pools of blocks.

    The pools are [blocks, block size, K, D]. The groups cover the row in order; or there are none, and `rows` tells.
    """

    groups: tuple[PagedGroup, ...]
    rows: PagedRows | None = None


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    causal: bool = False,
    mask: Tensor | Segments | Paged | None = None,
) -> Tensor:
    """Attend: softmax(q kᵀ · scale) v.

    q [B, H, S, D]; k, v [B, K, T, D] with H a multiple of K (grouped heads). `mask` is bool, broadcastable to
    [B, 1, S, T], true where a query may look; or Segments, with B == 1 and S == T. `causal` means S == T and the lower
    triangle. With Paged, k and v are pools and B == 1. Returns [B, H, S, D].
    """
    if isinstance(mask, Paged):
        if mask.rows is not None:
            return _paged_rows(q, k, v, scale, mask.rows)
        parts = [_paged_group(q, k, v, scale, group) for group in mask.groups]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
    if isinstance(mask, Segments):
        if v.is_cuda and v.dtype in (torch.bfloat16, torch.float16):
            return _segmented(q.to(v.dtype), k.to(v.dtype), v, mask, scale)
        if v.device.type == "cpu":
            return _one_by_one(q, k, v, mask, scale)
        mask = segment_mask(mask, q.shape[2])
    if causal and q.shape[2] == 1:
        causal = False  # a single query sees everything, and some kernels are only fast without the flag
    grouped = q.shape[1] != k.shape[1]
    # A kernel of cuDNN's is built for every new shape, 45 ms or more; decoding would ask for another at every token.
    recurs = torch.is_grad_enabled() or (q.shape[2] % 64 == 0 and k.shape[2] % 64 == 0)
    with preferred(q, recurs):
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped
        )


def _segmented(q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> Tensor:
    """FlashAttention over ragged segments: the work is that of the segments, not of the row's square."""
    q, k, v = (x[0].transpose(0, 1).contiguous() for x in (q, k, v))  # [T, heads, D]
    offsets, longest = segments
    out = torch.ops.aten._flash_attention_forward(
        q, k, v, offsets, offsets, longest, longest, 0.0, True, False, scale=scale
    )[0]
    return out.transpose(0, 1)[None]


def _one_by_one(q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> Tensor:
    """Each segment by itself: measured on 51 of 80 tokens, 25 times as fast on a CPU as the row under one mask."""
    ends = segments.offsets.tolist()
    parts = [
        attention(q[:, :, start:end], k[:, :, start:end], v[:, :, start:end], scale=scale, causal=True)
        for start, end in zip(ends, ends[1:], strict=False)
        if end > start
    ]
    return torch.cat(parts, dim=2)


def _paged_group(q: Tensor, k_pool: Tensor, v_pool: Tensor, scale: float, group: PagedGroup) -> Tensor:
    """Attend for one group by gathering its blocks; return [1, H, n * num_queries, D]."""
    n, s = group.num_rows, group.num_queries
    k, v = (_gather(pool, group.blocks, n, group.num_keys) for pool in (k_pool, v_pool))  # [n, K, T, D]
    num_heads, width, groups = q.shape[1], q.shape[3], k.shape[1]
    q = q[0, :, group.first : group.first + n * s].unflatten(1, (n, s)).transpose(0, 1)  # [n, H, s, D]
    if s == 1:
        # The heads that share a key become its queries: no key is read twice, and nothing is expanded.
        out = attention(q.reshape(n, groups, -1, width), k, v, scale=scale, mask=group.mask)
        out = out.reshape(n, num_heads, 1, width)
    elif group.mask is None and group.num_keys > s:
        mask = causal_mask(None, s, group.num_keys - s, q.device)
        out = attention(q, k, v, scale=scale, mask=mask)
    else:
        out = attention(q, k, v, scale=scale, causal=group.mask is None, mask=group.mask)
    return out.transpose(0, 1).reshape(1, num_heads, n * s, width)


def _paged_rows(q: Tensor, k_pool: Tensor, v_pool: Tensor, scale: float, rows: PagedRows) -> Tensor:
    """Attend sequence after sequence: [1, H, S, D], zeros behind the last one's end."""
    k, v = (pool.index_select(0, rows.blocks).flatten(0, 1) for pool in (k_pool, v_pool))  # [places, K, D]
    out = torch.zeros_like(q)
    ends, firsts = rows.queries.tolist(), rows.keys.tolist()
    for start, end, first, count in zip(ends, ends[1:], firsts, rows.num_keys.tolist(), strict=False):
        if end == start:
            continue
        seen = slice(first, first + count)
        mask = causal_mask(None, end - start, count - (end - start), q.device)
        own = (x[seen].transpose(0, 1)[None] for x in (k, v))
        out[:, :, start:end] = attention(
            q[:, :, start:end], *own, scale=scale, causal=mask is None and end - start > 1, mask=mask
        )
    return out


def _gather(pool: Tensor, blocks: Tensor, num_rows: int, num_keys: int) -> Tensor:
    """Read blocks [n * blocks] of a pool [blocks, block size, K, D] as [n, K, num_keys, D] (a view of one copy)."""
    held = pool.flatten(1).index_select(0, blocks).view(num_rows, -1, *pool.shape[2:])
    return held[:, :num_keys].transpose(1, 2)


def segment_mask(segments: Segments, length: int) -> Tensor:
    """The same as a mask, bool [1, 1, length, length]: own segment, own past."""
    place = torch.arange(length, device=segments.offsets.device)
    owner = torch.searchsorted(segments.offsets[1:-1].long(), place, right=True)
    return ((owner[:, None] == owner) & (place[:, None] >= place))[None, None]


def causal_mask(attention_mask: Tensor | None, num_queries: int, past: int, device: torch.device) -> Tensor | None:
    """Return which keys each of the last `num_queries` positions may see, bool [B or 1, 1, S, past + S], or None.

    attention_mask: bool [B, past + S], false where a position is never attended (padding). None when every key is
    visible (one query, no padding) or plain causal attention says it all (nothing in the past, no padding).
    """
    total = past + num_queries
    if attention_mask is None and (past == 0 or num_queries == 1):
        return None
    columns = torch.arange(total, device=device)
    allowed = columns <= torch.arange(past, total, device=device)[:, None]  # [S, T]
    allowed = allowed[None, None]
    if attention_mask is not None:
        allowed = allowed & attention_mask[:, None, None, :]
        # A padded query before any real token sees nothing; give it itself, or softmax yields NaN.
        alone = ~allowed.any(-1, keepdim=True)
        allowed = allowed | (alone & (columns == torch.arange(past, total, device=device)[:, None]))
    return allowed


@lru_cache
def _cudnn_first(index: int) -> bool:
    """cuDNN's kernels are the fastest SDPA has on Hopper and newer (measured 1.4-1.9x FlashAttention-2)."""
    return torch.cuda.get_device_capability(index) >= (9, 0) and torch.backends.cudnn.is_available()


def preferred(q: Tensor, recurs: bool) -> contextlib.AbstractContextManager[None]:
    """The order in which SDPA tries its kernels for queries like q; recurs: whether the shape comes again and again."""
    index = q.device.index or 0
    if torch.compiler.is_compiling() or not q.is_cuda or q.dtype is torch.float32 or not _cudnn_first(index):
        return contextlib.nullcontext()
    order = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    order.insert(0 if recurs else 2, SDPBackend.CUDNN_ATTENTION)
    return sdpa_kernel([*order, SDPBackend.MATH], set_priority=True)
