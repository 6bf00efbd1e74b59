"""Write GGUF files, version 3, one tensor in memory at a time; and round numbers to the block types that are written.

Metadata values carry their GGUF type: bool, `U32`, `I32` and `F32` wrap numbers, texts and lists of texts are plain.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import CheckpointError
from .gguf import MAGIC, TYPES

VERSION = 3
ALIGNMENT = 32
BLOCK = 32  # elements of the block types written here
_AT_ONCE = 1 << 19  # blocks
_TYPE_IDS = {type_.name: number for number, type_ in TYPES.items()}
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class U32(NamedTuple):
    value: int


class I32(NamedTuple):
    value: int


class F32(NamedTuple):
    value: float


@dataclass(frozen=True)
class Entry:
    """A tensor to be written. shape in torch's order; `make` is called once, when its turn comes."""

    name: str
    type: str
    shape: tuple[int, ...]
    make: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        type_ = TYPES[_TYPE_IDS[self.type]]
        return torch.Size(self.shape).numel() // type_.elements * type_.nbytes


def write_gguf(path: Path, metadata: Mapping[str, Any], entries: Sequence[Entry]) -> None:
    """Write one file. Raises CheckpointError for a shape that a type cannot hold."""
    head = bytearray(MAGIC + struct.pack("<IQQ", VERSION, len(entries), len(metadata)))
    for key, value in metadata.items():
        head += _text(key) + _value(value)
    offset = 0
    for entry in entries:
        if entry.shape[-1] % TYPES[_TYPE_IDS[entry.type]].elements:
            raise CheckpointError(f"{entry.name} has rows of {entry.shape[-1]}, which {entry.type} cannot hold")
        head += _text(entry.name) + struct.pack(f"<I{len(entry.shape)}Q", len(entry.shape), *reversed(entry.shape))
        head += struct.pack("<IQ", _TYPE_IDS[entry.type], offset)
        offset += entry.nbytes + -entry.nbytes % ALIGNMENT
    with path.open("wb") as file:
        file.write(head + bytes(-len(head) % ALIGNMENT))
        for entry in entries:
            data = encode(entry.make(), entry.type)
            assert data.numel() == entry.nbytes, entry.name
            file.write(data.numpy().data)
            file.write(bytes(-entry.nbytes % ALIGNMENT))
        file.flush()
        os.fsync(file.fileno())


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Any) -> bytes:
    """Type id and payload."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, U32):
        return struct.pack("<II", 4, value.value)
    if isinstance(value, I32):
        return struct.pack("<Ii", 5, value.value)
    if isinstance(value, F32):
        return struct.pack("<If", 6, value.value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    assert isinstance(value, list) and value, f"{value!r} has no GGUF type"
    payloads = [_value(one) for one in value]
    kind = payloads[0][:4]
    assert all(payload[:4] == kind for payload in payloads), "an array of several types"
    return struct.pack("<I", 9) + kind + struct.pack("<Q", len(value)) + b"".join(payload[4:] for payload in payloads)


def encode(value: Tensor, type: str) -> Tensor:
    """Return a tensor's bytes as a file holds them, uint8 [nbytes]."""
    if type in _DTYPES:
        return value.to(_DTYPES[type]).contiguous().view(-1).view(torch.uint8)
    blocks = value.reshape(-1, BLOCK)
    out = torch.empty(blocks.shape[0], TYPES[_TYPE_IDS[type]].nbytes, dtype=torch.uint8)
    for start in range(0, blocks.shape[0], _AT_ONCE):  # so that a large matrix is never held as float32
        out[start : start + _AT_ONCE] = _ENCODERS[type](blocks[start : start + _AT_ONCE].float())
    return out.flatten()


def _q8_0(blocks: Tensor) -> Tensor:
    """float16 scale, 32 int8: [n, 34]."""
    scale = blocks.abs().amax(1, keepdim=True) / 127
    codes = (blocks * _inverse(scale)).round().clamp(-127, 127).to(torch.int8)
    return torch.cat((_half(scale), codes.view(torch.uint8)), dim=1)


def _q4_0(blocks: Tensor) -> Tensor:
    """float16 scale, 32 numbers of 4 bits, 8 meaning zero; the first half in the low nibbles: [n, 18].

    The value furthest from zero becomes code 0, that is -8 scales, so that one side has the extra step.
    """
    furthest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    scale = furthest / -8
    codes = (blocks * _inverse(scale) + 8).round().clamp(0, 15).to(torch.uint8)
    return torch.cat((_half(scale), codes[:, :16] | codes[:, 16:] << 4), dim=1)


def _inverse(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, torch.zeros_like(scale), 1 / scale)


def _half(scale: Tensor) -> Tensor:
    return scale.half().view(torch.uint8)


_ENCODERS: dict[str, Callable[[Tensor], Tensor]] = {"Q8_0": _q8_0, "Q4_0": _q4_0}
TYPES_WRITTEN = (*_DTYPES, *_ENCODERS)
