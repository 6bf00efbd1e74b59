"""Tensors for a step: a plan of `Work` in, logits out. Which work that is was decided by the scheduler.

Everything that runs in a step lies in one packed row, newest tokens of decoding rows and chunks of prompts alike, so
that every weight is read once. Only attention sees sequences: rows with equally many new tokens and similar lengths
are gathered from the block pool together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..model.attention import Paged, PagedGroup
from ..model.cache import PagedCache, PagedPool
from ..model.minicpmv import MiniCPMV
from .chunk_graphs import ChunkGraphs, Newest
from .cpu_step import MOST_ROWS, CPUStep
from .fused import fuse
from .graphs import DecodeGraphs
from .image_cache import ImageCache, encode, encode_together
from .request import Request
from .resident import resident_decoder
from .scheduler import Work

# Rows whose lengths differ by more than this factor (and some tokens) are gathered apart: padding costs as keys do.
_LENGTH_FACTOR, _LENGTH_SLACK = 2, 64


class Scores(NamedTuple):
    """What a step computed: float32 logits [R, V], and the likeliest tokens [R] where they came along for free."""

    logits: Tensor
    likeliest: Tensor | None = None


@dataclass(frozen=True)
class Layout:
    """Where each work's tokens lie in the packed row: works in this order, beginning at these places."""

    works: list[Work]
    firsts: list[int]
    groups: list[tuple[int, int]]  # half-open ranges of `works` that attend together
    num_tokens: int


def lay_out(works: Sequence[Work]) -> Layout:
    """Order works so that those which can attend together are neighbours."""
    ordered = sorted(works, key=lambda work: (work.num_tokens, work.start))
    groups: list[tuple[int, int]] = []
    for at, work in enumerate(ordered):
        if groups:
            first = ordered[groups[-1][0]]
            near = work.start <= _LENGTH_FACTOR * first.start + _LENGTH_SLACK
            # Chunks of prompts are large enough to go alone; a group of them would pad and mask for nothing.
            if near and work.num_tokens == first.num_tokens and work.decides and work.count == 1 == first.count:
                groups[-1] = (groups[-1][0], at + 1)
                continue
        groups.append((at, at + 1))
    firsts, num_tokens = [], 0
    for work in ordered:
        firsts.append(num_tokens)
        num_tokens += work.num_tokens
    return Layout(ordered, firsts, groups, num_tokens)


