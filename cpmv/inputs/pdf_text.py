"""The text layer of PDF pages: characters with their places, in the pixels of the page as `pdf` renders it.

Used to check what was read, never as the model's input. Scanned pages have no text layer, or one that another program
guessed.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .media import FileSource, as_media_error, describe
from .pdf import _PDFIUM, POINTS_PER_INCH, _open_document, _pixel_size

if TYPE_CHECKING:
    import numpy as np

_MOST_CHARACTERS = 200_000  # of one page


@dataclass(frozen=True)
class TextLayer:
    """characters: in the document's own order, with its spaces and line ends. centres: float32 [N, 2], x and y px."""

    characters: str
    centres: np.ndarray[Any, Any]


def read_text_layer(source: FileSource, page: int, dpi: float) -> TextLayer:
    """Read one page's text, page counted from 1, places in pixels at `dpi`. Raises MediaError as `pdf` does."""
    import numpy as np

    with _open_document(source) as document, _PDFIUM, as_media_error(f"page {page} of {describe(source)}"):
        handle = document[page - 1]
        try:
            width, height = _pixel_size(handle.get_size(), dpi / POINTS_PER_INCH)
            text = handle.get_textpage()
            try:
                return _collect(handle, text, width, height, np)
            finally:
                text.close()
        finally:
            handle.close()


def _collect(page: Any, text: Any, width: int, height: int, np: Any) -> TextLayer:
    import pypdfium2.raw as pdfium

    count = min(text.count_chars(), _MOST_CHARACTERS)
    characters: list[str] = []
    centres = np.full((count, 2), -1.0, np.float32)
    x, y = ctypes.c_int(), ctypes.c_int()
    for i in range(count):
        code = pdfium.FPDFText_GetUnicode(text, i)
        characters.append(chr(code) if 0 < code < 0x110000 and not 0xD800 <= code < 0xE000 else "\ufffd")
        left, bottom, right, top = text.get_charbox(i)
        pdfium.FPDF_PageToDevice(page, 0, 0, width, height, 0, (left + right) / 2, (bottom + top) / 2, x, y)
        centres[i] = x.value, y.value
    return TextLayer("".join(characters), centres)
