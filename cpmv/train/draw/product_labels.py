"""Product labels: a production date among other dates and numbers, alone or after examples that set the date format.

The five Latin date formats, the Chinese one and now and then others are printed. A question on one label is answered as
printed; in a series of labels every answer has the format that the first answer set, whatever is printed. Two series in
three follow a format of `date_formats`, of which there are hundreds, so that the examples must be looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .canvas import ASCENT, DESCENT, Canvas, Unfit
from .date_formats import KNOWN, DateFormat, draw_format, known_format
from .document import ELLIPSE, RECT, TRIANGLE, Document, Turn
from .questions import ask
from .words import date_text

if TYPE_CHECKING:
    from .documents import Maker, Task

Date = tuple[int, int, int]

_KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "made": (
        ("MFG", "MFD", "Mfg. Date", "Production date", "PROD", "Produced", "Produced on", "Manufactured", "Made on",
         "Date of manufacture", "MFG DATE", "PRODUCTION DATE", "Mfg", "Prod. date", "Date of production"),
        ("生产日期", "生产日期", "制造日期", "生产日"),
    ),
    "expires": (
        ("EXP", "Expiry date", "Best before", "BBE", "Use by", "Expires", "EXP DATE", "BEST BEFORE", "Best by",
         "Exp. date", "USE BY", "Valid until"),
        ("有效期至", "保质期至", "到期日", "有效期"),
    ),
    "packed": (("Packed on", "PKD", "Packed", "Packaging date", "PACKED"), ("包装日期", "装箱日期")),
    "tested": (("Tested", "Checked on", "Inspected", "QC"), ("检查日期", "质检日期")),
    "printed": (("Printed", "Label date", "Shipped", "Delivered", "Sell by"), ("送货日期", "上架日期", "发货日期")),
    "lot": (("LOT", "Lot No.", "Batch", "Lot", "BATCH NO.", "L"), ("批号", "产品批号")),
    "weight": (("Net weight", "Net wt.", "NET", "Contents", "Net"), ("含量", "重量")),
    "life": (("Shelf life", "Keeps for"), ("保质期",)),
    "origin": (("Product of", "Made in", "Origin"), ("产地",)),
    "maker": (("Maker", "Company", "Packed by"), ("厂家", "厂名")),
    "price": (("Price",), ("价格",)),
}  # fmt: skip
_WEIGHTS_TEXT = ("g", "kg", "ml", "L", "oz")
_HELD_OUT_FORM = 4  # of answers in a series
_OTHER_PRINTED = 0.12  # share of labels whose dates are printed in a format of the grammar
_DRAWN_SHARE = 0.66  # of series whose answers have a format of the grammar


@dataclass(slots=True)
class Label:
    """What a label says. facts: printed text by what it is ("made", "expires", "lot", ...)."""

    product: str
    made: Date
    facts: dict[str, str] = field(default_factory=dict)
    rows: list[tuple[str, str, bool]] = field(default_factory=list)  # key, value, derivable
    lines: list[str] = field(default_factory=list)


def _later(date: Date, months: int) -> Date:
    year, month, day = date
    return year + (month - 1 + months) // 12, (month - 1 + months) % 12 + 1, day


def _printed(form: int | DateFormat, date: Date) -> str:
    return form.write(date) if isinstance(form, DateFormat) else date_text(form, *date)


def _write(maker: Maker, canvas: Canvas, num_rows: int, form: int | DateFormat) -> Label:
    """Choose what a label of about `num_rows` rows says; the production date is always there."""
    rng, content, language = canvas.rng, maker.content, int(canvas.han)
    made = content.day(rng)
    months = (3, 6, 9, 12, 18, 24, 36)[canvas.between(0, 6)]
    until = _later(made, months)
    if until[0] > 2039:
        made = (made[0] - 4, made[1], made[2])
        until = _later(made, months)
    mixed = canvas.chance(0.15)

    def shown(date: Date) -> str:
        return _printed(int(rng.integers(5)) if mixed else form, date)

    label = Label(content.product(rng, language), made)
    amount = (canvas.between(1, 20) * 50, canvas.between(1, 9))[canvas.between(0, 1)]
    size = f"{amount}{' ' if canvas.chance(0.5) else ''}{_WEIGHTS_TEXT[canvas.between(0, 4)]}"
    near = content.day(rng)
    facts = {
        "made": _printed(form, made), "expires": shown(until), "packed": shown(_later(made, canvas.between(0, 2))),
        "tested": shown((made[0], made[1], min(28, made[2] + 1))), "printed": shown((made[0], near[1], near[2])),
        "lot": content.code(rng), "weight": size, "origin": content.city(rng, language),
        "life": f"{months}个月" if language else f"{months} months", "maker": content.shop(rng, language),
        "price": f"{canvas.between(1, 40)}.{canvas.between(10, 99)}",
    }  # fmt: skip
    names = ["expires", "lot", "packed", "weight", "life", "origin", "maker", "tested", "printed", "price"]
    shares = np.array([4.0, 2.5, 1.4, 1.6, 0.7, 0.8, 0.6, 0.6, 0.6, 0.3])
    count = min(len(names), max(0, num_rows - 1))
    chosen = [names[int(i)] for i in rng.choice(len(names), count, replace=False, p=shares / shares.sum())]
    chosen.insert(canvas.between(0, len(chosen)), "made")
    upper = canvas.chance(0.2)
    for name in chosen:
        keys = _KEYS[name][language]
        key = keys[canvas.between(0, len(keys) - 1)]
        known = "life" in chosen and {"made", "expires"} <= set(chosen) and name in ("made", "expires", "life")
        label.rows.append((key.upper() if upper else key, facts[name], known))
        label.facts[name] = facts[name]
    return label


def _draw(canvas: Canvas, label: Label, *, named: bool) -> None:
    """Write the label: key and value on a line, in two columns, or one above the other."""
    margin = canvas.margin + 3.0 * canvas.chance(0.5)
    room = canvas.width - 2 * margin
    top = margin + _decorate(canvas, margin)
    if named:
        em = canvas.fit(label.product, canvas.head, canvas.em * canvas.uniform(1.1, 1.9), room)
        align = 0.5 * canvas.between(0, 1)
        colour = canvas.look.accent if canvas.chance(0.4) else canvas.look.ink
        x = margin + align * room
        canvas.write(label.product, x, top + ASCENT * em, em=em, face=canvas.head, align=align, colour=colour)
        label.lines.append(label.product)
        top += em * (ASCENT + DESCENT) + canvas.em * 0.3
    style = canvas.rng.choice(["line", "line", "line", "columns", "stacked"])
    keys = max(canvas.measure(key) for key, _, _ in label.rows)
    if style == "columns" and keys + canvas.em * 6 > room:
        style = "line"
    lines = len(label.rows) * (2 if style == "stacked" else 1)
    pitch = (canvas.height - margin - top) / (lines * canvas.em)
    if pitch < ASCENT + DESCENT + 0.03:
        raise Unfit("too many rows")
    pitch = min(pitch, canvas.uniform(1.12, 2.0))
    y = top + (canvas.height - margin - top - pitch * lines * canvas.em) * canvas.rng.random()
    _rows(canvas, label, str(style), margin, keys, y, pitch)


def _rows(canvas: Canvas, label: Label, style: str, left: float, keys: float, y: float, pitch: float) -> None:
    mark = "：" if canvas.han else (":", ":", "", ".")[canvas.between(0, 3)]
    bold = canvas.faces.bold(canvas.body) if canvas.chance(0.3) else canvas.body
    colour = canvas.look.soft if canvas.chance(0.5) else canvas.look.ink
    shift = keys + canvas.em * canvas.uniform(0.8, 2.0)
    align = 0.5 if style == "line" and canvas.chance(0.25) else 0.0
    room = canvas.width - 2 * left
    lined = style == "columns" and canvas.chance(0.5)
    for key, value, known in label.rows:
        baseline = y + ASCENT * canvas.em
        mark = "" if mark == "." and key.endswith(".") else mark
        if style == "line":
            text = f"{key}{mark}{'' if canvas.han else ' '}{value}"
            em = canvas.fit(text, canvas.body, canvas.em, room)
            canvas.write(text, left + align * room, baseline, em=em, align=align, echoes=[value] if known else ())
            label.lines.append(text)
        else:
            canvas.write(key, left, baseline, colour=colour)
            if style == "stacked":
                y += pitch * canvas.em
                baseline = y + ASCENT * canvas.em
                label.lines += [key, value]
            else:
                label.lines.append(f"{key} {value}")
            x = left + (shift if style == "columns" else 0.0)
            canvas.write(value, x, baseline, face=bold, region="whole", derivable=known)
        y += pitch * canvas.em
        if lined:
            middle = y - (pitch - ASCENT - DESCENT) * canvas.em / 2
            canvas.rule(left, middle, canvas.width - left, middle)


def _decorate(canvas: Canvas, margin: float) -> float:
    """A border, a band or a simple logo; returns the height it takes at the top."""
    draw = canvas.rng.random()
    if draw < 0.25:
        inset = margin * 0.3
        canvas.frame((inset, inset, canvas.width - inset, canvas.height - inset), width=canvas.uniform(1.0, 2.5))
        return 1.0
    if draw < 0.4 and canvas.height > 150:
        band = canvas.uniform(0.05, 0.14) * canvas.height
        canvas.fill((0, 0, canvas.width, band), canvas.look.accent)
        return band
    if draw < 0.6 and canvas.height > 160:
        size = canvas.uniform(0.1, 0.18) * canvas.height
        x, y = margin + (canvas.width - 2 * margin - size) * canvas.rng.random(), margin
        kind = canvas.between(0, 2)
        if kind == 0:
            canvas.mark(ELLIPSE, x, y, x + size, y + size, colour=canvas.look.accent)
            canvas.mark(
                ELLIPSE, x + size * 0.25, y + size * 0.25, x + size * 0.75, y + size * 0.75, colour=canvas.look.paper
            )
        elif kind == 1:
            canvas.mark(TRIANGLE, x, y + size, x + size / 2, y, x + size, y + size, colour=canvas.look.accent)
        else:
            canvas.mark(RECT, x, y, x + size * 0.45, y + size, colour=canvas.look.accent)
            canvas.mark(RECT, x + size * 0.55, y + size * 0.3, x + size, y + size, colour=canvas.look.rule)
        return size + 3.0
    if draw < 0.68 and canvas.height > 140:  # a bar code
        x, bar = margin, canvas.height * canvas.uniform(0.08, 0.14)
        for width in canvas.rng.integers(1, 4, size=14).tolist():
            if x + width < canvas.width - margin:
                canvas.fill((x, margin, x + width, margin + bar), canvas.look.ink)
            x += width + canvas.between(1, 3)
        return bar + 4.0
    return 0.0


def compose(maker: Maker, rng: np.random.Generator, width: int, height: int, *, form: int | DateFormat | None = None,
            named: bool | None = None) -> tuple[Canvas, Label]:  # fmt: skip
    """A label on a sheet. form: the printed date format. named: whether the product's name stands on it."""
    canvas = maker.canvas(rng, width, height)
    if form is None:
        form = 5 if canvas.han and canvas.chance(0.5) else int(rng.integers(5))
        if canvas.chance(_OTHER_PRINTED) and not maker.held_out:
            form = draw_format(rng, printed=True)
    named = canvas.chance(0.65) if named is None else named
    most = int((height - 2 * canvas.margin) / (canvas.em * 1.3)) - 2 * named
    most = min(most, int(canvas.limits.glyphs * canvas.ease / 26))
    canvas_rows = max(1, min(canvas.between(1, 6), most))
    label = _write(maker, canvas, canvas_rows, form)
    _draw(canvas, label, named=named)
    return canvas, label


