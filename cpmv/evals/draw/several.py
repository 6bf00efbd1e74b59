"""Questions over two to four pictures: same text, which one, how many, sums over receipts, order by size."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from PIL import Image

from ...train.draw.prompts import HELD_OUT_PAIRS
from ...train.draw.wordings import SEVERAL
from ..samples import Sample, picture
from .canvas import Sheet, Size, choose_face, largest_size
from .papers import Rows, content, fitting_face, goods, look, money, write_rows, write_title
from .reading import MIN_SIZE, han_line, latin_line, write_lines
from .scenes import Names, Thing, choose_pairs, place_things, render, scene_paper

SIZE: Size = (168, 168)
_Made = tuple[list[Image.Image], tuple[str, ...], str]  # pictures, slots, answer


def draw_several(rng: random.Random, chinese: bool) -> Sample:
    """A question of any kind of this module."""
    kind = rng.choice(sorted(_MAKE))
    images, values, answer = _MAKE[kind](rng, Names(int(chinese)))
    question = rng.choice(SEVERAL[kind][int(chinese)]).format(*values)
    return picture(images, question, answer, kind=kind, language="zh" if chinese else "en")


def _text_picture(rng: random.Random, text: str, han: bool) -> Image.Image:
    size = rng.choice([SIZE, (196, 112), (168, 112)])
    face = choose_face(rng, "han" if han else "ordinary", False, text)
    largest = largest_size([text], face, (size[0] - 10, size[1] - 8), 1.3, MIN_SIZE, 30)
    return write_lines(rng, size, [text], face, rng.randint(MIN_SIZE, largest), 1.3).image


def _texts(rng: random.Random, names: Names, count: int) -> tuple[list[str], bool]:
    han = bool(names.language) and rng.random() < 0.7
    texts: list[str] = []
    while len(texts) < count:
        text = han_line(rng, 6) if han else latin_line(rng, 14, 2)
        if text not in texts:
            texts.append(text)
    return texts, han


def _same_text(rng: random.Random, names: Names) -> _Made:
    """Equal, quite different, or different in one character, which is swapped with a neighbour."""
    (first, second), han = _texts(rng, names, 2)
    draw = rng.random()
    if draw < 0.5:
        second = first
    elif draw < 0.75:
        place = next((i for i in range(len(first) - 1) if first[i] != first[i + 1]), None)
        if place is not None:
            second = first[:place] + first[place + 1] + first[place] + first[place + 2 :]
    return [_text_picture(rng, text, han) for text in (first, second)], (), names.said(first == second)


def _read_one(rng: random.Random, names: Names) -> _Made:
    texts, han = _texts(rng, names, rng.randint(2, 3))
    which = rng.randrange(len(texts))
    return [_text_picture(rng, text, han) for text in texts], (str(which + 1),), texts[which]


def _which_says(rng: random.Random, names: Names) -> _Made:
    texts, han = _texts(rng, names, rng.randint(2, 4))
    which = rng.randrange(len(texts))
    return [_text_picture(rng, text, han) for text in texts], (texts[which],), str(which + 1)


def _scenes(rng: random.Random, count: int) -> list[list[tuple[str, str]]]:
    return [choose_pairs(rng, (220, 220, 220), rng.randint(1, 3)) for _ in range(count)]


def _draw(rng: random.Random, pairs: Sequence[tuple[str, str]]) -> Image.Image:
    return render(SIZE, (220, 220, 220), place_things(rng, SIZE, pairs))


def _which_contains(rng: random.Random, names: Names) -> _Made:
    while True:
        scenes = _scenes(rng, rng.randint(2, 4))
        which = rng.randrange(len(scenes))
        pair = rng.choice(scenes[which])
        if sum(pair in scene for scene in scenes) == 1 and pair not in HELD_OUT_PAIRS and _takes_a(pair, names):
            return [_draw(rng, scene) for scene in scenes], (names.pair(*pair),), str(which + 1)


def _takes_a(pair: tuple[str, str], names: Names) -> bool:
    """Whether "a red circle" is right; the wordings have no place for "an"."""
    return bool(names.language) or pair[0][0] not in "aeio"


def _how_many_show(rng: random.Random, names: Names) -> _Made:
    while True:
        scenes = _scenes(rng, rng.randint(3, 4))
        pair = rng.choice(scenes[0])
        if _takes_a(pair, names):
            break
    for scene in scenes[1:]:
        if rng.random() < 0.5:
            scene[0] = pair
    rng.shuffle(scenes)
    count = sum(pair in scene for scene in scenes)
    return [_draw(rng, scene) for scene in scenes], (names.pair(*pair),), str(count)


def _more_shapes(rng: random.Random, names: Names) -> _Made:
    counts = rng.sample(range(1, 7), 2)
    scenes = [choose_pairs(rng, (220, 220, 220), count) for count in counts]
    return [_draw(rng, scene) for scene in scenes], (), str(1 + counts.index(max(counts)))


def _describe_one(rng: random.Random, names: Names) -> _Made:
    count = rng.randint(2, 3)
    things = [place_things(rng, SIZE, pairs) for pairs in _scenes(rng, count)]
    which = rng.randrange(count)
    ordered = sorted(things[which], key=lambda thing: thing.cell)
    images = [render(SIZE, (220, 220, 220), shown) for shown in things]
    return images, (str(which + 1),), names.listing([thing.pair for thing in ordered])


def _order_by_size(rng: random.Random, names: Names) -> _Made:
    radii = [14.0 * 1.55**rank for rank in range(3)]
    rng.shuffle(radii)
    paper = scene_paper(rng)
    pair = choose_pairs(rng, paper, 1)[0]
    images = []
    for radius in radii:
        x, y = (rng.uniform(radius + 2, side - radius - 2) for side in SIZE)
        images.append(render(SIZE, paper, [Thing(*pair, x, y, radius)]))
    order = sorted(range(3), key=lambda index: radii[index])
    return images, (), ("、" if names.language else ", ").join(str(index + 1) for index in order)


def _changed(rng: random.Random, names: Names) -> _Made:
    """One object is gone, new, of another colour or of another shape; all others stay as they are."""
    paper = (220, 220, 220)
    while True:
        pairs = choose_pairs(rng, paper, rng.randint(3, 4))
        if len(set(pairs)) == len(pairs):
            break
    things = place_things(rng, SIZE, pairs[:-1])
    free = rng.choice(sorted(set(range(9)) - {thing.cell for thing in things}))
    extra = Thing(*pairs[-1], (free % 3 + 0.5) * SIZE[0] / 3, (free // 3 + 0.5) * SIZE[1] / 3, 17, free)
    kind = rng.choice(["gone", "new", "colour", "shape"])
    before, after = [*things, extra], [*things, extra]
    name, said = names.pair(*extra.pair), ""
    if kind in ("gone", "new"):
        (after if kind == "gone" else before).remove(extra)
        if names.language:
            said = f"{name}不见了" if kind == "gone" else f"多了一个{name}"
        else:
            said = f"the {name} is gone" if kind == "gone" else f"{names.a(extra.colour)} {name} is new"
    else:
        other = _other(rng, extra, kind, {thing.pair for thing in things})
        after[-1] = other
        word = names.colour(other.colour) if kind == "colour" else names.shape(other.shape)
        said = (
            f"{name}变成了{word}" if names.language else f"the {name} is now {'' if kind == 'colour' else 'a '}{word}"
        )
    return [render(SIZE, paper, before), render(SIZE, paper, after)], (), said


def _other(rng: random.Random, thing: Thing, kind: str, there: set[tuple[str, str]]) -> Thing:
    """The same object in another colour or of another shape; no held-out pair, and none that is there already."""
    while True:
        colour, shape = choose_pairs(rng, (220, 220, 220), 1)[0]
        pair = (colour, thing.shape) if kind == "colour" else (thing.colour, shape)
        if pair != thing.pair and pair not in there and pair not in HELD_OUT_PAIRS:
            return replace(thing, colour=pair[0], shape=pair[1])


def _receipt(rng: random.Random, chinese: bool, pay: Callable[[int], str], total: int) -> Image.Image:
    words, numbers = content(rng)
    first = rng.randint(total // 4, 3 * total // 4)
    bought = goods(words, numbers, 2, int(chinese))
    pairs = [(name, pay(price)) for name, price in zip(bought, (first, total - first), strict=True)]
    pairs.append(("合计" if chinese else "Total", pay(total)))
    paper, ink, rule = look(rng)
    sheet = Sheet((182, 154), paper)
    rows = Rows(pairs, {2})
    shop = words.shop(numbers, int(chinese))
    top = write_title(rng, sheet, shop, fitting_face(rng, [shop], chinese, 160), ink)
    write_rows(rng, sheet, rows, fitting_face(rng, rows.lines, chinese, 150), ink, rule, top)
    return sheet.image


def _two_totals(rng: random.Random, names: Names) -> tuple[list[Image.Image], list[int], Callable[[int], str]]:
    chinese = bool(names.language)
    pay = money(rng, chinese)
    totals = [rng.randint(200, 4000) for _ in range(2)]
    totals[1] += totals[0] == totals[1]
    return [_receipt(rng, chinese, pay, total) for total in totals], totals, pay


def _sum_receipts(rng: random.Random, names: Names) -> _Made:
    images, totals, pay = _two_totals(rng, names)
    return images, (), pay(sum(totals))


def _which_costs_more(rng: random.Random, names: Names) -> _Made:
    images, totals, _ = _two_totals(rng, names)
    return images, (), str(1 + totals.index(max(totals)))


_MAKE: dict[str, Callable[[random.Random, Names], _Made]] = {
    "changed": _changed,
    "same_text": _same_text, "read_one": _read_one, "which_says": _which_says, "which_contains": _which_contains,
    "how_many_show": _how_many_show, "more_shapes": _more_shapes, "describe_one": _describe_one,
    "order_by_size": _order_by_size, "sum_receipts": _sum_receipts, "which_costs_more": _which_costs_more,
}  # fmt: skip
