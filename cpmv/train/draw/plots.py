"""Drawing of bar, line and pie charts on a canvas: title, axes, ticks, marks, labels, legend.

A plot is given its values and what to show; everything about looks is drawn from the canvas's random generator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .canvas import ASCENT, DESCENT, Canvas, Unfit
from .document import ELLIPSE, FRAME, LINE, RECT, WEDGE, Box, Colour


@dataclass(slots=True)
class Plot:
    """What a chart shows. colour_names: of each category, [] when all look alike. step, num_ticks: of the value axis.

    printed: values stand at the marks; axis: the value axis has tick labels; legend: labels stand in a legend.
    """

    title: str
    labels: list[str]
    values: list[float]
    colours: list[Colour]
    colour_names: list[str]
    step: int
    num_ticks: int
    printed: bool
    axis: bool
    legend: bool
    ending: str = ""

    def number(self, index: int) -> str:
        """A value as a plain number."""
        return f"{self.values[index]:g}" if self.values[index] < 100_000 else str(int(self.values[index]))

    def text(self, index: int) -> str:
        """A value as printed in the chart."""
        return self.number(index) + self.ending


def _pale(canvas: Canvas) -> Colour:
    """Colour of grid lines."""
    return canvas.look.panel if canvas.chance(0.5) else canvas.look.rule


def _title(canvas: Canvas, plot: Plot) -> float:
    """Write the title; returns where the rest may begin."""
    top = canvas.margin
    if not plot.title:
        return top + (ASCENT + DESCENT) * canvas.em * (0.6 if plot.printed else 0.3)
    room = canvas.width - 2 * canvas.margin
    em = canvas.fit(plot.title, canvas.head, canvas.em * canvas.uniform(1.0, 1.5), room)
    align = 0.5 if canvas.chance(0.7) else 0.0
    canvas.write(plot.title, canvas.margin + align * room, top + ASCENT * em, em=em, face=canvas.head, align=align)
    return top + em * (ASCENT + DESCENT) + canvas.em * canvas.uniform(0.6, 1.1)


def _legend(canvas: Canvas, plot: Plot, box: Box, *, values: bool) -> None:
    """Colour boxes with labels, one under the other, in a box that is known to be large enough."""
    em = canvas.em
    pitch = (box[3] - box[1]) / len(plot.labels)
    pitch = min(pitch, em * canvas.uniform(1.25, 1.7))
    y = box[1] + (box[3] - box[1] - pitch * len(plot.labels)) / 2
    for index, label in enumerate(plot.labels):
        baseline = y + (pitch - (ASCENT + DESCENT) * em) / 2 + ASCENT * em
        canvas.mark(RECT, box[0], baseline - em * 0.7, box[0] + em * 0.7, baseline, colour=plot.colours[index])
        end = canvas.write(label, box[0] + em * 1.05, baseline, region="whole")[2]
        if values:
            canvas.write(plot.text(index), end + em * 0.5, baseline, region="whole")
        y += pitch


def _legend_size(canvas: Canvas, plot: Plot, *, values: bool) -> tuple[float, float]:
    """Width and least height of a legend."""
    texts = [label + (" " + plot.text(i) if values else "") for i, label in enumerate(plot.labels)]
    width = max(canvas.measure(text) for text in texts) + canvas.em * 1.5
    return width, canvas.em * (ASCENT + DESCENT + 0.1) * len(texts)


def _beside(canvas: Canvas, plot: Plot, box: Box, *, values: bool = False) -> Box:
    """Put the legend at the right of or under `box`; returns what is left of it."""
    width, height = _legend_size(canvas, plot, values=values)
    left, top, right, bottom = box
    if width < 0.5 * (right - left) and height <= bottom - top and (right - left > bottom - top or canvas.chance(0.4)):
        _legend(canvas, plot, (right - width, top, right, bottom), values=values)
        return left, top, right - width - canvas.em * 0.6, bottom
    if width > right - left or height > 0.5 * (bottom - top):
        raise Unfit("no room for the legend")
    x = left + (right - left - width) * canvas.rng.random()
    _legend(canvas, plot, (x, bottom - height, x + width, bottom), values=values)
    return left, top, right, bottom - height - canvas.em * 0.5


def _value_axis(canvas: Canvas, plot: Plot, area: Box, *, across: bool) -> tuple[float, float]:
    """Tick labels, grid lines and axis lines around `area`. Returns (start, length) of the value direction, px."""
    left, top, right, bottom = area
    em, look = canvas.em, canvas.look
    ticks = canvas.chance(0.5)
    grid = _pale(canvas) if canvas.chance(0.7 if plot.axis else 0.25) else None
    length = right - left if across else bottom - top
    if plot.axis:
        for index in range(plot.num_ticks + 1):
            text, place = str(index * plot.step), length * index / plot.num_ticks
            if across:
                x = left + place
                if grid is not None and index:
                    canvas.rule(x, top, x, bottom, colour=grid)
                canvas.write(
                    text,
                    x,
                    bottom + em * (ASCENT + 0.35),
                    align=0.5,
                    region="whole",
                    derivable=0 < index < plot.num_ticks,
                )
                if ticks:
                    canvas.rule(x, bottom, x, bottom + 3.0, colour=look.ink)
            else:
                y = bottom - place
                if grid is not None and index:
                    canvas.rule(left, y, right, y, colour=grid)
                canvas.write(
                    text, left - em * 0.4, y + em * 0.3, align=1.0, region="whole", derivable=0 < index < plot.num_ticks
                )
                if ticks:
                    canvas.rule(left - 3.0, y, left, y, colour=look.ink)
    if across:
        canvas.rule(left, top, left, bottom, width=1.4, colour=look.ink)
        if plot.axis or canvas.chance(0.4):
            canvas.rule(left, bottom, right, bottom, width=1.4, colour=look.ink)
    else:
        canvas.rule(left, bottom, right, bottom, width=1.4, colour=look.ink)
        if plot.axis or canvas.chance(0.4):
            canvas.rule(left, top, left, bottom, width=1.4, colour=look.ink)
    return (left if across else bottom), length


def _area(canvas: Canvas, plot: Plot, *, across: bool) -> Box:
    """The rectangle of the marks, with room for title, legend, labels and ticks around it."""
    em, margin = canvas.em, canvas.margin
    box = (margin, _title(canvas, plot), canvas.width - margin, canvas.height - margin)
    if plot.legend:
        box = _beside(canvas, plot, box)
    left, top, right, bottom = box
    names = 0.0 if plot.legend else max(canvas.measure(label) for label in plot.labels)
    ticks = max(canvas.measure(str(plot.step * plot.num_ticks)), canvas.measure("0"))
    values = max(canvas.measure(plot.text(index)) for index in range(len(plot.values))) if plot.printed else 0.0
    below = em * (ASCENT + DESCENT + 0.35)
    if across:
        left += names + em * 0.5
        right -= max(values + em * 0.5 if plot.printed else 0.0, ticks / 2 if plot.axis else 0.0)
        bottom -= below if plot.axis else 0.0
        least = ticks * (plot.num_ticks + 0.6) * 1.15 if plot.axis else em * 3
    else:
        left += ticks + em * 0.6 if plot.axis else 0.0
        bottom -= below if not plot.legend else em * 0.4
        top += em * 1.15 if plot.printed else em * 0.4 if plot.axis else 0.0
        least = em * 2.5
    if right - left < least or bottom - top < em * (
        3.0 if across else max(3.0, (ASCENT + DESCENT + 0.12) * plot.num_ticks * plot.axis)
    ):
        raise Unfit("no room for the marks")
    return left, top, right, bottom


def _scale(canvas: Canvas, plot: Plot) -> float:
    """The value at the far end of the value direction."""
    return plot.step * plot.num_ticks if plot.axis else max(plot.values) * canvas.uniform(1.0, 1.2)


def draw_bars(canvas: Canvas, plot: Plot, *, across: bool) -> None:
    """Bars upwards, or across with the first category at the top."""
    area = _area(canvas, plot, across=across)
    left, top, right, bottom = area
    em = canvas.em
    count = len(plot.values)
    slot = (bottom - top if across else right - left) / count
    if across and slot < em * (ASCENT + DESCENT + 0.08):
        raise Unfit("bars too thin for their labels")
    widest = max(
        max(canvas.measure(label) for label in plot.labels) if not plot.legend else 0.0,
        max(canvas.measure(plot.text(i)) for i in range(count)) if plot.printed else 0.0,
    )
    if not across and widest + em * 0.3 > slot:
        raise Unfit("labels wider than bars")
    start, length = _value_axis(canvas, plot, area, across=across)
    scale = _scale(canvas, plot)
    share = canvas.uniform(0.45, 0.85)
    outlined = canvas.chance(0.2)
    for index, value in enumerate(plot.values):
        reach = length * value / scale
        middle = (top if across else left) + slot * (index + 0.5)
        half = slot * share / 2
        if across:
            box = (start + 0.7, middle - half, start + reach, middle + half)
        else:
            box = (middle - half, start - reach, middle + half, start - 0.7)
        canvas.mark(RECT, *box, colour=plot.colours[index])
        if outlined:
            canvas.mark(FRAME, *box, 1.0, colour=canvas.look.ink)
        if across:
            baseline = middle + em * 0.3
            if not plot.legend:
                canvas.write(plot.labels[index], left - em * 0.4, baseline, align=1.0, region="whole")
            if plot.printed:
                canvas.write(plot.text(index), box[2] + em * 0.3, baseline, region="whole")
        else:
            if not plot.legend:
                canvas.write(plot.labels[index], middle, bottom + em * (ASCENT + 0.35), align=0.5, region="whole")
            if plot.printed:
                canvas.write(plot.text(index), middle, box[1] - em * 0.35, align=0.5, region="whole")


def draw_line(canvas: Canvas, plot: Plot) -> None:
    """Points joined by a line, with or without markers."""
    area = _area(canvas, plot, across=False)
    left, _, right, bottom = area
    em, count = canvas.em, len(plot.values)
    slot = (right - left) / count
    texts = [*plot.labels, *[plot.text(index) for index in range(count) if plot.printed]]
    if max(canvas.measure(text) for text in texts) + em * 0.3 > slot:
        raise Unfit("labels wider than their place")
    start, length = _value_axis(canvas, plot, area, across=False)
    scale = _scale(canvas, plot)
    colour = plot.colours[0]
    width = canvas.uniform(1.3, 2.6)
    radius = canvas.uniform(2.0, 3.6) if canvas.chance(0.75) else width / 2
    points = [(left + slot * (i + 0.5), start - length * value / scale) for i, value in enumerate(plot.values)]
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        canvas.mark(LINE, x0, y0, x1, y1, width, colour=colour)
    for index, (x, y) in enumerate(points):
        canvas.mark(ELLIPSE, x - radius, y - radius, x + radius, y + radius, colour=colour)
        canvas.write(plot.labels[index], x, bottom + em * (ASCENT + 0.35), align=0.5, region="whole")
        if plot.printed:
            _write_beside_line(canvas, plot, index, points, radius)


def _write_beside_line(
    canvas: Canvas, plot: Plot, index: int, points: list[tuple[float, float]], radius: float
) -> None:
    """A value above its point, or under a valley, moved aside on a slope so that the line does not cross it."""
    em, (x, y) = canvas.em, points[index]
    before = points[index - 1][1] if index else y
    after = points[index + 1][1] if index + 1 < len(points) else y
    steep = canvas.em * 0.35
    if before < y - steep and after < y - steep:  # y grows downward: a valley
        canvas.write(plot.text(index), x, y + radius + em * (ASCENT + 0.1), align=0.5, region="whole")
        return
    align = 0.9 if after < y - steep else 0.1 if before < y - steep else 0.5
    canvas.write(plot.text(index), x, y - radius - em * 0.3, align=align, region="whole")


def draw_pie(canvas: Canvas, plot: Plot) -> None:
    """Wedges from the top clockwise, named by a legend or around the circle; some are rings."""
    margin, em = canvas.margin, canvas.em
    box = (margin, _title(canvas, plot), canvas.width - margin, canvas.height - margin)
    around = canvas.chance(0.4)
    if around:
        widest = max(canvas.measure(label) for label in plot.labels) + em * 0.5
        tall = em * (ASCENT + DESCENT + 0.3) * (2 if plot.printed else 1)
        if plot.printed:
            widest = max(widest, max(canvas.measure(plot.text(i)) for i in range(len(plot.values))) + em * 0.5)
        box = (box[0] + widest, box[1] + tall, box[2] - widest, box[3] - tall)
    else:
        box = _beside(canvas, plot, box, values=plot.printed)
    radius = min(box[2] - box[0], box[3] - box[1]) / 2
    if radius < max(em * 1.4, 15.0, 0.2 * min(canvas.width, canvas.height)):
        raise Unfit("the pie is too small")
    radius *= canvas.uniform(0.85, 1.0)
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    total, used = sum(plot.values), 0.0
    gap = 0.02 if canvas.chance(0.4) else 0.0
    for index, value in enumerate(plot.values):
        start, end = 2 * math.pi * used / total, 2 * math.pi * (used + value) / total
        canvas.mark(WEDGE, x, y, radius, start + gap, min(end, 2 * math.pi) - gap, colour=plot.colours[index])
        if around:
            _name_wedge(canvas, plot, index, (x, y), radius, (start + end) / 2)
        used += value
    if canvas.chance(0.25):
        hole = radius * canvas.uniform(0.35, 0.6)
        canvas.mark(ELLIPSE, x - hole, y - hole, x + hole, y + hole, colour=canvas.sheet.paper)


def _name_wedge(
    canvas: Canvas, plot: Plot, index: int, centre: tuple[float, float], radius: float, angle: float
) -> None:
    """Label (and value under it) outside the circle, in the wedge's direction."""
    em = canvas.em
    side, down = math.sin(angle), -math.cos(angle)
    x = centre[0] + side * (radius + em * 0.3)
    y = centre[1] + down * (radius + em * 0.3)
    align = 0.5 - 0.5 * max(-1.0, min(1.0, side * 1.6))
    lines = [plot.labels[index], *([plot.text(index)] if plot.printed else [])]
    pitch = em * (ASCENT + DESCENT + 0.06)
    block = pitch * len(lines)
    top = y - block / 2 + down * block / 2
    for place, text in enumerate(lines):
        canvas.write(text, x, top + pitch * place + ASCENT * em, align=align, region="whole")
