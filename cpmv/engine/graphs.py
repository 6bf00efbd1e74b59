"""Decoding steps recorded once and replayed: one CUDA graph for each bucket of rows and of keys.

A step that only decodes looks the same every time but for a few integers: token ids, positions, slots, lengths and
block tables. They go to the device in one copy into a buffer that the graph reads; the likeliest token of every row
comes out of the graph as well. Rows that a bucket has too many compute in a scratch block that nobody owns.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..model.attention import Paged, PagedGroup
from ..model.cache import PagedCache, PagedPool
from ..model.language import LanguageModel
from ..model.minicpmv import MiniCPMV
from .scheduler import Work

log = logging.getLogger("cpmv")

# Rows are padded to the next of these (then to multiples of the last), keys to the next power of two of blocks.
_ROW_BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64)
_LEAST_BLOCKS = 4
# A recorded step holds its own intermediate results; more buckets than this are not kept.
_MAX_GRAPHS = 64

Capture = Callable[[Callable[[], None]], Callable[[], None]]


def record_cuda_graph(run: Callable[[], None]) -> Callable[[], None]:
    """Record what `run` launches; return what launches it again."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):  # libraries choose and load their kernels outside the recording
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
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
    ) -> None:
        self.num_rows, self.num_blocks = num_rows, num_blocks
        block_size, device = pool.keys[0].shape[1], network.device
        self._scratch = pool.keys[0].shape[0] - 1
        self._block_size = block_size
        # ids, positions, slots, keys before: [rows] each; then the tables: [rows * blocks]
        size = num_rows * (4 + num_blocks)
        self._host = torch.zeros(size, dtype=torch.int64, pin_memory=device.type == "cuda")
        self._buffer = torch.zeros(size, dtype=torch.int64, device=device)
        self.fill([])
        ids, positions, slots, past = self._buffer[: 4 * num_rows].view(4, num_rows)
        table = self._buffer[4 * num_rows :]
        num_keys = num_blocks * block_size
        places = torch.arange(num_keys, device=device)
        vocab_size = network.config.language.vocab_size
        self.logits = torch.zeros(num_rows, vocab_size, device=device)
        self.likeliest = torch.zeros(num_rows, dtype=torch.int64, device=device)

        def run() -> None:
            mask = (places <= past[:, None])[:, None, None]  # [rows, 1, 1, keys]
            group = PagedGroup(0, num_rows, 1, table, num_keys, mask)
            x = network.embed_tokens(ids)[None]
            hidden = decoder.model(x, positions[None], Paged((group,)), PagedCache(pool, slots))[0]
            self.logits.copy_(decoder.head(hidden))
            torch.argmax(self.logits, -1, out=self.likeliest)

        self._replay = capture(run)

    def fill(self, works: Sequence[Work]) -> None:
        """Send the step's integers to the device."""
        rows, size, free = self.num_rows, self._block_size, self.num_rows - len(works)
        starts = [work.start for work in works]
        ids = [work.request.tokens[work.start] for work in works]
        slots = [work.request.blocks[work.start // size] * size + work.start % size for work in works]
        idle = [self._scratch * size] * free  # idle rows overwrite each other there
        numbers = ids + [0] * free + starts + [0] * free + slots + idle + starts + [0] * free
        for work in works:
            held = work.request.blocks[: self.num_blocks]
            numbers += held
            numbers += [self._scratch] * (self.num_blocks - len(held))
        numbers += [self._scratch] * (free * self.num_blocks)
        assert len(numbers) == rows * (4 + self.num_blocks)
        self._host.copy_(torch.tensor(numbers, dtype=torch.int64))
        self._buffer.copy_(self._host, non_blocking=True)

    def step(self, works: Sequence[Work]) -> tuple[Tensor, Tensor]:
        """Return float32 logits [B, V] and likeliest tokens [B], valid until the next step."""
        self.fill(works)
        self._replay()
        return self.logits[: len(works)], self.likeliest[: len(works)]


class DecodeGraphs:
    """The buckets recorded so far. The pool's last block is the scratch block.

    capture: how to record; by default a CUDA graph.
    """

    def __init__(
        self,
        network: MiniCPMV,
        decoder: LanguageModel,
        pool: PagedPool,
        max_rows: int,
        capture: Capture = record_cuda_graph,
    ) -> None:
        self._network, self._decoder, self._pool = network, decoder, pool
        self._max_rows, self._capture = max_rows, capture
        self._graphs: dict[tuple[int, int], DecodeGraph] = {}
        self._failed = False

    def __len__(self) -> int:
        return len(self._graphs)

    def step(self, works: Sequence[Work]) -> tuple[Tensor, Tensor] | None:
        """Run a step that only decodes; None where that must be done eagerly."""
        if self._failed or any(
            work.count != 1 or work.drafts or work.start < work.request.num_prompt for work in works
        ):
            return None
        block_size = self._pool.keys[0].shape[1]
        longest = max(work.start for work in works) + 1
        num_blocks = max(_LEAST_BLOCKS, 1 << (-(-longest // block_size) - 1).bit_length())
        key = (row_bucket(len(works), self._max_rows), num_blocks)
        graph = self._graphs.get(key)
        if graph is None:
            graph = self._record(*key)
        return None if graph is None else graph.step(works)

    def _record(self, num_rows: int, num_blocks: int) -> DecodeGraph | None:
        if len(self._graphs) >= _MAX_GRAPHS:
            return None
        try:
            graph = DecodeGraph(self._network, self._decoder, self._pool, num_rows, num_blocks, self._capture)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._failed = True
            log.warning("decoding steps cannot be recorded as CUDA graphs and run eagerly, slower: %s", error)
            return None
        log.info("recorded a decoding step of %d rows and %d blocks", num_rows, num_blocks)
        self._graphs[num_rows, num_blocks] = graph
        return graph


def row_bucket(num_rows: int, max_rows: int) -> int:
    """The least bucket that holds so many rows; never more than the most there can be."""
    for bucket in _ROW_BUCKETS:
        if bucket >= num_rows:
            return min(bucket, max_rows)
    last = _ROW_BUCKETS[-1]
    return min(-(-num_rows // last) * last, max_rows)
