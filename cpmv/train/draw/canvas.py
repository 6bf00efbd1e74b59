"""A sheet under construction: typefaces with their widths, a colour scheme, and a canvas that refuses what cannot
stand.

A layout writes lines and marks where it wants them. `Canvas` raises `Unfit` as soon as text would leave the sheet,
touch
other text, need a glyph that its face lacks or exceed the sheet's budget; the maker (`documents.py`) then tries again
with less. So every document that comes out is readable by construction.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .document import FRAME, LINE, RECT, Box, Colour, Mark, Metrics, Region, Run, Sheet

ASCENT, DESCENT = 0.8, 0.24  # of an em: what a line of text takes above and below its baseline
LEAST_CONTRAST = 0.35  # luminance between text and what it stands on
_PAGE_AREA = 95_000  # px: larger sheets are pages, which are read in slices and hold more
_ONE_SLICE = 118_000  # px: larger sheets are sliced, and a slice is not enlarged
_LEAST_EM = {"han": 12.0, "single": 10.0, "sliced": 11.0}
_BOLD = re.compile(r"Bold|Demi|Black|_RB")
_SLANTED = re.compile(r"Italic|Oblique|_RI|-I$|i99$")


class Unfit(Exception):
    """A layout does not fit its sheet. Caught by `Maker.make`, which draws another one."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a sheet may hold and how long an answer about it may be (characters are tokens)."""

    glyphs: int
    marks: int
    answer: int


def limits_of(width: int, height: int) -> Limits:
    """The limits of a sheet of `width` x `height` px."""
    return Limits(500, 60, 420) if width * height > _PAGE_AREA else Limits(220, 48, 160)


def luminance(colour: Colour) -> float:
    """Perceived brightness in 0..1 of an RGB colour."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def blend(one: Colour, other: Colour, share: float) -> Colour:
    """`one` with `share` of `other` mixed in."""
    red, green, blue = (a + (b - a) * share for a, b in zip(one, other, strict=True))
    return red, green, blue


def _tint(rng: np.random.Generator, target: float, spread: float) -> Colour:
    """A colour of luminance near `target`; spread: how colourful, 0..1."""
    colour = np.clip(target + (rng.random(3) - 0.5) * spread, 0.0, 1.0)
    colour = np.clip(colour + target - float(colour @ (0.299, 0.587, 0.114)), 0.0, 1.0)
    return float(colour[0]), float(colour[1]), float(colour[2])


@dataclass(frozen=True, slots=True)
class Look:
    """Colours that go together. Text in `ink`, `soft` or `accent` is readable on `paper`; `ink` also on `panel`, and
    `paper` on `accent`."""

    paper: Colour
    ink: Colour
    soft: Colour
    accent: Colour
    panel: Colour
    rule: Colour

    @staticmethod
    def draw(rng: np.random.Generator) -> Look:
        """Dark on light mostly, sometimes light on dark or dark on a strong colour."""
        draw = rng.random(6)
        if draw[0] > 0.78:
            paper = _tint(rng, 0.54 + 0.36 * draw[1], 0.9)
            ink = (0.03, 0.03, 0.03)
            if draw[3] > 0.3 and luminance(paper) > 0.55:
                ink = _tint(rng, (luminance(paper) - 0.52) * draw[4], 0.3)
        elif draw[0] < 0.12:
            paper, ink = _tint(rng, 0.05 + 0.2 * draw[1], 0.3), _tint(rng, 0.82 + 0.16 * draw[2], 0.1)
        else:
            paper = (1.0, 1.0, 1.0) if draw[1] < 0.4 else _tint(rng, 0.84 + 0.15 * draw[2], 0.16)
            ink = (0.05, 0.05, 0.05) if draw[3] < 0.5 else _tint(rng, 0.04 + 0.26 * draw[4], 0.5)
        side = 1 if luminance(ink) > luminance(paper) else -1
        accent = _tint(rng, luminance(paper) + side * (0.42 + 0.22 * draw[5]), 1.1)
        if abs(luminance(accent) - luminance(paper)) < LEAST_CONTRAST + 0.02:
            accent = ink
        soft = blend(ink, paper, 0.22 * float(rng.random()))
        panel = blend(paper, accent if rng.random() < 0.5 else ink, 0.05 + 0.09 * float(rng.random()))
        return Look(paper, ink, soft, accent, panel, blend(paper, ink, 0.25 + 0.6 * float(rng.random())))


class Typefaces:
    """The faces that a maker may use: choosing them, their bold mates, and fast text widths."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self._advances: dict[int, dict[str, float]] = {}
        atlas = metrics.atlas
        self._family: dict[bool, list[list[int]]] = {}
        self._mates: dict[int, list[int]] = {}
        for han, pool in ((False, metrics.latin), (True, metrics.han)):
            families: dict[str, list[int]] = {}
            for face in pool.tolist():
                families.setdefault(atlas.families[face], []).append(face)
            self._family[han] = list(families.values())
            for faces in families.values():
                for face in faces:
                    self._mates[face] = [m for m in faces if self.is_bold(m) and not self.is_slanted(m) and m != face]

    def is_bold(self, face: int) -> bool:
        return bool(_BOLD.search(self.metrics.atlas.names[face]))

    def is_slanted(self, face: int) -> bool:
        return bool(_SLANTED.search(self.metrics.atlas.names[face]))

    def choose(self, rng: np.random.Generator, *, han: bool = False, kinds: Sequence[str] = ()) -> int:
        """A face, every family alike; `kinds` narrows Latin faces when any is of these kinds."""
        families = self._family[han]
        if kinds and not han:
            families = [faces for faces in families if self.metrics.atlas.kinds[faces[0]] in kinds] or families
        if not families:
            raise ValueError(f"the atlas has no usable {'Han' if han else 'Latin'} face; build it with more fonts")
        faces = families[int(rng.integers(len(families)))]
        return faces[int(rng.integers(len(faces)))]

    def bold(self, face: int) -> int:
        """The bold face of the same family, or the face itself."""
        return face if self.is_bold(face) or not self._mates[face] else self._mates[face][0]

    def advances(self, face: int) -> dict[str, float]:
        """Advance in em of every character that the face can draw."""
        table = self._advances.get(face)
        if table is None:
            atlas = self.metrics.atlas
            ids = np.flatnonzero(atlas.glyph[face] >= 0).tolist()
            widths = atlas.advance[face].tolist()
            table = self._advances[face] = {atlas.characters[i]: widths[i] for i in ids}
        return table

    def can_write(self, text: str, face: int) -> bool:
        table = self.advances(face)
        return all(character in table for character in text)

    def width(self, text: str, face: int, em: float) -> float:
        """Advance width, px. Raises Unfit when the face lacks a character."""
        table = self.advances(face)
        try:
            return em * sum([table[character] for character in text])
        except KeyError as missing:
            raise Unfit(f"no glyph for {missing}") from None


