"""A run as a user starts it: reward rises, one cut off within a batch goes on to the bit, both modes are told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from toy_drawer import logged

from cpmv.errors import CpmvError
from cpmv.train.__main__ import main, parser
from cpmv.train.finetune_config import PARTS
from cpmv.train.reward_mix import Weights
from cpmv.train.rl import PolicyObjective
from cpmv.train.rl_config import PRESETS, RLConfig
from cpmv.train.rl_options import configure
from cpmv.train.rl_run import BASELINES, ROLLOUTS, train_rl
from cpmv.train.samples import Reading

BASE = Path(__file__).parents[1] / "golden" / "tiny_a"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts of words alone; two with short answers, one with a long one."""
    folder = tmp_path_factory.mktemp("data")
    rows = [("2 + 3?", "5"), ("Is it so?", "yes"), ("Why?", "because nobody has ever asked before")]
    lines = [
        json.dumps({"messages": [{"role": "user", "content": question}], "solution": solution})
        for question, solution in rows
    ]
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "short.jsonl").write_text("\n".join(lines[:2]) + "\n")
    return folder


def settings(file: Path, /, **changes: Any) -> RLConfig:
    base: dict[str, Any] = {
        "model": str(BASE),
        "data": (str(file),),
        "trained": PARTS,
        "batch_size": 4,
        "group_size": 8,
        "parts": 2,
        "steps": 6,
        "lr": 1e-3,
        "max_new_tokens": 3,
        "reading": Reading(max_tokens=64),
        "filter_beta": None,
        "rows": 64,
        "save_every_s": 0.0,
    }
    return RLConfig(**(base | changes))


def lower_letters(question: str, answers: Sequence[str]) -> list[float]:
    """A taste that is learnt at once: letters rather than anything else."""
    return [sum(c.isalpha() for c in answer) / max(1, len(answer)) for answer in answers]


def test_reward_rises_on_a_task_that_is_learnt_at_once(data: Path, tmp_path: Path) -> None:
    seen: list[float] = []

    def taste(question: str, answers: Sequence[str]) -> list[float]:
        scores = lower_letters(question, answers)
        seen.append(sum(scores) / len(scores))
        return scores

    config = settings(
        data / "short.jsonl",
        batch_size=8,
        steps=16,
        lr=1e-4,
        deep_share=0.0,
        rewards=Weights(accuracy=0.0, form=0.0, preference=1.0),
    )
    result = train_rl(config, tmp_path / "run", device="cpu", reward_model=taste)
    assert result.folder == tmp_path / "run" / "model" and (result.folder / "config.json").exists()
    first, last = sum(seen[:8]) / 8, sum(seen[-8:]) / 8
    assert last > first + 0.15, (first, last)
    assert len(logged(tmp_path / "run", "rollout")) == 8 and len(logged(tmp_path / "run")) == 16


class _Killed(Exception):
    """Stands for SIGKILL: nothing is saved after it."""


