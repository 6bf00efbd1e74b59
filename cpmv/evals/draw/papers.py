"""Receipts, product labels with their dates, and forms: layouts of our own over held-out words and names."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...train.draw.faces import Face
from ...train.draw.words import date_text
from ..samples import EvalError, Sample, Turn, picture
from .canvas import Colour, Sheet, Size, between, choose_face, largest_size, paper_and_ink, width_of

if TYPE_CHECKING:
    import numpy as np

    from ...train.draw.content import Content

SIZES: tuple[Size, ...] = ((224, 224), (224, 224), (196, 252), (252, 196), (210, 238), (266, 182))
LABEL_SIZES: tuple[Size, ...] = ((196, 168), (210, 140), (196, 140), (182, 182))
KNOWN_FORMS, NEW_FORM = (0, 1, 2, 3, 5, 6, 7), 4
_LEAST = 11  # px

Date = tuple[int, int, int]


def content(rng: random.Random) -> tuple[Content, np.random.Generator]:
    """The held-out words and names, and a generator of the kind they take."""
    import numpy as np

    from ...train.draw.content import content_of

    return content_of(True), np.random.default_rng(rng.getrandbits(63))


def goods(words: Content, numbers: np.random.Generator, count: int, language: int) -> list[str]:
    """`count` different names of goods; any held-out words where the list of goods has too few."""
    names = dict.fromkeys(words.goods(numbers, count, language)[:count])
    names |= dict.fromkeys(words.distinct(numbers, count + 4, language))
    return list(names)[:count]


def wording(rng: random.Random, task: str, chinese: bool, *values: str) -> str:
    from ...train.draw.questions import QUESTIONS

    return rng.choice(QUESTIONS[task][int(chinese)]).format(*values)


def look(rng: random.Random) -> tuple[Colour, Colour, Colour]:
    """Paper, ink, and a colour between them for rules."""
    paper, ink = paper_and_ink(rng, inverse=0.1)
    return paper, ink, between(paper, ink, rng.uniform(0.3, 0.6))


def fitting_face(rng: random.Random, lines: Sequence[str], han: bool, room: float = math.inf) -> Face:
    """A training face that has all characters and in which every line fits into `room` px at the least size."""
    for _ in range(200):
        face = choose_face(rng, "han" if han else "ordinary", False, "".join(lines))
        if max(width_of(line, face, _LEAST) for line in lines) <= room:
            return face
    raise EvalError(f"no installed face prints {max(lines, key=len)!r} in {room:.0f} px; install more fonts")


@dataclass
class Rows:
    """Lines with a text at the left and one at the right, to be written down a sheet."""

    pairs: list[tuple[str, str]]
    rules: set[int]  # rows with a rule above them

    @property
    def lines(self) -> list[str]:
        return [f"{left}   {right}" for left, right in self.pairs]


def write_rows(rng: random.Random, sheet: Sheet, rows: Rows, face: Face, ink: Colour, rule: Colour, top: float) -> None:
    """Write rows between equal margins, as large as fits; text left, amounts right or after the text."""
    width, height = sheet.size
    margin = rng.randint(8, 16)
    room = width - 2 * margin
    gap = rng.uniform(1.25, 1.5)
    lines = rows.lines
    size = min(19, largest_size(lines, face, (room, int(height - top - 8)), gap, _LEAST, 22))
    spare = max(0.0, height - top - 8 - len(lines) * gap * size)
    y = top + rng.uniform(0, spare * 0.6)
    for row, (left, right) in enumerate(rows.pairs):
        if row in rows.rules:
            sheet.draw.line([margin, y + 0.26 * size, width - margin, y + 0.26 * size], fill=rule)
        y += gap * size
        sheet.text((margin, y), left, face, size, ink)
        if right:
            sheet.text((width - margin, y), right, face, size, ink, anchor="rs")


def money(rng: random.Random, han: bool) -> Callable[[int], str]:
    """One way to print cents, for a whole receipt."""
    pattern = rng.choice(["￥{}", "{}元", "{}"] if han else ["${}", "€{}", "£{}", "{}"])
    return lambda cents: pattern.format(f"{cents / 100:.2f}")


def draw_receipt(rng: random.Random, chinese: bool) -> Sample:
    """A receipt; what is the total? Subtotal, tax, cash and change stand around it."""
    words, numbers = content(rng)
    bought = goods(words, numbers, rng.randint(2, 4), int(chinese))
    prices = [rng.randint(50, 3999) for _ in bought]
    pay, subtotal = money(rng, chinese), sum(prices)
    pairs = [(name, pay(price)) for name, price in zip(bought, prices, strict=True)]
    rules = {len(pairs)}
    total = subtotal
    if rng.random() < 0.5:
        tax = round(subtotal * rng.choice([0.05, 0.07, 0.1, 0.19]))
        pairs += [("小计" if chinese else rng.choice(["Subtotal", "Net"]), pay(subtotal))]
        pairs += [("税" if chinese else rng.choice(["Tax", "VAT"]), pay(tax))]
        total += tax
    pairs.append((rng.choice(["合计", "总计"]) if chinese else rng.choice(["Total", "TOTAL", "Total due"]), pay(total)))
    if rng.random() < 0.5:
        cash = -(-total // 1000) * 1000
        pairs.append(("现金" if chinese else "Cash", pay(cash)))
        pairs.append(("找零" if chinese else "Change", pay(cash - total)))
    shop = words.shop(numbers, int(chinese))
    paper, ink, rule = look(rng)
    sheet = Sheet(rng.choice(SIZES), paper)
    rows = Rows(pairs, rules)
    face = fitting_face(rng, rows.lines, chinese, sheet.size[0] - 32)
    top = write_title(rng, sheet, shop, fitting_face(rng, [shop], chinese, sheet.size[0] - 20), ink)
    write_rows(rng, sheet, rows, face, ink, rule, top)
    meta = {"kind": "receipt_total", "language": "zh" if chinese else "en", "prices": prices, "total": total}
    return picture(sheet.image, wording(rng, "receipt_total", chinese), pay(total), **meta)


def write_title(rng: random.Random, sheet: Sheet, text: str, face: Face, ink: Colour) -> float:
    """A heading at the top, centred or left; returns where the rest may begin."""
    width = sheet.size[0]
    size = min(24, largest_size([text], face, (width - 20, 60), 1.2, 12, 24))
    x = rng.choice([10.0, (width - width_of(text, face, size)) / 2])
    sheet.text((x, 6 + size), text, face, size, ink)
    return 8 + 1.35 * size


_MADE = (
    ("MFG", "Production date", "Produced on", "PROD", "Made on", "Date of manufacture", "MFD"),
    ("生产日期", "制造日期"),
)
_OTHERS = (
    (
        ("EXP", "expires"), ("Best before", "expires"), ("Use by", "expires"), ("Packed on", "packed"),
        ("LOT", "lot"), ("Batch", "lot"), ("Net weight", "weight"), ("Tested", "tested"),
    ),
    (("有效期至", "expires"), ("保质期至", "expires"), ("包装日期", "packed"), ("批号", "lot"), ("含量", "weight")),
)  # fmt: skip


def answer_date(form: int, date: Date) -> str:
    """A date in an answer's format: 0-4 as they are printed, 5-7 with other separators."""
    year, month, day = date
    if form < 5:
        return date_text(form, year, month, day)
    separated = (f"{year}.{month:02d}.{day:02d}", f"{year}/{month:02d}/{day:02d}", f"{day:02d}-{month:02d}-{year}")
    return separated[form - 5]


