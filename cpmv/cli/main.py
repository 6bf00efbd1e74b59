"""The `cpmv` command: find the verb, run it, and turn every mistake into one line and an exit code.

A verb is a module with `run(argv) -> int`, imported only when it is called, so that `cpmv --help` is instant.
Exit codes: 0 done, 1 a check that found something, 2 a mistake of the caller or a file, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TextIO

import cpmv

from ..errors import CpmvError

# verb: (module, what it does)
VERBS = {
    "chat": ("cpmv.cli.chat", "talk about images, videos and PDFs"),
    "serve": ("cpmv.cli.serve", "serve a model: OpenAI's protocol, and a page to use it in"),
    "info": ("cpmv.cli.info", "tell a checkpoint's format, its sizes, and the memory it will need"),
    "check": ("cpmv.cli.check", "verify a checkpoint's files, tensor by tensor"),
    "read": ("cpmv.cli.read", "turn PDFs and pictures into Markdown, or into JSON that fits a schema"),
    "batch": ("cpmv.cli.batch", "answer a folder, a JSONL or a Parquet file, each input exactly once"),
    "quantize": ("cpmv.cli.quantize", "make a 16-bit checkpoint smaller: nf4, awq or int8"),
    "convert": ("cpmv.cli.convert", "rewrite a checkpoint as a GGUF pair, or as plain safetensors"),
    "train": ("cpmv.cli.train", "train a model from random weights, stage by stage"),
    "data": ("cpmv.cli.data", "check training data of your own before it is used"),
    "merge": ("cpmv.cli.merge", "write a checkpoint with an adapter merged into it"),
    "bench": ("cpmv.cli.bench", "measure speed on this machine beside its limits, and beside other programs"),
    "eval": ("cpmv.cli.eval", "score a model on pictures and clips with known answers"),
}

HELP = f"""usage: cpmv VERB [OPTIONS]

MiniCPM-V 4.5: ask about images, videos and PDFs.

{chr(10).join(f"  {verb:<10}{what}" for verb, (_, what) in VERBS.items())}

  cpmv VERB --help     list a verb's options
  cpmv --version       print the version

Example: cpmv chat photo.jpg -q "What is this?"
"""

USAGE_ERROR = 2
INTERRUPTED = 128 + 2  # as a shell reports SIGINT
PIPE_CLOSED = 128 + 13  # as a shell reports SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (by default the process's arguments) and return its exit code."""
    _write_anything(sys.stdout, sys.stderr)
    try:
        with _log_on_stderr():
            code = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except CpmvError as error:
        if os.environ.get("CPMV_DEBUG") == "1":
            traceback.print_exc()
        print(f"cpmv: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("cpmv: stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has gone; the interpreter's flush at exit must not complain about it either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED


def _run(argv: list[str]) -> int:
    if not argv:
        print(HELP, end="", file=sys.stderr)
        return USAGE_ERROR
    if argv[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"cpmv {cpmv.__version__}")
        return 0
    if argv[0] not in VERBS:
        kind = "option" if argv[0].startswith("-") else "verb"
        raise CpmvError(f"there is no {kind} {argv[0]!r}; the verbs are {', '.join(VERBS)} (see cpmv --help)")
    try:
        code = import_module(VERBS[argv[0]][0]).run(argv[1:])
    except SystemExit as stop:  # a verb's --help has been printed
        code = stop.code or 0
    assert isinstance(code, int)
    return code


def _write_anything(*streams: TextIO) -> None:
    """Let a terminal that lacks a character show "?" for it, rather than end the program."""
    for stream in streams:
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


class _OneLine(logging.Handler):
    """Log records as the lines that errors have, on whatever stderr is at the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        print(f"cpmv: {level}{record.getMessage()}", file=sys.stderr)


@contextmanager
def _log_on_stderr() -> Iterator[None]:
    """Show warnings, and in a terminal also what is being done; only ours, not the libraries'."""
    log, handler = logging.getLogger("cpmv"), _OneLine()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO if sys.stderr.isatty() else logging.WARNING)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


if __name__ == "__main__":
    sys.exit(main())
