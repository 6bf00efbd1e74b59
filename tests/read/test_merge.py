"""Readings that overlap become one, and loops are found while honest repetition is not."""

from __future__ import annotations

import random

import pytest

from cpmv.read.merge import edit_distance, edit_row, find_loop, merge_overlap


@pytest.mark.parametrize(
    ("left", "right", "whole"),
    [
        ("the train to the co", "e coast leaves", "the train to the coast leaves"),
        ("the train to the ca", "he coast leaves", "the train to the coast leaves"),  # a wrong last letter
        ("图书馆上午九点", "九点开门", "图书馆上午九点开门"),
        ("abc", "xyz", "abcxyz"),  # nothing in common: nothing is lost
        ("", "xyz", "xyz"),
        ("abc", "", "abc"),
    ],
)
def test_overlapping_readings_are_joined_once(left: str, right: str, whole: str) -> None:
    assert merge_overlap(left, right, 11) == whole


def test_any_cut_with_an_overlap_is_undone() -> None:
    rng = random.Random(3)
    for _ in range(200):
        text = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=40))
        at, shared = rng.randint(12, 28), rng.randint(4, 9)
        assert merge_overlap(text[: at + shared], text[at:], 11) == text


def test_edit_distance_counts_edits() -> None:
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == edit_distance("abc", "") == 3
    assert edit_row("ab", "abc") == [2, 1, 0, 1]


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("Total " + "the the the " + "the " * 12, 10),
        ("price 1" + "0" * 60, 8),
        ("好" * 40, 1),
        ("A. " + "Rain is likely in the north on Friday. " * 4, 41),
    ],
)
def test_a_loop_is_found_where_its_repetition_begins(text: str, at: int) -> None:
    assert find_loop(text) == at
    assert find_loop(text + "the"[:0]) == at


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Contents ........................................ 12",
        "| a | b |\n|---|---|---|---|---|---|---|---|---|---|",
        "1000000000000",
        "very very very good",
        "no no no no",
        "Row 1: 0\nRow 2: 0\nRow 3: 0\nRow 4: 0\nRow 5: 0\nRow 6: 0",
        "Rain is likely. Rain is likely.",
    ],
)
def test_honest_repetition_is_no_loop(text: str) -> None:
    assert find_loop(text) is None
