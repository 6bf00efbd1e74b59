"""A page put together from what was read of its parts: lines and pieces, cells, bands of a large page."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from paper import Answers, Sheet
from PIL import Image

from cpmv.errors import MessageError
from cpmv.model.config import ModelConfig, from_hf
from cpmv.read.layout import find_layout
from cpmv.read.markdown import write_page
from cpmv.read.page import (
    LINE_QUESTION,
    PAGE_QUESTION,
    PageReader,
    join_lines,
    num_lines_shared,
    plan_bands,
)
from cpmv.read.reader import Reading


@pytest.fixture(scope="module")
def small() -> ModelConfig:
    """The bundled model's geometry: slices of 224 px."""
    import json
    from pathlib import Path

    import cpmv

    folder = Path(cpmv.__file__).parent / "bundled"
    read = [json.loads((folder / f"{name}.json").read_text()) for name in ("config", "preprocessor_config")]
    return from_hf(*read)


def page_of(answers: Answers, config: ModelConfig, picture: Image.Image, by: str = "auto") -> str:
    reader = PageReader(answers, config, by)  # type: ignore[arg-type]
    return write_page(reader.start(picture).finish())


def test_lines_become_headings_paragraphs_lists_and_tables(small: ModelConfig) -> None:
    sheet = Sheet()
    sheet.write(80, 60, "Prices", 48)
    sheet.paragraph(80, 160, ["Bread is dear", "this year"])
    for i in range(2):
        sheet.draw.ellipse((80, 271 + 36 * i, 88, 279 + 36 * i), fill="#111")
        sheet.write(112, 260 + 36 * i, "milk and tea")
    for r in range(2):
        for x, text in ((80, "rice"), (400, "12"), (700, "3.50")):
            sheet.write(x, 400 + 60 * r, text)
    texts = ["Prices", "Bread is dear", "this year", "milk", "tea", "Item", "Count", "a|b", "rice", "12", "3.50"]
    answers = Answers(texts)
    assert page_of(answers, small, sheet.picture) == (
        "# Prices\n\nBread is dear this year\n\n- milk\n- tea\n\n"
        "| Item | Count | a\\|b |\n|---|---|---|\n| rice | 12 | 3.50 |"
    )
    assert {question for _, question, _ in answers.asked} == {LINE_QUESTION}
    assert all(options["max_slice_nums"] == 1 for _, _, options in answers.asked)


def test_pieces_of_a_line_are_joined_by_what_lies_between_them(small: ModelConfig) -> None:
    sheet = Sheet((1700, 200))
    sheet.write(60, 60, "The train to the coast leaves from platform four every hour until ten at night", 30)
    answers = Answers(lambda number, pictures: ["The  train", "to the\ncoast", "at night", "x", "y"][number])
    read = page_of(answers, small, sheet.picture)
    assert len(answers.asked) >= 2
    assert read.startswith("The train to the coast")


def test_what_may_be_wrong_is_said_beside_it(small: ModelConfig) -> None:
    sheet = Sheet()
    sheet.paragraph(80, 160, ["Bread is dear", "this year"])
    answers = Answers([Reading("Bread --> dear", "the model repeated itself"), "this year"])
    assert page_of(answers, small, sheet.picture) == (
        "Bread --> dear this year\n\n<!-- doubtful: Bread - -› dear (the model repeated itself) -->"
    )


def test_an_empty_page_is_not_asked_about(small: ModelConfig) -> None:
    assert page_of(Answers([]), small, Image.new("RGB", (900, 900), "white")) == ""


def test_a_page_of_large_print_is_one_question(small: ModelConfig) -> None:
    sheet = Sheet()
    sheet.paragraph(80, 100, ["A few words", "in large print"], 60)
    answers = Answers(["```markdown\n# A few words\n\nin large print\n```"])
    assert page_of(answers, small, sheet.picture, "page") == "# A few words\n\nin large print"
    ((pictures, question, options),) = answers.asked
    assert pictures[0].size == sheet.picture.size and question == PAGE_QUESTION
    assert options["max_slice_nums"] == small.image.max_slice_nums


def test_small_print_is_cut_into_bands_between_lines() -> None:
    sheet = Sheet((2000, 2600))
    sheet.paragraph(60, 60, ["Rain is likely in the far north from Friday until next Monday " * 3] * 90, 18)
    layout = find_layout(sheet.picture)
    bands = plan_bands(sheet.picture, layout, 448, 9, 640)
    assert len(bands) >= 3 and not any(overlaps for _, overlaps in bands)
    for (above, _), (below, _) in zip(bands, bands[1:], strict=False):
        assert above.bottom == below.top
        assert not any(line.box.top < above.bottom < line.box.bottom for b in layout.blocks for line in b.all_lines())
    coarse = plan_bands(sheet.picture, layout, 448, 9, 64000)
    assert len(coarse) <= len(bands)


def test_bands_without_empty_rows_overlap_and_say_it_once(small: ModelConfig) -> None:
    sheet = Sheet((1000, 1300))
    lines = [f"{i} Rain is likely in the north" for i in range(30)]
    sheet.paragraph(60, 60, lines, 24)
    sheet.paragraph(520, 78, lines, 24)  # fills the gaps between the lines of the other column
    layout = find_layout(sheet.picture)
    bands = plan_bands(sheet.picture, layout, 224, 9, 32)
    assert any(overlaps for _, overlaps in bands[1:])
    for (above, _), (below, overlaps) in zip(bands, bands[1:], strict=False):
        assert below.top < above.bottom if overlaps else below.top == above.bottom


def test_shared_lines_of_two_bands_are_found() -> None:
    above = ["one potato", "two potatoes", "three potatoes", "four potatoes"]
    assert num_lines_shared(above, ["three potatoes", "four potatoes", "five potatoes"]) == 2
    assert num_lines_shared(above, ["hree potatos", "four potatoes", "five apples"]) == 2
    assert num_lines_shared(above, ["ee pot", "four potatoes", "", "five apples"]) == 2  # the first is a cut half
    assert num_lines_shared(above, ["something else", "again"]) == 0
    assert num_lines_shared([], ["a"]) == 0


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["one", "two"], "one two"),
        (["图书馆上午", "九点开门"], "图书馆上午九点开门"),
        (["exam-", "ple"], "example"),
        (["A-", "Z"], "A- Z"),
        (["", "a", ""], "a"),
    ],
)
def test_lines_become_running_text(lines: Sequence[str], text: str) -> None:
    assert join_lines(lines) == text


def test_an_unknown_way_of_reading_is_refused(small: ModelConfig) -> None:
    with pytest.raises(MessageError, match="by='word'"):
        PageReader(Answers([]), small, "word")  # type: ignore[arg-type]
