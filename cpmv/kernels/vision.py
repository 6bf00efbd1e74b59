"""The vision side in fewer, larger operations: tensors in, tensors out, the algebra of the plain modules.

The tower keeps its residual without the biases of its output projections: those are constants, so they are summed up
once and added where the residual is read, in the norms. GELU lies in the product's epilogue where the library has one.
The resampler's queries are constants too: key weights are absorbed into them, and the value weights applied after the
weighted sum, 48 GFLOP instead of 86 for 1024 patches at the released sizes. A key's bias cancels in the softmax.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .fused import by_kernel, layer_norm, next_power_of_2


class Norm(NamedTuple):
    weight: Tensor
    bias: Tensor
    shift: Tensor | None  # what the residual lacks here


class Block(NamedTuple):
    """One block's tensors. The biases of the output projection and of fc2 are in the norms' shifts."""

    norm1: Norm
    qkv_weight: Tensor
    qkv_bias: Tensor
    out_weight: Tensor
    norm2: Norm
    fc1_weight: Tensor
    fc1_bias: Tensor
    fc2_weight: Tensor


class Span(NamedTuple):
    """Neighbouring slices of one length in a packed row: patches [start, start + num_slices * length)."""

    start: int
    num_slices: int
    length: int


# Attention of one span's slices: q, k, v [N, L, H, D] as views, to [N, L, H * D].
Attend = Callable[[Tensor, Tensor, Tensor, Span], Tensor]


@cache
def _kernels() -> ModuleType:
    from . import vision_triton

    return vision_triton


def normalise_patches(patches: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype, width: int) -> Tensor:
    """Turn uint8 patches [P, C * p * p] into pixels in `dtype`, (x / 255 - mean) / std, zeros up to `width` columns.

    mean, std: float32 [C].
    """
    num_rows, size = patches.shape
    if not by_kernel(patches, dtype):
        pixels = (patches.view(num_rows, len(mean), -1).float() / 255 - mean[:, None]) / std[:, None]
        return F.pad(pixels.flatten(1).to(dtype), (0, width - size))
    out = torch.empty(num_rows, width, device=patches.device, dtype=dtype)
    _kernels().normalise_patches[(-(-num_rows // 4),)](
        patches, mean, std, out, num_rows, size, width, size // len(mean), 4, next_power_of_2(width), num_warps=4
    )
    return out


def run_blocks(
    x: Tensor, blocks: Sequence[Block], spans: Sequence[Span], num_heads: int, eps: float, attend: Attend
) -> Tensor:
    """Run a tower's blocks over a packed row x [P, Dv], which is overwritten; the last shift is not yet added."""
    for block in blocks:
        h = layer_norm(x, block.norm1.weight, block.norm1.bias, eps, block.norm1.shift)
        qkv = torch.addmm(block.qkv_bias, h, block.qkv_weight.t())
        x.addmm_(_attend_spans(qkv, spans, num_heads, attend), block.out_weight.t())
        h = layer_norm(x, block.norm2.weight, block.norm2.bias, eps, block.norm2.shift)
        h = _gelu_linear(h, block.fc1_weight, block.fc1_bias)
        x.addmm_(h, block.fc2_weight.t())
    return x


def _gelu_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if x.is_cuda:
        return torch._addmm_activation(bias, x, weight.t(), use_gelu=True)  # the product's epilogue, tanh form
    return F.gelu(F.linear(x, weight, bias), approximate="tanh")


def _attend_spans(qkv: Tensor, spans: Sequence[Span], num_heads: int, attend: Attend) -> Tensor:
    parts = []
    for span in spans:
        start, num_slices, length = span
        rows = qkv[start : start + num_slices * length].view(num_slices, length, 3, num_heads, -1)
        q, k, v = rows.unbind(2)
        parts.append(attend(q, k, v, span).flatten(0, 1))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class Absorbed(NamedTuple):
    """A resampler whose constant queries have taken in the key weights.

    queries [H Q, E]: (query · Wq) · Wk of each head, scaled; value_weight [H, D, E], value_bias [H, 1, D].
    x_table, y_table float32 [n, H Q]: what a patch's column and row add to its scores.
    """

    queries: Tensor
    value_weight: Tensor
    value_bias: Tensor
    x_table: Tensor
    y_table: Tensor


