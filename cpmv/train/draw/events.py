"""Clips of frames in packages: short events, order, turns, swapped cups, text that goes by, and two shapes in motion.

6 to 18 frames (2 to 6 of shapes in motion) in packages of 1 to 6, whose size is drawn for each clip; times are tenths
of a second from a random start, with a random step and jitter. Half of the clips in packages of one frame have no
times: their id is -1, as a picture's. Events last one or two frames, so a clip that is sampled too thinly misses them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .document import ELLIPSE, RECT, TRIANGLE, Colour, Document, Mark, Run, Sheet
from .figures import (
    colour_word,
    place_of,
    place_word,
)
from .mixed_lines import mixed_line
from .motion import motion
from .prompts import DIRECTIONS
from .stage import Stage

if TYPE_CHECKING:
    from .documents import Maker

_ORDINALS = (("first", "second", "third"), ("一", "二", "三"))
_THINK = (("start", "swap"), ("开始", "交换"))


def _spans(stage: Stage, count: int, total: int, *, shortest: int = 1, longest: int = 2) -> list[range]:
    """Up to `count` spans of frames, apart by at least one."""
    spans: list[range] = []
    place = stage.between(0, 1)
    for _ in range(count):
        length = stage.between(shortest, longest)
        start = place + stage.between(0, 2)
        if start + length > total:
            break
        spans.append(range(start, start + length))
        place = start + length + 1
    return spans


def _flashes(stage: Stage) -> Document:
    """One shape comes and goes while others stay."""
    total = stage.between(6, 16)
    flashing, *others = stage.pairs(stage.between(1, 3))
    spots = stage.places(1 + len(others))
    spans = _spans(stage, stage.between(0, 5), total)
    shown = {i for span in spans for i in span}
    stay = [stage.figure(pair, *spot) for pair, spot in zip(others, spots[1:], strict=True)]
    light = stage.figure(flashing, *spots[0])
    frames = [stage.sheet([*stay, *([light] if i in shown else [])]) for i in range(total)]
    name = colour_word(flashing[0], stage.language)
    return stage.clip("count_flashes", frames, str(len(spans)), name, spans=[(s.start, s.stop) for s in spans])


def _which_flashed(stage: Stage) -> Document:
    total = stage.between(6, 16)
    flashing, *others = stage.pairs(stage.between(2, 4))
    spots = stage.places(1 + len(others))
    start = stage.between(1, total - 3)
    span = range(start, start + stage.between(1, 2))
    stay = [stage.figure(pair, *spot) for pair, spot in zip(others, spots[1:], strict=True)]
    light = stage.figure(flashing, *spots[0])
    frames = [stage.sheet([*stay, *([light] if i in span else [])]) for i in range(total)]
    return stage.clip("which_flashed", frames, colour_word(flashing[0], stage.language), span=(span.start, span.stop))


def _bounces(stage: Stage) -> Document:
    """A shape goes to and fro between two walls and turns where it meets one."""
    pair = stage.pairs(1)[0]
    across = stage.rng.random() < 0.5
    side = (stage.width if across else stage.height) - 2 * stage.radius
    leg = stage.between(2, 4)  # frames from wall to wall
    first, count = stage.between(1, leg - 1), stage.between(0, 4)
    # It neither begins nor ends at a wall.
    total = min(18, max(3, leg * count - first + 1 + stage.between(1, leg - 1)))
    total -= (total - 1 + first) % leg == 0
    other = float(stage.rng.uniform(stage.radius, (stage.height if across else stage.width) - stage.radius))
    flip = stage.rng.random() < 0.5
    frames = []
    for i in range(total):
        legs, part = divmod(i + first, leg)
        share = part / leg if legs % 2 == 0 else 1 - part / leg
        along = stage.radius + side * (1 - share if flip else share)
        frames.append(stage.sheet([stage.figure(pair, *((along, other) if across else (other, along)))]))
    answer = str((total - 1 + first) // leg)
    return stage.clip("count_bounces", frames, answer, colour_word(pair[0], stage.language), leg=leg, first=first)


def _order(stage: Stage, task: str) -> Document:
    """Three shapes appear one after the other and stay."""
    total = stage.between(6, 14)
    pairs = stage.pairs(3)
    starts = sorted(int(s) for s in stage.rng.choice(np.arange(0, total - 1), 3, replace=False))
    figures = [stage.figure(pair, *spot) for pair, spot in zip(pairs, stage.places(3), strict=True)]
    frames = [stage.sheet([f for f, start in zip(figures, starts, strict=True) if i >= start]) for i in range(total)]
    names = [colour_word(pair[0], stage.language) for pair in pairs]
    if task == "order":
        return stage.clip("order", frames, ("、" if stage.language else ", ").join(names), starts=starts)
    index = stage.between(0, 2)
    number = str(index + 1) if stage.language and stage.rng.random() < 0.5 else _ORDINALS[stage.language][index]
    return stage.clip("nth", frames, names[index], number, starts=starts)


def _path(stage: Stage, legs: Sequence[tuple[float, float, int]]) -> list[tuple[float, float]]:
    """Points of a path of legs (dx, dy, frames) that lies wholly on the sheet, from a random start."""
    xs, ys = [0.0], [0.0]
    for dx, dy, count in legs:
        for _ in range(count):
            xs.append(xs[-1] + dx / count)
            ys.append(ys[-1] + dy / count)
    r = stage.radius + 1
    x = float(stage.rng.uniform(r - min(xs), stage.width - r - max(xs)))
    y = float(stage.rng.uniform(r - min(ys), stage.height - r - max(ys)))
    return [(x + a, y + b) for a, b in zip(xs, ys, strict=True)]


def _turn(stage: Stage, task: str) -> Document:
    """A shape moves one way, turns once, and moves another."""
    pair = stage.pairs(1)[0]
    names = list(DIRECTIONS)
    first = stage.between(0, 7)
    second = (first + int(stage.rng.choice([2, 3, 5, 6]))) % 8
    room = min(stage.width, stage.height) - 2 * stage.radius - 4
    legs = []
    for heading in (first, second):
        reach = room * float(stage.rng.uniform(0.35, 0.5))
        angle = heading * math.pi / 4
        legs.append((reach * math.cos(angle), reach * math.sin(angle), stage.between(3, 7)))
    frames = [stage.sheet([stage.figure(pair, *point)]) for point in _path(stage, legs)]
    name = names[second if task == "turn_after" else first]
    said = DIRECTIONS[name] if stage.language else name
    return stage.clip(task, frames, said, colour_word(pair[0], stage.language), headings=(first, second))


def _place(stage: Stage, task: str) -> Document:
    """A shape moves straight from one ninth of the sheet to another."""
    pair = stage.pairs(1)[0]
    for _ in range(60):
        points = stage.point(), stage.point()
        places = [place_of(*p, stage.width, stage.height, margin=0.05) for p in points]
        if None not in places and places[0] != places[1]:
            break
    total = stage.between(5, 14)
    (x0, y0), (x1, y1) = points
    shares = [i / (total - 1) for i in range(total)]
    frames = [stage.sheet([stage.figure(pair, x0 + (x1 - x0) * s, y0 + (y1 - y0) * s)]) for s in shares]
    name = places[1 if task == "end_place" else 0] or "center"
    return stage.clip(task, frames, place_word(name, stage.language), colour_word(pair[0], stage.language))


def _speeds(stage: Stage, task: str) -> Document:
    """Three shapes on three tracks, at speeds that differ clearly."""
    stage.radius = min(stage.radius, min(stage.width, stage.height) / 8)
    pairs, total = stage.pairs(3), stage.between(5, 12)
    room = stage.width - 2 * stage.radius
    reach = [room * share for share in stage.rng.permutation([0.25, 0.55, 0.9]) * float(stage.rng.uniform(0.85, 1.0))]
    rows = [(i + 0.5) * stage.height / 3 for i in stage.rng.permutation(3)]
    flips = stage.rng.random(3) < 0.5
    frames = []
    for i in range(total):
        share = i / (total - 1)
        xs = [stage.radius + d * (1 - share if flip else share) for d, flip in zip(reach, flips, strict=True)]
        frames.append(stage.sheet([stage.figure(p, x, y) for p, x, y in zip(pairs, xs, rows, strict=True)]))
    ranked = [pairs[i][0] for i in sorted(range(3), key=lambda i: -reach[i])]
    names = [colour_word(colour, stage.language) for colour in ranked]
    joint = ("、" if stage.language else ", ").join(names)
    answer = {"speed_rank": joint, "fastest": names[0], "slowest": names[2]}[task]
    return stage.clip(task, frames, answer, reach=reach)


def _card(stage: Stage) -> Document:
    """A card with a word or number passes by."""
    maker, rng, language = stage.maker, stage.rng, stage.language
    text = (
        mixed_line(rng, 10, most=2, han=bool(language) and rng.random() < 0.6, held_out=maker.held_out)
        if rng.random() < 0.75
        else maker.content.title_word(rng, language)
    )
    face = maker.metrics.choose(rng, han=not text.isascii())
    em = float(min(rng.uniform(13, 20), (stage.width - 24) / max(1.0, maker.metrics.width(text, face, 1.0))))
    wide, high = maker.metrics.width(text, face, em) + 10, em * 1.7
    total = stage.between(4, 10)
    x0, x1 = (float(v) for v in rng.uniform(2, max(3.0, stage.width - wide - 2), 2))
    y0, y1 = (float(v) for v in rng.uniform(2, max(3.0, stage.height - high - 2), 2))
    light: Colour = (1.0, 1.0, 0.92) if sum(stage.paper) < 2.6 else (1.0, 0.9, 0.55)
    frames = []
    for i in range(total):
        share = i / (total - 1)
        x, y = x0 + (x1 - x0) * share, y0 + (y1 - y0) * share
        sheet = Sheet(stage.width, stage.height, stage.paper, [Mark(RECT, (x, y, x + wide, y + high), light)])
        sheet.runs = [Run(text, x + 5, y + em * 1.2, em, face, (0.05, 0.05, 0.1))]
        frames.append(sheet)
    return stage.clip("card", frames, text)


def _swaps(stage: Stage) -> Document:
    """Three cups: a ball is seen under one, then pairs of cups change places, twice or three times."""
    slots = [stage.width * share for share in (0.2, 0.5, 0.8)]
    cups, ball = [0, 1, 2], stage.between(0, 2)
    cup: Colour = (0.48, 0.28, 0.13) if sum(stage.paper) > 1.4 else (0.9, 0.7, 0.5)
    frames = [_cups(stage, [slots[s] for s in cups], [0.0] * 3, cup, ball)]
    names = [place_word(name, stage.language) for name in ("left", "center", "right")]
    opening, swap = _THINK[stage.language]
    lines = [f"{opening}: {names[ball]}"]
    moving = stage.between(3, 4)  # frames of a swap
    for _ in range(stage.between(2, 3)):
        a, b = (int(i) for i in stage.rng.permutation(3)[:2])
        for step in range(1, moving + 1):
            share = step / moving
            xs, lift = [slots[s] for s in cups], [0.0] * 3
            xs[a] += (slots[cups[b]] - slots[cups[a]]) * share
            xs[b] += (slots[cups[a]] - slots[cups[b]]) * share
            arch = stage.height * 0.12 * math.sin(math.pi * share)
            lift[a], lift[b] = arch, -arch
            frames.append(_cups(stage, xs, lift, cup, None))
        one, other = sorted((cups[a], cups[b]))
        cups[a], cups[b] = cups[b], cups[a]
        lines.append(f"{swap} {names[one]} - {names[other]}: {names[cups[ball]]}")
    return stage.clip("swaps", frames, names[cups[ball]], trace="\n".join(lines), cups=cups, ball=ball)


def _cups(stage: Stage, xs: Sequence[float], lift: Sequence[float], cup: Colour, ball: int | None) -> Sheet:
    """One frame; with `ball`, its cup is raised and the ball seen below."""
    marks: list[Mark] = []
    w, h = stage.width * 0.1, stage.height * 0.32
    for index, x in enumerate(xs):
        top = stage.height * 0.42 + lift[index] - (h * 0.55 if index == ball else 0)
        if index == ball:
            r, middle = w * 0.6, stage.height * 0.42 + h * 0.8
            marks.append(Mark(ELLIPSE, (x - r, middle - r, x + r, middle + r), (0.84, 0.14, 0.14)))
        marks.append(Mark(RECT, (x - w * 0.7, top, x + w * 0.7, top + h), cup))
        marks.append(Mark(TRIANGLE, (x - w * 0.7, top, x - w * 0.7, top + h, x - w, top + h), cup))
        marks.append(Mark(TRIANGLE, (x + w * 0.7, top, x + w * 0.7, top + h, x + w, top + h), cup))
    return Sheet(stage.width, stage.height, stage.paper, marks)


Task = Callable[["Maker", np.random.Generator, int, int], Document]


def _task(make: Callable[..., Document], *names: str) -> Task:
    def task(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
        return make(Stage(maker, rng, width, height), *names)

    return task


TASKS: dict[str, Task] = {
    "count_flashes": _task(_flashes), "which_flashed": _task(_which_flashed), "count_bounces": _task(_bounces),
    "order": _task(_order, "order"), "nth": _task(_order, "nth"), "card": _task(_card),
    "turn_after": _task(_turn, "turn_after"), "turn_before": _task(_turn, "turn_before"),
    "end_place": _task(_place, "end_place"), "start_place": _task(_place, "start_place"),
    "speed_rank": _task(_speeds, "speed_rank"), "fastest": _task(_speeds, "fastest"),
    "slowest": _task(_speeds, "slowest"), "motion": _task(motion),
}  # fmt: skip
WEIGHTS: dict[str, float] = {
    "count_flashes": 2.0, "which_flashed": 1.0, "count_bounces": 2.2, "order": 1.2, "nth": 1.0, "card": 2.0,
    "turn_after": 1.5, "turn_before": 1.0, "end_place": 0.7, "start_place": 0.5, "speed_rank": 0.6, "fastest": 0.4,
    "slowest": 0.4, "motion": 60.0,
}  # fmt: skip
THINK_TASKS: dict[str, Task] = {"swaps": _task(_swaps)}
THINK_WEIGHTS: dict[str, float] = {"swaps": 1.0}
