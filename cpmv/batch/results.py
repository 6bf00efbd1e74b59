"""A batch's results: one line an input, in OpenAI's batch output format, and the file they end in.

{"id", "custom_id", "response": {"status_code", "request_id", "body"}, "error"}: an answer has status 200 and no error;
a mistake of the input has status 400 and names it in `error`, and in the body as the server would; what was no request
at all has no response. OUT is written at the end, whole, in the order of the inputs, through a temporary name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .journal import BatchError, Journal, sync_folder
from .sources import Item

SUFFIXES = (".jsonl", ".parquet")


def answered(item: Item, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the line of an answered input."""
    return {"id": item.id, "custom_id": item.custom_id, "response": _response(item, 200, body), "error": None}


def refused(item: Item, code: str, message: str, status: int | None = 400, param: str | None = None) -> dict[str, Any]:
    """Return the line of an input that got no answer. status: None where there was no request, 500 for our failure."""
    message = " ".join(message.split())
    error = {"code": code, "message": message}
    if status is None:
        return {"id": item.id, "custom_id": item.custom_id, "response": None, "error": error}
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return {"id": item.id, "custom_id": item.custom_id, "response": _response(item, status, body), "error": error}


def _response(item: Item, status: int, body: Mapping[str, Any]) -> dict[str, Any]:
    return {"status_code": status, "request_id": item.id.removeprefix("batch_"), "body": body}


def check_out(out: Path) -> None:
    """Refuse a name that no output can be written under. Raises BatchError."""
    if out.suffix not in SUFFIXES:
        raise BatchError(f"OUT is {out.name}; end its name in {' or '.join(SUFFIXES)}")
    if not out.parent.is_dir():
        raise BatchError(f"the folder {out.parent} does not exist; make it, or name another OUT")
    if out.suffix == ".parquet":
        from .parquet import import_arrow

        import_arrow()  # a missing library is told before the work, not after it
    if out.is_dir():
        raise BatchError(f"OUT is {out}, a folder; name a file")


def read_output(out: Path) -> list[dict[str, Any]] | None:
    """Return what OUT's results say of themselves (id, custom_id, error), or None when it is no such file."""
    if out.suffix == ".parquet":
        from .parquet import read_results

        return read_results(out)
    found = []
    try:
        with out.open("rb") as file:
            for line in file:
                result = json.loads(line)
                found.append({name: result[name] for name in ("id", "custom_id", "error")})
    except (ValueError, KeyError, TypeError):
        return None
    return found


def write_output(out: Path, items: Sequence[Item], journal: Journal) -> None:
    """Write every item's result to OUT, in order; OUT appears whole or not at all. Raises BatchError."""
    results = (journal.read(item.id) for item in items)
    unfinished = out.with_name(f"{out.name}.tmp")
    try:
        if out.suffix == ".parquet":
            from .parquet import write_parquet

            write_parquet(unfinished, results)
        else:
            _write_lines(unfinished, results)
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, out)
        sync_folder(out.parent)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise BatchError(f"{out} cannot be written ({error.strerror or error}); make room and run again") from error


def _write_lines(path: Path, results: Iterator[dict[str, Any]]) -> None:
    with path.open("wb") as file:
        for result in results:
            file.write(json.dumps(result, ensure_ascii=False).encode() + b"\n")