class Canvas:
    """A sheet being filled, with its faces, colours and what is left of its budget.

    em: size of body text. ease: 1 at the first attempt, smaller after failures; layouts scale their counts by it.
    """

    def __init__(
        self, faces: Typefaces, rng: np.random.Generator, width: int, height: int, *, han: bool, ease: float = 1.0
    ) -> None:
        self.faces, self.rng, self.han, self.ease = faces, rng, han, ease
        self.width, self.height = width, height
        self.limits = limits_of(width, height)
        self.look = Look.draw(rng)
        self.sheet = Sheet(width, height, self.look.paper)
        self.body = faces.choose(rng, han=han)
        draw = rng.random()
        mate = faces.bold(self.body)
        self.head = mate if draw < 0.6 else faces.choose(rng, han=han) if draw < 0.85 else self.body
        sliced = width * height > _ONE_SLICE
        self.least_em = max(_LEAST_EM["sliced" if sliced else "single"], _LEAST_EM["han"] if han else 0.0)
        most = min(16.0, self.least_em + 1.0 + min(width, height) / 60)
        self.em = self.least_em + (most - self.least_em) * float(rng.random()) * min(1.0, ease)
        self.margin = max(3.0, min(width, height) * (0.02 + 0.05 * float(rng.random())))
        self.boxes: list[Box] = []
        self.num_glyphs = 0

    def chance(self, share: float) -> bool:
        """True with probability `share`."""
        return bool(self.rng.random() < share)

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(self.rng.random())

    def between(self, low: int, high: int) -> int:
        """An integer in low..high, both included."""
        return int(self.rng.integers(low, max(low, high) + 1))

    def measure(self, text: str, face: int | None = None, em: float | None = None) -> float:
        return self.faces.width(text, self.body if face is None else face, self.em if em is None else em)

    def fit(self, text: str, face: int, em: float, room: float) -> float:
        """The size, at most `em`, at which `text` fits into `room` px. Raises Unfit below the least legible size."""
        width = self.faces.width(text, face, em)
        size = em if width <= room else em * room / width
        if size < self.least_em:
            raise Unfit(f"{text!r} is too wide")
        return size

    def wrap(self, words: Sequence[str], face: int, em: float, room: float) -> list[str]:
        """Break words into lines of at most `room` px. Raises Unfit for a longer word."""
        joiner = "" if self.han else " "
        space = self.faces.width(joiner, face, em)
        lines: list[list[str]] = []
        used = room + 1.0
        for word in words:
            width = self.faces.width(word, face, em)
            if width > room:
                raise Unfit(f"{word!r} is too wide")
            if used + space + width > room:
                lines.append([word])
                used = width
            else:
                lines[-1].append(word)
                used += space + width
        return [joiner.join(line) for line in lines]

    def write(
        self,
        text: str,
        x: float,
        y: float,
        *,
        em: float | None = None,
        face: int | None = None,
        colour: Colour | None = None,
        align: float = 0.0,
        region: str = "words",
        derivable: bool = False,
        echoes: Sequence[str] = (),
    ) -> Box:
        """Write one line with its baseline at y; align: 0 x is its left end, 0.5 its middle, 1 its right end.

        region: "words" cuts it into phrases, "whole" makes one region, "" none. derivable: of the whole line; `echoes`
        are pieces of it that stand elsewhere too and become derivable regions of their own. Returns its box.
        """
        em = self.em if em is None else em
        face = self.body if face is None else face
        width = self.faces.width(text, face, em)
        left = x - align * width
        box = (left, y - ASCENT * em, left + width, y + DESCENT * em)
        if left < 1 or box[1] < 0 or box[2] > self.width - 1 or box[3] > self.height:
            raise Unfit(f"{text!r} leaves the sheet")
        for other in self.boxes:
            if box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]:
                raise Unfit(f"{text!r} touches other text")
        self.num_glyphs += len(text)
        if self.num_glyphs > self.limits.glyphs:
            raise Unfit("too much text")
        self.boxes.append(box)
        self.sheet.runs.append(Run(text, left, y, em, face, self.look.ink if colour is None else colour))
        if region == "whole" or derivable:
            self.sheet.regions.append(Region(box, text, derivable))
        elif region:
            self._add_phrases(text, box, face, em, echoes)
        return box

    def _add_phrases(self, text: str, box: Box, face: int, em: float, echoes: Sequence[str]) -> None:
        """Regions of one to three words (two to five Han characters) over a line."""
        table = self.faces.advances(face)
        reach = np.cumsum([0.0, *[table[character] for character in text]]) * em + box[0]
        for start, end, derivable in _phrases(text, self.rng, echoes):
            place = (float(reach[start]), box[1], float(reach[end]), box[3])
            self.sheet.regions.append(Region(place, text[start:end], derivable))

    def mark(self, kind: int, *places: float, colour: Colour) -> None:
        """Add a plain shape. Raises Unfit beyond the sheet's number of marks."""
        if len(self.sheet.marks) >= self.limits.marks:
            raise Unfit("too many marks")
        self.sheet.marks.append(Mark(kind, places, colour))

    def rule(
        self, x0: float, y0: float, x1: float, y1: float, *, width: float = 1.0, colour: Colour | None = None
    ) -> None:
        self.mark(LINE, x0, y0, x1, y1, width, colour=colour or self.look.rule)

    def fill(self, box: Box, colour: Colour) -> None:
        self.mark(RECT, *box, colour=colour)

    def frame(self, box: Box, *, width: float = 1.0, colour: Colour | None = None) -> None:
        self.mark(FRAME, *box, width, colour=colour or self.look.rule)


