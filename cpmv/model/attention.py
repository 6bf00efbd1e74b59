"""Attention behind one signature. Here it is torch's SDPA; faster kernels stand behind the same call later."""

from __future__ import annotations

import contextlib
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, causal: bool = False, mask: Tensor | None = None
) -> Tensor:
    """Attend: softmax(q kᵀ · scale) v.

    q [B, H, S, D]; k, v [B, K, T, D] with H a multiple of K (grouped heads). `mask` is bool, broadcastable to
    [B, 1, S, T], true where a query may look. `causal` means S == T and the lower triangle. Returns [B, H, S, D].
    """
    if causal and q.shape[2] == 1:
        causal = False  # a single query sees everything, and some kernels are only fast without the flag
    grouped = q.shape[1] != k.shape[1]
    with _preferred(q.device.type, q.device.index or 0, q.dtype):
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped
        )


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
