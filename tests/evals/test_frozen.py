"""The frozen sets in the package: whole, small, and asking what their tasks say."""

from __future__ import annotations

import re

import pytest

from cpmv.evals import scoring
from cpmv.evals.samples import read_set
from cpmv.evals.tasks import SETS, TASKS, Task, load

MOST_BYTES = 5_000_000


def test_all_sets_are_there_and_take_at_most_5_mb() -> None:
    files = {path.stem: path.stat().st_size for path in SETS.glob("*.zip")}
    assert set(files) == {task.stored_as for task in TASKS.values()}
    assert sum(files.values()) <= MOST_BYTES


@pytest.mark.parametrize("task", [task for task in TASKS.values() if task.packing in (None, 1)], ids=lambda t: t.name)
def test_a_set_holds_what_its_task_asks(task: Task) -> None:
    samples = load(task)
    assert len(samples) == task.frozen
    for sample in samples:
        assert sample.question and sample.answer == sample.answer.strip()
        assert len(sample.answer) < task.max_new_tokens
        assert bool(sample.images) or task.group in ("text", "think")
        assert sample.meta["language"] in ("en", "zh")
        if sample.groups is not None:
            assert sum(map(len, sample.groups)) == len(sample.images)
    if task.group in ("scene", "clip", "event", "document", "several"):
        assert {sample.meta["language"] for sample in samples} == {"en", "zh"}


def test_stored_answers_agree_with_the_stored_facts() -> None:
    for sample in read_set(SETS / "scene_many.zip"):
        assert int(sample.answer) == len(sample.meta["objects"]) in (7, 8, 9)
    for sample in read_set(SETS / "describe.zip"):
        assert sorted(scoring.mentioned(sample.answer).elements()) == sorted(sample.meta["objects"])
    for sample in read_set(SETS / "receipt_total.zip"):
        assert round(float(re.sub(r"[^\d.]", "", sample.answer)) * 100) == sample.meta["total"]
    for name, known in (("date_known", True), ("date_new_format", False)):
        for sample in read_set(SETS / f"{name}.zip"):
            formats = {scoring.date_format(turn.answer) for turn in sample.turns}
            assert len(formats) == 1 and (formats == {4}) != known
    for sample in read_set(SETS / "chart_value.zip"):
        assert int(sample.answer) in sample.meta["data"].values()
