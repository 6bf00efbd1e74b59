"""A round of learning from feedback on the bundled model; one that was cut off goes on as if it had not been."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cpmv.errors import CpmvError
from cpmv.train import feedback, feedback_options
from cpmv.train.feedback import rounds_of, samples_of, train_feedback
from cpmv.train.feedback_config import FeedbackConfig, full, tiny
from cpmv.train.feedback_files import read_lines
from cpmv.train.feedback_policy import Policy
from cpmv.train.feedback_prompts import RecordPrompts, ScenePrompts
from cpmv.train.finetune_config import PARTS
from cpmv.train.formats import read_source


@pytest.fixture(autouse=True)
def _same_threads() -> Iterator[None]:
    """Sums are split over threads, so runs are the same only with equally many of them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settings(**changes: Any) -> FeedbackConfig:
    base: dict[str, Any] = {
        "drawn": ("describe",),
        "eval_drawn": 2,
        "rounds": 1,
        "prompts": 6,
        "group_size": 4,
        "temperature": 1.5,
        "max_new_tokens": 150,
        "judge": "truth",
        "rows": 8,
        "batch_size": 2,
        "epochs": 1.0,
        "lr": 1e-3,
        "row_tokens": 1024,
        "reading": tiny()["reading"],
        "balanced": False,
        "save_every_s": 0.0,
        "seed": 1,
    }
    return FeedbackConfig(**(tiny() | base | changes))


LINES = ("samples.jsonl", "claims.jsonl", "verdicts.jsonl", "pairs.jsonl")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train_feedback(settings(), out, device="cpu")
    torch.set_num_threads(threads)
    return out


def test_a_round_leaves_everything_it_did(unbroken: Path) -> None:
    (report,) = rounds_of(unbroken)
    samples, folder = samples_of(unbroken, 1), unbroken / "round-1"
    verdicts = read_lines(folder / "verdicts.jsonl")
    rejected = [[sum(v["rejected"] for v in response) for response in row["verdicts"]] for row in verdicts]
    assert report["prompts"] == len(samples) == 6 and report["responses"] == 24
    assert report["rejected"] == sum(map(sum, rejected)) > 0
    assert report["pairs"] == len(read_lines(folder / "pairs.jsonl")) > 0
    assert {"chair", "chair_answers", "recall"} <= set(report["before"]) == set(report["after"])
    assert (folder / "model" / "config.json").is_file()
    assert json.loads((unbroken / "report.json").read_text())["rounds"] == [report]
    assert json.loads((unbroken / "best.json").read_text())["model"] == report["best"]


def test_pairs_are_read_as_preferences_with_fewer_rejected_claims_chosen(unbroken: Path) -> None:
    source = read_source(unbroken / "round-1" / "pairs.jsonl")
    assert source.format == "rlaif-v" and source.records and not source.problems
    for record in source.records:
        chosen, rejected = json.loads(record.extra["origin"])["scores"]
        assert chosen - rejected >= 1 and record.rejected is not None and record.media


def _stop_at(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    calls = 0
    if where == "sampling":
        plain = Policy.sample

        def sample(self: Policy, *args: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 3:  # the first is of the held-out prompts
                raise KeyboardInterrupt
            return plain(self, *args, **named)

        monkeypatch.setattr(Policy, "sample", sample)
    else:

        def stop(*args: Any, **named: Any) -> Any:
            raise KeyboardInterrupt

        monkeypatch.setattr(feedback, "finetune" if where == "learning" else "merge_adapter", stop)


def test_a_run_that_was_cut_off_again_and_again_ends_as_an_unbroken_one(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    for place, where in enumerate(("sampling", "learning", "merging")):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            _stop_at(patch, where)
            train_feedback(settings(), out, device="cpu", resume=place > 0)
        if where == "sampling":
            with (out / "round-1" / "samples.jsonl").open("a") as file:
                file.write('{"number": 2, "resp')
    train_feedback(settings(), out, device="cpu", resume=True)
    for name in LINES:
        assert (out / "round-1" / name).read_text() == (unbroken / "round-1" / name).read_text(), name
    mine, theirs = (load_file(folder / "round-1" / "model" / "model.safetensors") for folder in (out, unbroken))
    assert set(mine) == set(theirs) and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_folder_is_not_overwritten_and_settings_stay(unbroken: Path, tmp_path: Path) -> None:
    with pytest.raises(CpmvError, match="--resume"):
        train_feedback(settings(), unbroken, device="cpu")
    with pytest.raises(CpmvError, match="begun with lr"):
        train_feedback(settings(lr=2e-3), unbroken, device="cpu", resume=True)
    with pytest.raises(CpmvError, match="no run to go on with"):
        train_feedback(settings(), tmp_path / "nothing", device="cpu", resume=True)


def test_rows_of_ones_own_are_split_and_odd_ones_named(tmp_path: Path) -> None:
    asked = [ScenePrompts().take(number, tmp_path / "pictures") for number in range(5)]
    rows: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": f"<image>{a.question}"}], "images": [str(a.image)]} for a in asked
    ]
    rows.append({"messages": [{"role": "user", "content": "No picture?"}]})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = read_source(tmp_path / "rows.jsonl")
    training, held_out = RecordPrompts.split([source], 3)
    assert (training.size, held_out.size) == (4, 1) and [p.line for p in source.problems] == [6]
    seen = {training.take(number, tmp_path).image for number in range(4)}
    assert len(seen) == 4 and held_out.take(0, tmp_path).image not in seen
    assert {training.take(number, tmp_path).image for number in range(4, 8)} == seen


def test_the_options_make_the_configuration(tmp_path: Path) -> None:
    def configured(*words: str) -> FeedbackConfig:
        parser = argparse.ArgumentParser()
        feedback_options.add(parser.add_subparsers(dest="command"))
        return feedback_options.configure(parser.parse_args(["rlaif", "--out", str(tmp_path), *words]))

    config = configured("--drawn", "describe", "--judge", "truth", "--lora", "--rank", "8", "--group", "6")
    assert config.lora is not None and (config.lora.rank, config.lora.alpha) == (8, 16.0)
    assert config.judge == "truth" and config.group_size == 6
    published = configured("--data", "x.jsonl")
    assert (published.rounds, published.group_size, published.temperature, published.max_new_tokens) == (
        4,
        10,
        0.7,
        512,
    )
    assert (published.lr, published.beta, published.batch_size, published.trained) == (1e-6, 0.1, 256, PARTS)
    assert published == FeedbackConfig(data=("x.jsonl",), **full())
    for words in (
        ("--data", "x.jsonl", "--judge", "truth"),
        ("--drawn", "sums"),
        (),
        ("--drawn", "describe", "--rank", "4"),
    ):
        with pytest.raises(CpmvError):
            configured(*words)
