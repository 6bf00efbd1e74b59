"""Tasks that reward reasoning: sums, counts under a condition, differences, arrows, days, swapped cups.

The same samples are asked twice, for the answer at once and with thinking first.
"""

from __future__ import annotations

import datetime
import math
import random
from collections.abc import Callable
from dataclasses import replace

from PIL import Image, ImageDraw

from ...train.draw.prompts import PLACES
from ...train.draw.wordings import EVENTS, THINK
from ...train.draw.words import date_text
from ..samples import Sample, picture
from . import charts, tables
from .canvas import Colour, Sheet, choose_face, width_of
from .papers import Rows, content, fitting_face, goods, look, money, write_rows, write_title
from .reading import write_lines


def draw_thinking(rng: random.Random, chinese: bool) -> Sample:
    """A task of any kind of this module."""
    kind = rng.choice(sorted(_MAKE))
    sample = _MAKE[kind](rng, chinese)
    return replace(sample, meta=sample.meta | {"kind": kind, "language": "zh" if chinese else "en"})


def _ask(rng: random.Random, kind: str, chinese: bool, *values: str) -> str:
    return rng.choice(THINK[kind][int(chinese)]).format(*values)


def _receipt_sum(rng: random.Random, chinese: bool) -> Sample:
    """A receipt whose total is not printed."""
    words, numbers = content(rng)
    bought = goods(words, numbers, rng.randint(3, 6), int(chinese))
    prices = [rng.randint(1, 99) * rng.choice([5, 10, 50]) for _ in bought]
    pay = money(rng, chinese)
    rows = Rows([(name, pay(price)) for name, price in zip(bought, prices, strict=True)], set())
    paper, ink, rule = look(rng)
    sheet = Sheet(rng.choice([(224, 224), (196, 252), (210, 238)]), paper)
    shop = words.shop(numbers, int(chinese))
    top = write_title(rng, sheet, shop, fitting_face(rng, [shop], chinese, sheet.size[0] - 20), ink)
    write_rows(rng, sheet, rows, fitting_face(rng, rows.lines, chinese, sheet.size[0] - 32), ink, rule, top)
    return picture(sheet.image, _ask(rng, "receipt_sum", chinese), pay(sum(prices)), prices=prices)


def _table_count(rng: random.Random, chinese: bool) -> Sample:
    """Rows whose number is above or below a bound."""
    table = tables.make_table(rng, chinese, rng.randint(4, 6), rng.randint(2, 3))
    column = rng.randrange(1, len(table.header))
    values = sorted(row[column - 1] for row in table.numbers)
    above = rng.random() < 0.5
    bound = values[rng.randrange(len(values) - 1) + (not above)]
    count = sum(value > bound if above else value < bound for value in values)
    words = ("大于" if above else "小于") if chinese else ("above " if above else "below ")
    question = _ask(rng, "table_count", chinese, table.header[column], f"{words}{bound}")
    facts = {"numbers": [row[column - 1] for row in table.numbers], "bound": bound, "above": above}
    return picture(tables.lay_out(rng, table, chinese).image, question, str(count), **facts)


def _chart_difference(rng: random.Random, chinese: bool) -> Sample:
    sample = charts.draw_chart(rng, chinese, extremes=False)
    data = sample.meta["data"]
    a, b = rng.sample(sorted(data), 2)
    question = _ask(rng, "chart_difference", chinese, a, b)
    return picture(sample.images, question, str(abs(data[a] - data[b])), data=data)


def _arrows(rng: random.Random, chinese: bool) -> Sample:
    """Boxes on a ring in random order, an arrow from each to the next; every walk has one way to go."""
    count = rng.randint(5, 7)
    labels = rng.sample("ABCDEFGHJKLMNPRSTUVWXYZ", count)
    paper, ink, _ = look(rng)
    sheet = Sheet((224, 224), paper)
    face = choose_face(rng, "ordinary", False, "".join(labels))
    turn = rng.uniform(0, 2 * math.pi)
    spots = [
        (112 + 84 * math.cos(turn + 2 * math.pi * i / count), 112 + 84 * math.sin(turn + 2 * math.pi * i / count))
        for i in range(count)
    ]
    following = list(range(count))
    while any(following[i] == i for i in range(count)) or _cycle(following) < count:
        rng.shuffle(following)
    draw = ImageDraw.Draw(sheet.image)
    for start, end in enumerate(following):
        _arrow(draw, spots[start], spots[end], ink)
    for (x, y), label in zip(spots, labels, strict=True):
        sheet.draw.rectangle([x - 15, y - 15, x + 15, y + 15], fill=paper, outline=ink)
        sheet.text((x, y + 6), label, face, 17, ink, anchor="ms")
    steps = rng.randint(3, min(6, count - 1))
    place = first = rng.randrange(count)
    for _ in range(steps):
        place = following[place]
    question = _ask(rng, "arrows", chinese, labels[first], str(steps))
    following_of = {labels[a]: labels[b] for a, b in enumerate(following)}
    return picture(sheet.image, question, labels[place], arrows=following_of, start=labels[first], steps=steps)


