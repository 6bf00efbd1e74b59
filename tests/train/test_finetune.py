"""Fine-tuning as a user runs it: killed and resumed to the bit, on two ranks as on one, frozen parts untouched."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from toy_drawer import logged

from cpmv.errors import CpmvError
from cpmv.inputs.messages import Message, Text, Video
from cpmv.model.config import ModelInputs
from cpmv.model.lora import LoraConfig, lora_layers
from cpmv.train.finetune import choose_parts, finetune
from cpmv.train.finetune_config import PARTS, FinetuneConfig
from cpmv.train.finetune_options import configure
from cpmv.train.optim import Optimizer
from cpmv.train.recompute import recompute_blocks
from cpmv.train.samples import Reading
from cpmv.train.stream import jitter_times, slower, with_drawn_rates
from cpmv.train.supervised import FinetuneObjective
from cpmv.weights import checkpoint, hub

BASE = Path(__file__).parents[1] / "golden" / "tiny_a"
QUANTISED = BASE.with_name("tiny_int4")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve samples: pictures of three colours, a large one that is sliced, a clip, and words alone."""
    folder = tmp_path_factory.mktemp("data")
    rows: list[dict[str, Any]] = []
    for i in range(9):
        colour = ("red", "green", "blue")[i % 3]
        Image.new("RGB", (60 + 10 * i, 60), colour).save(folder / f"{i}.png")
        turns = [{"role": "user", "content": "<image>Which?"}, {"role": "assistant", "content": colour}]
        rows.append({"messages": turns, "images": [f"{i}.png"]})
    (folder / "clip").mkdir()
    for i in range(4):
        Image.new("RGB", (56, 56), (60 * i, 0, 0)).save(folder / "clip" / f"{i}.png")
    clip = {"video": [f"clip/{i}.png" for i in range(4)], "frame_fps": 2}
    turns = [{"role": "user", "content": "<video>What?"}, {"role": "assistant", "content": "redder"}]
    rows.append({"messages": turns, "videos": [clip]})
    for word in ("hello", "bye"):
        rows.append({"messages": [{"role": "user", "content": word}, {"role": "assistant", "content": word}]})
    (folder / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[-2:]))
    return folder


def command(data: Path, out: Path, *more: str, ranks: int = 1) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    options = ["--data", str(data / "all.jsonl"), "--model", str(BASE), "--out", str(out), "--batch-size", "4"]
    return [
        sys.executable,
        *launcher,
        "-m",
        "cpmv.train",
        "sft",
        *options,
        "--device",
        "cpu",
        "--log-every",
        "1",
        *more,
    ]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def settings(folder: Path, /, **changes: Any) -> FinetuneConfig:
    base: dict[str, Any] = {
        "model": str(BASE),
        "data": (str(folder / "all.jsonl"),),
        "lora": LoraConfig(rank=2, alpha=4),
        "batch_size": 4,
        "steps": 3,
        "lr": 1e-3,
        "log_every": 1,
        "save_every_s": 0.0,
    }
    return FinetuneConfig(**(base | changes))


def losses(out: Path) -> list[tuple[int, float, float]]:
    return [(x["step"], x["lm"], x["grad_norm"]) for x in logged(out)]


