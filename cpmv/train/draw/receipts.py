"""Till receipts: shop, items, subtotal, tax, total, cash and change, among numbers that are none of these.

Sums are right, so a total can be worked out from the rest of the sheet; such lines are marked derivable.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .canvas import ASCENT, DESCENT, Canvas, Unfit
from .content import Money
from .document import Colour, Document, Turn
from .questions import ask, row_of_turns

if TYPE_CHECKING:
    from .documents import Maker, Task

# Wordings on the receipt: English, German, Spanish, Chinese.
_WORDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "subtotal": (("Subtotal", "Sub-total", "SUBTOTAL", "Net", "Goods"), ("Zwischensumme", "Netto"), ("Subtotal",
    "Neto"),
                 ("小计", "商品小计")),
    "tax": (("Tax", "VAT", "Sales tax", "TAX", "GST"), ("MwSt", "MwSt."), ("IVA",), ("税", "税额")),
    "total": (("Total", "TOTAL", "Total due", "Amount due", "Grand total", "Sum", "TOTAL:", "To pay"),
              ("Summe", "Gesamt", "SUMME"), ("Total", "TOTAL", "A pagar"), ("合计", "总计", "总额", "应收")),
    "cash": (("Cash", "CASH", "Paid", "Cash given", "Tendered"), ("Bar", "Gegeben"), ("Efectivo",), ("现金", "实收")),
    "change": (("Change", "CHANGE", "Change due", "Back"), ("Rückgeld", "Zurück"), ("Cambio",), ("找零", "找回")),
    "date": (("Date", "", "Date:", ""), ("Datum", ""), ("Fecha", ""), ("日期", "")),
    "number": (("Receipt No.", "No.", "Ticket", "Order", "Bill"), ("Bon Nr.", "Beleg"), ("Ticket", "Recibo"), ("单号",
    "编号")),
    "thanks": (("Thank you!", "Thanks for your visit!", "Please come again", "Have a nice day!"),
               ("Vielen Dank!", "Danke!"), ("Gracias!", "Muchas gracias!"), ("多谢！", "欢迎再来！")),
    "discount": (("Discount", "Coupon", "Saved"), ("Rabatt",), ("Descuento",), ("优惠", "会员优惠")),
    "points": (("Points", "Card points", "Cashier", "Till"), ("Punkte", "Kasse"), ("Puntos", "Caja"), ("会员分",
    "收银台")),
}  # fmt: skip
_RATES = (5, 6, 7, 8, 10, 16, 19, 20, 21)


@dataclass(slots=True)
class Row:
    """A line of a receipt: text at the left, an amount at the right."""

    left: str
    right: str = ""
    style: str = ""  # "shop", "total", "centre", "rule"
    derivable: bool = False


@dataclass(slots=True)
class Receipt:
    """What a receipt says. Amounts are cents; `printed` holds the texts that answers copy, by what they are."""

    shop: str
    items: list[tuple[str, int]]
    rows: list[Row] = field(default_factory=list)
    printed: dict[str, str] = field(default_factory=dict)
    cents: dict[str, int] = field(default_factory=dict)


class _Writer:
    """Chooses words and amounts for one receipt."""

    def __init__(self, maker: Maker, canvas: Canvas) -> None:
        self.content, self.canvas, self.rng = maker.content, canvas, canvas.rng
        self.tongue = 3 if canvas.han else (0, 0, 0, 0, 0, 0, 0, 0, 1, 2)[canvas.between(0, 9)]
        self.money = Money(canvas.rng, int(canvas.han))
        self.signs = canvas.between(0, 2)  # on all amounts, on sums only, only where needed

    def word(self, name: str) -> str:
        words = _WORDS[name][self.tongue]
        return words[int(self.rng.integers(len(words)))]

    def amount(self, cents: int, *, item: bool = False) -> str:
        return self.money.bare(cents) if item and self.signs else self.money.text(cents)

    def write(self, num_items: int, spare: int) -> Receipt:
        """A receipt of `num_items` items and about `spare` lines besides items, shop and total."""
        canvas, content, money = self.canvas, self.content, self.money
        language = int(canvas.han)
        names = content.goods(self.rng, num_items, language)
        receipt = Receipt(content.shop(self.rng, language), [])
        extras = set(self._extras(spare))
        self._head(receipt, extras)
        subtotal = 0
        for name in names:
            count = canvas.between(2, 4) if canvas.chance(0.15) else 1
            cents = money.amount(self.rng, 900 if canvas.chance(0.6) else 6000) * count
            subtotal += cents
            label = name if count == 1 else (f"{count} x {name}", f"{name} x{count}")[canvas.between(0, 1)]
            receipt.items.append((name, cents))
            receipt.rows.append(Row(label, self.amount(cents, item=True)))
        receipt.rows.append(Row("", style="rule"))
        self._sums(receipt, extras, subtotal)
        self._foot(receipt, extras)
        return receipt

    def _extras(self, spare: int) -> list[str]:
        names = ["date", "subtotal", "tax", "cash", "number", "thanks", "phone", "street", "discount", "points"]
        weights = np.array([3, 2, 2.2, 2.2, 1, 1, 0.8, 0.8, 0.6, 0.7])
        wanted = min(len(names), max(0, self.canvas.between(spare // 2, spare)))
        chosen = self.rng.choice(len(names), wanted, replace=False, p=weights / weights.sum())
        return [names[int(index)] for index in chosen]

    def _head(self, receipt: Receipt, extras: set[str]) -> None:
        content, rng, language = self.content, self.rng, int(self.canvas.han)
        receipt.rows.append(Row(receipt.shop, style="shop"))
        if "street" in extras:
            receipt.rows.append(Row(content.street(rng, language), style="centre"))
        if "phone" in extras:
            receipt.rows.append(Row(("电话 " if language else "Tel. ") + content.phone(rng), style="centre"))
        if "date" in extras:
            date, word = content.date(rng, language), self.word("date")
            receipt.printed["date"] = date
            time = content.time(rng) if self.canvas.chance(0.5) else ""
            receipt.rows.append(Row(f"{word} {date}", time) if word else Row(date, time))
        if "number" in extras:
            receipt.rows.append(Row(f"{self.word('number')} {content.code(rng)}"))
        receipt.rows.append(Row("", style="rule"))

    def _sums(self, receipt: Receipt, extras: set[str], subtotal: int) -> None:
        canvas, cents, printed, rows = self.canvas, receipt.cents, receipt.printed, receipt.rows
        cents["subtotal"] = total = subtotal
        unit = 100 if self.money.whole else 1
        if "subtotal" in extras:
            printed["subtotal"] = self.amount(subtotal)
            rows.append(Row(self.word("subtotal"), printed["subtotal"], derivable=True))
        if "discount" in extras and subtotal > 200:
            cents["discount"] = max(unit, int(subtotal * 0.1) // unit * unit)
            total -= cents["discount"]
            rows.append(Row(self.word("discount"), "-" + self.amount(cents["discount"], item=True)))
        if "tax" in extras:
            rate = _RATES[canvas.between(0, len(_RATES) - 1)]
            cents["tax"] = round(total * rate / 100 / unit) * unit
            total += cents["tax"]
            printed["tax"] = self.amount(cents["tax"])
            share = f" {rate}%" if canvas.chance(0.6) else ""
            rows.append(Row(self.word("tax") + share, printed["tax"], derivable=bool(share)))
        cents["total"] = total
        printed["total"] = self.amount(total)
        rows.append(Row(self.word("total"), printed["total"], style="total", derivable=True))
        if "cash" in extras:
            note = (100, 500, 1000, 2000, 5000)[canvas.between(0, 4)]
            cents["cash"] = -(-total // note) * note
            cents["change"] = cents["cash"] - total
            printed["cash"], printed["change"] = self.amount(cents["cash"]), self.amount(cents["change"])
            rows.append(Row(self.word("cash"), printed["cash"], derivable=True))
            rows.append(Row(self.word("change"), printed["change"], derivable=True))

    def _foot(self, receipt: Receipt, extras: set[str]) -> None:
        if "points" in extras:
            receipt.rows.append(Row(self.word("points"), self.content.number(self.rng)))
        if "thanks" in extras:
            receipt.rows.append(Row(self.word("thanks"), style="centre"))


def _draw(canvas: Canvas, receipt: Receipt) -> list[str]:
    """Write the rows down a strip of the sheet; returns the lines as read, left to right."""
    margin = canvas.margin
    widest = max(canvas.measure(row.left) + canvas.measure(row.right) for row in receipt.rows) + 1.5 * canvas.em
    room = canvas.width - 2 * margin
    strip = min(room, max(widest, room * canvas.uniform(0.55, 1.0)))
    left = margin + (room - strip) * canvas.rng.random()
    if strip < room * 0.85 and canvas.chance(0.4):
        pad = min(left, canvas.em * 0.6)
        canvas.fill((left - pad, 0, min(canvas.width, left + strip + pad), canvas.height), canvas.look.panel)
    num_rules = sum(row.style == "rule" for row in receipt.rows)
    num_lines = len(receipt.rows) - num_rules
    total_em = canvas.em * (1.0 + 0.35 * canvas.rng.random() * canvas.chance(0.5))
    shop_em = canvas.em * canvas.uniform(1.0, 1.6)
    need = (num_lines - 2) * canvas.em + total_em + shop_em + num_rules * canvas.em * 0.35
    pitch = min(1.5, (canvas.height - 2 * margin) / need)
    if pitch < ASCENT + DESCENT + 0.06:
        raise Unfit("too many rows")
    pitch = canvas.uniform(1.1, pitch) if pitch > 1.1 else pitch
    y = margin + (canvas.height - 2 * margin - need * pitch) * canvas.rng.random() * 0.8
    rules = canvas.between(0, 3)
    lines = []
    for row in receipt.rows:
        if row.style == "rule":
            _separator(canvas, rules, left, left + strip, y + canvas.em * 0.16 * pitch)
            y += canvas.em * 0.35 * pitch
            continue
        em = shop_em if row.style == "shop" else total_em if row.style == "total" else canvas.em
        _write_row(canvas, row, left, left + strip, y, em)
        lines.append(f"{row.left} {row.right}".strip())
        y += em * pitch
    return lines


def _write_row(canvas: Canvas, row: Row, left: float, right: float, y: float, em: float) -> None:
    bold = row.style == "shop" or (row.style == "total" and canvas.chance(0.6))
    face = canvas.faces.bold(canvas.body) if bold else canvas.body
    if row.style in ("shop", "centre"):
        colour: Colour = canvas.look.accent if row.style == "shop" and canvas.chance(0.25) else canvas.look.ink
        em = canvas.fit(row.left, face, em, right - left)
        canvas.write(row.left, (left + right) / 2, y + ASCENT * em, em=em, face=face, align=0.5, colour=colour)
        return
    gap = canvas.faces.width(row.left + row.right, face, em) + em * 0.5
    if gap > right - left:
        em = max(canvas.least_em, em * (right - left) / gap)
    baseline = y + ASCENT * em
    box = canvas.write(row.left, left, baseline, em=em, face=face)
    if row.right:
        other = canvas.write(
            row.right, right, baseline, em=em, face=face, align=1.0, region="whole", derivable=row.derivable
        )
        if other[0] - box[2] < em * 0.3:
            raise Unfit("no space before the amount")


def _separator(canvas: Canvas, style: int, left: float, right: float, y: float) -> None:
    """A rule, a double rule, dashes or nothing."""
    if style == 0 or len(canvas.sheet.marks) > canvas.limits.marks - 16:
        return
    if style == 3:
        step = max(canvas.em * 0.9, (right - left) / 12)
        for index in range(int((right - left) / step)):
            canvas.rule(left + index * step, y, left + index * step + step * 0.55, y, colour=canvas.look.ink)
        return
    canvas.rule(left, y, right, y, colour=canvas.look.ink)
    if style == 2:
        canvas.rule(left, y + 2, right, y + 2, colour=canvas.look.ink)


def compose(maker: Maker, rng: np.random.Generator, width: int, height: int) -> tuple[Canvas, Receipt, list[str]]:
    """A receipt on a sheet: the canvas, what it says, and its lines in reading order."""
    canvas = maker.canvas(rng, width, height)
    if not canvas.han and canvas.chance(0.5):
        canvas.body = canvas.faces.choose(rng, kinds=("mono",))
    canvas.em = min(canvas.em, max(canvas.least_em, height / 9))
    most = int((height - 2 * canvas.margin) / (canvas.em * 1.16) - 0.8)
    budget = canvas.limits.glyphs * canvas.ease
    num_items = max(1, min(canvas.between(1, 10), int((most - 2) * canvas.uniform(0.3, 0.75)), int(budget / 32)))
    spare = max(0, min(most - num_items - 2, int((budget - num_items * 15) / 16)))
    receipt = _Writer(maker, canvas).write(num_items, spare)
    return canvas, receipt, _draw(canvas, receipt)


def _answer(task: str, canvas: Canvas, receipt: Receipt, lines: list[str]) -> tuple[str, tuple[str, ...]]:
    """Answer and slot values. Raises Unfit when this receipt has no single answer."""
    what, items = task.removeprefix("receipt_"), receipt.items
    if what in ("price", "dearest", "count") and len(items) < 2:
        raise Unfit("too few items")
    if what == "price":
        index = canvas.between(0, len(items) - 1)
        return _price_text(lines, receipt, index), (items[index][0],)
    if what == "dearest":
        prices = sorted(cents for _, cents in items)
        if prices[-1] == prices[-2]:
            raise Unfit("two dearest items")
        return max(items, key=lambda item: item[1])[0], ()
    if what == "count":
        return str(len(items)), ()
    if what == "read":
        return "\n".join(lines), ()
    if what == "shop":
        return receipt.shop, ()
    printed = receipt.printed.get("cash" if what == "paid" else what)
    if printed is None:
        raise Unfit(f"no {what} on this receipt")
    return printed, ()


def _task(task: str) -> Task:
    def make(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
        canvas, receipt, lines = compose(maker, rng, width, height)
        answer, values = _answer(task, canvas, receipt, lines)
        language = int(canvas.han) if values else maker.language(canvas)
        turn = Turn(ask(rng, task, language, *values), answer, 1)
        meta = {"cents": receipt.cents, "items": receipt.items, "lines": lines}
        return Document(task, [canvas.sheet], [turn], language, meta=meta)

    return make


def _chat(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    """A row of questions about one receipt."""
    canvas, receipt, lines = compose(maker, rng, width, height)
    language = int(canvas.han)
    tasks = {name: weight for name, weight in WEIGHTS.items() if name not in ("receipt_read", "receipt_chat")}
    turns = row_of_turns(rng, tasks, lambda task: _answer(task, canvas, receipt, lines), language,
                         most=canvas.between(2, 6), room=90)  # fmt: skip
    meta = {"cents": receipt.cents, "items": receipt.items, "lines": lines}
    return Document("receipt_chat", [canvas.sheet], turns, language, meta=meta)


def _price_text(lines: list[str], receipt: Receipt, index: int) -> str:
    """The price of an item as printed."""
    rows, name = [row for row in receipt.rows if row.right], receipt.items[0][0]
    start = next(
        place
        for place, row in enumerate(rows)
        if row.left == name or row.left.startswith(f"{name} x") or row.left.endswith(f" x {name}")
    )
    return rows[start + index].right


WEIGHTS: dict[str, float] = {
    "receipt_total": 4.0, "receipt_subtotal": 0.5, "receipt_tax": 0.6, "receipt_price": 1.5, "receipt_paid": 0.5,
    "receipt_change": 0.6, "receipt_date": 0.6, "receipt_shop": 0.6, "receipt_count": 0.6, "receipt_dearest": 0.8,
    "receipt_read": 1.5, "receipt_chat": 4.0,
}  # fmt: skip
TASKS: dict[str, Task] = {name: _task(name) for name in WEIGHTS if name != "receipt_chat"} | {"receipt_chat": _chat}
