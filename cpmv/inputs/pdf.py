"""PDF pages as pictures, one at a time, rendered by PDFium.

Sits beside `image`: each page that `iter_pages` yields is then sliced like any picture. Filled form fields and
annotations are drawn; the text layer is not read.
"""

from __future__ import annotations

import math
import operator
import re
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MediaError, MessageError
from .image import DEFAULT_MAX_PIXELS, Size
from .media import FileSource, as_media_error, describe, locate, open_source, sniff_file

if TYPE_CHECKING:
    from PIL import Image
    from pypdfium2 import PdfDocument

DEFAULT_DPI = 144  # an A4 page becomes 1190 x 1684 pixels, which fills the nine slices of 448 x 448
MAX_PAGES = 1000  # one document's share; a page takes about 640 tokens, so the context ends far earlier
POINTS_PER_INCH = 72

_PDFIUM = threading.RLock()  # PDFium is not thread-safe: one call at a time in the whole process
_PASSWORD_NEEDED = 4  # FPDF_ERR_PASSWORD


def iter_pages(
    source: FileSource,
    pages: str | Sequence[int] | None = None,
    dpi: float = DEFAULT_DPI,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    max_pages: int = MAX_PAGES,
) -> Generator[Image.Image, None, None]:
    """Render pages of a PDF as RGB images, in the order asked for; only one page is held at a time.

    source: a path, the bytes of a file, or a data URI. pages: "1-3,7", page numbers counted from 1, or None for all.
    dpi: pixels per inch. max_pixels: width x height above which a page is not rendered.
    Mistakes in the arguments and unreadable documents raise here, before the first page is asked for: MessageError for
    `pages` and `dpi`, MediaError for a document that is missing, encrypted, corrupt, or too long or large.
    """
    if isinstance(dpi, bool) or not isinstance(dpi, (int, float)) or not 1 <= dpi <= 2400:
        raise MessageError(f"dpi is {dpi!r}; it must be a number from 1 to 2400 (144 suits most pages)")
    numbers = parse_page_range(pages, page_count(source))
    if len(numbers) > max_pages:
        raise MediaError(
            f"{len(numbers)} pages of {describe(source)} are asked for; at most {max_pages} are rendered in one go; "
            'choose some with pages="1-20"'
        )
    return _render_pages(source, numbers, dpi / POINTS_PER_INCH, max_pixels)


def page_count(source: FileSource) -> int:
    """Count the pages of a PDF. Raises MediaError for a document that is missing, encrypted, corrupt or empty."""
    with _PDFIUM, _open_document(source) as document:
        num_pages = len(document)
    if num_pages < 1:
        raise MediaError(f"{describe(source)} has no pages; check the file")
    return num_pages


def parse_page_range(pages: str | Sequence[int] | None, num_pages: int) -> list[int]:
    """List the page numbers, counted from 1, that "1-3,7", a list of numbers, or None (all) asks for.

    Order and repetition are kept. Raises MessageError for what is no page range or lies outside 1..num_pages.
    """
    if pages is None:
        return list(range(1, num_pages + 1))
    bounds = _parse_text(pages) if isinstance(pages, str) else _parse_numbers(pages)
    numbers: list[int] = []
    for first, last in bounds:
        if first < 1 or last > num_pages or first > last:
            asked = f"page {first}" if first == last else f"pages {first}-{last}"
            raise MessageError(f"{asked} asked for; the document has pages 1 to {num_pages}, and ranges run upwards")
        numbers.extend(range(first, last + 1))
    if not numbers:
        raise MessageError('no pages are asked for; write pages as "1-3,7", or leave it out for all')
    return numbers


def _parse_text(pages: str) -> list[tuple[int, int]]:
    bounds = []
    for piece in pages.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?", piece)
        if match is None:
            raise MessageError(f'pages is {pages[:80]!r}; write numbers and ranges counted from 1, such as "1-3,7"')
        first = int(match[1])
        bounds.append((first, int(match[2]) if match[2] else first))
    return bounds


def _parse_numbers(pages: Sequence[int]) -> list[tuple[int, int]]:
    try:
        numbers = [operator.index(page) for page in pages]
    except TypeError as error:
        raise MessageError(
            f'pages is a {type(pages).__name__}; give a list of page numbers counted from 1, or text such as "1-3,7"'
        ) from error
    return [(number, number) for number in numbers]


def _render_pages(
    source: FileSource, numbers: list[int], scale: float, max_pixels: int
) -> Generator[Image.Image, None, None]:
    with _open_document(source) as document:
        with _PDFIUM, as_media_error(describe(source)):
            if document.get_formtype():
                document.init_forms()  # without it filled form fields stay blank
        for number in numbers:
            yield _render_page(document, number, scale, max_pixels, describe(source))


def _render_page(document: PdfDocument, number: int, scale: float, max_pixels: int, what: str) -> Image.Image:
    what = f"page {number} of {what}"
    with _PDFIUM, as_media_error(what):
        page = document[number - 1]
        try:
            width, height = _pixel_size(page.get_size(), scale)
            if width * height > max_pixels:
                raise MediaError(
                    f"{what} is {width} x {height} = {width * height} pixels at {scale * POINTS_PER_INCH:g} dpi; "
                    f"at most {max_pixels} are rendered; lower the dpi"
                )
            bitmap = page.render(scale=scale, rev_byteorder=True)
            try:
                return bitmap.to_pil().convert("RGB")  # a copy: the bitmap's own memory is about to go
            finally:
                bitmap.close()
        finally:
            page.close()


def _pixel_size(points: tuple[float, float], scale: float) -> Size:
    return math.ceil(points[0] * scale), math.ceil(points[1] * scale)


@contextmanager
def _open_document(source: FileSource) -> Iterator[PdfDocument]:
    """Open a document and close it afterwards, whatever happens in between."""
    what = describe(source)
    with open_source(source) as file:
        found = sniff_file(file, source)
    if found.kind != "pdf":
        raise MediaError(f"{what} is {found.name}, not a PDF; send it as {_article(found.kind)}")
    document = _load(locate(source), what)
    try:
        yield document
    finally:
        with _PDFIUM:
            document.close()


def _load(located: Path | bytes, what: str) -> PdfDocument:
    import pypdfium2

    with _PDFIUM, as_media_error(what):
        try:
            return pypdfium2.PdfDocument(located)
        except pypdfium2.PdfiumError as error:
            if getattr(error, "err_code", None) == _PASSWORD_NEEDED or "password" in str(error).lower():
                raise MediaError(f"{what} is encrypted and needs a password; save a copy without one") from error
            raise


def _article(kind: str) -> str:
    return "an image" if kind == "image" else f"a {kind}"
