"""The journal of a batch: an append-only file beside OUT that makes a killed job go on where it was.

Its first line says which job it belongs to; every later line is one result, in the order of completion. Lines are
written whole and synced before they count. A line that a crash cut off is removed when the journal is opened again, so
its input is done again and no other. A lock keeps two processes off one journal; the system drops it with the process.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import CpmvError

log = logging.getLogger("cpmv")

VERSION = 1
_SCAN_BYTES = 1 << 20


class BatchError(CpmvError):
    """A batch that cannot be begun or gone on with: its input, its output, or its journal."""


class Journal:
    """The results so far. `append` keeps more, `read` gives one back, `remove` ends the journal's life.

    path: of the file. job: what shapes the answers, as JSON; a journal begun for another job is refused, with the
    difference named. Raises BatchError for that, for a journal in use, and when the file cannot be written.
    """

    def __init__(self, path: Path, job: Mapping[str, Any]) -> None:
        self.path = path
        self._places: dict[str, tuple[int, int]] = {}  # id: offset and length of its last line
        self._failed: set[str] = set()
        self._file = _open_locked(path)
        try:
            self._length = self._load(dict(job))
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __contains__(self, id: str) -> bool:
        return id in self._places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def ids(self) -> Iterable[str]:
        return self._places.keys()

    def is_final(self, id: str) -> bool:
        """Whether an input needs no more work: it has a result that is not a failure of ours (status 500 and up)."""
        return id in self._places and id not in self._failed

    def append(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Write results, each with an `id`, and return when they are on the disk. A later one of an id replaces it."""
        lines = [json.dumps(result, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" for result in results]
        self._write(b"".join(lines))
        offset = self._length
        for result, line in zip(results, lines, strict=True):
            self._note(result, offset, len(line))
            offset += len(line)
        self._length = offset

    def read(self, id: str) -> dict[str, Any]:
        """Return the result of an id that is in the journal."""
        offset, length = self._places[id]
        result: dict[str, Any] = json.loads(os.pread(self._file, length, offset))
        return result

    def remove(self) -> None:
        """Delete the journal once its results stand elsewhere, and let go of it."""
        self.path.unlink(missing_ok=True)
        sync_folder(self.path.parent)
        self.close()

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _load(self, job: dict[str, Any]) -> int:
        """Read what an earlier run left, cut off what it did not finish; return the length of what is whole."""
        end = 0
        with open(self.path, "rb", buffering=_SCAN_BYTES) as file:
            for line in file:
                result = _whole(line)
                if end == 0:
                    if result is None:
                        _check_ours(line, self.path)
                        break
                    self._check(result, job)
                elif result is None or not isinstance(result.get("id"), str):
                    break
                else:
                    self._note(result, end, len(line))
                end += len(line)
        self._cut(end)
        if end > 0:
            return end
        self._length = 0
        header = json.dumps({"cpmv_batch": VERSION, "job": job}, ensure_ascii=False, separators=(",", ":")).encode()
        self._write(header + b"\n")
        sync_folder(self.path.parent)
        return len(header) + 1

    def _cut(self, end: int) -> None:
        size = os.fstat(self._file).st_size
        if size == end:
            return
        if b"\n" in os.pread(self._file, size - end, end)[:-1]:  # more than the tail of a last write
            log.warning("%s is damaged %d bytes before its end; what follows is done again", self.path, size - end)
        os.ftruncate(self._file, end)
        os.fsync(self._file)

    def _check(self, header: Mapping[str, Any], job: Mapping[str, Any]) -> None:
        begun = header.get("job")
        if header.get("cpmv_batch") != VERSION or not isinstance(begun, dict):
            raise BatchError(
                f"{self.path} is no journal of this version of cpmv batch; move it away or name another OUT"
            )
        for name in sorted({*begun, *job}):
            if begun.get(name) != job.get(name):
                raise BatchError(
                    f"{self.path} was begun with {name} = {json.dumps(begun.get(name))}, now it is "
                    f"{json.dumps(job.get(name))}; give the same options to go on, or --overwrite to begin anew"
                )

    def _note(self, result: Mapping[str, Any], offset: int, length: int) -> None:
        id = result["id"]
        self._places[id] = (offset, length)
        response = result.get("response")
        if isinstance(response, Mapping) and response.get("status_code", 0) >= 500:
            self._failed.add(id)
        else:
            self._failed.discard(id)

    def _write(self, data: bytes) -> None:
        """Append whole or not at all: what a full disk took of it is cut off again."""
        view, at = memoryview(data), self._length
        try:
            while view:
                written = os.pwrite(self._file, view, at)
                view, at = view[written:], at + written
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, self._length)
            raise BatchError(
                f"{self.path} cannot be written ({error.strerror or error}); make room and run the same command again"
            ) from error


def _whole(line: bytes) -> dict[str, Any] | None:
    """Parse a line; None when it was cut off or never reached the disk."""
    if not line.endswith(b"\n"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _check_ours(line: bytes, path: Path) -> None:
    """Refuse to begin a journal over a file whose first line no cut-off header can be."""
    start = f'{{"cpmv_batch":{VERSION},"job":'.encode()
    written = line.rstrip(b"\0")
    if line.endswith(b"\n") or not (start.startswith(written) or written.startswith(start)):
        raise BatchError(f"{path} exists and is no journal of cpmv batch; move it away or name another OUT")


def _open_locked(path: Path) -> int:
    """Open or create a file that no other process holds open this way; the lock lives as long as the descriptor."""
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise BatchError(f"{path} cannot be opened ({error.strerror or error}); name another OUT") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            raise BatchError(f"{path} is in use by another cpmv batch; wait for it, or name another OUT") from None
        try:  # a run that ended meanwhile may have removed the file that was opened
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file
        except FileNotFoundError:
            pass
        os.close(file)


def sync_folder(folder: Path) -> None:
    """Make a created, renamed or removed name in a folder last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
