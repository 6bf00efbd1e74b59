"""`cpmv read` as people type it, with the bundled model."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from paper import write_pdf

from cpmv.cli.main import main

ROOT = Path(__file__).parents[2]
LABEL = str(ROOT / "examples" / "pictures" / "label.png")


def test_a_picture_becomes_markdown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "label.md"
    assert main(["read", LABEL, "-o", str(out), "--json"]) == 0
    assert "Orange juice" in out.read_text()
    report = json.loads(capsys.readouterr().out)
    assert report["read"] == [str(out)] and report["pages"] == 1 and report["failed"] == []
    assert main(["read", LABEL, "-o", str(out)]) == 0
    assert "already there and left alone" in capsys.readouterr().err


def test_check_says_with_its_exit_code_whether_lines_are_doubtful(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [(80, 120, 20, "Orange juice"), (80, 190, 20, "best before 2027")]
    good = write_pdf(tmp_path / "good.pdf", [lines])
    assert main(["read", str(good), "-o", str(tmp_path / "out"), "--check"]) == 0
    text = (tmp_path / "out" / "good.md").read_text()
    assert text.split() == "<!-- page 1 --> Orange juice best before 2027".split()
    # A line that lies outside the page is in the layer, but nobody can read it.
    more = write_pdf(tmp_path / "more.pdf", [[*lines, (80, -300, 20, "from elsewhere")]])
    assert main(["read", str(more), "-o", str(tmp_path / "out"), "--check"]) == 1
    assert "not read, but in the text layer: from elsewhere" in (tmp_path / "out" / "more.md").read_text()
    assert "1 line is marked" in capsys.readouterr().err


def test_a_schema_gives_json_that_fits_it(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(
        json.dumps(
            {
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": 20}, "count": {"type": "integer", "maximum": 9}},
                "required": ["name", "count"],
                "additionalProperties": False,
            }
        )
    )
    out = tmp_path / "label.json"
    assert main(["read", LABEL, "-o", str(out), "--schema", str(schema)]) == 0
    value = json.loads(out.read_text())
    assert set(value) == {"name", "count"} and isinstance(value["count"], int)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([LABEL], "there is no -o OUT"),
        ([LABEL, "-o", "x.md", "--by", "word"], "--by word is not allowed"),
        ([LABEL, "-o", "x.json", "--schema", "missing.json"], "cannot be read"),
        ([LABEL, "-o", "x.json", "--schema", __file__], "is no JSON"),
        ([LABEL, "-o", "x.md", "--check", "--schema", __file__], "does not go with --schema"),
        (["missing.png", "-o", "out.md"], "missing.png"),
        ([str(ROOT / "examples" / "pictures" / "moving.gif"), "-o", "out.md"], "is a video"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    argv: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["read", *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("cpmv: ") and words in line


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from cpmv.cli.main import main; main(['read', '--help']); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'PIL', 'numpy')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--check" in done.stdout


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    pages = [[(80, 120, 20, f"page number {i}")] for i in range(6)]
    document, out = write_pdf(tmp_path / "long.pdf", pages), tmp_path / "long.md"
    journal = tmp_path / "long.md.journal"
    command = [sys.executable, "-m", "cpmv", "read", str(document), "-o", str(out), "--dpi", "72", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if journal.exists() and journal.read_bytes().count(b"\n") >= 3:
            break
        time.sleep(0.01)
    process.kill()
    process.wait()
    kept = journal.read_bytes().count(b"\n") - 1 if journal.exists() else len(pages)
    assert kept >= 2 and (kept == len(pages)) == out.exists()
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    if kept < len(pages):
        assert json.loads(done.stdout)["pages_resumed"] == kept
    text = out.read_text()
    assert [text.count(f"<!-- page {i + 1} -->") for i in range(6)] == [1] * 6
    assert text.count("page number") == 6 and not journal.exists()


def test_whole_pages_can_be_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "label.md"
    assert main(["read", LABEL, "-o", str(out), "--by", "page"]) in (0, 1)
    assert out.read_text().strip()
