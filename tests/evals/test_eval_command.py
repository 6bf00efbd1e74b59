"""`cpmv eval`: its verbs, its mistakes in one line, a real run of the bundled model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cpmv.cli.main import main


def mistake(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert main(["eval", *argv]) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("cpmv: loading")]
    assert out == "" and len(lines) == 1 and lines[0].startswith("cpmv: "), err
    return lines[0]


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--help"]) == 0
    listed = capsys.readouterr().out
    for verb in ("tiny", "draw", "table", "compare"):
        assert f"\n  {verb} " in listed
        assert main(["eval", verb, "--help"]) == 0
        assert f"cpmv eval {verb}" in capsys.readouterr().out


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no 'large' to evaluate" in mistake(capsys, "large")
    assert "no set or group 'handwriting'" in mistake(capsys, "tiny", "--sets", "handwriting")
    assert "no set 'poems'" in mistake(capsys, "draw", str(tmp_path), "--sets", "poems")
    assert "not the JSON" in mistake(capsys, "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"))
    assert "limit" in mistake(capsys, "tiny", "--limit", "0")


def test_the_bundled_model_is_scored_and_the_table_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = str(tmp_path / "run.json")
    asked = ["--sets", "date", "clip_order", "--limit", "3", "--reversed", "--device", "cpu", "--out", out]
    assert main(["eval", "tiny", *asked]) == 0
    assert "clip_order (reversed)" in capsys.readouterr().out
    report = json.loads(Path(out).read_text())
    assert set(report["sets"]) == {"date", "clip_order"} and set(report["controls"]) == {"reversed"}
    assert report["sets"]["date"]["n"] == 3 and report["sets"]["date"]["exact"] > 0
    assert report["model"]["source"] == "bundled" and report["settings"]["limit"] == 3
    page = tmp_path / "page.md"
    page.write_text("<!-- eval:begin -->\n<!-- eval:end -->\n")
    assert main(["eval", "table", out, "--into", str(page)]) == 0
    assert "| one date | 3 |" in page.read_text()
    capsys.readouterr()
    assert main(["eval", "--compare", out, out]) == 0
    assert "no difference shown (+0 -0, p=1.000)" in capsys.readouterr().out
