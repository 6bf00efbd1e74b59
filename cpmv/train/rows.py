"""Files as rows: JSON lists, JSON lines and parquet, each row with the line it begins in.

A row that cannot be read is a `Problem` with its line and reason, never an exception, so that one torn line does not
hide the rest of the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import CpmvError
from .records import Problem

Row = tuple[int, Any]  # line (from 1) and the value
_BATCH_ROWS = 256


def kind_of(path: Path) -> str:
    """Tell by content: "parquet", "list" (a JSON list), "object" (one JSON object) or "lines" (one value a line)."""
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16)
    except OSError as error:
        raise CpmvError(f"{path} cannot be read ({error.strerror or error}); check the path") from error
    if head.startswith(b"PAR1"):
        return "parquet"
    text = head.decode("utf-8-sig", "replace").lstrip()
    if not text:
        raise CpmvError(f"{path} is empty; give a file with samples")
    if text.startswith("["):
        return "list"
    first = text.partition("\n")[0].strip()
    if text.startswith("{"):
        try:
            json.loads(first)
        except ValueError:
            # Either an object over several lines, or lines of which the first is torn or longer than the head.
            return "object" if first in ("{", "") or first.endswith(("{", "[", ",")) else "lines"
        return "lines"
    raise CpmvError(f"{path} holds neither JSON nor parquet; give a JSON list, JSON lines or a parquet file")


def read_rows(path: Path) -> Iterator[Row | Problem]:
    """Yield every row of a file with its line, or the problem that stands there."""
    kind = kind_of(path)
    if kind == "parquet":
        yield from _parquet(path)
    elif kind == "lines":
        yield from _lines(path)
    else:
        yield from _items(path, _text(path))


def read_object(path: Path) -> Any:
    """Read a whole file as one JSON value. Raises CpmvError."""
    try:
        return json.loads(_text(path))
    except ValueError as error:
        raise CpmvError(f"{path} is not JSON ({error}); correct it") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CpmvError(f"{path} cannot be read as UTF-8 text ({error}); save it as UTF-8") from error


def _lines(path: Path) -> Iterator[Row | Problem]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.strip():
                continue
            try:
                yield number, json.loads(raw.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                yield Problem(path, number, f"the line is not JSON ({_one_line(error)})")


def _items(path: Path, text: str) -> Iterator[Row | Problem]:
    """Items of a JSON list one by one, so that each has its line and a torn end costs only itself."""
    decoder = json.JSONDecoder()
    place, line = _skip(text, 0), 1
    line += text.count("\n", 0, place)
    if not text.startswith("[", place):
        yield Problem(path, line, "the file is one JSON object, not a list of samples")
        return
    place += 1
    while True:
        start = _skip(text, place)
        line += text.count("\n", place, start)
        if text.startswith("]", start):
            return
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            broken = getattr(error, "lineno", line)
            yield Problem(
                path, line, f"not JSON from here, line {broken} ({_one_line(error)}); what follows is not read"
            )
            return
        yield line, value
        line += text.count("\n", start, end)
        place = _skip(text, end)
        line += text.count("\n", end, place)
        if text.startswith(",", place):
            place += 1
        elif not text.startswith("]", place):
            yield Problem(path, line, "a comma is missing between two samples; what follows is not read")
            return


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place


def _parquet(path: Path) -> Iterator[Row | Problem]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise CpmvError("a parquet file needs pyarrow; install it with: pip install 'cpmv[parquet]'") from None
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        yield Problem(path, number + 1, f"the parquet file cannot be read from this row on ({_one_line(error)})")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