class Keys(NamedTuple):
    """Where the keys of a packed row lie: columns, rows and times, int32 [P], as rows of the three tables."""

    x: Tensor
    y: Tensor
    time: Tensor
    time_table: Tensor  # float32 [n, H Q]


def absorb(query: Tensor, in_weight: Tensor, in_bias: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Fold queries [Q, E], normalised already, into key weights: (queries [H Q, E], value_weight, value_bias).

    in_weight [3 E, E], in_bias [3 E]: rows of queries, keys, values. Computed in float32, rounded once.
    """
    wq, wk, wv = in_weight.chunk(3)
    bq, _, bv = in_bias.chunk(3)
    width = query.shape[1] // num_heads
    q = F.linear(query.float(), wq.float(), bq.float()).unflatten(1, (num_heads, width)) * width**-0.5
    queries = torch.einsum("qhd,hde->hqe", q, wk.float().unflatten(0, (num_heads, width)))
    return (
        queries.flatten(0, 1).to(query.dtype).contiguous(),
        wv.unflatten(0, (num_heads, width)),
        bv.view(num_heads, 1, width),
    )


def can_absorb(x: Tensor) -> bool:
    """Whether scores can be had in float32 from x's dtype: rounded to 16 bits they would be too coarse for exp."""
    return x.dtype == torch.float32 or hasattr(torch.ops.aten.mm, "dtype")


def position_scores(table: Tensor, queries: Tensor) -> Tensor:
    """What positions [n, E] add to the scores: float32 [n, H Q]. The table is rounded as keys are."""
    return table.to(queries.dtype).float() @ queries.float().t()


def absorbed_attention(values: Tensor, keys: Keys, resampler: Absorbed, num_keys: Sequence[int]) -> Tensor:
    """Attend from the constant queries to groups of patches.

    values [P, E], normalised, group after group; num_keys: patches of each group. Returns [G, Q, E] before the output
    projection.
    """
    queries = resampler.queries
    if values.dtype == torch.float32:
        scores = values @ queries.t()
    else:
        scores = torch.mm(values, queries.t(), out_dtype=torch.float32)  # [P, H Q]
    num_heads, width, _ = resampler.value_weight.shape
    sums, start = [], 0
    for count, length in _runs(num_keys):
        end = start + count * length
        part = Keys(keys.x[start:end], keys.y[start:end], keys.time[start:end], keys.time_table)
        weights = softmax_over_keys(scores[start:end], part, resampler, length, values.dtype)
        weights = weights.view(count, length, -1).transpose(1, 2)
        sums.append(torch.bmm(weights, values[start:end].view(count, length, -1)))  # [G, H Q, E]
        start = end
    whole = sums[0] if len(sums) == 1 else torch.cat(sums)
    groups = whole.shape[0]
    by_head = whole.view(groups, num_heads, -1, whole.shape[-1]).transpose(0, 1).reshape(num_heads, -1, whole.shape[-1])
    out = torch.baddbmm(resampler.value_bias, by_head, resampler.value_weight.transpose(1, 2))  # [H, G Q, D]
    return out.view(num_heads, groups, -1, width).permute(1, 2, 0, 3).flatten(2)


def _runs(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of equal lengths: (how many, of which length)."""
    runs: list[tuple[int, int]] = []
    for length in lengths:
        if runs and runs[-1][1] == length:
            runs[-1] = (runs[-1][0] + 1, length)
        else:
            runs.append((1, length))
    return runs


def softmax_over_keys(scores: Tensor, keys: Keys, resampler: Absorbed, num_keys: int, dtype: torch.dtype) -> Tensor:
    """Softmax over each group's keys of float32 scores [G num_keys, H Q] with positions added: the same in `dtype`."""
    if not by_kernel(scores, dtype):
        scores = scores + resampler.x_table[keys.x] + resampler.y_table[keys.y] + keys.time_table[keys.time]
        return scores.unflatten(0, (-1, num_keys)).softmax(1).flatten(0, 1).to(dtype)
    size = scores.shape[1]
    out = torch.empty(scores.shape, device=scores.device, dtype=dtype)
    groups = scores.shape[0] // num_keys
    together = 16 if groups < 8 else 64
    _kernels().softmax_over_keys[(groups, -(-size // together))](
        scores,
        keys.x,
        keys.y,
        keys.time,
        resampler.x_table,
        resampler.y_table,
        keys.time_table,
        out,
        num_keys,
        size,
        64 if together == 64 else 128,
        together,
        num_warps=4,
    )
    return out
