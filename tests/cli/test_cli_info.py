"""`cpmv info` and `cpmv check`: facts from headers alone, and every tensor looked at."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command import MODEL, Command
from conftest import GOLDEN
from safetensors.torch import load_file, save_file

from cpmv.weights.plan import MemoryPlan
from cpmv.weights.stored import MappedFile


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(capsys, monkeypatch)


@pytest.mark.parametrize(
    ("checkpoint", "format_"), [("tiny_a", "bf16"), ("tiny_int4", "nf4"), ("tiny_awq", "awq"), ("tiny_gguf", "gguf")]
)
def test_info_tells_every_format_without_reading_a_tensor(
    checkpoint: str, format_: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor, limit = MappedFile.tensor, 1000 if format_ == "nf4" else 0  # NF4 keeps its shapes in small tensors

    def read(file: MappedFile, offset: int, nbytes: int, *rest: Any) -> torch.Tensor:
        assert nbytes <= limit, "info read a tensor"
        return tensor(file, offset, nbytes, *rest)

    monkeypatch.setattr(MappedFile, "tensor", read)
    folder = GOLDEN / checkpoint
    assert command("info", str(folder), "--json", "--device", "cpu") == 0
    (report,) = command.answers()
    assert report["format"] == format_ and report["version"] == "4.5"
    files = [*folder.glob("*.safetensors"), *folder.glob("*.gguf")]
    assert sorted(report["files"]) == sorted(str(file) for file in files)
    assert 0.9 * sum(file.stat().st_size for file in files) < report["bytes"] <= sum(f.stat().st_size for f in files)
    assert report["memory"]["total"] == sum(report["memory"]["items"].values())
    assert report["memory"]["fits"] is True


def test_info_counts_images_frames_and_context(command: Command) -> None:
    def plan(*options: str) -> dict[str, int]:
        assert command("info", MODEL, "--json", "--device", "cpu", *options) == 0
        report = command.answers()[0]
        return {"visual": report["visual_tokens"], "context": report["context"], **report["memory"]["items"]}

    one, none = plan(), plan("--images", "0")
    assert one["visual"] == 640 and none["visual"] == 0 and none["vision"] == 0  # an overview and 9 slices of 64
    assert plan("--images", "3")["visual"] == 3 * one["visual"]
    packed = plan("--images", "0", "--frames", "60", "--packing", "6")
    assert packed["visual"] == 640 and plan("--images", "0", "--frames", "60")["visual"] == 60 * 64
    assert plan("--context", "20000")["KV cache"] == 2 * plan("--context", "10000")["KV cache"]


def test_info_is_readable(command: Command) -> None:
    assert command("info", MODEL, "--device", "cpu", "--dtype", "float32", "--frames", "1") == 0
    for fact in ("bf16", "3.5 million", "3 layers, 256 wide", "1 image and 1 frame", "KV cache", "total", "it fits"):
        assert fact in command.out
    assert "cpu (asked for), float32 (asked for)" in command.out


@pytest.mark.parametrize(
    ("free", "verdict"), [(10**6, "too little"), (10**9, "it fits"), (4 * 10**8 + 10**7, "too little")]
)
def test_info_says_whether_it_fits(free: int, verdict: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpmv.weights.plan.free_memory", lambda device: free)
    monkeypatch.setattr("cpmv.weights.checkpoint.free_memory", lambda device: free)
    assert command("info", MODEL, "--device", "cpu", "--dtype", "float32") == 0
    assert command.out.strip().endswith(verdict)


def test_info_says_when_mapped_weights_alone_are_too_many() -> None:
    from cpmv.cli.info import Info, _describe_plan
    from cpmv.device import Placement

    place = Placement(torch.device("cpu"), torch.float32, "cpu")
    plan = MemoryPlan(torch.device("cpu"), {"weights": 10**10, "runtime": 10**9}, 10**10, 2 * 10**9, 2688, 640)
    assert "reads its weights from disk again and again" in _describe_plan(Info("x"), place, plan)[-1]


def test_info_refuses_more_context_than_the_model_has(command: Command) -> None:
    assert "has 50000 tokens but the context allows 40960" in command.mistake("info", MODEL, "--context", "50000")


@pytest.mark.parametrize("checkpoint", ["tiny_a", "tiny_int4", "tiny_awq", "tiny_gguf"])
def test_check_passes_every_reference_checkpoint(checkpoint: str, command: Command) -> None:
    assert command("check", str(GOLDEN / checkpoint)) == 0
    assert command.out.endswith("all is well\n") and command.err == ""


def test_check_lists_tensors_by_name(command: Command) -> None:
    assert command("check", MODEL, "--tensors") == 0
    names = {name for file in Path(MODEL).glob("*.safetensors") for name in load_file(file)}
    listed = {line.split()[0]: line.split()[-1] for line in command.out.splitlines()[:-2]}
    assert set(listed) == names and set(listed.values()) == {"ok"}


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """The reference checkpoint with one tensor missing, one of a wrong shape, and one that is not finite."""
    folder = tmp_path / "broken"
    shutil.copytree(MODEL, folder)
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        tensors.pop("vpm.post_layernorm.weight", None)
        if "resampler.ln_q.weight" in tensors:
            tensors["resampler.ln_q.weight"] = torch.ones(7)
        if "llm.model.norm.weight" in tensors:
            tensors["llm.model.norm.weight"][3] = float("nan")
        save_file(tensors, file)
    return folder


def test_check_names_every_tensor_that_is_wrong(broken: Path, command: Command) -> None:
    assert command("check", str(broken), "--json") == 1
    (report,) = command.answers()
    assert report["ok"] is False
    found = {problem.split()[0] for problem in report["problems"]}
    assert {"vpm.post_layernorm.weight", "resampler.ln_q.weight", "llm.model.norm.weight"} <= found
    assert command("check", str(broken)) == 1
    assert "wrong: vpm.post_layernorm.weight" in command.out and "problems found" in command.out


def test_check_reports_what_cannot_even_be_listed(tmp_path: Path, command: Command) -> None:
    assert command("check", str(tmp_path)) == 1
    assert "no config.json" in command.out and command.out.endswith("1 problem found\n")
    assert "does not exist" in command.mistake("check", str(tmp_path / "nowhere"))
