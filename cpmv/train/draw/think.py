"""Tasks that reward thinking, asked for the answer at once or with the steps first, half and half.

A trace takes one small step a line and carries results on, so that no line needs more than one addition. A quarter of
the traces check themselves or correct a slip. The answer is the same in both modes.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from . import charts, tables
from .canvas import Canvas, Unfit
from .content import Money
from .document import LINE, TRIANGLE, Document, Turn
from .scenes import draw_language, wording
from .wordings import THINK
from .words import date_text

if TYPE_CHECKING:
    from .documents import Maker

DEEP_SHARE = 0.5
_WHOLE = ("count", "small", "age", "score", "year")  # columns of whole numbers
_CHECKED, _SLIPPED = 0.13, 0.12
_CHECK = (("Check: ", "So it is right."), ("检查：", "没错。"))
_WAIT = ("wait, ", "不对，")


def _document(task: str, maker: Maker, rng: np.random.Generator, sheets: list, question: str, answer: str,
              trace: str, language: int, **meta: object) -> Document:  # fmt: skip
    thinking = trace if rng.random() < DEEP_SHARE else ""
    return Document(task, sheets, [Turn(question, answer, len(sheets), thinking)], language, meta=dict(meta))


def sum_trace(terms: Sequence[int], write: Callable[[int], str], rng: np.random.Generator, language: int) -> str:
    """The running sum of `terms`, one addition a line; now and then a slip that is corrected, or a check."""
    lines, total = [], terms[0]
    slip = int(rng.integers(1, len(terms))) if rng.random() < _SLIPPED else 0
    for place, term in enumerate(terms[1:], 1):
        before, total = total, total + term
        if place == slip:
            wrong = total + int(rng.choice([-10, 10, 1, -1]))
            lines.append(f"{write(before)} + {write(term)} = {write(wrong)}")
            lines.append(f"{_WAIT[language]}{write(before)} + {write(term)} = {write(total)}")
        else:
            lines.append(f"{write(before)} + {write(term)} = {write(total)}")
    if rng.random() < _CHECKED:
        opening, closing = _CHECK[language]
        lines.append(f"{opening}{write(total)} - {write(terms[-1])} = {write(total - terms[-1])}")
        lines.append(closing)
    return "\n".join(lines)


def _receipt_sum(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    """A list of prices whose total is not printed."""
    canvas = maker.canvas(rng, width, height)
    language = int(canvas.han)
    money = Money(rng, language)
    count = canvas.between(3, 6)
    names = maker.content.goods(rng, count, language)
    cents = [money.amount(rng, 2000) for _ in names]
    em = min(canvas.em, (height - 2 * canvas.margin) / (count + 2.5) / 1.3)
    if em < canvas.least_em:
        raise Unfit("too many rows")
    left, right = canvas.margin, width - canvas.margin
    y = canvas.margin + em * 1.2
    canvas.write(maker.content.shop(rng, language), (left + right) / 2, y, em=em, face=canvas.head, align=0.5)
    for name, price in zip(names, cents, strict=True):
        y += em * 1.45
        canvas.write(name, left, y, em=em)
        canvas.write(money.text(price), right, y, em=em, align=1.0)
    trace = sum_trace(cents, money.bare, rng, language)
    question = wording(rng, THINK, "receipt_sum", language)
    return _document("think_receipt_sum", maker, rng, [canvas.sheet], question, money.text(sum(cents)), trace,
                     language, cents=cents)  # fmt: skip


def _table_count(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    """How many rows lie above or below a bound; the trace lists every row."""
    canvas, table = tables.compose(maker, rng, width, height, whole=False)
    numeric = [i for i, sort in enumerate(table.sorts) if sort in _WHOLE]
    if not numeric or len(table.cells) < 3:
        raise Unfit("nothing to count")
    column = numeric[canvas.between(0, len(numeric) - 1)]
    values = [int(row[column]) for row in table.numbers]
    above = canvas.chance(0.5)
    ordered = sorted(set(values))
    if len(ordered) < 3:
        raise Unfit("too few values")
    bound = ordered[canvas.between(0, len(ordered) - 2) + (not above)]
    language = int(canvas.han)
    word = (("above ", "大于"), ("below ", "小于"))[not above][language]
    lines, count = [], 0
    for row, value in zip(table.cells, values, strict=True):
        hit = value > bound if above else value < bound
        count += hit
        sign = ">" if value > bound else "<" if value < bound else "="
        lines.append(f"{row[0]}: {value} {sign} {bound}" + (f", {count}" if hit else ""))
    question = wording(rng, THINK, "table_count", language).format(table.header[column], f"{word}{bound}")
    return _document("think_table_count", maker, rng, [canvas.sheet], question, str(count), "\n".join(lines), language,
                     values=values, bound=bound, above=above)  # fmt: skip


def _chart_difference(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    canvas, chart = charts.compose(maker, rng, width, height, "chart_value")
    plot, language = chart.plot, int(canvas.han)
    a, b = (int(i) for i in rng.choice(len(plot.labels), 2, replace=False))
    x, y = plot.values[a], plot.values[b]
    if x == y or x != int(x) or y != int(y):
        raise Unfit("no whole difference")
    high, low = int(max(x, y)), int(min(x, y))
    trace = f"{plot.labels[a]}: {int(x)}\n{plot.labels[b]}: {int(y)}\n{high} - {low} = {high - low}"
    question = wording(rng, THINK, "chart_difference", language).format(plot.labels[a], plot.labels[b])
    return _document("think_chart_difference", maker, rng, [canvas.sheet], question, str(high - low), trace, language,
                     values=[x, y])  # fmt: skip


def _arrow_sheet(maker: Maker, rng: np.random.Generator, width: int, height: int) -> tuple[Canvas, list[str]]:
    """Boxes with letters on a ring, one arrow out of each; the letters come in the order of the arrows' one circle."""
    canvas = maker.canvas(rng, width, height, han=False)
    count = canvas.between(5, 7)
    letters = [str(c) for c in rng.choice(list("ABCDEFGHJKLMNPRSTUVWXYZ"), count, replace=False)]
    reach_x, reach_y, turn = width / 2 - 24, height / 2 - 24, canvas.uniform(0, 2 * math.pi)
    angles = [turn + 2 * math.pi * i / count for i in range(count)]
    spots = [(width / 2 + reach_x * math.cos(t), height / 2 + reach_y * math.sin(t)) for t in angles]
    order = [int(place) for place in rng.permutation(count)]
    side = 14.0
    for start, end in zip(order, order[1:] + order[:1], strict=True):
        _arrow(canvas, spots[start], spots[end], side)
    for (x, y), letter in zip(spots, letters, strict=True):
        canvas.fill((x - side, y - side, x + side, y + side), canvas.look.panel)
        canvas.frame((x - side, y - side, x + side, y + side), colour=canvas.look.ink)
        canvas.write(letter, x, y + 6, em=17, align=0.5)
    return canvas, [letters[place] for place in order]


