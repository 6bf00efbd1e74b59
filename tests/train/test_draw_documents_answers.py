"""Composed documents: answers worked out again from what is drawn, by other means than the layouts use."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from test_draw_documents import PAGES, SIZES, toy_metrics

from cpmv.train.draw.charset import drawn_characters
from cpmv.train.draw.date_formats import draw_format, known_format
from cpmv.train.draw.document import ELLIPSE, FRAME, LINE, RECT, WEDGE, Document, Run, Sheet
from cpmv.train.draw.documents import Maker
from cpmv.train.draw.prompts import YES_NO
from cpmv.train.draw.words import date_text


@pytest.fixture(scope="module")
def maker() -> Maker:
    return Maker(toy_metrics())


def made(
    maker: Maker, kind: str, task: str, count: int = 25, sizes: list[tuple[int, int]] | None = None
) -> list[Document]:
    sizes = sizes or [size for size in SIZES + PAGES if min(size) > 112]
    return [
        maker.make(kind, np.random.default_rng((index, 9)), *sizes[index % len(sizes)], task=task)
        for index in range(count)
    ]


def texts(sheet: Sheet) -> list[str]:
    return [run.text for run in sheet.runs]


def drawn_lines(sheet: Sheet) -> list[str]:
    """Lines from top to bottom; runs on one baseline are joined by a space."""
    rows: dict[int, list[Run]] = {}
    for run in sheet.runs:
        rows.setdefault(round(run.y), []).append(run)
    return [" ".join(run.text for run in sorted(rows[y], key=lambda run: run.x)) for y in sorted(rows)]


def amount(text: str) -> int:
    """Cents of a printed amount."""
    digits = re.search(r"\d+(?:[.,]\d\d)?(?!\d)", text)
    assert digits, text
    whole, _, cents = digits[0].replace(",", ".").partition(".")
    return int(whole) * 100 + int(cents or 0)


def test_reading_a_page_gives_its_lines_in_order(maker: Maker) -> None:
    for document in made(maker, "page", "page_read", 60):
        answer = document.turns[0].answer
        written = " ".join(texts(document.sheets[0]))
        assert re.sub(r"\s", "", answer) == re.sub(r"\s", "", written)


def test_single_lines_are_counted_from_the_top(maker: Maker) -> None:
    for document in made(maker, "page", "page_line", 30):
        lines = drawn_lines(document.sheets[0])
        assert document.turns[0].answer in lines
        number = re.search(r"\d+", document.turns[0].question)
        if number:
            assert lines[int(number[0]) - 1] == document.turns[0].answer
    for document in made(maker, "page", "page_last_line", 30):
        lines = drawn_lines(document.sheets[0])
        assert lines[-1] == document.turns[0].answer
    for document in made(maker, "page", "page_count_lines", 30):
        assert str(len(drawn_lines(document.sheets[0]))) == document.turns[0].answer


def test_a_framed_text_is_what_its_frame_holds(maker: Maker) -> None:
    for document in made(maker, "page", "page_framed", 40):
        sheet = document.sheets[0]
        frames = [mark.places for mark in sheet.marks if mark.kind == FRAME]
        assert len(frames) == 1
        left, top, right, bottom, _ = frames[0]
        inside = [run for run in sheet.runs if left < run.x < right and top < run.y < bottom]
        lines = re.sub(r"\s", "", "".join(run.text for run in inside))
        assert lines == re.sub(r"\s", "", document.turns[0].answer)
        for run in sheet.runs:
            if run not in inside:
                assert run.y + 0.24 * run.em <= top + 1 or run.y - 0.8 * run.em >= bottom - 1


def test_receipts_add_up_and_totals_are_copied_as_printed(maker: Maker) -> None:
    for document in made(maker, "receipt", "receipt_total", 60, SIZES + PAGES):
        cents, items = document.meta["cents"], document.meta["items"]
        assert cents["subtotal"] == sum(price for _, price in items)
        total = cents["subtotal"] - cents.get("discount", 0) + cents.get("tax", 0)
        assert cents["total"] == total == amount(document.turns[0].answer)
        assert document.turns[0].answer in texts(document.sheets[0])
        if "change" in cents:
            assert cents["cash"] - total == cents["change"] >= 0


def test_prices_and_the_dearest_item_stand_on_the_receipt(maker: Maker) -> None:
    for document in made(maker, "receipt", "receipt_price", 40):
        line = next(line for line in drawn_lines(document.sheets[0]) if line.endswith(document.turns[0].answer))
        item = next(name for name, _ in document.meta["items"] if name in document.turns[0].question)
        price = next(price for name, price in document.meta["items"] if name == item)
        assert line and amount(document.turns[0].answer) == price
    for document in made(maker, "receipt", "receipt_dearest", 30):
        dearest = max(document.meta["items"], key=lambda item: item[1])
        assert document.turns[0].answer == dearest[0]


def test_a_single_production_date_is_answered_as_printed(maker: Maker) -> None:
    for document in made(maker, "label", "production_date", 60, SIZES + PAGES):
        answer = document.turns[0].answer
        assert any(answer in text for text in texts(document.sheets[0]))
        assert answer == document.meta["facts"]["made"]


def test_a_series_keeps_one_format_and_never_the_held_out_one() -> None:
    seen = set()
    for held_out in (False, True):
        maker = Maker(toy_metrics(), held_out=held_out)
        for document in made(maker, "label", "production_date_series", 80, [(224, 224), (168, 224)]):
            answers, dates = [turn.answer for turn in document.turns], document.meta["dates"]
            assert 2 <= len(answers) == len(document.sheets) == len(dates) <= 4
            assert len({turn.question for turn in document.turns}) == 1
            for sheet, turn, (date, printed) in zip(document.sheets, document.turns, dates, strict=True):
                assert any(printed in text for text in texts(sheet))
                kept = date_text(4, *date)
                assert (turn.answer == kept) <= (held_out and document.meta["form"] == "held out")
                assert str(date[2]) in turn.answer and f"{date[0] % 100:02d}" in turn.answer
            learnt = [turn.learn for turn in document.turns]
            assert all(learnt[1:]) and learnt[0] == (answers[0] == dates[0][1])
            seen.add(document.meta["form"])
    assert "held out" in seen and len(seen) > 60  # formats, hundreds of which are drawn


def test_date_formats_write_the_date_and_never_the_held_out_form() -> None:
    rng = np.random.default_rng(4)
    drawn = {draw_format(rng) for _ in range(3000)}
    assert len(drawn) > 300
    for made_up in drawn:
        text = made_up.write((2017, 8, 25))
        assert "25" in text and "17" in text and text != "Aug 25, 2017"
        assert set(text) <= set(drawn_characters())
    for form in (0, 1, 2, 3, 5):
        assert known_format(form).write((2017, 8, 5)) == date_text(form, 2017, 8, 5)
    assert all("17" in draw_format(rng, printed=True).write((2017, 8, 25)) for _ in range(50))


def test_markdown_holds_the_cells_as_drawn(maker: Maker) -> None:
    for document in made(maker, "table", "table_markdown", 50, SIZES + PAGES):
        lines = document.turns[0].answer.split("\n")
        rows = [line.strip("| ").split(" | ") for line in [lines[0], *lines[2:]]]
        assert set(lines[1]) == {"|", "-"} and lines[1].count("---") == len(rows[0])
        title = texts(document.sheets[0])[: len(document.sheets[0].runs) - sum(len(row) for row in rows)]
        assert len(title) <= 1
        drawn = drawn_lines(document.sheets[0])[len(title) :]
        assert drawn == [" ".join(row) for row in rows]


def test_cells_and_extremes_of_tables(maker: Maker) -> None:
    for document in made(maker, "table", "table_cell", 40):
        rows = document.meta["rows"]
        names = [row for row in rows if row[0] in document.turns[0].question]
        assert any(document.turns[0].answer in row for row in names)
    for task, best in (("table_largest", max), ("table_smallest", min)):
        for document in made(maker, "table", task, 25):
            question, answer = document.turns[0].question, document.turns[0].answer
            rows = [row for row in document.meta["rows"] if row[0] not in ("Total", "Sum", "All", "合计", "总计")]
            columns = [i for i, name in enumerate(document.meta["header"]) if i and name in question]
            found = []
            for column in columns:
                values = [re.search(r"\d+(?:[.,]\d+)?", row[column]) for row in rows]
                if all(values):
                    numbers = [float(value[0].replace(",", ".")) for value in values if value]
                    found.append(rows[numbers.index(best(numbers))][0])
            assert answer in found


def test_sum_rows_add_up(maker: Maker) -> None:
    checked = 0
    for document in made(maker, "table", "table_markdown", 60, [(420, 280)]):
        *rows, last = document.meta["rows"]
        if last[0] in ("Total", "Sum", "All", "合计", "总计"):
            checked += 1
            for column in range(1, len(last)):
                assert sum(amount(row[column]) for row in rows) == amount(last[column])
    assert checked > 5


def test_forms_become_json_of_what_is_drawn(maker: Maker) -> None:
    for document in made(maker, "form", "form_json", 50, SIZES + PAGES):
        values = json.loads(document.turns[0].answer)
        assert "\n" not in document.turns[0].answer and values
        drawn = texts(document.sheets[0])
        for key, value in values.items():
            assert key in [text.rstrip(":：") for text in drawn]
            for part in value if isinstance(value, list) else [value]:
                assert part == "" or part in drawn


def test_ticked_boxes_have_ink_inside(maker: Maker) -> None:
    for document in made(maker, "form", "form_ticked", 40):
        sheet = document.sheets[0]
        (_, options, ticked) = document.meta["groups"][0]
        assert document.turns[0].answer == ", ".join(ticked)
        for option in options:
            run = next(run for run in reversed(sheet.runs) if run.text == option)
            inside = [
                mark
                for mark in sheet.marks
                if mark.kind in (LINE, RECT, ELLIPSE)
                and run.x - 1.2 * run.em < mark.places[0] < run.x
                and run.y - run.em < mark.places[1] < run.y
            ]
            rings = (
                0
                if any(mark.kind == FRAME and abs(mark.places[0] - run.x + 1.15 * run.em) < 1 for mark in sheet.marks)
                else 2
            )
            assert (len(inside) > rings) == (option in ticked)
    for document in made(maker, "form", "form_is_ticked", 30):
        ticked = [option for _, _, chosen in document.meta["groups"] for option in chosen]
        asked = [o for _, options, _ in document.meta["groups"] for o in options if o in document.turns[0].question]
        expected = {YES_NO[document.language][0 if option in ticked else 1] for option in asked}
        assert document.turns[0].answer in expected


def bar_values(document: Document) -> list[float]:
    """Values of upright bars measured from the marks and the tick labels."""
    sheet = document.sheets[0]
    ticks = sorted((run.y - 0.3 * run.em, float(run.text)) for run in sheet.runs if run.text.isdigit())
    (y1, v1), (y0, v0) = ticks[0], ticks[-1]
    bars = [mark for mark in sheet.marks if mark.kind == RECT]
    return [v0 + (y0 - mark.places[1]) / (y0 - y1) * (v1 - v0) for mark in bars]


def test_unprinted_bars_read_off_the_axis_as_their_values(maker: Maker) -> None:
    checked = 0
    for document in made(maker, "chart", "chart_value", 300):
        meta = document.meta
        runs = document.sheets[0].runs
        if meta["sort"] != "bar" or meta["printed"] or any(label.isdigit() for label in meta["labels"]):
            continue
        if len([r for r in runs if r.text.isdigit() and r.em != runs[-1].em]) or len(
            [m for m in document.sheets[0].marks if m.kind == RECT]
        ) != len(meta["values"]):
            continue
        checked += 1
        assert np.allclose(bar_values(document), meta["values"], atol=0.02 * max(meta["values"]))
    assert checked > 10


def test_wedges_have_the_angles_of_their_values(maker: Maker) -> None:
    for document in [d for d in made(maker, "chart", "chart_value", 120) if d.meta["sort"] == "pie"]:
        wedges = [mark.places for mark in document.sheets[0].marks if mark.kind == WEDGE]
        values = document.meta["values"]
        assert sum(values) == 100 and len(wedges) == len(values)
        for places, value in zip(wedges, values, strict=True):
            assert abs((places[4] - places[3]) / (2 * math.pi) * 100 - value) < 1.0


def test_chart_answers_follow_the_values(maker: Maker) -> None:
    for document in made(maker, "chart", "chart_value", 60):
        pairs = dict(zip(document.meta["labels"], document.meta["values"], strict=True))
        fitting = [value for label, value in pairs.items() if label in document.turns[0].question]
        assert float(document.turns[0].answer) in fitting
    for task, best in (("chart_largest", max), ("chart_smallest", min)):
        for document in made(maker, "chart", task, 30):
            pairs = dict(zip(document.meta["labels"], document.meta["values"], strict=True))
            assert document.turns[0].answer == best(pairs, key=lambda label: pairs[label])
            assert list(pairs.values()).count(best(pairs.values())) == 1
    for document in made(maker, "chart", "chart_table", 30):
        listed = [line.split(": ") for line in document.turns[0].answer.split("\n")]
        assert [name for name, _ in listed] == document.meta["labels"]
        assert [float(value) for _, value in listed] == document.meta["values"]


def test_answers_repeat_what_stands_elsewhere_when_a_region_is_derivable(maker: Maker) -> None:
    shares = []
    for document in made(maker, "page", "page_prose", 60, [(448, 672), (672, 672)]):
        regions = document.sheets[0].regions
        shares.append(sum(region.derivable for region in regions) / len(regions))
        written = " ".join(texts(document.sheets[0]))
        for region in regions:
            if region.derivable and "星期" not in region.text and not region.text.endswith("day"):
                assert written.count(region.text) >= 2, region.text
    assert np.mean(shares) > 0.08
