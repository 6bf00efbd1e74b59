"""Convert a checkpoint of any format to plain safetensors in the released layout; `gguf_export` makes GGUF pairs.

Tensors are read, dequantised where they are packed, cast and written one at a time. Quantised sources lose nothing
more but the rounding of the cast; config.json loses its `quantization_config`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from .catalogue import Catalogue, compare, empty_model, raise_problems
from .packed import PackedLinear, PackedWeight
from .saving import MAX_SHARD_BYTES, write_folder, write_json
from .shards import Writable, write_shards
from .stored import Stored

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def read_weight(stored: Stored | PackedWeight, dtype: torch.dtype | None = None) -> Tensor:
    """Return a weight as numbers, dequantised where it is packed, in `dtype` or in what the file has."""
    if isinstance(stored, Stored):
        return stored.read() if dtype is None else stored.read().to(dtype)
    layer = stored.build(torch.device("cpu"))
    assert isinstance(layer, PackedLinear)
    return layer.dequantize(dtype)


def check_whole(catalogue: Catalogue) -> None:
    """Raise CheckpointError unless every tensor that the model needs is there and fits."""
    raise_problems(catalogue, compare(catalogue, empty_model(catalogue.config)))


def write_plain(
    catalogue: Catalogue,
    folder: str | Path,
    dtype: str | None = None,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Write unquantised safetensors, which appear when they are complete.

    dtype: "bfloat16", "float16" or "float32"; None is what the checkpoint's unquantised tensors have, float16 for a
    GGUF pair of 32-bit ones. progress: called with bytes read, and all. Raises CheckpointError.
    """
    check_whole(catalogue)
    name = dtype or catalogue.config.torch_dtype
    if name not in DTYPES:
        raise CheckpointError(f"dtype {name!r} is unknown; use {', '.join(DTYPES)}")
    target = DTYPES[name]
    config = {key: value for key, value in catalogue.config.hf.items() if key not in ("quantization_config", "dtype")}

    def write(temporary: Path) -> None:
        write_json(temporary, {**config, "torch_dtype": name}, catalogue.config.hf_preprocessor)
        catalogue.read_tokenizer().save(temporary)
        write_shards(temporary, _writables(catalogue, target, progress), max_shard_bytes)

    return write_folder(folder, write, overwrite=overwrite)


def _writables(catalogue: Catalogue, dtype: torch.dtype, progress: Callable[[int, int], None] | None) -> list[Writable]:
    total, done = catalogue.nbytes, 0

    def make(stored: Stored | PackedWeight) -> Tensor:
        nonlocal done
        value = read_weight(stored, dtype)
        done += stored.nbytes
        if progress is not None:
            progress(done, total)
        return value

    return [
        Writable(name, dtype, tuple(stored.shape), lambda stored=stored: make(stored))  # type: ignore[misc]
        for name, stored in catalogue.in_file_order()
    ]
