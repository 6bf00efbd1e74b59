"""What survives a run: exact states to resume from, and weights that travel to another machine.

A state holds float32 parameters, optimiser moments, generators and counters, so that the next step after a resume is
the one that would have followed. An export holds weights alone in small safetensors shards whose metadata carries the
model's configuration; training starts from one with `--init`. No pickle is written or read.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..device import parse_dtype
from ..errors import CheckpointError
from .optim import Horizon, Optimizer
from .sharded_optim import ShardedOptimizer

log = logging.getLogger("cpmv")
SHARD_BYTES = 15 << 20
_WHOLE, _SHARDS = "optimizer.safetensors", "sharded"


@dataclass
class Progress:
    """The counters of a run. `horizon` None: not yet known (a run bounded by seconds that has not been timed)."""

    step: int = 0
    samples: int = 0
    horizon: Horizon | None = None


def save_state(
    folder: Path,
    optimizer: Optimizer | ShardedOptimizer,
    generator: torch.Generator,
    progress: Progress,
    rank: int,
    world_size: int,
) -> None:
    """Write `folder/state-<step>` and drop older ones; a state appears whole or not at all. Rank 0 writes the weights
    (each rank its slices when they are sharded), each rank its generator."""
    final = folder / f"state-{progress.step:08d}"
    part = folder / f"{final.name}.part"
    part.mkdir(parents=True, exist_ok=True)
    save_file({"generator": generator.get_state().cpu()}, part / f"rank-{rank}.safetensors")
    if isinstance(optimizer, ShardedOptimizer):
        optimizer.save(part / _SHARDS)
    if world_size > 1:
        torch.distributed.barrier()
    if rank != 0:
        return
    if isinstance(optimizer, Optimizer):
        tensors = {name: t.detach().cpu().contiguous() for name, t in optimizer.state().items()}
        layout = {name: [start, *shape] for name, (start, shape) in optimizer.layout.items()}
        save_file(tensors, part / _WHOLE, metadata={"layout": json.dumps(layout)})
    counters = dataclasses.asdict(progress)
    (part / "progress.json").write_text(json.dumps({**counters, "world_size": world_size}))
    if final.exists():
        shutil.rmtree(final)
    os.replace(part, final)
    for old in find_states(folder)[:-1]:
        shutil.rmtree(old)


def find_states(folder: Path) -> list[Path]:
    """Whole states of a run, oldest first."""
    return sorted(p for p in folder.glob("state-*") if p.is_dir() and p.suffix != ".part")


def load_state(
    folder: Path,
    optimizer: Optimizer | ShardedOptimizer,
    generator: torch.Generator | None,
    rank: int,
    world_size: int,
) -> Progress:
    """Restore the newest state under `folder`. Raises CheckpointError when it belongs to another run.

    A sharded state can be read on another number of GPUs, unless its moments have 8 bits.
    """
    states = find_states(folder)
    if not states:
        raise CheckpointError(f"{folder} holds no state to resume from; leave --resume out to start anew")
    newest = states[-1]
    saved = json.loads((newest / "progress.json").read_text())
    sharded = isinstance(optimizer, ShardedOptimizer)
    if sharded != (newest / _SHARDS).is_dir():
        raise CheckpointError(f"{newest} was saved {'without' if sharded else 'with'} --shard; resume the same way")
    moves = isinstance(optimizer, ShardedOptimizer) and optimizer.kind == "adamw"
    others = saved.pop("world_size") != world_size
    if others and generator is not None and not moves:
        raise CheckpointError(f"{newest} was saved on another number of GPUs than {world_size}; resume on as many")
    if isinstance(optimizer, ShardedOptimizer):
        optimizer.load(newest / _SHARDS)
    else:
        _restore_whole(newest, optimizer)
    if generator is not None and not others:
        generator.set_state(load_file(newest / f"rank-{rank}.safetensors")["generator"])
    horizon = saved.pop("horizon")
    return Progress(**saved, horizon=Horizon(**horizon) if horizon else None)


def _restore_whole(state: Path, optimizer: Optimizer) -> None:
    with safe_open(state / _WHOLE, framework="pt") as file:
        layout = json.loads(file.metadata()["layout"])
        here = {name: [start, *shape] for name, (start, shape) in optimizer.layout.items()}
        if layout != here:
            raise CheckpointError(f"{state} was saved by a run of another model or other trained parts")
        optimizer.restore({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - not a dict


def export(
    folder: Path,
    modules: Iterable[tuple[str, nn.Module]],
    meta: dict[str, Any],
    dtype: str,
    max_bytes: int = SHARD_BYTES,
) -> list[Path]:
    """Write every parameter to `model-0000i-of-0000n.safetensors`, each file at most `max_bytes`; return the paths.

    modules: (prefix, module); parameters are named prefix + their own name. meta: JSON values stored in every shard's
    metadata. One tensor larger than `max_bytes` gets a file of its own.
    """
    wanted = parse_dtype(dtype)
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for prefix, module in modules:
        for name, param in module.named_parameters():
            tensor = param.detach().to("cpu", wanted).contiguous()
            if size + tensor.nbytes > max_bytes - 65536 and shards[-1]:  # room for names and metadata
                shards.append({})
                size = 0
            shards[-1][prefix + name] = tensor
            size += tensor.nbytes
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("model-*-of-*.safetensors"):
        old.unlink()
    paths = []
    for i, shard in enumerate(shards):
        path = folder / f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, path, metadata={"format": "pt", **{k: json.dumps(v) for k, v in meta.items()}})
        paths.append(path)
    return paths


def read_export(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return metadata and tensors of an export. Raises CheckpointError when shards are missing or damaged."""
    paths = sorted(folder.glob("model-*-of-*.safetensors"))
    if not paths:
        raise CheckpointError(f"{folder} holds no model-*-of-*.safetensors; give the folder a training run exported to")
    expected = int(paths[0].stem.rsplit("-", 1)[1])
    if len(paths) != expected:
        raise CheckpointError(f"{folder} holds {len(paths)} of {expected} shards; copy the missing ones")
    meta: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                meta = {k: json.loads(v) for k, v in (file.metadata() or {}).items() if k != "format"}
                tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, OSError) as broken:
            raise CheckpointError(f"{path} cannot be read ({broken}); copy it again") from broken
    return meta, tensors


