"""Forms of answers, walked at random: whatever a model might choose, the end is valid."""

from __future__ import annotations

import json
import random
import re

import jsonschema_rs
import pytest

from cpmv.errors import MessageError
from cpmv.inputs.text import Tokenizer
from cpmv.serve.structured import (
    Form,
    GrammarConstraint,
    Grammars,
    choice,
    free_tool_calls,
    grammar,
    json_object,
    json_schema,
    regex,
    tool_calls,
)
from cpmv.weights.hub import BUNDLED

VOCAB = 4096
HARD = [
    {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "array", "items": {"type": "string",
     "minLength": 2}, "minItems": 3}}, "required": ["a", "b"], "additionalProperties": False},
    {"$defs": {"n": {"type": "object", "properties": {"v": {"type": "integer", "minimum": 7, "maximum": 1234},
     "k": {"type": "array", "items": {"$ref": "#/$defs/n"}}}, "required": ["v", "k"], "additionalProperties": False}},
     "$ref": "#/$defs/n"},
    {"type": "object", "properties": {"d": {"type": "string", "format": "date-time"}, "e": {"type": "string", "format":
     "email"}, "p": {"type": "string", "pattern": "^[A-Z]{3}-\\d{4}$"}, "k": {"enum": ['a"b', "}{", None, 3]}},
     "required": ["d", "e", "p", "k"], "additionalProperties": False},
    {"type": "object"},
    {"type": "object", "properties": {"long": {"type": "string", "minLength": 60}, "u": {"type": "string", "format":
     "uuid"}}, "required": ["long", "u"], "additionalProperties": False},
]  # fmt: skip


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(Tokenizer.from_folder(BUNDLED), VOCAB)


def walk(constraint: GrammarConstraint, grammars: Grammars, most: int, rng: random.Random) -> tuple[str, bool]:
    """Choose at random among what is allowed; return the text and whether it ended by itself."""
    ids: list[int] = []
    while len(ids) < most:
        allowed = constraint.allowed()
        assert tuple(allowed.shape) == (VOCAB,)
        candidates = allowed.nonzero()[:, 0].tolist()
        assert candidates
        ids.append(rng.choice(candidates))
        if ids[-1] in grammars.terminators:
            return grammars.tokenizer.decode(ids[:-1]), True
        constraint.accept(ids[-1])
    return grammars.tokenizer.decode(ids), False


@pytest.mark.parametrize("schema", HARD)
@pytest.mark.parametrize("thinking", [False, True])
def test_json_ends_valid_within_its_tokens(grammars: Grammars, schema: dict, thinking: bool) -> None:
    rng = random.Random(5)
    for most in (200, 320):
        for _ in range(3):
            constraint = grammars.constraint(json_schema(schema), thinking=thinking, max_new_tokens=most)
            text, ended = walk(constraint, grammars, most, rng)
            assert ended
            if thinking:
                text = text.split("</think>\n\n", 1)[1]
            jsonschema_rs.validate(schema, json.loads(text))


def test_thinking_ends_where_the_model_ends_it(grammars: Grammars) -> None:
    constraint = grammars.constraint(choice(["yes", "no"]), thinking=True, max_new_tokens=100)
    for token in grammars.encode("hm"):
        assert constraint.allowed()[token]
        constraint.accept(token)
    assert not constraint.allowed()[grammars.terminators].any()
    (end,) = grammars.encode("</think>")
    constraint.accept(end)
    text, ended = walk(constraint, grammars, 50, random.Random(0))
    assert ended and text in ("\n\nyes", "\n\nno")


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        (regex("[a-c]{3}-(x|y)"), r"[a-c]{3}-[xy]"),
        (choice(["red", 'say "hi"', "红色"]), r'red|say "hi"|红色'),
        (grammar('root ::= "a" | "b" root'), r"b*a"),
        (grammar('start: "a" /[0-9]{2}/'), r"a\d\d"),
    ],
)
def test_other_forms_are_followed(grammars: Grammars, form: Form, pattern: str) -> None:
    rng = random.Random(1)
    for _ in range(5):
        text, ended = walk(grammars.constraint(form, thinking=False, max_new_tokens=400), grammars, 400, rng)
        assert ended and re.fullmatch(pattern, text)


PARAMETERS = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"],
              "additionalProperties": False}  # fmt: skip
CALL = re.compile(r'<tool_call>\n\{"name": "(f|g)", "arguments": (.*?)\}\n</tool_call>', re.S)


def test_forced_calls_have_their_functions_arguments(grammars: Grammars) -> None:
    form = tool_calls([("f", PARAMETERS), ("g", None)], several=True)
    rng = random.Random(2)
    for _ in range(6):
        text, ended = walk(grammars.constraint(form, thinking=False, max_new_tokens=300), grammars, 300, rng)
        assert ended
        calls = CALL.findall(text)
        assert calls and CALL.sub("", text).strip() == ""
        for name, arguments in calls:
            value = json.loads(arguments)
            assert set(value) == {"x"} if name == "f" else isinstance(value, dict)


def test_free_text_may_hold_only_valid_calls(grammars: Grammars) -> None:
    form = free_tool_calls([("f", PARAMETERS)])
    constraint = grammars.constraint(form, thinking=False, max_new_tokens=300)
    for token in grammars.encode('Let me see. <tool_call>\n{"name": "f", "arguments": {"x": '):
        assert constraint.allowed()[token]
        constraint.accept(token)
    allowed = constraint.allowed()
    assert allowed[grammars.encode("1")].all() and not allowed[grammars.encode('"')].any()


@pytest.mark.parametrize(
    "make",
    [
        lambda: json_schema({"type": "objec"}),
        lambda: json_schema({"not": {"type": "string"}}),
        lambda: json_schema({"$ref": "https://example.com/schema.json"}),
        lambda: json_schema({"type": "string", "minLength": 5, "maxLength": 2}),
        lambda: regex("(a"),
        lambda: grammar("start: missing"),
        lambda: grammar("root ::= missing"),
    ],
)
def test_broken_forms_are_refused_in_one_line(grammars: Grammars, make) -> None:
    with pytest.raises(MessageError) as refusal:
        grammars.constraint(make(), thinking=False, max_new_tokens=10)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 500


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "minLength": 50_000},
        {"type": "array", "items": {"type": "integer"}, "minItems": 100_000},
        {"type": "string", "pattern": "^([a-z]{3}[0-9]{2}){200}$"},
    ],
)
def test_forms_that_cannot_end_in_time_are_cut_off(grammars: Grammars, schema: dict) -> None:
    constraint = grammars.constraint(json_schema(schema), thinking=False, max_new_tokens=120)
    assert walk(constraint, grammars, 120, random.Random(4))[1] is False


def test_a_schema_is_bounded_in_size() -> None:
    with pytest.raises(MessageError, match="at most"):
        json_schema({"enum": ["x" * 300_000]})


def test_any_object_is_an_object(grammars: Grammars) -> None:
    text, ended = walk(
        grammars.constraint(json_object(), thinking=False, max_new_tokens=150), grammars, 150, random.Random(3)
    )
    assert ended and isinstance(json.loads(text), dict)