def _arrows(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    """Where do so many steps along the arrows lead?"""
    canvas, letters = _arrow_sheet(maker, rng, width, height)
    language = draw_language(rng)
    path = letters[: canvas.between(3, min(6, len(letters) - 1)) + 1]
    trace = "\n".join(f"{i}: {a} -> {b}" for i, (a, b) in enumerate(zip(path, path[1:], strict=False), 1))
    question = wording(rng, THINK, "arrows", language).format(path[0], len(path) - 1)
    return _document("think_arrows", maker, rng, [canvas.sheet], question, path[-1], trace, language, path=path)


_ONE_ARROW = (
    ("Where does the arrow from {0} point?", "Which box does the arrow from {0} lead to?",
     "Follow the arrow out of {0}.",
     "Which letter comes right after {0}?", "{0} points to which box?", "Next box after {0}?"),
    ("{0}的箭头指向哪里？", "从{0}出发的箭头到哪个方框？", "{0}的下一个方框是什么？", "{0}指向哪个字母？"),
)  # fmt: skip


def _single_arrows(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    """A row of questions about single arrows: what the steps of `_arrows` are made of."""
    canvas, letters = _arrow_sheet(maker, rng, width, height)
    language = draw_language(rng)
    turns: list[Turn] = []
    for place in rng.permutation(len(letters))[: canvas.between(3, 6)].tolist():
        texts = _ONE_ARROW[language]
        question = texts[int(rng.integers(len(texts)))].format(letters[place])
        turns.append(Turn(question, letters[(place + 1) % len(letters)], 0 if turns else 1))
    return Document("think_single_arrows", [canvas.sheet], turns, language, meta={"path": letters})


def _arrow(canvas: Canvas, start: tuple[float, float], end: tuple[float, float], side: float) -> None:
    length = math.dist(start, end)
    dx, dy = (end[0] - start[0]) / length, (end[1] - start[1]) / length
    gap = side / max(abs(dx), abs(dy)) + 2
    a = (start[0] + dx * gap, start[1] + dy * gap)
    b = (end[0] - dx * gap, end[1] - dy * gap)
    ink = canvas.look.accent
    canvas.mark(LINE, *a, b[0] - 6 * dx, b[1] - 6 * dy, 2.0, colour=ink)
    base = (b[0] - 10 * dx, b[1] - 10 * dy)
    corners = (*b, base[0] - 5 * dy, base[1] + 5 * dx, base[0] + 5 * dy, base[1] - 5 * dx)
    canvas.mark(TRIANGLE, *corners, colour=ink)


def _two_dates(rng: np.random.Generator) -> tuple[datetime.date, datetime.date]:
    first = datetime.date(int(rng.integers(1990, 2040)), int(rng.integers(1, 12)), int(rng.integers(1, 29)))
    return first, first + datetime.timedelta(int(rng.integers(3, 46)))


def days_trace(first: datetime.date, second: datetime.date) -> str:
    """Days to the end of the first month, then those of the second."""
    if (first.year, first.month) == (second.year, second.month):
        return f"{second.day} - {first.day} = {second.day - first.day}"
    last = (first.replace(day=1) + datetime.timedelta(32)).replace(day=1) - datetime.timedelta(1)
    rest, lines = last.day - first.day, []
    lines.append(f"{last.day} - {first.day} = {rest}")
    middle = last + datetime.timedelta(1)
    while (middle.year, middle.month) != (second.year, second.month):
        days = ((middle + datetime.timedelta(32)).replace(day=1) - middle).days
        lines.append(f"{rest} + {days} = {rest + days}")
        rest, middle = rest + days, middle + datetime.timedelta(days)
    lines.append(f"{rest} + {second.day} = {rest + second.day}")
    return "\n".join(lines)


def _days_on_sheet(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    canvas = maker.canvas(rng, width, height)
    language = int(canvas.han)
    first, second = _two_dates(rng)
    form = 5 if language and canvas.chance(0.6) else canvas.between(0, 4)
    texts = [date_text(form, day.year, day.month, day.day) for day in (first, second)]
    em = min(canvas.uniform(12, 22), (height - 2 * canvas.margin) / 5)
    x, y = canvas.margin, canvas.margin + em * canvas.uniform(1.2, 2.0)
    for text in texts:
        canvas.write(text, x, y, em=canvas.fit(text, canvas.body, em, width - 2 * x))
        y += em * 1.6
    question = wording(rng, THINK, "days_on_sheet", language)
    return _document("think_days_on_sheet", maker, rng, [canvas.sheet], question, str((second - first).days),
                     days_trace(first, second), language, dates=[first.isoformat(), second.isoformat()])  # fmt: skip


def _sum_text(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    """Several numbers, or prices, to be added."""
    language = draw_language(rng)
    cents = rng.random() < 0.3
    high = 2000 if cents else int(rng.choice([20, 100, 500]))
    terms = [int(n) for n in rng.integers(2, high, int(rng.integers(3, 7)))]

    def write(n: int) -> str:
        return f"{n / 100:.2f}" if cents else str(n)

    question = wording(rng, THINK, "sum_text", language).format(" + ".join(map(write, terms)))
    trace = sum_trace(terms, write, rng, language)
    return _document("think_sum_text", maker, rng, [], question, write(sum(terms)), trace, language, terms=terms)


def _change_text(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    """What is left after spending two or three amounts."""
    language = draw_language(rng)
    spent = [int(n) for n in rng.integers(5, 60, int(rng.integers(2, 4)))]
    total = sum(spent)
    given = int(rng.choice([n for n in (50, 100, 120, 150, 200, 300) if n > total]))
    joint = ("、" if language else ", ").join(map(str, spent))
    question = wording(rng, THINK, "change_text", language).format(given, joint)
    trace = f"{sum_trace(spent, str, rng, language)}\n{given} - {total} = {given - total}"
    return _document("think_change_text", maker, rng, [], question, str(given - total), trace, language,
                     given=given, spent=spent)  # fmt: skip


def _days_between(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    language = draw_language(rng)
    first, second = _two_dates(rng)
    form = 5 if language else int(rng.integers(0, 5))
    texts = [date_text(form, day.year, day.month, day.day) for day in (first, second)]
    question = wording(rng, THINK, "days_between", language).format(*texts)
    return _document("think_days_between", maker, rng, [], question, str((second - first).days),
                     days_trace(first, second), language, dates=[first.isoformat(), second.isoformat()])  # fmt: skip


Task = Callable[["Maker", np.random.Generator, int, int], Document]
TASKS: dict[str, Task] = {
    "think_receipt_sum": _receipt_sum, "think_table_count": _table_count, "think_chart_difference": _chart_difference,
    "think_arrows": _arrows, "think_single_arrows": _single_arrows, "think_days_on_sheet": _days_on_sheet,
}  # fmt: skip
WEIGHTS: dict[str, float] = {
    "think_receipt_sum": 2.0, "think_table_count": 1.0, "think_chart_difference": 1.3, "think_arrows": 1.6,
    "think_single_arrows": 1.2, "think_days_on_sheet": 0.8,
}  # fmt: skip
TEXT_TASKS: dict[str, Task] = {
    "think_sum_text": _sum_text, "think_change_text": _change_text, "think_days_between": _days_between,
}  # fmt: skip
TEXT_WEIGHTS: dict[str, float] = {"think_sum_text": 2.0, "think_change_text": 1.0, "think_days_between": 0.6}