def wait_for(condition: Callable[[], bool], running: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert running.poll() is None and time.monotonic() < deadline, running.communicate()[1].decode()[-2000:]
        time.sleep(0.02)


def test_a_run_killed_and_resumed_equals_an_unbroken_one_to_the_bit(data: Path, tmp_path: Path) -> None:
    options = ("--lora", "--rank", "2", "--dropout", "0.1", "--steps", "10", "--lr", "1e-3", "--save-every", "0.001")
    whole = subprocess.run(command(data, tmp_path / "whole", *options), env=ENVIRONMENT, capture_output=True)
    assert whole.returncode == 0, whole.stderr.decode()[-2000:]
    killed = tmp_path / "killed"
    running = subprocess.Popen(command(data, killed, *options), env=ENVIRONMENT, stderr=subprocess.PIPE)
    wait_for(lambda: any(killed.glob("state/state-0000000[3-9]/progress.json")), running)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert not (killed / "adapter").exists()
    resumed = subprocess.run(command(data, killed, *options, "--resume"), env=ENVIRONMENT, capture_output=True)
    assert resumed.returncode == 0, resumed.stderr.decode()[-2000:]
    assert losses(killed) == losses(tmp_path / "whole") and len(losses(killed)) == 10
    a, b = (load_file(out / "adapter" / "adapter_model.safetensors") for out in (killed, tmp_path / "whole"))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_two_ranks_and_many_rows_give_the_loss_curve_of_one(data: Path, tmp_path: Path) -> None:
    options = ("--lora", "--rank", "2", "--steps", "4", "--lr", "1e-3", "--save-every", "0", "--max-tokens", "900")
    alone = subprocess.run(
        command(data, tmp_path / "one", *options, "--row-tokens", "8000"), env=ENVIRONMENT, capture_output=True
    )
    assert alone.returncode == 0, alone.stderr.decode()[-2000:]
    both = subprocess.run(command(data, tmp_path / "two", *options, ranks=2), env=ENVIRONMENT, capture_output=True)
    assert both.returncode == 0, both.stderr.decode()[-2000:]
    for one, two in zip(losses(tmp_path / "one"), losses(tmp_path / "two"), strict=True):
        assert one == pytest.approx(two, rel=1e-5, abs=1e-5)


def test_parts_outside_the_set_stay_bit_identical(data: Path, tmp_path: Path) -> None:
    before = dict(checkpoint.load(hub.resolve(BASE), device="cpu", dtype="float32").model.named_parameters())
    before = {name: p.detach().clone() for name, p in before.items()}
    result = finetune(settings(data, lora=None, trained=("vision", "resampler")), tmp_path / "run", device="cpu")
    assert result.folder == tmp_path / "run" / "model"
    after = dict(checkpoint.load(hub.resolve(result.folder), device="cpu", dtype="float32").model.named_parameters())
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"vpm", "resampler"}


def test_adapters_beside_whole_parts_come_back_together(data: Path, tmp_path: Path) -> None:
    import cpmv

    config = settings(data, trained=("resampler",), lora=LoraConfig(rank=2, alpha=4, targets=("q_proj",)))
    result = finetune(config, tmp_path / "run", device="cpu")
    saved = load_file(result.folder / "adapter_model.safetensors")
    model = cpmv.load(BASE, adapter=result.folder, device="cpu")
    assert torch.equal(model.network.resampler.query, saved["base_model.model.resampler.query"])
    assert all(name.endswith("q_proj") for name in lora_layers(model.network))


def test_rows_without_pictures_are_safe_when_only_the_tower_learns(data: Path, tmp_path: Path) -> None:
    config = settings(data, data=(str(data / "words.jsonl"),), lora=None, trained=("vision",), batch_size=2, steps=2)
    assert finetune(config, tmp_path / "run", device="cpu").steps == 2
    assert all(norm == 0 for *_, norm in losses(tmp_path / "run"))


def test_a_quantised_base_takes_adapters_and_refuses_to_learn_whole(data: Path, tmp_path: Path) -> None:
    result = finetune(settings(data, model=str(QUANTISED)), tmp_path / "run", device="cpu")
    assert result.folder is not None
    with pytest.raises(
        CpmvError, match="language.* is quantised in this checkpoint and cannot learn whole; give --lora"
    ):
        finetune(settings(data, model=str(QUANTISED), lora=None, trained=PARTS), tmp_path / "other", device="cpu")


def test_training_learns_the_samples_and_says_so(data: Path, tmp_path: Path) -> None:
    file = str(data / "words.jsonl")
    config = settings(data, data=(file,), eval_data=(file,), batch_size=2, steps=40, lr=1e-2, log_every=20)
    result = finetune(config, tmp_path / "run", device="cpu")
    assert result.before["held-out"]["exact"] == 0 and result.after["held-out"]["exact"] == 1
    assert result.after["held-out"]["loss"] < 0.1 < result.before["held-out"]["loss"]
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-2])
    assert line["tokens_per_s"] > 0 and line["memory_gb"] > 0


