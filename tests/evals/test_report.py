"""Tables: every number comes from the JSON, demands are judged, runs are compared fairly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cpmv.evals import report as reports
from cpmv.evals.samples import EvalError
from cpmv.evals.tasks import BARS, TASKS

ROOT = Path(__file__).parents[2]


def numbers(exact: float, n: int = 100, **more: Any) -> dict[str, Any]:
    hits = "1" * round(exact * n) + "0" * (n - round(exact * n))
    plain = {"n": n, "exact": exact, "exact_interval": [exact - 0.05, exact + 0.05], "hits": hits}
    return plain | {"visual_tokens": 16.0, "generated_tokens": 9.6, "ms": 3.2} | more


def run(**sets: dict[str, Any]) -> dict[str, Any]:
    return {
        "date": "2026-11-24",
        "model": {"format": "nf4", "dtype": "bfloat16", "fingerprint": "sha256:" + "ab" * 16},
        "device": {"name": "a chip"},
        "versions": {"torch": "2.13"},
        "settings": {"batch": 32, "sets": {name: "same" for name in sets}},
        "sets": sets,
        "controls": {},
        "answer_language": {"zh": {"n": 40, "rate": 0.975, "interval": [0.9, 1.0]}},
    }


def test_demands_name_sets_and_metrics_that_exist() -> None:
    later = {"unseen_gap", "lowest_grid", "gain", "opposite"}
    for bar in BARS:
        from cpmv.evals.tasks import MEASURES

        assert bar.task in TASKS
        assert bar.metric in later or bar.metric in {"exact", *MEASURES[TASKS[bar.task].measure]}


def test_a_demand_is_met_or_not_from_the_number() -> None:
    table = reports.markdown(run(line=numbers(0.96, cer=0.02), old_style=numbers(0.5, cer=0.05)))
    line, old = (row for row in table.splitlines() if row.startswith(("| one line", "| lines, held")))
    assert "96.0 % [91.0, 101.0]" in line and "CER 2.0 %" in line and "| 16 + 10 | 3 |" in line
    assert "≥ 95 % met, CER ≤ 0.7 % **not met**" in line and "CER ≤ 6 % met" in old
    assert "Demands met: 2 of 3 measured" in table and "Chinese: 97.5 % of 40" in table


def test_controls_are_columns_and_judged() -> None:
    report = run(line=numbers(0.9, cer=0.1), scene_count=numbers(0.9), clip_direction=numbers(0.9))
    report["controls"] = {
        "blank": {"line": numbers(0.0), "scene_count": numbers(0.5, constant_guess=0.3)},
        "shuffled": {"line": numbers(0.02)},
        "reversed": {"clip_direction": numbers(0.0, opposite=0.93)},
    }
    table = reports.markdown(report)
    assert "| blank | shuffled | tokens |" in table and "opposite" in table and "(93.0 %) met" in table
    assert "reading at most 2.0 % exact (demand ≤ 0.5 %: **not met**)" in table
    assert "+20.0 points over the best constant guess" in table
    assert "scene_count (blank)" in reports.terminal(report)


def test_the_table_is_put_between_its_markers(tmp_path: Path) -> None:
    page, report = tmp_path / "page.md", run(line=numbers(0.96, cer=0.02))
    page.write_text(f"before\n{reports.BEGIN}\nold\n{reports.END}\nafter\n")
    assert reports.embed(page, report) and not reports.embed(page, report)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text and "96.0 %" in text
    (tmp_path / "other.md").write_text("nothing")
    with pytest.raises(EvalError, match="eval:begin"):
        reports.embed(tmp_path / "other.md", report)


def test_a_brief_table_has_only_what_has_a_demand() -> None:
    report = run(line=numbers(0.96, cer=0.02), talk=numbers(0.5))
    full, brief = reports.markdown(report), reports.markdown(report, brief=True)
    assert "text only" in full and "text only" not in brief and "tokens" not in brief.splitlines()[0]
    assert "one line, training faces" in brief


def test_two_runs_are_compared_sample_by_sample() -> None:
    first = run(line=numbers(0.5), talk=numbers(0.5), date=numbers(0.5))
    second = run(line=numbers(0.6), talk=numbers(0.52), han=numbers(0.5))
    lines = reports.compare(first, second).splitlines()
    assert len(lines) == 3 and "+10.0" in lines[1] and "differs (+10 -0, p=0.002)" in lines[1]
    assert "no difference shown (+2 -0" in lines[2]
    second["settings"]["sets"]["line"] = "others"
    assert "other samples" in reports.compare(first, second)
    with pytest.raises(EvalError, match="no set in common"):
        reports.compare(first, run(han=numbers(0.5)))


def test_a_file_that_is_no_run_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"sets": 3}))
    with pytest.raises(EvalError, match="not the JSON of an evaluation run"):
        reports.read_report(tmp_path / "a.json")


@pytest.mark.parametrize("page", ["README.md", "README.zh.md", "docs/tiny-model.md", "docs/tiny-model.zh.md"])
def test_embedded_tables_are_those_of_the_committed_run(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    committed = ROOT / "docs" / "results" / "eval-tiny.json"
    marker = reports.BRIEF if reports.BRIEF in text else reports.BEGIN
    if marker not in text or not committed.is_file():
        pytest.skip("no table is embedded here")
    inside = text.split(marker)[1].split(reports.END)[0].strip()
    assert inside == reports.markdown(reports.read_report(committed), brief=marker == reports.BRIEF)
