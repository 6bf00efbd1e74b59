"""Prompt lookup: what followed the same words before, the longest and latest match first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cpmv.engine.lookup import Lookup


def test_a_guess_is_what_followed_the_same_words() -> None:
    lookup = Lookup([1, 2, 3, 4, 5, 9, 1, 2, 3], 3)
    assert lookup.draft(10) == [4, 5, 9] and lookup.draft(2) == [4, 5] and lookup.draft(0) == []
    lookup.append(8)
    assert lookup.draft(10) == []  # "3 8" is new
    assert Lookup([], 4).draft(4) == [] and Lookup([1, 1], 4).draft(4) == []


def test_the_longest_match_decides_then_the_latest() -> None:
    assert Lookup([1, 2, 3, 7, 5, 2, 3, 8, 1, 2, 3], 1).draft(1) == [7]
    assert Lookup([2, 3, 7, 5, 2, 3, 8, 1, 2, 3], 1).draft(1) == [8]


def test_a_run_of_one_token_guesses_itself() -> None:
    assert Lookup([4] * 6, 3).draft(3) == [4]
    assert Lookup([4, 5] * 4, 8).draft(8) == [4, 5]


@given(st.lists(st.integers(0, 2), max_size=30), st.integers(1, 6))
def test_a_guess_always_followed_equal_words(tokens: list[int], count: int) -> None:
    draft = Lookup(tokens, count).draft(count)
    assert len(draft) <= count
    if draft:
        run = [*tokens[-2:], *draft]
        assert any(tokens[at : at + len(run)] == run for at in range(len(tokens)))