def _cycle(following: list[int]) -> int:
    """Length of the walk from 0 back to 0."""
    place, length = following[0], 1
    while place != 0:
        place, length = following[place], length + 1
    return length


def _arrow(draw: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float], ink: Colour) -> None:
    """A line from box to box with a head at its end, clear of both boxes."""
    length = math.dist(start, end)
    dx, dy = (end[0] - start[0]) / length, (end[1] - start[1]) / length
    reach = 15.0 / max(abs(dx), abs(dy)) + 2  # where the line leaves a box
    a = (start[0] + dx * reach, start[1] + dy * reach)
    b = (end[0] - dx * reach, end[1] - dy * reach)
    draw.line([a, (b[0] - 5 * dx, b[1] - 5 * dy)], fill=ink, width=2)
    base = (b[0] - 9 * dx, b[1] - 9 * dy)
    draw.polygon([b, (base[0] - 5 * dy, base[1] + 5 * dx), (base[0] + 5 * dy, base[1] - 5 * dx)], fill=ink)


def _days_on_sheet(rng: random.Random, chinese: bool) -> Sample:
    """Two dates within two months."""
    first = datetime.date(rng.randint(1995, 2035), rng.randint(1, 11), rng.randint(1, 28))
    days = rng.randint(3, 45)
    second = first + datetime.timedelta(days)
    form = rng.randrange(5)
    lines = [date_text(form, d.year, d.month, d.day) for d in (first, second)]
    face = choose_face(rng, "ordinary", False, "".join(lines))
    sheet = write_lines(rng, (196, 126), lines, face, rng.randint(15, 22), 1.6)
    if width_of(max(lines, key=len), face, 22) > 186:
        sheet = write_lines(rng, (196, 126), lines, face, 14, 1.6)
    dates = [first.isoformat(), second.isoformat()]
    return picture(sheet.image, _ask(rng, "days_on_sheet", chinese), str(days), dates=dates)


def _sum_text(rng: random.Random, chinese: bool) -> Sample:
    numbers = [rng.randint(2, 99) for _ in range(rng.randint(3, 5))]
    question = _ask(rng, "sum_text", chinese, " + ".join(map(str, numbers)))
    return picture([], question, str(sum(numbers)), numbers=numbers)


def _swaps(rng: random.Random, chinese: bool) -> Sample:
    """Three cups; the ball's cup is shown, then cups change places two or three times."""
    paper, _, _ = look(rng)
    size = (140, 84)
    slots = [28.0, 70.0, 112.0]
    cups = [0, 1, 2]  # the slot of each cup
    ball = rng.randrange(3)
    cup_colour, ball_colour = (122, 72, 34), (214, 36, 36)
    images = [_cups(size, paper, [slots[s] for s in cups], [0.0] * 3, (cup_colour, ball_colour), ball)]
    for _ in range(rng.randint(2, 3)):
        a, b = rng.sample(range(3), 2)
        for step in range(1, 4):
            xs = [slots[s] for s in cups]
            share = step / 3
            xs[a] += (slots[cups[b]] - slots[cups[a]]) * share
            xs[b] += (slots[cups[a]] - slots[cups[b]]) * share
            lift = [0.0] * 3
            lift[a], lift[b] = 10 * math.sin(math.pi * share), -10 * math.sin(math.pi * share)
            images.append(_cups(size, paper, xs, lift, (cup_colour, ball_colour), None))
        cups[a], cups[b] = cups[b], cups[a]
    place = ("left", "center", "right")[cups[ball]]
    answer = PLACES[place] if chinese else place
    question = rng.choice(EVENTS["swaps"][int(chinese)])
    sample = picture(images, question, answer, num_frames=len(images))
    start, step = rng.randint(1, 200), rng.randint(2, 6)
    times = [start + index * step for index in range(len(images))]
    return replace(sample, groups=[times[i : i + 3] for i in range(0, len(times), 3)])


def _cups(
    size: tuple[int, int], paper: Colour, xs: list[float], lift: list[float], colours: tuple[Colour, Colour],
    ball: int | None
) -> Image.Image:  # fmt: skip
    """One frame: cups at their places; with `ball`, its cup is raised and the ball seen below."""
    sheet = Sheet(size, paper)
    for index, x in enumerate(xs):
        y = 30 + lift[index] - (16 if index == ball else 0)
        sheet.draw.polygon(
            [(x - 11, y), (x + 11, y), (x + 15, y + 32), (x - 15, y + 32)], fill=colours[0], outline=(20, 20, 20)
        )
        if index == ball:
            sheet.draw.ellipse([x - 7, 50, x + 7, 64], fill=colours[1])
    return sheet.image


_MAKE: dict[str, Callable[[random.Random, bool], Sample]] = {
    "receipt_sum": _receipt_sum, "table_count": _table_count, "chart_difference": _chart_difference, "arrows": _arrows,
    "days_on_sheet": _days_on_sheet, "sum_text": _sum_text, "swaps": _swaps,
}  # fmt: skip
