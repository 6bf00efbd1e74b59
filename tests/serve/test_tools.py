"""Tool calls in the text of an answer, whole or cut anywhere, and what tool_choice asks for."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpmv.serve.errors import ApiError
from cpmv.serve.protocol import ChatRequest, read
from cpmv.serve.tools import Call, CallSplitter, call_form, offered, read_call, tools_for_prompt

CALL = '<tool_call>\n{"name": "f", "arguments": {"a": "<b>"}}\n</tool_call>'
TEXT = f"Let me see.\n{CALL}\n{CALL}\n"


def joined(parts: list[str | Call]) -> list[str | Call]:
    """Neighbouring text put together."""
    out: list[str | Call] = []
    for part in parts:
        if isinstance(part, str) and out and isinstance(out[-1], str):
            out[-1] += part
        else:
            out.append(part)
    return out


def split(pieces: list[str], names: tuple[str, ...] = ("f",)) -> list[str | Call]:
    splitter = CallSplitter(names)
    return joined([part for piece in pieces for part in splitter.put(piece)] + splitter.flush())


def test_calls_are_taken_out_of_the_text() -> None:
    expected = Call("f", '{"a": "<b>"}')
    assert split([TEXT]) == ["Let me see.", expected, expected]


@settings(deadline=None)
@given(st.lists(st.integers(0, len(TEXT)), max_size=12))
def test_it_does_not_matter_where_the_stream_is_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(TEXT)]
    assert split([TEXT[a:b] for a, b in zip(edges, edges[1:], strict=False)]) == split([TEXT])


@settings(deadline=None)
@given(st.text(alphabet="<tool_cal>/ \n{}ab", max_size=60))
def test_text_without_a_call_comes_through_unchanged(text: str) -> None:
    assert "".join(str(part) for part in split(list(text))) == text


@pytest.mark.parametrize(
    "body",
    ["{", "[]", '{"name": "g", "arguments": {}}', '{"name": "f", "arguments": [1]}', '{"arguments": {}}',
     '{"name": "f", "arguments": "{"}', '{"name": ["f"], "arguments": {}}'],
)  # fmt: skip
def test_what_is_no_call_of_a_known_function_stays_text(body: str) -> None:
    text = f"Well.\n<tool_call>{body}</tool_call> ok"
    assert split([text]) == [text]


def test_a_call_that_never_ends_is_text() -> None:
    assert split(["x <tool_call>\n{"]) == ["x <tool_call>\n{"]


def test_quoted_arguments_are_opened() -> None:
    assert read_call('{"name": "f", "arguments": "{\\"a\\": 1}"}', {"f"}) == Call("f", '{"a": 1}')


def request(**fields: object) -> ChatRequest:
    tools = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("f", "g")]
    return read(
        ChatRequest, json.dumps({"messages": [{"role": "user", "content": "x"}], "tools": tools, **fields}).encode()
    )


def test_tool_choice_decides_what_is_offered_and_forced() -> None:
    for choice, count, is_forced in ((None, 2, False), ("auto", 2, False), ("none", 0, False), ("required", 2, True)):
        asked = request(tool_choice=choice)
        assert len(offered(asked)) == count
        assert bool(offered(asked) and call_form(asked, offered(asked))) is is_forced
    named = request(tool_choice={"type": "function", "function": {"name": "g"}})
    form = call_form(named, offered(named))
    assert form is not None and '\\"g\\"' in form.grammar and '\\"f\\"' not in form.grammar


def test_impossible_choices_are_refused() -> None:
    with pytest.raises(ApiError, match="not among the tools"):
        offered(request(tool_choice={"type": "function", "function": {"name": "h"}}))
    with pytest.raises(ApiError, match="no tools"):
        offered(request(tool_choice="required", tools=[]))
    with pytest.raises(ApiError, match="same name"):
        offered(request(tools=[{"type": "function", "function": {"name": "f"}}] * 2))


def test_prompts_get_the_tools_without_what_was_left_out() -> None:
    (first, _) = tools_for_prompt(request().tools) or []
    assert first == {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
