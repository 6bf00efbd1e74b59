"""Tools: what of a request's tools goes into the prompt, and tool calls found in the text of an answer.

The model writes a call as `<tool_call>`, a JSON object with name and arguments, and `</tool_call>` (the checkpoint's
template says so in the prompt). `CallSplitter` finds calls while the text streams in and never shows a part of one.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from .errors import bad_request
from .protocol import ChatRequest, ChosenTool, Tool
from .structured import CALL_CLOSE, CALL_OPEN, Form, free_tool_calls, tool_calls


@dataclass(frozen=True)
class Call:
    """One tool call. arguments: JSON text."""

    name: str
    arguments: str

    def as_openai(self) -> dict[str, Any]:
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


def tools_for_prompt(tools: list[Tool] | None) -> list[dict[str, Any]] | None:
    """The tools as the template takes them; fields the client left out stay out."""
    if not tools:
        return None
    out = []
    for tool in tools:
        function: dict[str, Any] = {"name": tool.function.name}
        if tool.function.description is not None:
            function["description"] = tool.function.description
        function["parameters"] = tool.function.parameters or {"type": "object", "properties": {}}
        out.append({"type": "function", "function": function})
    return out


def offered(request: ChatRequest) -> list[Tool]:
    """The tools that this request lets the model call. Raises ApiError for choices that cannot be."""
    tools = request.tools or []
    names = [tool.function.name for tool in tools]
    if len(set(names)) < len(names):
        raise bad_request("two tools have the same name; give each its own", "tools")
    chosen = request.tool_choice
    if chosen is None or chosen == "auto":
        return tools
    if chosen == "none":
        return []
    if not tools:
        raise bad_request("tool_choice asks for a call but no tools are given", "tool_choice")
    if isinstance(chosen, ChosenTool) and chosen.function.name not in names:
        raise bad_request(f"tool_choice names {chosen.function.name!r}, which is not among the tools", "tool_choice")
    return tools


def call_form(request: ChatRequest, tools: list[Tool]) -> Form | None:
    """The form that tool_choice puts on the answer: a call that must be made, or schemas that calls must follow."""
    chosen = request.tool_choice
    several = request.parallel_tool_calls is not False
    if isinstance(chosen, ChosenTool):
        tools, several = [tool for tool in tools if tool.function.name == chosen.function.name], False
    elif chosen != "required":
        strict = any(tool.function.strict for tool in tools)
        return free_tool_calls([(tool.function.name, tool.function.parameters) for tool in tools]) if strict else None
    return tool_calls([(tool.function.name, tool.function.parameters) for tool in tools], several=several)


class CallSplitter:
    """Separate text from tool calls. names: functions that exist; a call of another stays text, as it was written.

    White space between and after calls belongs to nothing.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)
        self._held = ""
        self._gap = ""  # white space before a call that has begun; it comes back when that turns out to be text
        self._in_call = False
        self._has_called = False

    def put(self, text: str) -> list[str | Call]:
        """Take more text; return what is now certain, in order."""
        self._held += text
        out: list[str | Call] = []
        while self._step(out):
            pass
        return out

    def flush(self) -> list[str | Call]:
        """Return what was held back, at the end of the answer; a call that never ended is text."""
        rest = self._gap + (CALL_OPEN if self._in_call else "") + self._held
        self._held, self._in_call, self._gap = "", False, ""
        return [rest] if rest and not (self._has_called and rest.isspace()) else []

    def _step(self, out: list[str | Call]) -> bool:
        if self._in_call:
            body, end, rest = self._held.partition(CALL_CLOSE)
            if not end:
                return False
            call = read_call(body, self._names)
            out.append(call if call is not None else f"{self._gap}{CALL_OPEN}{body}{CALL_CLOSE}")
            self._has_called = self._has_called or call is not None
            self._held, self._in_call, self._gap = rest, False, ""
            return True
        before, start, rest = self._held.partition(CALL_OPEN)
        if start:
            said = before.rstrip()
            self._say(said, out)
            self._held, self._in_call, self._gap = rest, True, before[len(said) :]
            return True
        partial = next(k for k in range(len(CALL_OPEN) - 1, -1, -1) if before.endswith(CALL_OPEN[:k]))
        ready = before[: len(before) - partial].rstrip()  # the white space may stand before a call
        self._held = before[len(ready) :]
        self._say(ready, out)
        return False

    def _say(self, text: str, out: list[str | Call]) -> None:
        if text and not (self._has_called and text.isspace()):
            out.append(text)


def read_call(body: str, names: Collection[str]) -> Call | None:
    """Read what stands between the tags, or return None when it is no call of one of the functions."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    name = value.get("name") if isinstance(value, dict) else None
    if not isinstance(name, str) or name not in names:
        return None
    arguments = value.get("arguments", {})
    if isinstance(arguments, str):  # some models quote the object
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    if not isinstance(arguments, dict):
        return None
    return Call(name, json.dumps(arguments, ensure_ascii=False))
