"""Request bodies: what is read, what is refused, and how the refusal says so."""

from __future__ import annotations

import json

import pytest

from cpmv.serve.errors import ApiError
from cpmv.serve.protocol import ChatRequest, ImagePart, TextPart, TokenizeRequest, depth_exceeds, read

USER = {"role": "user", "content": "hi"}


def body(**fields: object) -> bytes:
    return json.dumps({"messages": [USER], **fields}).encode()


def refusal(data: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(ChatRequest, data)
    assert caught.value.status == 400
    return caught.value


def test_parts_are_told_apart_by_their_type() -> None:
    content = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}}]
    request = read(ChatRequest, json.dumps({"messages": [{"role": "user", "content": content}]}).encode())
    text, image = request.messages[0].content or []
    assert isinstance(text, TextPart) and text.text == "a"
    assert isinstance(image, ImagePart) and not isinstance(image.image_url, str) and image.image_url.detail == "low"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": 10_000}, "n"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": -1}, "seed"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"stop": [""]}, "stop[0]"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0].type"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"mm_processor_kwargs": {"packing": 7}}, "mm_processor_kwargs.packing"),
    ],
)
def test_a_field_out_of_range_is_named(fields: dict, param: str) -> None:
    error = refusal(body(**fields))
    assert error.param == param and param.split("[")[0] in error.message


def test_an_unknown_field_is_refused_by_name() -> None:
    error = refusal(body(frequency="x"))
    assert error.param == "frequency" and error.code == "unknown_field"


@pytest.mark.parametrize("neutral", [{"frequency_penalty": 0}, {"logit_bias": {}}, {"user": "u"}, {"metadata": {}}])
def test_fields_that_ask_for_nothing_are_accepted(neutral: dict) -> None:
    read(ChatRequest, body(**neutral))


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"null", b"[]", b'{"messages": [{"role": "user", "content": "\xff"}]}', b"\xff\xfe", b"[" * 100_000,
     b'{"messages": [{"role": "user", "content": "\\ud800"}]}', b'{"messages": NaN}', b'{"n": 1e999, "messages": []}'],
)  # fmt: skip
def test_what_is_no_json_in_utf8_is_refused(data: bytes) -> None:
    refusal(data)


def test_depth_is_bounded_without_recursion() -> None:
    nested = b'{"a":' * 70 + b"1" + b"}" * 70
    assert "nested" in refusal(b'{"messages": [{"role": "user", "content": "x"}], "metadata": ' + nested + b"}").message
    very = b"[" * 200_000 + b"]" * 200_000
    assert refusal(b'{"messages": [{"role": "user", "content": "x"}], "metadata": {"a": ' + very + b"}}").status == 400
    assert not depth_exceeds({"a": [1, {"b": 2}]}, 3) and depth_exceeds({"a": [1, {"b": 2}]}, 2)


def test_thinking_follows_the_template_switch_before_the_effort() -> None:
    def thinks(**fields: object) -> bool:
        return read(ChatRequest, body(**fields)).thinking

    assert not thinks() and not thinks(reasoning_effort="none") and thinks(reasoning_effort="low")
    assert thinks(chat_template_kwargs={"enable_thinking": True})
    assert not thinks(chat_template_kwargs={"enable_thinking": False}, reasoning_effort="high")


def test_tokenize_takes_a_prompt_or_messages() -> None:
    assert read(TokenizeRequest, b'{"prompt": ""}').prompt == ""
    assert not isinstance(read(TokenizeRequest, body()).prompt, str)