@pytest.mark.parametrize("stop", [3, 4])  # within a batch, and before one begins
def test_a_run_cut_off_and_resumed_equals_an_unbroken_one_to_the_bit(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    config = settings(data / "prompts.jsonl", save_every_s=1e-6, filter_beta=0.5, rounds=2)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_rl(config, whole, device="cpu")
    feed = PolicyObjective.feed

    def killed(self: PolicyObjective, key: int, step: int) -> None:
        if step == stop:
            raise _Killed
        feed(self, key, step)

    monkeypatch.setattr(PolicyObjective, "feed", killed)
    with pytest.raises(_Killed):
        train_rl(config, broken, device="cpu")
    monkeypatch.undo()
    assert not (broken / "model").exists()
    train_rl(config, broken, device="cpu", resume=True)
    for kind in ("train", "rollout"):
        assert timeless(whole, kind) == timeless(broken, kind)
    a, b = (weights_of(out) for out in (whole, broken))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def timeless(out: Path, kind: str) -> list[dict[str, Any]]:
    """A run's log without what depends on the clock."""
    lines = logged(out, kind)
    return [{k: v for k, v in x.items() if "second" not in k and not k.endswith(("_s", "_gb"))} for x in lines]


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    return {n: t for file in sorted((out / "model").glob("*.safetensors")) for n, t in load_file(file).items()}


def test_what_a_run_writes_tells_both_modes_and_the_baselines_of_the_start(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = settings(data / "prompts.jsonl", steps=2, eval_data=(str(data / "short.jsonl"),), show=2)
    result = train_rl(config, out, device="cpu")
    (line,) = logged(out, "rollout")
    assert line["fast"]["responses"] == line["deep"]["responses"] == 16
    for name in ("reward", "accuracy", "form", "repetition", "tokens", "unfinished"):
        assert name in line["fast"] and name in line["deep"]
    assert {"equal", "filtered", "rounds", "sampled_tokens_per_s"} <= line.keys()
    assert {"policy", "clipped", "drift"} <= logged(out)[0].keys()
    assert set(json.loads((out / BASELINES).read_text())) == {"2"}  # of the long answer alone
    assert 0 < json.loads((out / BASELINES).read_text())["2"] < 1
    text = (out / ROLLOUTS).read_text()
    assert "== batch 0, fast" in text and "== batch 0, deep" in text and text.count("-- reward") == 16
    assert result.before["fast"]["n"] == result.after["deep"]["n"] == 2
    with pytest.raises(CpmvError, match="add --resume"):
        train_rl(config, out, device="cpu")


def test_adapters_learn_beside_a_frozen_base(data: Path, tmp_path: Path) -> None:
    args = ["rl", "--lora", "--data", str(data / "short.jsonl"), "--model", str(BASE), "--out", str(tmp_path / "run")]
    args += "--device cpu --batch-size 2 --group 4 --parts 1 --steps 2 --max-new-tokens 2 --max-tokens 64".split()
    assert main([*args, "--no-filter", "--save-every", "0", "--rank", "2", "--targets", "q_proj", "--recompute"]) == 0
    tensors = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert tensors and all("lora_" in name for name in tensors)


def test_the_command_line_makes_the_configuration(tmp_path: Path) -> None:
    def made(*more: str) -> RLConfig:
        return configure(parser().parse_args(["rl", "--out", str(tmp_path), *more]))

    published = made("--data", "x")
    assert (published.batch_size, published.group_size, published.max_new_tokens) == (128, 8, 8192)
    assert (published.temperature, published.deep_share, published.lr, published.schedule) == (
        1.0,
        0.5,
        1e-6,
        "constant",
    )
    assert (published.clip_low, published.clip_high, published.parts, published.filter_beta) == (0.2, 0.27, 4, 0.5)
    assert published.trained == PARTS and published.num_deep == 64
    drawn = made("--preset", "tiny", "--drawn", "think,count", "--group", "4", "--steps", "8", "--no-filter")
    assert drawn.drawn == ("think", "count") and drawn.group_size == 4 and drawn.filter_beta is None and drawn.dense
    assert made("--data", "x", "--no-debias", "--format-weight", "0.2").rewards == Weights(form=0.2, debias=False)
    assert made("--data", "x", "--lora", "--rank", "4").lora is not None
    assert set(PRESETS) == {"full", "lora", "tiny"}


@pytest.mark.parametrize("name", ["shard", "compile", "augment_video"])
def test_what_is_not_for_rl_is_refused(name: str) -> None:
    with pytest.raises(CpmvError, match=f"{name} is not for rl"):
        settings(Path("x"), **{name: True})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--data", "x", "--drawn", "sums"], "either --data FILE or --drawn"),
        ([], "either --data FILE or --drawn"),
        (["--drawn", "sums"], "give --steps"),
        (["--data", "x", "--group", "1"], "group_size is 1"),
        (["--data", "x", "--deep-share", "1.5"], "deep_share is 1.5"),
        (["--data", "x", "--temperature", "0"], "rollouts must draw"),
        (["--data", "x", "--batch-size", "2"], "has no 4 parts"),
        (["--data", "x", "--no-filter", "--filter-beta", "1"], "choose one"),
        (["--data", "x", "--preset", "huge"], "no preset 'huge'"),
        (["--drawn", "chess", "--steps", "4"], "there are no drawn tasks chess"),
        (["--drawn", "think", "--steps", "4"], "need a glyph atlas"),
        (["--drawn", "think", "--steps", "4", "--atlas", "nowhere.npz"], "no glyph atlas at nowhere.npz"),
        (["--data", "x", "--reward-model", "nowhere:f"], "cannot be imported"),
    ],
)
def test_mistakes_are_said_in_one_line(
    options: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rl", "--model", str(BASE), "--device", "cpu", "--out", str(tmp_path / "run"), *options]) == 2
    error = capsys.readouterr().err
    assert says in error and len(error.strip().splitlines()) == 1


def test_two_ranks_share_the_prompts_of_a_batch(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = "--batch-size 4 --group 4 --parts 2 --steps 2 --max-new-tokens 2 --max-tokens 64 --lr 1e-4 --log-every 1"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "cpmv.train"]
    command += ["rl", "--data", str(data / "prompts.jsonl"), "--model", str(BASE), "--out", str(out), "--device", "cpu"]
    command += [*options.split(), "--no-filter", "--save-every", "0"]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    (line,) = logged(out, "rollout")
    assert line["fast"]["responses"] == line["deep"]["responses"] == 4  # of this rank: a prompt of each mode
    assert [x["samples"] for x in logged(out)] == [8, 16]  # of both
    files = sorted((out / "rollouts").glob("batch-000000-*.safetensors"))
    numbers = []
    for file in files:
        with safe_open(file, framework="pt") as opened:
            numbers.append([number for number, _, _ in json.loads(opened.metadata()["batch"])["groups"]])
    assert [{n % 2 for n in rank} for rank in numbers] == [{0}, {1}] and all(len(rank) == 2 for rank in numbers)
