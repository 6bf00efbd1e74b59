"""Where a batch's inputs come from: a folder of media, JSONL in OpenAI's batch format, or Parquet (`parquet`).

A source lists its inputs in order without decoding anything (`items`), and gives the request of one when its turn
comes (`read`, from any thread or machine that sees the same files). An input's id is a digest of its content and of
the job, so what an earlier run did is recognised, and a changed input is never taken for the old one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..errors import CpmvError
from .bodies import Call, media
from .journal import BatchError

ENDPOINT = "/v1/chat/completions"
_PARQUET_MAGIC = b"PAR1"
_LINE_KEYS = {"custom_id", "method", "url", "body"}


class LineError(CpmvError):
    """An input that is no request at all; `code` names the kind of mistake."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Item:
    """One input. place: where its source finds it again: two numbers, or a path inside the folder (as the system
    spells it, undecodable bytes included). problem: a mistake seen while listing, as (code, message), or None.
    """

    id: str
    custom_id: str
    place: tuple[int, int] | str
    problem: tuple[str, str] | None = None


@dataclass(frozen=True)
class Question:
    """The one prompt for media that bring none. `text` None where every input brings its own."""

    text: str | None = None
    system: str = ""
    pages: str | None = None


class Source(Protocol):
    """A batch's inputs."""

    def items(self) -> list[Item]:
        """List all inputs in the order of the output."""

    def read(self, item: Item) -> Call:
        """Return its request. Raises CpmvError."""


def open_source(path: str, question: Question, job: Mapping[str, Any], exclude: tuple[Path, ...] = ()) -> Source:
    """Tell by content what IN is. exclude: files in a folder that are no inputs. Raises BatchError."""
    found = Path(path).expanduser()
    if found.is_dir():
        if not question.text:
            raise BatchError(f"{path} is a folder, whose files bring no prompt; add -q with what to ask about each")
        return Folder(found, question, job, exclude)
    try:
        with found.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise BatchError(
            f"{path} cannot be read ({error.strerror or error}); give a folder, JSONL or Parquet"
        ) from error
    if magic == _PARQUET_MAGIC:
        from .parquet import ParquetFile

        return ParquetFile(found, question, job)
    if magic.lstrip()[:1] not in (b"{", b"") and found.suffix not in (".jsonl", ".ndjson"):
        raise BatchError(f"{path} is neither a folder nor JSONL nor Parquet; give one of these")
    if question.text or question.pages or question.system:
        raise BatchError(f"{path} is JSONL, whose requests bring their own prompts; leave out -q, --pages and --system")
    return JsonLines(found, job)


def digest(job: Mapping[str, Any], *content: bytes | str) -> str:
    """Name an input of a job by what it holds, as OpenAI names lines of a batch."""
    parts = [json.dumps(job, sort_keys=True).encode(), *(c.encode() if isinstance(c, str) else c for c in content)]
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "little") + part)
    return f"batch_req_{whole.hexdigest()[:32]}"


class Folder:
    """Every file under a folder, in the order of its path; hidden files and folders are none of it."""

    def __init__(self, root: Path, question: Question, job: Mapping[str, Any], exclude: tuple[Path, ...]) -> None:
        self.root, self.question, self._job = root, question, job
        self._exclude = {path.resolve() for path in exclude}

    def items(self) -> list[Item]:
        files = [file.relative_to(self.root) for file in self._walk(self.root)]
        return [self._item(file) for file in sorted(files, key=lambda file: file.parts)]

    def _item(self, file: Path) -> Item:
        name, stat = os.fsencode(file), (self.root / file).stat()
        # A path with its size and time stands for the content; reading a million files twice would cost more.
        id = digest(self._job, name, f"{stat.st_size} {stat.st_mtime_ns}")
        return Item(id, name.decode("utf-8", "backslashreplace"), str(file))

    def read(self, item: Item) -> Call:
        assert isinstance(item.place, str) and self.question.text
        file = media("file", self.root / item.place, pages=self.question.pages)
        return Call({}, self.root, [file, self.question.text], self.question.system)

    def _walk(self, folder: Path) -> Iterator[Path]:
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            raise BatchError(f"the folder {folder} cannot be read ({error.strerror or error})") from error
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith(".") or path.resolve() in self._exclude:
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(path)
            elif entry.is_file():
                yield path


class JsonLines:
    """One request a line: {"custom_id", "method": "POST", "url": "/v1/chat/completions", "body": {...}}."""

    def __init__(self, path: Path, job: Mapping[str, Any]) -> None:
        self.path, self._job = path, job

    def items(self) -> list[Item]:
        items: list[Item] = []
        lines_of: dict[str, int] = {}
        offset = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    items.append(self._item(number, line, offset, lines_of))
                offset += len(line)
        return items

    def _item(self, number: int, line: bytes, offset: int, lines_of: dict[str, int]) -> Item:
        id, place = digest(self._job, str(number), line.strip()), (offset, len(line))
        try:
            custom_id = _parse_line(line)["custom_id"]
        except LineError as error:
            return Item(id, f"line-{number}", place, (error.code, f"line {number} {error}"))
        first = lines_of.setdefault(custom_id, number)
        if first != number:
            message = f"line {number} repeats the custom_id {custom_id!r} of line {first}; each must be its own"
            return Item(id, f"{custom_id}#line-{number}", place, ("duplicate_custom_id", message))
        return Item(id, custom_id, place)

    def read(self, item: Item) -> Call:
        assert not isinstance(item.place, str)
        offset, length = item.place
        with self.path.open("rb") as file:
            file.seek(offset)
            line = _parse_line(file.read(length))
        check_envelope(line)
        return Call(read_object(line.get("body")), self.path.parent)


def _parse_line(line: bytes) -> dict[str, Any]:
    """Return a line's object with a custom_id. Raises LineError, in words that follow "line 7"."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise LineError("invalid_json_line", f"is no JSON ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(value, dict):
        raise LineError("invalid_json_line", "is no JSON object")
    custom_id = value.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id or not _encodes(custom_id):
        raise LineError("missing_custom_id", "has no custom_id, a string of its own")
    return value


def check_envelope(line: Mapping[str, Any]) -> None:
    """Refuse what is around a body unless it asks for a chat completion."""
    unknown = [name for name in line if name not in _LINE_KEYS]
    if unknown:
        allowed = ", ".join(sorted(_LINE_KEYS))
        raise LineError("invalid_request", f"the line has the unknown field {unknown[0]!r}; allowed are {allowed}")
    if line.get("method", "POST") != "POST":
        raise LineError("invalid_method", f"the line has method {line['method']!r}; only POST is allowed")
    if line.get("url", ENDPOINT) != ENDPOINT:
        raise LineError("invalid_url", f"the line has url {line['url']!r}; only {ENDPOINT} is answered")


def read_object(body: Any) -> dict[str, Any]:
    """Return a request's body, an object or its JSON text."""
    if isinstance(body, (str, bytes)):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise LineError("invalid_request", f"the body is no JSON ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(body, dict):
        raise LineError("invalid_request", "there is no body; give a JSON object with messages")
    return body


def _encodes(text: str) -> bool:
    """Whether a text is whole Unicode: half a surrogate pair could never be written out again."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
