"""Questions about two to four pictures at once: what changed, which one, how many, in which order, the sum of two.

All sheets of a document have one size and stand before one question. Pictures are named by number, counted from 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from .canvas import Canvas, Unfit
from .content import CHINESE, Money
from .document import Colour, Document, Sheet, Turn
from .figures import (
    SHAPE_NAMES,
    Figure,
    colour_word,
    draw_pair,
    draw_paper,
    figure_marks,
    is_barred,
    pair_word,
    shape_word,
    toned,
    visible_colours,
)
from .mixed_lines import mixed_line
from .prompts import DIRECTIONS, NOTHING, YES_NO
from .scenes import Scene, describe, draw_language, draw_scene, wording
from .wordings import SEVERAL

if TYPE_CHECKING:
    from .documents import Maker

_STEPS = {"right": (1, 0), "down": (0, 1), "left": (-1, 0), "up": (0, -1)}
_LEAST_MOVE = 0.14  # of the side
_CHANGES = ("colour", "shape", "new", "gone", "moved", "nothing")
_CHANGE_SHARES = (0.22, 0.22, 0.2, 0.18, 0.12, 0.06)


def _document(task: str, sheets: list[Sheet], question: str, answer: str, language: int, **meta: object) -> Document:
    return Document(task, sheets, [Turn(question, answer, len(sheets))], language, meta=dict(meta))


def _changed(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    language = draw_language(rng)
    before = draw_scene(rng, width, height, maker.held_out, least=2, most=5)
    order = rng.permutation(len(_CHANGES))
    kind = _CHANGES[int(rng.choice(len(_CHANGES), p=_CHANGE_SHARES))]
    for name in [kind, *(_CHANGES[int(i)] for i in order), "nothing"]:
        changed = _change(before, name, rng, language)
        if changed is not None:
            after, answer = changed
            break
    else:
        raise AssertionError("nothing is always a possible change")
    tones: dict[Figure, Colour] = {}  # what stays looks the same in both pictures
    sheets = [before.sheet(rng, tones), after.sheet(rng, tones)]
    question = wording(rng, SEVERAL, "changed", language)
    return _document("several_changed", sheets, question, answer, language, change=name, scenes=[before, after])


def _change(scene: Scene, kind: str, rng: np.random.Generator, language: int) -> tuple[Scene, str] | None:
    """A scene with one thing changed, and how that is said; None where the scene does not allow it."""
    alone = scene.unique(lambda f: f.pair)
    if kind == "nothing":
        return scene, NOTHING[language]
    if not alone:
        return None
    target = alone[int(rng.integers(len(alone)))]
    index = scene.figures.index(target)
    name = pair_word(target.pair, language)
    if kind == "gone":
        if len(scene.figures) < 3:
            return None
        figures = [*scene.figures[:index], *scene.figures[index + 1 :]]
        return replace(scene, figures=figures), f"{name}不见了" if language else f"the {name} is gone"
    if kind == "new":  # the picture that lacks it comes first: swap what "before" means
        return _added(scene, rng, language)
    if kind == "moved":
        return _moved(scene, target, index, rng, language)
    pair = _other_pair(scene, target, kind, rng)
    if pair is None:
        return None
    figures = list(scene.figures)
    figures[index] = replace(target, colour=pair[0], shape=pair[1])
    word = colour_word(pair[0], language) if kind == "colour" else shape_word(pair[1], language)
    said = (
        f"{name}变成了{word}" if language else f"the {name} is now {'' if kind == 'colour' else _article(word)}{word}"
    )
    return replace(scene, figures=figures), said


def _article(word: str) -> str:
    return "an " if word[0] in "aeio" else "a "


def _other_pair(scene: Scene, target: Figure, kind: str, rng: np.random.Generator) -> tuple[str, str] | None:
    there = {f.pair for f in scene.figures}
    for _ in range(20):
        colour, shape = draw_pair(rng, visible_colours(scene.paper), scene.held_out)
        pair = (colour, target.shape) if kind == "colour" else (target.colour, shape)
        if pair not in there and not is_barred(*pair, scene.held_out):
            return pair
    return None


def _added(scene: Scene, rng: np.random.Generator, language: int) -> tuple[Scene, str] | None:
    there = {f.pair for f in scene.figures}
    for _ in range(60):
        pair = draw_pair(rng, visible_colours(scene.paper), scene.held_out)
        radius = min(scene.width, scene.height) * (0.06 + 0.08 * float(rng.random()))
        x = radius + 2 + float(rng.random()) * (scene.width - 2 * radius - 4)
        y = radius + 2 + float(rng.random()) * (scene.height - 2 * radius - 4)
        figure = Figure(pair[1], pair[0], x, y, radius)
        if pair not in there and _is_free(figure, scene.figures):
            said = (
                f"多了一个{pair_word(pair, language)}"
                if language
                else f"{_article(pair[0])}{pair_word(pair, 0)} is new"
            )
            return replace(scene, figures=[*scene.figures, figure]), said
    return None


def _moved(
    scene: Scene, target: Figure, index: int, rng: np.random.Generator, language: int
) -> tuple[Scene, str] | None:
    others = [f for f in scene.figures if f is not target]
    for name in [list(_STEPS)[int(i)] for i in rng.permutation(len(_STEPS))]:
        dx, dy = _STEPS[name]
        far = _LEAST_MOVE + 0.3 * float(rng.random())
        moved = replace(target, x=target.x + dx * far * scene.width, y=target.y + dy * far * scene.height)
        left, top, right, bottom = moved.box
        if left > 1 and top > 1 and right < scene.width - 1 and bottom < scene.height - 1 and _is_free(moved, others):
            figures = list(scene.figures)
            figures[index] = moved
            word = pair_word(target.pair, language)
            said = f"{word}{DIRECTIONS[name]}移动了" if language else f"the {word} moved {name}"
            return replace(scene, figures=figures), said
    return None


def _is_free(figure: Figure, others: list[Figure]) -> bool:
    return all(
        (figure.x - f.x) ** 2 + (figure.y - f.y) ** 2 > (1.25 * (figure.radius + f.radius) + 2) ** 2 for f in others
    )


def _lines(maker: Maker, rng: np.random.Generator, han: bool) -> list[str]:
    """One to three short lines, of words or of anything that is printed."""
    count = int(rng.integers(1, 4))
    if rng.random() < 0.6:
        return [mixed_line(rng, 10 if han else 16, most=3, han=han, held_out=maker.held_out) for _ in range(count)]
    if han:
        return ["".join(maker.content.words(rng, int(rng.integers(1, 3)), "zh"))[:6] for _ in range(count)]
    return [" ".join(maker.content.words(rng, int(rng.integers(1, 3)))) for _ in range(count)]


def _altered(lines: list[str], maker: Maker, rng: np.random.Generator, han: bool) -> list[str]:
    """The lines with one word or one character changed."""
    lines = list(lines)
    index = int(rng.integers(len(lines)))
    line = lines[index]
    places = [i for i in range(len(line) - 1) if line[i] != line[i + 1] and " " not in line[i : i + 2]]
    if places and rng.random() < 0.35:  # two neighbours change places
        place = places[int(rng.integers(len(places)))]
        lines[index] = line[:place] + line[place + 1] + line[place] + line[place + 2 :]
        return lines
    if han or rng.random() < 0.5:
        fresh = _lines(maker, rng, han)[0]
        lines[index] = fresh if fresh != lines[index] else fresh[::-1] + lines[index][:1]
        return lines
    words = lines[index].split()
    place = int(rng.integers(len(words)))
    words[place] = next(w for w in (*maker.content.words(rng, 8), words[place] + "s") if w != words[place])
    lines[index] = " ".join(words)
    return lines


def _text_sheet(maker: Maker, rng: np.random.Generator, width: int, height: int, lines: list[str], han: bool) -> Sheet:
    canvas = maker.canvas(rng, width, height, han=han)
    room = width - 2 * canvas.margin - 2
    em = min(canvas.fit(line, canvas.body, 12 + 14 * float(rng.random()), room) for line in lines)
    step = em * (1.3 + 0.4 * float(rng.random()))
    total = step * (len(lines) - 1) + em * 1.04
    if total > height - 4:
        raise Unfit("too many lines")
    top = 2 + (height - 4 - total) * (0.2 + 0.6 * float(rng.random()))
    align = float(rng.integers(2)) / 2
    for number, line in enumerate(lines):
        x = width / 2 if align else canvas.margin + 1
        canvas.write(line, x, top + em * 0.8 + number * step, em=em, align=align)
    return canvas.sheet


def _same_text(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    language = draw_language(rng)
    han = bool(rng.random() < 0.3)
    lines = _lines(maker, rng, han)
    same = bool(rng.random() < 0.5)
    other = lines if same else _altered(lines, maker, rng, han)
    sheets = [_text_sheet(maker, rng, width, height, text, han) for text in (lines, other)]
    question = wording(rng, SEVERAL, "same_text", language)
    return _document(
        "several_same_text", sheets, question, YES_NO[language][0 if same else 1], language, texts=[lines, other]
    )


def _read_one(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    language = draw_language(rng)
    han = bool(language) ^ bool(rng.random() < 0.1)
    texts = [_lines(maker, rng, han)[:2] for _ in range(int(rng.integers(2, 4)))]
    sheets = [_text_sheet(maker, rng, width, height, text, han) for text in texts]
    which = int(rng.integers(len(texts)))
    question = wording(rng, SEVERAL, "read_one", language).format(which + 1)
    return _document("several_read_one", sheets, question, "\n".join(texts[which]), language, texts=texts, which=which)


def _which_says(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    language = draw_language(rng)
    words = maker.content.distinct(rng, int(rng.integers(2, 5)), language)
    if rng.random() < 0.5:
        han = bool(language) and rng.random() < 0.7
        lines = [mixed_line(rng, 6 if han else 14, most=2, han=han, held_out=maker.held_out) for _ in words]
        words = list(dict.fromkeys(lines))
    sheets = [_text_sheet(maker, rng, width, height, [word], not word.isascii()) for word in words]
    which = int(rng.integers(len(words)))
    question = wording(rng, SEVERAL, "which_says", language).format(words[which])
    return _document("several_which_says", sheets, question, str(which + 1), language, words=words)


def _scenes(maker: Maker, rng: np.random.Generator, width: int, height: int, number: int, most: int = 4) -> list[Scene]:
    return [draw_scene(rng, width, height, maker.held_out, most=most) for _ in range(number)]


def _which_contains(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    language = draw_language(rng)
    scenes = _scenes(maker, rng, width, height, int(rng.integers(2, 5)))
    homes: dict[tuple[str, str], set[int]] = {}
    for number, scene in enumerate(scenes, 1):
        for figure in scene.figures:
            homes.setdefault(figure.pair, set()).add(number)
    single = sorted(pair for pair, where in homes.items() if len(where) == 1)
    if not single:
        raise Unfit("no figure stands in one picture only")
    pair = single[int(rng.integers(len(single)))]
    question = wording(rng, SEVERAL, "which_contains", language).format(pair_word(pair, language))
    answer = str(next(iter(homes[pair])))
    sheets = [scene.sheet(rng) for scene in scenes]
    return _document(
        "several_which_contains", sheets, _article_fixed(question, pair[0]), answer, language, scenes=scenes, pair=pair
    )


def _article_fixed(question: str, word: str) -> str:
    """ "a orange" -> "an orange"."""
    if word[0] not in "aeio":
        return question
    return question.replace(f"a {word}", f"an {word}").replace(f"A {word}", f"An {word}")


def _how_many_show(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    language = draw_language(rng)
    scenes = _scenes(maker, rng, width, height, int(rng.integers(2, 5)))
    by_shape = bool(rng.random() < 0.4)
    chosen = scenes[int(rng.integers(len(scenes)))].figures[0]
    shape = chosen.shape if rng.random() < 0.85 else str(rng.choice(SHAPE_NAMES))
    pair = chosen.pair
    for scene in scenes if not by_shape else []:  # the same figure in about half of them
        if rng.random() < 0.45 and pair[0] in visible_colours(scene.paper):
            scene.figures[0] = replace(scene.figures[0], colour=pair[0], shape=pair[1])
    count = sum(any(f.shape == shape if by_shape else f.pair == pair for f in s.figures) for s in scenes)
    word = shape_word(shape, language) if by_shape else pair_word(pair, language)
    question = wording(rng, SEVERAL, "how_many_show", language).format(word)
    question = _article_fixed(question, word) if not language else question
    sheets = [scene.sheet(rng) for scene in scenes]
    asked = shape if by_shape else pair
    return _document("several_how_many_show", sheets, question, str(count), language, scenes=scenes, asked=asked)


def _more_shapes(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    language = draw_language(rng)
    scenes = _scenes(maker, rng, width, height, 2 if rng.random() < 0.7 else 3, most=7)
    counts = [len(scene.figures) for scene in scenes]
    if sorted(counts)[-1] == sorted(counts)[-2]:
        shorter = next(i for i, c in enumerate(counts) if c == max(counts))
        if counts[shorter] < 2:
            raise Unfit("no picture has more shapes")
        scenes[shorter].figures.pop()
        counts[shorter] -= 1
    if counts.count(max(counts)) > 1:
        raise Unfit("no picture has more shapes than all others")
    question = wording(rng, SEVERAL, "more_shapes", language)
    sheets = [scene.sheet(rng) for scene in scenes]
    return _document(
        "several_more_shapes", sheets, question, str(counts.index(max(counts)) + 1), language, scenes=scenes
    )


def _describe_one(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    language = draw_language(rng)
    scenes = _scenes(maker, rng, width, height, int(rng.integers(2, 5)))
    which = int(rng.integers(len(scenes)))
    text = describe(scenes[which], language)
    if text is None:
        raise Unfit("the order of the figures is not clear")
    question = wording(rng, SEVERAL, "describe_one", language).format(which + 1)
    sheets = [scene.sheet(rng) for scene in scenes]
    return _document("several_describe_one", sheets, question, text, language, scenes=scenes, which=which)


def _order_by_size(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    language = draw_language(rng)
    number = int(rng.integers(2, 5))
    side = min(width, height)
    radii = [side * 0.46 / 1.45**k for k in range(number)]
    ranks = [int(r) for r in rng.permutation(number)]
    paper, held_out = draw_paper(rng), maker.held_out
    same = draw_pair(rng, visible_colours(paper), held_out) if rng.random() < 0.5 else None
    sheets: list[Sheet] = []
    for rank in ranks:
        colour, shape = same or draw_pair(rng, visible_colours(paper), held_out)
        radius = radii[rank] * (0.9 + 0.1 * float(rng.random()))
        x = radius + 1 + float(rng.random()) * (width - 2 * radius - 2)
        y = radius + 1 + float(rng.random()) * (height - 2 * radius - 2)
        marks = figure_marks(Figure(shape, colour, x, y, radius), paper, toned(rng, colour))
        sheets.append(Sheet(width, height, paper, marks))
    order = sorted(range(number), key=lambda i: -ranks[i])
    answer = ("、" if language else ", ").join(str(i + 1) for i in order)
    question = wording(rng, SEVERAL, "order_by_size", language)
    return _document("several_order_by_size", sheets, question, answer, language, ranks=ranks)


def receipt_sheet(
    canvas: Canvas, maker: Maker, money: Money, prices: list[int], *, total: int | None, words: list[str] | None = None
) -> None:
    """A small receipt: items with prices, and the total where given. Raises Unfit where it has no room."""
    language = int(canvas.han)
    names = words or maker.content.goods(canvas.rng, len(prices), language)[: len(prices)]
    rows = [(name, money.text(price)) for name, price in zip(names, prices, strict=False)]
    if len(rows) < len(prices):
        raise Unfit("not enough names")
    label = ("Total", "TOTAL", "Sum", "Total:", "To pay")[canvas.between(0, 4)]
    if total is not None:
        rows.append((("合计", "总计", "总额")[canvas.between(0, 2)] if language else label, money.text(total)))
    heading = maker.content.shop(canvas.rng, language) if canvas.chance(0.6) else ""
    step = canvas.em * canvas.uniform(1.2, 1.6)
    top = canvas.margin + canvas.em
    lines = len(rows) + bool(heading)
    step = min(step, (canvas.height - canvas.margin - top - 2) / max(1, lines - 0.6))
    if step < canvas.em * 1.06:
        raise Unfit("too many items")
    right = min(canvas.width - canvas.margin - 1, canvas.margin + canvas.em * canvas.uniform(13, 22))
    y = top
    if heading:
        em = canvas.fit(heading, canvas.head, canvas.em * 1.1, canvas.width - 2 * canvas.margin - 2)
        canvas.write(heading, (canvas.margin + right) / 2, y, em=min(em, canvas.em * 1.1), face=canvas.head, align=0.5)
        y += step
    for number, (left, amount) in enumerate(rows):
        last = total is not None and number == len(rows) - 1
        if last and canvas.chance(0.5):
            canvas.rule(canvas.margin, y - canvas.em * 0.95, right, y - canvas.em * 0.95)
        face = canvas.head if last else canvas.body
        canvas.write(left, canvas.margin + 1, y, face=face)
        canvas.write(amount, right, y, face=face, align=1.0, region="whole", derivable=last)
        y += step


def _receipts(
    maker: Maker, rng: np.random.Generator, width: int, height: int
) -> tuple[list[Sheet], list[int], Money, int]:
    language = draw_language(rng)
    money = Money(rng, language)
    sheets, totals = [], []
    for _ in range(2):
        canvas = maker.canvas(rng, width, height, han=language == CHINESE)
        prices = [money.amount(rng, 2000) for _ in range(canvas.between(1, 3))]
        totals.append(sum(prices))
        receipt_sheet(canvas, maker, money, prices, total=sum(prices))
        sheets.append(canvas.sheet)
    return sheets, totals, money, language


def _sum_receipts(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    sheets, totals, money, language = _receipts(maker, rng, width, height)
    question = wording(rng, SEVERAL, "sum_receipts", language)
    return _document("several_sum_receipts", sheets, question, money.text(sum(totals)), language, totals=totals)


def _which_costs_more(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    sheets, totals, _, language = _receipts(maker, rng, width, height)
    if totals[0] == totals[1]:
        raise Unfit("both cost the same")
    question = wording(rng, SEVERAL, "which_costs_more", language)
    answer = "1" if totals[0] > totals[1] else "2"
    return _document("several_which_costs_more", sheets, question, answer, language, totals=totals)


TASKS: dict[str, Callable[[Maker, np.random.Generator, int, int], Document]] = {
    "changed": _changed,
    "same_text": _same_text,
    "read_one": _read_one,
    "which_says": _which_says,
    "which_contains": _which_contains,
    "how_many_show": _how_many_show,
    "more_shapes": _more_shapes,
    "describe_one": _describe_one,
    "order_by_size": _order_by_size,
    "sum_receipts": _sum_receipts,
    "which_costs_more": _which_costs_more,
}
WEIGHTS: dict[str, float] = {
    "changed": 2.5, "same_text": 1.5, "read_one": 0.8, "which_says": 0.8, "which_contains": 1.2, "how_many_show": 0.8,
    "more_shapes": 0.7, "describe_one": 1.0, "order_by_size": 0.8, "sum_receipts": 1.2, "which_costs_more": 0.8,
}  # fmt: skip
