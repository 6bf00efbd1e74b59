"""safetensors files: read with every byte of the header checked first, and written one tensor at a time.

A file is `u64 header length, JSON header, data`. The header is read by us rather than trusted to a library, so that a
truncated or damaged file ends in one CheckpointError that names it, without a large allocation. Tensors are then
views of the mapped file.
"""

from __future__ import annotations

import json
import logging
import math
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .stored import MappedFile, Problem, Stored

log = logging.getLogger("cpmv")

MAX_HEADER_BYTES = 32 << 20  # the released checkpoint's headers are below 1 MiB
MAX_TENSORS = 200_000
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def read_header(path: Path) -> dict[str, Stored]:
    """List a file's tensors in file order.

    Raises CheckpointError naming the file, and the tensor where there is one, for: a truncated file, a header that is
    too long or no JSON, an unknown dtype, a shape that disagrees with its bytes, offsets that overlap, leave gaps or
    run past the end, and bytes after the last tensor.
    """
    file = MappedFile(path)
    header, start = _parse_header(file)
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise CheckpointError(f"{path} lists {len(header)} tensors; at most {MAX_TENSORS} are believable")
    tensors = [_entry(file, name, entry, start) for name, entry in header.items()]
    tensors.sort(key=lambda t: (t.offset, t.nbytes))
    end = start
    for tensor in tensors:
        if tensor.offset != end:
            raise CheckpointError(
                f"{path}: the bytes of tensor {tensor.name} begin at {tensor.offset}, not at {end} where the previous "
                "tensor ends; the header is damaged, download the file again"
            )
        end += tensor.nbytes
        if end > file.size:
            raise CheckpointError(
                f"{path} is truncated: it has {file.size} bytes but tensor {tensor.name} needs {end}; "
                "download the file again"
            )
    if end != file.size:
        raise CheckpointError(f"{path} has {file.size - end} bytes after its last tensor; download the file again")
    if any(t.offset % t.dtype.itemsize for t in tensors):
        log.warning("%s: tensors are not aligned, so they are copied into memory instead of mapped", path)
    return {tensor.name: tensor for tensor in tensors}


def _parse_header(file: MappedFile) -> tuple[dict[str, Any], int]:
    """Return the JSON header and where the data begins."""
    path = file.path
    if file.size < 10:
        raise CheckpointError(f"{path} has {file.size} bytes, too few for a safetensors file; download it again")
    (length,) = struct.unpack("<Q", file.head(8))
    if length > min(MAX_HEADER_BYTES, file.size - 8):
        raise CheckpointError(
            f"{path} claims a header of {length} bytes, but at most {min(MAX_HEADER_BYTES, file.size - 8)} are "
            "possible; the file is truncated or no safetensors file"
        )
    try:
        header = json.loads(file.head(8 + length)[8:].decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} has an unreadable header ({_short(error)}); download the file again") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} has a header that is no JSON object; it is no safetensors file")
    return header, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} appears twice")
    return out


def _short(error: BaseException) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__


def _entry(file: MappedFile, name: str, entry: Any, start: int) -> Stored:
    def fail(what: str) -> CheckpointError:
        return CheckpointError(f"{file.path}: tensor {name[:200]} {what}; the header is damaged")

    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise fail("lacks dtype, shape or data_offsets")
    dtype, shape, offsets = DTYPES.get(str(entry["dtype"])), entry["shape"], entry["data_offsets"]
    if dtype is None:
        raise fail(f"has dtype {str(entry['dtype'])[:40]!r}; known are {', '.join(DTYPES)}")
    for label, numbers in (("shape", shape), ("data_offsets", offsets)):
        # bool is an int to Python, but not to the format
        if not isinstance(numbers, list) or any(type(n) is not int or not 0 <= n < 1 << 60 for n in numbers):
            raise fail(f"has a {label} that is no list of sizes")
    if len(offsets) != 2 or offsets[0] > offsets[1] or len(shape) > 16:
        raise fail("has impossible offsets or too many dimensions")
    nbytes = offsets[1] - offsets[0]
    if math.prod(shape) * dtype.itemsize != nbytes:
        raise fail(f"has {nbytes} bytes, which is not shape {shape} of {entry['dtype']}")
    where, dims = start + offsets[0], tuple(shape)
    return Stored(name, dtype, dims, nbytes, file.path.name, where, lambda: file.tensor(where, nbytes, dtype, dims))


