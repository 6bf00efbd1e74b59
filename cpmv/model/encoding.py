"""Pictures to tokens, fast: what `VisionTower` and `Resampler` say in plain modules, in fewer and larger operations.

Slices lie in one packed row, equal ones beside each other, so every product is one for all of them; only attention
sees slices. Constants are folded beforehand and folded again when weights change. On CUDA, pixels cross the bus as
uint8 on a stream of their own while the part before is computed, and up to ten slices are replayed from a graph: they
are too small to hide their launches.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import vision as kernels
from ..kernels.fused import layer_norm
from ..kernels.merge import Snapshot, merge_rows, pad_hidden
from .attention import preferred
from .layers import Linear
from .resampler import Resampler, sincos, temporal_positions
from .slices import Slice, chunks_of, neighbours, places_of, slices_of, spans_of
from .vision import VisionBlock, VisionTower, position_ids

log = logging.getLogger("cpmv")

# Patches in one pass: 36 slices of 448x448 were the fastest measured; they need 1.5 GB for what lies between.
_PATCHES_AT_ONCE = 36 * 1024
_PATCHES_ON_SMALL_CARDS = 8 * 1024
_SMALL_CARD_BYTES = 20 << 30
_MAX_GRAPHS = 16  # of one slice, and as many of several
_SEEN, _SEEN_TOGETHER = 2, 4  # one slice, or several of these grids, are recorded when they come so often
_PATCHES_RECORDED = 10 * 1024
_FAMILIAR = 16  # slices
_COPIED_BY_ONE = 4 << 20  # bytes
_POSITIONS = 70  # sides up to this need no larger tables


_Recorded = tuple[tuple[tuple[int, int], ...], tuple[int, ...]]  # grids, and the keys of every group


class ImageEncoder:
    """Made by `of` from a tower and a resampler; `current` says whether it still stands for them."""

    def __init__(
        self, tower: VisionTower, resampler: Resampler, blocks: list[kernels.Block], norm: kernels.Norm
    ) -> None:
        self._tower, self._resampler = tower, resampler
        self._blocks, self._norm = blocks, norm
        weight = tower.embeddings.patch_embedding.weight
        self.device, self.dtype = weight.device, weight.dtype
        flat = weight.detach().flatten(1)
        self._patch_width = -(-flat.shape[1] // 64) * 64
        self._patch_weight = F.pad(flat, (0, self._patch_width - flat.shape[1]))
        self._mean, self._std = (torch.tensor(v, device=self.device) for v in (tower.norm_mean, tower.norm_std))
        self._absorb(_POSITIONS)
        self._rows: OrderedDict[tuple[int, int], Tensor] = OrderedDict()
        self._seen: Counter[_Recorded] = Counter()
        self._graphs: dict[_Recorded, _SliceGraph] = {}
        self._pool: Any = None  # of memory that the graphs share: they never run at once
        self._shapes: Counter[tuple[int, int]] = Counter()
        on_gpu = self.device.type == "cuda"
        self._has_flash = on_gpu and torch.cuda.get_device_capability(self.device) >= (8, 0)
        self._stream = torch.cuda.Stream(self.device) if on_gpu else None
        self.patches_at_once = _patches_at_once(self.device)
        self._snapshot = Snapshot(tower, resampler)

    @classmethod
    @torch.no_grad()
    def of(cls, tower: VisionTower, resampler: Resampler) -> ImageEncoder | None:
        """Fold a tower and a resampler; None where a part is adapted, quantised or in another dtype."""
        parameters = [*tower.parameters(), *resampler.parameters()]
        first = parameters[0]
        if any(p.dtype != first.dtype or p.device != first.device or p.is_meta for p in parameters):
            return None
        plain = (Linear, nn.Identity)
        if not isinstance(resampler.kv_proj, plain) or not isinstance(resampler.attn.out_proj, Linear):
            return None
        folded = _fold(tower)
        if folded is None or not kernels.can_absorb(first):
            return None
        return cls(tower, resampler, *folded)

    def __deepcopy__(self, memo: object) -> None:
        """A copied network folds its own."""
        return None

    def current(self) -> bool:
        """Whether the weights are those that were folded."""
        return self._snapshot.holds()

    def _absorb(self, side: int) -> None:
        """Fold the resampler's queries, with positions for grids up to `side`."""
        resampler, attn = self._resampler, self._resampler.attn
        query = resampler.ln_q(resampler.query.detach())
        folded = kernels.absorb(query, attn.in_proj_weight.detach(), attn.in_proj_bias.detach(), attn.num_heads)
        half = resampler.config.embed_dim // 2
        axis = torch.from_numpy(sincos(half, np.arange(side))).to(self.device)
        zeros = torch.zeros_like(axis)
        self._side = side
        self._absorbed = kernels.Absorbed(
            *folded,
            kernels.position_scores(torch.cat([axis, zeros], 1), folded[0]),  # the first half encodes the column
            kernels.position_scores(torch.cat([zeros, axis], 1), folded[0]),
        )
        self._no_time = torch.zeros(1, folded[0].shape[0], device=self.device)

    def encode(
        self,
        patches: Tensor,
        sizes: Sequence[tuple[int, int]],
        temporal_ids: Sequence[Sequence[int]],
        *,
        steady: bool = False,
    ) -> Tensor:
        """As `MiniCPMV.encode_images`: [G, Q, E]."""
        longest = max((max(size) for size in sizes), default=1)
        if longest > self._side:
            self._absorb(longest)
            self._graphs.clear()
        slices = slices_of(sizes, temporal_ids)
        parts, places = [], []
        for chunk in chunks_of(slices, self.patches_at_once):
            parts.append(self._encode_chunk(patches, [slices[g] for g in chunk], steady))
            places += chunk
        if not parts:
            return torch.empty(0, *self._resampler.query.shape, device=self.device, dtype=self.dtype)
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        if places == sorted(places):
            return whole
        back = torch.empty(len(places), dtype=torch.int64)
        back[torch.tensor(places)] = torch.arange(len(places))
        return whole.index_select(0, _send(back, self.device))

    def _encode_chunk(self, patches: Tensor, groups: list[list[Slice]], steady: bool) -> Tensor:
        slices = [one for group in groups for one in group]
        pixels = self._pixels(patches, slices)
        times = [one.time for one in slices]
        table = self._no_time
        if max(times) >= 0:
            distinct = sorted(set(times))
            times = [distinct.index(time) for time in times]
            positions = temporal_positions(
                self._resampler.config.embed_dim, distinct, torch.device("cpu"), torch.float32
            )
            table = kernels.position_scores(_send(positions, self.device), self._absorbed.queries)
        else:
            times = [0] * len(slices)
        spans = spans_of(slices)
        familiar = set() if steady else {span for span in spans if self._is_familiar(span)}
        num_keys = [sum(one.length for one in group) for group in groups]
        if self._stream is not None and not steady and pixels.dtype == torch.uint8 and len(table) == 1:
            graph = self._graph(tuple(one.size for one in slices), tuple(num_keys))
            if graph is not None:
                return graph.replay(pixels, table)
        columns, rows, moments = _send(places_of(slices, times), self.device)
        keys = kernels.Keys(columns, rows, moments, table)
        grids = [self._position_rows(one.size) for one in slices]
        return self._compute(pixels, grids, keys, num_keys, spans, familiar)

    def _is_familiar(self, span: kernels.Span) -> bool:
        """Whether so many slices of a kind have come that building cuDNN's attention for them pays.

        That takes 45 ms or more for every new shape, a hundred times what it saves on one slice; until then, and
        where the result may not depend on what came before, FlashAttention takes any shape.
        """
        key = (span.num_slices, span.length)
        before = self._shapes[key]
        self._shapes[key] = before + span.num_slices
        return before >= _FAMILIAR

    def _compute(
        self,
        pixels: Tensor,
        positions: list[Tensor],
        keys: kernels.Keys,
        num_keys: list[int],
        spans: list[kernels.Span],
        familiar: set[kernels.Span],
    ) -> Tensor:
        """From pixels [P, C p p] on the device to tokens [G, Q, E]."""

        def attend(q: Tensor, k: Tensor, v: Tensor, span: kernels.Span) -> Tensor:
            return _attend(q, k, v) if span in familiar or not self._has_flash else _attend_any(q, k, v)

        config, resampler = self._tower.config, self._resampler
        x = torch.cat(positions)
        if pixels.dtype == torch.uint8:
            pixels = kernels.normalise_patches(pixels, self._mean, self._std, self.dtype, self._patch_width)
        else:
            pixels = F.pad(pixels.to(self.dtype), (0, self._patch_width - pixels.shape[1]))
        x.addmm_(pixels, self._patch_weight.t())
        kernels.run_blocks(x, self._blocks, spans, config.num_attention_heads, config.layer_norm_eps, attend)
        x = layer_norm(x, self._norm.weight, self._norm.bias, config.layer_norm_eps, self._norm.shift)
        eps = resampler.config.layer_norm_eps
        values = layer_norm(resampler.kv_proj(x), resampler.ln_kv.weight, resampler.ln_kv.bias, eps)
        heads = kernels.absorbed_attention(values, keys, self._absorbed, num_keys)
        out = resampler.attn.out_proj(heads)
        normed = layer_norm(out.flatten(0, 1), resampler.ln_post.weight, resampler.ln_post.bias, eps)
        return (normed @ resampler.proj).view(out.shape)

    def _position_rows(self, size: tuple[int, int]) -> Tensor:
        """Position embeddings of a grid with the patch embedding's bias, [rows * columns, Dv]."""
        held = self._rows.get(size)
        if held is None:
            embeddings = self._tower.embeddings
            ids = _send(position_ids(*size, self._tower.config.grid_side), self.device)
            held = embeddings.position_embedding.weight.detach()[ids].float()
            if embeddings.patch_embedding.bias is not None:
                held += embeddings.patch_embedding.bias.detach().float()
            self._rows[size] = held = held.to(self.dtype)
            while len(self._rows) > 64:
                self._rows.popitem(last=False)
        self._rows.move_to_end(size)
        return held

    def _pixels(self, patches: Tensor, slices: list[Slice]) -> Tensor:
        """Bring the slices' patches to the device, flat, in this order."""
        parts = [patches[start:stop].flatten(1) for start, stop in neighbours(slices)]
        if patches.device == self.device:
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        if self._stream is None:
            return torch.cat(parts).to(self.device)
        staged = parts[0]
        if len(parts) > 1 or not staged.is_pinned():
            rows = sum(len(part) for part in parts)
            staged = torch.empty(rows, parts[0].shape[1], dtype=patches.dtype, pin_memory=True)
            for part, place in zip(parts, staged.split([len(part) for part in parts]), strict=True):
                if part.nbytes < _COPIED_BY_ONE and part.dtype is torch.uint8:
                    np.copyto(place.numpy(), part.numpy())  # to wake others takes longer
                else:
                    place.copy_(part)  # by several threads, as cat is not
        with torch.cuda.stream(self._stream):
            pixels = staged.to(self.device, non_blocking=True)
        here = torch.cuda.current_stream(self.device)
        here.wait_stream(self._stream)
        pixels.record_stream(here)
        return pixels

    def _graph(self, sizes: tuple[tuple[int, int], ...], num_keys: tuple[int, ...]) -> _SliceGraph | None:
        """A recording for slices of these grids, at one time or at none: made when they have come before.

        One slice cannot hide its launches, nor can ten on a slow host.
        """
        key = sizes, num_keys
        held = self._graphs.get(key)
        if held is not None:
            return held
        num_patches = sum(rows * columns for rows, columns in sizes)
        needed = _SEEN if len(sizes) == 1 else _SEEN_TOGETHER
        if len(sizes) > 1 and (num_patches > _PATCHES_RECORDED or self.patches_at_once < _PATCHES_AT_ONCE):
            return None
        if len(self._seen) > 1000:
            self._seen.clear()
        self._seen[key] += 1
        alike = sum((len(other) == 1) == (len(sizes) == 1) for other, _ in self._graphs)
        if self._seen[key] < needed or alike >= _MAX_GRAPHS or torch.cuda.is_current_stream_capturing():
            return None
        slices = [Slice(0, size, -1) for size in sizes]
        columns, rows, moments = _send(places_of(slices, [0] * len(slices)), self.device)
        keys = kernels.Keys(columns, rows, moments, self._no_time.clone())
        positions, width = [self._position_rows(size) for size in sizes], self._tower.config.num_channels
        width *= self._tower.config.patch_size**2
        pixels = torch.zeros(num_patches, width, dtype=torch.uint8, device=self.device)
        spans = spans_of(slices)
        try:
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            graph = _SliceGraph(
                *(pixels, keys, self._pool),
                lambda: self._compute(pixels, positions, keys, list(num_keys), spans, set(spans)),
            )
        except RuntimeError as error:  # a lack of memory too: the pass itself may still fit
            log.warning("encoding %d slices cannot be recorded as a CUDA graph, it runs eagerly: %s", len(sizes), error)
            self._seen[key] = -(1 << 62)
            return None
        self._graphs[key] = graph
        return graph


