"""Where writing stands on a page: order of reading, columns, tables, lists, and nothing lost."""

from __future__ import annotations

import random

import numpy as np
import pytest
from paper import Sheet
from PIL import Image

from cpmv.read.boxes import Layout
from cpmv.read.ink import find_ink
from cpmv.read.layout import find_layout

LEFT = [
    "The library opens at nine and",
    "closes at eight every evening.",
    "Please return all books today,",
    "near the desk by the window.",
]
RIGHT = [
    "Rain is likely in the far north",
    "from Friday until next Monday.",
    "The coast stays dry and rather",
    "warm for the time of the year.",
]
WIDE = [
    "The train to the coast leaves from platform four every hour until ten",
    "in the evening, and tickets are sold on the train by the friendly guard",
    "who also knows the best places to eat in the old town.",
]


def kinds(layout: Layout) -> list[str]:
    return [f"{block.kind} {len(block.rows) or len(block.lines)}" for block in layout.blocks]


def test_a_heading_paragraphs_and_a_list_are_told_apart() -> None:
    sheet = Sheet()
    sheet.write(80, 80, "Opening hours", 44)
    y = sheet.paragraph(80, 170, WIDE)
    y = sheet.paragraph(80, y + 40, WIDE)
    for text in ("bread and butter", "milk and honey"):
        sheet.draw.ellipse((80, y + 41, 88, y + 49), fill="#111")
        sheet.write(112, y + 30, text)
        y += 36
    layout = find_layout(sheet.picture)
    assert kinds(layout) == ["text 1", "text 3", "text 3", "text 1", "text 1"]
    assert [block.lines[0].bullet for block in layout.blocks] == [False, False, False, True, True]
    heading, body = layout.blocks[0].lines[0], layout.blocks[1].lines[0]
    assert heading.core > 1.5 * body.core
    assert layout.blocks[3].lines[0].box.left >= 110  # the bullet is cut off


def test_a_single_letter_at_the_left_is_no_bullet() -> None:
    sheet = Sheet()
    sheet.paragraph(
        80, 100, ["a   single word in the first line", "o   and another letter alone here", "x   at the left"]
    )
    assert not any(line.bullet for block in find_layout(sheet.picture).blocks for line in block.lines)


def test_columns_are_read_one_after_the_other_below_their_title() -> None:
    sheet = Sheet()
    sheet.write(80, 60, "News of the week from here", 44)
    sheet.paragraph(80, 160, LEFT + LEFT)
    sheet.paragraph(540, 160, RIGHT + RIGHT)
    blocks = find_layout(sheet.picture).blocks
    assert [len(block.lines) for block in blocks] == [1, 8, 8]
    assert blocks[1].box.right < 540 <= blocks[2].box.left + 2


@pytest.mark.parametrize("shift", [0, 9, 18])
def test_columns_need_no_common_lines(shift: int) -> None:
    sheet = Sheet()
    sheet.paragraph(80, 100, LEFT * 3)
    sheet.paragraph(540, 100 + shift, RIGHT * 3)
    blocks = find_layout(sheet.picture).blocks
    assert all(block.kind == "text" for block in blocks)
    sides = ["left" if block.box.left < 500 else "right" for block in blocks]
    assert sides == sorted(sides) and sum(len(block.lines) for block in blocks) == 24


@pytest.mark.parametrize("ruled", [False, True])
def test_a_table_is_found_between_paragraphs(ruled: bool) -> None:
    sheet = Sheet()
    sheet.paragraph(80, 60, WIDE)
    rows = [("Item", "Count", "Price"), ("Green tea", "12", "7.50"), ("Rice", "3", "11.90"), ("", "4", "2.20")]
    for r, row in enumerate(rows):
        for x, text in zip((95, 480, 700), row, strict=True):
            if text:
                sheet.write(x, 212 + 50 * r, text)
    if ruled:
        for y in range(200, 401, 50):
            sheet.draw.line((80, y, 860, y), fill="#333", width=2)
        for x in (80, 460, 680, 860):
            sheet.draw.line((x, 200, x, 400), fill="#333", width=2)
    sheet.paragraph(80, 440, WIDE)
    layout = find_layout(sheet.picture)
    expected = 4 if ruled else 3
    assert kinds(layout) in (["text 3", f"table {n}", "text 3"] for n in {4, expected})
    table = layout.blocks[1]
    filled = [[len(cell) for cell in row] for row in table.rows]
    assert filled[:3] == [[1, 1, 1]] * 3
    assert all(len(row) == 3 for row in table.rows)
    assert sum(map(len, (cell for row in table.rows for cell in row))) == 11