def draw_label(rng: random.Random, printed: int, chinese: bool) -> tuple[Sheet, Date, list[str]]:
    """A product label: its sheet, the production date, and the other dates on it as printed."""
    words, numbers = content(rng)
    made = (rng.randint(1995, 2035), rng.randint(1, 12), rng.randint(1, 28))
    later = (made[0] + rng.randint(1, 3), made[1], made[2])
    facts = {
        "expires": date_text(printed, *later),
        "packed": date_text(printed, made[0], made[1], min(28, made[2] + rng.randint(1, 3))),
        "tested": date_text(printed, made[0], min(12, made[1] + 1), made[2]),
        "lot": words.code(numbers),
        "weight": f"{rng.randint(1, 20) * 50} {rng.choice(['g', 'ml'])}",
    }
    chosen: dict[str, str] = {}
    for key, sort in rng.sample(_OTHERS[int(chinese)], len(_OTHERS[int(chinese)])):
        if sort not in chosen and len(chosen) < 3:
            chosen[sort] = key
    pairs = [(chosen[sort], facts[sort]) for sort in chosen][: rng.randint(1, 3)]
    pairs.insert(rng.randint(0, len(pairs)), (rng.choice(_MADE[int(chinese)]), date_text(printed, *made)))
    paper, ink, rule = look(rng)
    sheet = Sheet(rng.choice(LABEL_SIZES), paper)
    if rng.random() < 0.3:
        width, height = sheet.size
        sheet.draw.rectangle([2, 2, width - 3, height - 3], outline=rule, width=rng.randint(1, 2))
    lines = [f"{key}{'：' if chinese else ': '}{value}" for key, value in pairs]
    rows = Rows([(line, "") for line in lines], set())
    face = fitting_face(rng, rows.lines, chinese, sheet.size[0] - 32)
    product = words.product(numbers, int(chinese))
    top = write_title(rng, sheet, product, fitting_face(rng, [product], chinese, sheet.size[0] - 20), ink)
    write_rows(rng, sheet, rows, face, ink, rule, top)
    others = [value for key, value in pairs if value != date_text(printed, *made)]
    return sheet, made, others


def draw_date_series(rng: random.Random, forms: Sequence[int], chinese: bool) -> Sample:
    """One to three labels with their production dates in one format, then a label: the answer follows the format."""
    form = rng.choice(forms)
    question = wording(rng, "production_date", chinese)
    turns = []
    others: list[str] = []
    for _ in range(rng.randint(1, 3) + 1):
        sheet, made, others = draw_label(rng, rng.randrange(5), chinese and rng.random() < 0.8)
        turns.append(Turn([sheet.image], question, answer_date(form, made)))
    meta = {"kind": f"format_{form}", "language": "zh" if chinese else "en", "examples": len(turns) - 1}
    return Sample(turns, meta | {"date": list(made), "distractors": others})


