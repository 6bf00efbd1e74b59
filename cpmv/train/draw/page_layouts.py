"""Layouts of pages of text: articles, sections, two columns, lists, notices, glossaries, weekly plans, plain lines.

Much of a page is said twice, as on real ones: a name in the header and the text, a date in the title and a line, a
glossary and its use, numbered and weekday lists. Those places are marked derivable for corruption training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .canvas import Canvas, Unfit
from .content import WEEKDAYS, Money
from .document import ELLIPSE
from .flow import Block, Flow, pieces_of
from .mixed_lines import mixed_line

if TYPE_CHECKING:
    from .documents import Maker

_KEYS: tuple[tuple[str, str, str], ...] = (
    ("Date", "日期", "date"), ("Time", "时间", "time"), ("Place", "地点", "city"), ("Contact", "联系人", "person"),
    ("Phone", "电话", "phone"), ("Price", "价格", "money"), ("Room", "房间", "number"), ("Topic", "主题", "word"),
    ("Speaker", "主讲人", "person"), ("Fee", "费用", "money"), ("Code", "编号", "code"), ("Address", "地址", "street"),
    ("Seats", "座位", "number"), ("City", "城市", "city"), ("Name", "姓名", "person"), ("Order", "次序", "number"),
    ("Product", "产品", "product"), ("Start", "开始", "time"), ("End", "结束", "time"), ("Manager", "经理", "person"),
    ("Job", "职业", "job"), ("Model", "型号", "code"), ("Due", "到期日", "date"), ("Author", "作者", "person"),
)  # fmt: skip
_ENGLISH_FACTS = (
    "{name} will speak in {city} on {date}.", "Please write to {name} before {date}.",
    "On {date} {name} came to {city}.",
    "The plan of {name} is dated {date}.", "{name} left {city} after {date}.", "Ask {name} about {city}.",
    "Since {date} {name} works in {city}.", "The report by {name} came on {date}.",
)  # fmt: skip
_CHINESE_FACTS = (
    "{name}于{date}到达{city}。", "请在{date}以前联系{name}。", "{name}从{date}起在{city}工作。",
    "{date}，{name}离开了{city}。",
    "{name}的报告写于{date}。", "有问题请问{city}的{name}。",
)  # fmt: skip


_PAGE_AREA = 95_000  # px: larger sheets are read in slices


@dataclass(slots=True)
class Page:
    """A composed page and what is needed to ask about it."""

    canvas: Canvas
    tongue: str
    budget: int
    blocks: list[Block] = field(default_factory=list)
    column_of: list[int] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        return [line for block in self.blocks for line in block.lines]

    def of(self, role: str) -> list[Block]:
        return [block for block in self.blocks if block.role == role]

    def left(self) -> int:
        """Characters that may still be written."""
        return self.budget - sum(len(line) + 1 for line in self.lines)


def _flow(page: Page, *, framed: int = -1) -> Flow:
    """One column over the whole sheet, with the page's decoration around it."""
    canvas = page.canvas
    margin = canvas.margin
    inset = margin
    if framed < 0 and canvas.chance(0.12):
        canvas.frame((margin * 0.4, margin * 0.4, canvas.width - margin * 0.4, canvas.height - margin * 0.4),
                     width=canvas.uniform(1.0, 2.5))  # fmt: skip
        inset += 2.5
    if canvas.chance(0.1) and canvas.width > 160:
        canvas.fill((0, 0, margin * 0.7, canvas.height), canvas.look.accent)
    extra = 4.0 if framed >= 0 else 0.0
    top = inset + (canvas.uniform(0, 0.25) * canvas.height if canvas.chance(0.3) else 0.0)
    return Flow(
        canvas, inset + extra, canvas.width - inset - extra, top, canvas.height - inset,
        pitch=canvas.uniform(1.16, 1.5), gap=canvas.uniform(0.35, 1.1), framed=framed,
    )  # fmt: skip


