"""The record of a run: what is kept, the plot, and clear words when there is nothing to keep."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from cpmv.train.curves import main, read_run


def write_run(folder: Path, steps: int = 9) -> Path:
    folder.mkdir()
    rows: list[dict] = [
        {
            "kind": "train",
            "step": 10 * i,
            "samples": 100 * i,
            "seconds": float(i),
            "lm": 3.0 / i,
            "lr": 1e-3,
            "dense": 0.0,
        }
        for i in range(1, steps + 1)
    ]
    for step in (40, 10 * steps):
        score = {"exact": step / 100, "n": 8.0}
        rows.append({"kind": "eval", "step": step, "seconds": 1.0, "scores": {"trained": score, "chart_value": score}})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_curve_keeps_the_last_record_and_the_last_scores_whole(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "one"), every=4)
    assert [row["step"] for row in run["train"]] == [10, 50, 90]
    assert "dense" not in run["train"][0]
    assert [sorted(e["scores"]) for e in run["eval"]] == [["trained"], ["chart_value", "trained"]]


def test_runs_are_written_and_drawn_one_after_the_other(tmp_path: Path) -> None:
    runs = [str(write_run(tmp_path / name)) for name in ("first", "second")]
    out, picture = tmp_path / "out.json", tmp_path / "out.png"
    assert main([str(out), *runs, "--plot", str(picture), "--what", "a test"]) == 0
    written = json.loads(out.read_text())
    assert written["what"] == "a test" and [run["name"] for run in written["runs"]] == ["first", "second"]
    with Image.open(picture) as image:
        assert image.size == (720, 630) and len(image.getcolors(100_000) or []) > 20


def test_a_folder_without_a_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "out.json"), str(tmp_path)]) == 2
    assert "no metrics.jsonl" in capsys.readouterr().err
