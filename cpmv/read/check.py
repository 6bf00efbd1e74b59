"""What was read against a PDF's own text layer: lines that differ are marked, and so is text that nobody read.

A line whose place is known is compared with the characters at that place; another with the stretch of the layer most
like it. Spaces, and signs that only look different (quotes, dashes, widths), do not count.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .merge import edit_row
from .page import ReadBlock, ReadLine

if TYPE_CHECKING:
    from ..inputs.pdf_text import TextLayer

_Span: TypeAlias = tuple[int, int, ReadLine]  # comparable characters [start, end) that a line says

LEAST_MISSING = 3  # characters in a row that nobody read are worth a mark
_ALIKE = str.maketrans(
    {
        "‘": "'",
        "’": "'",
        "‚": "'",
        "′": "'",
        "“": '"',
        "”": '"',
        "„": '"',
        "–": "-",
        "—": "-",
        "−": "-",
        "‐": "-",
        "‑": "-",
        "·": "•",
        "∙": "•",
        "\u00ad": None,
        "\u200b": None,
        "\ufeff": None,
    }  # fmt: skip
)
_LEADER = re.compile(r"\.{5,}")
_MARKDOWN = re.compile(r"^\s*(?:#{1,6}\s+|[-*+]\s+|>\s?|\|(?=.*\|\s*$))|[|*`\\]|^\s*\|?(?:\s*:?-{2,}:?\s*\|)+\s*$")


def check_page(blocks: list[ReadBlock], layer: TextLayer) -> None:
    """Mark doubtful lines of a page in place, and add a block that tells what the layer has beyond them.

    An empty layer (a scan) marks nothing: there is nothing to compare with; ask `has_text` first.
    """
    text = _Comparable(layer.characters)
    covered = np.zeros(len(text.plain), bool)
    spans: list[_Span] = []
    for block in blocks:
        for line in block.all_lines():
            if line.boxes:
                spans += _check_in_place(line, layer, text, covered)
            else:
                spans += _check_anywhere(line, block.kind == "markdown", text, covered)
    missing: list[str] = []
    for start, end in _uncovered(covered):
        if end - start >= LEAST_MISSING:
            missing.append(text.stretch(start, end))
        else:
            _blame(start, end, spans, text)
    if missing:
        lines = [ReadLine("", problem=f"not read, but in the text layer: {words}") for words in missing]
        blocks.append(ReadBlock("unread", lines=lines))


def has_text(layer: TextLayer) -> bool:
    """Whether a page has anything to compare with."""
    return any(not c.isspace() for c in layer.characters)


def comparable(text: str) -> str:
    """Text without spaces and dot leaders, signs that look alike made the same."""
    return _LEADER.sub("", _alike(text))


def _alike(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).translate(_ALIKE).split())


class _Comparable:
    """A layer's characters made comparable, each knowing where it came from."""

    def __init__(self, characters: str) -> None:
        self.original = characters
        plain: list[str] = []
        sources: list[int] = []
        for i, character in enumerate(characters):
            for one in _alike(character):
                plain.append(one)
                sources.append(i)
        for leader in reversed(list(_LEADER.finditer("".join(plain)))):
            del plain[leader.start() : leader.end()], sources[leader.start() : leader.end()]
        self.plain = "".join(plain)
        self.sources = np.array(sources, np.int64)  # of each comparable character, its place in the original
        self.codes = np.array([ord(c) for c in plain], np.int32)

    def breaks(self, place: int) -> bool:
        """Whether a line of the layer ends between one comparable character and the one before it."""
        if place == 0:
            return True
        between = self.original[self.sources[place - 1] : self.sources[place]] if place < len(self.plain) else "\n"
        return "\n" in between or "\r" in between

    def stretch(self, start: int, end: int) -> str:
        """The layer's own words from one comparable character to before another."""
        if start >= end:
            return ""
        return " ".join(self.original[self.sources[start] : self.sources[end - 1] + 1].split())


def _check_in_place(line: ReadLine, layer: TextLayer, text: _Comparable, covered: np.ndarray[Any, Any]) -> list[_Span]:
    """Compare a line with what stands at its place, and return where its words are.

    The place reaches a little beyond the line's ink, so that a full stop is not lost at coarse resolutions; what that
    takes in of neighbours is left to them.
    """
    inside = np.zeros(len(layer.characters), bool)
    x, y = layer.centres[:, 0], layer.centres[:, 1]
    for box in line.boxes:
        wide, high = 0.5 * box.height + 1, 0.2 * box.height + 1
        inside |= (x >= box.left - wide) & (x <= box.right + wide) & (y >= box.top - high) & (y <= box.bottom + high)
    here = np.flatnonzero(inside[text.sources])
    words = comparable(line.text)
    at = "".join(text.plain[i] for i in here).find(words)
    if at < 0:
        covered[here] = True
        line.doubt = " ".join("".join(layer.characters[i] for i in np.flatnonzero(inside)).split())
        return []
    found = here[at : at + len(words)]
    covered[found] = True
    return [(int(found[0]), int(found[-1]) + 1, line)] if len(found) else []


def _check_anywhere(line: ReadLine, is_markdown: bool, text: _Comparable, covered: np.ndarray[Any, Any]) -> list[_Span]:
    """Compare a line with the stretch most like it, and return where that is."""
    words = comparable(_MARKDOWN.sub("", line.text) if is_markdown else line.text)
    if not words:
        return []
    start, end, wrong = find_like(words, text)
    covered[start:end] = True
    if wrong:
        line.doubt = text.stretch(start, end) if wrong <= 0.5 * len(words) else ""
    return [(start, end, line)]


def _blame(start: int, end: int, spans: list[_Span], text: _Comparable) -> None:
    """Doubt the line that lost a few characters at its edge: the one on whose line of the layer they stand."""
    before = next((span for span in spans if span[1] == start), None)
    after = next((span for span in spans if span[0] == end), None)
    if before is not None and (after is None or not text.breaks(start)):
        before[2].doubt = text.stretch(before[0], end)
    elif after is not None:
        after[2].doubt = text.stretch(start, after[1])


def find_like(words: str, text: _Comparable) -> tuple[int, int, int]:
    """The stretch of a text with the fewest edits to `words`: (start, end, edits)."""
    n = len(text.codes)
    places = np.arange(n + 1, dtype=np.int32)
    row = np.zeros(n + 1, np.int32)  # edits from the words so far to a stretch that ends at each place
    for i, character in enumerate(words):
        step = np.empty(n + 1, np.int32)
        step[0] = i + 1
        np.minimum(row[:-1] + (text.codes != ord(character)), row[1:] + 1, out=step[1:])
        row = np.minimum.accumulate(step - places) + places
    end = int(np.argmin(row))
    before = text.plain[max(0, end - 2 * len(words)) : end][::-1]
    backwards = edit_row(words[::-1], before)
    return end - int(np.argmin(backwards)), end, int(row[end])


def _uncovered(covered: np.ndarray[Any, Any]) -> list[tuple[int, int]]:
    """Stretches of the layer that belong to no line."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], ~covered, [False])).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