def _phrases(text: str, rng: np.random.Generator, echoes: Sequence[str]) -> list[tuple[int, int, bool]]:
    """Cut a line into (start, end, derivable), without the spaces between."""
    pieces: list[tuple[int, int, bool]] = []
    start = 0
    found = sorted((text.find(echo), len(echo)) for echo in echoes if echo and echo in text)
    for place, length in [*found, (len(text), 0)]:
        if place < start:
            continue
        pieces += _plain_phrases(text, start, place, rng)
        if length:
            pieces.append((place, place + length, True))
        start = place + length
    return pieces


def _plain_phrases(text: str, start: int, end: int, rng: np.random.Generator) -> list[tuple[int, int, bool]]:
    words = [(m.start() + start, m.end() + start) for m in re.finditer(r"[^ ]+", text[start:end])]
    if len(words) == 1 and end - start > 5 and not text[words[0][0]].isascii():
        cuts = list(range(start, end, int(rng.integers(2, 6)))) + [end]
        return [(a, b, False) for a, b in zip(cuts, cuts[1:], strict=False)]
    pieces: list[tuple[int, int, bool]] = []
    index = 0
    sizes = rng.integers(1, 4, size=len(words)).tolist()
    while index < len(words):
        last = min(index + sizes[index], len(words)) - 1
        pieces.append((words[index][0], words[last][1], False))
        index = last + 1
    return pieces
