"""One question to the model: a loop is stopped, asked about once more, and marked if it stays."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cpmv.read.reader import RETRY_PENALTY, Reader

LOOP = "Rain " + "and wind and rain " * 20


class Engine:
    """Writes canned answers in pieces of ten characters, as long as it is not told to stop."""

    def __init__(self, *answers: str, finish_reason: str = "stop") -> None:
        self.answers, self.finish_reason = list(answers), finish_reason
        self.params: list[Any] = []
        self.written: list[str] = []

    def add(self, inputs: Any, params: Any, *, constraint: Any, on_piece: Any, client: str) -> Any:
        self.params.append(params)
        text = self.answers.pop(0)
        request = SimpleNamespace(output=None, error=None, constraint=constraint, cancelled=False)
        written = ""
        for i in range(0, len(text), 10):
            if request.cancelled:
                break
            written += text[i : i + 10]
            on_piece(request, SimpleNamespace(text=text[i : i + 10]))
        reason = "cancelled" if request.cancelled else self.finish_reason
        request.output = SimpleNamespace(text=written, finish_reason=reason)
        on_piece(request, None)
        self.written.append(written)
        return request

    def wait(self, request: Any) -> Any:
        return request.output

    def cancel(self, request: Any) -> None:
        request.cancelled = True


def ask(engine: Engine, **options: Any) -> Any:
    def processor(messages: Any, max_slice_nums: int) -> Any:
        return messages

    reader = Reader(engine, processor)  # type: ignore[arg-type]
    return reader.submit([], "Read the text.", max_slice_nums=1, max_new_tokens=99, **options).result()


def test_an_answer_is_what_was_read() -> None:
    engine = Engine("Orange juice")
    assert (ask(engine).text, ask(Engine("")).text) == ("Orange juice", "")
    (params,) = engine.params
    assert params.greedy and params.repetition_penalty == 1 and params.max_new_tokens == 99


def test_a_loop_is_stopped_early_and_asked_about_once_more() -> None:
    engine = Engine(LOOP, "Rain and wind")
    reading = ask(engine)
    assert (reading.text, reading.problem) == ("Rain and wind", "")
    assert len(engine.written[0]) < 0.5 * len(LOOP)
    assert [params.repetition_penalty for params in engine.params] == [1, RETRY_PENALTY]


def test_a_loop_that_stays_is_cut_and_marked() -> None:
    engine = Engine(LOOP, LOOP)
    reading = ask(engine)
    assert reading.text == "Rain and wind and rain" and "repeated itself" in reading.problem
    assert len(engine.params) == 2


def test_an_answer_that_is_too_long_is_marked() -> None:
    assert "cut off" in ask(Engine("half a sen", finish_reason="length")).problem


def test_what_a_schema_holds_may_repeat() -> None:
    text = '["' + "aaaa" * 30 + '"]'
    engine = Engine(text)
    made: list[int] = []
    assert ask(engine, constraint=lambda most: made.append(most) or object()).text == text
    assert made == [99]


def test_an_error_of_the_engine_is_raised() -> None:
    engine = Engine("x", finish_reason="error")
    with pytest.raises(RuntimeError, match="broke off"):
        ask(engine)
