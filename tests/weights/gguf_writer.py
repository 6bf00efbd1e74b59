"""Write small GGUF files for tests, and rewrite those of the reference data with something changed."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cpmv.weights.gguf import TYPES, read_gguf

TYPE_IDS = {t.name: i for i, t in TYPES.items()}
Entry = tuple[tuple[int, ...], str, bytes]  # shape in torch's order, type name, data


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(item: Any) -> bytes:
    """Type id and payload of a metadata value."""
    if isinstance(item, bool):
        return struct.pack("<I?", 7, item)
    if isinstance(item, int):
        return struct.pack("<Ii", 5, item) if item < 0 else struct.pack("<II", 4, item)
    if isinstance(item, float):
        return struct.pack("<If", 6, item)
    if isinstance(item, str):
        return struct.pack("<I", 8) + text(item)
    payloads = [value(x) for x in item]
    kind = payloads[0][:4] if payloads else struct.pack("<I", 4)
    return struct.pack("<I", 9) + kind + struct.pack("<Q", len(item)) + b"".join(p[4:] for p in payloads)


def write_gguf(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, Entry], version: int = 3) -> Path:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    head += b"".join(text(key) + value(item) for key, item in metadata.items())
    body = b""
    for name, (shape, kind, data) in tensors.items():
        head += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        head += struct.pack("<IQ", TYPE_IDS[kind], len(body))
        body += data + b"\0" * (-len(data) % 32)
    path.write_bytes(head + b"\0" * (-len(head) % 32) + body)
    return path


def rewrite(source: Path, target: Path, change: Callable[[dict[str, Any], dict[str, Entry]], None]) -> Path:
    """Copy a file after `change(metadata, tensors)` has edited its dictionaries."""
    file = read_gguf(source)
    entries = {n: (t.shape, t.type.name, t.raw().numpy().tobytes()) for n, t in file.tensors.items()}
    metadata = dict(file.metadata)
    change(metadata, entries)
    return write_gguf(target, metadata, entries)
