"""Scenes of coloured shapes on a 3 x 3 layout, drawn with Pillow's own polygons, and every question they answer."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from ...train.draw.prompts import COLOURS, HELD_OUT_PAIRS, NOTHING, PLACES, SCENE, SHAPES, YES_NO
from ..samples import Sample, picture
from .canvas import Colour, Size

_SCALE = 4  # drawn so many times larger, then averaged down
MAX_LISTED = 4  # objects of a description

Questions = dict[str, tuple[list[str], str]]  # kind -> slots of its wording, answer


@dataclass(frozen=True)
class Thing:
    """One drawn object, px. cell: its place in the 3 x 3 layout, row by row."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float
    cell: int = 0

    @property
    def pair(self) -> tuple[str, str]:
        return self.colour, self.shape


def draw_thing(draw: ImageDraw.ImageDraw, thing: Thing, scale: int = _SCALE) -> None:
    """One shape on a canvas `scale` times larger."""
    x, y, r = thing.x * scale, thing.y * scale, thing.radius * scale
    fill = COLOURS[thing.colour][1]
    if thing.shape == "circle":
        draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)
    elif thing.shape == "ring":
        draw.ellipse([x - r, y - r, x + r, y + r], outline=fill, width=round(r * 0.42))
    elif thing.shape == "square":
        draw.rectangle([x - 0.86 * r, y - 0.86 * r, x + 0.86 * r, y + 0.86 * r], fill=fill)
    elif thing.shape == "cross":
        draw.rectangle([x - r, y - 0.32 * r, x + r, y + 0.32 * r], fill=fill)
        draw.rectangle([x - 0.32 * r, y - r, x + 0.32 * r, y + r], fill=fill)
    else:
        corners, inner = (3, 1.0) if thing.shape == "triangle" else (10, 0.42)
        points = []
        for corner in range(corners):
            reach = r * (inner if corner % 2 and corners == 10 else 1.05)
            angle = -math.pi / 2 + 2 * math.pi * corner / corners
            points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
        draw.polygon(points, fill=fill)


def render(size: Size, paper: Colour, things: Sequence[Thing]) -> Image.Image:
    """Draw the objects in order on plain paper."""
    canvas = Image.new("RGB", (size[0] * _SCALE, size[1] * _SCALE), paper)
    draw = ImageDraw.Draw(canvas)
    for thing in things:
        draw_thing(draw, thing)
    return canvas.reduce(_SCALE)


def scene_paper(rng: random.Random) -> Colour:
    """Nearly grey: light, middle or dark."""
    grey = rng.choice([rng.randint(205, 232), rng.randint(150, 185), rng.randint(48, 70)])
    return tuple(max(0, min(255, grey + rng.randint(-10, 10))) for _ in range(3))  # type: ignore[return-value]


def visible_colours(paper: Colour) -> list[str]:
    return [c for c, (_, rgb) in COLOURS.items() if sum((a - b) ** 2 for a, b in zip(rgb, paper, strict=True)) > 11000]


def choose_pairs(rng: random.Random, paper: Colour, count: int, held_out: bool = False) -> list[tuple[str, str]]:
    """Colour and shape of each object, visible and trained on; with `held_out` the first is a pair never trained."""
    visible = visible_colours(paper)
    pairs = [(c, s) for c in visible for s in SHAPES if (c, s) not in HELD_OUT_PAIRS]
    chosen = [rng.choice(pairs) for _ in range(count)]
    if held_out:
        chosen[0] = rng.choice([pair for pair in HELD_OUT_PAIRS if pair[0] in visible])
    return chosen


class Names:
    """Words of one language (0 English, 1 Chinese)."""

    def __init__(self, language: int) -> None:
        self.language = language
        self.places = list(PLACES.values()) if language else list(PLACES)
        self.yes, self.no = YES_NO[language]
        self.nothing = NOTHING[language]

    def colour(self, colour: str) -> str:
        return COLOURS[colour][0] if self.language else colour

    def shape(self, shape: str) -> str:
        return SHAPES[shape][1] if self.language else shape

    def plural(self, shape: str) -> str:
        return SHAPES[shape][1] if self.language else SHAPES[shape][0]

    def pair(self, colour: str, shape: str) -> str:
        return self.colour(colour) + ("" if self.language else " ") + self.shape(shape)

    @staticmethod
    def a(word: str) -> str:
        """The article before an English word."""
        return "an" if word[0] in "aeio" else "a"

    def said(self, yes: bool) -> str:
        return self.yes if yes else self.no

    def listing(self, pairs: Sequence[tuple[str, str]]) -> str:
        """ "a red circle, a blue square and a black star"."""
        if self.language:
            names = ["一个" + self.pair(*pair) for pair in pairs]
        else:
            names = [f"{self.a(pair[0])} {self.pair(*pair)}" for pair in pairs]
        comma, and_ = ("、", "和") if self.language else (", ", " and ")
        return comma.join(names[:-1]) + (and_ if len(names) > 1 else "") + names[-1]


