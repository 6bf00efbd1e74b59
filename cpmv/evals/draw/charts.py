"""Bar, line and pie charts whose values are printed or stand on a labelled gridline."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from PIL import Image, ImageDraw

from ...train.draw.faces import Face
from ...train.draw.prompts import COLOURS
from ..samples import Sample, picture
from .canvas import Colour, Sheet, Size, between, choose_face, luma, width_of
from .papers import content, look, wording

SIZES: tuple[Size, ...] = ((224, 224), (252, 196), (266, 182), (238, 210))
_PALETTE = [rgb for name, (_, rgb) in COLOURS.items() if name not in ("white", "black")]
_SCALE = 4


def draw_chart(rng: random.Random, chinese: bool, *, extremes: bool) -> Sample:
    """A chart of three to five categories. extremes: which is the largest or smallest, else the value of one."""
    words, numbers = content(rng)
    count = rng.randint(3, 5)
    names = words.distinct(numbers, count, int(chinese), 4 if chinese else 7)
    form = rng.choice(["bars", "bars", "rows", "line", "pie"])
    step = rng.choice([1, 2, 5, 10, 20])
    values = [step * v for v in rng.sample(range(1, 11), len(names))]
    paper, ink, rule = look(rng)
    if abs(luma(paper) - luma(ink)) < 110:
        paper, ink = (250, 250, 250), (20, 20, 20)
    sheet = Sheet(rng.choice(SIZES), paper)
    face = choose_face(rng, "han" if chinese else "ordinary", False, "".join(names) + "0123456789")
    pen = _Pen(rng, sheet, face, (paper, ink, rule))
    {"bars": pen.bars, "rows": pen.rows, "line": pen.line, "pie": pen.pie}[form](names, values, step)
    if extremes:
        task = rng.choice(["chart_largest", "chart_smallest"])
        wanted = max(values) if task == "chart_largest" else min(values)
        question, answer = wording(rng, task, chinese), names[values.index(wanted)]
    else:
        task, index = "chart_value", rng.randrange(len(names))
        question, answer = wording(rng, task, chinese, names[index]), str(values[index])
    meta = {
        "kind": f"{form} {task}",
        "language": "zh" if chinese else "en",
        "data": dict(zip(names, values, strict=True)),
    }
    return picture(sheet.image, question, answer, **meta)


class _Pen:
    """Draws one chart; shapes on a canvas four times larger, averaged down."""

    def __init__(self, rng: random.Random, sheet: Sheet, face: Face, colours: tuple[Colour, Colour, Colour]) -> None:
        self.rng, self.sheet, self.face = rng, sheet, face
        self.paper, self.ink, self.rule = colours
        self.point = rng.randint(11, 13)
        self.printed = rng.random() < 0.6  # values beside their marks, else an axis with ticks
        self.fills = self._fills()

    def _fills(self) -> list[Colour]:
        usable = [c for c in _PALETTE if sum((a - b) ** 2 for a, b in zip(c, self.paper, strict=True)) > 9000]
        self.rng.shuffle(usable)
        return usable if self.rng.random() < 0.5 else usable[:1] * 6

    def _text(self, x: float, y: float, text: str, anchor: str = "ms") -> None:
        self.sheet.text((x, y), text, self.face, self.point, self.ink, anchor)

    def _shapes(self, polygons: Sequence[tuple[Sequence[tuple[float, float]], Colour]]) -> None:
        width, height = self.sheet.size
        for points, colour in polygons:
            mask = Image.new("L", (width * _SCALE, height * _SCALE), 0)
            ImageDraw.Draw(mask).polygon([(x * _SCALE, y * _SCALE) for x, y in points], fill=255)
            self.sheet.image.paste(colour, (0, 0), mask.reduce(_SCALE))

    def _frame(self, values: Sequence[int], step: int) -> tuple[float, float, float, float]:
        """Plot area (left, top, right, bottom) with its axis, after labels have room."""
        width, height = self.sheet.size
        left = 12 + (0 if self.printed else width_of(str(max(values)), self.face, self.point) + 4)
        area = (left, 10 + self.point, width - 10.0, height - 10 - 1.4 * self.point)
        if not self.printed:
            self._ticks(values, step, area)
        self.sheet.draw.line([area[0], area[3], area[2], area[3]], fill=self.ink)
        return area

    def _top_value(self, values: Sequence[int], step: int) -> int:
        return step * (max(values) // step)

    def _ticks(self, values: Sequence[int], step: int, area: tuple[float, float, float, float]) -> None:
        """Gridlines on every value that can be asked, labelled at every other where they stand close."""
        top = self._top_value(values, step)
        every = 1 if (area[3] - area[1]) / (top / step) > 1.1 * self.point else 2
        for index in range(top // step + 1):
            y = area[3] - (area[3] - area[1]) * index * step / top
            self.sheet.draw.line([area[0], y, area[2], y], fill=between(self.paper, self.rule, 0.6))
            if index % every == 0:
                self._text(area[0] - 4, y + 0.35 * self.point, str(index * step), "rs")

    def _labels(self, names: Sequence[str], area: tuple[float, float, float, float]) -> float:
        """Category names below the axis; returns the room of one."""
        room = (area[2] - area[0]) / len(names)
        while max(width_of(name, self.face, self.point) for name in names) > room - 2 and self.point > 9:
            self.point -= 1
        for index, name in enumerate(names):
            self._text(area[0] + (index + 0.5) * room, area[3] + 1.2 * self.point, name)
        return room

    def bars(self, names: Sequence[str], values: Sequence[int], step: int) -> None:
        area = self._frame(values, step)
        room = self._labels(names, area)
        thick = room * self.rng.uniform(0.45, 0.75)
        top = self._top_value(values, step)
        boxes = []
        for index, value in enumerate(values):
            x = area[0] + (index + 0.5) * room
            y = area[3] - (area[3] - area[1]) * value / top
            corners = [(x - thick / 2, area[3]), (x + thick / 2, area[3]), (x + thick / 2, y), (x - thick / 2, y)]
            boxes.append((corners, self.fills[index % len(self.fills)]))
        self._shapes(boxes)
        if self.printed:
            for index, value in enumerate(values):
                y = area[3] - (area[3] - area[1]) * value / top
                self._text(area[0] + (index + 0.5) * room, y - 3, str(value))

    def rows(self, names: Sequence[str], values: Sequence[int], step: int) -> None:
        """Horizontal bars, their values at the ends."""
        width, height = self.sheet.size
        left = 14 + max(width_of(name, self.face, self.point) for name in names)
        right = width - 12 - width_of(str(max(values)), self.face, self.point)
        pitch = (height - 16) / len(names)
        boxes = []
        for index, (name, value) in enumerate(zip(names, values, strict=True)):
            y, x = 8 + (index + 0.5) * pitch, left + (right - left) * value / max(values)
            half = pitch * 0.3
            corners = [(left, y - half), (x, y - half), (x, y + half), (left, y + half)]
            boxes.append((corners, self.fills[index % len(self.fills)]))
            self._text(left - 5, y + 0.35 * self.point, name, "rs")
            self._text(x + 4, y + 0.35 * self.point, str(value), "ls")
        self._shapes(boxes)
        self.sheet.draw.line([left, 6, left, height - 6], fill=self.ink)

    def line(self, names: Sequence[str], values: Sequence[int], step: int) -> None:
        area = self._frame(values, step)
        room = self._labels(names, area)
        top = self._top_value(values, step)
        points = [
            (area[0] + (index + 0.5) * room, area[3] - (area[3] - area[1]) * value / top)
            for index, value in enumerate(values)
        ]
        colour = self.fills[0]
        parts = []
        for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
            length = math.hypot(x1 - x0, y1 - y0)
            dx, dy = (y0 - y1) / length, (x1 - x0) / length  # the line is two pixels wide
            parts.append(([(x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy), (x0 - dx, y0 - dy)], colour))
        dot = [(math.cos(a * math.pi / 8) * 3.5, math.sin(a * math.pi / 8) * 3.5) for a in range(16)]
        parts += [([(x + dx, y + dy) for dx, dy in dot], colour) for x, y in points]
        self._shapes(parts)
        if self.printed:
            for (x, y), value in zip(points, values, strict=True):
                self._text(x, y - 6, str(value))

    def pie(self, names: Sequence[str], values: Sequence[int], step: int) -> None:
        """A disc at the left or top, and a legend with colour, name and value."""
        usable = [c for c in _PALETTE if sum((a - b) ** 2 for a, b in zip(c, self.paper, strict=True)) > 9000]
        self.rng.shuffle(usable)
        width, height = self.sheet.size
        texts = [f"{name} {value}" for name, value in zip(names, values, strict=True)]
        legend = max(width_of(text, self.face, self.point) for text in texts) + 22
        radius = max(24.0, min(width - legend - 16, height - 20) / 2)
        x, y, start = 8 + radius, height / 2, -math.pi / 2
        wedges = []
        for value, colour in zip(values, usable, strict=False):
            end = start + 2 * math.pi * value / sum(values)
            arc = [start + (end - start) * i / 40 for i in range(41)]
            points = [(x, y), *[(x + radius * math.cos(a), y + radius * math.sin(a)) for a in arc]]
            wedges.append((points, colour))
            start = end
        self._shapes(wedges)
        pitch = min(2.2 * self.point, (height - 16) / len(names))
        row = height / 2 - pitch * len(names) / 2
        for text, colour in zip(texts, usable, strict=False):
            row += pitch
            side = self.point - 3
            at = (2 * radius + 16, row - side)
            self.sheet.draw.rectangle([at[0], at[1], at[0] + side, at[1] + side], fill=colour)
            self._text(at[0] + side + 5, row, text, "ls")
