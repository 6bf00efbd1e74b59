"""`cpmv bench` and `python -m cpmv.bench` are the same function and need none of the command line's libraries."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cpmv.cli.main import main

TINY = ["--random", "tiny", "--quick", "--only", "decode", "--sizes", "decode=1,24", "--sizes", "decode_steps=2"]


def test_the_verb_measures_and_writes_its_result_and_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cpmv.bench.machine._PROBE_BYTES", {"cpu": 4 << 20})
    out = tmp_path / "bench.json"
    assert main(["bench", *TINY, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    last = json.loads(printed.out.splitlines()[-1])
    assert last == json.loads(out.read_text()) and last["rows"][0]["key"] == "decode-b1-c24"
    assert "decode, 1 x context 24" in out.with_suffix(".md").read_text()
    assert "opening the model" in printed.err


@pytest.mark.parametrize("arguments", [["--nope"], ["--only", "x"], ["table"], ["plot", "a.json"]])
def test_mistakes_are_one_line_and_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_module_runs_without_tyro_msgspec_and_av() -> None:
    code = (
        "import sys\n"
        "for name in ('tyro', 'msgspec', 'av', 'pypdfium2', 'rich', 'matplotlib'): sys.modules[name] = None\n"
        "from cpmv.bench import machine\n"
        "machine._PROBE_BYTES = {'cpu': 4 << 20}\n"
        "from cpmv.bench.__main__ import main\n"
        f"sys.exit(main({[*TINY[:4], 'decode,first-token,file', *TINY[5:], '--sizes', 'frames=3']!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["rows"] and not result["failed"]
    assert "PyAV is not installed, so no video file was decoded; pip install av" in done.stdout


def test_help_is_told_without_importing_torch() -> None:
    code = "import sys; from cpmv.cli.main import main; main(['bench', '--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "--random SCALE" in done.stdout
