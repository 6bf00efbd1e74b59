"""Finding the verb: help, version, exit codes, and how little is imported for them."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from command import Command

import cpmv
from cpmv.cli import main as cli

FLAGS = {
    "chat": {
        *("--question", "--model", "--mmproj", "--device", "--dtype", "--max-memory", "--think", "--fps", "--packing"),
        *("--max-slices", "--pages", "--system", "--greedy", "--seed", "--max-new-tokens", "--json", "--adapter"),
    },
    "info": {
        *("--mmproj", "--images", "--frames", "--packing", "--context", "--device", "--dtype", "--json"),
    },
    "check": {"--mmproj", "--tensors", "--json"},
    "batch": {
        *("--question", "--system", "--model", "--mmproj", "--device", "--dtype", "--max-memory", "--think", "--fps"),
        *("--packing", "--max-slices", "--pages", "--greedy", "--seed", "--max-new-tokens", "--max-batch", "--workers"),
        *("--cluster", "--replicas", "--gpus", "--overwrite", "--json"),
    },
    "quantize": {"--format", "--calibration", "--group-size", "--device", "--overwrite", "--json"},
    "convert": {"--to", "--type", "--dtype", "--mmproj", "--overwrite", "--json"},
}
HEAVY = ("torch", "av", "PIL", "numpy", "tokenizers", "jinja2", "pypdfium2")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(capsys, monkeypatch)


@pytest.mark.parametrize("ask", ["-h", "--help", "help"])
def test_help_lists_every_verb(ask: str, command: Command) -> None:
    assert command(ask) == 0
    assert re.findall(r"^  ([a-z]+) ", command.out, re.MULTILINE)[: len(cli.VERBS)] == list(cli.VERBS)
    assert set(FLAGS) <= set(cli.VERBS)
    assert command.err == ""


def test_the_bare_command_shows_help_as_a_mistake(command: Command) -> None:
    assert command() == 2
    assert command.out == "" and command.err == cli.HELP


def test_the_version_is_the_packages(command: Command) -> None:
    assert command("--version") == 0
    assert command.out == f"cpmv {cpmv.__version__}\n"


@pytest.mark.parametrize("verb", FLAGS)
def test_a_verb_lists_these_flags_and_no_others(verb: str, command: Command) -> None:
    assert command(verb, "--help") == 0
    assert set(re.findall(r"--[a-z][a-z-]+", command.out)) - {"--help"} == FLAGS[verb]


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["chatt"], "there is no verb 'chatt'"),
        (["--quiet"], "there is no option '--quiet'"),
        (["chat", "--nope"], "unrecognized options: --nope"),
        (["chat", "a.png", "-q", "why", "b.png"], "unexpected argument: b.png"),
        (["chat", "-q"], "-q/--question"),
        (["chat", "-q", " "], "--question is empty"),
        (["chat", "--fps", "fast"], "--fps: 'fast' is no number"),
        (["chat", "--fps", "0"], "--fps: 0 is not allowed; give from 0.01 to 1000"),
        (["chat", "--fps", "nan"], "--fps: nan is not allowed"),
        (["chat", "--packing", "7"], "--packing: 7 is not allowed; give from 1 to 6"),
        (["chat", "--max-slices", "1.5"], "--max-slices: '1.5' is no integer"),
        (["chat", "--seed", "-1"], "--seed: -1 is not allowed; give at least 0"),
        (["chat", "--max-new-tokens", "0"], "--max-new-tokens: 0 is not allowed; give at least 1"),
        (["info"], "missing from cpmv info: MODEL (see"),
        (["check", "a", "b"], "unexpected argument: b"),
    ],
    ids=" ".join,
)
def test_a_command_line_that_cannot_be_read_is_explained_in_one_line(
    argv: list[str], line: str, command: Command
) -> None:
    assert line in command.mistake(*argv)


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["chat", "--help"], ["info", "--help"], ["chat", "--no"]])
def test_help_and_parsing_import_nothing_heavy(argv: list[str]) -> None:
    code = f"import sys; from cpmv.cli.main import main; main({argv}); print([m for m in {HEAVY} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout.splitlines()[-1] == "[]", ran.stderr


def test_a_mistake_shows_its_traceback_only_when_debugging(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no such file" in command.mistake("chat", "nothing.png", "-q", "why")
    monkeypatch.setenv("CPMV_DEBUG", "1")
    assert command("chat", "nothing.png", "-q", "why") == 2
    assert command.err.startswith("Traceback") and command.err.splitlines()[-1].startswith("cpmv: no such file")


def test_python_m_cpmv_passes_the_exit_code_on() -> None:
    ran = subprocess.run([sys.executable, "-m", "cpmv", "nope"], capture_output=True, text=True)
    assert ran.returncode == 2 and ran.stdout == "" and ran.stderr.count("\n") == 1


def test_an_interrupt_ends_with_130_and_no_traceback(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(argv: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("cpmv.cli.check.run", interrupted)
    assert command("check", "anything") == 130
    assert command.err == "cpmv: stopped\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    endless = "check.run = lambda argv: [print('line') for _ in iter(int, 1)]"
    code = f"import sys; from cpmv.cli import check, main; {endless}; sys.exit(main.main(['check']))"
    ran = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert ran.stdout is not None and ran.stderr is not None
    ran.stdout.read(10)
    ran.stdout.close()
    assert ran.stderr.read() == b"" and ran.wait() == 141
    ran.stderr.close()


def test_a_bug_of_ours_is_not_hidden(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(argv: list[str]) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr("cpmv.cli.check.run", broken)
    with pytest.raises(ZeroDivisionError):
        command("check", "anything")
