"""JSON by schema over HTTP, with the bundled model at temperature 1: how many of N tries are valid?

    cpmv serve --port 8000 &
    python benchmarks/serve_structured.py http://127.0.0.1:8000 --tries 200

The bundled model has never seen JSON, so nothing but the constraint makes an answer valid; every try is cut to few
tokens, so the ending has to be found as well. Twenty schemas in turn, half of the tries after thinking. The last line
is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema_rs


def thing(**properties: Any) -> dict[str, Any]:
    """An object with just these properties, all required."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


TEXT, WHOLE = {"type": "string"}, {"type": "integer", "minimum": -99, "maximum": 99}
NODE = {
    "$defs": {"node": thing(v=WHOLE, kids={"type": "array", "items": {"$ref": "#/$defs/node"}})},
    "$ref": "#/$defs/node",
}
SCHEMAS: list[dict[str, Any]] = [
    thing(name=TEXT, age={"type": "integer", "minimum": 18, "maximum": 99}),
    thing(tags={"type": "array", "items": {"type": "string", "minLength": 2}, "minItems": 3}),
    NODE,
    thing(date={"type": "string", "format": "date"}, time={"type": "string", "format": "time"}),
    thing(when={"type": "string", "format": "date-time"}, mail={"type": "string", "format": "email"}),
    thing(id={"type": "string", "format": "uuid"}, host={"type": "string", "format": "ipv4"}),
    thing(code={"type": "string", "pattern": "^[A-Z]{3}-\\d{4}(-[a-f0-9]{2})*$"}),
    thing(kind={"enum": ['a"b', "}{", None, 3, True, [1, "]"]]}),
    {"type": "array", "items": {"anyOf": [TEXT, WHOLE, {"type": "null"}]}, "minItems": 2, "maxItems": 6},
    {"type": "array", "prefixItems": [TEXT, WHOLE, {"type": "boolean"}], "items": False, "minItems": 3},
    thing(a=thing(b=thing(c=thing(d=thing(e=thing(f={"const": "deep"})))))),
    {"anyOf": [thing(kind={"const": "cat"}, lives=WHOLE), thing(kind={"const": "dog"}, tricks={"type": "array"})]},
    {"type": "object", "additionalProperties": WHOLE, "minProperties": 1},
    {"type": "object", "patternProperties": {"^x-[a-z]+$": TEXT}, "additionalProperties": False},
    thing(price={"type": "number", "exclusiveMinimum": 0, "maximum": 1000}),
    thing(text={"type": "string", "minLength": 20, "maxLength": 40}),
    thing(**{f"field_{i}": {"type": "boolean"} for i in range(12)}),
    thing(**{"ключ": TEXT, "名字": TEXT, 'quo"te': WHOLE, "back\\slash": WHOLE}),
    thing(rows={"type": "array", "items": {"type": "array", "items": WHOLE, "minItems": 2, "maxItems": 2}}),
    {"type": "object"},
]


def ask(url: str, schema: dict[str, Any], seed: int, thinking: bool, tokens: int) -> dict[str, Any]:
    body = {
        "messages": [{"role": "user", "content": "Describe it as JSON."}],
        "temperature": 1,
        "seed": seed,
        "max_tokens": tokens,
        "chat_template_kwargs": {"enable_thinking": thinking},
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
    }
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as response:
        return json.load(response)["choices"][0]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--tries", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--parallel", type=int, default=8)
    options = parser.parse_args()
    valid, ended, wrong, start = 0, 0, [], time.monotonic()

    def one(i: int) -> dict[str, Any]:
        return ask(options.url, SCHEMAS[i % len(SCHEMAS)], i, bool(i // len(SCHEMAS) % 2), options.tokens)

    with ThreadPoolExecutor(options.parallel) as pool:
        choices = list(pool.map(one, range(options.tries)))
    for i, choice in enumerate(choices):
        schema = SCHEMAS[i % len(SCHEMAS)]
        ended += choice["finish_reason"] == "stop"
        try:
            jsonschema_rs.validate(schema, json.loads(choice["message"]["content"]), validate_formats=True)
            valid += 1
        except (ValueError, jsonschema_rs.ValidationError) as error:
            wrong.append({"schema": i % len(SCHEMAS), "error": str(error)[:200], "text": choice["message"]["content"]})
    report = {
        "tries": options.tries,
        "schemas": len(SCHEMAS),
        "tokens": options.tokens,
        "valid": valid,
        "ended_by_themselves": ended,
        "seconds": round(time.monotonic() - start, 1),
        "wrong": wrong[:5],
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
