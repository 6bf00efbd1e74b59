"""Load a checkpoint: the model is built without storage, then every parameter becomes a tensor of the mapped files.

Nothing is held twice. On a CPU a weight that is fine as stored *is* the file's memory; on a GPU one tensor at a time
crosses over. Quantised weights replace their linear layers and stay quantised. `save` and `check` are the way back
and the way round.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..device import choose
from ..model.config import ModelConfig
from ..model.minicpmv import MiniCPMV
from .catalogue import Catalogue, Placing, compare, empty_model, matrices, open_catalogue, raise_problems
from .checking import Report, check
from .hub import Source
from .packed import PackedLinear, PackedWeight
from .plan import ensure_fits, free_memory, gigabytes, memory_plan, parse_memory
from .saving import save
from .stored import ReadAhead, Stored

if TYPE_CHECKING:
    from ..inputs.text import Tokenizer

__all__ = ["Catalogue", "Loaded", "Report", "check", "decide_placing", "load", "open_catalogue", "save"]

log = logging.getLogger("cpmv")

# Casting matrices once at load costs a copy of them. That much is always given; more only to unquantised checkpoints
# that leave plenty free, because a quantised one is chosen to keep memory near the size of its file.
_ALWAYS_CAST_BYTES = 1 << 30
_MOST_OF_FREE = 0.6
_MOVED_AT_ONCE = 1 << 26  # elements


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in memory. format: "bf16", "fp16", "fp32", "nf4", "awq" or "gguf"."""

    model: MiniCPMV
    tokenizer: Tokenizer
    config: ModelConfig
    format: str


def load(
    source: Source | Catalogue,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    max_memory: int | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Loaded:
    """Open, check, plan, then load.

    device, dtype: None or "auto" chooses. max_memory: bytes, or a size such as "8GB", for everything. progress: called
    with bytes done and bytes in all. Raises CheckpointError naming every kind of tensor that is missing, unexpected
    or misshapen, and OutOfMemoryError before anything is read if one picture and a short talk would not fit.
    """
    limit = parse_memory(max_memory)
    catalogue = source if isinstance(source, Catalogue) else open_catalogue(source)
    model = empty_model(catalogue.config)
    raise_problems(catalogue, compare(catalogue, model))
    tokenizer = catalogue.read_tokenizer()
    place = choose(device, dtype, stored_dtype=catalogue.config.torch_dtype, stored_bytes=catalogue.nbytes)
    placing = decide_placing(catalogue, model, place.device, place.dtype)
    needed = placing.weight_bytes(catalogue, model)
    ensure_fits(memory_plan(catalogue.config, needed, place.device, place.dtype), limit)
    start = time.perf_counter()
    fill(model, catalogue, placing, progress)
    seconds = time.perf_counter() - start
    log.info(
        "loaded %s of %s weights in %.1f s: %s in memory, %s mapped from files",
        gigabytes(catalogue.nbytes),
        catalogue.format,
        seconds,
        gigabytes(needed.resident),
        gigabytes(needed.mapped),
    )
    return Loaded(model.eval(), tokenizer, catalogue.config, catalogue.format)


def decide_placing(catalogue: Catalogue, model: MiniCPMV, device: torch.device, dtype: torch.dtype) -> Placing:
    """Decide whether matrices are cast once at load or stay in their files; the one place where that is decided."""
    if device.type != "cpu":
        return Placing(device, dtype, cast_matrices=True)
    names = matrices(model)
    differing = [t for n, t in catalogue.plain.items() if n in names and t.dtype != dtype]
    copies = sum(torch.Size(t.shape).numel() for t in differing) * dtype.itemsize
    roomy = not catalogue.packed and copies <= _MOST_OF_FREE * free_memory(device)
    cast = copies <= _ALWAYS_CAST_BYTES or roomy
    if differing and not cast:
        # Beside weights that are dequantised at each use, a few that are cast are no news.
        log.log(
            logging.INFO if catalogue.packed else logging.WARNING,
            "%s of matrices stay in their files as stored and are cast to %s at each use, which is slow; a copy would "
            "take %s",
            gigabytes(sum(t.nbytes for t in differing)),
            str(dtype).removeprefix("torch."),
            gigabytes(copies),
        )
    return Placing(device, dtype, cast_matrices=cast)


def fill(
    model: MiniCPMV, catalogue: Catalogue, placing: Placing, progress: Callable[[int, int], None] | None = None
) -> None:
    """Give every parameter of an empty model its tensor, in file order."""
    names = matrices(model)
    total, done = catalogue.nbytes, 0
    with ReadAhead(catalogue.files if placing.device.type != "cpu" else []):
        for name, stored in catalogue.in_file_order():
            if isinstance(stored, PackedWeight):
                _replace(model, name.removesuffix(".weight"), stored.build(placing.device))
            else:
                _set_parameter(model, name, _move(stored, placing, name in names))
            done += stored.nbytes
            if progress is not None:
                progress(done, total)
    left = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    assert not left, f"parameters without a tensor: {left[:5]}"


def _move(stored: Stored, placing: Placing, is_matrix: bool) -> Tensor:
    value, dtype = stored.read(), placing.held_dtype(stored, is_matrix)
    if value.dtype == dtype or placing.device.type == "cpu":
        return value.to(placing.device, dtype)
    # 16-bit bytes cross the bus and the device casts them, in parts, so that no second copy stands beside the first.
    out = torch.empty(value.shape, dtype=dtype, device=placing.device)
    for part, target in zip(value.flatten().split(_MOVED_AT_ONCE), out.view(-1).split(_MOVED_AT_ONCE), strict=True):
        target.copy_(part.to(placing.device))
    return out


def _set_parameter(model: MiniCPMV, name: str, value: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    model.get_submodule(path)._parameters[leaf] = nn.Parameter(value, requires_grad=False)


def _replace(model: MiniCPMV, path: str, layer: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    assert isinstance(layer, PackedLinear)
    layer.bias = getattr(model.get_submodule(path), "bias", None)  # filled before or after, wherever the file has it
    model.get_submodule(parent)._modules[leaf] = layer