def place_things(rng: random.Random, size: Size, pairs: Sequence[tuple[str, str]]) -> list[Thing]:
    """Put objects into cells of their own, jittered, of different sizes."""
    cells = rng.sample(range(9), len(pairs))
    wide, high = size[0] / 3, size[1] / 3
    things = []
    for (colour, shape), cell in zip(pairs, cells, strict=True):
        radius = min(wide, high) * rng.uniform(0.2, 0.4)
        x = (cell % 3 + 0.5) * wide + rng.uniform(-1, 1) * min(wide / 2 - radius - 1, wide * 0.2)
        y = (cell // 3 + 0.5) * high + rng.uniform(-1, 1) * min(high / 2 - radius - 1, high * 0.2)
        things.append(Thing(colour, shape, x, y, radius, cell))
    return things


def draw_scene(
    rng: random.Random,
    size: Size,
    *,
    kinds: Sequence[str] = (),
    count: int | None = None,
    held_out_pair: bool = False,
    chinese: bool = False,
) -> Sample:
    """Objects and a question of one of `kinds` (none given: any that the scene answers without doubt)."""
    wanted = rng.choice(list(kinds)) if kinds else None
    names = Names(int(chinese))
    while True:
        number = count or rng.choice([1, 2, 3, 3, 4, 4, 5, 6])
        paper = scene_paper(rng)
        pairs = choose_pairs(rng, paper, number, held_out_pair)
        if rng.random() < 0.4 and not held_out_pair:
            pairs = [rng.choice(pairs[:2]) for _ in pairs]
        things = place_things(rng, size, pairs)
        asked = questions(rng, things, size, names, about_first=held_out_pair)
        kind = wanted or (rng.choice(sorted(asked)) if asked else None)
        if kind in asked:
            slots, answer = asked[kind]
            question = rng.choice(SCENE[kind][int(chinese)]).format(*slots)
            facts = {"kind": kind, "objects": [" ".join(t.pair) for t in things], "language": "zh" if chinese else "en"}
            return picture(render(size, paper, things), question, answer, **facts)


def questions(
    rng: random.Random, things: list[Thing], size: Size, names: Names, *, about_first: bool = False
) -> Questions:
    """Every kind of question that has one answer here. about_first: only about the first object (held-out pairs)."""
    target = things[0] if about_first else rng.choice(things)
    out = _attributes(things, target, names)
    if about_first:
        return out
    out |= _counts(things, target, names)
    out |= _existence(rng, things, target, names)
    out |= _relations(rng, things, target, size, names)
    out |= _sizes(things, names)
    empty = sorted(set(range(9)) - {t.cell for t in things})
    if empty and rng.random() < 0.15:
        out["what_at"] = [names.places[rng.choice(empty)]], names.nothing
    if len(things) <= MAX_LISTED:
        out["describe"] = [], names.listing([t.pair for t in sorted(things, key=lambda t: t.cell)])
    return out


def _attributes(things: list[Thing], target: Thing, names: Names) -> Questions:
    out: Questions = {}
    if sum(t.shape == target.shape for t in things) == 1:
        out["colour_of"] = [names.shape(target.shape)], names.colour(target.colour)
    if sum(t.colour == target.colour for t in things) == 1:
        out["shape_of"] = [names.colour(target.colour)], names.shape(target.shape)
    out["what_at"] = [names.places[target.cell]], names.pair(*target.pair)
    if sum(t.pair == target.pair for t in things) == 1:
        out["where_is"] = [names.pair(*target.pair)], names.places[target.cell]
    return out


def _counts(things: list[Thing], target: Thing, names: Names) -> Questions:
    return {
        "count": ([], str(len(things))),
        "count_colour": ([names.colour(target.colour)], str(sum(t.colour == target.colour for t in things))),
        "count_shape": ([names.plural(target.shape)], str(sum(t.shape == target.shape for t in things))),
    }


def _existence(rng: random.Random, things: list[Thing], target: Thing, names: Names) -> Questions:
    """Half of the asked pairs are there; the others change the colour or the shape of one that is."""
    asked = target.pair
    if rng.random() < 0.5:
        others = [(c, target.shape) for c in COLOURS] + [(target.colour, s) for s in SHAPES]
        there = {t.pair for t in things}
        asked = rng.choice([pair for pair in others if pair not in HELD_OUT_PAIRS and pair not in there])
    return {"exists": ([names.pair(*asked)], names.said(any(t.pair == asked for t in things)))}


def _relations(rng: random.Random, things: list[Thing], target: Thing, size: Size, names: Names) -> Questions:
    unique = [t for t in things if sum(u.pair == t.pair for u in things) == 1]
    others = [t for t in unique if t is not target]
    if target not in unique or not others:
        return {}
    other = rng.choice(others)
    dx, dy = (other.x - target.x) / size[0], (other.y - target.y) / size[1]
    slots = [names.pair(*target.pair), names.pair(*other.pair)]
    gaps = (("left_of", dx), ("right_of", -dx), ("above", dy), ("below", -dy))
    return {kind: (slots, names.said(gap > 0)) for kind, gap in gaps if abs(gap) > 0.15}


def _sizes(things: list[Thing], names: Names) -> Questions:
    if len(things) < 2:
        return {}
    ranked = sorted(things, key=lambda t: t.radius)
    out: Questions = {}
    if ranked[-1].radius > 1.3 * ranked[-2].radius:
        out["largest"] = [], names.pair(*ranked[-1].pair)
    if ranked[1].radius > 1.3 * ranked[0].radius:
        out["smallest"] = [], names.pair(*ranked[0].pair)
    return out