def _heading(maker: Maker, page: Page, flow: Flow, text: str | None = None, *, share: float = 1.0) -> str:
    """Write the page's heading, larger than the body; "" when there is none."""
    canvas = page.canvas
    if not canvas.chance(share):
        return ""
    text = text or maker.content.heading(canvas.rng, int(canvas.han), page.tongue)
    em = min(30.0, canvas.em * canvas.uniform(1.15, 2.1), canvas.height * 0.16)
    em = canvas.fit(text, canvas.head, max(em, canvas.least_em), flow.room)
    align = (0.0, 0.5, 0.5, 1.0)[canvas.between(0, 3)] if canvas.chance(0.5) else 0.0
    draw = canvas.rng.random()
    colour = canvas.look.accent if draw < 0.3 else canvas.look.ink
    if draw > 0.9 and flow.framed < 0 and flow.top < 20:  # a heading on a band
        canvas.fill((0, 0, canvas.width, flow.y + em * 1.2), canvas.look.accent)
        colour = canvas.look.paper
    block = flow.put("heading", [text], em=em, face=canvas.head, colour=colour, align=align)
    if 0.55 < draw < 0.75:
        canvas.rule(flow.left, block.box[3] + 1.5, flow.right, block.box[3] + 1.5, width=canvas.uniform(1.0, 2.0))
        flow.y = max(flow.y, block.box[3] + 4.0)
    elif 0.5 < draw < 0.55 and align == 0.0 and block.box[2] + em * 1.5 < flow.right:
        canvas.mark(ELLIPSE, flow.right - em, block.box[1], flow.right, block.box[1] + em, colour=canvas.look.accent)
    page.blocks.append(block)
    return text


def _sentences(maker: Maker, page: Page, characters: int) -> list[str]:
    """Breakable pieces of sentences of about `characters` characters."""
    rng, han = page.canvas.rng, page.canvas.han
    pieces: list[str] = []
    used = 0
    while used < characters:
        words = maker.content.sentence(rng, int(rng.integers(3, 10 if not han else 7)), page.tongue)
        if han:
            words = pieces_of("".join(words), han=True)
        pieces += words
        used += sum(len(word) for word in words) + (0 if han else len(words))
    return pieces


def _facts(maker: Maker, page: Page) -> dict[str, str]:
    rng, language = page.canvas.rng, int(page.canvas.han)
    content = maker.content
    return {
        "name": content.person(rng, language, full=True),
        "date": content.date(rng, language),
        "city": content.city(rng, language),
    }


def _fact_pieces(page: Page, facts: Mapping[str, str]) -> list[str]:
    templates = _CHINESE_FACTS if page.canvas.han else _ENGLISH_FACTS
    text = templates[page.canvas.between(0, len(templates) - 1)].format(**facts)
    return pieces_of(text, han=page.canvas.han)


