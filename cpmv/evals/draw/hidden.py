"""Damaged text: a page with marked regions that are noisy, hardly legible, or covered.

What is covered is either told by the rest of the page (a sum, a repeated name, the next day of the week) or by nothing:
then a model should not be sure of the reference text.
"""

from __future__ import annotations

import random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ...train.draw.faces import Face
from ..samples import Sample, picture
from .canvas import Bounds, Colour, Sheet, Size, choose_face, largest_size, paper_and_ink, width_of
from .papers import content, goods
from .reading import latin_line

LEVELS = ("mild", "heavy", "covered", "unknown")
SIZES: tuple[Size, ...] = ((224, 224), (252, 196), (210, 238), (266, 182))
_FRAME = (200, 30, 30)


def draw_hidden(rng: random.Random, level: str, chinese: bool) -> Sample:
    """A page of short lines, one or two regions damaged to `level`; the answer is their original text, numbered."""
    from ...train.corrupt import BOXED, FRAMED, box_text

    lines, targets = _text(rng, level)
    size = rng.choice(SIZES)
    face = choose_face(rng, "ordinary", False, "".join(lines) + "12")
    sheet, boxes = _write(rng, size, lines, targets, face)
    framed = rng.random() < 0.5
    for box in boxes:
        damage(rng, sheet.image, box, level)
    question = rng.choice((FRAMED if framed else BOXED)[int(chinese)])
    if framed:
        _frames(sheet, boxes, face)
    else:
        shares = [(b.left / size[0], b.top / size[1], b.right / size[0], b.bottom / size[1]) for b in boxes]
        question += "".join(f"\n{number}. {box_text(box)}" for number, box in enumerate(shares, 1))
    texts = [text for _, text in targets]
    answer = "\n".join(f"{number}. {text}" for number, text in enumerate(texts, 1))
    meta = {"kind": "read", "language": "zh" if chinese else "en", "level": level, "hidden": texts, "lines": lines}
    return picture(sheet.image, question, answer, **meta)


def _text(rng: random.Random, level: str) -> tuple[list[str], list[tuple[int, str]]]:
    """Lines of a page, and the targets: (line, text at its end). Covered ones follow from the page."""
    if level == "covered":
        return rng.choice([_receipt, _memo, _weekdays, _glossary])(rng)
    words, numbers = content(rng)
    lines = [f"{word}: {latin_line(rng, 12, 2)}" for word in words.distinct(numbers, rng.randint(4, 6))]
    chosen = sorted(rng.sample(range(len(lines)), rng.randint(1, 2)))
    return lines, [(row, lines[row].split(": ", 1)[1]) for row in chosen]


def _receipt(rng: random.Random) -> tuple[list[str], list[tuple[int, str]]]:
    words, numbers = content(rng)
    prices = [rng.randint(1, 9) for _ in range(rng.randint(2, 3))]
    lines = [f"{name} {p}.00" for name, p in zip(goods(words, numbers, len(prices), 0), prices, strict=True)]
    total = f"{sum(prices)}.00"
    return [*lines, f"Total {total}"], [(len(lines), total)]


def _memo(rng: random.Random) -> tuple[list[str], list[tuple[int, str]]]:
    """A name in the heading and again below."""
    words, numbers = content(rng)
    name = words.person(numbers, full=True)
    lines = [f"Letter for {name}", latin_line(rng, 20, 3), f"Date: {words.date(numbers)}", f"Dear {name}"]
    return lines, [(3, name)]


def _weekdays(rng: random.Random) -> tuple[list[str], list[tuple[int, str]]]:
    from ...train.draw.content import WEEKDAYS

    count = rng.randint(4, 6)
    start = rng.randint(0, 7 - count)
    days = list(WEEKDAYS[0][start : start + count])
    return days, [(rng.randint(1, count - 2), "")]


