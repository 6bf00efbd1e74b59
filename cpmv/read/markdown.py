"""Read blocks as Markdown: headings by the size of their letters, lists, tables, and comments where doubt is left."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .page import ReadBlock, ReadLine, join_lines

# Letters this much larger than the page's usual are headings of level 1, 2, 3.
HEADING_SCALES = ((1.75, "#"), (1.28, "##"), (1.15, "###"))
MOST_HEADING_LINES = 3
_NUMBER = r"\(?(\d{1,3})(?:[.)]\s|[)]|[、．])\s*"
_NUMBERED = re.compile(_NUMBER + r"\S")
_SPECIAL_START = re.compile(r"^(#{1,6}\s|>|[-+*]\s|={3,}|-{3,}|\|)")


def page_marker(number: int) -> str:
    """The comment that stands before a page."""
    return f"<!-- page {number} -->"


def write_page(blocks: Sequence[ReadBlock]) -> str:
    """One page's Markdown, without a final newline; "" for an empty page."""
    pieces: list[tuple[str, str]] = []  # (kind, text)
    for block in blocks:
        pieces += _pieces(block)
        marks = [mark for line in block.all_lines() if (mark := doubt_mark(line))]
        if marks:
            pieces.append(("mark", "\n".join(marks)))
    out = ""
    before = ""
    for kind, text in pieces:
        if out:
            out += "\n" if kind == before == "item" or kind == "mark" and before == "item" else "\n\n"
        out += text
        before = kind
    return out


def doubt_mark(line: ReadLine) -> str:
    """A comment that tells what may be wrong with a line, or ""."""
    if line.problem:
        words = f"{_comment(line.text)} ({_comment(line.problem)})" if line.text else _comment(line.problem)
        return f"<!-- doubtful: {words} -->"
    if line.doubt is not None:
        layer = f"the text layer has: {_comment(line.doubt)}" if line.doubt else "the text layer has nothing like it"
        return f"<!-- doubtful: {_comment(line.text)} ({layer}) -->"
    return ""


def _comment(text: str) -> str:
    """Text that cannot end the comment it stands in."""
    return text.replace("--", "- -").replace(">", "›")


def _pieces(block: ReadBlock) -> list[tuple[str, str]]:
    if block.kind == "markdown":
        text = "\n".join(line.text for line in block.lines).strip("\n")
        return [("text", text)] if text else []
    if block.kind == "picture":
        return [("text", f"<!-- picture, {block.size[0]} x {block.size[1]} px -->")]
    if block.kind == "unread":
        return []  # its marks say everything
    if block.kind == "table":
        table = _table(block.rows)
        return [("table", table)] if table else []
    return _text(block)


def _text(block: ReadBlock) -> list[tuple[str, str]]:
    texts = [line.text for line in block.lines if line.text]
    if not texts:
        return []
    if block.bullet:
        return [("item", f"- {join_lines(texts)}")]
    level = next((sign for least, sign in HEADING_SCALES if block.scale >= least), "")
    if level and len(texts) <= MOST_HEADING_LINES:
        return [("heading", f"{level} {join_lines(texts)}")]
    starts = [i for i, text in enumerate(texts) if _NUMBERED.match(text)]
    if len(starts) >= 2 or starts == [0]:
        return _numbered(texts, starts)
    return [("text", _escaped(join_lines(texts)))]


def _numbered(texts: list[str], starts: list[int]) -> list[tuple[str, str]]:
    """A numbered list whose items may have several lines; what stands before it is a paragraph."""
    out = [("text", _escaped(join_lines(texts[: starts[0]])))] if starts[0] else []
    for a, b in zip(starts, [*starts[1:], len(texts)], strict=True):
        out.append(("item", re.sub(f"^{_NUMBER}", r"\1. ", join_lines(texts[a:b]))))
    return out


def _escaped(text: str) -> str:
    return f"\\{text}" if _SPECIAL_START.match(text) else text


def _table(rows: Sequence[Sequence[ReadLine]]) -> str:
    cells = [[cell.text.replace("|", "\\|") for cell in row] for row in rows]
    if not any(any(row) for row in cells):
        return ""
    head, *body = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([head, f"|{'---|' * len(cells[0])}", *body])
