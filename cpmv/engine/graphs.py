"""Decoding steps recorded once and replayed: one CUDA graph for each bucket of rows and of keys.

A step that only decodes looks the same every time but for a few integers: token ids, positions, slots, lengths and
block tables. They go to the device in one copy into a buffer that the graph reads; the likeliest token of every row
comes out of the graph as well. Rows that a bucket has too many compute in a scratch block that nobody owns.

A step can be launched while the one before it still computes: its rows then read on from the tokens that come out of
that one, which the host has not seen yet.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..kernels.linear import MAX_ROWS
from ..model.attention import Paged, PagedGroup
from ..model.cache import PagedCache, PagedPool
from ..model.language import LanguageModel
from ..model.minicpmv import MiniCPMV
from .fused import FusedDecoder
from .scheduler import Work

log = logging.getLogger("cpmv")

# Rows are padded to the next of these (then to multiples of the last), keys to the next power of two of blocks.
_ROW_BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64)
_LEAST_BLOCKS = 4
# Fused kernels read no further than a row reaches: a wide table costs them nothing, and spares recordings.
_LEAST_FUSED_BLOCKS = 128
# A recording costs as much time as many steps; where a larger one can stand in, a bucket must be wanted this often.
_STAND_IN_STEPS = 16
# A recorded step holds its own intermediate results; more buckets than this are not kept.
_MAX_GRAPHS = 64

Capture = Callable[[Callable[[], None]], Callable[[], None]]


def record_cuda_graph(run: Callable[[], None], pool: Any = None) -> Callable[[], None]:
    """Record what `run` launches; return what launches it again. pool: of memory, shared with other recordings."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):  # libraries choose and load their kernels outside the recording
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        run()
    return graph.replay