def dense_weights(folder: Path) -> dict[str, Tensor]:
    """Parameters of a checkpoint folder in float32 by their released names; quantised ones are dequantised."""
    from ..weights.checkpoint import load
    from ..weights.hub import resolve
    from ..weights.packed import PackedLinear

    model = load(resolve(folder), device="cpu", dtype="float32").model
    tensors = {name: param.detach().float() for name, param in model.named_parameters()}
    for name, module in model.named_modules():
        if isinstance(module, PackedLinear):
            tensors[f"{name}.weight"] = module.dequantize(torch.float32)
    return tensors


@torch.no_grad()
def load_weights(tensors: dict[str, Tensor], model: nn.Module, heads: nn.Module | None) -> None:
    """Copy exported weights into a model; training heads ("heads.*") where they fit, else they start afresh.

    Raises CheckpointError when the model's own tensors are missing or misshapen.
    """
    params = dict(model.named_parameters())
    missing = [n for n, p in params.items() if n not in tensors or tensors[n].shape != p.shape]
    if missing:
        raise CheckpointError(f"the weights lack or misshape {len(missing)} tensors, as {missing[0]}; wrong preset?")
    for name, param in params.items():
        param.copy_(tensors[name])
    if heads is None:
        return
    own = {f"heads.{n}": p for n, p in heads.named_parameters()}
    fresh = [n for n, p in own.items() if n not in tensors or tensors[n].shape != p.shape]
    for name, param in own.items():
        if name not in fresh:
            param.copy_(tensors[name])
    if fresh:
        log.warning("training heads start afresh: %s (other classes are drawn, or there were none)", ", ".join(fresh))


def to_checkpoint(export_folder: Path, folder: Path, tokenizer: Any) -> None:
    """Turn an export into a checkpoint folder of the released layout; training heads are left out."""
    from ..model.config import from_hf
    from ..model.minicpmv import MiniCPMV
    from ..weights.checkpoint import save

    meta, tensors = read_export(export_folder)
    with torch.device("meta"):
        model = MiniCPMV(from_hf(meta["config"], meta["preprocessor"]))
    model.to_empty(device="cpu")
    load_weights(tensors, model, None)
    save(model.to(next(iter(tensors.values())).dtype), tokenizer, folder)
