"""The unified 3D-Resampler (the released `resampler.*`): a slice or a group of frames becomes `query_num` tokens.

One cross-attention layer whose learned queries look at patch features. Keys carry a computed 2-D position and, for
frames, a computed time; values carry none. All frames of a group are keys of one attention, so a group of six frames
costs as many tokens as one picture. The semantics are those of the released batched path: keys and padding agree, so
slices of different sizes may share a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from .attention import attention
from .config import ResamplerConfig
from .layers import Linear
from .vision import equal_chunks

_GROUP_PATCHES = 16 * 1024  # patches whose keys and values exist at once: 16 slices of 448x448, 0.4 GB in bf16


def sincos(dim: int, positions: np.ndarray) -> np.ndarray:
    """Return sine-cosine embeddings, float32 [len(positions), dim], the sines first.

    Float32 throughout and in this order: at a position of 72000 any other rounding is visible.
    """
    omega = np.arange(dim // 2, dtype=np.float32)
    omega /= dim / 2.0
    omega = 1.0 / 10000**omega
    angles = positions.astype(np.float32)[:, None] * omega[None, :]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


@lru_cache(maxsize=8)
def _axis_table(dim: int, length: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Embeddings of positions 0 .. length-1 on one axis, [length, dim]."""
    return torch.from_numpy(sincos(dim, np.arange(length))).to(device=device, dtype=dtype)


def spatial_positions(dim: int, rows: int, columns: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return 2-D positions of a grid, row-major [rows * columns, dim]: the first half encodes x, the second y."""
    side = max(70, rows, columns)
    table = _axis_table(dim // 2, side + (-side) % 64, device, dtype)
    x = table[:columns].expand(rows, columns, -1)
    y = table[:rows, None].expand(rows, columns, -1)
    return torch.cat((x, y), dim=-1).flatten(0, 1)


def temporal_positions(dim: int, ids: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return time embeddings [len(ids), dim]; ids count 0.1 s, and -1 (no time) is the zero vector."""
    times = np.asarray(ids, dtype=np.int64)
    table = sincos(dim, np.maximum(times, 0))
    table[times < 0] = 0
    return torch.from_numpy(table).to(device=device, dtype=dtype)


class ResamplerAttention(nn.Module):
    """Multi-head attention with the parameter names of torch's own, and keys and values that differ."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * dim))
        self.out_proj = Linear(dim, dim)

    def project(self, x: Tensor, part: int) -> Tensor:
        """Apply the query (0), key (1) or value (2) rows and split heads: [G, L, E] -> [G, H, L, D]."""
        weight, bias = self.in_proj_weight.chunk(3)[part], self.in_proj_bias.chunk(3)[part]
        return nn.functional.linear(x, weight, bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """q [Q, E]; k, v [G, L, E]; mask bool [G, L], false on padding. Returns [G, Q, E]."""
        heads = self.project(q[None], 0).expand(k.shape[0], -1, -1, -1)
        seen = None if mask is None else mask[:, None, None]
        out = attention(heads, self.project(k, 1), self.project(v, 2), scale=heads.shape[-1] ** -0.5, mask=seen)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class Resampler(nn.Module):
    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        dim, eps = config.embed_dim, config.layer_norm_eps
        self.config = config
        self.query = nn.Parameter(torch.empty(config.query_num, dim))
        self.kv_proj = Linear(config.kv_dim, dim, bias=False) if config.kv_dim != dim else nn.Identity()
        self.attn = ResamplerAttention(dim, config.num_heads)
        self.ln_q, self.ln_kv, self.ln_post = (nn.LayerNorm(dim, eps=eps) for _ in range(3))
        self.proj = nn.Parameter(torch.empty(dim, dim))

    def resample(self, x: Tensor, space: Tensor, time: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """Compress groups of one length.

        x [G, L, Dv] patch features; space [G or 1, L, E] positions; time [G, L, E] or None; mask bool [G, L], false
        on padding (training pads clips to a fixed number of frames). Returns [G, Q, E].
        """
        values = self.ln_kv(self.kv_proj(x))
        keys = values + space
        if time is not None:
            keys = keys + time  # a second, separately rounded sum, as released
        out = self.attn(self.ln_q(self.query), keys, values, mask)
        return self.ln_post(out) @ self.proj

    def forward(self, x: Tensor, tgt_sizes: Sequence[tuple[int, int]], temporal_ids: Sequence[Sequence[int]]) -> Tensor:
        """Compress every group of slices to Q tokens.

        x: [P, Dv] patch features, slice after slice; tgt_sizes: (rows, columns) of each slice; temporal_ids: G lists,
        one id a slice in units of 0.1 s, -1 for no time. Returns [G, Q, E].
        """
        device, dtype, dim = x.device, x.dtype, self.config.embed_dim
        starts, groups, first = [0], [], 0
        for h, w in tgt_sizes:
            starts.append(starts[-1] + h * w)
        for ids in temporal_ids:
            groups.append(range(first, first + len(ids)))
            first += len(ids)
        lengths = [starts[g.stop] - starts[g.start] for g in groups]
        out = torch.empty(len(groups), self.config.query_num, dim, device=device, dtype=dtype)
        together = max(1, _GROUP_PATCHES // max(lengths, default=1))
        for chunk in equal_chunks(lengths, together):
            features = torch.stack([x[starts[groups[g].start] : starts[groups[g].stop]] for g in chunk])
            space = torch.stack(
                [torch.cat([spatial_positions(dim, *tgt_sizes[i], device, dtype) for i in groups[g]]) for g in chunk]
            )
            out[chunk] = self.resample(features, space, self._times(chunk, groups, tgt_sizes, temporal_ids, x))
        return out

    def _times(
        self,
        chunk: list[int],
        groups: Sequence[range],
        tgt_sizes: Sequence[tuple[int, int]],
        temporal_ids: Sequence[Sequence[int]],
        like: Tensor,
    ) -> Tensor | None:
        """Time of every patch of the chunk's groups [G, L, E], or None when no slice has one."""
        ids = [t for g in chunk for t in temporal_ids[g]]
        if max(ids) < 0:
            return None
        table = temporal_positions(self.config.embed_dim, ids, like.device, like.dtype)
        counts = torch.tensor([h * w for g in chunk for h, w in (tgt_sizes[i] for i in groups[g])], device=like.device)
        return table.repeat_interleave(counts, dim=0).unflatten(0, (len(chunk), -1))
