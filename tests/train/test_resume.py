"""Stopping, resuming and travelling: nothing of a run is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from toy_drawer import CLASSES, logged, toy_config, toy_loop, toy_objective, toy_train_config

from cpmv.errors import CheckpointError
from cpmv.train.init import build
from cpmv.train.joint_model import JointModel
from cpmv.train.optim import Optimizer
from cpmv.train.state import export, find_states, load_state, load_weights, read_export


def losses(out: Path) -> list[tuple[int, float, float, float, float]]:
    return [(x["step"], x["lm"], x["dense"], x["query"], x["grad_norm"]) for x in logged(out)]


def test_a_killed_run_resumes_to_the_same_losses_bit_for_bit(tmp_path: Path) -> None:
    toy_loop(tmp_path / "whole", toy_train_config()).run()
    killed = toy_loop(tmp_path / "killed", toy_train_config())
    killed.run(until=5)
    killed.save()
    killed.run(until=8)  # steps that the kill loses
    resumed = toy_loop(tmp_path / "killed", toy_train_config(), resume=True)
    assert resumed.progress.step == 5
    resumed.run()
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_a_stop_signal_saves_and_the_command_resumes(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "cpmv.train", "pretrain", "--preset", "tiny-words", "--steps", "40"]
    command += ["--out", str(out), "--no-tensorboard", "--save-every", "1000", "--smoke"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 40
    while not (out / "metrics.jsonl").exists() or not logged(out):
        assert running.poll() is None and time.monotonic() < deadline, running.communicate()[1].decode()
        time.sleep(0.1)
    running.send_signal(signal.SIGTERM)
    assert running.wait(20) == 0
    assert b"go on with --resume" in running.communicate()[1]
    assert len(find_states(out / "state")) == 1
    again = subprocess.run(command, env=environment, capture_output=True)
    assert again.returncode == 2 and b"holds a run already; add --resume" in again.stderr


def test_only_the_newest_state_is_kept_and_a_torn_one_is_ignored(tmp_path: Path) -> None:
    loop = toy_loop(tmp_path, toy_train_config())
    for until in (1, 2, 3):
        loop.run(until=until)
        loop.save()
    (tmp_path / "state" / "state-00000009.part").mkdir()
    assert [p.name for p in find_states(tmp_path / "state")] == ["state-00000003"]


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    loop = toy_loop(tmp_path, toy_train_config())
    loop.run(until=1)
    loop.save()
    objective = toy_objective()
    frozen = [(n, p) for n, p in objective.named_parameters() if not n.startswith("vpm.")]
    with pytest.raises(CheckpointError, match="another model or other trained parts"):
        load_state(tmp_path / "state", Optimizer(frozen), None, 0, 1)
    with pytest.raises(CheckpointError, match="holds no state to resume from"):
        load_state(tmp_path / "nothing", loop.step.optimizer, None, 0, 1)


def test_weights_travel_in_small_shards_with_their_configuration(tmp_path: Path) -> None:
    source, target = (JointModel(build(toy_config(), "cpu", seed), CLASSES, seed) for seed in (1, 2))
    modules = [("", source.model), ("heads.", source.heads)]
    meta = {"config": source.model.config.hf, "step": 7}
    paths = export(tmp_path, modules, meta, "float32", max_bytes=1 << 20)
    assert len(paths) > 2
    largest = max(p.numel() for p in source.parameters()) * 4
    assert all(p.stat().st_size <= max(1 << 20, largest + 65536) for p in paths)
    found, tensors = read_export(tmp_path)
    assert found == meta
    load_weights(tensors, target.model, target.heads)
    for (name, a), (_, b) in zip(source.named_parameters(), target.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_an_export_with_a_shard_missing_or_of_another_shape_is_refused(tmp_path: Path) -> None:
    source = JointModel(build(toy_config(), "cpu", 0), CLASSES)
    paths = export(tmp_path, [("", source.model)], {}, "bfloat16", max_bytes=1 << 20)
    _, tensors = read_export(tmp_path)
    tensors["resampler.query"] = tensors["resampler.query"][:3]
    with pytest.raises(CheckpointError, match="lack or misshape 1 tensors, as resampler.query"):
        load_weights(tensors, source.model, None)
    paths[1].unlink()
    with pytest.raises(CheckpointError, match="shards; copy the missing ones"):
        read_export(tmp_path)


def test_heads_of_other_classes_start_afresh_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = JointModel(build(toy_config(), "cpu", 0), CLASSES)
    target = JointModel(build(toy_config(), "cpu", 1), CLASSES + 2)
    export(tmp_path, [("", source.model), ("heads.", source.heads)], {}, "float16")
    load_weights(read_export(tmp_path)[1], target.model, target.heads)
    assert "training heads start afresh: heads.dense.weight" in caplog.text
