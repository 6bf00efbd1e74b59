"""The vision tower and the resampler over pictures of many grids that lie one behind the other in a single row.

A training step has pictures of five to eight grids. Run grid by grid, each block starts several times as many kernels,
each too small for the chip, and every weight is cast, used and given a gradient once a grid. In one row a block runs
once a step; attention stays within each picture (`Segments`, as the decoder's rows have them). Only the resampler's
softmax, one layer with few queries, goes grid by grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model.attention import Segments, attention, segment_mask
from ..model.resampler import Resampler
from ..model.vision import VisionBlock, VisionTower

if TYPE_CHECKING:
    from .joint_model import Pass

_ALIGN = 8  # elements: a matrix product whose inner size is no multiple of it misses the fast kernels


@dataclass(frozen=True)
class RowTables:
    """What a row of pictures needs besides their pixels; the same for every step of one combination of grids.

    offsets int32 [n + 1], where each picture begins; longest: patches of the largest; space float32 [S, E], the spatial
    tables of all grids; space_at int64 [T], each patch's row of it; time_at int64 [T], its row among the frames' times
    (0: none).
    """

    offsets: Tensor
    longest: int
    space: Tensor
    space_at: Tensor
    time_at: Tensor

    @classmethod
    def of(cls, passes: Sequence[Pass]) -> RowTables:
        """From the shapes of the passes alone; nothing waits for the device."""
        device = passes[0].patches.device
        lengths: list[int] = []
        places, times = [], []
        first_space, first_time = 0, 1
        for one in passes:
            pictures, length = one.patches.shape[:2]
            frames = 1 if one.temporal is None else one.temporal.shape[1]
            groups = pictures // frames
            lengths += [length] * pictures
            places.append((first_space + torch.arange(frames * length)).repeat(groups))
            first_space += frames * length
            if one.temporal is None:
                times.append(torch.zeros(pictures * length, dtype=torch.int64))
            else:
                times.append((first_time + torch.arange(pictures)).repeat_interleave(length))
                first_time += pictures
        offsets = torch.tensor([0, *lengths]).cumsum(0).int()
        space = torch.cat([one.space[0] for one in passes])
        return cls(offsets.to(device), max(lengths), space, torch.cat(places).to(device), torch.cat(times).to(device))


def packed_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> Tensor:
    """Attend within each segment, both ways. q, k, v [T, H, D] -> [T, H, D]."""
    if q.is_cuda and q.dtype in (torch.bfloat16, torch.float16):
        offsets, longest = segments
        return torch.ops.aten._flash_attention_forward(
            q, k, v, offsets, offsets, longest, longest, 0.0, False, False, scale=scale
        )[0]
    mask = segment_mask(segments, q.shape[0])
    mask = mask | mask.mT
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return attention(q, k, v, scale=scale, mask=mask)[0].transpose(0, 1)


def embed(tower: VisionTower, patches: Tensor, ids: Tensor) -> Tensor:
    """Patches [T, C, p, p] and their rows of the position table [T] to vectors [T, Dv]."""
    conv, table = tower.embeddings.patch_embedding, tower.embeddings.position_embedding
    weight, flat = conv.weight.flatten(1), patches.flatten(1)
    kind = flat.device.type
    flat = flat.to(torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype)
    if missing := -flat.shape[1] % _ALIGN:
        flat, weight = F.pad(flat, (0, missing)), F.pad(weight, (0, missing))
    x = F.linear(flat, weight, conv.bias)
    return x + table.rows(ids, x.dtype)


def block_row(block: VisionBlock, x: Tensor, offsets: Tensor, longest: int) -> Tensor:
    """One block of the tower over a row [T, Dv] of pictures."""
    own = block.self_attn
    h = block.layer_norm1(x)
    q, k, v = (layer(h).unflatten(-1, (own.num_heads, own.head_dim)) for layer in (own.q_proj, own.k_proj, own.v_proj))
    out = packed_attention(q, k, v, Segments(offsets, longest), own.head_dim**-0.5)
    x = x + own.out_proj(out.flatten(1))
    return x + block.mlp(block.layer_norm2(x))


def keys_and_values(
    resampler: Resampler,
    norm: nn.LayerNorm,
    x: Tensor,
    space: Tensor,
    space_at: Tensor,
    times: Tensor | None,
    time_at: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The tower's final norm, then keys and values of the resampler's attention: features [T, Dv], keys, values [T, E].

    x [T, Dv]; space [S, E]; times [frames + 1, E] or None.
    """
    features = norm(x)
    values = resampler.ln_kv(resampler.kv_proj(features))
    keys = values + space[space_at]
    if times is not None:
        keys = keys + times[time_at]
    _, key_weight, value_weight = resampler.attn.in_proj_weight.chunk(3)
    _, key_bias, value_bias = resampler.attn.in_proj_bias.chunk(3)
    k, v = F.linear(keys, key_weight, key_bias), F.linear(values, value_weight, value_bias)
    return features.to(k.dtype), k, v


