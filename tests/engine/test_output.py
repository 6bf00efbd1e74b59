"""From tokens to text: ends, stop strings, thinking, the reference's raw form, and pieces that add up to the whole."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_cases import TERMINATORS, TOKENIZER

from cpmv.engine.output import Answer, Output, Piece, PieceSplitter
from cpmv.engine.sampling import SamplingParams

BOS = TOKENIZER.bos_token_id
IDS = [i for i in range(len(TOKENIZER)) if i not in TERMINATORS]


def answer(stop: Any = (), max_new_tokens: int = 1000, **options: Any) -> Answer:
    return Answer(TOKENIZER, SamplingParams(stop=stop), max_new_tokens=max_new_tokens, num_prompt_tokens=3, **options)


def feed(one: Answer, ids: list[int], raw: bool = False) -> tuple[list[Piece], Output]:
    """Give tokens to an answer until it ends (or cancel it), and return its pieces and output."""
    splitter, pieces = PieceSplitter(one, raw), []
    for token in ids:
        one.add(token)
        pieces += splitter.take()
        if one.finish_reason is not None:
            break
    else:
        one.finish("cancelled")
        pieces += splitter.take()
    return pieces, one.output()


def joined(pieces: list[Piece], kind: str) -> str:
    return "".join(piece.text for piece in pieces if piece.kind == kind)


def test_a_terminator_ends_the_answer_and_leaves_no_text() -> None:
    for terminator in TERMINATORS:
        _, output = feed(answer(), [*TOKENIZER.encode(" Hello there \n"), terminator])
        assert output.text == output.raw_text == "Hello there"
        assert output.token_ids[-1] == terminator and output.finish_reason == "stop"
        assert (output.thinking, output.num_prompt_tokens, output.logprobs) == ("", 3, None)


def test_only_a_terminator_gives_an_empty_answer() -> None:
    pieces, output = feed(answer(), [TERMINATORS[0]])
    assert (output.text, output.raw_text, output.finish_reason, pieces) == ("", "", "stop", [])


def test_the_length_ends_the_answer() -> None:
    ids = TOKENIZER.encode("one two three four five six")
    _, output = feed(answer(max_new_tokens=4), ids)
    assert output.token_ids == ids[:4] and output.finish_reason == "length"
    _, output = feed(answer(max_new_tokens=4), [*ids[:3], TERMINATORS[0]])
    assert output.finish_reason == "stop"


def test_a_leading_bos_is_dropped_but_not_a_later_one_nor_in_the_raw_stream() -> None:
    assert BOS is not None
    ids = [BOS, *TOKENIZER.encode("a"), BOS, TERMINATORS[0]]
    text = TOKENIZER.decode([BOS])
    assert feed(answer(), ids)[1].raw_text == "a" + text
    assert feed(answer(skip=(0,)), [0, *ids])[1].raw_text == "a" + text
    assert joined(feed(answer(keep_bos=True), ids, raw=True)[0], "answer") == text + "a" + text


def test_special_tokens_stay_in_the_text() -> None:
    ids = TOKENIZER.encode("<box>1 2</box>")
    assert feed(answer(), [*ids, TERMINATORS[0]])[1].text == "<box>1 2</box>"


def test_skipped_ids_leave_no_text_as_the_reference_does_with_exclamation_marks() -> None:
    ids = TOKENIZER.encode("wow!")
    assert 0 in ids
    assert feed(answer(), ids)[1].text == "wow!" and feed(answer(skip=(0,)), ids)[1].text == "wow"
    assert feed(answer(skip=(0,)), [0, 0])[1].raw_text == ""  # the published code raises here


def test_thinking_is_apart_from_the_answer() -> None:
    ids = [*TOKENIZER.encode("Let me see.\n</think>\n\nIt is 4."), TERMINATORS[0]]
    pieces, output = feed(answer(thinking=True), ids)
    assert (output.thinking, output.text) == ("Let me see.", "It is 4.")
    assert output.raw_text == "<think>\nLet me see.\n</think>\n\nIt is 4."
    assert (joined(pieces, "thinking"), joined(pieces, "answer")) == ("Let me see.", "It is 4.")
    raw, _ = feed(answer(thinking=True), ids, raw=True)
    assert joined(raw, "answer") == "Let me see.\n</think>\n\nIt is 4."


def test_thinking_cut_by_the_length_leaves_an_empty_answer() -> None:
    _, output = feed(answer(thinking=True, max_new_tokens=3), TOKENIZER.encode("Let me see more"))
    assert output.text == "" and output.thinking and output.finish_reason == "length"


def test_a_character_split_over_tokens_is_never_shown_half() -> None:
    ids = TOKENIZER.encode("é日👍")
    assert len(ids) > 3
    pieces, output = feed(answer(), [*ids, TERMINATORS[0]])
    assert [piece.text for piece in pieces] == ["é", "日", "👍"] and output.text == "é日👍"
    assert [i for piece in pieces for i in piece.token_ids] == ids
    _, cut = feed(answer(max_new_tokens=len(ids) - 1), ids)
    assert cut.text == "é日\ufffd"


@pytest.mark.parametrize("stop", ["lo w", ["zzz", "lo w"], ["lo wo", "o w", "lo w"]])
def test_a_stop_string_across_tokens_ends_the_answer_before_it(stop: str | list[str]) -> None:
    ids = TOKENIZER.encode("hello world and more")
    pieces, output = feed(answer(stop=stop), ids)
    assert output.text == joined(pieces, "answer") == "hel" and output.finish_reason == "stop"
    assert len(output.token_ids) < len(ids)


def test_what_was_held_back_comes_at_the_end_without_the_terminator() -> None:
    ids = [*TOKENIZER.encode("a"), *TOKENIZER.encode("b")]
    pieces, output = feed(answer(stop="bc"), [*ids, TERMINATORS[0]])
    assert [(piece.text, piece.token_ids) for piece in pieces] == [("a", ids[:1]), ("b", ids[1:])]
    assert output.text == "ab"


text_pieces = st.lists(st.sampled_from(["a", "b", "ab", "é", "<think>", "</think>", "\n", " ", "日本", "!", "ba"]))


@settings(max_examples=200, deadline=None)
@given(
    text=text_pieces.map("".join),
    stop=st.lists(st.text("ab!é", min_size=1, max_size=4), max_size=3),
    thinking=st.booleans(),
    ended=st.booleans(),
)
def test_pieces_add_up_to_the_output_and_stop_strings_cut_exactly(
    text: str, stop: list[str], thinking: bool, ended: bool
) -> None:
    ids = TOKENIZER.encode(text) + ([TERMINATORS[0]] if ended else [])
    pieces, output = feed(answer(stop, thinking=thinking), ids)
    assert joined(pieces, "answer").strip() == output.text
    assert joined(pieces, "thinking").strip() == output.thinking
    raw, same = feed(answer(stop, thinking=thinking), ids, raw=True)
    assert same == output
    prefix = "<think>\n" if thinking else ""
    assert prefix + joined(raw, "answer").strip() == output.raw_text
    given_out = [i for piece in raw for i in piece.token_ids]
    assert given_out == ids[: len(given_out)]
    shown = joined(raw, "answer")
    cuts = [text.find(one) for one in stop if one in text]
    if not cuts:
        assert shown == text
    else:
        assert text.startswith(shown) and len(shown) >= min(cuts) and output.finish_reason == "stop"
        assert any(text.startswith(one, len(shown)) for one in stop)
        assert not any(one in shown for one in stop)


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.sampled_from(IDS), max_size=20))
def test_any_tokens_give_the_text_their_decoding_gives(ids: list[int]) -> None:
    _, output = feed(answer(), ids)
    assert output.raw_text == TOKENIZER.decode(ids[1:] if ids[:1] == [BOS] else ids).strip()
