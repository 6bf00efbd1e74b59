"""Composed documents: what must hold for every kind, task, size and seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from cpmv.train.draw.atlas import Atlas
from cpmv.train.draw.canvas import ASCENT, DESCENT, LEAST_CONTRAST, Canvas, Look, Unfit, limits_of, luminance
from cpmv.train.draw.charset import ASCII, CJK_SIGNS, GERMAN, LATIN, SPANISH, drawn_characters, han_by_frequency
from cpmv.train.draw.document import FRAME, LINE, TRIANGLE, WEDGE, Document, Mark, Metrics, Sheet
from cpmv.train.draw.documents import KINDS, WEIGHTS, Maker
from cpmv.train.draw.questions import QUESTIONS, ask
from cpmv.train.draw.tokenizer import _EXTRA_SIGNS

SIZES = [(112, 112), (112, 336), (336, 112), (224, 224), (280, 420), (420, 280), (252, 140)]
PAGES = [(224, 448), (448, 448), (672, 672), (672, 448)]
KIND_NAMES = list(WEIGHTS)  # documents proper; the other kinds have tests of their own


def toy_metrics() -> Metrics:
    """An atlas without pictures: three Latin families (one without accents) and one Han family, of made-up widths."""
    characters = drawn_characters()
    rng = np.random.default_rng(0)
    names = ["Wide", "Wide-Bold", "Plain", "Slim-Italic", "Kai"]
    is_latin = np.array([character in LATIN for character in characters])
    is_ascii = np.array([character in ASCII for character in characters])
    glyph = np.zeros((5, len(characters)), np.int32)
    glyph[:4, ~is_latin] = -1
    glyph[2, ~is_ascii] = -1
    advance = rng.uniform(0.25, 0.7, (5, len(characters))).astype(np.float32)
    advance[:, ~is_latin] = 1.0
    kinds = ["sans", "sans", "serif", "mono", "han"]
    families = ["Wide", "Wide", "Plain", "Slim", "Kai"]
    atlas = Atlas(
        characters, np.zeros((1, 40, 40), np.uint8), glyph, advance, names, families, kinds, np.zeros(5, bool)
    )
    return Metrics(atlas)


@pytest.fixture(scope="module")
def maker() -> Maker:
    return Maker(toy_metrics())


def made(maker: Maker, kind: str, count: int = 40) -> list[Document]:
    sizes = SIZES + PAGES
    return [maker.make(kind, np.random.default_rng((index, 5)), *sizes[index % len(sizes)]) for index in range(count)]


def run_boxes(maker: Maker, sheet: Sheet) -> list[tuple[float, float, float, float]]:
    return [
        (
            run.x,
            run.y - ASCENT * run.em,
            run.x + maker.metrics.width(run.text, run.face, run.em),
            run.y + DESCENT * run.em,
        )
        for run in sheet.runs
    ]


def extent(mark: Mark) -> tuple[float, float, float, float]:
    p = mark.places
    if mark.kind == LINE:
        half = p[4] / 2
        return min(p[0], p[2]) - half, min(p[1], p[3]) - half, max(p[0], p[2]) + half, max(p[1], p[3]) + half
    if mark.kind == TRIANGLE:
        return min(p[0::2]), min(p[1::2]), max(p[0::2]), max(p[1::2])
    if mark.kind == WEDGE:
        return p[0] - p[2], p[1] - p[2], p[0] + p[2], p[1] + p[2]
    return p[0], p[1], p[2], p[3]


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_text_stays_on_the_sheet_and_never_overlaps(maker: Maker, kind: str) -> None:
    for document in made(maker, kind):
        for sheet in document.sheets:
            boxes = run_boxes(maker, sheet)
            for index, box in enumerate(boxes):
                assert box[0] >= 0 and box[1] >= 0 and box[2] <= sheet.width and box[3] <= sheet.height, document.task
                for other in boxes[:index]:
                    apart = box[0] >= other[2] - 1e-3 or other[0] >= box[2] - 1e-3
                    assert apart or box[1] >= other[3] - 1e-3 or other[1] >= box[3] - 1e-3, document.task


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_marks_stay_on_the_sheet_and_are_not_empty(maker: Maker, kind: str) -> None:
    for document in made(maker, kind):
        for sheet in document.sheets:
            for mark in sheet.marks:
                left, top, right, bottom = extent(mark)
                assert left >= -2 and top >= -2 and right <= sheet.width + 2 and bottom <= sheet.height + 2, mark
                assert right > left and bottom > top, mark
                if mark.kind == WEDGE:
                    assert 0 <= mark.places[3] < mark.places[4] <= 2 * np.pi + 1e-6


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_a_document_keeps_its_budget_and_its_letters_are_large_enough(maker: Maker, kind: str) -> None:
    for document in made(maker, kind):
        for sheet in document.sheets:
            limits = limits_of(sheet.width, sheet.height)
            assert 0 < sum(len(run.text) for run in sheet.runs) <= limits.glyphs
            assert len(sheet.marks) <= limits.marks
            sliced = sheet.width * sheet.height > 118_000
            for run in sheet.runs:
                is_han = maker.metrics.atlas.kinds[run.face] == "han"
                assert (12 if is_han else 11 if sliced else 10) - 1e-6 <= run.em <= 31
        assert sum(len(turn.answer) for turn in document.turns) <= limits.answer


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_every_character_can_be_drawn_or_is_one_token(maker: Maker, kind: str) -> None:
    tokens = set(LATIN + CJK_SIGNS + _EXTRA_SIGNS + "\n" + han_by_frequency())
    assert set(GERMAN + SPANISH) <= tokens
    for document in made(maker, kind):
        for sheet in document.sheets:
            for run in sheet.runs:
                assert all(maker.metrics.atlas.glyph[run.face, maker.metrics.characters(run.text)] >= 0)
        for turn in document.turns:
            assert set(turn.answer) <= tokens and turn.answer and turn.answer == turn.answer.strip()
            assert set(turn.question) <= tokens and "{" not in turn.question.replace('{"', "")


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_regions_lie_over_their_text_in_reading_order(maker: Maker, kind: str) -> None:
    for document in made(maker, kind, 20):
        for sheet in document.sheets:
            boxes = run_boxes(maker, sheet)
            assert sheet.regions
            for region in sheet.regions:
                left, top, right, bottom = region.box
                assert right > left and bottom > top and region.text.strip() == region.text != ""
                inside = [
                    run
                    for run, box in zip(sheet.runs, boxes, strict=True)
                    if box[0] - 0.01 <= left and right <= box[2] + 0.01 and abs(box[1] - top) < 0.01
                ]
                assert any(region.text in run.text for run in inside), region
            written = sum(len(run.text.replace(" ", "")) for run in sheet.runs)
            assert sum(len(region.text.replace(" ", "")) for region in sheet.regions) == written


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_the_same_seed_gives_the_same_document(maker: Maker, kind: str) -> None:
    other = Maker(toy_metrics())
    for seed in range(6):
        first = maker.make(kind, np.random.default_rng(seed), 224, 224)
        assert first == other.make(kind, np.random.default_rng(seed), 224, 224)
    assert first != maker.make(kind, np.random.default_rng(seed + 1), 224, 224)


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_every_task_of_a_kind_can_be_made(maker: Maker, kind: str) -> None:
    assert set(KINDS[kind].tasks) == set(KINDS[kind].weights)
    for task in KINDS[kind].tasks:
        document = maker.make(kind, np.random.default_rng(3), 420, 280, task=task)
        assert document.task == task
        assert sum(turn.num_sheets for turn in document.turns) == len(document.sheets)
        assert all((sheet.width, sheet.height) == (420, 280) for sheet in document.sheets)


def test_all_kinds_are_weighted_and_unknown_ones_refused(maker: Maker) -> None:
    assert set(WEIGHTS) <= set(KINDS)
    with pytest.raises(ValueError, match="unknown kind of document 'poem'; known: page"):
        maker.make("poem", np.random.default_rng(0), 224, 224)
    with pytest.raises(ValueError, match="no table_markdown fits a sheet of 20 x 20 px"):
        maker.make("table", np.random.default_rng(0), 20, 20, task="table_markdown")


def test_both_languages_are_asked_and_written(maker: Maker) -> None:
    counts = Counter(document.language for kind in KIND_NAMES for document in made(maker, kind, 60))
    assert 0.15 < counts[1] / (counts[0] + counts[1]) < 0.45


def test_wordings_are_many_and_fit_their_slots() -> None:
    for task, (english, chinese) in QUESTIONS.items():
        assert len(set(english)) >= 12 and len(set(chinese)) >= 6, task
        assert all(ord(max(text)) < 128 for text in english), task
        for wordings in (english, chinese):
            slots = {slot for text in wordings for slot in ("{0}", "{1}", "{2}") if slot in text}
            for text in wordings:
                filled = text.format("<0>", "<1>", "<2>")
                assert "{" not in filled and filled.count("<") <= len(slots)
    rng = np.random.default_rng(0)
    assert len({ask(rng, "receipt_total", 0) for _ in range(400)}) > 14
    assert ask(rng, "form_field", 0, "Order No.").count("..") == 0


def test_words_stay_on_their_side_of_the_split() -> None:
    from cpmv.train.draw.charset import read_words
    from cpmv.train.draw.words import is_held_out

    known = {word for word in read_words("words_en.txt") if len(word) > 4}
    seen = {True: Counter[bool](), False: Counter[bool]()}
    for held_out in (False, True):
        maker = Maker(toy_metrics(), held_out=held_out)
        for index in range(40):
            document = maker.make("page", np.random.default_rng(index), 280, 280, task="page_read")
            for word in document.turns[0].answer.replace(".", "").replace(",", "").split():
                if word in known:
                    seen[held_out][is_held_out(word)] += 1
    assert seen[False][True] == 0 and seen[False][False] > 20
    # The sentences around facts ("Please write to ...") are the same everywhere.
    assert seen[True][False] < 0.1 * seen[True][True] and seen[True][True] > 20


def test_looks_keep_their_contrast() -> None:
    rng = np.random.default_rng(1)
    inverse = 0
    for _ in range(500):
        look = Look.draw(rng)
        for text, ground in (
            (look.ink, look.paper),
            (look.soft, look.paper),
            (look.accent, look.paper),
            (look.ink, look.panel),
        ):
            assert abs(luminance(text) - luminance(ground)) >= LEAST_CONTRAST - 1e-6, look
            assert all(0 <= channel <= 1 for channel in (*text, *ground))
        inverse += luminance(look.ink) > luminance(look.paper)
    assert 20 < inverse < 120


def test_a_canvas_refuses_what_cannot_stand(maker: Maker) -> None:
    canvas = Canvas(maker.faces, np.random.default_rng(0), 112, 112, han=False)
    canvas.body = 2  # a face without accents
    canvas.write("Hello", 5, 30, em=12)
    for text, x, y in (("Hello", 7, 36), ("Hello", 100, 60), ("Hello", 5, 3), ("Füße", 5, 60)):
        with pytest.raises(Unfit):
            canvas.write(text, x, y, em=12)
    assert len(canvas.sheet.runs) == 1
    canvas.limits = replace(canvas.limits, marks=1)
    canvas.frame((1, 1, 20, 20))
    assert canvas.sheet.marks[0].kind == FRAME
    with pytest.raises(Unfit):
        canvas.frame((1, 1, 20, 20))
