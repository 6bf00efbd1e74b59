"""Chat text equals the reference, with the checkpoint's template and without; a bad template cannot do harm."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st

from cpmv.errors import CheckpointError, MessageError
from cpmv.inputs.template import render_chat

CHAT = json.loads((GOLDEN / "chat.json").read_text())
TEMPLATE = json.loads((GOLDEN / "tiny_a" / "tokenizer_config.json").read_text())["chat_template"]
USER = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "zoom", "description": "Größe <b> 'x' & \"y\"", "parameters": {}}}


@pytest.mark.parametrize("template", [TEMPLATE, None], ids=["checkpoint", "built-in"])
@pytest.mark.parametrize("case", CHAT["template_only"], ids=lambda c: f"{len(c['messages'])}-{c['enable_thinking']}")
def test_reference_conversations_render_alike(case: dict[str, Any], template: str | None) -> None:
    text = render_chat(case["messages"], template=template, enable_thinking=case["enable_thinking"], **case["kwargs"])
    assert text == case["rendered"]


@pytest.mark.parametrize("template", [TEMPLATE, None], ids=["checkpoint", "built-in"])
@pytest.mark.parametrize("case", CHAT["cases"], ids=lambda c: f"{c['name']}-{c['enable_thinking']}")
def test_reference_chats_render_alike(case: dict[str, Any], template: str | None) -> None:
    conversation = case["conversation"]
    messages = [{"role": "system", "content": conversation["system"]}] if conversation.get("system") else []
    for message in conversation["msgs"]:
        content = message["content"] if isinstance(message["content"], list) else [message["content"]]
        parts = [part if isinstance(part, str) else "(<image>./</image>)" for part in content]
        messages.append({"role": message["role"], "content": "\n".join(parts)})
    if conversation.get("image"):
        messages[-1]["content"] = "(<image>./</image>)\n" + messages[-1]["content"]
    assert render_chat(messages, template=template, enable_thinking=case["enable_thinking"]) == case["rendered"]


contents = st.lists(
    st.sampled_from(["a", "\n", " ", "<think>", "</think>", "<tool_response>", "</tool_response>", "你", "{{ 1 }}"]),
    max_size=6,
).map("".join)
calls = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["zoom", "find"]), "arguments": st.one_of(st.just('{"a": 1}'), st.just({"q": "ü"}))}
    ).flatmap(lambda call: st.sampled_from([call, {"type": "function", "function": call}])),
    max_size=2,
)
assistants = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": contents},
    optional={"reasoning_content": contents, "tool_calls": calls},
)
turns = st.one_of(assistants, st.fixed_dictionaries({"role": st.sampled_from(["user", "tool"]), "content": contents}))
systems = st.lists(st.fixed_dictionaries({"role": st.just("system"), "content": contents}), max_size=1)


@settings(max_examples=300, deadline=None)
@given(
    system=systems,
    first=contents,
    rest=st.lists(turns, max_size=5),
    tools=st.sampled_from([None, [], [TOOL], [TOOL, {"name": "x"}]]),
    thinking=st.sampled_from([None, False, True]),
    prompt=st.booleans(),
)
def test_the_built_in_text_equals_the_checkpoints_template(
    system: list, first: str, rest: list, tools: Any, thinking: bool | None, prompt: bool
) -> None:
    messages = [*system, {"role": "user", "content": first}, *rest]
    options = {"tools": tools, "enable_thinking": thinking, "add_generation_prompt": prompt}
    assert render_chat(messages, template=None, **options) == render_chat(messages, template=TEMPLATE, **options)


def test_json_is_written_as_the_field_writes_it() -> None:
    text = render_chat(USER, template="{{ tools[0] | tojson }}", tools=[{"k": "<ü> & 'q'"}])
    assert text == '{"k": "<ü> & \'q\'"}'
    assert render_chat(USER, template="{{ tools | tojson(indent=1) }}", tools=[{}]) == "[\n {}\n]"


def test_thinking_that_is_not_set_is_not_passed() -> None:
    template = "{{ enable_thinking is defined }}"
    assert render_chat(USER, template=template) == "False"
    assert render_chat(USER, template=template, enable_thinking=False) == "True"


def test_templates_may_use_what_other_engines_offer_them() -> None:
    template = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}"
    template += "{{ bos_token }}"
    assert render_chat(USER * 2, template=template, special_tokens={"bos_token": "<s>"}) == "hi<s>"
    assert len(render_chat(USER, template="{{ strftime_now('%Y') }}")) == 4


def test_blocks_leave_no_white_space() -> None:
    assert render_chat(USER, template="  {% if true %}\nx\n  {% endif %}\n") == "x\n"


def test_a_template_can_refuse_a_conversation() -> None:
    with pytest.raises(MessageError, match="refuses this conversation: roles must alternate"):
        render_chat(USER, template="{{ raise_exception('roles must\n alternate') }}")


@pytest.mark.parametrize(
    "template",
    [
        "{% if %}",
        "{{ messages[0].content.nothing.here }}",
        "{{ messages[5].content }}",
        "{{ 1 / 0 }}",
        "{{ undefined_function() }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('true') }}",
        "{{ messages.append(1) }}",
        "{{ messages.__class__ }}{{ messages.__init__.__globals__ }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ 'a' * 10 ** 12 }}",
        "{{ 'a' * 1000000000000 }}",
        "{{ [0] * 100000000000 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{{ 'a'.ljust(10000000000) }}",
        "{{ range(10000000000) | list }}",
        "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
        "{% for i in range(900000) %}{{ 'x' * 900000 }}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ messages[0] | tojson(indent=messages) }}",
        "{{ strftime_now(5) }}",
    ],
)
def test_a_broken_or_malicious_template_is_a_checkpoint_error(template: str) -> None:
    with pytest.raises(CheckpointError, match="chat template fails: .") as caught:
        render_chat(USER, template=template)
    assert "\n" not in str(caught.value)
