"""Element-wise work of prefill in few passes over memory, for any number of rows. Each with its plain truth.

On CUDA in 16 bits a Triton kernel runs (`fused_triton`); anywhere else the truth does, so that a fast path can be
followed on a CPU. `usable` is the one switch between fast paths and the readable ones.
"""

from __future__ import annotations

import math
from functools import cache
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from . import norm_cuda
from .launch import available

HALF_TYPES = (torch.bfloat16, torch.float16)


def usable(x: Tensor) -> bool:
    """Whether fast paths may run on x: CUDA, 16 bits, nothing to differentiate, Triton there and not switched off."""
    return (
        x.is_cuda
        and x.dtype in HALF_TYPES
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cuda")
        and not torch.compiler.is_compiling()
        and available(x.device)
    )


def by_kernel(x: Tensor, dtype: torch.dtype | None = None) -> bool:
    """Whether an operation on x, computed in `dtype` (by default x's), is a kernel's or the truth's."""
    if x.is_cuda and (dtype or x.dtype) not in HALF_TYPES:
        return False
    return available(x.device)


@cache
def _kernels() -> ModuleType:
    from . import fused_triton

    return fused_triton


def takes(num_heads: int, num_kv_heads: int, head_dim: int) -> bool:
    """Whether `qk_norm_rotate` has a kernel for heads of this kind."""
    return head_dim & (head_dim - 1) == 0 and 16 <= head_dim <= 512 and num_heads % num_kv_heads == 0


def next_power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length()


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise rows x [N, E] in float32, round, then weigh: [N, E].

    Float16 infinities, left where a residual sum went out of range, become the largest number, in x as well.
    """
    if not by_kernel(x):
        _clamp(x)
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
        return y.to(x.dtype) * weight
    out = torch.empty(x.shape, device=x.device, dtype=x.dtype)
    if x.shape[0]:
        size = x.shape[1]
        block = next_power_of_2(size)
        _kernels().rms_norm[(x.shape[0],)](
            x, weight, out, x.stride(0), size, eps, x.dtype is torch.float16, block, num_warps=_warps(block)
        )
    return out


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, shift: Tensor | None = None) -> Tensor:
    """Normalise rows x + shift: x [N, E] contiguous, shift [E] or None. Float16 infinities as in `rms_norm`."""
    if not by_kernel(x):
        _clamp(x)
        y = x.float() if shift is None else x.float() + shift.float()
        return F.layer_norm(y, y.shape[-1:], weight.float(), bias.float(), eps).to(x.dtype)
    assert x.is_contiguous()
    if norm_cuda.available(x) and (shift is None or shift.dtype is torch.float32):
        return norm_cuda.layer_norm(x, weight, bias, eps, shift)
    out = torch.empty_like(x)
    num_rows, size = x.shape
    block = next_power_of_2(size)
    rows = 2 if block <= 2048 and num_rows >= 2048 else 1
    if num_rows:
        _kernels().layer_norm[(-(-num_rows // rows),)](
            x,
            x if shift is None else shift,
            weight,
            bias,
            out,
            num_rows,
            size,
            eps,
            shift is not None,
            x.dtype is torch.float16,
            rows,
            block,
            num_warps=_warps(rows * block),
        )
    return out


def _warps(elements: int) -> int:
    return 4 if elements <= 2048 else 8


def _clamp(x: Tensor) -> None:
    if x.dtype is torch.float16:
        limit = torch.finfo(torch.float16).max
        x.clamp_(-limit, limit)


def qk_norm_rotate(
    qkv: Tensor,
    num_heads: int,
    num_kv_heads: int,
    cos: Tensor,
    sin: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    eps: float,
    store: tuple[Tensor, Tensor, Tensor] | None = None,
) -> None:
    """Normalise and turn the queries and keys of qkv [N, (H + 2 K) D], row by row, where they lie.

    cos, sin [N, D], their halves equal; q_weight, k_weight [D]. store: (pool of keys, pool of values, slots), pools
    [blocks, block size, K, D] and slots int64 [N]: keys and values are written there too.
    """
    h, k = num_heads, num_kv_heads
    d = q_weight.shape[0]
    if not by_kernel(qkv):
        heads = qkv.unflatten(1, (h + 2 * k, d))
        for part, weight in ((heads[:, :h], q_weight), (heads[:, h : h + k], k_weight)):
            x = rms_norm(part.reshape(-1, d), weight, eps).view(part.shape)
            first, second = x.chunk(2, dim=-1)
            part.copy_(x * cos[:, None] + torch.cat((-second, first), dim=-1) * sin[:, None])
        if store is not None:
            store[0].flatten(0, 1).index_copy_(0, store[2], heads[:, h : h + k])
            store[1].flatten(0, 1).index_copy_(0, store[2], heads[:, h + k :])
        return
    together = math.gcd(math.gcd(h, k), 8)
    k_pool, v_pool, slots = store if store is not None else (qkv, qkv, qkv)
    tokens = 2 if qkv.shape[0] >= 512 else 1
    _kernels().qk_norm_rotate[(-(-qkv.shape[0] // tokens), (h + 2 * k) // together)](
        qkv,
        cos,
        sin,
        q_weight,
        k_weight,
        k_pool,
        v_pool,
        slots,
        qkv.shape[0],
        qkv.stride(0),
        eps,
        h,
        k,
        d // 2,
        together,
        tokens,
        store is not None,
        num_warps=4,
    )


def silu_multiply(x: Tensor) -> Tensor:
    """SwiGLU of rows [N, 2 I], gate then up: [N, I]."""
    size = x.shape[1] // 2
    if not by_kernel(x):
        return F.silu(x[:, :size]) * x[:, size:]
    out = torch.empty(x.shape[0], size, device=x.device, dtype=x.dtype)
    block = min(2048, next_power_of_2(size))
    if x.shape[0]:
        _kernels().silu_multiply[(x.shape[0], -(-size // block))](x, out, x.stride(0), size, block, num_warps=4)
    return out


def merge_attention(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> None:
    """Combine two attentions of the same queries over different keys, into the first.

    out, other [N, H, D], heads contiguous; lse, other_lse float32 [H, N]: logarithms of the sums of exponentials.
    """
    if not by_kernel(out):
        share = torch.sigmoid(lse - other_lse).T[..., None]
        out.copy_(out.float() * share + other.float() * (1 - share))
        return
    num_tokens, h, d = out.shape
    heads = min(8, next_power_of_2(h))
    _kernels().merge_attention[(num_tokens, -(-h // heads))](
        out,
        other,
        lse,
        other_lse,
        out.stride(0),
        other.stride(0),
        *lse.stride(),
        *other_lse.stride(),
        h,
        d,
        heads,
        num_warps=4,
    )
