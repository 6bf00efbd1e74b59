"""Results as tables and pictures: what is printed is what was measured, bars and losses included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cpmv.bench.__main__ import main
from cpmv.bench.bars import BARS, verdict
from cpmv.bench.plot import points
from cpmv.bench.results import (
    BEGIN,
    END,
    add_bars,
    make_row,
    markdown_table,
    number,
    plain_table,
    replace_between,
    report,
    speed_table,
)
from cpmv.bench.timing import Spread
from cpmv.errors import CpmvError


def result(short: str = "bf16", step_s: float = 0.0045) -> dict[str, Any]:
    peer = {"transformers": Spread((0.027, 0.0285, 0.03))}
    rows = [
        make_row(
            "decode-b1-c1024",
            "decode, 1 x context 1,024",
            "tok",
            1,
            Spread((step_s, step_s * 8 / 9, step_s * 4 / 3)),
            0.0035,
            peer,
        ),
        make_row("decode-b1-c8192", "decode, 1 x context 8,192", "tok", 1, Spread((0.005,)), 0.0037, {}),
        make_row("decode-b8-c1024", "decode, 8 x context 1,024", "tok", 8, Spread((0.005,)), 0.0037, {}),
        make_row("prefill-1024", "prefill, 1,024 tokens", "tok", 1024, Spread((0.024,)), 0.0208, {}),
        make_row("throughput-64", "64 in flight", "tok", 1, Spread((0.00018,)), 0.00014, {}, busy=0.954),
    ]
    return {
        "date": "2026-11-24",
        "command": "cpmv bench --random real",
        "model": {"name": f"MiniCPM-V 4.5, {short}", "short": short, "text": "Random weights."},
        "machine": {"device": "NVIDIA H200", "text": "NVIDIA H200, 150 GB.", "versions": {}},
        "rows": rows,
        "notes": ["a note"],
        "failed": [],
        "memory": {"weights": 17_400_000_000},
        "abilities": {"read_bytes_per_s": 4.39e12, "gemm_1024x4096x6144_flop_per_s": 6.5e14},
    }


def test_a_row_holds_the_spread_the_rate_and_the_share_of_the_limit() -> None:
    row = result()["rows"][0]
    assert row["ms"] == {"median": 4.5, "min": 4.0, "max": 6.0, "repeats": 3}
    assert row["rate"] == {"per_s": 222.2, "of": "tok"} and row["percent_of_limit"] == 77.78
    assert row["peers"]["transformers"]["times_ours"] == 6.333


def test_bars_stand_beside_what_they_speak_of_met_or_not() -> None:
    found = result()
    add_bars(found["rows"], "bf16")
    rows = {row["key"]: row for row in found["rows"]}
    assert rows["decode-b1-c1024"]["bar"] == {"ms": 4.444, "beyond_ms": 4.0, "is": "not met"}
    assert rows["decode-b1-c8192"]["bar"]["is"] == "not met" and rows["prefill-1024"]["bar"]["is"] == "beyond"
    assert rows["throughput-64"]["bar"]["is"] == "met"
    assert rows["decode-b1-c1024"]["peers"]["transformers"]["bar"]["is"] == "met"
    text = plain_table(found)
    assert "4.44 not met" in text and "24 beyond" not in text and "26 beyond" in text
    add_bars(other := result()["rows"], "q4_k")
    assert not any("bar" in row for row in other)
    assert all(beyond <= bar for bars in BARS.values() for bar, beyond in bars.values())
    assert [verdict(ms, (3.0, 2.0)) for ms in (2.0, 2.5, 3.5)] == ["beyond", "met", "not met"]


def test_tables_have_every_line_and_the_same_number_of_cells() -> None:
    found = result()
    lines = markdown_table(found).splitlines()
    assert len(lines) == 2 + 5 and len({line.count("|") for line in lines}) == 1
    assert "GPU busy 95%" in lines[-1] and "transformers 28.5, 6.33x" in lines[2]
    page = report(found)
    for part in ("cpmv bench --random real", "Reading memory: 4.39 TB/s", "| gemm 1024x4096x6144 | 650 |", "- a note"):
        assert part in page
    assert "weights 17.40 GB" in page


@pytest.mark.parametrize(("value", "text"), [(1234.4, "1,234"), (123.4, "123"), (12.34, "12.3"), (0.01234, "0.0123")])
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_readme_gets_a_column_for_each_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = []
    for short, step in (("bf16", 0.0045), ("awq", 0.0025)):
        found = result(short, step)
        if short == "awq":
            found["rows"] = found["rows"][:1]
        add_bars(found["rows"], short)
        path = tmp_path / f"{short}.json"
        path.write_text(json.dumps(found))
        paths.append(str(path))
    readme = tmp_path / "README.md"
    readme.write_text(f"# before\n{BEGIN}\nold\n{END}\nafter\n")
    assert main(["table", *paths, "--into", str(readme)]) == 0
    text = readme.read_text()
    assert text.startswith(f"# before\n{BEGIN}\n") and text.endswith(f"{END}\nafter\n") and "old" not in text
    assert "|  | bf16 | awq |" in text
    line = next(line for line in text.splitlines() if line.startswith("| decode, 1 x context 1,024 |"))
    assert "| 222 tok/s, 4.5 ms (78 %, 6.33x transformers, **not met**) |" in line
    assert line.endswith("| 400 tok/s, 2.5 ms (140 %, 11.4x transformers, met) |")
    assert "NVIDIA H200, 2026-11-24" in text
    capsys.readouterr()
    assert main(["table", *paths]) == 0
    assert capsys.readouterr().out.strip() == speed_table([json.loads(Path(p).read_text()) for p in paths])
    assert main(["table", paths[0]]) == 0
    assert "# MiniCPM-V 4.5, bf16, NVIDIA H200" in capsys.readouterr().out


def test_what_is_no_result_or_has_no_markers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "log").write_text("words\n" + json.dumps(result()) + "\n")
    (tmp_path / "b.md").write_text("no markers")
    for path in (tmp_path / "a.json", tmp_path / "absent.json"):
        with pytest.raises(CpmvError, match="is no result of cpmv bench"):
            main(["table", str(path)])
    assert main(["table", str(tmp_path / "log")]) == 0  # the last line of a run is its result
    with pytest.raises(CpmvError, match="b.md: the file has no"):
        main(["table", str(tmp_path / "log"), "--into", str(tmp_path / "b.md")])
    with pytest.raises(ValueError, match="has no"):
        replace_between(f"{END} {BEGIN}", "")


def test_the_plot_draws_every_decoding_line(tmp_path: Path) -> None:
    found = result()
    assert points(found) == [
        (1, 1024, 222.2, pytest.approx(1e3 / 3.5)),
        (1, 8192, 200.0, pytest.approx(1e3 / 3.7)),
        (8, 1024, 1600.0, pytest.approx(8e3 / 3.7)),
    ]
    pytest.importorskip("matplotlib")
    path = tmp_path / "r.json"
    path.write_text(json.dumps(found))
    assert main(["plot", str(path), "--out", str(tmp_path / "r.png")]) == 0
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    path.write_text(json.dumps(found | {"rows": found["rows"][-1:]}))
    with pytest.raises(CpmvError, match="has decoding lines to draw"):
        main(["plot", str(path), "--out", str(tmp_path / "s.png")])
