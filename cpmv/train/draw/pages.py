"""Pages of text and what is asked about them: all of it, a line, a paragraph, a section, an entry, a framed piece.

`page_layouts.py` composes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .canvas import Unfit
from .document import Document, Turn
from .page_layouts import Page, compose
from .questions import ask, ordinal

if TYPE_CHECKING:
    from .documents import Maker, Task


def _document(task: str, page: Page, answer: str, language: int, *values: str) -> Document:
    question = ask(page.canvas.rng, "page_read" if task == "page_prose" else task, language, *values)
    return Document(task, [page.canvas.sheet], [Turn(question, answer, 1)], language, meta={"lines": page.lines})


_PROSE = ("article", "article", "article", "sections", "list", "notice", "glossary", "week")


def _read(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    """All of a page: most of them lines of anything, else as `_read_prose`."""
    style = "lines" if rng.random() < 0.6 else _PROSE[int(rng.integers(len(_PROSE)))]
    page = compose(maker, rng, width, height, style, whole=True)
    return _document("page_read", page, "\n".join(page.lines), maker.language(page.canvas))


def _read_prose(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    """All of a page on which some things are said twice."""
    page = compose(maker, rng, width, height, _PROSE[int(rng.integers(len(_PROSE)))], whole=True)
    return _document("page_prose", page, "\n".join(page.lines), maker.language(page.canvas))


def _read_heading(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    names = ("article", "sections", "list", "notice", "week")
    page = compose(maker, rng, width, height, names[int(rng.integers(len(names)))], whole=False)
    headings = page.of("heading")
    if not headings or len(page.blocks) < 2:
        raise Unfit("no heading")
    return _document("page_heading", page, headings[0].text, maker.language(page.canvas))


def _read_line(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    page = compose(maker, rng, width, height, "article" if rng.random() < 0.6 else "lines", whole=False)
    lines = page.lines
    if len(lines) < 2:
        raise Unfit("too few lines")
    index = page.canvas.between(0, min(len(lines), 12) - 1)
    return _document("page_line", page, lines[index], maker.language(page.canvas), *ordinal(index + 1))


def _read_last(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    names = ("article", "list", "notice", "week")
    page = compose(maker, rng, width, height, names[int(rng.integers(len(names)))], whole=False)
    if len(page.lines) < 2:
        raise Unfit("too few lines")
    return _document("page_last_line", page, page.lines[-1], maker.language(page.canvas))


def _count_lines(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    names = ("article", "list", "notice", "week", "glossary")
    page = compose(maker, rng, width, height, names[int(rng.integers(len(names)))], whole=False)
    if len(page.lines) > 12:
        raise Unfit("too many lines to count")
    return _document("page_count_lines", page, str(len(page.lines)), maker.language(page.canvas))


def _read_paragraph(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    page = compose(maker, rng, width, height, "article", whole=False, heading=0.6, least=2)
    paragraphs = page.of("paragraph")
    index = page.canvas.between(0, len(paragraphs) - 1)
    if page.of("small"):
        raise Unfit("a line that could pass for a paragraph")
    return _document("page_paragraph", page, paragraphs[index].text, maker.language(page.canvas), *ordinal(index + 1))


def _read_section(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    page = compose(maker, rng, width, height, "sections", whole=False)
    places = [index for index, block in enumerate(page.blocks) if block.role == "section"]
    index = places[page.canvas.between(0, len(places) - 1)]
    return _document(
        "page_section", page, page.blocks[index + 1].text, maker.language(page.canvas), page.blocks[index].text
    )


def _read_item(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    page = compose(maker, rng, width, height, "list", whole=False)
    items = page.of("item")
    index = page.canvas.between(0, len(items) - 1)
    return _document("page_item", page, items[index].value, maker.language(page.canvas), *ordinal(index + 1))


def _find_value(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    names = ("notice", "notice", "notice", "glossary", "week")
    page = compose(maker, rng, width, height, names[int(rng.integers(len(names)))], whole=False)
    values = page.of("value")
    block = values[page.canvas.between(0, len(values) - 1)]
    return _document("page_value", page, block.value, int(page.canvas.han), block.key)


def _read_framed(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    names = ("article", "article", "list", "notice", "glossary", "week")
    name = names[int(rng.integers(len(names)))]
    options = {"heading": 0.3, "least": 2} if name == "article" else {}
    framed = int(rng.integers(4))
    page = compose(maker, rng, width, height, name, whole=False, framed=framed, **options)
    if len(page.blocks) <= framed:
        raise Unfit("no block to frame")
    return _document("page_framed", page, page.blocks[framed].text, maker.language(page.canvas))


TASKS: dict[str, Task] = {
    "page_read": _read, "page_prose": _read_prose, "page_heading": _read_heading, "page_line": _read_line,
    "page_last_line": _read_last,
    "page_count_lines": _count_lines, "page_paragraph": _read_paragraph, "page_section": _read_section,
    "page_item": _read_item, "page_value": _find_value, "page_framed": _read_framed,
}  # fmt: skip
WEIGHTS: dict[str, float] = {
    "page_read": 9.0, "page_prose": 0.5, "page_heading": 0.8, "page_line": 1.0, "page_last_line": 0.5,
    "page_count_lines": 0.4,
    "page_paragraph": 1.0, "page_section": 0.8, "page_item": 0.8, "page_value": 1.5, "page_framed": 0.8,
}  # fmt: skip
