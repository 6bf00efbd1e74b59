"""SigLIP2 vision encoder over packed patches of any grid (the released `vpm.*`).

Slices of one length run together without padding: attention inside a slice sees only that slice, so nothing is masked
and nothing is wasted. Position ids follow NaViT's fractional buckets in the released code's own float32 arithmetic.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import attention
from .config import VisionConfig
from .layers import Embedding, Linear, clamp_half


@lru_cache(maxsize=1024)
def position_buckets(num_patches: int, grid_side: int = 70) -> Tensor:
    """Return the row (or column) of the position table for each of `num_patches` along an axis: int64 [n].

    In exact arithmetic floor(grid_side * i / n); float32 rounds some n differently, and the released weights were
    trained with that rounding, so these are the same torch expressions, on the CPU.
    """
    boundaries = torch.arange(1 / grid_side, 1.0, 1 / grid_side)
    step = torch.tensor(1.0) / num_patches  # the float32 quotient
    fractions = torch.arange(0, 1 - 1e-6, float(step))
    # The step is rounded, so the end may admit one value too many.
    return torch.bucketize(fractions, boundaries, right=True)[:num_patches]


def position_ids(rows: int, columns: int, grid_side: int = 70) -> Tensor:
    """Return the position-table rows of a rows x columns grid, row-major: int64 [rows * columns]."""
    y, x = position_buckets(rows, grid_side), position_buckets(columns, grid_side)
    return (y[:, None] * grid_side + x[None, :]).flatten()


class VisionEmbeddings(nn.Module):
    """Patches to vectors. The convolution's stride equals its kernel, so it is one matrix product."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        p = config.patch_size
        self.patch_embedding = nn.Conv2d(config.num_channels, config.hidden_size, kernel_size=p, stride=p)
        self.position_embedding = Embedding(config.grid_side**2, config.hidden_size)

    def forward(self, pixels: Tensor, ids: Tensor) -> Tensor:
        """pixels [..., C, p, p] normalised; ids int64 [...] position-table rows. Returns [..., Dv]."""
        weight = self.patch_embedding.weight.flatten(1)
        x = F.linear(pixels.flatten(-3).to(weight.dtype), weight, self.patch_embedding.bias)
        return x + self.position_embedding.rows(ids, x.dtype)


class VisionAttention(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads, self.head_dim = config.num_attention_heads, config.head_dim
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = (
            layer(x).view(n, length, self.num_heads, self.head_dim).transpose(1, 2)  # [N, H, L, D]
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = attention(q, k, v, scale=self.head_dim**-0.5)
        return self.out_proj(out.transpose(1, 2).reshape(n, length, width))


class VisionMLP(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class VisionBlock(nn.Module):
    """Pre-norm transformer block. x [N, L, Dv], no padding."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = VisionAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VisionMLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = clamp_half(x + self.self_attn(self.layer_norm1(x)))
        return clamp_half(x + self.mlp(self.layer_norm2(x)))


class VisionEncoder(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VisionBlock(config) for _ in range(config.num_hidden_layers))


class VisionTower(nn.Module):
    """Patch embedding, blocks, final norm.

    `norm_mean` and `norm_std` (three floats each, from the preprocessor's file) turn uint8 patches into the pixels
    the encoder was trained on.
    """

    def __init__(self, config: VisionConfig, norm_mean: Sequence[float], norm_std: Sequence[float]) -> None:
        super().__init__()
        self.config = config
        self.norm_mean, self.norm_std = tuple(norm_mean), tuple(norm_std)
        self.embeddings = VisionEmbeddings(config)
        self.encoder = VisionEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def normalise(self, patches: Tensor) -> Tensor:
        """Turn uint8 patches [P, C, p, p] into float32 pixels, in the released order of operations.

        Floating patches are taken as normalised already.
        """
        if patches.is_floating_point():
            return patches
        mean, std = (torch.tensor(v, device=patches.device).view(-1, 1, 1) for v in (self.norm_mean, self.norm_std))
        return (patches.float() / 255 - mean) / std

    def encode(self, x: Tensor) -> Tensor:
        """Run the blocks and the final norm over x [N, L, Dv]: N slices of one length."""
        for block in self.encoder.layers:
            x = block(x)
        return self.post_layernorm(x)

    def forward(self, patches: Tensor, tgt_sizes: Iterable[tuple[int, int]]) -> Tensor:
        """Encode slices of any grids.

        patches: uint8 or normalised float [P, C, p, p], slice after slice; tgt_sizes: (rows, columns) of each slice.
        Returns [P, Dv] in the same order.
        """
        norm = self.post_layernorm.weight
        sizes = [(int(h), int(w)) for h, w in tgt_sizes]
        starts = [0]
        for h, w in sizes:
            starts.append(starts[-1] + h * w)
        out = torch.empty(starts[-1], self.config.hidden_size, device=norm.device, dtype=norm.dtype)
        for chunk in equal_chunks([h * w for h, w in sizes], self.config.batch_size):
            ids = torch.stack([position_ids(*sizes[i], self.config.grid_side) for i in chunk])
            pixels = torch.stack([patches[starts[i] : starts[i + 1]] for i in chunk])  # [n, L, C, p, p]
            pixels = self.normalise(pixels.to(norm.device, non_blocking=True))
            encoded = self.encode(self.embeddings(pixels, ids.to(norm.device)))
            for row, i in enumerate(chunk):
                out[starts[i] : starts[i + 1]] = encoded[row]
        return out


def equal_chunks(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Group the indices of equal lengths, at most `size` together, in order of first appearance."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for i, length in enumerate(lengths):
        by_length[length].append(i)
    return [same[i : i + size] for same in by_length.values() for i in range(0, len(same), size)]
