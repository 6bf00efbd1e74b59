"""Command lines into dataclasses: `parse` runs tyro and says what is wrong with an argument in one line."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro

from ..errors import CpmvError

Options = TypeVar("Options")

_FRAME = re.compile(r"[╭╮╰╯│─]+|-{4,}")
_ADVICE = ("Argument helptext:", "Perhaps you meant:", "For full helptext,")
_HELP_INDENT = 8  # spaces before the help of an argument that tyro quotes


class UsageError(CpmvError):
    """A command line that cannot be read."""


def parse(options: type[Options], verb: str, argv: Sequence[str]) -> Options:
    """Read `argv` into the dataclass `options`. `--help` prints and exits with 0, as SystemExit.

    Raises UsageError, in one line, where tyro draws a box of several.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(options, prog=f"cpmv {verb}", args=list(argv))
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(f"{_first_sentence(printed.getvalue())} (see cpmv {verb} --help)") from None


def _first_sentence(box: str) -> str:
    """Take what tyro complains about out of its frame, without the title, the advice, and indented help texts."""
    kept: list[str] = []
    for line in box.splitlines()[1:]:
        inner = _FRAME.sub("", line)
        if inner.strip().startswith(_ADVICE):
            break
        if len(inner) - len(inner.lstrip()) < _HELP_INDENT:
            kept.append(inner)
    text = " ".join(" ".join(kept).split()).rstrip(".").removeprefix("Error parsing ")
    unexpected = text.removeprefix("Unrecognized options: ")
    if unexpected != text and not unexpected.startswith("-"):
        return f"unexpected argument: {unexpected}; arguments without a name stand together"
    return text[:1].lower() + text[1:] if text else "the arguments cannot be read"


def number(kind: type[int] | type[float], metavar: str, low: float, high: float | None = None) -> Any:
    """Annotate an optional number that must lie in [low, high], for a one-line error that gives the range."""

    def read(given: list[str]) -> float:
        try:
            value = kind(given[0])
        except ValueError:
            raise ValueError(f"{given[0]!r} is no {'integer' if kind is int else 'number'}") from None
        if not low <= value <= (float("inf") if high is None else high):
            allowed = f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"
            raise ValueError(f"{given[0]} is not allowed; give {allowed}")
        return value

    return _optional(metavar, read)


def text(metavar: str) -> Any:
    """Annotate an optional string."""
    return _optional(metavar, lambda given: given[0])


def _optional(metavar: str, read: Callable[[list[str]], Any]) -> Any:
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=read,
        is_instance=lambda value: value is None or isinstance(value, (int, float, str)),
        str_from_instance=lambda value: [str(value)],
    )


def described(help: str, *aliases: str, metavar: str | None = None) -> Any:
    """Annotate a field with its help; a default worth knowing stands in the text."""
    return tyro.conf.arg(help=help, help_behavior_hint="", aliases=list(aliases) or None, metavar=metavar)
