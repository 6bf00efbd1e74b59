"""Write a model as a released checkpoint: the same names and layout, so that it loads again here and elsewhere.

Quantised NF4 and AWQ weights are written as they are stored. Weights that came from GGUF are dequantised to float16,
which holds every value of the block types to within a rounding. Files appear under a temporary name and are moved into
place when all of them are complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import CheckpointError
from ..model.lora import lora_layers
from ..model.minicpmv import MiniCPMV
from .gguf_blocks import GGUFLinear
from .packed import PackedLinear
from .shards import Writable, write_shards

if TYPE_CHECKING:
    from ..inputs.text import Tokenizer

MAX_SHARD_BYTES = 5_000_000_000


def save(
    model: MiniCPMV,
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    overwrite: bool = False,
    generation_config: dict[str, Any] | None = None,
) -> Path:
    """Write config.json, preprocessor_config.json, the tokenizer's files and the weights into a folder.

    Unquantised tensors are written in the dtype the checkpoint was stored in (`config.torch_dtype`; float16 for GGUF).
    More than max_shard_bytes of tensors become shards with an index. Raises CheckpointError if the folder holds
    anything and `overwrite` is false; with `overwrite`, weights of an earlier checkpoint in it are replaced.
    """
    if not model.config.hf:
        raise CheckpointError(
            "this model was not built from a config.json, so none can be saved; build it with from_hf"
        )
    if lora_layers(model):
        raise CheckpointError("this model carries an adapter; cpmv merge writes a checkpoint with it merged")
    return write_folder(
        folder,
        lambda temporary: _write(model, tokenizer, temporary, max_shard_bytes, generation_config),
        overwrite=overwrite,
    )


def check_target(folder: str | Path, *, overwrite: bool) -> Path:
    """Return the folder to write. Raises CheckpointError if it holds anything and `overwrite` is false."""
    target = Path(folder)
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and not overwrite)):
        advice = "choose another folder, or pass overwrite=True (--overwrite)"
        raise CheckpointError(f"{target} exists and is not empty; {advice}")
    return target


def write_folder(folder: str | Path, write: Callable[[Path], None], *, overwrite: bool = False) -> Path:
    """Let `write` fill a temporary folder, and move what it wrote into place once it is complete.

    Raises CheckpointError if the folder holds anything and `overwrite` is false, or cannot be written.
    """
    target = check_target(folder, overwrite=overwrite)
    temporary = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        write(temporary)
        _move_into_place(temporary, target)
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _write(
    model: MiniCPMV, tokenizer: Tokenizer, folder: Path, max_shard_bytes: int, generation: dict[str, Any] | None
) -> None:
    from_gguf = any(isinstance(m, GGUFLinear) for m in model.modules())
    dtype = torch.float16 if from_gguf else getattr(torch, model.config.torch_dtype)
    config = {**model.config.hf, "torch_dtype": str(dtype).removeprefix("torch.")}
    config.pop("dtype", None)  # the same field under its newer name
    generation = generation or ({"do_sample": False} if model.config.greedy else None)
    write_json(folder, config, model.config.hf_preprocessor, generation)
    tokenizer.save(folder)
    write_shards(folder, tensors_of(model, dtype), max_shard_bytes)


def write_json(
    folder: Path, config: dict[str, Any], preprocessor: dict[str, Any], generation: dict[str, Any] | None = None
) -> None:
    """Write the configuration files that there is something to say in."""
    files = {"config.json": config, "preprocessor_config.json": preprocessor, "generation_config.json": generation}
    for name, content in files.items():
        if content:
            text = json.dumps(content, indent=2, ensure_ascii=False)
            (folder / name).write_text(text + "\n", encoding="utf-8")


def tensors_of(model: MiniCPMV, dtype: torch.dtype) -> list[Writable]:
    """List the tensors of a model under their released names; plain ones will be written as `dtype`."""
    out = []
    for path, module in model.named_modules():
        if isinstance(module, PackedLinear):
            for suffix, (stored, shape, make) in module.released().items():
                out.append(Writable(f"{path}.{suffix}", stored, shape, make))
        for leaf, parameter in module.named_parameters(recurse=False):
            out.append(_plain(f"{path}.{leaf}" if path else leaf, parameter, dtype))
    return out


def _plain(name: str, parameter: nn.Parameter, dtype: torch.dtype) -> Writable:
    return Writable(name, dtype, tuple(parameter.shape), lambda: parameter.detach().to(dtype))


def _move_into_place(temporary: Path, target: Path) -> None:
    if not target.exists():
        temporary.rename(target)
        return
    new = {path.name for path in temporary.iterdir()}
    for old in target.iterdir():
        # An index or shard of the checkpoint that was here would be read with the new ones.
        if old.name not in new and (old.suffix == ".safetensors" or old.name.endswith(".safetensors.index.json")):
            old.unlink()
    for path in sorted(temporary.iterdir()):
        os.replace(path, target / path.name)