_FACT = {"production_date": "made", "expiry_date": "expires", "lot_number": "lot", "net_weight": "weight"}


def _one(task: str) -> Task:
    def make(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
        named = True if task == "product_name" else None
        canvas, label = compose(maker, rng, width, height, named=named)
        language = maker.language(canvas)
        if task == "product_name":
            answer = label.product
        elif task == "label_read":
            answer = "\n".join(label.lines)
        elif _FACT[task] in label.facts:
            answer = label.facts[_FACT[task]]
        else:
            raise Unfit(f"no {_FACT[task]} on this label")
        turn = Turn(ask(rng, task, language), answer, 1)
        return Document(task, [canvas.sheet], [turn], language, meta={"facts": label.facts, "lines": label.lines})

    return make


def _series(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    """Two to four labels with one question; all answers in one format, which the earlier ones show.

    The first answer is learnt only where its label prints that very format: else nothing tells it.
    """
    printed: int | DateFormat | None = None
    if maker.held_out and rng.random() < 0.4:
        printed = _HELD_OUT_FORM
        answer_format, name = None, "held out"
    elif rng.random() < _DRAWN_SHARE:
        answer_format = draw_format(rng)
        name = repr(answer_format)
    else:
        form = KNOWN[int(rng.integers(len(KNOWN)))]
        answer_format, name = known_format(form), str(form)
        printed = form if form < 5 else None
    printed = printed if rng.random() < 0.5 else None  # the first label often prints the answers' format
    count = int(rng.integers(2, 5))
    language = int(rng.random() < 0.25)
    question = ask(rng, "production_date", language)
    sheets, turns, shown = [], [], []
    for number in range(count):
        canvas, label = compose(maker, rng, width, height, form=printed if number == 0 else None)
        sheets.append(canvas.sheet)
        shown.append((label.made, label.facts["made"]))
        answer = date_text(_HELD_OUT_FORM, *label.made) if answer_format is None else answer_format.write(label.made)
        turns.append(Turn(question, answer, 1, learn=number > 0 or answer == label.facts["made"]))
    meta = {"form": name, "num_examples": count - 1, "dates": shown}
    return Document("production_date_series", sheets, turns, language, meta=meta)


WEIGHTS: dict[str, float] = {
    "production_date": 3.5, "expiry_date": 0.8, "lot_number": 0.6, "product_name": 0.6, "net_weight": 0.4,
    "label_read": 1.0, "production_date_series": 3.0,
}  # fmt: skip
TASKS: dict[str, Task] = {name: _one(name) for name in WEIGHTS if name != "production_date_series"}
TASKS["production_date_series"] = _series
