"""The nouns of a page: boxes, lines, blocks, the layout they make; and runs of set pixels, from which boxes come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from .ink import Mask


@dataclass(frozen=True)
class Box:
    """Pixels left <= x < right, top <= y < bottom."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top


@dataclass(frozen=True)
class Line:
    """One line of writing. bullet: a mark before it was cut off. core: height of small letters (or Han), px.

    weight: the usual width of a stroke, px; half as much again in bold.
    """

    box: Box
    bullet: bool = False
    core: float = 0.0
    weight: float = 0.0


@dataclass
class Block:
    """Lines that belong together. kind: "text", "table" (rows of cells, each a list of lines) or "picture"."""

    kind: str
    box: Box
    lines: list[Line] = field(default_factory=list)
    rows: list[list[list[Line]]] = field(default_factory=list)

    def all_lines(self) -> Iterator[Line]:
        yield from self.lines
        for row in self.rows:
            for cell in row:
                yield from cell


@dataclass(frozen=True)
class Layout:
    """Blocks in reading order. line_height: of a usual line's writing, px; 0 on an empty page. writing: the ink."""

    size: tuple[int, int]
    line_height: float
    blocks: list[Block]
    writing: Mask = field(repr=False)

    def num_characters(self) -> float:
        """Guess how many characters stand on the page, from the lines' lengths."""
        return sum(line.box.width / (0.55 * max(self.line_height, 1)) for b in self.blocks for line in b.all_lines())


def runs(flags: Mask) -> list[tuple[int, int]]:
    """Half-open intervals of consecutive true values."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def joined(intervals: list[tuple[int, int]], gap: int) -> list[tuple[int, int]]:
    """Join intervals with at most `gap` between them: the dot of an i belongs to its letter."""
    out: list[tuple[int, int]] = []
    for a, b in intervals:
        if out and a - out[-1][1] <= gap:
            out[-1] = (out[-1][0], b)
        else:
            out.append((a, b))
    return out
