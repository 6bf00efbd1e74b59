"""Attention behind one signature. Here it is torch's SDPA; faster kernels stand behind the same call later."""

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


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, causal: bool = False, mask: Tensor | Segments | None = None
) -> Tensor:
    """Attend: softmax(q kᵀ · scale) v.

    q [B, H, S, D]; k, v [B, K, T, D] with H a multiple of K (grouped heads). `mask` is bool, broadcastable to
    [B, 1, S, T], true where a query may look; or Segments, with B == 1 and S == T. `causal` means S == T and the lower
    triangle. Returns [B, H, S, D].
    """
    if isinstance(mask, Segments):
        if v.is_cuda and v.dtype in (torch.bfloat16, torch.float16):
            return _segmented(q.to(v.dtype), k.to(v.dtype), v, mask, scale)
        mask = segment_mask(mask, q.shape[2])
    if causal and q.shape[2] == 1:
        causal = False  # a single query sees everything, and some kernels are only fast without the flag
    grouped = q.shape[1] != k.shape[1]
    with _preferred(q.device.type, q.device.index or 0, q.dtype):
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


def _preferred(device_type: str, index: int, dtype: torch.dtype) -> contextlib.AbstractContextManager[None]:
    if torch.compiler.is_compiling() or device_type != "cuda" or dtype is torch.float32 or not _cudnn_first(index):
        return contextlib.nullcontext()
    order = [
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    ]
    return sdpa_kernel(order, set_priority=True)
