"""The small pieces the three parts share: linear and embedding that may hold 16-bit files, norms, rotary, gated MLP."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CheckpointError
from ..kernels import fused
from ..kernels.cpu_dense import dense
from ..kernels.merge import merged
from .config import LanguageConfig

# A wider weight is cast in slices, so that the copy never exceeds this many elements (256 MiB in float32).
_CAST_ELEMENTS = 1 << 26
# The wide rows inside an MLP exist for so many rows at once: more make its second product slower, and take 50 KB each.
_MLP_ROWS = 4096


class Linear(nn.Linear):
    """A linear map whose weight may be stored in another dtype than it runs in.

    On the CPU weights stay memory-mapped in the file's dtype; they are cast as they are used, slice by slice.
    """

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        out = dense(x, self.weight, self.bias)
        if out is not None:
            return out
        return super().forward(x) if self.weight.dtype == x.dtype else cast_linear(x, self.weight, self.bias)


def cast_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply x [..., in] by weight [out, in] cast to x's dtype, a bounded number of rows at a time."""
    bias = None if bias is None else bias.to(x.dtype)
    rows = max(1, _CAST_ELEMENTS // weight.shape[1])
    if weight.shape[0] <= rows:
        return F.linear(x, weight.to(x.dtype), bias)
    out = torch.cat([F.linear(x, part.to(x.dtype)) for part in weight.split(rows)], dim=-1)
    return out if bias is None else out + bias


def add_product(x: Tensor, y: Tensor, linear: nn.Module) -> None:
    """Add linear(y) [N, out] to x [N, out] where it lies: for a plain weight in one operation, rounded once."""
    if isinstance(linear, nn.Linear) and linear.weight.dtype == x.dtype and linear.bias is None:
        x.addmm_(y, linear.weight.t())
    else:
        x += linear(y)


class Embedding(nn.Embedding):
    """A table of rows in its stored dtype."""

    def rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Look up rows and cast those alone: [...] -> [..., width]."""
        return self(ids).to(dtype)

    def project(self, x: Tensor) -> Tensor:
        """Score x [..., width] against every row: the head of a model with tied embeddings."""
        out = dense(x, self.weight, None)
        return cast_linear(x, self.weight, None) if out is None else out


class RMSNorm(nn.Module):
    """Root-mean-square norm, computed in float32, weight applied after the cast back (as Qwen3 does)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return y.to(x.dtype) * self.weight


class GatedMLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)).

    gate_up_weight: the weights of gate and up as one tensor, where `kernels.merge` has made them so.
    """

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_up_weight: Tensor | None = None
        self.gate_proj = Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GatedMLP:
        self.gate_up_weight = None  # the parameters move away from it
        super()._apply(fn, recurse)
        return self

    def add_to(self, residual: Tensor, x: Tensor) -> None:
        """Add the map of rows x [N, E] to residual [N, E], where it lies, in few kernels."""
        parts = (self.gate_proj, self.up_proj)
        weight = merged(self.gate_up_weight, parts)
        if weight is None or weight.dtype != x.dtype:  # all rows at once: a packed weight is unpacked each time
            both = torch.cat([part(x) for part in parts], dim=-1)
            add_product(residual, fused.silu_multiply(both), self.down_proj)
            return
        size = _rows_together(x.shape[0])
        for where, rows in zip(residual.split(size), x.split(size), strict=True):
            add_product(where, fused.silu_multiply(rows @ weight.t()), self.down_proj)


def _rows_together(num_rows: int) -> int:
    """Rows of one of equal parts of about _MLP_ROWS, a multiple of 256."""
    parts = max(1, round(num_rows / _MLP_ROWS))
    return max(1, -(-num_rows // (parts * 256)) * 256)


def clamp_half(x: Tensor) -> Tensor:
    """Keep float16 residuals finite: a sum beyond 65504 saturates instead of becoming inf and then NaN."""
    if x.dtype is not torch.float16:
        return x
    limit = torch.finfo(torch.float16).max
    return x.clamp(-limit, limit)


def rotary_frequencies(config: LanguageConfig, device: torch.device) -> tuple[Tensor, float]:
    """Return the inverse frequencies, float32 [head_dim / 2], and the factor on cos and sin.

    rope_scaling may be absent, "linear" (positions divided by factor) or "yarn" (arXiv 2309.00071, as Qwen3's
    documentation recommends for long context). Raises CheckpointError for any other kind.
    """
    dim, theta = config.head_dim, config.rope_theta
    exponents = torch.arange(0, dim, 2, dtype=torch.int64, device=device).float() / dim
    inv_freq = 1.0 / (theta**exponents)
    scaling = config.rope_scaling
    if not scaling:
        return inv_freq, 1.0
    try:
        return _SCALINGS[str(scaling.get("rope_type", scaling.get("type")))](config, scaling, inv_freq)
    except KeyError as missing:
        raise CheckpointError(
            f"config.json has rope_scaling {scaling}; known are null, 'linear' and 'yarn' with a factor"
        ) from missing


def _linear_scaling(config: LanguageConfig, scaling: dict[str, Any], inv_freq: Tensor) -> tuple[Tensor, float]:
    return inv_freq / float(scaling["factor"]), 1.0


def _yarn_scaling(config: LanguageConfig, scaling: dict[str, Any], inv_freq: Tensor) -> tuple[Tensor, float]:
    factor = float(scaling["factor"])
    original = float(scaling.get("original_max_position_embeddings") or config.max_position_embeddings)
    dim, theta = config.head_dim, config.rope_theta

    def dimension_of(rotations: float) -> float:  # the pair that turns so often within the original context
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(dimension_of(float(scaling.get("beta_fast", 32)))), 0)
    high = min(math.ceil(dimension_of(float(scaling.get("beta_slow", 1)))), dim - 1)
    pairs = torch.arange(dim // 2, dtype=torch.float32, device=inv_freq.device)
    ramp = ((pairs - low) / max(high - low, 0.001)).clamp(0, 1)
    attention_factor = float(scaling.get("attention_factor") or 0.1 * math.log(factor) + 1.0)
    return inv_freq * (1 - ramp) + inv_freq / factor * ramp, attention_factor


_SCALINGS: dict[str, Callable[[LanguageConfig, dict[str, Any], Tensor], tuple[Tensor, float]]] = {
    "default": lambda config, scaling, inv_freq: (inv_freq, 1.0),
    "linear": _linear_scaling,
    "yarn": _yarn_scaling,
}


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply the half-split rotary embedding. x [B, H, S, D]; cos, sin [B, 1, S, D] in x's dtype."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
