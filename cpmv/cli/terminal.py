"""The conversation that `cpmv chat` holds: reading lines from a terminal or a pipe, and the commands among them.

Ctrl-C stops an answer but not the program; at the prompt it drops the line. Ctrl-D and /quit end.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CpmvError
from .arguments import UsageError

if TYPE_CHECKING:
    from .chat import Session
    from .conversation import Conversation

PROMPT = "> "
COMMANDS = {
    "/image": "/image PATH     show an image with the next question",
    "/video": "/video PATH     show a video, or a folder of frames",
    "/pdf": "/pdf PATH       show a PDF",
    "/file": "/file PATH      show a file of any of these kinds",
    "/think": "/think on|off   reason before answering, or not",
    "/clear": "/clear          forget what was said and shown",
    "/save": "/save PATH      write the conversation as JSON messages",
    "/help": "/help           list the commands",
    "/quit": "/quit           end (also Ctrl-D); Ctrl-C stops an answer",
}


class Quit(Exception):
    """/quit was typed."""


def converse(session: Session) -> int:
    """Answer line after line. In a pipe the first mistake ends with exit code 2; in a terminal it is only shown."""
    if sys.stdin.isatty():
        return _converse_at_terminal(session)
    num_questions = 0
    for line in _piped_lines():
        try:
            question = command(session, line)
        except Quit:
            return 0
        if question:
            session.ask(question)
            num_questions += 1
    if not num_questions:
        raise UsageError("there is no question: give one with -q, or one a line on stdin")
    return 0


def _converse_at_terminal(session: Session) -> int:
    _greet(session)
    read = _line_reader(session)
    while True:
        try:
            line = read()
        except EOFError:
            session.screen.note("")
            return 0
        except KeyboardInterrupt:
            session.screen.note("\n(Ctrl-D or /quit ends)")
            continue
        try:
            question = command(session, line)
            if question:
                _ask(session, question)
        except Quit:
            return 0
        except CpmvError as error:
            session.screen.error(error)
        except KeyboardInterrupt:
            session.screen.note("(stopped)")


def _ask(session: Session, question: str) -> None:
    """Answer; files that came with a question that cannot be answered would spoil the next one too, so they go."""
    try:
        session.ask(question)
    except CpmvError as error:
        session.screen.error(error)
        if session.conversation.waiting:
            session.conversation.waiting = []
            session.screen.note("(the files of this question are forgotten)")


def command(session: Session, line: str) -> str:
    """Obey a line that is a command and return ""; return any other as a question. Raises Quit, CpmvError."""
    line = line.strip()
    if not line.startswith("/"):
        return line
    name, _, argument = line.partition(" ")
    argument = argument.strip()
    if name not in COMMANDS:
        if "/" in name[1:] or Path(line).exists():  # a path dropped into the terminal is no mistyped command
            raise UsageError(f"{name!r} is no command; to show a file, type /file {line}")
        raise UsageError(f"there is no command {name!r}; there are {', '.join(COMMANDS)}")
    needs_argument = name in ("/image", "/video", "/pdf", "/file", "/think", "/save")
    if needs_argument != bool(argument):
        raise UsageError(
            f"{name} takes {'an' if needs_argument else 'no'} argument: {' '.join(COMMANDS[name].split())}"
        )
    _obey(session, name, argument)
    return ""


def _obey(session: Session, name: str, argument: str) -> None:
    conversation, note = session.conversation, session.screen.note
    if name == "/quit":
        raise Quit
    if name == "/help":
        note("\n".join(COMMANDS.values()))
    elif name == "/clear":
        conversation.clear()
        note("(cleared)")
    elif name == "/think":
        if argument not in ("on", "off"):
            raise UsageError(f"/think {argument} is not known; say /think on or /think off")
        session.think = argument == "on"
        note(f"(thinking {argument})")
    elif name == "/save":
        note(f"(saved to {conversation.save(argument)})")
    else:
        kinds = {"/image": "image", "/video": "video", "/pdf": "pdf"}
        conversation.attach(argument, kinds.get(name, "any"))  # type: ignore[arg-type]
        note(_waiting(conversation))


def _waiting(conversation: Conversation) -> str:
    names = [f"{Path(part.source).name} ({type(part).__name__.lower()})" for part in conversation.waiting]
    return f"(with the next question: {', '.join(names)})"


def _greet(session: Session) -> None:
    model = session.model
    session.screen.note(f"MiniCPM-V {model.config.version} ({model.format}). Ask a question; /help lists the commands.")
    if session.conversation.waiting:
        session.screen.note(_waiting(session.conversation))


def _line_reader(session: Session) -> Callable[[], str]:
    """Return what reads a line: with editing and completion where readline exists, and never a prompt in a file."""
    if not sys.stdout.isatty():

        def read_plain() -> str:
            session.screen.err.out(PROMPT, end="")
            line = sys.stdin.readline()
            if not line:
                raise EOFError
            return line

        return read_plain
    try:
        import readline
    except ImportError:  # Windows: the console edits lines itself
        return lambda: input(PROMPT)
    readline.set_completer_delims("")  # paths may hold spaces, so a completion replaces the whole line
    readline.set_completer(lambda line, state: dict(enumerate(completions(line))).get(state))
    readline.parse_and_bind("tab: complete")
    return lambda: input(PROMPT)


def completions(line: str) -> list[str]:
    """Return the lines that an unfinished command may become: its name completed, or the path after it."""
    name, space, path = line.partition(" ")
    if not space:
        return [f"{known} " for known in COMMANDS if known.startswith(name)] if name else []
    if name not in ("/image", "/video", "/pdf", "/file", "/save"):
        return []
    folder, slash, stem = path.rpartition("/")
    try:
        entries = sorted(Path(f"{folder}{slash}" or ".").expanduser().iterdir())
    except OSError:
        return []
    found = [entry for entry in entries if entry.name.startswith(stem)]
    return [f"{name} {folder}{slash}{entry.name}{'/' if entry.is_dir() else ''}" for entry in found]


def _piped_lines() -> Iterator[str]:
    """Yield the lines of stdin in its declared encoding. Raises UsageError for a line that is in another."""
    encoding = sys.stdin.encoding or "utf-8"
    for number, raw in enumerate(sys.stdin.buffer, start=1):
        try:
            yield raw.decode(encoding)
        except UnicodeDecodeError as error:
            raise UsageError(
                f"line {number} of stdin is not {encoding}; convert it, or name its encoding in PYTHONIOENCODING"
            ) from error
