"""What all frames of a clip share: paper, language, sizes, and how frames are timed and packaged.

Packages hold 1 to 6 frames, whose size is drawn for each clip; times are tenths of a second from a random start, with a
random step and jitter. Half of the clips in packages of one frame have no times: their id is -1, as a picture's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .document import Document, Sheet, Turn
from .figures import Figure, draw_pair, draw_paper, figure_marks, visible_colours
from .scenes import draw_language, wording
from .wordings import EVENTS

if TYPE_CHECKING:
    from .documents import Maker

_PACKING = (0.1, 0.08, 0.27, 0.09, 0.09, 0.37)  # shares of packages of 1 to 6 frames
_TIMELESS = 0.5  # share of clips in packages of one frame that have no times
_LAST_START = 600  # tenths of a second
Frames = list[Sheet]


class Stage:
    """What all frames of a clip share."""

    def __init__(self, maker: Maker, rng: np.random.Generator, width: int, height: int) -> None:
        self.maker, self.rng, self.width, self.height = maker, rng, width, height
        self.paper = draw_paper(rng)
        self.language = draw_language(rng)
        self.radius = min(width, height) * float(rng.uniform(0.1, 0.15))

    def between(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def pairs(self, count: int) -> list[tuple[str, str]]:
        """Colours, all different, with a shape each."""
        colours = [str(c) for c in self.rng.permutation(visible_colours(self.paper))[:count]]
        return [draw_pair(self.rng, [colour], self.maker.held_out) for colour in colours]

    def figure(self, pair: tuple[str, str], x: float, y: float) -> Figure:
        return Figure(pair[1], pair[0], x, y, self.radius)

    def sheet(self, figures: Sequence[Figure]) -> Sheet:
        marks = [mark for figure in figures for mark in figure_marks(figure, self.paper)]
        return Sheet(self.width, self.height, self.paper, marks)

    def places(self, count: int) -> list[tuple[float, float]]:
        """Well apart: cells of a 3 x 2 or 2 x 3 layout, in random order, a little off their middles."""
        columns, rows = (3, 2) if self.width >= self.height else (2, 3)
        cells = self.rng.permutation(columns * rows)[:count]
        jitter = self.rng.uniform(-0.06, 0.06, (count, 2))
        return [
            ((c % columns + 0.5 + a) * self.width / columns, (c // columns + 0.5 + b) * self.height / rows)
            for c, (a, b) in zip(cells, jitter, strict=True)
        ]

    def point(self) -> tuple[float, float]:
        """Anywhere a figure fits."""
        r = self.radius + 1
        return float(self.rng.uniform(r, self.width - r)), float(self.rng.uniform(r, self.height - r))

    def packages(self, count: int, size: int) -> list[list[int]]:
        """Times of `count` frames in packages of `size`."""
        rng = self.rng
        step = max(1, round(20.0 ** float(rng.random())))
        # A quarter begin near the clip's own start, the others anywhere in it.
        start = int(rng.random() * (30 if rng.random() < 0.25 else _LAST_START)) + 1
        jitter = rng.integers(-1, 2, count) * (step > 3)
        times = [start + i * step + int(j) for i, j in enumerate(jitter)]
        if size == 1 and rng.random() < _TIMELESS:
            times = [-1] * count
        return [times[i : i + size] for i in range(0, count, size)]

    def clip(self, task: str, frames: Frames, answer: str, *values: str, trace: str = "", **meta: object) -> Document:
        """The document, packaged and timed. values fill the question's slots."""
        rng = self.rng
        groups = self.packages(len(frames), 1 + int(rng.choice(6, p=_PACKING)))
        question = wording(rng, EVENTS, task, self.language).format(*values)
        thinking = trace if trace and rng.random() < 0.5 else ""
        turn = Turn(question, answer, len(frames), thinking)
        return Document(f"clip_{task}", frames, [turn], self.language, groups, dict(meta))
