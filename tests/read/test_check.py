"""The text layer of a PDF finds what was read wrongly, and nothing else."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import pytest
from paper import write_pdf

from cpmv.errors import MediaError
from cpmv.inputs.pdf import iter_pages
from cpmv.inputs.pdf_text import read_text_layer
from cpmv.read.boxes import Line
from cpmv.read.check import check_page, comparable, has_text
from cpmv.read.layout import find_layout
from cpmv.read.page import ReadBlock, ReadLine

DPI = 150
LINES = [
    "The library opens at nine and closes at eight (20:00).",
    "Bread costs 2.40 and green tea 3.15; soap costs 1.95.",
    "Take the second street on the left after the market.",
    "Every answer must be sent before the end of May.",
    "The tower is 48 metres high and can be climbed.",
    "Paper, glass and metal are collected on Monday.",
]


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pdf") / "text.pdf"
    return write_pdf(path, [[(60, 80 + 30 * i, 14, line) for i, line in enumerate(LINES)]])


@cache
def lines_of(document: Path) -> list[Line]:
    (picture,) = iter_pages(document, dpi=DPI)
    return [line for block in find_layout(picture).blocks for line in block.all_lines()]


def in_place(document: Path, texts: list[str]) -> list[ReadBlock]:
    """The page as read line by line, with places, saying `texts`."""
    lines = lines_of(document)
    assert len(lines) == len(texts)
    return [ReadBlock("text", [ReadLine(text, boxes=[line.box]) for text, line in zip(texts, lines, strict=True)])]


def as_markdown(texts: list[str]) -> list[ReadBlock]:
    """The page as read whole, without places."""
    return [ReadBlock("markdown", [ReadLine(text) for text in texts])]


def doubted(blocks: list[ReadBlock]) -> list[int]:
    return [i for i, line in enumerate(blocks[0].lines) if line.doubt is not None]


def test_right_lines_are_not_doubted(document: Path) -> None:
    layer = read_text_layer(document, 1, DPI)
    for blocks in (in_place(document, LINES), as_markdown(["# " + LINES[0], "", "- " + LINES[1], *LINES[2:]])):
        check_page(blocks, layer)
        assert doubted(blocks) == [] and len(blocks) == 1


def test_a_wrong_line_is_doubted_with_what_the_layer_has(document: Path) -> None:
    wrong = [*LINES[:1], LINES[1].replace("2.40", "2.48"), *LINES[2:]]
    for blocks in (in_place(document, wrong), as_markdown(wrong)):
        check_page(blocks, read_text_layer(document, 1, DPI))
        assert doubted(blocks) == [1] and blocks[0].lines[1].doubt == LINES[1]


@pytest.mark.parametrize("with_places", [True, False])
def test_any_edited_line_is_found_and_no_other(document: Path, with_places: bool) -> None:
    rng = random.Random(5)
    layer = read_text_layer(document, 1, DPI)
    for _ in range(30):
        texts, edited = list(LINES), sorted(rng.sample(range(len(LINES)), 2))
        for i in edited:
            at = rng.choice([k for k, c in enumerate(texts[i]) if c.isalnum()])
            new = {"drop": "", "change": "x" if texts[i][at] != "x" else "y", "add": texts[i][at] + "7"}
            texts[i] = texts[i][:at] + new[rng.choice(list(new))] + texts[i][at + 1 :]
        blocks = in_place(document, texts) if with_places else as_markdown(texts)
        check_page(blocks, layer)
        assert doubted(blocks) == edited, [texts[i] for i in edited]


def test_text_that_nobody_read_is_told(document: Path) -> None:
    blocks = as_markdown(LINES[:3] + LINES[4:])
    check_page(blocks, read_text_layer(document, 1, DPI))
    assert doubted(blocks) == []
    assert [line.problem for line in blocks[1].lines] == [f"not read, but in the text layer: {LINES[3]}"]


def test_invented_text_has_nothing_like_it(document: Path) -> None:
    blocks = as_markdown([*LINES, "Zebras ought to quit jazz quickly"])
    check_page(blocks, read_text_layer(document, 1, DPI))
    assert doubted(blocks) == [6] and blocks[0].lines[6].doubt == ""


def test_signs_that_look_alike_do_not_count() -> None:
    assert comparable("“a” – b ﬁ １") == comparable('"a"-bfi1')
    assert comparable("A") != comparable("a")
    assert comparable("Prices . . . . . . . 12") == "Prices12" and comparable("so on ...") == "soon..."


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
def test_places_are_those_of_the_rendered_page(tmp_path: Path, rotate: int) -> None:
    path = write_pdf(tmp_path / "turned.pdf", [[(100, 200, 20, "Place")]], rotate)
    (picture,) = iter_pages(path, dpi=100)
    layer = read_text_layer(path, 1, 100)
    assert layer.characters.strip() == "Place"
    ink = picture.convert("L").point(lambda v: 255 * (v < 128)).getbbox()
    for x, y in layer.centres[:5]:
        assert ink[0] <= x <= ink[2] and ink[1] <= y <= ink[3]


def test_a_scan_has_no_text(tmp_path: Path, document: Path) -> None:
    (picture,) = iter_pages(document, dpi=50)
    picture.save(tmp_path / "scan.pdf")
    assert not has_text(read_text_layer(tmp_path / "scan.pdf", 1, DPI))
    assert has_text(read_text_layer(document, 1, DPI))
    with pytest.raises(MediaError):
        read_text_layer(tmp_path / "missing.pdf", 1, DPI)