class Runner:
    """The network over a paged pool. deterministic: every row, and every picture, in a pass of its own.

    On CUDA, steps that only decode, and short ones that read prompts, are replayed from graphs (`graphs`,
    `chunk_graphs`); all else runs eagerly.
    """

    def __init__(
        self,
        network: MiniCPMV,
        num_blocks: int,
        block_size: int,
        image_cache: ImageCache,
        *,
        max_batch: int,
        deterministic: bool = False,
    ) -> None:
        self._network, self._device = network, network.device
        self._block_size = block_size
        # One block more than anyone is told of: where padded rows of recorded steps write.
        self._pool = PagedPool(network.cache_spec(), num_blocks + 1, block_size, network.device)
        self._max_batch = max_batch
        self._images = image_cache
        self._deterministic = deterministic
        self.refresh()

    def refresh(self) -> None:
        """Read the network's weights again."""
        self._decoder = resident_decoder(self._network)
        on_cpu = self._device.type == "cpu" and not self._deterministic
        self._cpu_step = CPUStep.of(self._decoder, self._pool) if on_cpu else None
        self.graphs: DecodeGraphs | None = None
        self.chunks: ChunkGraphs | None = None
        if self._device.type == "cuda" and not self._deterministic:
            fused = fuse(self._decoder, self._pool)
            self.graphs = DecodeGraphs(self._network, self._decoder, self._pool, self._max_batch, fused=fused)
            self.chunks = ChunkGraphs.of(self._decoder, self._pool)

    @torch.inference_mode()
    def forward(self, works: Sequence[Work]) -> Scores:
        """Compute all works; return the scores of the deciding ones in order, 1 + drafts rows each."""
        if self._deterministic:
            return Scores(torch.cat([self._pass([work]) for work in works]))
        recorded = self.graphs.step(works) if self.graphs is not None else None
        return Scores(self._pass(works)) if recorded is None else Scores(*recorded)

    @torch.inference_mode()
    def read_on(self, works: Sequence[Work], tokens: Tensor) -> Scores | None:
        """Compute one more token a row, after `tokens` [B] of the step before, which may still be computing.

        Only where that is a recorded step; else None, with nothing done.
        """
        if self.graphs is None:
            return None
        recorded = self.graphs.step(works, tokens)
        return None if recorded is None else Scores(*recorded)

    def _pass(self, works: Sequence[Work]) -> Tensor:
        layout = lay_out(works)
        x = self._embed(layout)
        wanted = _deciding_rows(works, layout)
        places, held = _positions(layout), _slots(layout, self._block_size)
        if self.chunks is not None:
            recorded = self.chunks.step(x, places, held, _newest(layout, self._block_size), wanted)
            if recorded is not None:
                return recorded
        positions = torch.tensor(places, dtype=torch.int64).to(self._device, non_blocking=True)
        slots = torch.tensor(held, dtype=torch.int64).to(self._device, non_blocking=True)
        groups = tuple(self._group(layout, start, stop) for start, stop in layout.groups)
        decoder = self._decoder
        rows = None  # all, in their order
        if len(wanted) < layout.num_tokens or wanted != list(range(len(wanted))):
            rows = torch.tensor(wanted, dtype=torch.int64).to(self._device, non_blocking=True)
        if self._cpu_step is not None and layout.num_tokens <= MOST_ROWS:
            hidden = self._cpu_step.run(x, positions, groups, slots)
            hidden = hidden if rows is None else hidden[rows]
        else:
            cache = PagedCache(self._pool, slots)
            hidden = decoder.model(x[None], positions[None], Paged(groups), cache, rows)[0]
        return decoder.head(hidden).float()

    def _embed(self, layout: Layout) -> Tensor:
        """Return the packed row's embeddings [N, E], pictures in their places."""
        ids: list[int] = []
        for work in layout.works:
            ids += work.request.tokens[work.start : work.start + work.count]
            ids += work.drafts
        x = self._network.embed_tokens(torch.tensor(ids, dtype=torch.int64).to(self._device, non_blocking=True))
        self._see(layout.works)
        for work, first in zip(layout.works, layout.firsts, strict=True):
            if work.start < work.request.num_prompt and work.request.media.bounds:
                self._place_pictures(work, x[first : first + work.count])
        return x

    def _see(self, works: Sequence[Work]) -> None:
        """Have the features of all pictures whose tokens these works read."""
        wanted: list[tuple[Request, list[int]]] = []
        for work in works:
            request = work.request
            if work.start < request.num_prompt and request.media.bounds:
                groups = request.media.overlapping(work.start, work.start + work.count)
                wanted.append((request, [group for group in groups if group not in request.features]))
        if len(wanted) > 1 and not self._deterministic:
            found = encode_together(self._network, self._images, [(one.media, groups) for one, groups in wanted])
        else:
            alone = self._deterministic
            found = [encode(self._network, self._images, one.media, groups, one_by_one=alone) for one, groups in wanted]
        for (request, _), new in zip(wanted, found, strict=True):
            request.features.update(new)

    def _place_pictures(self, work: Work, x: Tensor) -> None:
        """Write the pictures' tokens over their placeholders in x [count, E], the embeddings of one work."""
        request, start, end = work.request, work.start, work.start + work.count
        for group in request.media.overlapping(start, end):
            first, last = request.media.bounds[group]
            low, high = max(first, start), min(last, end)
            x[low - start : high - start] = request.features[group][low - first : high - first]
            if last <= end:
                del request.features[group]

    def _group(self, layout: Layout, start: int, stop: int) -> PagedGroup:
        works = layout.works[start:stop]
        num_queries = works[0].num_tokens
        num_keys = max(work.start for work in works) + num_queries
        num_blocks = -(-num_keys // self._block_size)
        blocks: list[int] = []
        for work in works:
            held = work.request.blocks[:num_blocks]
            blocks += held
            blocks += [0] * (num_blocks - len(held))
        table = torch.tensor(blocks, dtype=torch.int64).to(self._device, non_blocking=True)
        mask = None
        if len(works) > 1:
            past = torch.tensor([work.start for work in works]).to(self._device, non_blocking=True)
            last_seen = past[:, None] + torch.arange(num_queries, device=self._device)  # [n, queries]
            mask = (torch.arange(num_keys, device=self._device) <= last_seen[..., None])[:, None]
        return PagedGroup(layout.firsts[start], len(works), num_queries, table, num_keys, mask)


def _positions(layout: Layout) -> list[int]:
    positions: list[int] = []
    for work in layout.works:
        positions += range(work.start, work.start + work.num_tokens)
    return positions


def _slots(layout: Layout, block_size: int) -> list[int]:
    """Where in the pool each token's key and value go."""
    slots: list[int] = []
    for work in layout.works:
        blocks = work.request.blocks
        for position in range(work.start, work.start + work.num_tokens):
            slots.append(blocks[position // block_size] * block_size + position % block_size)
    return slots


def _newest(layout: Layout, block_size: int) -> list[Newest]:
    """Each work's tokens, keys and blocks."""
    found = []
    for work in layout.works:
        num_keys = work.start + work.num_tokens
        found.append(Newest(work.num_tokens, num_keys, work.request.blocks[: -(-num_keys // block_size)]))
    return found


def _deciding_rows(works: Sequence[Work], layout: Layout) -> list[int]:
    """The packed row's places whose logits are asked for, in the order of the works."""
    place: dict[Request, int] = {w.request: first for w, first in zip(layout.works, layout.firsts, strict=True)}
    rows: list[int] = []
    for work in works:
        if work.decides:
            last = place[work.request] + work.count - 1
            rows += range(last, last + 1 + len(work.drafts))
    return rows
