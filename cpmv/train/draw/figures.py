"""Plain coloured shapes as marks of a sheet, and the words for them: what scenes, several pictures and clips draw.

Names, Chinese names and colours are those of `prompts.py`; held-out pairs of colour and shape never occur in training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .document import ELLIPSE, RECT, TRIANGLE, Box, Colour, Mark
from .prompts import COLOURS, HELD_OUT_PAIRS, PLACES, SHAPES

if TYPE_CHECKING:
    import numpy as np

COLOUR_NAMES, SHAPE_NAMES, PLACE_NAMES = list(COLOURS), list(SHAPES), list(PLACES)
RGB: dict[str, Colour] = {n: (r / 255, g / 255, b / 255) for n, (_, (r, g, b)) in COLOURS.items()}
_LEAST_DISTANCE = 0.16  # squared, between a shape and its paper
_NOTCH = 0.382  # inner radius of a regular star
_LIGHT, _DARK = (0.80, 1.0), (0.05, 0.3)


@dataclass(frozen=True, slots=True)
class Figure:
    """A shape of `prompts.SHAPES` in a colour of `prompts.COLOURS`; x, y: its middle, radius: half its extent, px."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float

    @property
    def pair(self) -> tuple[str, str]:
        return self.colour, self.shape

    @property
    def box(self) -> Box:
        return self.x - self.radius, self.y - self.radius, self.x + self.radius, self.y + self.radius


def draw_paper(rng: np.random.Generator) -> Colour:
    """A paper: white or tinted light mostly, sometimes mid-toned or dark."""
    draw = rng.random(5)
    if draw[0] < 0.2:
        return 1.0, 1.0, 1.0
    low, high = _DARK if draw[0] > 0.83 else (0.38, 0.8) if draw[0] > 0.62 else _LIGHT
    level = low + (high - low) * float(draw[1])
    red, green, blue = (min(1.0, max(0.0, level + (float(d) - 0.5) * 0.14)) for d in draw[2:])
    return red, green, blue


def visible_colours(paper: Colour) -> list[str]:
    """Colours that stand out from the paper."""
    return [n for n, rgb in RGB.items() if _distance(rgb, paper) > _LEAST_DISTANCE]


def _distance(one: Colour, other: Colour) -> float:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def is_barred(colour: str, shape: str, held_out: bool) -> bool:
    """Whether a pair must not occur: the held-out ones in training."""
    return not held_out and (colour, shape) in HELD_OUT_PAIRS


def draw_pair(
    rng: np.random.Generator, colours: Sequence[str], held_out: bool, shapes: Sequence[str] = SHAPE_NAMES
) -> tuple[str, str]:
    """A colour and a shape that may stand together."""
    while True:
        colour, shape = colours[int(rng.integers(len(colours)))], shapes[int(rng.integers(len(shapes)))]
        if not is_barred(colour, shape, held_out):
            return colour, shape


def toned(rng: np.random.Generator, colour: str) -> Colour:
    """The colour of that name, a little off."""
    red, green, blue = (
        min(1.0, max(0.0, c + (float(d) - 0.5) * 0.1)) for c, d in zip(RGB[colour], rng.random(3), strict=True)
    )
    return red, green, blue


def figure_marks(figure: Figure, paper: Colour, rgb: Colour | None = None) -> list[Mark]:
    """Marks that draw a figure; a ring's hole has the paper's colour."""
    x, y, r = figure.x, figure.y, figure.radius
    rgb = rgb or RGB[figure.colour]
    if figure.shape == "circle":
        return [Mark(ELLIPSE, (x - r, y - r, x + r, y + r), rgb)]
    if figure.shape == "square":
        half = r * 0.88
        return [Mark(RECT, (x - half, y - half, x + half, y + half), rgb)]
    if figure.shape == "triangle":
        return [Mark(TRIANGLE, (x, y - r, x + r, y + r * 0.78, x - r, y + r * 0.78), rgb)]
    if figure.shape == "cross":
        arm = r * 0.34
        return [Mark(RECT, (x - r, y - arm, x + r, y + arm), rgb), Mark(RECT, (x - arm, y - r, x + arm, y + r), rgb)]
    if figure.shape == "ring":
        hole = r * 0.54
        return [
            Mark(ELLIPSE, (x - r, y - r, x + r, y + r), rgb),
            Mark(ELLIPSE, (x - hole, y - hole, x + hole, y + hole), paper),
        ]
    return _star_marks(x, y, r, rgb)


def _star_marks(x: float, y: float, r: float, rgb: Colour) -> list[Mark]:
    """A five-pointed star is the union of three triangles between tips and notches of its pentagram."""

    def tip(k: int) -> tuple[float, float]:
        return x + r * math.sin(k * 0.4 * math.pi), y - r * math.cos(k * 0.4 * math.pi)

    def notch(k: int) -> tuple[float, float]:  # between tip k and the next
        angle = (k + 0.5) * 0.4 * math.pi
        return x + r * _NOTCH * math.sin(angle), y - r * _NOTCH * math.cos(angle)

    corners = ((tip(1), tip(4), notch(2)), (tip(0), tip(2), notch(3)), (tip(3), notch(4), notch(1)))
    return [Mark(TRIANGLE, (*a, *b, *c), rgb) for a, b, c in corners]


def colour_word(colour: str, language: int) -> str:
    return COLOURS[colour][0] if language else colour


def shape_word(shape: str, language: int, *, plural: bool = False) -> str:
    return SHAPES[shape][1] if language else SHAPES[shape][0] if plural else shape


def pair_word(pair: tuple[str, str], language: int, *, plural: bool = False) -> str:
    """ "red circle" or "红色圆形"."""
    colour, shape = pair
    return f"{colour_word(colour, language)}{'' if language else ' '}{shape_word(shape, language, plural=plural)}"


def a_pair(pair: tuple[str, str], language: int) -> str:
    """ "an orange star" or "一个橙色星形"."""
    word = pair_word(pair, language)
    return f"一个{word}" if language else f"{'an' if word[0] in 'aeio' else 'a'} {word}"


def listed(words: Sequence[str], language: int) -> str:
    """ "a, b and c" or "a、b和c"."""
    if len(words) < 2:
        return "".join(words)
    comma, last = ("、", "和") if language else (", ", " and ")
    return comma.join(words[:-1]) + last + words[-1]


def place_word(place: str, language: int) -> str:
    return PLACES[place] if language else place


def place_of(x: float, y: float, width: float, height: float, *, margin: float = 0.0) -> str | None:
    """Name of the ninth of the sheet that a point lies in; None within `margin` (a share of the side) of a border."""
    cells = []
    for value, size in ((x, width), (y, height)):
        share = value / size
        if min(abs(share - 1 / 3), abs(share - 2 / 3)) < margin:
            return None
        cells.append(min(2, max(0, int(share * 3))))
    return PLACE_NAMES[cells[1] * 3 + cells[0]]