class _SliceGraph:
    """The recorded encoding of a few slices, with the buffers it reads."""

    def __init__(self, pixels: Tensor, keys: kernels.Keys, pool: Any, run: Callable[[], Tensor]) -> None:
        self._pixels, self._keys = pixels, keys
        self._run = run  # it holds what the recording reads
        self._lock = threading.Lock()  # the buffers are one caller's from filling to copying out
        stream = torch.cuda.Stream(pixels.device)
        stream.wait_stream(torch.cuda.current_stream(pixels.device))
        with torch.cuda.stream(stream):
            for _ in range(2):  # libraries choose and load their kernels outside the recording
                run()
        torch.cuda.current_stream(pixels.device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._out = run()

    def replay(self, pixels: Tensor, time_table: Tensor) -> Tensor:
        with self._lock:
            self._pixels.copy_(pixels)
            self._keys.time_table.copy_(time_table)
            self._graph.replay()
            return self._out.clone()


def _fold(tower: VisionTower) -> tuple[list[kernels.Block], kernels.Norm] | None:
    """Merge q, k, v of every block, and sum up the biases that the residual goes without."""
    shift: Tensor | None = None
    blocks = []
    for block in tower.encoder.layers:
        assert isinstance(block, VisionBlock)
        attn, mlp = block.self_attn, block.mlp
        linears = [attn.q_proj, attn.k_proj, attn.v_proj]
        weight = merge_rows(linears, with_bias=True)
        bias = merge_rows(linears, "bias", with_bias=True)
        rest = (attn.out_proj, mlp.fc1, mlp.fc2)
        if weight is None or bias is None or not all(isinstance(part, Linear) for part in rest):
            return None
        between = _plus(shift, attn.out_proj.bias)
        fc1_weight, fc1_bias, fc2_weight = pad_hidden(mlp.fc1, mlp.fc2, 64)
        blocks.append(
            kernels.Block(
                _norm(block.layer_norm1, shift),
                weight,
                bias,
                attn.out_proj.weight.detach(),
                _norm(block.layer_norm2, between),
                fc1_weight,
                fc1_bias,
                fc2_weight,
            )
        )
        shift = _plus(between, mlp.fc2.bias)
    return blocks, _norm(tower.post_layernorm, shift)


def _plus(shift: Tensor | None, bias: Tensor) -> Tensor:
    return bias.detach().float() if shift is None else shift + bias.detach().float()


def _norm(norm: nn.LayerNorm, shift: Tensor | None) -> kernels.Norm:
    return kernels.Norm(norm.weight.detach(), norm.bias.detach(), shift)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of equal slices, q, k, v [N, L, H, D]: [N, L, H * D]."""
    scale = q.shape[-1] ** -0.5
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    with preferred(q, True):
        out = F.scaled_dot_product_attention(q, k, v, scale=scale)
    return out.transpose(1, 2).flatten(2)


def _attend_any(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same by FlashAttention, which needs no preparation for a shape."""
    length, scale = q.shape[1], q.shape[-1] ** -0.5
    out = torch.ops.aten._flash_attention_forward(q, k, v, None, None, length, length, 0.0, False, False, scale=scale)[
        0
    ]
    return out.flatten(2)


def _send(x: Tensor, device: torch.device) -> Tensor:
    """To the device without waiting for what it computes."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def _patches_at_once(device: torch.device) -> int:
    if device.type == "cuda" and torch.cuda.get_device_properties(device).total_memory < _SMALL_CARD_BYTES:
        return _PATCHES_ON_SMALL_CARDS
    return _PATCHES_AT_ONCE
