"""What a composed sample is: sheets of text and marks, and the conversation about them, before any pixel exists.

Layouts (`pages`, `forms`, `charts`, ...) write a `Document` with numpy and plain Python on the CPU; `display` draws its
sheets on the device, many at once, and the real processor writes its tokens. Sizes and places are pixels of the sheet,
colours are RGB in 0..1. A clip is a document whose sheets are frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .atlas import Atlas, complete_faces
from .charset import character_ids

Colour = tuple[float, float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom

# Kinds of marks and what their `places` mean, px.
RECT = 0  # left, top, right, bottom
ELLIPSE = 1  # left, top, right, bottom
LINE = 2  # x0, y0, x1, y1, width
TRIANGLE = 3  # x0, y0, x1, y1, x2, y2
WEDGE = 4  # centre x, centre y, radius, start, end: radians clockwise from the top, 0 <= start < end <= 2 pi
FRAME = 5  # left, top, right, bottom, width: the outline of a rectangle, drawn inwards
NUM_PLACES = 6


@dataclass(slots=True)
class Run:
    """One line of text in one face. x: where the pen starts; y: the baseline; em: size; face: row of the atlas."""

    text: str
    x: float
    y: float
    em: float
    face: int
    colour: Colour = (0.0, 0.0, 0.0)


@dataclass(slots=True)
class Mark:
    """One plain shape; later marks lie over earlier ones, and all text lies over all marks."""

    kind: int
    places: tuple[float, ...]
    colour: Colour


@dataclass(slots=True)
class Region:
    """A piece of text that corruption may hide. derivable: whether the rest of the sheet tells what it says."""

    box: Box
    text: str
    derivable: bool = False


@dataclass(slots=True)
class Sheet:
    """One picture: its size, paper colour, marks, text, and regions of its text in reading order."""

    width: int
    height: int
    paper: Colour = (1.0, 1.0, 1.0)
    marks: list[Mark] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)


@dataclass(slots=True)
class Turn:
    """A question about `num_sheets` further sheets (they stand before it), its answer, and the reasoning, if any.

    thinking: "" answers in fast mode, with the empty think block. learn: whether training asks for the answer; an
    example that nothing before it tells is only to be read.
    """

    question: str
    answer: str
    num_sheets: int = 0
    thinking: str = ""
    learn: bool = True


@dataclass(slots=True)
class Document:
    """A sample. task: what is asked, for scores by kind. language: 0 English, 1 Chinese.

    groups: for clips, the frames of each package as temporal ids in tenths of a second (all sheets, in order); None
    for pictures. meta: facts that a checker needs (distractors, which region, ...).
    """

    task: str
    sheets: list[Sheet]
    turns: list[Turn]
    language: int = 0
    groups: list[list[int]] | None = None
    meta: dict[str, Any] = field(default_factory=dict)


class Metrics:
    """Widths of text in the faces of an atlas, and which faces may be used.

    held_out: use the faces kept for evaluation instead of the training ones.
    """

    def __init__(self, atlas: Atlas, *, held_out: bool = False) -> None:
        self.atlas = atlas
        self._ids = character_ids()
        usable = complete_faces(atlas) & (atlas.held_out == held_out)
        kinds = np.array(atlas.kinds)
        self.latin = np.flatnonzero(usable & (kinds != "han"))
        self.han = np.flatnonzero(usable & (kinds == "han"))
        self._family = np.array(atlas.families)

    def characters(self, text: str) -> np.ndarray:
        """Character ids int64 [len(text)]. Raises KeyError for a character that is never drawn."""
        return np.array([self._ids[c] for c in text], np.int64)

    def knows(self, text: str) -> bool:
        """Whether every character can be drawn."""
        return all(c in self._ids for c in text)

    def width(self, text: str, face: int, em: float) -> float:
        """Advance width of a line, px."""
        return float(self.atlas.advance[face, self.characters(text)].sum() * em)

    def choose(self, rng: np.random.Generator, *, han: bool = False, kinds: tuple[str, ...] | None = None) -> int:
        """A face: a family first, so that large ones do not dominate. kinds: only faces of these kinds."""
        pool = self.han if han else self.latin
        if kinds and not han:
            narrowed = np.array([face for face in pool if self.atlas.kinds[face] in kinds])
            pool = narrowed if len(narrowed) else pool
        families = np.unique(self._family[pool])
        family = families[rng.integers(len(families))]
        return int(rng.choice(pool[self._family[pool] == family]))

    def fit(self, text: str, face: int, em: float, room: float, *, least: float = 9.0) -> float:
        """The size, at most `em`, at which `text` fits into `room` px; never below `least`."""
        width = self.width(text, face, em)
        return em if width <= room else max(least, em * room / width)

    def wrap(self, words: list[str], face: int, em: float, room: float) -> list[str]:
        """Break words into lines of at most `room` px (a longer word has a line of its own)."""
        lines: list[str] = []
        for word in words:
            joined = f"{lines[-1]} {word}" if lines else word
            if lines and self.width(joined, face, em) <= room:
                lines[-1] = joined
            else:
                lines.append(word)
        return lines
