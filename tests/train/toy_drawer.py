"""A drawer of random pictures for the training tests: right shapes and labels, nothing to see, any kind, no atlas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from cpmv.model.config import ModelConfig, from_hf
from cpmv.train.config import Combination, TrainConfig, preprocessor_json, tiny_xs
from cpmv.train.distributed import World
from cpmv.train.draw import Batch, Grid
from cpmv.train.init import build
from cpmv.train.joint import JointObjective
from cpmv.train.joint_model import JointModel
from cpmv.train.loop import Loop
from cpmv.train.metrics import Log
from cpmv.train.optim import Optimizer
from cpmv.train.state import Progress, load_state
from cpmv.train.step import Step

VOCAB, CLASSES, LENGTH, VISUAL_START, FRAMES = 64, 7, 40, 3, 3


def toy_config() -> ModelConfig:
    model = tiny_xs(VOCAB)
    return from_hf(model, preprocessor_json(model))


class ToyDrawer:
    """Draws the samples of a whole step on every rank and keeps its share, so that any number of ranks agrees."""

    num_classes = CLASSES

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank, self.world_size = rank, world_size

    def draw(self, kind: str, batch: int, grid: Grid, generator: torch.Generator | None = None) -> Batch:
        everyone = batch * self.world_size
        frames = {"clip": FRAMES, "textonly": 0}.get(kind, 1)

        def integers(high: int, *shape: int) -> torch.Tensor:
            return torch.randint(high, shape, generator=generator)[self.rank * batch : (self.rank + 1) * batch]

        answer_start = 25 + integers(5, everyone, 1)
        input_ids = 1 + integers(VOCAB - 1, everyone, LENGTH)
        columns = torch.arange(LENGTH)
        labels = torch.where((columns >= answer_start) & (columns < answer_start + 6), input_ids, -100)
        present = torch.arange(frames) < 1 + integers(max(1, frames), everyone, 1)
        times = (integers(9, everyone, 1) + torch.arange(frames) * 3) * present - (~present).long()
        pixels = integers(256, everyone, frames, 3, grid.rows * 14, grid.cols * 14).float() / 127.5 - 1
        dense = integers(CLASSES, everyone, frames, grid.rows * 2, grid.cols * 2)
        lattice = integers(CLASSES, everyone, 32, 32)
        return Batch(
            pixels=pixels,
            frame_mask=present,
            temporal_ids=times if kind == "clip" else torch.full((batch, frames), -1),
            input_ids=input_ids,
            labels=labels,
            dense=dense,
            lattice=lattice,
            lattice_last=lattice,
            visual_start=-1 if kind == "textonly" else VISUAL_START,
            lengths=answer_start[:, 0] + 6,
            task=torch.zeros(batch, dtype=torch.int64),
        )


def toy_objective(rank: int = 0, world_size: int = 1, *, seed: int = 0, shift: bool = True) -> JointObjective:
    """A whole little joint objective: two combinations, every kind of sample."""
    model = JointModel(build(toy_config(), "cpu", seed), CLASSES, seed).train()
    mix = {kind: count // world_size for kind, count in (("text", 8), ("scene", 4), ("clip", 2), ("textonly", 2))}
    combinations = [Combination(((2, 3), (3, 2)), (2, 2)), Combination(((2, 2), (1, 4)), (1, 3))]
    return JointObjective(model, ToyDrawer(rank, world_size), mix, combinations, shift=shift)


def toy_train_config(**changes: Any) -> TrainConfig:
    model = tiny_xs(VOCAB)
    settings: dict[str, Any] = {"steps": 12, "log_every": 1, "save_every_s": 0.0, "alarm_after": 0}
    return TrainConfig(model=model, preprocessor=preprocessor_json(model), **{**settings, **changes})


def toy_loop(out: Path, config: TrainConfig, **options: Any) -> Loop:
    """A loop over the toy objective on the CPU, from its start or from the state in `out`."""
    objective = toy_objective()
    optimizer = Optimizer(objective.named_parameters())
    generator = torch.Generator().manual_seed(config.seed)
    progress = Progress()
    if options.pop("resume", False):
        progress = load_state(out / "state", optimizer, generator, 0, 1)
    step = Step(objective, optimizer, World(), generator)
    log = Log(out, quiet=False, tensorboard=False, step=progress.step)
    return Loop(step, config, World(), log, out, progress=progress, num_keys=2, **options)


def logged(out: Path, kind: str = "train") -> list[dict[str, Any]]:
    """The lines of a run's log of one kind."""
    lines = (json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]
