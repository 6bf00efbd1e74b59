"""Scores against values worked out by hand."""

from __future__ import annotations

from collections import Counter

import pytest

from cpmv.evals import scoring


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(0, 0, 0.0, 1.0), (0, 100, 0.0, 0.0370), (50, 100, 0.4038, 0.5962), (100, 100, 0.9630, 1.0)],
)
def test_wilson_intervals_are_the_known_ones(hits: int, n: int, low: float, high: float) -> None:
    assert scoring.wilson(hits, n) == pytest.approx((low, high), abs=1e-4)


def test_exact_forgives_only_space_at_the_ends_of_lines() -> None:
    assert scoring.exact(" one \ntwo", "one\ntwo ")
    assert not scoring.exact("one two", "one\ntwo")
    assert not scoring.exact("One", "one")


@pytest.mark.parametrize(
    ("a", "b", "distance"), [("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("same", "same", 0)]
)
def test_edit_distance(a: str, b: str, distance: int) -> None:
    assert scoring.edit_distance(a, b) == scoring.edit_distance(b, a) == distance


def test_table_cells_count_at_their_place() -> None:
    reference = "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |"
    assert scoring.cell_f1(reference, reference) == 1.0
    assert scoring.cell_f1(reference.replace("4", "5"), reference) == pytest.approx(5 / 6)
    assert scoring.cell_f1("| a | b |\n|---|---|\n| 3 | 4 |", reference) == pytest.approx(2 * 2 / (4 + 6))
    assert scoring.cell_f1("no table", reference) == 0.0
    assert scoring.table_cells("| x |\n| :-: |\n| y |") == Counter({(0, 0, "x"): 1, (1, 0, "y"): 1})


def test_json_fields_need_valid_json() -> None:
    reference = '{"Name": "Ann", "City": "Rome"}'
    assert scoring.json_fields('{"City": "Rome", "Name": "Ann"}', reference) == 1.0
    assert scoring.json_fields('{"Name": "Ann", "City": "Bonn"}', reference) == 0.5
    assert scoring.json_fields('{"Name": "Ann"', reference) == scoring.json_fields("[1]", reference) == 0.0


def test_descriptions_are_scored_by_the_objects_they_name() -> None:
    there = ["red circle", "blue square", "red circle"]
    assert scoring.hallucination("a red circle and a green star", there) == (1, 2, 1)
    assert scoring.hallucination("two red circles", there) == (0, 1, 1)
    assert scoring.hallucination("一个红色圆形、一个蓝色正方形和一个红色圆形", there) == (0, 3, 3)
    assert scoring.hallucination("nothing", there) == (0, 0, 0)


@pytest.mark.parametrize(("text", "language"), [("红色", "zh"), ("a 红 b", "zh"), ("red", "en"), ("42 %", None)])
def test_the_language_of_an_answer(text: str, language: str | None) -> None:
    assert scoring.language_of(text) == language


def test_date_formats_are_told_apart() -> None:
    texts = ["2024-01-02", "02.01.2024", "01/02/2024", "02 Jan 2024", "Jan 2, 2024", "2024年1月2日", "2024.01.02"]
    assert [scoring.date_format(text) for text in texts[:6]] == list(range(6))
    assert len({scoring.date_format(text) for text in texts}) == 7  # every format that an answer may need


def test_the_best_constant_guess_is_per_kind_of_question() -> None:
    samples = [("count", "en", "3"), ("count", "en", "3"), ("count", "en", "1"), ("exists", "en", "yes")]
    assert scoring.constant_guess(samples) == 0.75