def test_bad_samples_are_named_and_left_out_or_stop_the_run(data: Path, tmp_path: Path) -> None:
    rows = (data / "all.jsonl").read_text().splitlines()
    torn = bytearray((data / "0.png").read_bytes())
    torn[60:] = bytes(len(torn) - 60)  # its size can be read, its pixels cannot: found when its step comes
    (tmp_path / "torn.png").write_bytes(torn)
    bad = [
        json.dumps({"messages": [{"role": "user", "content": "no answer"}]}),
        rows[0].replace("0.png", str(tmp_path / "torn.png")),
        json.dumps({"messages": [{"role": "user", "content": "long " * 400}, {"role": "assistant", "content": "x"}]}),
    ]
    file = data / "bad.jsonl"
    file.write_text("\n".join([*rows[:3], *bad, *rows[9:]]) + "\n{\n")
    config = settings(data, data=(str(file),), reading=Reading(max_tokens=340), steps=4)
    result = finetune(config, tmp_path / "run", device="cpu")
    named = [json.loads(line) for line in (tmp_path / "run" / "bad_samples.jsonl").read_text().splitlines()]
    assert {(p["line"], p["kind"]) for p in named} == {(4, "sample"), (5, "media"), (6, "long"), (10, "sample")}
    assert result.bad == 4
    with pytest.raises(CpmvError, match=r"bad.jsonl:10: the line is not JSON"):
        finetune(settings(data, data=(str(file),), strict=True), tmp_path / "strict", device="cpu")


def test_mistakes_are_told_before_the_model_is_loaded(data: Path, tmp_path: Path) -> None:
    for changes, message in (
        ({"lora": None}, "nothing would learn"),
        ({"trained": ("language",)}, "cannot learn together"),
        ({"trained": ("tower",)}, "there is no part tower"),
        ({"data": ()}, "there is no data"),
        ({"row_tokens": 100}, "a row of 100 tokens cannot hold samples of 4096"),
    ):
        with pytest.raises(CpmvError, match=message):
            settings(data, **changes)
    run = tmp_path / "run"
    finetune(settings(data, steps=1), run, device="cpu")
    with pytest.raises(CpmvError, match="holds a run already; add --resume"):
        finetune(settings(data), run, device="cpu")
    with pytest.raises(CpmvError, match="holds no state to resume from"):
        finetune(settings(data), tmp_path / "none", device="cpu", resume=True)
    finetune(settings(data, steps=1, save_every_s=1.0), tmp_path / "kept", device="cpu")
    with pytest.raises(CpmvError, match="was begun with lr = 0.001, now it is 0.1"):
        finetune(settings(data, steps=1, lr=0.1), tmp_path / "kept", device="cpu", resume=True)


def test_the_command_line_changes_its_preset(tmp_path: Path) -> None:
    from cpmv.train.__main__ import parser

    def configured(*arguments: str) -> FinetuneConfig:
        return configure(parser().parse_args(["sft", "--data", "x.json:2", "--out", "o", *arguments]))

    plain = configured()
    assert plain.lora is None and plain.trained == PARTS and plain.data == ("x.json:2",)
    adapted = configured(
        "--lora", "--rank", "8", "--targets", "q_proj,v_proj", "--freeze", "language,embeddings,vision"
    )
    assert adapted.lora == LoraConfig(8, 16.0, targets=("q_proj", "v_proj")) and adapted.trained == ("resampler",)
    assert configured("--preset", "cookbook-full").trained == ("vision", "resampler")
    assert configured("--preset", "cookbook-lora").lora == LoraConfig(
        64, 64.0, 0.05, ("q_proj", "k_proj", "v_proj", "o_proj")
    )
    for arguments, message in (
        (("--rank", "8"), "--rank is of adapters, but there are none; add --lora"),
        (("--freeze", "tower"), "there is no such part"),
        (("--preset", "best"), "there is no preset 'best'"),
        (("--steps", "3", "--epochs", "2"), "a run has one length"),
    ):
        with pytest.raises(CpmvError, match=message):
            configured(*arguments)


