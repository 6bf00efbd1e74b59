"""Conversations from a pipe and in a terminal: history, the commands, encodings, and Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import MODEL, PICTURE, Command, write_video

import cpmv
from cpmv.cli.conversation import Conversation
from cpmv.cli.terminal import COMMANDS, completions

SHORT = ("--model", MODEL, "--greedy", "--max-new-tokens", "8")


@pytest.fixture(scope="module")
def model() -> cpmv.Model:
    return cpmv.load(MODEL)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(capsys, monkeypatch)


def test_piped_questions_are_one_conversation(command: Command, model: cpmv.Model) -> None:
    said = f"Hello?\n\n/image {PICTURE}\n你看到什么？\n"
    assert command("chat", "--json", *SHORT, stdin=said) == 0
    first, second = command.answers()
    history: list[dict[str, object]] = [{"role": "user", "content": "Hello?"}]
    params = cpmv.SamplingParams(temperature=0.0, max_new_tokens=8)
    outputs = []
    for question in (None, [cpmv.Image(PICTURE), "你看到什么？"]):
        history += [{"role": "user", "content": question}] if question else []
        outputs.append(model.generate(model.processor(history), params))
        history.append({"role": "assistant", "content": outputs[-1].text})  # type: ignore[union-attr]
    assert [report["answer"] for report in (first, second)] == [output.text for output in outputs]  # type: ignore[union-attr]
    assert second["prompt_tokens"] == outputs[1].num_prompt_tokens  # type: ignore[union-attr]


def test_think_and_clear_act_on_what_follows(command: Command) -> None:
    said = "Hello?\n/think on\nHello?\n/clear\n/think off\nHello?\n/quit\nnever asked\n"
    assert command("chat", "--json", *SHORT, stdin=said) == 0
    plain, thinking, again = command.answers()
    assert thinking["thinking"] and not plain["thinking"]
    assert thinking["prompt_tokens"] > plain["prompt_tokens"]
    assert (again["answer"], again["prompt_tokens"]) == (plain["answer"], plain["prompt_tokens"])
    assert command.err.splitlines() == ["(thinking on)", "(cleared)", "(thinking off)"]


def test_files_on_the_command_line_come_with_the_first_question(command: Command) -> None:
    assert command("chat", PICTURE, "--json", *SHORT, stdin="One?\nTwo?\n") == 0
    assert [report["visual_tokens"] for report in command.answers()] == [64, 64]


def test_a_saved_conversation_is_read_again(command: Command, model: cpmv.Model, tmp_path: Path) -> None:
    clip, saved = write_video(tmp_path / "clip.mp4"), tmp_path / "talk.json"
    said = f"/video {clip}\nWhat moves?\n/save {saved}\n"
    assert command("chat", "--fps", "2", "--json", *SHORT, stdin=said) == 0
    messages = json.loads(saved.read_text(encoding="utf-8"))
    assert messages[0]["content"][0] == {"type": "video", "video": clip, "fps": 2.0}
    assert messages[1] == {"role": "assistant", "content": [{"type": "text", "text": command.answers()[0]["answer"]}]}
    assert len(model.processor(messages[:1])) == command.answers()[0]["prompt_tokens"]
    assert "exists already" in command.mistake("chat", *SHORT, stdin=f"/save {saved}\n")


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("", "there is no question"),
        ("\n \n", "there is no question"),
        ("/nope\n", "there is no command '/nope'; there are /image, /video"),
        ("/image\n", "/image takes an argument"),
        ("/clear all\n", "/clear takes no argument"),
        ("/think maybe\n", "say /think on or /think off"),
        (f"/video {PICTURE}\n", "is an image, not a video; use /image or /file"),
        (f"{PICTURE}\n", f"to show a file, type /file {PICTURE}"),
        ("/file nothing.png\n", "no such file: 'nothing.png'"),
        ("/save /nowhere/talk.json\n", "cannot be written"),
        (b"caf\xe9\n", "line 1 of stdin is not utf-8"),
    ],
)
def test_a_mistake_in_a_pipe_ends_with_its_line(said: str | bytes, line: str, command: Command) -> None:
    assert line in command.mistake("chat", *SHORT, stdin=said)


@pytest.mark.parametrize(("encoding", "question"), [("gbk", "图片？\n"), ("latin-1", "café?\n")])
def test_questions_come_in_the_declared_encoding(encoding: str, question: str, command: Command) -> None:
    assert command("chat", "--json", *SHORT, stdin=question, encoding=encoding) == 0
    same = command.answers()[0]["answer"]
    assert command("chat", "--json", *SHORT, stdin=question) == 0
    assert command.answers()[0]["answer"] == same


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "utf-8"])
def test_answers_fit_the_encoding_of_the_output(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from cpmv.cli import main as cli
    from cpmv.cli.screen import Screen, print_json

    answer = "图 é \N{GRINNING FACE}"
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    cli._write_anything(sys.stdout)
    print_json({"answer": answer})
    screen = Screen()
    screen.piece(answer, "answer")
    screen.end()
    sys.stdout.flush()
    as_json, as_text = raw.getvalue().decode(encoding).splitlines()
    assert json.loads(as_json)["answer"] == answer
    assert as_text == answer.encode(encoding, "replace").decode(encoding)


def test_paths_are_read_as_terminals_paste_them(tmp_path: Path) -> None:
    file = tmp_path / "my 图 'one'.png"
    file.write_bytes(Path(PICTURE).read_bytes())
    conversation = Conversation()
    for typed in (str(file), str(file).replace(" ", "\\ ").replace("'", "\\'"), f'"{file}"'):
        assert conversation.attach(typed).source == str(file)
    assert len(conversation.waiting) == 3


def test_commands_and_their_paths_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some photos").mkdir()
    (tmp_path / "some photos" / "one.png").touch()
    monkeypatch.chdir(tmp_path)
    assert completions("/im") == ["/image "]
    assert completions("/") == [f"{name} " for name in COMMANDS]
    assert completions("/image so") == ["/image some photos/"]
    assert completions("/image some photos/") == ["/image some photos/one.png"]
    assert completions("/image nowhere/") == completions("/think o") == completions("hello") == completions("") == []


class Terminal:
    """A program in a pseudo-terminal."""

    def __init__(self, *argv: str) -> None:
        import pty

        self.screen = b""
        self._seen = 0
        environment = {**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1"}
        environment.pop("NO_COLOR", None)
        ours, theirs = pty.openpty()
        self._fd = ours
        # A session of its own with the terminal as its controlling one, so that a typed Ctrl-C becomes SIGINT.
        start = (
            "import os, sys, fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", start, sys.executable, *argv],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
        )
        os.close(theirs)

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self._fd], [], [], timeout_s)[0]:
            return True
        try:
            data = os.read(self._fd, 1 << 16)
        except OSError:  # how Linux says that the other side has closed
            return False
        self.screen += data
        return bool(data)

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 60
        while (at := self.screen.find(text.encode(), self._seen)) < 0:
            going = self._read(1.0)
            assert going and time.monotonic() < deadline, f"waited for {text!r}:\n{self.screen.decode()}"
        self._seen = at + len(text.encode())

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def interrupt(self, text: str) -> None:
        """Press Ctrl-C until `text` appears: readline may lose one that comes while it puts up its prompt."""
        for _ in range(12):
            self.type("\x03")
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline and self.screen.find(text.encode(), self._seen) < 0:
                assert self._read(0.5), self.screen.decode()
            if self.screen.find(text.encode(), self._seen) >= 0:
                break
        self.wait_for(text)

    def end(self) -> int:
        while self._read(1.0) and self._process.poll() is None:
            pass
        code = self._process.wait(30)
        os.close(self._fd)
        return code


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_conversation_in_a_terminal() -> None:
    argv = ("-m", "cpmv", "chat", "--model", MODEL, "--greedy", "--max-new-tokens", "30000")
    terminal = Terminal(*argv)
    terminal.wait_for("/help lists the commands")
    terminal.wait_for("> ")
    terminal.interrupt("Ctrl-D or /quit ends")  # at the prompt, Ctrl-C only says how to leave
    terminal.type("/file nothing.png\n")
    terminal.wait_for("cpmv: no such file: 'nothing.png'")
    terminal.type("/think on\n")
    terminal.wait_for("(thinking on)")
    terminal.wait_for("> ")
    terminal.type("tell me a long story\n")
    terminal.wait_for("story\r\n\x1b[2m")  # thinking is dimmed
    terminal.wait_for("\x1b[0m\x1b[2m")
    terminal.type("\x03")  # while it answers, Ctrl-C stops the answer
    terminal.wait_for("(stopped)")
    terminal.wait_for("> ")
    terminal.type("\x04")
    assert terminal.end() == 0
    assert b"Traceback" not in terminal.screen


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_file_that_cannot_be_read_does_not_spoil_the_next_question(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(PICTURE).read_bytes()[:3000])
    terminal = Terminal("-m", "cpmv", "chat", str(broken), *SHORT)
    terminal.wait_for("broken.png (image)")
    terminal.wait_for("> ")
    terminal.type("What is this?\n")
    terminal.wait_for("cpmv: ")
    terminal.wait_for("(the files of this question are forgotten)")
    terminal.wait_for("> ")
    terminal.type("你好\n")
    terminal.wait_for("tokens read, 0 of them visual")
    terminal.wait_for("8 written")
    terminal.type("/quit\n")
    assert terminal.end() == 0
