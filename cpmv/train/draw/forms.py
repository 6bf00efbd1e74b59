"""Filled-in forms: fields with lines, boxes or colons, groups of tick boxes, some fields left empty.

Asked as one-line JSON, field by field, or for what is ticked.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .canvas import ASCENT, DESCENT, Canvas, Unfit
from .content import Content
from .document import ELLIPSE, LINE, RECT, Document, Turn
from .prompts import YES_NO
from .questions import ask, row_of_turns

if TYPE_CHECKING:
    from .documents import Maker, Task

_FIELDS: tuple[tuple[str, str, str], ...] = (
    ("Name", "姓名", "person"), ("First name", "名字", "first"), ("Last name", "姓", "last"), ("City", "城市", "city"),
    ("Street", "街道", "street"), ("Address", "地址", "street"), ("Phone", "电话", "phone"), ("Job", "职业", "job"),
    ("Date", "日期", "date"), ("Date of birth", "出生日期", "date"), ("Age", "年纪", "age"), ("Room", "房间", "number"),
    ("Company", "公司", "shop"), ("Item", "商品", "product"), ("Order No.", "单号", "code"), ("Amount", "金额",
    "number"),
    ("Start", "开始", "time"), ("Arrival", "到达", "date"), ("Reason", "原因", "word"), ("Class", "班级", "number"),
    ("Zip", "区号", "number"), ("Contact", "联系人", "person"), ("Country", "国家", "word"), ("Member No.", "会员号",
    "code"),
)  # fmt: skip
_GROUPS: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("Plan", "方案", ("Basic", "Plus", "Pro", "Free", "Max"), ("基本", "标准", "高级")),
    ("Payment", "方式", ("Cash", "Card", "Check", "Bank"), ("现金", "银行卡", "手机")),
    ("Size", "大小", ("Small", "Medium", "Large"), ("小", "中", "大")),
    ("Meal", "饭菜", ("Fish", "Meat", "Salad", "None"), ("鱼", "肉", "素菜")),
    ("Travel", "交通", ("Train", "Bus", "Car", "Plane"), ("火车", "汽车", "飞机")),
    ("Newsletter", "通知", ("Yes", "No"), ("要", "不要")),
    ("Status", "状态", ("New", "Open", "Done", "Late"), ("新", "处理中", "完成")),
    ("Room type", "房型", ("Single", "Double", "Suite"), ("单人", "双人", "家庭")),
)  # fmt: skip
_TITLES = (
    ("Registration", "Order form", "Application", "Booking", "Membership", "Repair request", "Survey", "Sign up",
     "Visitor form", "Delivery note", "Guest card", "Leave request", "Contact form"),
    ("登记表", "申请表", "定单", "会员表", "访客登记", "联系表", "报名表", "调查表"),
)  # fmt: skip

_FRESH_KEYS = 0.25


@dataclass(slots=True)
class Group:
    """Tick boxes under one name."""

    key: str
    options: list[str]
    ticked: list[str]


@dataclass(slots=True)
class Form:
    """What a form says: fields in order ("" when empty) and groups after them."""

    title: str
    fields: list[tuple[str, str]]
    groups: list[Group] = field(default_factory=list)

    def as_json(self) -> str:
        """One-line JSON; a group of boxes is its ticked option, or a list of several."""
        values: dict[str, str | list[str]] = dict(self.fields)
        for group in self.groups:
            values[group.key] = group.ticked[0] if len(group.ticked) == 1 else group.ticked
        return json.dumps(values, ensure_ascii=False)


def _value(content: Content, rng: np.random.Generator, sort: str, language: int) -> str:
    made: dict[str, Callable[[], str]] = {
        "person": lambda: content.person(rng, language, full=True), "first": lambda: content.person(rng, language,
        full=False),
        "last": lambda: content.person(rng, language, full=True).split()[-1][: 1 if language else 20],
        "city": lambda: content.city(rng, language), "street": lambda: content.street(rng, language),
        "phone": lambda: content.phone(rng), "job": lambda: content.job(rng, language),
        "date": lambda: content.date(rng, language), "age": lambda: str(int(rng.integers(16, 90))),
        "number": lambda: content.number(rng), "shop": lambda: content.shop(rng, language),
        "product": lambda: content.product(rng, language), "code": lambda: content.code(rng),
        "time": lambda: content.time(rng), "word": lambda: content.title_word(rng, language),
    }  # fmt: skip
    return made[sort]()


def _key(maker: Maker, rng: np.random.Generator, names: tuple[str, str, str], language: int) -> str:
    """The name of a field; one in four is any word instead."""
    if maker.held_out or rng.random() > _FRESH_KEYS:
        return names[language]
    return maker.content.title_word(rng, language)


def write(maker: Maker, canvas: Canvas, num_fields: int, num_groups: int, *, empty: bool) -> Form:
    """A form with that many fields and groups. empty: leave one field blank."""
    rng, content, language = canvas.rng, maker.content, int(canvas.han)
    chosen = [_FIELDS[int(i)] for i in rng.permutation(len(_FIELDS))[:num_fields]]
    fields = [(_key(maker, rng, names, language), _value(content, rng, names[2], language)) for names in chosen]
    if len({key for key, _ in fields}) < len(fields):
        raise Unfit("a key stands twice")
    if empty and fields:
        index = canvas.between(0, len(fields) - 1)
        fields[index] = (fields[index][0], "")
    title = content.heading(rng, language) if canvas.chance(0.3) else content.pick(rng, _TITLES[language])
    form = Form(title if canvas.chance(0.7) else "", fields)
    for place in rng.permutation(len(_GROUPS))[:num_groups].tolist():
        key, options = _GROUPS[place][language], list(_GROUPS[place][2 + language])
        if canvas.chance(0.3):
            key = _key(maker, rng, (key, key, ""), language)
        if canvas.chance(0.4):
            options = content.distinct(rng, canvas.between(2, 3), language, 7)
        options = options[: canvas.between(2, 4)]
        count = 1 if canvas.chance(0.8) or len(options) < 3 else 2
        ticked = sorted(content.sample(rng, options, count), key=options.index)
        form.groups.append(Group(key, options, ticked))
    return form


class _Drawer:
    """Writes a form down the sheet. style: how fields are marked."""

    def __init__(self, canvas: Canvas, form: Form) -> None:
        self.canvas, self.form = canvas, form
        self.left = canvas.margin
        self.right = canvas.width - canvas.margin
        self.style = canvas.between(0, 3)  # colon, underline, box, grid
        self.mark = "" if canvas.chance(0.3) else "：" if canvas.han else ":"
        self.keys = canvas.faces.bold(canvas.body) if canvas.chance(0.4) else canvas.body
        self.value_face = canvas.body if canvas.chance(0.7) else canvas.faces.choose(canvas.rng, han=canvas.han)
        self.value_colour = canvas.look.accent if canvas.chance(0.3) else canvas.look.ink
        self.box_kind = canvas.between(0, 1)
        self.tick = canvas.between(0, 2)

    def draw(self) -> None:
        canvas, form, em = self.canvas, self.form, self.canvas.em
        top = canvas.margin
        if form.title:
            size = canvas.fit(form.title, canvas.head, em * canvas.uniform(1.1, 1.8), self.right - self.left)
            align = 0.5 * canvas.between(0, 1)
            canvas.write(form.title, self.left + align * (self.right - self.left), top + ASCENT * size, em=size,
                         face=canvas.head, align=align)  # fmt: skip
            top += size * (ASCENT + DESCENT) + em * 0.35
            if canvas.chance(0.4):
                canvas.rule(self.left, top - em * 0.2, self.right, top - em * 0.2)
        widest = max(canvas.measure(key + self.mark, self.keys) for key, _ in form.fields)
        room = self.right - self.left
        stacked = widest + max(self._width(value) for _, value in form.fields) + em * 1.6 > room
        aligned = widest + em * 0.8 if canvas.chance(0.7) and not stacked else 0.0
        groups = [self._group_lines(group) for group in form.groups]
        units = len(form.fields) * (2 if stacked else 1) + sum(groups)
        pitch = (canvas.height - canvas.margin - top) / units
        least = (ASCENT + DESCENT + (0.34 if self.style else 0.1)) * em
        if pitch < least:
            raise Unfit("too many fields")
        pitch = min(pitch, canvas.uniform(1.4, 2.3) * em)
        y = top + (canvas.height - canvas.margin - top - pitch * units) * canvas.rng.random() * canvas.chance(0.5)
        for key, value in form.fields:
            y = self._field(key, value, y, pitch, aligned, stacked)
        for group, lines in zip(form.groups, groups, strict=True):
            y = self._group(group, y, pitch, lines)

    def _width(self, value: str) -> float:
        return self.canvas.measure(value, self.value_face)

    def _field(self, key: str, value: str, y: float, pitch: float, aligned: float, stacked: bool) -> float:
        canvas, em = self.canvas, self.canvas.em
        offset = (pitch - (ASCENT + DESCENT) * em) / 2 + ASCENT * em
        box = canvas.write(key + self.mark, self.left, y + offset, face=self.keys, region="whole")
        start = self.left + em * 0.3 if stacked else self.left + aligned if aligned else box[2] + em * 0.7
        y += pitch if stacked else 0.0
        if value:
            if start + self._width(value) > self.right - em * 0.25:
                raise Unfit("the value is too long")
            canvas.write(value, start, y + offset, face=self.value_face, colour=self.value_colour, region="whole")
        high, low = y + offset - ASCENT * em, y + offset + DESCENT * em
        if self.style == 1:
            canvas.rule(start, low + 1.0, self.right, low + 1.0)
        elif self.style == 2:
            canvas.frame((start - em * 0.25, high - 1.5, self.right, low + 1.5))
        elif self.style == 3:
            canvas.rule(self.left - 2, y + pitch, self.right, y + pitch)
        return y + pitch

    def _group_lines(self, group: Group) -> int:
        """One line where key and options fit beside each other, else the key above, else a line each."""
        canvas, em = self.canvas, self.canvas.em
        options = sum(canvas.measure(option) + em * 2.3 for option in group.options)
        if canvas.measure(group.key + self.mark, self.keys) + em + options <= self.right - self.left:
            return 1
        return 2 if options <= self.right - self.left else 1 + len(group.options)

    def _group(self, group: Group, y: float, pitch: float, lines: int) -> float:
        canvas, em = self.canvas, self.canvas.em
        offset = (pitch - (ASCENT + DESCENT) * em) / 2 + ASCENT * em
        box = canvas.write(group.key + self.mark, self.left, y + offset, face=self.keys, region="whole")
        x = box[2] + em * 0.8 if lines == 1 else self.left + em * 0.3
        for index, option in enumerate(group.options):
            if (lines == 2 and index == 0) or lines > 2:
                y += pitch
            self._box(x, y + offset, option in group.ticked)
            end = canvas.write(option, x + em * 1.15, y + offset, region="whole")[2]
            if lines <= 2:
                x = end + em * canvas.uniform(0.9, 1.1)
        return y + pitch

    def _box(self, x: float, baseline: float, ticked: bool) -> None:
        """A box of most of an em, ticked with a cross, a check mark or a fill."""
        canvas = self.canvas
        side = canvas.em * 0.78
        top = baseline - side * 0.95
        box = (x, top, x + side, top + side)
        ink = canvas.look.ink
        if self.box_kind == 0:
            canvas.frame(box, colour=ink)
        else:
            canvas.mark(ELLIPSE, *box, colour=ink)
            canvas.mark(ELLIPSE, x + 1.2, top + 1.2, x + side - 1.2, top + side - 1.2, colour=canvas.look.paper)
        if not ticked:
            return
        near, far = side * 0.22, side * 0.78
        if self.tick == 0 and self.box_kind == 0:
            canvas.mark(LINE, x + near, top + near, x + far, top + far, 1.5, colour=ink)
            canvas.mark(LINE, x + near, top + far, x + far, top + near, 1.5, colour=ink)
        elif self.tick == 1 and self.box_kind == 0:
            canvas.mark(LINE, x + near, top + side * 0.5, x + side * 0.42, top + far, 1.5, colour=canvas.look.accent)
            canvas.mark(
                LINE, x + side * 0.42, top + far, x + side * 0.95, top - side * 0.1, 1.5, colour=canvas.look.accent
            )
        else:
            canvas.mark(RECT if self.box_kind == 0 else ELLIPSE, x + near, top + near, x + far, top + far, colour=ink)


def compose(maker: Maker, rng: np.random.Generator, width: int, height: int, *, whole: bool, boxes: bool,
            empty: bool) -> tuple[Canvas, Form]:  # fmt: skip
    """A form on a sheet. whole: short enough for a JSON answer; boxes: with a group of boxes; empty: with a blank."""
    canvas = maker.canvas(rng, width, height)
    canvas.em = min(canvas.em, max(canvas.least_em, height / 9))
    lines = int((height - 2 * canvas.margin) / (canvas.em * 1.6))
    num_groups = max(int(boxes), min(2, canvas.between(0, 2) if canvas.chance(0.5) else 0, lines // 4))
    size = 16 if canvas.han else 26
    budget = int((canvas.limits.answer if whole else canvas.limits.glyphs * 0.8) * canvas.ease / size)
    num_fields = max(1, min(canvas.between(2, 8), lines - 2 * num_groups, budget - num_groups))
    if empty and num_fields < 2:
        raise Unfit("too few fields")
    form = write(maker, canvas, num_fields, num_groups, empty=empty)
    _Drawer(canvas, form).draw()
    return canvas, form


def _answer(task: str, canvas: Canvas, form: Form, language: int) -> tuple[str, tuple[str, ...]]:
    if task == "form_json":
        return form.as_json(), ()
    if task == "form_title":
        if not form.title:
            raise Unfit("no title")
        return form.title, ()
    if task == "form_empty":
        return next(key for key, value in form.fields if not value), ()
    if task == "form_field":
        filled = [pair for pair in form.fields if pair[1]]
        key, value = filled[canvas.between(0, len(filled) - 1)]
        return value, (key,)
    group = form.groups[canvas.between(0, len(form.groups) - 1)]
    if task == "form_ticked":
        if len(form.groups) > 1:
            raise Unfit("two groups")
        return ", ".join(group.ticked), ()
    if sum(other.options == group.options for other in form.groups) > 1:
        raise Unfit("an option stands twice")
    option = group.options[canvas.between(0, len(group.options) - 1)]
    return YES_NO[language][0 if option in group.ticked else 1], (option,)


def _chat(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    """A row of questions about one form."""
    canvas, form = compose(maker, rng, width, height, whole=False, boxes=rng.random() < 0.6, empty=False)
    language = int(canvas.han)
    tasks = {"form_field": 5.0, "form_title": 0.4}
    if form.groups:
        tasks |= {"form_ticked": 1.0, "form_is_ticked": 2.0}
    turns = row_of_turns(rng, tasks, lambda task: _answer(task, canvas, form, language), language,
                         most=canvas.between(2, 6), room=100)  # fmt: skip
    meta = {"fields": form.fields, "groups": [(g.key, g.options, g.ticked) for g in form.groups]}
    return Document("form_chat", [canvas.sheet], turns, language, meta=meta)


def _task(task: str) -> Task:
    def make(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
        boxes, empty = task in ("form_ticked", "form_is_ticked"), task == "form_empty"
        blank = empty or (task != "form_field" and rng.random() < 0.1)
        canvas, form = compose(maker, rng, width, height, whole=task == "form_json", boxes=boxes, empty=blank)
        language = maker.language(canvas) if task in ("form_json", "form_title", "form_ticked") else int(canvas.han)
        answer, values = _answer(task, canvas, form, language)
        turn = Turn(ask(rng, task, language, *values), answer, 1)
        meta = {"fields": form.fields, "groups": [(g.key, g.options, g.ticked) for g in form.groups]}
        return Document(task, [canvas.sheet], [turn], language, meta=meta)

    return make


WEIGHTS: dict[str, float] = {
    "form_json": 5.0, "form_field": 1.5, "form_ticked": 0.8, "form_is_ticked": 0.6, "form_title": 0.4,
    "form_empty": 0.5, "form_chat": 3.0,
}  # fmt: skip
TASKS: dict[str, Task] = {name: _task(name) for name in WEIGHTS if name != "form_chat"} | {"form_chat": _chat}