def _glossary(rng: random.Random) -> tuple[list[str], list[tuple[int, str]]]:
    """Pairs, one of them printed twice."""
    words, numbers = content(rng)
    keys = words.distinct(numbers, 3, longest=7)
    values = words.distinct(numbers, 3, longest=8)
    lines = [f"{key} = {value}" for key, value in zip(keys, values, strict=False)]
    again = rng.randrange(len(lines))
    return [*lines, lines[again]], [(len(lines), values[again])]


def _write(
    rng: random.Random, size: Size, lines: list[str], targets: list[tuple[int, str]], face: Face
) -> tuple[Sheet, list[Bounds]]:
    """Write the lines; returns the sheet and the boxes of the targets. A target without a text is its whole line."""
    for index, (row, text) in enumerate(targets):
        targets[index] = (row, text or lines[row])
    paper, ink = paper_and_ink(rng, inverse=0.15)
    sheet = Sheet(size, paper)
    gap = rng.uniform(1.5, 1.8)
    room = (size[0] - 44, size[1] - 16)
    point = min(18, largest_size(lines, face, room, gap, 10, 20))
    left = rng.uniform(24, max(24.0, size[0] - 18 - max(width_of(line, face, point) for line in lines)))
    y = rng.uniform(6, max(6.0, size[1] - 10 - len(lines) * gap * point))
    boxes: dict[int, Bounds] = {}
    wanted = dict(targets)
    for row, line in enumerate(lines):
        y += gap * point
        target = wanted.get(row)
        head = line if target is None else line[: len(line) - len(target)]
        if head:
            sheet.text((left, y), head, face, point, ink)
        if target is not None:
            boxes[row] = sheet.text((left + width_of(head, face, point), y), target, face, point, ink)
    return sheet, [Bounds(b.left - 1, b.top - 1, b.right + 1, b.bottom + 1) for _, b in sorted(boxes.items())]


def damage(rng: random.Random, image: Image.Image, box: Bounds, level: str) -> None:
    """Spoil a region in place. mild: still easy to read; heavy: hard letter by letter; others: no ink left."""
    area = (int(max(0, box.left)), int(max(0, box.top)), int(box.right), int(box.bottom))
    part = image.crop(area)
    if level in ("covered", "unknown"):
        fill: Colour = rng.choice([(128, 128, 128), (0, 0, 0), (255, 255, 255)])
        image.paste(fill, area)
        return
    strong = level == "heavy"
    sort = rng.choice(["noise", "blur", "drop", "fade", "bars"])
    height = box.bottom - box.top
    pixels = np.asarray(part).astype(np.float32)
    generator = np.random.default_rng(rng.getrandbits(63))
    mean = pixels.reshape(-1, 3).mean(0)
    if sort == "noise":
        pixels += generator.normal(0, 75 if strong else 30, (*pixels.shape[:2], 1))
    elif sort == "drop":
        pixels[generator.random(pixels.shape[:2]) < (0.45 if strong else 0.18)] = mean
    elif sort == "fade":
        pixels = mean + (pixels - mean) * (0.22 if strong else 0.5)
    elif sort == "blur":
        blurred = part.filter(ImageFilter.GaussianBlur(height * (0.13 if strong else 0.05)))
        pixels = np.asarray(blurred).astype(np.float32)
    else:
        every = 3 if strong else 5
        pixels[generator.integers(every) :: every] = mean
    levels = np.clip(pixels, 0, 255).round().astype(np.uint8)
    image.paste(Image.fromarray((levels // 8 * 8).astype(np.uint8)), area[:2])  # fewer levels: smaller files


def _frames(sheet: Sheet, boxes: list[Bounds], face: Face) -> None:
    """A thin frame around every target, its number at the right."""
    draw = ImageDraw.Draw(sheet.image)
    for number, box in enumerate(boxes, 1):
        draw.rectangle([box.left - 2, box.top - 2, box.right + 1, box.bottom + 1], outline=_FRAME)
        size = max(10, min(16, round((box.bottom - box.top) * 0.8)))
        middle = (box.top + box.bottom) / 2 + 0.35 * size
        sheet.text((box.right + 5, middle), str(number), face, size, _FRAME)
