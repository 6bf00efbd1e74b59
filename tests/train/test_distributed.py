"""Data parallelism: a step on two ranks is the step on one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_drawer import toy_objective

from cpmv.errors import CpmvError
from cpmv.train.distributed import join
from cpmv.train.optim import Optimizer
from cpmv.train.pretrain import share_of
from cpmv.train.step import Step

STEPS = 4


def train(out: Path) -> None:
    """Train a few steps as one rank of the surrounding process group; rank 0 writes what it measured."""
    world, device = join(torch.device("cpu"))
    objective = toy_objective(world.rank, world.size, shift=False)
    optimizer = Optimizer(objective.named_parameters())
    optimizer.lr.fill_(2e-3)
    # The toy drawer draws the whole step everywhere, so all ranks use the same generator.
    step = Step(objective, optimizer, world, torch.Generator(device).manual_seed(0))
    measured = []
    for number in range(STEPS):
        step.run(objective.key(number, seed=0), number)
        measured.append(step.read())
    if world.is_main:
        out.write_text(json.dumps({"measured": measured, "norm": float(optimizer.params.norm())}))
    world.close()


def test_two_ranks_take_the_same_steps_as_one(tmp_path: Path) -> None:
    train(tmp_path / "one.json")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, __file__, str(tmp_path / "two.json")], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json"))
    for a, b in zip(one["measured"], two["measured"], strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-5)
    assert one["norm"] == pytest.approx(two["norm"], rel=1e-6)


def test_a_mix_that_does_not_split_is_refused() -> None:
    assert share_of({"text": 200, "clip": 48}, 4) == {"text": 50, "clip": 12}
    with pytest.raises(CpmvError, match="text 200 samples a step cannot be split over 3 GPUs"):
        share_of({"text": 200, "clip": 48}, 3)


if __name__ == "__main__":
    train(Path(sys.argv[1]))