def _article(maker: Maker, page: Page, framed: int, *, heading: float = 0.75, least: int = 1) -> None:
    """A heading and paragraphs; half of them say who and when in a header and again in the text."""
    canvas = page.canvas
    flow = _flow(page, framed=framed)
    _heading(maker, page, flow, share=heading)
    facts = _facts(maker, page) if page.tongue in ("en", "zh") and canvas.chance(0.5) else {}
    if facts and canvas.chance(0.6) and flow.lines_left() > 3:
        shown = [facts["name"], facts["date"]] if canvas.chance(0.6) else [facts["city"], facts["date"]]
        line = ("，" if canvas.han else ", ").join(shown)
        if canvas.measure(line) <= flow.room:
            page.blocks.append(flow.put("small", [line], echoes=shown, colour=canvas.look.soft))
    count = max(least, canvas.between(1, 4))
    indent = canvas.em * 1.6 if canvas.chance(0.2) else 0.0
    if indent and framed < 0 and canvas.chance(0.7):
        flow.gap = 0.1
    align = 0.5 if canvas.chance(0.06) and not indent else 0.0
    for index in range(count):
        most = flow.lines_left() if index == count - 1 else max(1, flow.lines_left() // (count - index))
        room = min(page.left() // (count - index), int(most * flow.room / (canvas.em * (1.0 if canvas.han else 0.5))))
        if room < 8 or most < 1:
            break
        pieces = _fact_pieces(page, facts) if facts and (index == 0 or canvas.chance(0.4)) else []
        spent = sum(len(piece) for piece in pieces) + (0 if canvas.han else len(pieces))
        pieces += _sentences(maker, page, max(6, int(room * canvas.uniform(0.45, 0.8)) - spent))
        page.blocks.append(
            flow.fill_paragraph(pieces, most=most, align=align, indent=indent, echoes=list(facts.values()))
        )
    if len(page.of("paragraph")) < least:
        raise Unfit("too few paragraphs")
    # A fact that was written once, after all, cannot be told from the rest of the page.
    written = "\n".join(run.text for run in canvas.sheet.runs)
    for region in canvas.sheet.regions:
        region.derivable = region.derivable and written.count(region.text) > 1
    _footer(maker, page, flow)


def _footer(maker: Maker, page: Page, flow: Flow) -> None:
    """Small print or a page number at the foot of some pages."""
    canvas = page.canvas
    if not canvas.chance(0.2) or flow.framed >= 0 or page.left() < 40:
        return
    em = max(canvas.least_em, canvas.em * 0.8)
    if flow.bottom - flow.y < em * 2.2:
        return
    if canvas.chance(0.4):
        text = (f"第{canvas.between(1, 99)}页" if canvas.han else
                (f"- {canvas.between(1, 99)} -", f"Page {canvas.between(1, 99)}")[canvas.between(0, 1)])  # fmt: skip
    else:
        words = maker.content.words(canvas.rng, canvas.between(2, 4), page.tongue)
        text = ("" if canvas.han else " ").join(words)
    if canvas.measure(text, em=em) > flow.room:
        return
    flow.y = flow.bottom - em * 1.1
    page.blocks.append(
        flow.put("small", [text], em=em, colour=canvas.look.soft, align=0.5 * canvas.between(0, 2), gap=0.0)
    )


def _sections(maker: Maker, page: Page, framed: int) -> None:
    """Short headed sections in one or two columns."""
    canvas = page.canvas
    flow = _flow(page, framed=framed)
    _heading(maker, page, flow, share=0.7)
    columns = 2 if flow.room > 210 * (1.0 if canvas.han else 1.15) and canvas.chance(0.6) else 1
    gutter = canvas.em * canvas.uniform(1.0, 2.0)
    width = (flow.room - gutter * (columns - 1)) / columns
    top = flow.y + (flow.gap * canvas.em if page.blocks else 0.0)
    if columns == 2 and canvas.chance(0.4):
        middle = flow.left + width + gutter / 2
        canvas.rule(middle, top, middle, flow.bottom)
    count = max(2, min(6, canvas.between(2, 2 + canvas.height // 120)))
    bold = canvas.chance(0.7)
    names: set[str] = set()
    for column in range(columns):
        left = flow.left + column * (width + gutter)
        part = Flow(canvas, left, left + width, top, flow.bottom, flow.pitch, flow.gap, framed - len(page.blocks))
        here = count // columns + (column < count % columns)
        for index in range(here):
            left_lines = part.lines_left() // (here - index)
            if left_lines < 2 or page.left() < 30:
                break
            _section(
                maker,
                page,
                part,
                names,
                left_lines,
                page.left() // ((here - index) + here * (columns - 1 - column)),
                bold,
            )
    if len(page.of("section")) < 2:
        raise Unfit("too few sections")


def _section(maker: Maker, page: Page, flow: Flow, names: set[str], most: int, budget: int, bold: bool) -> None:
    canvas = page.canvas
    name = maker.content.title_word(canvas.rng, int(canvas.han))
    if name in names or canvas.measure(name, canvas.head) > flow.room:
        raise Unfit("no room for the section's name")
    names.add(name)
    page.blocks.append(
        flow.put("section", [name], face=canvas.head if bold else canvas.body,
                 colour=canvas.look.accent if canvas.chance(0.4) else canvas.look.ink)
    )  # fmt: skip
    pieces = _sentences(maker, page, max(6, int((budget - len(name)) * canvas.uniform(0.4, 0.75))))
    lines = canvas.wrap(pieces, canvas.body, canvas.em, flow.room)[: max(1, most - 1)]
    page.blocks.append(flow.put("paragraph", lines, gap=0.15))


def _list(maker: Maker, page: Page, framed: int) -> None:
    """A heading and numbered or bulleted items; some in alphabetical order."""
    canvas, rng, han = page.canvas, page.canvas.rng, page.canvas.han
    flow = _flow(page, framed=framed)
    flow.gap = canvas.uniform(0.15, 0.5)
    _heading(maker, page, flow, share=0.75)
    count = min(max(3, int(flow.lines_left() * 0.8 * canvas.ease)), canvas.between(3, 10))
    style = canvas.between(0, 4)
    items: list[str] = []
    for _ in range(count):
        words = maker.content.words(rng, canvas.between(1, 2 if han else 3), page.tongue)
        items.append(("" if han else " ").join(words) if style != 1 else words[0].capitalize())
    if canvas.chance(0.3):
        items.sort()
    column = canvas.chance(0.4)
    for index, item in enumerate(items):
        label = (f"{index + 1}.", f"{index + 1})", "•", "-", f"({index + 1})")[style]
        text = f"{label} {item}"
        if canvas.measure(text) > flow.room or page.left() < len(text) + 2 or flow.lines_left() < 1:
            if index < 2:
                raise Unfit("too short a list")
            break
        block = flow.put("item", [text], gap=None if column else 0.2, value=item)
        page.blocks.append(block)
    _footer(maker, page, flow)


def _value(maker: Maker, page: Page, sort: str, money: Money) -> str:
    rng, language = page.canvas.rng, int(page.canvas.han)
    content = maker.content
    made: dict[str, Callable[[], str]] = {
        "date": lambda: content.date(rng, language), "time": lambda: content.time(rng),
        "city": lambda: content.city(rng, language), "person": lambda: content.person(rng, language),
        "phone": lambda: content.phone(rng), "money": lambda: money.text(money.amount(rng)),
        "number": lambda: content.number(rng), "word": lambda: content.title_word(rng, language),
        "code": lambda: content.code(rng), "street": lambda: content.street(rng, language),
        "product": lambda: content.product(rng, language), "job": lambda: content.job(rng, language),
    }  # fmt: skip
    return made[sort]()


def _notice(maker: Maker, page: Page, framed: int) -> None:
    """Lines of `key: value`, and a closing sentence that repeats one of them."""
    canvas, han = page.canvas, page.canvas.han
    flow = _flow(page, framed=framed)
    _heading(maker, page, flow, share=0.7)
    flow.gap = canvas.uniform(0.15, 0.6)
    money = Money(canvas.rng, int(han))
    chosen = canvas.rng.permutation(len(_KEYS))[: canvas.between(3, 9)].tolist()
    aligned = not han and canvas.chance(0.3) and canvas.width > 180 and framed < 0
    mark = "：" if han else ": "
    for index in chosen:
        key, value = _KEYS[index][int(han)], _value(maker, page, _KEYS[index][2], money)
        text = f"{key}{mark}{value}"
        if page.left() < len(text) + 2 or flow.lines_left() < 1 or canvas.measure(text) > flow.room:
            continue
        if aligned:
            block = flow.put("value", [f"{key}:"], key=key, value=value)
            shift = max(canvas.measure(f"{key}:") + canvas.em, canvas.em * 6)
            canvas.write(value, flow.left + shift, block.box[1] + 0.8 * canvas.em, region="whole")
            block.lines[0] = f"{key}: {value}"
        else:
            block = flow.put("value", [text], key=key, value=value)
        page.blocks.append(block)
    values = page.of("value")
    if len(values) < 2:
        raise Unfit("too few values")
    if canvas.chance(0.5) and flow.lines_left() > 1:
        block = values[canvas.between(0, len(values) - 1)]
        text = (
            f"请记住：{block.value}。"
            if han
            else ("Remember: {}.", "See you: {}!", "Note: {}.")[canvas.between(0, 2)].format(block.value)
        )
        if canvas.measure(text) <= flow.room and page.left() > len(text) + 2:
            page.blocks.append(flow.put("small", [text], echoes=[block.value], gap=0.8))


def _glossary(maker: Maker, page: Page, framed: int) -> None:
    """`X = Y` lines, then all or some of them again in another order."""
    canvas, rng, language = page.canvas, page.canvas.rng, int(page.canvas.han)
    flow = _flow(page, framed=framed)
    _heading(maker, page, flow, share=0.5)
    flow.gap = canvas.uniform(0.1, 0.4)
    count = min(canvas.between(2, 6), max(2, flow.lines_left() // 2))
    keys = maker.content.distinct(rng, count, language)
    numbers = canvas.chance(0.4)
    sign = (" = ", " - ", ": ")[canvas.between(0, 2)]
    values = [maker.content.number(rng) if numbers else maker.content.title_word(rng, language) for _ in keys]
    pairs = list(zip(keys, values, strict=True))
    again = [pairs[int(index)] for index in rng.permutation(len(pairs))[: canvas.between(1, len(pairs))]]
    for key, value in [*pairs, *again]:
        text = f"{key}{sign}{value}"
        if page.left() < len(text) + 2 or flow.lines_left() < 1 or canvas.measure(text) > flow.room:
            break
        known = (key, value) in again
        page.blocks.append(flow.put("value", [text], key=key, value=value, echoes=[value] if known else ()))
    if len(page.of("value")) < 2:
        raise Unfit("too few entries")


def _week(maker: Maker, page: Page, framed: int) -> None:
    """A plan by weekday: after the first, the days say themselves."""
    canvas, rng, language = page.canvas, page.canvas.rng, int(page.canvas.han)
    flow = _flow(page, framed=framed)
    _heading(maker, page, flow, share=0.6)
    flow.gap = canvas.uniform(0.15, 0.6)
    days = WEEKDAYS[language][: canvas.between(5, 7)]
    first = canvas.between(0, 2)
    for index, day in enumerate(days[first:]):
        value = maker.content.title_word(rng, language)
        if canvas.chance(0.6):
            value = f"{maker.content.time(rng)} {value}"
        mark = "：" if language else ": "
        text = f"{day}{mark}{value}"
        if page.left() < len(text) + 2 or flow.lines_left() < 1:
            break
        echoes = [day] if index else ()
        page.blocks.append(flow.put("value", [text], key=day, value=value, echoes=echoes))
    if len(page.of("value")) < 2:
        raise Unfit("too few days")


def _lines(maker: Maker, page: Page, framed: int) -> None:
    """A heading and lines of words, dates, prices and codes, as large as fits, in one to three groups."""
    canvas, rng, han = page.canvas, page.canvas.rng, page.canvas.han
    page.budget = int(min(canvas.limits.glyphs, canvas.limits.answer) * canvas.uniform(0.55, 0.98) * canvas.ease)
    sliced = canvas.width * canvas.height > _PAGE_AREA
    count = canvas.between(5, 14) if sliced else canvas.between(2, 6)
    largest = (canvas.height - 2 * canvas.margin) / (1.45 * (count + 2.2))
    canvas.em = max(canvas.least_em, min(canvas.uniform(12.5, 23.0 if sliced else 18.0), largest))
    flow = _flow(page, framed=framed)
    flow.pitch, flow.gap = canvas.uniform(1.2, 1.55), 0.12
    if canvas.chance(0.8):
        _heading(maker, page, flow, mixed_line(rng, 12 if han else 18, most=3, han=han, held_out=maker.held_out))
    letter = canvas.em * (1.0 if han else 0.6)
    longest = max(4, min(int(flow.room / letter), 24 if han else 42))
    breaks = {canvas.between(2, count) for _ in range(canvas.between(0, 2))}
    for index in range(count):
        limit = longest if canvas.chance(0.6) else canvas.between(3, longest)
        text = mixed_line(rng, max(3, min(limit, page.left() - 1)), most=9, han=han, held_out=maker.held_out)
        while canvas.measure(text) > flow.room:
            text = text[: len(text) * 4 // 5].strip() or "I"
        if page.left() < len(text) + 1 or flow.lines_left() < 1:
            break
        page.blocks.append(flow.put("item", [text], gap=0.8 if index in breaks else None, value=text))
    if len(page.blocks) < 2:
        raise Unfit("too few lines")


_STYLES: dict[str, Callable[..., None]] = {
    "lines": _lines,
    "article": _article, "sections": _sections, "list": _list, "notice": _notice, "glossary": _glossary, "week": _week,
}  # fmt: skip


def compose(maker: Maker, rng: np.random.Generator, width: int, height: int, style: str, *, whole: bool,
            framed: int = -1, **options: float) -> Page:  # fmt: skip
    """Compose a page. whole: keep the text short enough to be the answer. framed: index of a block to frame."""
    canvas = maker.canvas(rng, width, height)
    if width * height > _PAGE_AREA and canvas.chance(0.6):  # print as large as on pages that fill their sheet
        canvas.em = max(canvas.em, canvas.least_em + (canvas.uniform(13.0, 21.0) - canvas.least_em) * canvas.ease)
    draw = canvas.rng.random()
    tongue = "zh" if canvas.han else "en" if draw < 0.8 else "de" if draw < 0.9 else "es"
    limit = min(canvas.limits.glyphs, canvas.limits.answer) if whole else canvas.limits.glyphs - 8
    page = Page(canvas, tongue, int(limit * maker.ease * (0.35 + 0.65 * np.cbrt(canvas.rng.random()))))
    _STYLES[style](maker, page, framed, **options)
    if not page.blocks:
        raise Unfit("an empty page")
    return page
