"""The official client, unchanged, against the real server process."""

from __future__ import annotations

import base64
import json
import time

import jsonschema_rs
import openai
import pytest
from serve_media import clip, pdf
from serve_process import PICTURES, Server, data_uri, image_part, text_part

LABEL = PICTURES / "label.png"
READ = text_part("Read the text.")
GREEDY = {"model": "cpmv-tiny", "temperature": 0}


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return server.client()


def user(*parts: dict) -> list:
    return [{"role": "user", "content": list(parts)}]


def test_text_is_answered(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(messages=[{"role": "user", "content": "Hello"}], max_tokens=5, **GREEDY)
    assert reply.object == "chat.completion" and reply.id.startswith("chatcmpl-")
    assert reply.choices[0].message.role == "assistant" and isinstance(reply.choices[0].message.content, str)
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_a_picture_is_read_from_base64_and_from_a_file_address(client: openai.OpenAI) -> None:
    for url in (data_uri(LABEL, "image/png"), LABEL.as_uri()):
        part = {"type": "image_url", "image_url": {"url": url}}
        reply = client.chat.completions.create(messages=user(part, READ), **GREEDY)
        assert reply.choices[0].message.content == "Orange juice\nbest before\n14.03.2027"
        assert reply.choices[0].finish_reason == "stop"
        assert reply.usage.prompt_tokens_details.visual_tokens == 16


def test_a_request_that_says_nothing_gets_what_the_checkpoint_asks_for(client: openai.OpenAI) -> None:
    part = image_part(PICTURES / "receipt.png")
    for _ in range(3):
        reply = client.chat.completions.create(model="cpmv-tiny", messages=user(part, text_part("What is the total?")))
        assert reply.choices[0].message.content == "14.30"


def test_several_pictures_count_together(client: openai.OpenAI) -> None:
    parts = [image_part(LABEL), image_part(PICTURES / "shapes.png"), text_part("What is in the second picture?")]
    reply = client.chat.completions.create(messages=user(*parts), max_tokens=8, **GREEDY)
    assert reply.usage.prompt_tokens_details.image_tokens >= 32


def test_low_detail_is_one_slice(client: openai.OpenAI) -> None:
    counts = []
    for detail in ("low", "high"):
        part = {"type": "image_url", "image_url": {"url": data_uri(PICTURES / "receipt.png", "image/png")}}
        part["image_url"]["detail"] = detail
        reply = client.chat.completions.create(messages=user(part, READ), max_tokens=1, **GREEDY)
        counts.append(reply.usage.prompt_tokens_details.image_tokens)
    assert counts[0] == 16 < counts[1]


def test_a_video_is_watched(client: openai.OpenAI) -> None:
    part = {"type": "video_url", "video_url": {"url": data_uri(clip(30, 10), "video/mp4"), "fps": 2}}
    reply = client.chat.completions.create(messages=user(part, text_part("What happens?")), max_tokens=4, **GREEDY)
    assert reply.usage.prompt_tokens_details.video_tokens == 6 * 16  # 3 s at 2 frames a second


def test_pages_of_a_pdf_are_chosen(client: openai.OpenAI) -> None:
    file = {"file_data": data_uri(pdf(3), "application/pdf"), "filename": "a.pdf"}
    counts = []
    for pages in ({}, {"pages": "2"}):
        part = {"type": "file", "file": {**file, **pages}}
        reply = client.chat.completions.create(messages=user(part, READ), max_tokens=1, **GREEDY)
        counts.append(reply.usage.prompt_tokens_details.image_tokens)
    assert counts[0] == 3 * counts[1] > 0


def test_a_stream_gives_the_same_answer_and_its_usage(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(messages=user(image_part(LABEL), READ), **GREEDY)
    options = {"include_usage": True}
    stream = client.chat.completions.create(
        messages=user(image_part(LABEL), READ), stream=True, stream_options=options, **GREEDY
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert not chunks[-1].choices and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens > 0  # the same picture and words, just before


def test_thinking_goes_apart_from_the_answer_and_can_be_switched(client: openai.OpenAI) -> None:
    for thinking in (True, False):
        extra = {"chat_template_kwargs": {"enable_thinking": thinking}}
        reply = client.chat.completions.create(
            messages=user(image_part(LABEL), READ), max_tokens=12, extra_body=extra, **GREEDY
        )
        message = reply.choices[0].message.model_extra
        assert message["reasoning"] == message["reasoning_content"]
        assert bool(message["reasoning"]) is thinking
        assert bool(reply.usage.completion_tokens_details.reasoning_tokens) is thinking
    effort = client.chat.completions.create(
        messages=user(image_part(LABEL), READ), max_tokens=6, reasoning_effort="high", **GREEDY
    )
    assert effort.choices[0].message.model_extra["reasoning"]


def test_streamed_thinking_has_both_names(client: openai.OpenAI) -> None:
    extra = {"chat_template_kwargs": {"enable_thinking": True}}
    stream = client.chat.completions.create(
        messages=user(image_part(LABEL), READ), max_tokens=6, stream=True, extra_body=extra, **GREEDY
    )
    deltas = [chunk.choices[0].delta.model_extra for chunk in stream]
    spoken = [delta for delta in deltas if delta.get("reasoning")]
    assert spoken and all(delta["reasoning"] == delta["reasoning_content"] for delta in spoken)


def test_n_answers_share_a_prompt_and_seeds_repeat_them(client: openai.OpenAI) -> None:
    def ask() -> list[str]:
        reply = client.chat.completions.create(
            model="cpmv-tiny", messages=user(READ), n=3, seed=7, temperature=2, top_p=1, max_tokens=6,
            extra_body={"min_tokens": 6, "top_k": -1, "repetition_penalty": 2},
        )  # fmt: skip
        assert [choice.index for choice in reply.choices] == [0, 1, 2]
        assert reply.usage.completion_tokens == 18
        return [choice.message.content for choice in reply.choices]

    first, second = ask(), ask()
    assert first == second and len(set(first)) > 1


def test_a_stop_string_ends_the_answer_before_it(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(messages=user(image_part(LABEL), READ), stop=["best"], **GREEDY)
    assert reply.choices[0].message.content == "Orange juice" and reply.choices[0].finish_reason == "stop"


def test_the_length_is_bounded(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(messages=user(image_part(LABEL), READ), max_completion_tokens=6, **GREEDY)
    assert reply.choices[0].message.content == "Orange" and reply.choices[0].finish_reason == "length"
    assert reply.usage.completion_tokens == 6


def test_logprobs_tell_each_token_and_its_rivals(client: openai.OpenAI) -> None:
    common = {"messages": user(image_part(LABEL), READ), "logprobs": True, "top_logprobs": 3, "max_tokens": 6}
    reply = client.chat.completions.create(**common, **GREEDY)
    tokens = reply.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == "Orange"
    for token in tokens:
        assert bytes(token.bytes).decode() == token.token and token.logprob <= 0
        assert len(token.top_logprobs) == 3 and token.top_logprobs[0].token == token.token  # greedy takes the likeliest
    streamed = [
        token
        for chunk in client.chat.completions.create(**common, stream=True, **GREEDY)
        if chunk.choices and chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content
    ]
    assert [(t.token, t.logprob) for t in streamed] == [(t.token, pytest.approx(t.logprob, abs=1e-3)) for t in tokens]


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string", "maxLength": 20}, "days": {"type": "integer", "maximum": 9}},
            "required": ["place", "days"],
            "additionalProperties": False,
        },
    },
}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_tool_call_that_is_required_is_made(client: openai.OpenAI, choice: object) -> None:
    common = {"messages": user(text_part("How is the weather in Paris?")), "tools": [WEATHER], "tool_choice": choice}
    reply = client.chat.completions.create(**common, max_tokens=300, parallel_tool_calls=False, **GREEDY)
    assert reply.choices[0].finish_reason == "tool_calls"
    (call,) = reply.choices[0].message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert call.function.name == "get_weather" and set(arguments) == {"place", "days"}
    stream = client.chat.completions.create(**common, max_tokens=300, parallel_tool_calls=False, stream=True, **GREEDY)
    chunks = list(stream)
    calls = [one for chunk in chunks for one in chunk.choices[0].delta.tool_calls or []]
    assert [json.loads(one.function.arguments) for one in calls] == [arguments]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_a_conversation_with_a_tool_result_goes_on(client: openai.OpenAI) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"place": "Paris"}'}}
    messages = [
        {"role": "user", "content": "How is the weather in Paris?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    reply = client.chat.completions.create(messages=messages, tools=[WEATHER], max_tokens=4, **GREEDY)
    assert reply.choices[0].finish_reason in ("stop", "length")


def test_a_reply_can_be_sent_back_as_it_came(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(messages=user(image_part(LABEL), READ), max_tokens=6, **GREEDY)
    messages = [*user(image_part(LABEL), READ), first.choices[0].message.model_dump(exclude={"annotations"})]
    messages.append({"role": "user", "content": "And the second line?"})
    reply = client.chat.completions.create(messages=messages, max_tokens=4, **GREEDY)
    assert reply.usage.prompt_tokens > first.usage.prompt_tokens


SCHEMAS = [
    {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "age": {"type": "integer", "minimum": 18, "maximum": 99},
            "tags": {"type": "array", "items": {"type": "string", "minLength": 2}, "minItems": 3},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": False,
    },
    {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "v": {"type": "number", "minimum": -1000, "maximum": 1000},
                    "kids": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                },
                "required": ["v", "kids"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/node",
    },
    {
        "type": "object",
        "properties": {
            "date": {"type": "string", "format": "date"},
            "email": {"type": "string", "format": "email"},
            "code": {"type": "string", "pattern": "^[A-Z]{3}-\\d{4}$"},
            "kind": {"enum": ['a"b', "}{", None, 3]},
        },
        "required": ["date", "email", "code", "kind"],
        "additionalProperties": False,
    },
    {"anyOf": [{"type": "array", "items": {"const": [1, {"a": "]"}]}, "minItems": 2}, {"type": "null"}]},
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=["person", "tree", "formats", "union"])
def test_json_follows_its_schema(client: openai.OpenAI, schema: dict) -> None:
    reply = client.chat.completions.create(
        model="cpmv-tiny",
        messages=user(image_part(LABEL), text_part("As JSON.")),
        temperature=1,
        seed=1,
        n=3,
        max_tokens=180,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )
    for choice in reply.choices:
        jsonschema_rs.validate(schema, json.loads(choice.message.content), validate_formats=True)
        assert choice.finish_reason == "stop"


def test_json_comes_after_thinking(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        messages=user(READ), max_tokens=200, response_format={"type": "json_object"},
        extra_body={"chat_template_kwargs": {"enable_thinking": True}}, **GREEDY,
    )  # fmt: skip
    assert isinstance(json.loads(reply.choices[0].message.content), dict)
    assert reply.choices[0].message.model_extra["reasoning"]


@pytest.mark.parametrize(
    ("form", "allowed"),
    [
        ({"choice": ["yes", 'say "no"']}, {"yes", 'say "no"'}),
        ({"regex": "(red|blue) [0-9]"}, {f"{colour} {i}" for colour in ("red", "blue") for i in range(10)}),
        ({"grammar": 'root ::= "up" | "down"'}, {"up", "down"}),
        ({"grammar": 'start: "left" | "right"'}, {"left", "right"}),
    ],
)
def test_structured_outputs_are_followed(client: openai.OpenAI, form: dict, allowed: set) -> None:
    reply = client.chat.completions.create(messages=user(READ), extra_body={"structured_outputs": form}, **GREEDY)
    assert reply.choices[0].message.content in allowed


def test_leaving_a_stream_frees_its_blocks(server: Server, client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="cpmv-tiny", messages=user(READ), stream=True, max_tokens=4000, extra_body={"min_tokens": 4000}
    )
    chunks = iter(stream)
    assert [next(chunks).choices[0].delta.role for _ in range(3)] == ["assistant", None, None]  # tokens have come
    assert server.metric("cpmv:num_requests_running") == 1
    stream.close()
    server.wait_for("cpmv:num_requests_running", 0)
    server.wait_for("cpmv:kv_cache_blocks_used", 0)
    server.wait_for("cpmv:num_requests_under_way", 0)


def test_leaving_a_request_that_does_not_stream_frees_its_blocks(server: Server) -> None:
    impatient = server.client(timeout=1.0)
    start = time.monotonic()
    with pytest.raises(openai.APITimeoutError):
        impatient.chat.completions.create(
            model="cpmv-tiny", messages=user(READ), max_tokens=6000, extra_body={"min_tokens": 6000}
        )
    server.wait_for("cpmv:num_requests_running", 0)
    server.wait_for("cpmv:kv_cache_blocks_used", 0)
    assert time.monotonic() - start < 20


def test_a_prompt_that_is_too_long_is_refused_with_the_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(messages=[{"role": "user", "content": "ab cd " * 6000}], **GREEDY)
    assert refusal.value.code == "context_length_exceeded"
    assert "8191" in str(refusal.value) and "tokens" in str(refusal.value)


def test_the_model_is_listed_and_an_unknown_one_is_refused(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["cpmv-tiny"]
    assert client.models.retrieve("cpmv-tiny").id == "cpmv-tiny"
    with pytest.raises(openai.NotFoundError) as refusal:
        client.chat.completions.create(model="gpt-4", messages=user(READ))
    assert refusal.value.code == "model_not_found"


def test_a_picture_that_is_none_is_a_bad_request(client: openai.OpenAI) -> None:
    url = "data:image/png;base64," + base64.b64encode(b"no picture").decode()
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(messages=user({"type": "image_url", "image_url": {"url": url}}, READ), **GREEDY)
    assert "unsupported type" in str(refusal.value)