class DecodeGraph:
    """One bucket: `num_rows` rows of at most `num_blocks` blocks each, with its buffers and its recording."""

    def __init__(
        self,
        network: MiniCPMV,
        decoder: LanguageModel,
        pool: PagedPool,
        num_rows: int,
        num_blocks: int,
        capture: Capture,
        fused: FusedDecoder | None = None,
        chosen: Tensor | None = None,
    ) -> None:
        """fused: what computes instead of the decoder. chosen: int64 [rows or more], where the last step's tokens are
        and this one's likeliest go; one tensor for all buckets lets a step read on from a step of another."""
        self.num_rows, self.num_blocks = num_rows, num_blocks
        block_size, device = pool.keys[0].shape[1], network.device
        self._scratch = pool.keys[0].shape[0] - 1
        self._block_size = block_size
        # ids, positions, slots: [rows] each, at places that kernels like; then the tables: [rows * blocks]
        self._stride = stride = num_rows + num_rows % 2
        size = 3 * stride + num_rows * num_blocks
        # Two, because the copy of the step before may still be waiting for its turn.
        pinned = device.type == "cuda"
        self._hosts = [torch.zeros(size, dtype=torch.int64, pin_memory=pinned) for _ in range(2)]
        self._held: list[list[tuple[int, int, int] | None]] = []  # whose blocks lie in each host's tables
        for host in self._hosts:
            host[2 * stride : 3 * stride] = self._scratch * block_size
            host[3 * stride :] = self._scratch
            self._held.append([None] * num_rows)
        self._buffer = torch.zeros(size, dtype=torch.int64, device=device)
        self.fill([])
        ids, positions, slots = self._buffer[: 3 * stride].view(3, stride)[:, :num_rows]
        table = self._buffer[3 * stride :]
        self.logits = torch.zeros(num_rows, network.config.language.vocab_size, device=device)
        if chosen is None:
            chosen = torch.zeros(num_rows, dtype=torch.int64, device=device)
        self.likeliest = chosen[:num_rows]
        num_keys = num_blocks * block_size
        places = torch.arange(num_keys, device=device)

        def run() -> None:
            if fused is not None:
                fused.step(ids, positions, table.view(num_rows, num_blocks), self.logits, self.likeliest)
                return
            mask = (places <= positions[:, None])[:, None, None]  # [rows, 1, 1, keys]
            group = PagedGroup(0, num_rows, 1, table, num_keys, mask)
            x = network.embed_tokens(torch.where(ids < 0, self.likeliest, ids))[None]
            hidden = decoder.model(x, positions[None], Paged((group,)), PagedCache(pool, slots))[0]
            self.logits.copy_(decoder.head(hidden))
            torch.argmax(self.logits, -1, out=self.likeliest)

        if fused is not None and device.type == "cuda":
            fused.compile(num_rows, num_blocks)
        self._replay = capture(run)

    def fill(self, works: Sequence[Work], ahead: bool = False) -> None:
        """Send the step's integers to the device. ahead: ids are taken from the step before, row by row."""
        rows, size, count = self.num_rows, self._block_size, len(works)
        self._hosts.reverse()
        self._held.reverse()
        host, held = self._hosts[0].numpy(), self._held[0]
        starts = [work.start for work in works]
        ids, positions, slots = host[: 3 * self._stride].reshape(3, -1)
        ids[:count] = -1 if ahead else [work.request.tokens[work.start] for work in works]
        positions[:count] = starts
        slots[:count] = [
            work.request.blocks[start // size] * size + start % size for work, start in zip(works, starts, strict=True)
        ]
        ids[count:] = positions[count:] = 0
        slots[count:] = self._scratch * size  # idle rows overwrite each other there
        tables = host[3 * self._stride :].reshape(rows, self.num_blocks)
        for row in range(rows):
            # A row's blocks only grow, unless it has given way and come back.
            owner = None
            if row < count:
                request = works[row].request
                owner = (request.id, request.timing.num_preemptions, len(request.blocks))
            if owner != held[row]:
                held[row] = owner
                tables[row] = self._scratch
                if owner is not None:
                    blocks = request.blocks[: self.num_blocks]
                    tables[row, : len(blocks)] = blocks
        self._buffer.copy_(self._hosts[0], non_blocking=True)

    def step(self, works: Sequence[Work], ahead: bool = False) -> tuple[Tensor, Tensor]:
        """Return float32 logits [B, V] and likeliest tokens [B], valid until the next step; nothing is waited for."""
        self.fill(works, ahead)
        self._replay()
        return self.logits[: len(works)], self.likeliest[: len(works)]


class DecodeGraphs:
    """The buckets recorded so far. The pool's last block is the scratch block.

    capture: how to record; by default a CUDA graph. fused: what computes the steps instead of the decoder.
    """

    def __init__(
        self,
        network: MiniCPMV,
        decoder: LanguageModel,
        pool: PagedPool,
        max_rows: int,
        capture: Capture = record_cuda_graph,
        fused: FusedDecoder | None = None,
    ) -> None:
        self._network, self._decoder, self._pool = network, decoder, pool
        self._max_rows, self._capture, self._fused = max_rows, capture, fused
        self._graphs: dict[tuple[int, int], DecodeGraph] = {}
        self._wanted: Counter[tuple[int, int]] = Counter()
        self._failed = False
        self._chosen = torch.zeros(max_rows, dtype=torch.int64, device=network.device)

    def __len__(self) -> int:
        return len(self._graphs)

    def step(self, works: Sequence[Work], after: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
        """Run a step that only decodes; None where that must be done eagerly.

        after: int64 [B] on the device, the tokens that the rows' last step chose, when they are not known here yet.
        """
        if self._failed or any(
            work.count != 1 or work.drafts or work.start < work.request.num_prompt for work in works
        ):
            return None
        block_size = self._pool.keys[0].shape[1]
        longest = max(work.start for work in works) + 1
        num_rows = row_bucket(len(works), self._max_rows)
        least = _LEAST_FUSED_BLOCKS if self._fused is not None and num_rows <= MAX_ROWS else _LEAST_BLOCKS
        num_blocks = max(least, 1 << (-(-longest // block_size) - 1).bit_length())
        graph = self._find(num_rows, num_blocks)
        if graph is None:
            if after is not None:
                return None  # there is time for a recording once nothing computes
            graph = self._record(num_rows, num_blocks)
        if graph is not None and after is not None and after.data_ptr() != self._chosen.data_ptr():
            self._chosen[: after.shape[0]] = after
        return None if graph is None else graph.step(works, after is not None)

    def _find(self, num_rows: int, num_blocks: int) -> DecodeGraph | None:
        """The bucket's recording, or for its first steps a larger one."""
        key = num_rows, num_blocks
        if key in self._graphs:
            return self._graphs[key]
        self._wanted[key] += 1
        larger = [(rows, blocks) for rows, blocks in self._graphs if rows >= num_rows and blocks >= num_blocks]
        is_rare = self._wanted[key] < _STAND_IN_STEPS or len(self._graphs) >= _MAX_GRAPHS
        return self._graphs[min(larger)] if larger and is_rare else None

    def _record(self, num_rows: int, num_blocks: int) -> DecodeGraph | None:
        if len(self._graphs) >= _MAX_GRAPHS:
            return None
        # Eager fallbacks: the kernels' first, then everything's.
        for fused in (self._fused, None) if self._fused is not None else (None,):
            try:
                graph = DecodeGraph(
                    *(self._network, self._decoder, self._pool, num_rows, num_blocks, self._capture),
                    *(self._fused if fused is not None and num_rows <= MAX_ROWS else None, self._chosen),
                )
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                if fused is not None:
                    self._fused = None
                    log.warning("the fused decoding kernels failed; decoding uses plain torch, slower: %s", error)
                    continue
                if not isinstance(error, RuntimeError):
                    raise
                self._failed = True
                log.warning("decoding steps cannot be recorded as CUDA graphs and run eagerly, slower: %s", error)
                return None
            log.info("recorded a decoding step of %d rows and %d blocks", num_rows, num_blocks)
            self._graphs[num_rows, num_blocks] = graph
            return graph
        return None


def row_bucket(num_rows: int, max_rows: int) -> int:
    """The least bucket that holds so many rows; never more than the most there can be."""
    for bucket in _ROW_BUCKETS:
        if bucket >= num_rows:
            return min(bucket, max_rows)
    last = _ROW_BUCKETS[-1]
    return min(-(-num_rows // last) * last, max_rows)
