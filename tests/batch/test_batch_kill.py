"""SIGKILL for real, a few times: the short form of benchmarks/batch_kill.py, which kills a hundred times."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "batch_kill.py"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("batch_kill", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["batch_kill"] = module
    spec.loader.exec_module(module)
    return module


def test_killed_and_resumed_nothing_is_lost_or_repeated(script: Any, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    bad = script.write_inputs(source, 60, 10, seed=3)
    assert len(bad) == 10
    job = script.Job(source, tmp_path / "out.jsonl", "--max-new-tokens", "2")
    outcome = script.series(job, 60, bad, 5, seed=3, log=lambda _: None)
    assert outcome.problems == []
    assert outcome.kills == 5 and outcome.rounds >= 1


def test_the_script_sees_what_it_looks_for(script: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    good = '{"id": "%s", "custom_id": "input-%d", "error": null}\n'
    out.write_text("".join(good % (i, i) for i in range(3)))
    assert script.check_output(out, 3, set()) == []
    assert script.check_output(out, 4, set())
    assert script.check_output(out, 3, {"input-1"})
    out.write_text("".join(good % (i, i) for i in (0, 2, 1)))
    assert script.check_output(out, 3, set()) == ["the order is not that of the inputs"]
    out.write_text("".join(good % (i, i) for i in (0, 1, 1)))
    assert script.check_output(out, 3, set())
    outcome = script.Outcome()
    script._check_journal(outcome, ["a", "b"], ["a"])
    script._check_journal(outcome, ["a"], ["a", "b", "b"])
    assert len(outcome.problems) == 2
