"""The same job on Ray Data, two actors on this machine, gives the same lines; broken off, it goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import GOLDEN, synthetic_image

from cpmv.cli.main import main

ASK = (
    "-q",
    "What is this?",
    "--model",
    str(GOLDEN / "tiny_a"),
    "--greedy",
    "--max-new-tokens",
    "3",
    "--max-batch",
    "4",
)
CLUSTER = ("--cluster", "ray", "--replicas", "2")


def command(*argv: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: Ray leaves threads and signal handlers behind."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    return subprocess.run(
        [sys.executable, "-m", "cpmv", "batch", *argv], capture_output=True, text=True, env=environment, timeout=300
    )


def what(line: dict[str, Any]) -> Any:
    """A line without the moment it was made at."""
    if line["error"] is None:
        line["response"]["body"].pop("created")
    return line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(10):
        synthetic_image(40 + number, 30, number).save(folder / f"{number}.png")
    (folder / "3.txt").write_text("no picture")
    return folder


def test_the_lines_are_those_of_one_machine(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'cpmv[cluster]'")
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    assert main(["batch", str(folder), str(here), *ASK]) == 1
    done = command(str(folder), str(there), *ASK, *CLUSTER)
    assert done.returncode == 1, done.stderr
    lines = [[what(json.loads(line)) for line in out.read_text().splitlines()] for out in (here, there)]
    assert len(lines[0]) == 11 and lines[0] == lines[1]
    assert not (tmp_path / "there.jsonl.part").exists()


def test_a_job_begun_here_goes_on_there(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'cpmv[cluster]'")
    from cpmv.batch.job import Job

    out, record = tmp_path / "out.jsonl", Job.record

    def interrupted(self: Job, results: Any) -> None:
        record(self, results)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Job, "record", interrupted)
        assert main(["batch", str(folder), str(out), *ASK]) == 130
    done = command(str(folder), str(out), *ASK, *CLUSTER, "--json")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["done_before"] >= 1 and report["answered"] == 10
    assert [json.loads(line)["custom_id"] for line in out.read_text().splitlines()].count("3.txt") == 1


def test_without_ray_one_line_says_how_to_get_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["batch", str(folder), str(tmp_path / "out.jsonl"), *ASK, *CLUSTER]) == 2
    assert "pip install 'cpmv[cluster]'" in capsys.readouterr().err
