"""Charts: what is plotted and what is asked; `plots.py` draws them.

Values that are not printed lie on ticks or halfway between two, so that they can be read off the axis exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .canvas import Canvas, Unfit, luminance
from .content import MONTHS, WEEKDAYS
from .document import Colour, Document, Turn
from .plots import Plot, draw_bars, draw_line, draw_pie
from .prompts import COLOURS, YES_NO
from .questions import ask, row_of_turns

if TYPE_CHECKING:
    from .documents import Maker, Task

_STEPS = (1, 2, 4, 5, 10, 20, 25, 40, 50, 100, 200, 250, 500, 1000)
_HALVED = (2, 4, 10, 20, 40, 50, 100, 200, 500, 1000)  # steps whose half is a whole number
_TOPICS = (
    (
        "Sales",
        "Visitors",
        "Rain",
        "Points",
        "Votes",
        "Orders",
        "Cost",
        "Profit",
        "Score",
        "Guests",
        "Trips",
        "Books sold",
    ),
    ("收入", "客人", "雨量", "分数", "票数", "定单", "成本", "产量", "成绩", "人数", "销量", "气温"),
)
_SORTS = (*["bar"] * 5, "across", "across", *["line"] * 3, "pie", "pie")
_YEARS = [str(year) for year in range(1990, 2040)]


@dataclass(slots=True)
class Chart:
    """A drawn chart: what it plots and how."""

    sort: str
    plot: Plot

    def unique(self, value: float) -> bool:
        return self.plot.values.count(value) == 1


def _labels(maker: Maker, rng: np.random.Generator, count: int, language: int, sort: str, longest: int) -> list[str]:
    """Names of the categories; a line runs over time."""
    content = maker.content
    draw = rng.random()
    if draw < (0.4 if sort == "line" else 0.12):
        quarters = ["Q1", "Q2", "Q3", "Q4"] if not language else ["春", "夏", "秋", "冬"]
        days = [day[:3] for day in WEEKDAYS[0]] if not language else [day[-1] for day in WEEKDAYS[1]]
        runs = [
            run
            for run in (list(MONTHS[language]), _YEARS, days, quarters)
            if len(run) >= count and len(run[0]) <= longest
        ]
        if runs:
            run = runs[int(rng.integers(len(runs)))]
            start = int(rng.integers(len(run) - count + 1))
            return run[start : start + count]
    draw = rng.random()
    if draw < 0.1:
        names = content.people(rng, 3 * count, language)
    elif draw < 0.2:
        names = content.cities(rng, 3 * count, language)
    elif draw < 0.26 and not language:
        names = content.sample(rng, list("ABCDEFGHJKLMNPRST"), count)
    elif draw < 0.75:
        names = content.distinct(rng, count + 2, language, min(longest, 10))
    else:
        names = content.goods(rng, 3 * count, language) + content.distinct(rng, count, language, longest)
    names = list(dict.fromkeys(name for name in names if len(name) <= longest))[:count]
    if len(names) < count:
        raise Unfit("too few short names")
    return names


def _values(canvas: Canvas, count: int, *, printed: bool) -> tuple[list[float], int, int]:
    """Values, tick step and number of ticks above zero."""
    rng = canvas.rng
    steps = _STEPS if printed else _HALVED if canvas.chance(0.6) else _STEPS
    step = steps[int(rng.integers(len(steps)))]
    num_ticks = canvas.between(3, 6)
    top = step * num_ticks
    if printed:
        drawn = rng.integers(max(1, top // 12), top + 1, size=count)
    elif step in _HALVED:
        drawn = rng.integers(1, 2 * num_ticks + 1, size=count) * (step // 2)
    else:
        drawn = rng.integers(1, num_ticks + 1, size=count) * step
    values = [float(value) for value in drawn]
    if max(values) <= top - step and num_ticks > 3:
        values[int(rng.integers(count))] = float(top)
    return values, step, num_ticks


def _shares(canvas: Canvas, count: int) -> list[float]:
    """Percentages of a pie, whole numbers that sum to 100, each at least 4."""
    cuts = canvas.rng.dirichlet(np.full(count, 2.0)) * (100 - 4 * count)
    shares = np.floor(cuts).astype(int) + 4
    shares[int(canvas.rng.integers(count))] += 100 - int(shares.sum())
    return [float(share) for share in shares]


def _palette(canvas: Canvas, count: int) -> tuple[list[Colour], list[str]]:
    """Named colours that stand out from the paper, and from each other by name."""
    paper = canvas.sheet.paper
    usable = [name for name, (_, rgb) in COLOURS.items()
              if abs(luminance((rgb[0] / 255, rgb[1] / 255, rgb[2] / 255)) - luminance(paper)) > 0.2]  # fmt: skip
    if len(usable) < count:
        raise Unfit("too few colours stand out")
    names = [usable[int(index)] for index in canvas.rng.permutation(len(usable))[:count]]
    jitter = canvas.rng.uniform(-0.04, 0.04, (count, 3))
    rgb = np.clip(np.array([COLOURS[name][1] for name in names]) / 255 + jitter, 0, 1)
    return [(float(r), float(g), float(b)) for r, g, b in rgb], names


def compose(maker: Maker, rng: np.random.Generator, width: int, height: int, task: str) -> tuple[Canvas, Chart]:
    """A chart that can answer `task`. Raises Unfit when it cannot."""
    canvas = maker.canvas(rng, width, height)
    canvas.em = min(canvas.em, max(canvas.least_em, min(width, height) / 11))
    language = int(canvas.han)
    sort = _SORTS[canvas.between(0, len(_SORTS) - 1)]
    coloured = sort == "pie" or task == "chart_colour" or canvas.chance(0.35)
    small = min(width, height)
    most = max(2, min(8 if sort != "pie" else 6, int(small / canvas.em / 2.6 * maker.ease + 1)))
    count = max(2, canvas.between(min(3, most), most))
    longest = 9 if sort in ("across", "pie") else max(3, int(width / count / (canvas.em * 0.6)))
    labels = _labels(maker, rng, count, language, sort, longest)
    printed = canvas.chance(0.6) or (sort == "pie" and task in ("chart_value", "chart_category", "chart_table"))
    if sort == "pie":
        values, step, num_ticks = _shares(canvas, count), 0, 0
    else:
        values, step, num_ticks = _values(canvas, count, printed=printed)
    if coloured:
        colours, names = _palette(canvas, count)
    else:
        colour = canvas.look.accent if canvas.chance(0.6) else canvas.look.soft
        colours, names = [colour] * count, []
    title = ""
    if task == "chart_title" or canvas.chance(0.55):
        topic = (
            maker.content.pick(rng, _TOPICS[language]) if canvas.chance(0.5) else maker.content.heading(rng, language)
        )
        year = f" {rng.integers(1990, 2040)}" if canvas.chance(0.25) and not language else ""
        title = topic + year
    legend = coloured and (sort == "pie" or canvas.chance(0.35)) and sort != "line"
    axis = sort != "pie" and (not printed or canvas.chance(0.6))
    ending = "%" if sort == "pie" and canvas.chance(0.8) else ""
    plot = Plot(title, labels, values, colours, names, step, num_ticks, printed=printed, axis=axis, legend=legend,
                ending=ending)  # fmt: skip
    if sort == "line":
        draw_line(canvas, plot)
    elif sort == "pie":
        draw_pie(canvas, plot)
    else:
        draw_bars(canvas, plot, across=sort == "across")
    return canvas, Chart(sort, plot)


def _answer(task: str, canvas: Canvas, chart: Chart, language: int) -> tuple[str, tuple[str, ...]]:
    """Answer and slot values. Raises Unfit when the chart has no single answer."""
    plot = chart.plot
    index = canvas.between(0, len(plot.labels) - 1)
    if task == "chart_value":
        return plot.number(index), (plot.labels[index],)
    if task == "chart_title":
        return plot.title, ()
    if task == "chart_count":
        return str(len(plot.labels)), ()
    if task == "chart_table":
        return "\n".join(f"{label}: {plot.number(i)}" for i, label in enumerate(plot.labels)), ()
    if task == "chart_colour":
        if not plot.colour_names or chart.sort == "line":
            raise Unfit("no colours by category")
        name = plot.colour_names[index]
        return (name, COLOURS[name][0])[language], (plot.labels[index],)
    if task == "chart_category":
        if not chart.unique(plot.values[index]):
            raise Unfit("not the only one")
        return plot.labels[index], (plot.text(index) if plot.printed else plot.number(index),)
    if task == "chart_more":
        other = (index + canvas.between(1, len(plot.labels) - 1)) % len(plot.labels)
        if not _apart(chart, plot.values[index], plot.values[other]):
            raise Unfit("too close")
        return YES_NO[language][0 if plot.values[index] > plot.values[other] else 1], (
            plot.labels[index],
            plot.labels[other],
        )
    ordered = sorted(plot.values, reverse=task == "chart_largest")
    if not _apart(chart, ordered[0], ordered[1]):
        raise Unfit("no clear extreme")
    return plot.labels[plot.values.index(ordered[0])], ()


def _apart(chart: Chart, one: float, other: float) -> bool:
    """Whether the difference can be seen (or read, where values are printed)."""
    top = max(chart.plot.values)
    return abs(one - other) >= (0.02 if chart.plot.printed else 0.06) * top and one != other


_CHAT = {"chart_value": 5.0, "chart_largest": 3.0, "chart_smallest": 3.0, "chart_category": 1.5, "chart_more": 1.0,
         "chart_count": 0.5, "chart_title": 0.3, "chart_colour": 0.3}  # fmt: skip


def _chat(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    """A row of short questions about one chart."""
    canvas, chart = compose(maker, rng, width, height, "chart_value")
    language = int(canvas.han)
    turns = row_of_turns(rng, _CHAT, lambda task: _answer(task, canvas, chart, language), language,
                         most=canvas.between(3, 7), room=70)  # fmt: skip
    meta = {"sort": chart.sort, "labels": chart.plot.labels, "values": chart.plot.values, "printed": chart.plot.printed}
    return Document("chart_chat", [canvas.sheet], turns, language, meta=meta)


def _task(task: str) -> Task:
    def make(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
        canvas, chart = compose(maker, rng, width, height, task)
        copied = task in ("chart_largest", "chart_smallest", "chart_title", "chart_count", "chart_table")
        language = maker.language(canvas) if copied else int(canvas.han)
        answer, values = _answer(task, canvas, chart, language)
        turn = Turn(ask(rng, task, language, *values), answer, 1)
        meta = {"sort": chart.sort, "labels": chart.plot.labels, "values": chart.plot.values,
                "printed": chart.plot.printed}  # fmt: skip
        return Document(task, [canvas.sheet], [turn], language, meta=meta)

    return make


WEIGHTS: dict[str, float] = {
    "chart_value": 3.0, "chart_largest": 2.0, "chart_smallest": 2.0, "chart_category": 1.2, "chart_count": 0.6,
    "chart_title": 0.6, "chart_colour": 0.4, "chart_table": 1.0, "chart_more": 0.8, "chart_chat": 8.0,
}  # fmt: skip
TASKS: dict[str, Task] = {name: _task(name) for name in WEIGHTS if name != "chart_chat"} | {"chart_chat": _chat}
