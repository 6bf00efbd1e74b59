"""Clips of two moving shapes: direction, speed and order. Frames with their times; one package of 2 to 6 frames."""

from __future__ import annotations

import math
import random
from dataclasses import replace

from ...train.draw.prompts import CLIP, DIRECTIONS
from ..samples import Sample, picture
from .canvas import Size
from .scenes import Names, Thing, choose_pairs, render, scene_paper

_TURN = 45.0  # degrees between neighbouring directions


def draw_clip(
    rng: random.Random, size: Size, *, kinds: tuple[str, ...] = ("direction",), chinese: bool = False
) -> Sample:
    """Two objects over 2 to 6 frames; asked for direction, speed ("faster", "slower") or order ("first", "last")."""
    kind, names, number = rng.choice(kinds), Names(int(chinese)), rng.randint(2, 6)
    step, start = rng.randint(1, 20), rng.randint(1, 400)
    paper, side = scene_paper(rng), min(size)
    pairs = choose_pairs(rng, paper, 12)
    first = pairs[0]
    second = next(pair for pair in [*pairs, ("black", "circle"), ("red", "square")] if pair[0] != first[0])
    tracks: list[list[Thing]] = []
    headings: list[int] = []
    lengths: list[float] = []
    for colour, shape in (first, second):
        heading, length = rng.randrange(8), side * rng.uniform(0.25, 0.55)
        while kind in ("faster", "slower") and lengths and abs(length - lengths[0]) < 0.15 * side:
            length = side * rng.uniform(0.2, 0.62)
        thing = Thing(colour, shape, 0, 0, side * rng.uniform(0.1, 0.16))
        tracks.append(_track(rng, size, thing, heading, length, number))
        headings.append(heading)
        lengths.append(length)
    appears = [0, 0]
    if kind in ("first", "last"):
        appears[rng.randrange(2)] = rng.randint(1, number - 1)
    shown = [[track[i] for track, begin in zip(tracks, appears, strict=True) if i >= begin] for i in range(number)]
    colours = [names.colour(pair[0]) for pair in (first, second)]
    target = rng.randrange(2)
    directions = list(DIRECTIONS.values()) if chinese else list(DIRECTIONS)
    meta = {"kind": kind, "frames": number, "step": step, "language": "zh" if chinese else "en"}
    if kind == "direction":
        answer = directions[headings[target]]
        meta["opposite"] = directions[(headings[target] + 4) % 8]
    else:
        best = {
            "faster": lengths[1] > lengths[0],
            "slower": lengths[1] < lengths[0],
            "first": appears[1] < appears[0],
            "last": appears[1] > appears[0],
        }
        answer = colours[int(best[kind])]
    question = rng.choice(CLIP[kind][int(chinese)]).format(colours[target])
    sample = picture([render(size, paper, things) for things in shown], question, answer, **meta)
    return replace(sample, groups=[[start + index * step for index in range(number)]])


def _track(rng: random.Random, size: Size, thing: Thing, heading: int, length: float, number: int) -> list[Thing]:
    """The object in every frame of a straight path that stays inside the picture."""
    dx, dy = (length * f(math.radians(heading * _TURN)) for f in (math.cos, math.sin))
    radius = thing.radius
    x = rng.uniform(radius + max(0.0, -dx), size[0] - radius - max(0.0, dx))
    y = rng.uniform(radius + max(0.0, -dy), size[1] - radius - max(0.0, dy))
    return [replace(thing, x=x + dx * index / (number - 1), y=y + dy * index / (number - 1)) for index in range(number)]


def clip_size(rng: random.Random) -> Size:
    return rng.choice([(112, 112)] * 2 + [(140, 84), (84, 140), (112, 98), (126, 112), (140, 140)])
