"""Lines of JSON that a run writes bit by bit and goes on with after it was killed.

A line is of one prompt, in order. What a kill tore, and what does not fill a whole block, is cut off: blocks are made
with their own seed, so a block made again is the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read_lines(path: Path) -> list[Row]:
    """The whole lines of a file; a torn one at its end is left out. No file, no lines."""
    if not path.is_file():
        return []
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1].decode("utf-8")
    return [json.loads(line) for line in whole.splitlines()]


def write_lines(path: Path, rows: Sequence[Row]) -> None:
    """Write a file whole, or not at all."""
    part = path.with_suffix(path.suffix + ".part")
    part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    os.replace(part, path)


def write_json(path: Path, value: Any) -> None:
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def continue_lines(
    path: Path,
    total: int,
    block: int,
    make: Callable[[int, int], Sequence[Row]],
    told: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Return `total` lines of a file, making those that are missing, a block at a time.

    make: lines from `start` to `stop`, of one block. told: called with (done, total) after each.
    """
    rows = read_lines(path)
    whole = len(rows) if len(rows) >= total else len(rows) // block * block
    rows = rows[:whole]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_lines(path, rows)
    with path.open("a", encoding="utf-8") as file:
        for start in range(whole, total, block):
            made = make(start, min(start + block, total))
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made))
            file.flush()
            rows += made
            if told is not None:
                told(len(rows), total)
    return rows
