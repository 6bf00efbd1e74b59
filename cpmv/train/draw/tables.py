"""Tables of a few columns: people, goods, cities, days or months, ruled or striped, with or without a sum row.

Asked for the whole table as Markdown, single cells, rows, columns, the row with the largest or smallest number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .canvas import ASCENT, DESCENT, Canvas, Unfit
from .content import MONTHS, WEEKDAYS, Money
from .document import Document, Turn
from .questions import ask, row_of_turns

if TYPE_CHECKING:
    from .documents import Maker, Task

# Subjects: what names the rows (English, Chinese), and the columns that go with it: header, Chinese header, sort.
_SUBJECTS: dict[str, tuple[tuple[str, str], tuple[tuple[str, str, str], ...]]] = {
    "people": (
        ("Name", "姓名"),
        (("Age", "年纪", "age"), ("City", "城市", "city"), ("Points", "分数", "count"), ("Job", "职业", "job"),
         ("Room", "房间", "count"), ("Score", "成绩", "score"), ("Start", "开始", "time"), ("Days", "天数", "small"),
         ("Code", "编号", "code"), ("Born", "出生", "year"), ("Fee", "费用", "money"), ("Paid", "交费", "yes")),
    ),
    "goods": (
        ("Item", "商品"),
        (("Price", "单价", "money"), ("Qty", "数量", "small"), ("Stock", "存量", "count"), ("Code", "编号", "code"),
         ("Sold", "售出", "count"), ("Weight", "重量", "weight"), ("Order", "次序", "small"), ("Share", "比例",
         "percent"),
         ("New", "新品", "yes"), ("Shelf", "架号", "code")),
    ),
    "cities": (
        ("City", "城市"),
        (("Temp", "气温", "degrees"), ("Rain", "雨量", "count"), ("Hotels", "旅馆", "count"), ("Train", "火车", "time"),
         ("Fare", "票价", "money"), ("Guests", "客人", "count"), ("Area", "面积", "count"), ("Since", "始于", "year"),
         ("Share", "比例", "percent")),
    ),
    "days": (
        ("Day", "日期"),
        (("Open", "开门", "time"), ("Close", "关门", "time"), ("Task", "任务", "word"), ("Guests", "客人", "count"),
         ("Sales", "收入", "count"), ("Guide", "导游", "person"), ("Temp", "气温", "degrees"), ("Hours", "时数",
         "small")),
    ),
    "months": (
        ("Month", "月份"),
        (("Sales", "收入", "count"), ("Cost", "成本", "count"), ("Orders", "定单", "small"), ("Rain", "雨量", "count"),
         ("Share", "比例", "percent"), ("Visits", "访问", "count"), ("Temp", "气温", "degrees")),
    ),
    "words": (
        ("Word", "词语"),
        (("Type", "类型", "word"), ("Page", "页", "count"), ("Level", "级别", "small"), ("Index", "号", "code"),
         ("Count", "次数", "count")),
    ),
}  # fmt: skip
_FRESH_HEADERS = 0.4  # share of tables with headers that are any words
_ADDITIVE = ("count", "small", "money")
_NUMERIC = (*_ADDITIVE, "age", "score", "percent", "degrees", "weight", "year")
_TOTAL = (("Total", "Sum", "All"), ("合计", "总计"))


@dataclass(slots=True)
class Table:
    """Cells as text, and numbers where a column has them. `header[0]` names the rows."""

    header: list[str]
    sorts: list[str]
    cells: list[list[str]]
    numbers: list[list[float]] = field(default_factory=list)
    sums: list[str] = field(default_factory=list)
    title: str = ""

    @property
    def rows(self) -> list[list[str]]:
        """All rows below the header, the sum row included."""
        return [*self.cells, self.sums] if self.sums else self.cells

    def markdown(self) -> str:
        """The table in Markdown, without padding."""
        lines = [_bar(self.header), "|" + "---|" * len(self.header), *[_bar(row) for row in self.rows]]
        return "\n".join(lines)


def _bar(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


class _Cells:
    """Makes the cells of a column: text and number (0 where there is none)."""

    def __init__(self, maker: Maker, rng: np.random.Generator, language: int) -> None:
        self.content, self.rng, self.language = maker.content, rng, language
        self.money = Money(rng, language, plain=rng.random() < 0.5)
        self.unit = ("kg", "g", "lb")[int(rng.integers(3))]
        self.degree = ("°C", "°", "")[int(rng.integers(3))]

    def cell(self, sort: str) -> tuple[str, float]:
        rng, content, language = self.rng, self.content, self.language
        if sort == "money":
            cents = self.money.amount(rng, 3000)
            return self.money.text(cents), cents
        if sort in ("age", "small", "count", "year", "percent", "degrees", "weight", "score"):
            low, high = {"age": (6, 90), "small": (1, 30), "count": (3, 999), "year": (1990, 2040), "percent": (1, 99),
                         "degrees": (1, 38), "weight": (1, 99), "score": (10, 100)}[sort]  # fmt: skip
            number = int(rng.integers(low, high))
            ending = {"percent": "%", "degrees": self.degree, "weight": f" {self.unit}"}.get(sort, "")
            if sort == "score":
                return f"{number / 10:.1f}", number / 10
            return f"{number}{ending}", number
        texts: dict[str, Callable[[], str]] = {
            "city": lambda: content.city(rng, language), "job": lambda: content.job(rng, language),
            "time": lambda: content.time(rng), "code": lambda: content.code(rng).replace("#", ""),
            "word": lambda: content.title_word(rng, language), "person": lambda: content.person(rng, language,
            full=False),
            "yes": lambda: (("no", "yes"), ("否", "是"))[language][int(rng.integers(2))],
        }  # fmt: skip
        return texts[sort](), 0.0


def _row_names(maker: Maker, rng: np.random.Generator, subject: str, count: int, language: int) -> list[str]:
    content = maker.content
    if subject == "people":
        return content.people(rng, count, language)
    if subject == "cities":
        return content.cities(rng, count, language)
    if subject == "goods":
        return content.goods(rng, count, language)[:count]
    if subject == "words":
        return content.distinct(rng, count, language)
    names = WEEKDAYS[language] if subject == "days" else MONTHS[language]
    count = min(count, len(names))
    start = int(rng.integers(len(names) - count + 1))
    return list(names[start : start + count])


def write(maker: Maker, canvas: Canvas, num_columns: int, num_rows: int) -> Table:
    """A table of at most `num_columns` x `num_rows` cells below its header."""
    rng, language = canvas.rng, int(canvas.han)
    subject = list(_SUBJECTS)[canvas.between(0, len(_SUBJECTS) - 1)]
    first, columns = _SUBJECTS[subject]
    summed = canvas.chance(0.3)
    usable = [column for column in columns if not summed or column[2] in _ADDITIVE]
    chosen = [usable[int(i)] for i in rng.permutation(len(usable))[: max(1, num_columns - 1)]]
    names = _row_names(maker, rng, subject, num_rows - summed, language)
    if len(names) < 2:
        raise Unfit("too few rows")
    maker_of = _Cells(maker, rng, language)
    made = [[maker_of.cell(sort) for _, _, sort in chosen] for _ in names]
    heads = [first[language], *[column[language] for column in chosen]]
    if not maker.held_out and canvas.chance(_FRESH_HEADERS):
        fresh = maker.content.distinct(rng, len(heads), language, 8)
        keep = rng.random(len(heads)) < 0.4
        heads = [head if kept else new for head, new, kept in zip(heads, fresh, keep, strict=False)]
    if len(set(heads)) < len(chosen) + 1:
        raise Unfit("a header stands twice")
    table = Table(
        heads,
        ["name", *[sort for _, _, sort in chosen]],
        [[name, *[text for text, _ in row]] for name, row in zip(names, made, strict=True)],
        [[0.0, *[number for _, number in row]] for row in made],
    )
    if summed:
        totals = np.array(table.numbers).sum(0)[1:]
        texts = [maker_of.money.text(int(total)) if sort == "money" else str(int(total))
                 for total, (_, _, sort) in zip(totals, chosen, strict=True)]  # fmt: skip
        table.sums = [maker.content.pick(rng, _TOTAL[language]), *texts]
    if canvas.chance(0.4):
        table.title = maker.content.heading(rng, language)
    return table


def _widths(canvas: Canvas, table: Table, head: int, em: float) -> list[float]:
    """Room that each column needs."""
    widths = [canvas.measure(text, head, em) for text in table.header]
    for row in table.rows:
        widths = [max(width, canvas.measure(text, em=em)) for width, text in zip(widths, row, strict=True)]
    if table.sums:
        widths = [max(w, canvas.measure(text, head, em)) for w, text in zip(widths, table.sums, strict=True)]
    return widths


def draw(canvas: Canvas, table: Table) -> None:
    """Lay the table out and write it. Raises Unfit when it is too wide or too tall."""
    margin, em = canvas.margin, canvas.em
    room = canvas.width - 2 * margin
    top = margin
    if table.title:
        size = canvas.fit(table.title, canvas.head, em * canvas.uniform(1.0, 1.5), room)
        align = 0.5 * canvas.between(0, 1)
        canvas.write(table.title, margin + align * room, top + ASCENT * size, em=size, face=canvas.head, align=align)
        top += size * (ASCENT + DESCENT) + em * canvas.uniform(0.2, 0.8)
    head = canvas.faces.bold(canvas.body) if canvas.chance(0.6) else canvas.body
    widths = _widths(canvas, table, head, em)
    least_pad = em * 0.35
    pad = (room - sum(widths)) / (2 * len(widths))
    if pad < least_pad:
        em = max(canvas.least_em, em * (room - 2 * least_pad * len(widths)) / sum(widths))
        widths = _widths(canvas, table, head, em)
        pad = (room - sum(widths)) / (2 * len(widths))
        if pad < least_pad * 0.8:
            raise Unfit("the table is too wide")
    pad = min(pad, canvas.uniform(least_pad, 3.0 * em))
    num_lines = 1 + len(table.rows)
    pitch = (canvas.height - margin - top) / num_lines
    least = (ASCENT + DESCENT + 0.12) * em
    if pitch < least:
        raise Unfit("the table is too tall")
    pitch = min(pitch, canvas.uniform(1.25, 2.1) * em)
    total = sum(widths) + 2 * pad * len(widths)
    left = margin + (room - total) * (0.0 if canvas.chance(0.4) else 0.5 if canvas.chance(0.7) else canvas.rng.random())
    top += (canvas.height - margin - top - pitch * num_lines) * canvas.rng.random() * canvas.chance(0.6)
    edges = [left]
    for width in widths:
        edges.append(edges[-1] + width + 2 * pad)
    head_colour = _lines(canvas, edges, top, pitch, num_lines, bool(table.sums))
    aligns = [0.0, *[(0.0, 0.5, 1.0)[canvas.between(0, 2)]] * (len(widths) - 1)] if canvas.chance(0.5) else [
        0.0, *[1.0 if sort in _NUMERIC else 0.0 for sort in table.sorts[1:]]]  # fmt: skip
    for index, row in enumerate([table.header, *table.rows]):
        baseline = top + index * pitch + (pitch - (ASCENT + DESCENT) * em) / 2 + ASCENT * em
        is_sum = bool(table.sums) and index == num_lines - 1
        face = head if index == 0 or is_sum else canvas.body
        for column, text in enumerate(row):
            room_here = edges[column + 1] - edges[column] - 2 * pad
            x = edges[column] + pad + aligns[column] * room_here
            canvas.write(
                text,
                x,
                baseline,
                em=em,
                face=face,
                align=aligns[column],
                region="whole",
                colour=head_colour if index == 0 else canvas.look.ink,
                derivable=is_sum and column > 0,
            )


def _lines(
    canvas: Canvas, edges: list[float], top: float, pitch: float, num_lines: int, summed: bool
) -> tuple[float, float, float]:
    """Rules, stripes and the header's band; returns the colour of the header's text."""
    look, left, right = canvas.look, edges[0], edges[-1]
    bottom = top + pitch * num_lines
    style = canvas.between(0, 5)  # grid, rows, header only, stripes, band + rows, bare
    colour = look.ink
    if style in (3, 4) or canvas.chance(0.2):
        band = canvas.chance(0.5)
        canvas.fill((left, top, right, top + pitch), look.accent if band else look.panel)
        colour = look.paper if band else look.ink
    if style == 3:
        for index in range(2, num_lines, 2):
            canvas.fill((left, top + index * pitch, right, top + (index + 1) * pitch), look.panel)
    width = canvas.uniform(1.0, 1.8)
    if style in (0, 1, 4):
        for index in range(num_lines + 1):
            canvas.rule(left, top + index * pitch, right, top + index * pitch, width=width)
    if style == 0:
        for edge in edges:
            canvas.rule(edge, top, edge, bottom, width=width)
    if style == 2:
        for y in (top, top + pitch, bottom):
            canvas.rule(left, y, right, y, width=width, colour=look.ink)
    if style == 5 and canvas.chance(0.5):
        canvas.rule(left, top + pitch, right, top + pitch, width=width)
    if summed:
        canvas.rule(left, bottom - pitch, right, bottom - pitch, width=width + 0.6, colour=look.ink)
    return colour


def compose(maker: Maker, rng: np.random.Generator, width: int, height: int, *, whole: bool) -> tuple[Canvas, Table]:
    """A table on a sheet. whole: short enough to be written as Markdown in the answer."""
    canvas = maker.canvas(rng, width, height)
    canvas.em = min(canvas.em, max(canvas.least_em, height / 8))
    letter = canvas.em * (1.0 if canvas.han else 0.52)
    across = max(2, int((width - 2 * canvas.margin) / (letter * (4.2 if canvas.han else 7.5))))
    num_columns = min(canvas.between(2, 6), across)
    down = int((height - 2 * canvas.margin) / (canvas.em * 1.3)) - 1
    cell = 6 if canvas.han else 9
    budget = canvas.limits.answer if whole else canvas.limits.glyphs
    affordable = int(budget * canvas.ease / (num_columns * (cell if whole else cell - 3))) - (2 if whole else 1)
    num_rows = max(2, min(canvas.between(2, 9), down, affordable))
    table = write(maker, canvas, num_columns, num_rows)
    draw(canvas, table)
    return canvas, table


def _answer(task: str, canvas: Canvas, table: Table) -> tuple[str, tuple[str, ...]]:
    """Answer and slot values. Raises Unfit when this table has no single answer."""
    row = table.cells[canvas.between(0, len(table.cells) - 1)]
    column = canvas.between(1, len(table.header) - 1)
    name, header = table.header[0] if canvas.han else table.header[0].lower(), table.header[column]
    if task == "table_markdown":
        return table.markdown(), ()
    if task == "table_cell":
        rows = table.rows
        row = rows[canvas.between(0, len(rows) - 1)]
        return row[column], (row[0], header)
    if task == "table_row":
        return ", ".join(row), (row[0],)
    if task == "table_num_rows":
        if table.sums:
            raise Unfit("a sum row")
        return str(len(table.cells)), (name,)
    if task == "table_column":
        column = canvas.between(0, len(table.header) - 1)
        return ", ".join(cells[column] for cells in table.cells), (table.header[column],)
    if task == "table_find":
        values = [cells[column] for cells in table.cells]
        if values.count(row[column]) > 1 or row[column] in table.sums:
            raise Unfit("not the only one")
        return row[0], (name, header, row[column])
    numeric = [index for index, sort in enumerate(table.sorts) if sort in _NUMERIC]
    if not numeric:
        raise Unfit("no numbers")
    column = numeric[canvas.between(0, len(numeric) - 1)]
    numbers = [line[column] for line in table.numbers]
    wanted = max(numbers) if task == "table_largest" else min(numbers)
    if numbers.count(wanted) > 1:
        raise Unfit("two extremes")
    return table.cells[numbers.index(wanted)][0], (name, table.header[column])


_CHAT = {"table_cell": 4.0, "table_largest": 3.5, "table_smallest": 3.5, "table_find": 1.5, "table_row": 0.5,
         "table_num_rows": 0.4, "table_column": 0.4}  # fmt: skip


def _chat(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    """A row of questions about one table."""
    canvas, table = compose(maker, rng, width, height, whole=False)
    language = int(canvas.han)
    turns = row_of_turns(rng, _CHAT, lambda task: _answer(task, canvas, table), language,
                         most=canvas.between(3, 7), room=90)  # fmt: skip
    meta = {"header": table.header, "rows": table.rows}
    return Document("table_chat", [canvas.sheet], turns, language, meta=meta)


def _task(task: str) -> Task:
    def make(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
        canvas, table = compose(maker, rng, width, height, whole=task == "table_markdown")
        answer, values = _answer(task, canvas, table)
        language = int(canvas.han) if values else maker.language(canvas)
        turn = Turn(ask(rng, task, language, *values), answer, 1)
        return Document(task, [canvas.sheet], [turn], language, meta={"header": table.header, "rows": table.rows})

    return make


WEIGHTS: dict[str, float] = {
    "table_markdown": 3.0, "table_cell": 3.0, "table_row": 0.8, "table_column": 0.8, "table_largest": 1.0,
    "table_smallest": 1.0, "table_find": 1.0, "table_num_rows": 0.3, "table_chat": 6.0,
}  # fmt: skip
TASKS: dict[str, Task] = {name: _task(name) for name in WEIGHTS if name != "table_chat"} | {"table_chat": _chat}
