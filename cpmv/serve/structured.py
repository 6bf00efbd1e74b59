"""Answers that follow a form: JSON schemas, regular expressions, choices, grammars, tool calls, through llguidance.

`Grammars` compiles a form for the checkpoint's tokenizer and gives a `GrammarConstraint`, which the engine asks before
each token. A constraint waits until thinking has ended. A JSON answer that would not end within its tokens is brought
to a valid end (`closing`) when the room left nears what closing everything takes.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import llguidance
import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor

from ..errors import MessageError
from ..inputs.text import Tokenizer
from .closing import JsonState, WayOut, token_mask

log = logging.getLogger("cpmv")

MAX_SCHEMA_CHARS = 256 << 10
WHITESPACE = "[ \\n\\t]{0,24}"  # between JSON tokens; a model cannot fill its answer with blanks
_DATE = (
    "[12][0-9]{3}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    "|02-(0[1-9]|1[0-9]|2[0-8]))"
)
_TIME = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
# Formats whose usual expressions allow more than validators do: leap seconds, endless local parts.
_FORMATS = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "email": "^[A-Za-z0-9_+-]{1,32}(\\.[A-Za-z0-9_+-]{1,30})?@([a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?\\.){1,3}[a-z]{2,12}$",
}
END_OF_THINKING = "</think>"
_RESERVE = 48  # tokens beyond the shortest ending that a JSON answer keeps free, or a quarter of its length if more


class Form:
    """A compiled form. is_json: its answers are JSON (or hold it), so a short ending can be found by its brackets."""

    def __init__(self, grammar: str, is_json: bool) -> None:
        self.grammar, self.is_json = grammar, is_json


def json_schema(schema: Any) -> Form:
    """A form for JSON that a schema describes. Raises MessageError for one that is too large or no schema."""
    if schema is True or schema == {} or schema is None:
        schema = {}
    if not isinstance(schema, dict):
        raise MessageError("the JSON schema must be an object")
    text = json.dumps(_with_bounded_formats(schema))
    if len(text) > MAX_SCHEMA_CHARS:
        raise MessageError(f"the JSON schema has {len(text)} characters; at most {MAX_SCHEMA_CHARS} are compiled")
    try:
        return Form(LLMatcher.grammar_from_json_schema(text, overrides={"whitespace_pattern": WHITESPACE}), True)
    except ValueError as error:
        raise MessageError(f"the JSON schema cannot be used: {_one_line(error)}") from None


def json_object() -> Form:
    return json_schema({"type": "object"})


def regex(pattern: str) -> Form:
    return Form(LLMatcher.grammar_from_regex(pattern), False)


def choice(options: Sequence[str]) -> Form:
    return Form(LLMatcher.grammar_from_lark("start: " + " | ".join(json.dumps(one) for one in options)), False)


def grammar(text: str) -> Form:
    """A form from Lark or GBNF text."""
    try:
        return Form(llguidance.grammar_from("grammar", text), False)
    except ValueError as error:
        raise MessageError(f"the grammar cannot be used: {_one_line(error)}") from None


def tool_calls(functions: Sequence[tuple[str, dict[str, Any] | None]], *, several: bool) -> Form:
    """A form of nothing but calls, as the template writes them, with arguments by each function's schema."""
    rules, names = [], []
    for i, (name, parameters) in enumerate(functions):
        names.append(f"call_{i}")
        rules.append(f"call_{i}: {json.dumps(_call_head(name))} arguments_{i} {json.dumps(CALL_TAIL)}")
        rules.append(f"arguments_{i}: %json {_parameters(parameters)}")
    call = " | ".join(names)
    start = f'start: call ("\\n" call){{0,7}}\ncall: {call}' if several else f"start: {call}"
    return Form(LLMatcher.grammar_from_lark("\n".join([start, *rules])), True)


def free_tool_calls(functions: Sequence[tuple[str, dict[str, Any] | None]]) -> Form:
    """A form of free text in which every tool call is one of these, with arguments by its schema."""
    tags = [
        llguidance.StructTag(
            trigger=CALL_OPEN,
            begin=_call_head(name),
            grammar=json.loads(_parameters(parameters)),
            end=CALL_TAIL,
        )
        for name, parameters in functions
    ]
    return Form(llguidance.StructTag.to_grammar(tags, assume_special=False), False)


CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
CALL_TAIL = f"}}\n{CALL_CLOSE}"


def _call_head(name: str) -> str:
    return f'{CALL_OPEN}\n{{"name": {json.dumps(name)}, "arguments": '


def _parameters(parameters: dict[str, Any] | None) -> str:
    schema = dict(_with_bounded_formats(parameters or {}))
    schema.setdefault("type", "object")
    schema["x-guidance"] = {"whitespace_pattern": WHITESPACE}
    text = json.dumps(schema)
    if len(text) > MAX_SCHEMA_CHARS:
        raise MessageError(f"a tool's parameters have {len(text)} characters; at most {MAX_SCHEMA_CHARS} are compiled")
    return text


def _with_bounded_formats(schema: Any) -> Any:
    """The schema with some formats as patterns, all of whose matches a validator takes."""
    if isinstance(schema, list):
        return [_with_bounded_formats(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    out = {
        key: value if key in ("const", "enum", "default", "examples") else _with_bounded_formats(value)
        for key, value in schema.items()
    }
    if out.get("type") == "string" and "pattern" not in out and out.get("format") in _FORMATS:
        out["pattern"] = _FORMATS[out.pop("format")]
    return out


class Grammars:
    """Compiles forms for one tokenizer. vocab_size: of the model's logits, which may exceed the tokenizer's."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self.tokenizer, self.vocab_size = tokenizer, vocab_size
        self.terminators = [token for token in tokenizer.eos_token_ids if token < vocab_size]
        self._special = frozenset(tokenizer.all_special_ids)
        self._lock = threading.Lock()
        self._compiled: LLTokenizer | None = None
        self.byte_tokens: dict[int, int] = {}

    @property
    def compiled(self) -> LLTokenizer:
        """llguidance's view of the vocabulary, built on first use (a second for 150,000 tokens)."""
        with self._lock:
            if self._compiled is None:
                tokens = [self.tokenizer.token_bytes(i) for i in range(self.vocab_size)]
                for i, token in enumerate(tokens):
                    if len(token) == 1 and i not in self._special:
                        self.byte_tokens.setdefault(token[0], i)
                wrapper = llguidance.TokenizerWrapper(_Vocabulary(self, tokens))
                self._compiled = LLTokenizer(wrapper, n_vocab=self.vocab_size, eos_token=self.terminators)
            return self._compiled

    def prepare(self) -> None:
        """Do now what the first form would have to wait for."""
        assert self.compiled.vocab_size == self.vocab_size

    def encode(self, text: str) -> list[int]:
        """Ids of text as a model would write it: `<tool_call>` is one token, `<|im_end|>` is characters."""
        ids: list[int] = []
        for piece, token in self.tokenizer.split_added(text):
            ids += self.tokenizer.encode_plain(piece) if token is None or token in self._special else [token]
        return ids

    def check(self, form: Form) -> None:
        """Compile a form, or raise MessageError with what is wrong with it."""
        is_error, found = LLMatcher.validate_grammar_with_warnings(form.grammar, self.compiled)
        if is_error:
            raise MessageError(f"the form asked for cannot be compiled: {_one_line(found[0])}")

    def constraint(self, form: Form, *, thinking: bool, max_new_tokens: int) -> GrammarConstraint:
        """Return what the engine asks before each token of one answer. Raises MessageError for a broken form."""
        matcher = LLMatcher(self.compiled, form.grammar, log_level=0)
        if matcher.is_error():
            raise MessageError(f"the form asked for cannot be compiled: {_one_line(matcher.get_error())}")
        return GrammarConstraint(self, matcher, form.is_json, thinking, max_new_tokens)


class _Vocabulary:
    """What llguidance wants to know of a tokenizer."""

    bos_token_id = None

    def __init__(self, grammars: Grammars, tokens: list[bytes]) -> None:
        self._grammars, self.tokens = grammars, tokens
        self.eos_token_id = grammars.terminators[0]
        self.special_token_ids = sorted(i for i in grammars.tokenizer.all_special_ids if i < len(tokens))

    def __call__(self, text: bytes | str) -> list[int]:
        return self._grammars.encode(text.decode() if isinstance(text, bytes) else text)


class GrammarConstraint:
    """Follows one answer. `allowed` before a token, `accept` after it (the engine's `Constraint`)."""

    def __init__(
        self, grammars: Grammars, matcher: LLMatcher, is_json: bool, thinking: bool, max_new_tokens: int
    ) -> None:
        self._grammars, self._matcher, self._is_json = grammars, matcher, is_json
        self._left = max_new_tokens
        self._total = max_new_tokens
        self._json, self._way_out = JsonState(), WayOut(grammars)
        self._next_check = max_new_tokens  # tokens left at which the way to the end is measured again
        self._forced: deque[int] = deque()
        self._is_closing = False
        self._tail = b"" if thinking else None  # the last bytes of the thinking; None once it has ended
        self._ending = grammars.encode(f"{END_OF_THINKING}\n\n") if thinking else []

    def allowed(self) -> Tensor:
        """Return which tokens may come next, bool [V]; none when the grammar's own limits were exceeded."""
        try:
            return self._allowed()
        except Exception:  # of one form; must not end the step of everyone in the batch
            log.exception("a grammar failed; its request ends with an error")
            return torch.zeros(self._grammars.vocab_size, dtype=torch.bool)

    def _allowed(self) -> Tensor:
        if not self._forced:
            must_end = self._must_end()
            if self._tail is not None:
                if not must_end:
                    return self._all_but_terminators()
                self._forced.extend(self._ending)
            elif must_end:
                self._is_closing = True
                self._forced.extend(self._way_out.next_tokens(self._matcher, self._json))
        if self._forced:
            return self._only(self._forced[0])
        if self._matcher.is_error():
            return torch.zeros(self._grammars.vocab_size, dtype=torch.bool)
        return torch.from_numpy(token_mask(self._matcher, self._grammars.vocab_size).view(np.bool_))

    def accept(self, token_id: int) -> None:
        """Take the token that was chosen."""
        self._left -= 1
        if self._forced:
            self._forced.popleft()
        if self._tail is not None:
            self._think(token_id)
        elif token_id not in self._grammars.terminators:
            self._matcher.consume_token(token_id)
            self._json.take(self._grammars.tokenizer.token_bytes(token_id))

    def _think(self, token_id: int) -> None:
        assert self._tail is not None
        self._tail = (self._tail + self._grammars.tokenizer.token_bytes(token_id))[-64:]
        end = self._tail.find(END_OF_THINKING.encode())
        if end < 0:
            return
        written = self._tail[end + len(END_OF_THINKING) :].decode("utf-8", "replace")
        if not self._forced and "\n\n".startswith(written):  # the template's blank line after thinking
            self._forced.extend(self._grammars.encode("\n\n"[len(written) :]))
        if not self._forced or written == "\n\n":
            self._forced.clear()
            self._tail, self._ending = None, []

    def _must_end(self) -> bool:
        """Whether the room left is only what an ending takes, and a reserve for what the next tokens may open.

        An ending is measured seldom: again when half of what was left over has been used.
        """
        if not self._is_json or self._left > self._next_check:
            return False
        if self._is_closing:
            return True
        length = self._way_out.length(self._matcher, self._json, self._left)
        over = self._left - length - len(self._ending) - max(_RESERVE, self._total // 4)
        self._next_check = self._left - max(1, over // 2)
        return over <= 0

    def _only(self, token_id: int) -> Tensor:
        mask = torch.zeros(self._grammars.vocab_size, dtype=torch.bool)
        mask[token_id] = True
        return mask

    def _all_but_terminators(self) -> Tensor:
        mask = torch.ones(self._grammars.vocab_size, dtype=torch.bool)
        mask[self._grammars.terminators] = False
        mask[self._grammars.tokenizer.vocab_size :] = False
        return mask


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:300]
