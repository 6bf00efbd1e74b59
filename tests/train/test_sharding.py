"""Sharded runs: the same losses as one process, any number of ranks to resume on, adapters, pairs, 8-bit moments."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from test_finetune import BASE, ENVIRONMENT, QUANTISED, command, losses, wait_for
from toy_drawer import logged

from cpmv.errors import CpmvError
from cpmv.train.finetune_config import FinetuneConfig
from cpmv.train.sharding import idle_sample, units
from cpmv.weights import checkpoint, hub


def turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures and six samples of words alone, in an order that gives ranks unlike rows."""
    folder = tmp_path_factory.mktemp("sharded")
    rows = []
    for i in range(6):
        Image.new("RGB", (60 + 40 * i, 60), ("red", "green", "blue")[i % 3]).save(folder / f"{i}.png")
        rows.append({"messages": turns("<image>Which?", "red green blue"[: 3 + i]), "images": [f"{i}.png"]})
        rows.append({"messages": turns(f"say {i}", f"{i}" * 9)})
    (folder / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = []
    for i in range(4):
        pair = {"messages": turns(f"<image>Pick {i}", "yes")}
        pairs.append({**pair, "rejected_response": "no", "images": [f"{i}.png"]})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    return folder


def run(*arguments: str) -> None:
    done = subprocess.run(arguments, env=ENVIRONMENT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-3000:]


FULL = ("--steps", "4", "--lr", "1e-3", "--freeze", "none", "--row-tokens", "256", "--max-tokens", "256")


def test_two_sharded_ranks_lose_what_one_process_loses_and_write_the_same_model(data: Path, tmp_path: Path) -> None:
    run(*command(data, tmp_path / "one", *FULL, "--save-every", "0"))
    run(*command(data, tmp_path / "two", *FULL, "--shard", "--recompute", "--save-every", "0", ranks=2))
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 4
    assert [x[1] for x in two] == pytest.approx([x[1] for x in one], rel=1e-5)
    # One sum over three million squares in float32 is itself only so exact.
    assert [x[2] for x in two] == pytest.approx([x[2] for x in one], rel=5e-4)
    expected = load_file(tmp_path / "one/model/model.safetensors")
    for name, tensor in load_file(tmp_path / "two/model/model.safetensors").items():
        torch.testing.assert_close(tensor.float(), expected[name].float(), rtol=0, atol=2e-3, msg=name)


def test_a_killed_sharded_run_goes_on_with_as_many_and_with_more_ranks(data: Path, tmp_path: Path) -> None:
    options = ("--lora", "--rank", "2", "--steps", "8", "--lr", "1e-2", "--shard")
    run(*command(data, tmp_path / "whole", *options, "--save-every", "0", ranks=2))
    killed = tmp_path / "killed"
    # Its own session, so that the launcher's ranks die with it.
    running = subprocess.Popen(
        command(data, killed, *options, "--save-every", "0.001", ranks=2),
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    wait_for(lambda: any(killed.glob("state/state-0000000[2-5]/progress.json")), running)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    state = sorted(p for p in (killed / "state").glob("state-*") if p.suffix != ".part")[-1]
    assert {p.suffix for p in state.rglob("*") if p.is_file()} == {".json", ".safetensors"}, "nothing is pickled"
    shutil.copytree(killed, tmp_path / "wider")
    for folder, ranks in ((killed, 2), (tmp_path / "wider", 4)):
        run(*command(data, folder, *options, "--save-every", "0.001", "--resume", ranks=ranks))
        both = [(one, two) for one, two in zip(losses(tmp_path / "whole"), losses(folder), strict=True)]
        assert all(two == pytest.approx(one, rel=0 if ranks == 2 else 1e-4) for one, two in both)


def test_moments_of_eight_bits_learn_and_come_back(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    # Few shapes: torchao compiles its step for each. A slice of 4096 values and more is kept in 8 bits.
    options = ("--lora", "--targets", "q_proj", "--rank", "64", "--lr", "1e-2", "--shard", "--optimizer", "adamw8bit")
    run(*command(data, tmp_path / "run", *options, "--steps", "6", "--save-every", "0.001", ranks=2))
    curve = [loss for _, loss, _ in losses(tmp_path / "run")]
    assert curve[-1] < curve[0]
    state = max((tmp_path / "run/state").glob("state-*"))
    names = [name for file in state.glob("sharded/*.safetensors") for name in load_file(file)]
    assert any(name.endswith("q_proj.lora_A.codes") for name in names)


def test_adapters_over_quantised_weights_learn_sharded(data: Path, tmp_path: Path) -> None:
    options = ("--lora", "--rank", "2", "--steps", "3", "--lr", "1e-2", "--save-every", "0")
    one, two = command(data, tmp_path / "one", *options), command(data, tmp_path / "two", *options, "--shard", ranks=2)
    for arguments in (one, two):
        arguments[arguments.index(str(BASE))] = str(QUANTISED)
        run(*arguments)
    one_run, two_runs = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert [x[1:] for x in two_runs] == [pytest.approx(x[1:], rel=5e-4) for x in one_run]
    assert (tmp_path / "two/adapter/adapter_model.safetensors").is_file()


def test_pairs_learn_sharded(data: Path, tmp_path: Path) -> None:
    for out, more, ranks in (("one", (), 1), ("two", ("--shard",), 2)):
        arguments = command(data, tmp_path / out, "--lora", "--steps", "3", "--save-every", "0", *more, ranks=ranks)
        arguments[arguments.index("sft")] = "dpo"
        arguments[arguments.index(str(data / "all.jsonl"))] = str(data / "pairs.jsonl")
        run(*arguments)
    one, two = ([x["dpo"] for x in logged(tmp_path / out)] for out in ("one", "two"))
    assert one[0] == pytest.approx(0.6931, abs=1e-3)
    assert two == pytest.approx(one, rel=1e-4)


def test_every_parameter_belongs_to_one_unit_and_an_idle_sample_teaches_nothing() -> None:
    model = checkpoint.load(hub.resolve(str(BASE)), device="cpu", dtype="float32").model
    held = [id(p) for unit in units(model) for p in unit.parameters()]
    assert set(held) == {id(p) for p in model.parameters()}
    idle = idle_sample(model)
    assert idle.labels is not None and bool((idle.labels < 0).all())
    assert model.embed(idle).isfinite().all()


def test_sharding_alone_and_8_bits_unsharded_are_mistakes(data: Path, tmp_path: Path) -> None:
    with pytest.raises(CpmvError, match="--shard"):
        FinetuneConfig(data=("x",), trained=("language",), optimizer="adamw8bit")
    with pytest.raises(CpmvError, match="adamw or adamw8bit"):
        FinetuneConfig(data=("x",), trained=("language",), optimizer="sgd")
    alone = subprocess.run(
        command(data, tmp_path, "--lora", "--shard"), env=ENVIRONMENT, capture_output=True, text=True
    )
    assert alone.returncode == 2 and "--gpus" in alone.stderr
