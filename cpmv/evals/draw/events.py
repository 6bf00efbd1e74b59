"""Clips of more frames, in packages of any size: short flashes, bounces, order of appearance, text on a moving card."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from ...train.draw.wordings import EVENTS
from ..samples import Sample, picture
from .canvas import Colour, Sheet, Size, choose_face, largest_size, paper_and_ink, width_of
from .reading import latin_line
from .scenes import Names, Thing, choose_pairs, render, scene_paper

SIZES: tuple[Size, ...] = ((112, 112), (112, 112), (126, 98), (98, 126), (112, 84))
_ORDINALS = ("first", "second", "third")


def _different(rng: random.Random, paper: Colour, count: int) -> list[tuple[str, str]]:
    """Colour and shape of objects that differ in colour."""
    pairs: dict[str, str] = {}
    for colour, shape in choose_pairs(rng, paper, 80):
        pairs.setdefault(colour, shape)
    chosen = list(pairs.items())
    return chosen[:count]


def _ask(rng: random.Random, task: str, chinese: bool, *values: str) -> str:
    return rng.choice(EVENTS[task][int(chinese)]).format(*values)


def _clip(
    rng: random.Random, size: Size, frames: list[list[Thing]], paper: Colour, asked: tuple[str, str], **meta: Any
) -> Sample:
    """Frames at an even pace, each a package of its own until they are repacked."""
    step, start = rng.randint(1, 8), rng.randint(1, 300)
    sample = picture([render(size, paper, things) for things in frames], asked[0], asked[1], **meta)
    return replace(sample, groups=[[start + index * step] for index in range(len(frames))])


def draw_event(rng: random.Random, size: Size, chinese: bool, number: int | None = None) -> Sample:
    """One of: count flashes, which colour flashed, count bounces, which appears first, second, third.

    number: frames, of bounces at most; None draws 8 to 12.
    """
    kind = rng.choice(["count_flashes", "which_flashed", "count_bounces", "nth"])
    names, paper, number = Names(int(chinese)), scene_paper(rng), number or rng.randint(8, 12)
    make = {"count_flashes": _flashes, "which_flashed": _flash_colour, "count_bounces": _bounces, "nth": _nth}[kind]
    frames, values, answer = make(rng, size, paper, number, names)
    meta = {"kind": kind, "language": "zh" if chinese else "en", "num_frames": len(frames)}
    return _clip(rng, size, frames, paper, (_ask(rng, kind, chinese, *values), answer), **meta)


_Made = tuple[list[list[Thing]], tuple[str, ...], str]


def _flashes(rng: random.Random, size: Size, paper: Colour, number: int, names: Names) -> _Made:
    """A shape that lights up for one frame several times, beside one that stays."""
    light, still = _things(rng, size, paper, 2)
    wanted = rng.randint(1, 4)
    while True:
        starts = sorted(rng.sample(range(number), wanted))
        if all(b - a >= 2 for a, b in zip(starts, starts[1:], strict=False)):
            break
    frames = [[still, light] if index in starts else [still] for index in range(number)]
    return frames, (names.colour(light.colour),), str(wanted)


def _flash_colour(rng: random.Random, size: Size, paper: Colour, number: int, names: Names) -> _Made:
    """Two shapes stay; a third is there for one or two frames only."""
    light, *still = _things(rng, size, paper, 3)
    length = rng.randint(1, 2)
    start = rng.randint(1, number - 1 - length)
    frames = [[*still, light] if start <= index < start + length else list(still) for index in range(number)]
    return frames, (), names.colour(light.colour)


def _bounces(rng: random.Random, size: Size, paper: Colour, number: int, names: Names) -> _Made:
    """A shape runs between two walls, touching one in exactly one frame each time."""
    thing = _things(rng, size, paper, 1)[0]
    across = rng.random() < 0.5
    length = size[0] if across else size[1]
    low, high = thing.radius, length - thing.radius
    wanted = rng.randint(1, 3)
    leg = max(2, (number - 1) // (wanted + 1))  # frames from wall to wall
    up = rng.random() < 0.5
    places = [rng.uniform(low + 0.25 * (high - low), low + 0.6 * (high - low))]
    ends = [high if (turn % 2 == 0) == up else low for turn in range(wanted)]
    for end in ends:
        start = places[-1]
        places += [start + (end - start) * step / leg for step in range(1, leg + 1)]
    away = low + (high - low) * rng.uniform(0.35, 0.6)
    places += [places[-1] + (away - places[-1]) * step / leg for step in range(1, leg + 1)]
    moved = [replace(thing, x=place) if across else replace(thing, y=place) for place in places]
    return [[one] for one in moved], (names.colour(thing.colour),), str(wanted)


def _nth(rng: random.Random, size: Size, paper: Colour, number: int, names: Names) -> _Made:
    """Three shapes appear one after the other and stay."""
    things = _things(rng, size, paper, 3)
    starts = [0, *sorted(rng.sample(range(2, number - 1), 2))]
    while starts[2] - starts[1] < 2:
        starts = [0, *sorted(rng.sample(range(2, number - 1), 2))]
    frames = [[t for t, begin in zip(things, starts, strict=True) if index >= begin] for index in range(number)]
    which = rng.randrange(3)
    word = str(which + 1) if names.language else _ORDINALS[which]
    return frames, (word,), names.colour(things[which].colour)


def _things(rng: random.Random, size: Size, paper: Colour, count: int) -> list[Thing]:
    """Objects of different colours that do not touch."""
    side = min(size)
    pairs = _different(rng, paper, count)
    while True:
        found: list[Thing] = []
        for colour, shape in pairs:
            radius = side * rng.uniform(0.11, 0.17)
            x, y = rng.uniform(radius, size[0] - radius), rng.uniform(radius, size[1] - radius)
            found.append(Thing(colour, shape, x, y, radius))
        apart = [
            abs(a.x - b.x) > a.radius + b.radius or abs(a.y - b.y) > a.radius + b.radius
            for i, a in enumerate(found)
            for b in found[:i]
        ]
        if all(apart):
            return found


def draw_card(rng: random.Random, chinese: bool) -> Sample:
    """A card with a word moves over a plain ground; no frame shows it elsewhere than where it moves."""
    size = rng.choice([(140, 112), (140, 140), (168, 112)])
    text = latin_line(rng, 9, 1)
    face = choose_face(rng, "ordinary", False, text)
    number = rng.randint(4, 6)
    paper, (card, ink) = scene_paper(rng), paper_and_ink(rng)
    point = min(20, largest_size([text], face, (int(size[0] * 0.62), 60), 1.3, 12, 24))
    wide, high = width_of(text, face, point) + 16, 1.9 * point
    start = (rng.uniform(2, size[0] - wide - 2), rng.uniform(2, size[1] - high - 2))
    end = (rng.uniform(2, size[0] - wide - 2), rng.uniform(2, size[1] - high - 2))
    images = []
    for index in range(number):
        x, y = (a + (b - a) * index / (number - 1) for a, b in zip(start, end, strict=True))
        sheet = Sheet(size, paper)
        sheet.draw.rectangle([x, y, x + wide, y + high], fill=card)
        sheet.text((x + 8, y + high / 2 + 0.35 * point), text, face, point, ink)
        images.append(sheet.image)
    step, first = rng.randint(1, 8), rng.randint(1, 300)
    meta = {"kind": "card", "language": "zh" if chinese else "en", "frames": number}
    sample = picture(images, _ask(rng, "card", chinese), text, **meta)
    return replace(sample, groups=[[first + index * step for index in range(number)]])
