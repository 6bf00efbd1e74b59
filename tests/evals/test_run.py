"""Runs: everything is asked once, controls change the scores as they must, an interrupted run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from stub import Stub, by_shade, write_sets

from cpmv.evals.prepare import Job, prepare, prepared
from cpmv.evals.run import Settings, evaluate, fingerprint
from cpmv.evals.samples import EvalError, Sample, Turn
from cpmv.evals.tasks import TASKS, choose, load
from cpmv.weights.hub import BUNDLED

NAMES = ("scene_colour", "clip_direction", "talk")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    write_sets(tmp_path / "sets")
    return Settings(tuple(choose(NAMES)), tmp_path / "sets", controls=("blank", "shuffled", "reversed"), batch=2)


def scores(report: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on time."""
    kept = json.loads(json.dumps({key: report[key] for key in ("sets", "controls", "answer_language")}))
    for sets in (kept["sets"], *kept["controls"].values()):
        for numbers in sets.values():
            del numbers["ms"]
    return kept


def test_a_run_scores_every_set_and_control(settings: Settings, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = evaluate(
        Stub(by_shade), "stub", None, settings, tmp_path / "out.json", lambda done, total: seen.append((done, total))
    )
    assert json.loads((tmp_path / "out.json").read_text()) == report
    assert {name: numbers["exact"] for name, numbers in report["sets"].items()} == {
        "scene_colour": 1.0, "clip_direction": 1.0, "talk": 0.5,
    }  # fmt: skip
    assert report["sets"]["talk"]["hits"] == "10" and report["sets"]["talk"]["visual_tokens"] == 0
    blank = report["controls"]["blank"]
    assert set(blank) == {"scene_colour", "clip_direction"}  # nothing to blank in text
    assert blank["scene_colour"]["exact"] == 0.4 and blank["scene_colour"]["constant_guess"] == 0.6
    assert report["controls"]["shuffled"]["scene_colour"]["exact"] == 0.0
    turned = report["controls"]["reversed"]["clip_direction"]
    assert turned["exact"] == 1.0 and turned["opposite"] == 0.0  # this model does not look at times
    assert seen[-1] == (25, 25) and report["settings"]["batch"] == 2
    assert report["sets"]["scene_colour"]["visual_tokens"] == 16


def test_an_interrupted_run_goes_on_where_it_was(settings: Settings, tmp_path: Path) -> None:
    whole = evaluate(Stub(by_shade), "stub", None, settings, tmp_path / "whole.json")
    out = tmp_path / "broken.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate(Stub(by_shade, fail_after=8), "stub", None, settings, out)
    answers = out.with_suffix(".answers.jsonl")
    assert len(answers.read_text().splitlines()) == 1 + 7
    with answers.open("a") as file:
        file.write('{"task": "talk", "contr')  # a line that was being written
    again = Stub(by_shade)
    report = evaluate(again, "stub", None, settings, out)
    assert report["resumed"] == 7 and again.prompts == 25 - 7
    assert scores(report) == scores(whole)


def test_answers_of_another_model_or_set_are_not_taken_over(settings: Settings, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    evaluate(Stub(by_shade), "stub", None, settings, out)
    with pytest.raises(EvalError, match="another model"):
        evaluate(Stub(by_shade), "other", None, settings, out)
    (settings.folder / "talk.zip").write_bytes((settings.folder / "scene_colour.zip").read_bytes())
    with pytest.raises(EvalError, match="other samples of talk"):
        evaluate(Stub(by_shade), "stub", None, settings, out)


def test_the_limit_takes_the_first_samples(settings: Settings, tmp_path: Path) -> None:
    few = Settings(settings.tasks, settings.folder, limit=1, batch=4)
    report = evaluate(Stub(by_shade), "stub", None, few, tmp_path / "out.json")
    assert [numbers["n"] for numbers in report["sets"].values()] == [1, 1, 1]


def test_worker_processes_prepare_the_same_prompts(settings: Settings) -> None:
    processor = Stub(by_shade).processor
    tasks = [TASKS[name] for name in NAMES]
    jobs = [Job(task, [("", 0), ("", 1)], load(task, settings.folder, 2)) for task in tasks]
    here, there = (list(prepared(jobs, processor, workers)) for workers in (0, 2))
    assert [job.task.name for job, _ in there] == list(NAMES)
    for (_, one), (_, other) in zip(here, there, strict=True):
        for a, b in zip(one, other, strict=True):
            assert torch.equal(a.input_ids, b.input_ids) and torch.equal(a.patches, b.patches)
            assert torch.equal(a.tgt_sizes, b.tgt_sizes) and torch.equal(a.image_bounds, b.image_bounds)
            assert a.temporal_ids == b.temporal_ids and a.text == b.text


def test_examples_are_shown_with_their_answers() -> None:
    both = (Stub(by_shade).processor,) * 2
    sample = Sample([Turn([], "date?", "2024-01-02"), Turn([], "date?", "hidden")])
    text = prepare(both, TASKS["date_known"], sample).text
    assert text.count("date?") == 2 and "2024-01-02" in text and "hidden" not in text


def test_the_fingerprint_follows_the_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    first = fingerprint(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    assert first != fingerprint(tmp_path) and fingerprint(BUNDLED) == fingerprint(BUNDLED)
