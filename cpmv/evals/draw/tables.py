"""Tables: ruled, striped or bare; asked for the whole in Markdown, a cell, or the row with the largest number."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...train.draw.faces import Face
from ..samples import Sample, picture
from .canvas import Colour, Sheet, Size, between, width_of
from .papers import content, fitting_face, goods, look, wording

SIZES: tuple[Size, ...] = ((224, 224), (252, 196), (266, 182), (280, 168), (238, 210))
_SUBJECTS = (
    ("people", ("Name", "姓名"), (("Age", "年纪", 6, 89), ("Points", "分数", 3, 400), ("Room", "房间", 1, 300))),
    ("goods", ("Item", "商品"), (("Qty", "数量", 1, 30), ("Stock", "存量", 3, 900), ("Sold", "售出", 3, 900))),
    ("cities", ("City", "城市"), (("Rain", "雨量", 3, 900), ("Hotels", "旅馆", 3, 300), ("Guests", "客人", 3, 900))),
    ("months", ("Month", "月份"), (("Sales", "收入", 3, 900), ("Cost", "成本", 3, 900), ("Visits", "访问", 3, 900))),
)
_TASKS = ("table_cell", "table_largest", "table_smallest")


@dataclass
class Table:
    """Header and rows as text; numbers[row][column - 1]."""

    header: list[str]
    rows: list[list[str]]
    numbers: list[list[int]]

    def markdown(self) -> str:
        bars = ["| " + " | ".join(cells) + " |" for cells in (self.header, *self.rows)]
        return "\n".join([bars[0], "|" + "---|" * len(self.header), *bars[1:]])

    @property
    def text(self) -> str:
        return "".join("".join(cells) for cells in (self.header, *self.rows))


def make_table(rng: random.Random, chinese: bool, num_rows: int, num_columns: int) -> Table:
    """Names down the side and numbers, or one column of words."""
    from ...train.draw.content import MONTHS

    words, numbers = content(rng)
    subject, first, columns = rng.choice(_SUBJECTS)
    language = int(chinese)
    start = rng.randint(0, 12 - num_rows)
    makers: dict[str, Callable[[], list[str]]] = {
        "people": lambda: words.people(numbers, num_rows, language),
        "goods": lambda: goods(words, numbers, num_rows, language),
        "cities": lambda: words.distinct(numbers, num_rows, language, 8),
        "months": lambda: list(MONTHS[language][start : start + num_rows]),
    }
    names = makers[subject]()[:num_rows]
    chosen = rng.sample(columns, num_columns - 1)
    values = [[rng.randint(low, high) for _, _, low, high in chosen] for _ in names]
    return Table(
        [first[language], *[(column[0], column[1])[language] for column in chosen]],
        [[name, *map(str, row)] for name, row in zip(names, values, strict=True)],
        values,
    )


def draw_table(rng: random.Random, chinese: bool, *, whole: bool) -> Sample:
    """A table on its sheet. whole: as Markdown, else a cell or an extreme."""
    num_rows = rng.randint(2, 4) if whole else rng.randint(3, 6)
    table = make_table(rng, chinese, num_rows, rng.randint(2, 3) if whole else rng.randint(2, 4))
    sheet = lay_out(rng, table, chinese)
    task, values, answer = ("table_markdown", (), table.markdown()) if whole else ask_cell(rng, table, chinese)
    meta = {"kind": task, "language": "zh" if chinese else "en", "header": table.header, "rows": table.rows}
    return picture(sheet.image, wording(rng, task, chinese, *values), answer, **meta)


def ask_cell(rng: random.Random, table: Table, chinese: bool) -> tuple[str, tuple[str, ...], str]:
    """A question with one answer: task, slots, answer."""
    task = rng.choice(_TASKS)
    column = rng.randrange(1, len(table.header))
    values = [row[column - 1] for row in table.numbers]
    wanted = max(values) if task == "table_largest" else min(values)
    if task == "table_cell" or values.count(wanted) > 1:
        row = rng.choice(table.rows)
        return "table_cell", (row[0], table.header[column]), row[column]
    name = table.header[0] if chinese else table.header[0].lower()
    return task, (name, table.header[column]), table.rows[values.index(wanted)][0]


def lay_out(rng: random.Random, table: Table, chinese: bool) -> Sheet:
    """Columns as wide as their text needs, rows evenly spaced, in one of five styles."""
    paper, ink, rule = look(rng)
    size = rng.choice(SIZES)
    face = fitting_face(rng, [table.text], chinese)
    lines = [table.header, *table.rows]
    point, widths = _fit(lines, face, size)
    pad = min(rng.uniform(5, 16), (size[0] - 8 - sum(widths)) / (2 * len(widths)))
    pitch = min(point * rng.uniform(1.4, 2.1), (size[1] - 10) / len(lines))
    total = sum(widths) + 2 * pad * len(widths)
    left = rng.uniform(4, max(4.0, size[0] - 4 - total))
    top = rng.uniform(4, max(4.0, size[1] - 6 - pitch * len(lines)))
    edges = [left]
    for width in widths:
        edges.append(edges[-1] + width + 2 * pad)
    sheet = Sheet(size, paper)
    head_ink = _decorate(rng, sheet, edges, top, pitch, len(lines), (paper, ink, rule))
    right = rng.random() < 0.5
    for row, cells in enumerate(lines):
        baseline = top + row * pitch + (pitch + 0.7 * point) / 2
        for column, text in enumerate(cells):
            number = right and column > 0
            x = edges[column + 1] - pad if number else edges[column] + pad
            sheet.text((x, baseline), text, face, point, ink if row else head_ink, anchor="rs" if number else "ls")
    return sheet


def _fit(lines: Sequence[Sequence[str]], face: Face, size: Size) -> tuple[int, list[float]]:
    for point in range(17, 9, -1):
        widths = [max(width_of(cells[c], face, point) for cells in lines) for c in range(len(lines[0]))]
        if sum(widths) + 8 * len(widths) < size[0] - 8 and point * 1.35 * len(lines) < size[1] - 10:
            break
    return point, widths


def _decorate(
    rng: random.Random, sheet: Sheet, edges: list[float], top: float, pitch: float, num_lines: int,
    colours: tuple[Colour, Colour, Colour]
) -> Colour:  # fmt: skip
    """Rules, stripes or a filled header; returns the ink of the header."""
    paper, ink, rule = colours
    left, right, bottom = edges[0], edges[-1], top + pitch * num_lines
    style = rng.choice(["grid", "rows", "stripes", "header", "bare"])
    head_ink = ink
    if style == "stripes":
        for row in range(1, num_lines, 2):
            band = [left, top + row * pitch, right, top + (row + 1) * pitch]
            sheet.draw.rectangle(band, fill=between(paper, ink, 0.12))
    if style == "header":
        sheet.draw.rectangle([left, top, right, top + pitch], fill=ink)
        head_ink = paper
    if style in ("grid", "rows"):
        for row in range(num_lines + 1):
            sheet.draw.line([left, top + row * pitch, right, top + row * pitch], fill=rule)
    if style == "grid":
        for edge in edges:
            sheet.draw.line([edge, top, edge, bottom], fill=rule)
    if style == "bare":
        sheet.draw.line([left, top + pitch, right, top + pitch], fill=ink)
    return head_ink
