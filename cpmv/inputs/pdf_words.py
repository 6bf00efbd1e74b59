"""The text layer of a PDF page: its words with boxes in the pixels of the rendered page.

Beside `pdf`, which renders and never reads text. Answering needs no text layer; making training samples from someone's
own documents does.
"""

from __future__ import annotations

from dataclasses import dataclass

from .media import FileSource, as_media_error, describe
from .pdf import _PDFIUM, DEFAULT_DPI, POINTS_PER_INCH, _open_document, page_count, parse_page_range

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True, slots=True)
class Word:
    """A word and its box, px."""

    text: str
    box: Box


def page_words(source: FileSource, page: int, dpi: float = DEFAULT_DPI) -> list[Word]:
    """Words of a page in the order of its text layer; none where the page is only a picture.

    page: counted from 1. Boxes are pixels of the page as `iter_pages` renders it at `dpi`, rotation included.
    Raises MessageError for a page that is not there, MediaError for an unreadable document.
    """
    (number,) = parse_page_range([page], page_count(source))
    with _open_document(source) as document, _PDFIUM, as_media_error(f"page {number} of {describe(source)}"):
        handle = document[number - 1]
        try:
            width, height = handle.get_size()  # points, as displayed
            turn = handle.get_rotation()
            crop = handle.get_cropbox()
            layer = handle.get_textpage()
            try:
                characters = [
                    (layer.get_text_range(i, 1), layer.get_charbox(i, loose=True)) for i in range(layer.count_chars())
                ]
            finally:
                layer.close()
        finally:
            handle.close()
    scale = dpi / POINTS_PER_INCH
    words: list[Word] = []
    letters: list[tuple[str, Box]] = []
    for text, corners in [*characters, (" ", (0.0, 0.0, 0.0, 0.0))]:
        if text.strip() and text.isprintable():
            letters.append((text, _displayed(corners, crop, turn, width, height, scale)))
        elif letters:
            words.append(_word(letters))
            letters = []
    return words


def _displayed(corners: Box, crop: Box, turn: int, width: float, height: float, scale: float) -> Box:
    """From PDF coordinates (left, bottom, right, top, y up, unrotated) to pixels of the displayed page."""
    left, bottom, right, top = (value - crop[i % 2] for i, value in enumerate(corners))
    if turn == 90:
        left, top, right, bottom = bottom, left, top, right
    elif turn == 180:
        left, top, right, bottom = width - right, bottom, width - left, top
    elif turn == 270:
        left, top, right, bottom = width - top, height - right, width - bottom, height - left
    else:
        top, bottom = height - top, height - bottom
    return left * scale, top * scale, right * scale, bottom * scale


def _word(letters: list[tuple[str, Box]]) -> Word:
    boxes = [box for _, box in letters]
    box = (min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes))
    return Word("".join(text for text, _ in letters), box)