def test_words_far_apart_in_one_heading_are_no_table() -> None:
    sheet = Sheet()
    sheet.write(80, 60, "Prices   and   tickets", 60)
    sheet.write(80, 170, "Our  history", 60)
    sheet.paragraph(80, 300, WIDE * 3, 22)
    assert all(block.kind == "text" for block in find_layout(sheet.picture).blocks)


def test_leaders_are_no_writing_but_an_ellipsis_is() -> None:
    sheet = Sheet()
    for i, (title, page) in enumerate((("Introduction", "1"), ("How to get there", "12"), ("Prices", "40"))):
        y = 100 + 45 * i
        sheet.write(80, y, title)
        sheet.write(900, y, page)
        for x in range(320, 880, 14):
            sheet.draw.ellipse((x, y + 17, x + 2, y + 19), fill="#111")
    sheet.write(80, 300, "and so on ...")
    table, rest = find_layout(sheet.picture).blocks
    assert [len(row) for row in table.rows] == [2, 2, 2]
    assert all(line.box.right < 310 or line.box.left > 890 for line in table.all_lines())
    whole = find_ink(sheet.picture).writing[300:340].any(axis=0).nonzero()[0]
    assert rest.lines[0].box.right == whole[-1] + 1


def test_white_on_black_and_writing_on_a_dark_band_are_found() -> None:
    night = Sheet(paper="#101418", ink="#f2f2f2")
    night.paragraph(80, 80, WIDE)
    assert kinds(find_layout(night.picture)) == ["text 3"]
    band = Sheet()
    band.draw.rectangle((0, 0, 1000, 140), fill="#204060")
    band.write(80, 50, "Monthly report", 40, ink="white")
    band.paragraph(80, 200, WIDE)
    found = find_layout(band.picture)
    assert [len(block.lines) for block in found.blocks] == [1, 3]
    assert found.blocks[0].box.width > 200 and found.blocks[0].box.height < 60


@pytest.mark.parametrize("paper", ["white", "black", "#c0b090"])
def test_an_empty_page_has_nothing_on_it(paper: str) -> None:
    assert find_layout(Image.new("RGB", (600, 800), paper)).blocks == []


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (2000, 3), (40, 40)])
def test_tiny_and_flat_pictures_do_not_fail(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0]), np.uint8)
    find_layout(Image.fromarray(pixels))


def test_noise_and_photographs_do_not_fail() -> None:
    rng = np.random.default_rng(1)
    find_layout(Image.fromarray(rng.integers(0, 255, (400, 300, 3), np.uint8)))
    ramp = np.linspace(0, 255, 400, dtype=np.uint8)
    find_layout(Image.fromarray(np.tile(ramp, (300, 1))))


@pytest.mark.parametrize("seed", range(8))
def test_every_stroke_belongs_to_exactly_one_line(seed: int) -> None:
    rng = random.Random(seed)
    sheet = Sheet((900, 1100))
    y = 40
    while y < 950:
        size = rng.choice([20, 24, 24, 24, 40])
        words = " ".join(rng.choices(["tea", "garden", "17", "Rain", "of", "platform", "jumped,"], k=rng.randint(1, 7)))
        sheet.write(60 + rng.choice([0, 0, 40, 300]), y, words, size)
        y += round(size * rng.choice([1.5, 1.5, 2.6]))
    layout = find_layout(sheet.picture)
    count = np.zeros((1100, 900), int)
    for block in layout.blocks:
        assert block.kind != "picture"
        for line in block.all_lines():
            count[line.box.top : line.box.bottom, line.box.left : line.box.right] += 1
    writing = find_ink(sheet.picture).writing
    assert (count[writing] == 1).mean() > 0.999
