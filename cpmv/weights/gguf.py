"""GGUF files, versions 2 and 3: metadata and the tensor list, every count and offset checked before it is trusted.

Layout, little-endian: magic, version, tensor count, metadata count; key/value pairs; tensor descriptions; padding;
data. Dimensions are stored fastest first, so [in, out] there is [out, in] here. Tensor bytes stay in the mapped file;
`gguf_blocks` turns them into numbers.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import CheckpointError
from .stored import MappedFile, Stored

MAGIC = b"GGUF"
MAX_ITEMS = 1 << 16  # metadata pairs, tensors; the released files have below 1000 of either
MAX_KEY_BYTES = 1 << 16
MAX_TEXT_BYTES = 1 << 24
MAX_ARRAY = 1 << 22  # the released vocabulary has 151748 entries, and as many merges
MAX_ARRAY_DEPTH = 4

_SCALARS: dict[int, str] = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class TensorType:
    """How a type packs numbers: `elements` of them in `nbytes`."""

    name: str
    elements: int
    nbytes: int
    dtype: torch.dtype | None = None  # of the types torch has itself


TYPES: dict[int, TensorType] = {
    0: TensorType("F32", 1, 4, torch.float32),
    1: TensorType("F16", 1, 2, torch.float16),
    2: TensorType("Q4_0", 32, 18),
    3: TensorType("Q4_1", 32, 20),
    6: TensorType("Q5_0", 32, 22),
    7: TensorType("Q5_1", 32, 24),
    8: TensorType("Q8_0", 32, 34),
    10: TensorType("Q2_K", 256, 84),
    11: TensorType("Q3_K", 256, 110),
    12: TensorType("Q4_K", 256, 144),
    13: TensorType("Q5_K", 256, 176),
    14: TensorType("Q6_K", 256, 210),
    20: TensorType("IQ4_NL", 32, 18),
    30: TensorType("BF16", 1, 2, torch.bfloat16),
}
_UNSUPPORTED = {
    4: "Q4_2",
    5: "Q4_3",
    9: "Q8_1",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
}


@dataclass(frozen=True)
class GGUFTensor:
    """A tensor's description. `shape` is torch's order; rows are `row_bytes` long."""

    name: str
    type: TensorType
    shape: tuple[int, ...]
    offset: int  # from the start of the file
    nbytes: int
    file: MappedFile

    @property
    def row_bytes(self) -> int:
        return self.shape[-1] // self.type.elements * self.type.nbytes

    def raw(self) -> torch.Tensor:
        """Return the stored bytes as a view of the file, uint8 [rows, row_bytes]."""
        rows = self.nbytes // self.row_bytes
        return self.file.tensor(self.offset, self.nbytes, torch.uint8, (rows, self.row_bytes))

    def stored(self, read: Callable[[], torch.Tensor], dtype: torch.dtype) -> Stored:
        return Stored(self.name, dtype, self.shape, self.nbytes, self.file.path.name, self.offset, read)


@dataclass
class GGUFFile:
    path: Path
    metadata: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, GGUFTensor] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture"))


class _Cursor:
    """Reads values in order and refuses to run past the end."""

    def __init__(self, view: memoryview, path: Path) -> None:
        self.view, self.path, self.at = view, path, 0

    def fail(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {what}; the file is truncated or damaged, download it again")

    def take(self, count: int) -> memoryview:
        if count > len(self.view) - self.at:
            raise self.fail(
                f"byte {self.at} should be followed by {count} more, but {len(self.view) - self.at} are left"
            )
        self.at += count
        return self.view[self.at - count : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def count(self, what: str, most: int) -> int:
        value = int(self.number("<Q"))
        if value > most:
            raise self.fail(f"{what} is {value}; at most {most} are believable")
        return value

    def text(self, most: int = MAX_TEXT_BYTES) -> str:
        length = self.count("the length of a text", most)
        return str(self.take(length), "utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY and depth < MAX_ARRAY_DEPTH:
            return self.array(depth)
        raise self.fail(f"metadata has a value of unknown type {kind}")

    def array(self, depth: int) -> Any:
        kind = self.number("<I")
        length = self.count("the length of an array", MAX_ARRAY)
        if kind in _SCALARS:
            dtype = np.dtype(_SCALARS[kind])
            return np.frombuffer(self.take(length * dtype.itemsize), dtype).tolist()
        return [self.value(kind, depth + 1) for _ in range(length)]


def read_gguf(path: Path) -> GGUFFile:
    """Read a file's metadata and tensor list. Raises CheckpointError naming the file, and the tensor if there is one,
    for anything that is truncated, damaged, overlapping, or of a type or version that is not supported.
    """
    file = MappedFile(path)
    if file.size < 24:
        raise CheckpointError(f"{path} has {file.size} bytes, too few for a GGUF file; download it again")
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        with memoryview(mapped) as view:
            cursor = _Cursor(view, path)
            try:
                return _read(cursor, file)
            finally:
                # Views into the mapping must be gone before it closes, also those an error would carry along.
                cursor.view = memoryview(b"")


def _read(cursor: _Cursor, file: MappedFile) -> GGUFFile:
    out = GGUFFile(file.path)
    if bytes(cursor.take(4)) != MAGIC:
        raise CheckpointError(f"{file.path} does not begin with {MAGIC.decode()}; it is no GGUF file")
    version = cursor.number("<I")
    if version not in (2, 3):
        hint = "; it is big-endian" if version in (2 << 24, 3 << 24) else ""
        raise CheckpointError(f"{file.path} has GGUF version {version}{hint}; versions 2 and 3 are supported")
    num_tensors = cursor.count("the number of tensors", MAX_ITEMS)
    num_pairs = cursor.count("the number of metadata pairs", MAX_ITEMS)
    for _ in range(num_pairs):
        key = cursor.text(MAX_KEY_BYTES)
        if key in out.metadata:
            raise cursor.fail(f"metadata {key[:200]} appears twice")
        out.metadata[key] = cursor.value(cursor.number("<I"))
    entries = [_entry(cursor) for _ in range(num_tensors)]
    alignment = out.metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 8 <= alignment <= 1 << 20 or alignment & (alignment - 1):
        raise cursor.fail(f"general.alignment is {alignment!r}, no power of two from 8 up")
    start = -(-cursor.at // alignment) * alignment
    for name, kind, shape, offset in entries:
        if name in out.tensors:
            raise cursor.fail(f"tensor {name} appears twice")
        out.tensors[name] = _place(file, name, kind, shape, start + offset)
        if offset % alignment:
            raise cursor.fail(f"tensor {name} begins at {offset}, no multiple of {alignment}")
    _check_overlap(file, out.tensors, start)
    return out


def _entry(cursor: _Cursor) -> tuple[str, int, tuple[int, ...], int]:
    name = cursor.text(MAX_KEY_BYTES)
    num_dims = cursor.number("<I")
    if not 1 <= num_dims <= 4:
        raise cursor.fail(f"tensor {name[:200]} has {num_dims} dimensions")
    dims = [cursor.number("<Q") for _ in range(num_dims)]
    kind, offset = cursor.number("<I"), cursor.number("<Q")
    return name, kind, tuple(reversed(dims)), offset


def _place(file: MappedFile, name: str, kind: int, shape: tuple[int, ...], offset: int) -> GGUFTensor:
    if kind not in TYPES:
        known = ", ".join(t.name for t in TYPES.values())
        raise CheckpointError(
            f"{file.path}: tensor {name} has type {_UNSUPPORTED.get(kind, kind)}; supported are {known}"
        )
    type_ = TYPES[kind]
    if any(not 0 < n < 1 << 40 for n in shape) or shape[-1] % type_.elements:
        raise CheckpointError(
            f"{file.path}: tensor {name} has shape {list(shape)}, impossible for {type_.name}; the file is damaged"
        )
    nbytes = math.prod(shape) // type_.elements * type_.nbytes
    if offset + nbytes > file.size:
        raise CheckpointError(
            f"{file.path} is truncated: it has {file.size} bytes but tensor {name} needs {offset + nbytes}; "
            "download the file again"
        )
    return GGUFTensor(name, type_, shape, offset, nbytes, file)


def _check_overlap(file: MappedFile, tensors: dict[str, GGUFTensor], start: int) -> None:
    end, before = start, "the header"
    for tensor in sorted(tensors.values(), key=lambda t: t.offset):
        if tensor.offset < end:
            raise CheckpointError(f"{file.path}: tensor {tensor.name} overlaps {before}; the file is damaged")
        end, before = tensor.offset + tensor.nbytes, tensor.name
