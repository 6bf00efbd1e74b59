"""Attention of a packed row while prompts are read on a GPU: no dense mask, and no key read that a chunk has itself.

A chunk that begins its prompt is causal among its own tokens. A later one attends to its past, all of which every query
sees, and to itself, and the two are combined by the logarithms of their sums. Short chunks run as segments of one
FlashAttention call. cuDNN's kernels are the fastest for long chunks, but are built once for each shape, so it
gets few shapes, rounded up; what lies behind a chunk's end is computed and thrown away.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..kernels.fused import merge_attention
from .attention import Paged, PagedGroup, PagedRows, _cudnn_first, _gather, _paged_group, attention

log = logging.getLogger("cpmv")

# Shorter chunks are segments: their attention costs nothing beside the products.
_LONG = 512
# cuDNN sees lengths that are multiples of this, and takes what is somewhat shorter: a new shape costs 45 ms or more.
STEP = 1024

Pools = tuple[Tensor, Tensor]


class Segment(NamedTuple):
    """Short chunks that begin their prompts, neighbours in the row: flash attention with offsets int32 [n + 1]."""

    first: int
    length: int
    offsets: Tensor
    longest: int


class PackedPlan:
    """How the groups of one packed row are computed; made once a pass, used by every layer."""

    def __init__(self, paged: Paged, device: torch.device) -> None:
        self.device = device
        on_gpu = device.type == "cuda"
        self._cudnn = on_gpu and _cudnn_first(device.index or 0)
        self._flash = on_gpu and torch.cuda.get_device_capability(device) >= (8, 0)
        self._rows = paged.rows
        self._parts: list[PagedGroup | Segment] = []
        short: list[PagedGroup] = []
        for group in paged.groups:
            begins = group.num_rows == 1 and group.num_keys == group.num_queries
            if self._flash and begins and 1 < group.num_queries < _LONG:
                short.append(group)
                continue
            self._flush(short)
            self._parts.append(group)
        self._flush(short)

    def _flush(self, short: list[PagedGroup]) -> None:
        if short:
            ends = [group.first + group.num_queries - short[0].first for group in short]
            offsets = torch.tensor([0, *ends], dtype=torch.int32).to(self.device, non_blocking=True)
            longest = max(group.num_queries for group in short)
            self._parts.append(Segment(short[0].first, ends[-1], offsets, longest))
            short.clear()

    @property
    def only(self) -> PagedGroup | None:
        """The row's one sequence, where there is no other."""
        part = self._parts[0] if len(self._parts) == 1 else None
        return part if isinstance(part, PagedGroup) and part.num_rows == 1 and part.num_queries > 1 else None

    def attend(self, qkv: Tensor, num_tokens: int, heads: tuple[int, int, int], pools: Pools, scale: float) -> Tensor:
        """Attend from a row's queries: [N, H * D].

        qkv [N or more, (H + 2 K) D], normalised and turned, finite behind the row's end; heads: H, K, D. The row's own
        keys and values are in the pools already.
        """
        h, k, d = heads
        rows = qkv.unflatten(1, (h + 2 * k, d))
        q, own_k, own_v = rows[:, :h], rows[:, h : h + k], rows[:, h + k :]
        if self._rows is not None:
            return self._told_by_tensors(self._rows, q[:num_tokens], pools, scale).reshape(num_tokens, h * d)
        if len(self._parts) == 1:
            return self._part(self._parts[0], q, own_k, own_v, num_tokens, pools, scale).reshape(num_tokens, h * d)
        out = torch.empty(num_tokens, h, d, device=qkv.device, dtype=qkv.dtype)
        for part in self._parts:
            length = part.length if isinstance(part, Segment) else part.num_rows * part.num_queries
            out[part.first : part.first + length] = self._part(part, q, own_k, own_v, num_tokens, pools, scale)
        return out.flatten(1)

    def _part(
        self, part: PagedGroup | Segment, q: Tensor, k: Tensor, v: Tensor, num_tokens: int, pools: Pools, scale: float
    ) -> Tensor:
        """One part's output [its queries, H, D]."""
        if isinstance(part, Segment):
            here = slice(part.first, part.first + part.length)
            offsets, longest = part.offsets, part.longest
            return torch.ops.aten._flash_attention_forward(
                q[here], k[here], v[here], offsets, offsets, longest, longest, 0.0, True, False, scale=scale
            )[0]
        if not self._flash:
            row = q[:num_tokens].transpose(0, 1)[None]
            return _paged_group(row, *pools, scale, part)[0].transpose(0, 1)
        if part.num_rows > 1 or part.num_queries == 1:
            return _decoding(q, pools, scale, part)
        return self._chunk(part, q, k, v, pools, scale)

    def _told_by_tensors(self, told: PagedRows, q: Tensor, pools: Pools, scale: float) -> Tensor:
        """The same [N, H, D] for sequences that the host need not know: what a recording replays."""
        if not self._flash:
            return attention(q.transpose(0, 1)[None], *pools, scale=scale, mask=Paged((), told))[0].transpose(0, 1)
        keys, values = (pool.index_select(0, told.blocks).flatten(0, 1) for pool in pools)
        return torch.ops.aten._flash_attention_forward(
            *(q, keys, values, told.queries, told.keys, told.longest, len(keys), 0.0, True, False),
            scale=scale,
            seqused_k=told.num_keys,
        )[0]

    def _chunk(self, part: PagedGroup, q: Tensor, k: Tensor, v: Tensor, pools: Pools, scale: float) -> Tensor:
        first, length = part.first, part.num_queries
        past = part.num_keys - length
        padded = -(-length // STEP) * STEP
        here = slice(first, first + padded)
        suits = self._cudnn and padded - length <= _spare(length) and past % STEP == 0 and first + padded <= len(q)
        if suits and past == 0:
            found = _cudnn(q[here], k[here], v[here], True, scale, lse=False)
            if found is not None:
                return found[0][:length]
        if suits and past > 0:
            own = _cudnn(q[here], k[here], v[here], True, scale, lse=True)
            if own is not None:
                blocks = part.blocks[: -(-past // pools[0].shape[1])]
                keys, values = (_gather(pool, blocks, 1, past)[0].transpose(0, 1) for pool in pools)
                before = _cudnn(q[here], keys, values, False, scale, lse=True)
                assert before is not None
                merge_attention(own[0][:length], own[1], before[0], before[1])
                return own[0][:length]
        if past == 0:
            keys, values = k[first : first + length], v[first : first + length]
        else:
            keys, values = (_gather(pool, part.blocks, 1, part.num_keys)[0].transpose(0, 1) for pool in pools)
        # Unequal lengths: the causal flag of this operator aligns the ends.
        return torch.ops.aten._flash_attention_forward(
            q[first : first + length][None],
            keys[None],
            values[None],
            None,
            None,
            length,
            part.num_keys,
            0.0,
            True,
            False,
            scale=scale,
        )[0][0]


def _decoding(q: Tensor, pools: Pools, scale: float, group: PagedGroup) -> Tensor:
    """Rows that decode beside a chunk, q [N, H, D]: [their queries, H, D].

    Their number of keys is another at every step, which cuDNN's kernels would be built anew for.
    """
    n, s = group.num_rows, group.num_queries
    k, v = (_gather(pool, group.blocks, n, group.num_keys) for pool in pools)  # [n, K, T, D]
    heads, width = q.shape[1] // k.shape[1], q.shape[2]
    # The heads that share a key become its queries.
    rows = q[group.first : group.first + n * s].view(n, s, k.shape[1], heads, width)
    rows = rows.permute(0, 2, 3, 1, 4).reshape(n, k.shape[1], heads * s, width)
    mask = None if group.mask is None else group.mask.repeat(1, 1, heads, 1) if s > 1 else group.mask
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        out = F.scaled_dot_product_attention(rows, k, v, attn_mask=mask, scale=scale)
    return out.view(n, k.shape[1], heads, s, width).permute(0, 3, 1, 2, 4).reshape(n * s, -1, width)


def attend_some(q: Tensor, pools: Pools, group: PagedGroup, rows: Tensor, scale: float) -> Tensor:
    """Attend from a few of a sequence's newest tokens, q [R, H, D] of rows int64 [R]: [R, H * D], in float32."""
    k, v = (_gather(pool, group.blocks, 1, group.num_keys)[0].float() for pool in pools)  # [K, T, D]
    heads = q.unflatten(1, (len(k), -1)).transpose(0, 1).flatten(1, 2).float()  # [K, R * H / K, D]
    scores = (heads @ k.transpose(1, 2) * scale).unflatten(1, (len(q), -1))
    last_seen = group.num_keys - group.num_queries + rows
    hidden = torch.arange(group.num_keys, device=q.device) > last_seen[:, None]  # [R, T]
    weights = scores.masked_fill(hidden[None, :, None], float("-inf")).softmax(-1)
    out = weights.flatten(1, 2) @ v
    return out.unflatten(1, (len(q), -1)).transpose(0, 1).flatten(1).to(q.dtype)


def _cudnn(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float, *, lse: bool) -> tuple[Tensor, Tensor] | None:
    """cuDNN's attention of one sequence, q [S, H, D], k, v [T, K, D]: output [S, H, D] and logarithms [H, S].

    None once it has refused on this machine.
    """
    if _refused:
        return None
    try:
        out, logs, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
            *(x.transpose(0, 1)[None] for x in (q, k, v)), None, lse, 0.0, causal, False, scale=scale
        )
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        _refused.append(str(error))
        log.warning("cuDNN has no attention for these heads, FlashAttention reads prompts instead: %s", error)
        return None
    return out[0].transpose(0, 1), logs.reshape(q.shape[1], q.shape[0]) if lse else logs


_refused: list[str] = []


def room_for(paged: Sequence[PagedGroup]) -> int:
    """Rows to keep behind a packed row, so that its last chunk can be rounded up."""
    return max((_spare(group.num_queries) for group in paged if group.num_queries >= _LONG), default=0)


def _spare(length: int) -> int:
    """Rows that may be computed for nothing: with them cuDNN still is no slower than FlashAttention without."""
    return STEP - 1 if length >= 4 * STEP else STEP // 2
