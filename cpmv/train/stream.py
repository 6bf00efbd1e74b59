"""The samples of each step, as tensors: a pure function of the step's number, prepared one step ahead on a thread.

A sample whose pixels turn out to be unreadable is named, counted and left out of its step; the loss is divided by what
is there. Videos may be shown at rates and packings that are drawn anew each time, as the model's own training did.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import random
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from ..errors import CpmvError
from ..inputs.messages import Message, Part, Video
from ..model.config import ModelInputs
from .formats import Source
from .mixture import Mixture
from .records import Problem, Record
from .samples import problem_of

log = logging.getLogger("cpmv")
T = TypeVar("T")

PACKINGS, PACKING_WEIGHTS = (1, 2, 3, 4, 5, 6), (0.15, 0.1, 0.25, 0.1, 0.1, 0.3)
FPS_RANGE = (0.5, 10.0)  # frames a second, drawn evenly in the logarithm
_MAX_OFFSET = 600  # a clip's times may begin up to a minute later, in 0.1 s


class SampleStream(Generic[T]):
    """`stream(step)` gives what `read` makes of the step's records.

    read: (index of the record, record, a generator of its own) -> T; CpmvError means the sample is bad. With `strict` a
    bad sample ends the run.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        mixture: Mixture,
        read: Callable[[int, Record, random.Random], T],
        *,
        strict: bool = False,
    ) -> None:
        self.items = [(source, record) for source in sources for record in source.records]
        self.mixture, self.read, self.strict = mixture, read, strict
        self._known_bad: set[tuple[str, int]] = set()
        self._pool: ThreadPoolExecutor | None = None
        self._next: tuple[int, Future[list[T]]] | None = None

    def __call__(self, step: int) -> list[T]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "samples")
        ahead, self._next = self._next, None
        current = ahead[1].result() if ahead is not None and ahead[0] == step else self._make(step)
        self._next = (step + 1, self._pool.submit(self._make, step + 1))
        return current

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = self._next = None

    def _make(self, step: int) -> list[T]:
        out = []
        for position in self.mixture.positions(step):
            index = self.mixture.index(position)
            source, record = self.items[index]
            rng = random.Random(self.mixture.seed * 1_000_003 + position)
            try:
                out.append(self.read(index, record, rng))
            except CpmvError as error:
                self._note(source, problem_of(source, record, error))
        return out

    def _note(self, source: Source, problem: Problem) -> None:
        if self.strict:
            raise CpmvError(f"{problem} (--strict was given)")
        key = (str(problem.file), problem.line)
        if key not in self._known_bad:
            self._known_bad.add(key)
            source.problems.append(problem)
            log.warning("left out: %s", problem)


def with_drawn_rates(messages: list[Message], rng: random.Random) -> list[Message]:
    """Draw rate and packing of every clip that does not fix them itself."""

    def drawn(part: Part) -> Part:
        if not isinstance(part, Video):
            return part
        low, high = (math.log(rate) for rate in FPS_RANGE)
        fps = math.exp(rng.uniform(low, high)) if part.fps is None else part.fps
        packing = rng.choices(PACKINGS, PACKING_WEIGHTS)[0] if part.packing is None else part.packing
        return dataclasses.replace(part, fps=fps, packing=packing)

    return [dataclasses.replace(m, content=[drawn(part) for part in m.content]) for m in messages]


def slower(messages: list[Message]) -> list[Message] | None:
    """The same with every clip at half its rate and six frames a group, or None when none can be slower."""
    rates = [part.fps for m in messages for part in m.content if isinstance(part, Video) and part.fps is not None]
    if not rates or max(rates) < FPS_RANGE[0] / 8:
        return None

    def halved(part: Part) -> Part:
        if not isinstance(part, Video) or part.fps is None:
            return part
        return dataclasses.replace(part, fps=part.fps / 2, packing=PACKINGS[-1])

    return [dataclasses.replace(m, content=[halved(part) for part in m.content]) for m in messages]


def jitter_times(inputs: ModelInputs, rng: random.Random) -> None:
    """Move the times of frames, in place: each by up to 0.1 s, all by a common offset, order kept, so that absolute
    times are not learnt by heart. Frames that stand alone are shown without a time half of the time, as pictures."""
    timed = [i for i, ids in enumerate(inputs.temporal_ids) if max(ids) >= 0]
    if not timed:
        return
    if all(len(inputs.temporal_ids[i]) == 1 for i in timed) and rng.random() < 0.5:
        for i in timed:
            inputs.temporal_ids[i] = [-1]
        return
    offset, last = rng.randrange(_MAX_OFFSET), 0
    for i in timed:
        moved = []
        for time in inputs.temporal_ids[i]:
            last = max(last, time + offset + rng.choice((-1, 0, 1)))
            moved.append(last)
        inputs.temporal_ids[i] = moved
