"""One tensor as a file holds it, and files mapped into memory.

Everything that reads a checkpoint deals in `Stored`: name, dtype, shape and size are known from a checked header;
`read()` touches the data. On the CPU a tensor that is read stays a view of the mapped file, so the system may drop
its pages and read them again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError

_READ_BYTES = 8 << 20


@dataclass(frozen=True)
class Stored:
    """A tensor in a file. `nbytes` counts what the file holds; `dtype` and `shape` are those of `read()`."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    nbytes: int
    file: str
    offset: int
    read: Callable[[], Tensor]

    @property
    def place(self) -> tuple[str, int]:
        return self.file, self.offset


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a checkpoint: with a tensor, or with a whole file when `tensor` is None."""

    tensor: str | None
    file: str | None
    text: str

    def __str__(self) -> str:
        where = " in ".join(part for part in (self.tensor, self.file) if part)
        return f"{where}: {self.text}" if where else self.text


class MappedFile:
    """A file seen as bytes, mapped on first use. Raises CheckpointError when it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb"):
                self.size = path.stat().st_size
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error.strerror or error})") from error

    @cached_property
    def data(self) -> Tensor:
        """The whole file, uint8 [size]. Private mapping: nothing written to it reaches the file."""
        try:
            return torch.from_file(str(self.path), shared=False, size=self.size, dtype=torch.uint8)
        except RuntimeError as error:
            raise CheckpointError(f"{self.path} cannot be mapped into memory ({error})") from error

    def head(self, num_bytes: int) -> bytes:
        """Return the first bytes without mapping the file."""
        with self.path.open("rb") as file:
            return file.read(num_bytes)

    def tensor(self, offset: int, nbytes: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """View part of the file as a tensor; only a misaligned part is copied."""
        if nbytes == 0:
            return torch.empty(shape, dtype=dtype)
        part = self.data[offset : offset + nbytes]
        if offset % dtype.itemsize:
            part = part.clone()
        return part.view(dtype).view(shape)


class ReadAhead:
    """Reads files in order on a thread of its own while the block runs, so that mapped pages are found in memory.

    Page faults alone read a cold disk far below its rate.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = sorted(files, key=lambda path: path.name)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> ReadAhead:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _read(self) -> None:
        buffer = bytearray(_READ_BYTES)
        for path in self._files:
            with path.open("rb", buffering=0) as file:
                while not self._stop.is_set() and file.readinto(buffer):
                    pass