def test_recomputed_activations_give_the_same_gradients(data: Path) -> None:
    from cpmv.inputs.processor import Processor
    from cpmv.train.formats import read_source
    from cpmv.train.samples import read_sample

    norms = []
    for recompute in (False, True):
        loaded = checkpoint.load(hub.resolve(BASE), device="cpu", dtype="float32")
        config = settings(data, lora=LoraConfig(rank=2, alpha=4, dropout=0.2))
        choose_parts(loaded.model, config)
        for layer in lora_layers(loaded.model).values():
            torch.nn.init.constant_(layer.lora_B, 0.01)
        processor = Processor(loaded.config, loaded.tokenizer)
        records = read_source(data / "all.jsonl").records
        samples = [read_sample(processor, records[i], Reading()) for i in (0, 8, 10)]
        objective = FinetuneObjective(loaded.model.train(), lambda step, s=samples: s, 4096, 3, 0)
        optimizer = Optimizer(objective.named_parameters(), muon=False)
        if recompute:
            recompute_blocks(loaded.model)
        objective.feed(0, 0)
        for row in objective.load(0, None):
            objective.sums(row).sum().backward()
        norms.append(optimizer.grads.clone())
    assert torch.equal(norms[0], norms[1]) and norms[0].abs().sum() > 0


def test_adamw_alone_steps_matrices_at_their_own_rates() -> None:
    """The first AdamW step is the rate itself, whatever the gradient's size."""
    parameters = {name: torch.nn.Parameter(torch.ones(2, 3)) for name in ("a.layers.x", "b.lora_A")}
    optimizer = Optimizer(
        parameters.items(), adam_scale=1.0, weight_decay=0.0, muon=False, scale_of=lambda n: 0.5 if "a" in n[0] else 1.0
    )
    optimizer.lr.fill_(0.1)
    optimizer.grads.fill_(0.01)
    optimizer.step()
    torch.testing.assert_close(parameters["a.layers.x"].data, torch.full((2, 3), 0.95), atol=1e-4, rtol=0)
    torch.testing.assert_close(parameters["b.lora_A"].data, torch.full((2, 3), 0.9), atol=1e-4, rtol=0)


def clip(fps: float | None = None, packing: int | None = None) -> list[Message]:
    return [Message("user", [Video("x.mp4", fps, packing), Text("What?")]), Message("assistant", [Text("That.")])]


def rates(messages: list[Message]) -> tuple[float | None, int | None]:
    part = messages[0].content[0]
    assert isinstance(part, Video)
    return part.fps, part.packing


def test_drawn_rates_follow_the_published_ranges_and_respect_what_is_fixed() -> None:
    drawn = [rates(with_drawn_rates(clip(), random.Random(i))) for i in range(2000)]
    assert all(fps is not None and 0.5 <= fps <= 10 for fps, _ in drawn)
    share = sum(packing == 6 for _, packing in drawn) / len(drawn)
    assert 0.26 < share < 0.34 and {packing for _, packing in drawn} == {1, 2, 3, 4, 5, 6}
    below = sum(fps is not None and fps < 5**0.5 for fps, _ in drawn) / len(drawn)  # the middle of the logarithm
    assert 0.45 < below < 0.55
    assert rates(with_drawn_rates(clip(2.0, 3), random.Random(0))) == (2.0, 3)
    assert drawn[0] == rates(with_drawn_rates(clip(), random.Random(0)))
    fewer = slower(clip(4.0, 1))
    assert fewer is not None and rates(fewer) == (2.0, 6) and slower(clip()) is None


def test_jittered_times_keep_their_order_and_leave_pictures_alone() -> None:
    def sample(groups: list[list[int]]) -> ModelInputs:
        empty = torch.empty(0)
        return ModelInputs(empty, empty, empty, empty, groups, "")

    seen = set()
    for seed in range(50):
        moved = sample([[-1], [0, 3, 7], [10, 13]])
        jitter_times(moved, random.Random(seed))
        assert moved.temporal_ids[0] == [-1]
        times = [t for group in moved.temporal_ids[1:] for t in group]
        assert times == sorted(times) and times[0] >= 0
        assert all(abs((t - times[0]) - base) <= 2 for t, base in zip(times, (0, 3, 7, 10, 13), strict=True))
        seen.add(times[0])
    assert len(seen) > 20
    alone = [sample([[0], [5]]) for _ in range(40)]
    for seed, one in enumerate(alone):
        jitter_times(one, random.Random(seed))
    without_time = sum(one.temporal_ids == [[-1], [-1]] for one in alone)
    assert 10 < without_time < 30


def test_clips_are_shown_at_drawn_rates_in_training(data: Path, tmp_path: Path) -> None:
    config = settings(data, augment_video=True, steps=6)
    first = finetune(config, tmp_path / "a", device="cpu")
    second = finetune(config, tmp_path / "b", device="cpu")
    assert first.bad == second.bad == 0
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
