"""Parquet in and out (`pip install 'cpmv[parquet]'`): rows as requests, results as rows.

A row is a request when the table has a `body` column (OpenAI's JSON, or a struct), else one question about its media:
columns image, images, video, videos, pdf, pdfs, file, files hold a path, a data URI, the bytes, a {"bytes", "path"}
struct, or a list of these; `question` or `prompt` holds the question where -q gives none. Ids stand in `custom_id` or
`id`. Other columns are not read.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..serve.prompts import Media
from .bodies import Call, local_source, media
from .journal import BatchError
from .sources import Item, LineError, Question, check_envelope, digest, read_object

if TYPE_CHECKING:
    import pyarrow as pa

MEDIA = ("image", "images", "video", "videos", "pdf", "pdfs", "file", "files")
QUESTIONS = ("question", "prompt")
IDS = ("custom_id", "id")
_ROWS_A_GROUP = 1000


def import_arrow() -> Any:
    """Return pyarrow with its Parquet part. Raises BatchError when it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise BatchError("Parquet needs pyarrow; run pip install 'cpmv[parquet]', or use JSONL") from None
    return pyarrow


class ParquetFile:
    """The rows of one Parquet file, in order. One row group is held in memory at a time."""

    def __init__(self, path: Path, question: Question, job: Mapping[str, Any]) -> None:
        self.path, self.question, self._job = path, question, job
        self._lock = threading.Lock()
        self._file: Any = None
        self._group: tuple[int, Any] | None = None
        names = self._open().schema_arrow.names
        self._id = next((name for name in IDS if name in names), None)
        self._prompt = next((name for name in QUESTIONS if name in names), None)
        self._media = [name for name in names if name in MEDIA]
        self._has_body = "body" in names
        if self._has_body and (question.text or question.pages or question.system):
            raise BatchError(f"{path} has a body column whose requests are whole; leave out -q, --pages and --system")
        if not self._has_body:
            self._check_question(names)
        envelope = ("method", "url", "body") if self._has_body else (self._prompt, *self._media)
        self._columns = [name for name in names if name in envelope]

    def _check_question(self, names: list[str]) -> None:
        if question_columns := [name for name in QUESTIONS if name in names]:
            if self.question.text:
                raise BatchError(
                    f"{self.path} has a {question_columns[0]!r} column and -q was given; drop one of the two"
                )
        elif not self.question.text:
            raise BatchError(
                f"{self.path} has neither a body nor a question column (there are {', '.join(names[:12])}); add -q"
            )
        if self.question.pages and not {"pdf", "pdfs", "file", "files"} & set(self._media):
            raise BatchError(f"--pages was given, but {self.path} has no column of PDFs")

    def _open(self) -> Any:
        if self._file is None:
            arrow = import_arrow()
            try:
                self._file = arrow.parquet.ParquetFile(self.path)
            except (arrow.ArrowException, OSError) as error:
                raise BatchError(f"{self.path} is no Parquet file that can be read ({_line(error)})") from None
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        """A copy on another machine opens the file there."""
        return {**self.__dict__, "_lock": None, "_file": None, "_group": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def items(self) -> list[Item]:
        file = self._open()
        with self.path.open("rb") as raw:  # the footer holds the schema, sizes, offsets and ranges of every column
            size = raw.seek(0, 2)
            raw.seek(max(0, size - (1 << 20)))
            content = digest(self._job, str(size), raw.read())
        items: list[Item] = []
        rows_of: dict[str, int] = {}
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            ids = file.read_row_group(group, [self._id]).column(0).to_pylist() if self._id else [None] * count
            for row, given in enumerate(ids):
                items.append(_item(content, len(items), given, (group, row), rows_of))
        return items

    def read(self, item: Item) -> Call:
        assert not isinstance(item.place, str)
        group, row = item.place
        with self._lock:
            if self._group is None or self._group[0] != group:
                self._group = (group, self._open().read_row_group(group, self._columns))
            values = self._group[1].slice(row, 1).to_pylist()[0]
        folder = self.path.parent
        if self._has_body:
            check_envelope({name: value for name, value in values.items() if value is not None})
            return Call(read_object(_without_nulls(values["body"])), folder)
        found = [one for name in self._media for one in _media(values[name], name, folder, self.question.pages)]
        text = self.question.text or values.get(self._prompt or "")
        if not isinstance(text, str) or not text.strip():
            raise LineError("invalid_request", f"the row has no {self._prompt}; write what to ask")
        return Call({}, folder, [*found, text], self.question.system)


def _item(content: str, index: int, given: Any, place: tuple[int, int], rows_of: dict[str, int]) -> Item:
    row = index + 1
    id = digest({}, content, str(index))
    if given is None:
        return Item(id, f"row-{row}", place)
    custom_id = str(given)
    first = rows_of.setdefault(custom_id, row)
    if first == row:
        return Item(id, custom_id, place)
    message = f"row {row} repeats the id {custom_id!r} of row {first}; each must be its own"
    return Item(id, f"{custom_id}#row-{row}", place, ("duplicate_custom_id", message))


def _media(value: Any, column: str, folder: Path, pages: str | None) -> Iterator[Media]:
    """The media in one cell: pictures or videos by the column's name, else told apart by content."""
    if value is None:
        return
    if isinstance(value, list):
        for one in value:
            yield from _media(one, column, folder, pages)
        return
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
        value = local_source(value, folder)
    if not isinstance(value, (bytes, Path)):
        raise LineError("invalid_request", f"the column {column!r} holds no path, data URI or bytes")
    kind = column.removesuffix("s")
    if kind in ("image", "video"):
        yield media(kind, value)
    else:
        yield media("file", value, pages=pages)


def _without_nulls(value: Any) -> Any:
    """A struct column has every field in every row; what a row did not say is null there."""
    if isinstance(value, Mapping):
        return {name: _without_nulls(one) for name, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


def write_parquet(path: Path, results: Iterator[dict[str, Any]]) -> None:
    """Write results as rows: OpenAI's fields, with the body as JSON text, and the answer's text beside it."""
    pa = import_arrow()
    schema = _schema(pa)
    with pa.parquet.ParquetWriter(path, schema) as writer:
        rows: list[dict[str, Any]] = []
        for result in results:
            rows.append(_row(result))
            if len(rows) == _ROWS_A_GROUP:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                rows = []
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def read_results(path: Path) -> list[dict[str, Any]] | None:
    """Return id, custom_id and error of every row of a written output, or None when it is none."""
    pa = import_arrow()
    names = ["id", "custom_id", "error"]
    try:
        file = pa.parquet.ParquetFile(path)
        if not set(names) <= set(file.schema_arrow.names):
            return None
        return [dict(row) for row in file.read(names).to_pylist()]
    except (pa.ArrowException, OSError):
        return None


def _schema(pa: Any) -> pa.Schema:
    response = pa.struct([("status_code", pa.int32()), ("request_id", pa.string()), ("body", pa.string())])
    error = pa.struct([("code", pa.string()), ("message", pa.string())])
    return pa.schema(
        [
            ("id", pa.string()),
            ("custom_id", pa.string()),
            ("content", pa.string()),
            ("response", response),
            ("error", error),
        ]
    )


def _row(result: Mapping[str, Any]) -> dict[str, Any]:
    response, content = result["response"], None
    if response is not None:
        body = response["body"]
        if "choices" in body:
            content = body["choices"][0]["message"]["content"]
        response = {**response, "body": json.dumps(body, ensure_ascii=False)}
    return {**result, "content": content, "response": response}


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
