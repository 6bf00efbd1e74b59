"""How an answer looks: streamed text with the thinking dimmed, a closing line of numbers, or one JSON object.

Thinking goes to stderr when stdout is no terminal, so that `cpmv chat ... > answer.txt` holds the answer alone.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from rich.console import Console

# What a terminal would obey rather than show; a model's words must not move its cursor.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Screen:
    """Shows pieces of one answer after another."""

    def __init__(self) -> None:
        self.out = Console(highlight=False)
        self.err = Console(highlight=False, stderr=True)
        self._section: str | None = None

    def piece(self, text: str, kind: str) -> None:
        """Show the next piece of "thinking" or "answer"."""
        console = self._console(kind)
        if kind != self._section:
            text = text.lstrip("\n")
            if not text:
                return
            if self._section is not None:
                self._console(self._section).file.write("\n\n")
            self._section = kind
        if console.is_terminal:
            text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
            console.out(text, end="", style="dim" if kind == "thinking" else None)
        else:
            console.file.write(text)
        console.file.flush()

    def end(self, summary: str = "") -> None:
        """End the answer; a terminal also shows what it took."""
        console = self._console(self._section or "answer")
        console.file.write("\n")
        console.file.flush()
        self._section = None
        if summary and self.out.is_terminal:
            self.out.out(f"({summary})", style="dim")

    def note(self, text: str) -> None:
        """Say something about the program itself."""
        self.err.out(text, style="dim")

    def error(self, error: Exception) -> None:
        print(f"cpmv: {' '.join(str(error).split())}", file=sys.stderr)

    def _console(self, kind: str) -> Console:
        return self.err if kind == "thinking" and not self.out.is_terminal else self.out


def print_json(data: dict[str, Any]) -> None:
    """Print one object on one line, escaped where the output's encoding is not UTF-8."""
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(json.dumps(data, ensure_ascii=not utf8), flush=True)
