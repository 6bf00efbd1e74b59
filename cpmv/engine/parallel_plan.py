"""A step's plan as integers, and the requests that other ranks see in it: nothing but what a runner reads.

Every plan says all it needs, so a rank that follows keeps no record of requests and cannot fall out of step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, cast, overload

from .request import Request
from .scheduler import Work


class Order(IntEnum):
    """What rank 0 tells the others to do; the words that follow are the order's own."""

    BEGIN = 0  # a runner: number, blocks, block size, most rows, deterministic
    STEP = 1  # number, works
    READ_ON = 2  # the same, after the tokens that follow
    REFRESH = 3  # number
    END = 4  # number
    STOP = 5


class Window(Sequence[int]):
    """The tokens [start, start + n) of a request, at the places they have in it."""

    def __init__(self, start: int, tokens: list[int]) -> None:
        self._start, self._tokens = start, tokens

    def __len__(self) -> int:
        return self._start + len(self._tokens)

    @overload
    def __getitem__(self, at: int) -> int: ...

    @overload
    def __getitem__(self, at: slice) -> list[int]: ...

    def __getitem__(self, at: int | slice) -> int | list[int]:
        if isinstance(at, int):
            return self._tokens[at - self._start]
        assert at.start >= self._start and at.step is None
        return self._tokens[at.start - self._start : at.stop - self._start]


@dataclass
class _Media:
    bounds: list[tuple[int, int]]


@dataclass
class _Timing:
    num_preemptions: int


@dataclass(eq=False)
class Shadow:
    """A request as a rank that follows knows it. media.bounds: not empty where this step has pictures."""

    id: int
    tokens: Window
    num_prompt: int
    blocks: list[int]
    media: _Media
    timing: _Timing
    features: dict[int, Any] = field(default_factory=dict)


def has_pictures(work: Work) -> bool:
    """Whether a work computes tokens of pictures."""
    return bool(work.request.media.overlapping(work.start, work.start + work.count))


def to_words(works: Sequence[Work]) -> list[int]:
    """Write down works."""
    words = [len(works)]
    for work in works:
        request = work.request
        tokens = request.tokens[work.start : work.start + work.count]
        words += (request.id, request.timing.num_preemptions, request.num_prompt, work.start, work.count, len(tokens))
        words += (work.decides, has_pictures(work), len(work.drafts), len(request.blocks))
        words += tokens
        words += work.drafts
        words += request.blocks
    return words


def to_works(words: Iterator[int]) -> list[Work]:
    """Read works."""

    def some(count: int) -> list[int]:
        return [next(words) for _ in range(count)]

    works: list[Work] = []
    for _ in range(next(words)):
        number, preemptions, num_prompt, start, count, num_tokens = some(6)
        decides, pictures, num_drafts, num_blocks = some(4)
        tokens, drafts, blocks = some(num_tokens), some(num_drafts), some(num_blocks)
        media = _Media([(0, 0)] if pictures else [])
        shadow = Shadow(number, Window(start, tokens), num_prompt, blocks, media, _Timing(preemptions))
        works.append(Work(cast(Request, shadow), start, count, bool(decides), drafts))
    return works
