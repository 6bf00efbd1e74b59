"""Render a conversation to prompt text: the checkpoint's own Jinja chat template, or the same text without one.

Templates come from downloaded files, so they run in Jinja's immutable sandbox with bounds on size, and whatever they
do wrong ends in CheckpointError. The built-in text is the released checkpoint's (Qwen3 with a thinking switch).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import CheckpointError, MessageError

MAX_NUMBER = 1_000_000  # largest integer a template may pass to a call, largest repetition, most rounds of `range`
MAX_CHARS = 100_000_000  # longest text a template may write

# What the prompt ends with by `enable_thinking`; not given, nothing.
THINKING_PREFIX = {None: "", False: "<think>\n\n</think>\n\n", True: "<think>\n"}
TOOLS_HEAD = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
TOOLS_TAIL = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
    "</tool_call>"
)


def render_chat(
    messages: Sequence[Mapping[str, Any]],
    *,
    template: str | None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    enable_thinking: bool | None = None,
    add_generation_prompt: bool = True,
    special_tokens: Mapping[str, str] | None = None,
) -> str:
    """Write a conversation as prompt text.

    messages: dictionaries with role and content (a string), and where present tool_calls and reasoning_content.
    template: Jinja source, or None for the built-in text. enable_thinking None means the template is not told.
    special_tokens: names such as `bos_token` that templates may print.
    Raises CheckpointError for a template that fails or misbehaves, MessageError when it refuses the conversation.
    """
    if template is None:
        return _built_in(messages, tools, enable_thinking, add_generation_prompt)
    context: dict[str, Any] = {**(special_tokens or {}), "messages": messages, "tools": tools or None}
    context["documents"] = None
    context["add_generation_prompt"] = add_generation_prompt
    context["range"] = _Range()
    if enable_thinking is not None:
        context["enable_thinking"] = enable_thinking
    pieces, length = [], 0
    try:
        for piece in _compile(template).generate(context):
            length += len(piece)
            if length > MAX_CHARS:
                raise SecurityError(f"it writes more than {MAX_CHARS} characters")
            pieces.append(piece)
    except MessageError:
        raise
    except Exception as error:  # a template can raise anything that Python can
        raise CheckpointError(f"the checkpoint's chat template fails: {_one_line(error)}") from None
    return "".join(pieces)


def to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None,
            sort_keys: bool = False) -> str:  # fmt: skip
    """The field's `tojson`: plain JSON, neither HTML-escaped nor ASCII-only."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which also refuses to build giant numbers and strings."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sizes = [x if isinstance(x, int) else len(x) if hasattr(x, "__len__") else 0 for x in (left, right)]
        if operator == "**" or abs(sizes[0] * sizes[1]) > MAX_NUMBER:
            raise SecurityError(f"it multiplies beyond {MAX_NUMBER}")
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: B902, N805
        for value in (*args, *kwargs.values()):
            if isinstance(value, int) and abs(value) > MAX_NUMBER:
                raise SecurityError(f"it calls a function with a number beyond {MAX_NUMBER}")
        return super().call(__context, __obj, *args, **kwargs)


class _Range:
    """Jinja's `range` with a budget for the whole rendering, so that nested loops end."""

    def __init__(self) -> None:
        self._left = MAX_NUMBER

    def __call__(self, *args: int) -> range:
        numbers = range(*args)
        self._left -= len(numbers) + 1
        if self._left < 0:
            raise SecurityError(f"it loops more than {MAX_NUMBER} times")
        return numbers


class _GenerationTag(Extension):
    """`{% generation %}`, with which some templates mark what the assistant wrote; here it only prints its body."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: Any) -> None:
    raise MessageError(f"the checkpoint's chat template refuses this conversation: {_one_line(message)}")


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


@lru_cache(maxsize=16)
def _compile(template: str) -> Any:
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationTag])
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(template)


def _one_line(value: object) -> str:
    return " ".join((str(value) or type(value).__name__).split())[:200]


def _built_in(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    enable_thinking: bool | None,
    add_generation_prompt: bool,
) -> str:
    """The released checkpoint's template, in Python."""
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    out = []
    if tools:
        head = TOOLS_HEAD if system is None else f"{system}\n\n{TOOLS_HEAD}"
        out.append(_turn("system", head + "".join("\n" + to_json(tool) for tool in tools) + TOOLS_TAIL))
    elif system is not None:
        out.append(_turn("system", system))
    last_query = _last_query(messages)
    for i, message in enumerate(messages):
        if message["role"] == "user":
            out.append(_turn("user", message["content"]))
        elif message["role"] == "assistant":
            out.append(_turn("assistant", _assistant(message, i > last_query, i == len(messages) - 1)))
        elif message["role"] == "tool":
            if messages[i - 1]["role"] != "tool":
                out.append("<|im_start|>user")
            out.append(f"\n<tool_response>\n{message['content']}\n</tool_response>")
            if i == len(messages) - 1 or messages[i + 1]["role"] != "tool":
                out.append("<|im_end|>\n")
    if add_generation_prompt:
        out.append("<|im_start|>assistant\n" + THINKING_PREFIX[enable_thinking])
    return "".join(out)


def _turn(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def _last_query(messages: Sequence[Mapping[str, Any]]) -> int:
    """Index of the last user message that is not a tool's result in disguise."""
    for i in range(len(messages) - 1, -1, -1):
        content = messages[i]["content"]
        wrapped = content.startswith("<tool_response>") and content.endswith("</tool_response>")
        if messages[i]["role"] == "user" and not wrapped:
            return i
    return len(messages) - 1


def _assistant(message: Mapping[str, Any], after_query: bool, is_last: bool) -> str:
    """What stands between an assistant's header and its end marker; thinking stays only after the last query."""
    content, reasoning = message["content"], message.get("reasoning_content")
    if reasoning is None:
        reasoning = ""
        if "</think>" in content:
            reasoning = content.split("</think>")[0].rstrip("\n").split("<think>")[-1].lstrip("\n")
            content = content.split("</think>")[-1].lstrip("\n")
    text = content
    if after_query and (is_last or reasoning):
        text = "<think>\n" + reasoning.strip("\n") + "\n</think>\n\n" + content.lstrip("\n")
    for i, call in enumerate(message.get("tool_calls") or ()):
        function = call.get("function") or call
        arguments = function["arguments"]
        written = arguments if isinstance(arguments, str) else to_json(arguments)
        text += "\n" if content or i else ""
        text += f'<tool_call>\n{{"name": "{function["name"]}", "arguments": {written}}}\n</tool_call>'
    return text