_FIELDS = (
    ("Name", "姓名"), ("City", "城市"), ("Phone", "电话"), ("Job", "职业"), ("Date", "日期"), ("Age", "年纪"),
    ("Company", "公司"), ("Order No.", "单号"), ("Street", "街道"),
)  # fmt: skip
_GROUPS = (
    ("Plan", "方案", ("Basic", "Plus", "Pro"), ("基本", "标准", "高级")),
    ("Payment", "方式", ("Cash", "Card", "Check"), ("现金", "银行卡", "手机")),
    ("Size", "大小", ("Small", "Medium", "Large"), ("小", "中", "大")),
)


def _value(rng: random.Random, name: str, chinese: bool) -> str:
    words, numbers = content(rng)
    language = int(chinese)
    made: dict[str, Callable[[], str]] = {
        "Name": lambda: words.person(numbers, language, full=True), "City": lambda: words.city(numbers, language),
        "Phone": lambda: words.phone(numbers), "Job": lambda: words.job(numbers, language),
        "Date": lambda: words.date(numbers, language), "Age": lambda: str(rng.randint(16, 89)),
        "Company": lambda: words.shop(numbers, language), "Order No.": lambda: words.code(numbers),
        "Street": lambda: words.street(numbers, language),
    }  # fmt: skip
    return made[name]()


def draw_form(rng: random.Random, chinese: bool) -> Sample:
    """Two to four fields and often a group of tick boxes; the whole as one-line JSON."""
    names = rng.sample(_FIELDS, rng.randint(2, 4))
    fields = {name[int(chinese)]: _value(rng, name[0], chinese) for name in names}
    group = rng.choice(_GROUPS) if rng.random() < 0.5 else None
    values = dict(fields)
    paper, ink, rule = look(rng)
    sheet = Sheet(rng.choice(SIZES), paper)
    width, height = sheet.size
    texts = list(fields) + list(fields.values()) + (list(group[2 + int(chinese)]) if group else [])
    face = fitting_face(rng, texts, chinese, width - 40)
    key_width = max(width_of(name, face, 13) for name in fields) + 14
    size = 13 if max(width_of(value, face, 13) for value in fields.values()) + key_width < width - 24 else _LEAST
    stacked = size == _LEAST
    num_lines = len(fields) * (2 if stacked else 1) + (2 if group else 0)
    pitch = min(2.4 * size, (height - 24) / num_lines)
    y, x = rng.uniform(8, max(8.0, height - 12 - pitch * num_lines)), 12.0
    style = rng.choice(["line", "box", "plain"])
    for key, value in fields.items():
        y += pitch
        sheet.text((x, y), key + ("：" if chinese else ":"), face, size, ink)
        start = x + 6 if stacked else x + key_width
        y += pitch if stacked else 0
        sheet.text((start, y), value, face, size, ink)
        if style == "line":
            sheet.draw.line([start, y + 0.3 * size, width - 12, y + 0.3 * size], fill=rule)
        elif style == "box":
            sheet.draw.rectangle([start - 4, y - 1.05 * size, width - 8, y + 0.35 * size], outline=rule)
    if group:
        key, options = (group[1], group[3]) if chinese else (group[0], group[2])
        values[key] = ticked = rng.choice(options)
        _tick_boxes(rng, sheet, (x, y + pitch), pitch, key, options, ticked, face, size, ink)
    meta = {"kind": "form_json", "language": "zh" if chinese else "en", "fields": values}
    question = wording(rng, "form_json", chinese)
    return picture(sheet.image, question, json.dumps(values, ensure_ascii=False), **meta)


def _tick_boxes(
    rng: random.Random, sheet: Sheet, at: tuple[float, float], pitch: float, key: str, options: Sequence[str],
    ticked: str, face: Face, size: int, ink: Colour
) -> None:  # fmt: skip
    """The group's name, and below it its options, each after a box; a cross or a fill marks the ticked one."""
    x, y = at
    sheet.text((x, y), key, face, size, ink)
    y += pitch
    side = round(0.8 * size)
    filled = rng.random() < 0.4
    for option in options:
        box = (round(x), round(y - side), round(x) + side, round(y))
        sheet.draw.rectangle(box, outline=ink)
        if option == ticked and filled:
            sheet.draw.rectangle((box[0] + 3, box[1] + 3, box[2] - 3, box[3] - 3), fill=ink)
        elif option == ticked:
            sheet.draw.line((box[0] + 2, box[1] + 2, box[2] - 2, box[3] - 2), fill=ink, width=2)
            sheet.draw.line((box[0] + 2, box[3] - 2, box[2] - 2, box[1] + 2), fill=ink, width=2)
        end = sheet.text((x + side + 4, y), option, face, size, ink)
        x = end.right + 10