def resample_row(resampler: Resampler, keys: Tensor, values: Tensor, passes: Sequence[Pass]) -> Tensor:
    """Tokens [G, Q, E] of all groups of all passes, from keys and values [T, E]."""
    own = resampler.attn
    query = own.project(resampler.ln_q(resampler.query)[None], 0)  # [1, H, Q, D]
    scale = query.shape[-1] ** -0.5
    parts, first = [], 0
    for one in passes:
        pictures, length = one.patches.shape[:2]
        groups = pictures if one.temporal is None else one.temporal.shape[0]
        span = slice(first, first + pictures * length)
        first += pictures * length
        k, v = (
            x[span].view(groups, -1, own.num_heads, query.shape[-1]).transpose(1, 2) for x in (keys, values)
        )  # [G, H, L, D]
        seen = None if one.mask is None else one.mask[:, None, None]
        out = attention(query.expand(groups, -1, -1, -1), k, v, scale=scale, mask=seen)
        parts.append(out.transpose(1, 2).flatten(2))
    return resampler.ln_post(own.out_proj(torch.cat(parts))) @ resampler.proj


class PackedEncoder:
    """Runs all passes of a batch in one row. Tables of a combination of shapes are made at its first use."""

    def __init__(self, tower: VisionTower, resampler: Resampler) -> None:
        self.tower, self.resampler = tower, resampler
        self._block: Callable[..., Tensor] = block_row
        self._keys: Callable[..., tuple[Tensor, Tensor, Tensor]] = keys_and_values
        self._tables: dict[tuple[object, ...], RowTables] = {}

    def compile(self, backend: str) -> None:
        self._block = torch.compile(block_row, dynamic=True, backend=backend)
        self._keys = torch.compile(keys_and_values, dynamic=True, backend=backend)

    def tables(self, passes: Sequence[Pass]) -> RowTables:
        def shape(one: Pass) -> tuple[object, ...]:
            times = None if one.temporal is None else one.temporal.shape
            return (one.patches.shape[:2], times, one.space.data_ptr())

        key = tuple(shape(one) for one in passes)
        if key not in self._tables:
            self._tables[key] = RowTables.of(passes)
        return self._tables[key]

    def __call__(self, passes: Sequence[Pass], times: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Return the tower's features [T, Dv] and the tokens [G, Q, E]. times: ids [n] -> embeddings [n, E]."""
        tables = self.tables(passes)
        patches = torch.cat([one.patches.flatten(0, 1) for one in passes])
        ids = torch.cat([one.ids.flatten() for one in passes])
        x = embed(self.tower, patches, ids)
        for block in self.tower.encoder.layers:
            x = self._block(block, x, tables.offsets, tables.longest)
        stamped = [one.temporal.flatten() for one in passes if one.temporal is not None]
        clock = None
        if stamped:
            ids = torch.cat(stamped)
            clock = times(F.pad(ids, (1, 0), value=-1))
        norm = self.tower.post_layernorm
        features, keys, values = self._keys(
            self.resampler, norm, x, tables.space, tables.space_at, clock, tables.time_at
        )
        return features, resample_row(self.resampler, keys, values, passes)
