"""Tensor parallelism: one engine on rank 0, whose runner has every step computed by all ranks together.

Rank 0 schedules, encodes pictures, samples and talks to callers. Before each step it tells the others the plan
(`parallel_plan`); all then run the same `Runner` over their own heads (`parallel_split`), with one sum behind every
attention and every MLP (`parallel_link`). Rank 0 starts the others and ends them (`parallel_group`).
"""

from __future__ import annotations

import itertools
import logging
import signal
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from ..inputs.text import Tokenizer
from .engine import Engine
from .graphs import DecodeGraphs
from .image_cache import ImageCache, encode
from .parallel_fused import fuse_part
from .parallel_link import Link, ParallelError, SplitMiniCPMV, join, leave
from .parallel_plan import Order, has_pictures, to_words, to_works
from .resident import resident_decoder
from .runner import Runner, Scores
from .scheduler import Work

log = logging.getLogger("cpmv")

_T = TypeVar("_T")


class ParallelRunner(Runner):
    """A runner whose decoder is a rank's part; with its own methods alone it is what the other ranks run.

    Takes over a runner of the split network, its pool included.
    """

    _network: SplitMiniCPMV

    def __init__(self, runner: Runner, link: Link) -> None:
        vars(self).update(vars(runner))
        self._link = link
        self.refresh()

    def refresh(self) -> None:
        """Read the network's weights again; recorded steps have their collectives inside."""
        leave(self._network.llm)
        self._decoder = resident_decoder(self._network)
        self._cpu_step = None  # it sums nothing
        self.graphs = self.chunks = None
        if self._device.type == "cuda" and not self._deterministic:
            fused = fuse_part(self._decoder, self._pool, self._link)
            self.graphs = DecodeGraphs(self._network, self._decoder, self._pool, self._max_batch, fused=fused)
        join(self._decoder, self._link)

    def _see(self, works: Sequence[Work]) -> None:
        if self._link.rank == 0:  # the others are given the rows
            super()._see(works)

    def _place_pictures(self, work: Work, x: Tensor) -> None:
        if not has_pictures(work) if self._link.rank == 0 else not work.request.media.bounds:
            return
        if self._link.rank == 0:
            super()._place_pictures(work, x)
        self._link.give(x)


class Others(Protocol):
    """The processes of the other ranks, as rank 0 sees them."""

    link: Link
    retired: deque[int]  # numbers of runners that nobody needs any more

    @property
    def failure(self) -> str | None:
        """Why they do not work any more, in a line."""
        ...

    def fail(self, reason: str) -> str:
        """End them all; return the first reason that was given."""
        ...


class LeadingRunner(ParallelRunner):
    """Rank 0's runner: tells the others what to compute before it computes that itself.

    lock: held while ranks talk, across all engines of the network. Whatever fails between the plan and the end of a
    step leaves ranks at different places, so it ends them: ParallelError.
    """

    def __init__(self, runner: Runner, others: Others, number: int, lock: threading.RLock) -> None:
        self._others, self._number, self._talk = others, number, lock
        self._is_ready = False
        super().__init__(runner, others.link)
        self._is_ready = True

    @torch.inference_mode()
    def forward(self, works: Sequence[Work]) -> Scores:
        for work in works:  # what may fail here fails before anyone else has begun
            if has_pictures(work):
                self._encode(work)
        compute = super().forward
        return self._together(Order.STEP, works, lambda: compute(works))

    @torch.inference_mode()
    def read_on(self, works: Sequence[Work], tokens: Tensor) -> Scores | None:
        if self.graphs is None:
            return None
        compute = super().read_on

        def run() -> Scores | None:
            self._link.give(tokens)
            return compute(works, tokens)

        return self._together(Order.READ_ON, works, run)

    def refresh(self) -> None:
        if self._is_ready:
            self._together(Order.REFRESH, [], super().refresh)
        else:
            super().refresh()

    def _encode(self, work: Work) -> None:
        request = work.request
        groups = request.media.overlapping(work.start, work.start + work.count)
        missing = [group for group in groups if group not in request.features]
        alone = self._deterministic
        request.features.update(encode(self._network, self._images, request.media, missing, one_by_one=alone))

    def _together(self, order: Order, works: Sequence[Work], compute: Callable[[], _T]) -> _T:
        with self._talk, uninterrupted():
            check(self._others)
            try:
                retire(self._others)
                words = [order, self._number]
                self._link.tell(words if order is Order.REFRESH else words + to_words(works))
                return compute()
            except BaseException as error:
                raise ParallelError(self._others.fail(f"a step failed on rank 0 ({error})")) from error


def check(others: Others) -> None:
    """Raise ParallelError when the others do not work any more."""
    if others.failure is not None:
        raise ParallelError(others.failure)


def retire(others: Others) -> None:
    """Let the others free the memory of runners that are gone here; between steps."""
    while others.retired:
        others.link.tell([Order.END, others.retired.popleft()])


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait for the end of a step: ranks must not part in the middle of one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 2:  # someone insists, as when another rank hangs
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if not callable(before):
        yield
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        before(came[0], None)


_numbers = itertools.count()


class ParallelEngine(Engine):
    """An engine over several ranks. network: rank 0's part; options: as `Engine` takes them."""

    def __init__(
        self, network: SplitMiniCPMV, tokenizer: Tokenizer, others: Others, lock: threading.RLock, **options: Any
    ) -> None:
        check(others)
        super().__init__(network, tokenizer, **options)
        number, link = next(_numbers), others.link
        size, deterministic = self._pool.block_size, self._runner._deterministic
        begin = [Order.BEGIN, number, self._pool.num_blocks, size, self._runner._max_batch, int(deterministic)]
        with lock:
            check(others)
            retire(others)
            link.tell(begin)
        self._others, self._lock_of_ranks = others, lock
        self._runner = LeadingRunner(self._runner, others, number, lock)
        # Only noted: it may be collected in the middle of another engine's step.
        self._end = weakref.finalize(self, others.retired.append, number)

    def add(self, *args: Any, **options: Any) -> Any:
        """As Engine.add. Raises ParallelError when a rank is gone."""
        check(self._others)
        return super().add(*args, **options)

    def close(self, drain_s: float = 0.0) -> None:
        super().close(drain_s)
        self._end()
        with self._lock_of_ranks:
            if self._others.failure is None:
                retire(self._others)


def follow(network: SplitMiniCPMV, link: Link) -> None:
    """Do what rank 0 tells, until it says stop."""
    runners: dict[int, ParallelRunner] = {}
    while True:
        words = iter(link.hear())
        order = next(words)
        if order == Order.STOP:
            return
        number = next(words)
        if order == Order.BEGIN:
            num_blocks, block_size, max_batch, deterministic = words
            runner = Runner(
                *(network, num_blocks, block_size, ImageCache(0)),
                max_batch=max_batch,
                deterministic=bool(deterministic),
            )
            runners[number] = ParallelRunner(runner, link)
        elif order == Order.END:
            del runners[number]
        elif order == Order.REFRESH:
            runners[number].refresh()
        else:
            _step(runners[number], Order(order), to_works(words), link)


def _step(runner: ParallelRunner, order: Order, works: list[Work], link: Link) -> None:
    if order is Order.STEP:
        runner.forward(works)
        return
    tokens = torch.empty(len(works), dtype=torch.int64, device=link.device)
    link.give(tokens)
    runner.read_on(works, tokens)
