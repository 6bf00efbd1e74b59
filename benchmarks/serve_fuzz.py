"""Requests made from `/openapi.json` by schemathesis, sent to a running server: nothing may be a 5xx.

    cpmv serve --port 8000 --max-model-len 256 &
    python benchmarks/serve_fuzz.py http://127.0.0.1:8000 --cases 2000

Cases come in three kinds: what the document allows, what it forbids, and what it allows with the sense put in that no
document can state (a user's message first, addresses that hold a picture), so that many reach the engine. Each
response must also have a documented status and shape. The last line is JSON.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
from collections import Counter
from typing import Any

import hypothesis
import PIL.Image
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
SERVER_LIMIT = 4  # tokens of an answer, so that thousands of cases take minutes


def picture() -> str:
    out = io.BytesIO()
    PIL.Image.new("RGB", (60, 40), "orange").save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def make_sense(body: dict[str, Any], uri: str) -> dict[str, Any]:
    """Give a generated request what makes it answerable; everything else stays as it was drawn."""
    messages = [m for m in body.get("messages", []) if isinstance(m, dict)] or [{"role": "user", "content": "?"}]
    for i, message in enumerate(messages):
        message["role"] = ("user", "assistant")[i % 2]
        if message["role"] == "user":
            message.pop("tool_calls", None)
            message.pop("reasoning", None)
            message.pop("reasoning_content", None)
        if message.get("content") is None:
            message["content"] = "What is this?"
        for part in message["content"] if isinstance(message["content"], list) else []:
            if part.get("type") in ("image_url", "video_url"):
                part.update({"type": "image_url", "image_url": {"url": uri}})
                part.pop("video_url", None)
            elif part.get("type") == "file":
                part["file"] = {"file_data": uri}
    if messages[-1]["role"] == "assistant":
        messages.append({"role": "user", "content": "And now?"})
    body |= {"messages": messages[:4] if len(messages) % 2 else messages[-3:], "max_tokens": SERVER_LIMIT}
    body["messages"][0]["role"] = "user"
    for name in ("max_completion_tokens", "response_format", "tool_choice", "mm_processor_kwargs", "stream_options"):
        body.pop(name, None)
    if not body.get("logprobs"):
        body.pop("top_logprobs", None)
    return body


class Run:
    """Counts what came back."""

    def __init__(self) -> None:
        self.statuses: dict[str, Counter[int]] = {}
        self.failures: list[str] = []
        self.cases = 0

    def send(self, case: Any, kind: str) -> None:
        response = case.call(timeout=120)
        self.cases += 1
        name = f"{kind} {case.method} {case.path}"
        self.statuses.setdefault(name, Counter())[response.status_code] += 1
        try:
            case.validate_response(response, checks=CHECKS)
        except (Failure, BaseExceptionGroup) as failure:
            self.failures.append(f"{name}: {response.status_code} {str(failure)[:300]}")


def fuzz(url: str, cases: int, seed: int) -> Run:
    """Send about `cases` requests, spread over operations and kinds."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    posts = [operation for operation in operations if operation.method == "post"]
    run, uri = Run(), picture()
    each = max(1, cases // (3 * len(posts)))
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode is GenerationMode.NEGATIVE and operation.method == "get":
                continue
            count = each if operation.method == "post" else 3
            _drive(
                operation.as_strategy(generation_mode=mode), count, seed, lambda case, m=mode: run.send(case, m.value)
            )
    for operation in posts:
        if operation.path == "/v1/preview":
            continue

        def sensible(case: Any) -> None:
            if isinstance(case.body, dict):
                case.body = make_sense(case.body, uri)
                if case.path == "/tokenize":
                    for name in ("prompt", "max_tokens"):
                        case.body.pop(name, None)
                run.send(case, "sensible")

        _drive(operation.as_strategy(generation_mode=GenerationMode.POSITIVE), each, seed, sensible)
    return run


def _drive(strategy: Any, count: int, seed: int, send: Any) -> None:
    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )  # fmt: skip
    @hypothesis.given(case=strategy)
    def each(case: Any) -> None:
        send(case)

    each()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    run = fuzz(options.url, options.cases, options.seed)
    statuses = {name: {str(k): v for k, v in sorted(found.items())} for name, found in run.statuses.items()}
    errors = sum(count for found in run.statuses.values() for status, count in found.items() if status >= 500)
    report = {"cases": run.cases, "server_errors": errors, "failures": run.failures[:20], "statuses": statuses}
    print(json.dumps(report, indent=1))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
