"""Progress: nothing for what is quick, lines in a log, a bar in a terminal."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from cpmv.cli import progress as module
from cpmv.cli.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_what_ends_at_once_shows_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("loading", "bytes") as progress:
        clock[0] += 60  # before the work began
        for done in range(10):
            progress(done, 9)
    assert capsys.readouterr().err == ""


def test_a_log_gets_a_line_every_few_seconds(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("reading frames", "frames") as progress:
        for done in range(13):
            progress(done, 12)
            clock[0] += 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["cpmv: reading frames: 5 of 12 frames", "cpmv: reading frames: 10 of 12 frames"]


def test_a_terminal_gets_a_bar_that_goes_away(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress("loading weights", "bytes") as progress:
        for done in (0, 6_000_000_000, 17_400_000_000):
            clock[0] += 1
            progress(done, 17_400_000_000)
    err = capsys.readouterr().err
    assert "loading weights" in err and "17.4 of 17.4 GB" in err
    assert err.endswith("\x1b[1A\x1b[2K")  # the line is erased


@pytest.mark.parametrize(
    ("unit", "done", "total", "text"),
    [
        ("bytes", 3_100_000_000, 17_400_000_000, "3.1 of 17.4 GB"),
        ("bytes", 3_100_000, 6_900_000, "3.1 of 6.9 MB"),
        ("frames", 120, 540, "120 of 540 frames"),
    ],
)
def test_amounts_have_units(unit: str, done: int, total: int, text: str) -> None:
    assert Progress("", unit).amount(done, total) == text