def find_shards(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """Return the safetensors files of a checkpoint folder and the index's tensor -> file map (empty without one).

    Raises CheckpointError when there are none, the index is damaged or points outside the folder, or the folder holds
    pickle files only.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE], {}
    if (folder / INDEX).is_file():
        weight_map = _read_index(folder / INDEX)
        return [folder / name for name in sorted(set(weight_map.values()))], weight_map
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return files, {}
    pickles = sorted(p.name for p in folder.iterdir() if is_pickle(p.name))
    if pickles:
        raise CheckpointError(pickle_message(f"{folder} holds {pickles[0]}"))
    raise CheckpointError(f"{folder} holds no *.safetensors files; point at a complete MiniCPM-V 4.5 checkpoint")


def is_pickle(name: str) -> bool:
    """Whether a file name is that of a pickled checkpoint."""
    return Path(name).suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def pickle_message(what: str) -> str:
    return f"{what}, a pickle file, which can run any code when it is opened; convert to safetensors first"


def _read_index(path: Path) -> dict[str, str]:
    index = read_json(path)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} has no weight_map; download it again")
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file or "\\" in file or file in ("", ".", ".."):
            raise CheckpointError(f"{path} places tensor {name} in {file!r}, which is no file of this folder")
        if is_pickle(file):
            raise CheckpointError(pickle_message(f"{path} points at {file}"))
    return weight_map


def read_json(path: Path, max_bytes: int = 64 << 20) -> dict[str, Any]:
    """Read a JSON object from a checkpoint folder. Raises CheckpointError naming the file."""
    try:
        if path.stat().st_size > max_bytes:
            raise CheckpointError(f"{path} has {path.stat().st_size} bytes; at most {max_bytes} are believable")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is no valid JSON ({_short(error)}); download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object; download it again")
    return content


def open_shards(folder: Path) -> tuple[dict[str, Stored], list[Path], list[Problem]]:
    """Read the headers of all shards of a folder: tensors by name, the files, and what is wrong with them."""
    files, weight_map = find_shards(folder)
    tensors: dict[str, Stored] = {}
    problems: list[Problem] = []
    for path in files:
        try:
            header = read_header(path)
        except CheckpointError as error:
            problems.append(Problem(None, path.name, str(error)))
            continue
        for name, tensor in header.items():
            if name in tensors:
                problems.append(Problem(name, path.name, f"appears in {tensors[name].file} as well"))
            tensors[name] = tensor
    damaged = {p.file for p in problems}
    for name, where in weight_map.items():
        if where not in damaged and (name not in tensors or tensors[name].file != where):
            problems.append(Problem(name, where, f"is listed in {INDEX} but not in the file"))
    return tensors, files, problems


@dataclass(frozen=True)
class Writable:
    """A tensor to be written; `make` is called once, when its turn comes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write_shard(path: Path, tensors: Sequence[Writable]) -> None:
    """Write one safetensors file, holding one tensor in memory at a time."""
    # Wide dtypes first keeps every tensor aligned to its own size, so that readers can map it.
    ordered = sorted(tensors, key=lambda t: -t.dtype.itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in ordered:
        header[tensor.name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + tensor.nbytes],
        }
        end += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in ordered:
            value = tensor.make().detach()
            assert value.dtype == tensor.dtype and tuple(value.shape) == tensor.shape, tensor.name
            file.write(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())


def write_shards(folder: Path, tensors: Sequence[Writable], max_shard_bytes: int) -> list[Path]:
    """Write tensors in order as one file, or as shards of at most `max_shard_bytes` with an index."""
    shards: list[list[Writable]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + tensor.nbytes > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.nbytes
    if len(shards) == 1:
        write_shard(folder / SINGLE, shards[0])
        return [folder / SINGLE]
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        write_shard(folder / name, shard)
    index = {
        "metadata": {"total_size": sum(t.nbytes for t in tensors)},
        "weight_map": {t.name: name for name, shard in zip(names, shards, strict=True) for t in shard},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return [folder / name for name in names]
