"""PDF pages: ranges, resolution, limits, and documents that cannot be opened."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pypdfium2
import pytest
from PIL import Image

from cpmv.errors import MediaError, MessageError
from cpmv.inputs import pdf
from cpmv.inputs.pdf import iter_pages, page_count, parse_page_range

COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30)]


def document(num_pages: int = 4, size: tuple[int, int] = (72, 36)) -> bytes:
    """A PDF whose page n is one colour, `size` points large."""
    first, *rest = [Image.new("RGB", size, COLOURS[i % len(COLOURS)]) for i in range(num_pages)]
    buffer = io.BytesIO()
    first.save(buffer, "PDF", save_all=True, append_images=rest, resolution=72)
    return buffer.getvalue()


def encrypted() -> bytes:
    """A document with a password that nobody knows: its /Encrypt dictionary holds arbitrary hashes."""
    key = "<" + "5a" * 32 + ">"
    encrypt = f"<</Filter /Standard /V 1 /R 2 /O {key} /U {key} /P -4>>"
    objects = [
        b"<</Type /Catalog /Pages 2 0 R>>",
        b"<</Type /Pages /Kids [3 0 R] /Count 1>>",
        b"<</Type /Page /Parent 2 0 R /MediaBox [0 0 10 10]>>",
        encrypt.encode(),
    ]
    return assemble(objects, b"/Encrypt 4 0 R /ID [<00112233> <00112233>]")


def assemble(objects: Sequence[bytes], extra: bytes = b"") -> bytes:
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    trailer = b"trailer\n<</Size %d /Root 1 0 R %s>>\nstartxref\n%d\n%%%%EOF\n" % (size, extra, len(out))
    return out + b"xref\n0 %d\n0000000000 65535 f \n" % size + table + trailer


def page_of(width: int, height: int, *, rotate: int = 0, content: bytes = b"") -> bytes:
    stream = b"<</Length %d>>\nstream\n%s\nendstream" % (len(content), content)
    box = b"[0 0 %d %d]" % (width, height)
    page = b"<</Type /Page /Parent 2 0 R /Rotate %d /MediaBox %s /Contents 4 0 R>>" % (rotate, box)
    return assemble([b"<</Type /Catalog /Pages 2 0 R>>", b"<</Type /Pages /Kids [3 0 R] /Count 1>>", page, stream])


def middle(image: Image.Image) -> tuple[int, ...]:
    pixel = image.getpixel((image.width // 2, image.height // 2))
    assert isinstance(pixel, tuple)
    return pixel


def near(pixel: tuple[int, ...], colour: tuple[int, ...]) -> bool:
    return max(abs(a - b) for a, b in zip(pixel, colour, strict=True)) <= 6


def test_pages_come_in_order_as_rgb_at_the_asked_resolution() -> None:
    pages = list(iter_pages(document()))
    assert [page.size for page in pages] == [(144, 72)] * 4 and {page.mode for page in pages} == {"RGB"}
    assert all(near(middle(page), colour) for page, colour in zip(pages, COLOURS, strict=True))
    assert [page.size for page in iter_pages(document(), "1", dpi=100)] == [(100, 50)]


def test_path_bytes_and_data_uri_are_the_same_document(tmp_path: Path) -> None:
    data = document(2)
    (tmp_path / "文件").write_bytes(data)
    uri = "data:application/pdf;base64," + base64.b64encode(data).decode()
    for source in (tmp_path / "文件", str(tmp_path / "文件"), data, uri):
        assert page_count(source) == 2
        assert len(list(iter_pages(source))) == 2


def test_chosen_pages_keep_their_order_and_repeat() -> None:
    for pages in ("4,1-2,1", [4, 1, 2, 1], (4, 1, 2, 1), np.array([4, 1, 2, 1])):
        colours = [middle(page) for page in iter_pages(document(), pages)]  # type: ignore[arg-type]
        assert all(near(a, COLOURS[b - 1]) for a, b in zip(colours, [4, 1, 2, 1], strict=True))


@pytest.mark.parametrize(
    "text,expected",
    [("1-3,7", [1, 2, 3, 7]), (" 2 , 4 - 5 ", [2, 4, 5]), ("9", [9]), ("3-3", [3]), (None, list(range(1, 10)))],
)
def test_page_ranges_are_read(text: str | None, expected: list[int]) -> None:
    assert parse_page_range(text, 9) == expected


@pytest.mark.parametrize(
    "pages",
    [*"a 1- -3 1--2 1;2 0 10 3-1 8-10 1-999999999 １ 1, 99999999999999".split(), "", [], [0], [1.5], 3, [None]],
)
def test_bad_page_ranges_are_refused_on_one_line(pages: Any) -> None:
    with pytest.raises(MessageError) as caught:
        parse_page_range(pages, 9)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_a_page_outside_the_document_is_named_with_the_page_count() -> None:
    with pytest.raises(MessageError, match="page 5 asked for; the document has pages 1 to 4"):
        iter_pages(document(), [1, 5])


@pytest.mark.parametrize("dpi", [0, -1, 1e9, float("nan"), "144", None, True])
def test_a_dpi_that_makes_no_sense_is_refused(dpi: Any) -> None:
    with pytest.raises(MessageError, match="dpi"):
        iter_pages(document(), dpi=dpi)


def test_a_huge_page_is_refused_with_its_pixels_before_it_is_rendered() -> None:
    huge = page_of(14_400, 14_400)
    with pytest.raises(MediaError, match=r"page 1 of .* is 28800 x 28800 = 829440000 pixels at 144 dpi; at most"):
        list(iter_pages(huge))
    assert next(iter_pages(huge, dpi=10)).size == (2000, 2000)


def test_too_many_pages_at_once_are_refused_with_the_number() -> None:
    with pytest.raises(MediaError, match="4 pages of .* at most 3 are rendered"):
        iter_pages(document(), max_pages=3)
    assert len(list(iter_pages(document(), "2-4", max_pages=3))) == 3


def test_a_rotated_page_is_upright_and_empty_paper_is_white() -> None:
    (page,) = iter_pages(page_of(100, 40, rotate=90, content=b"1 0 0 rg 0 0 50 40 re f"), dpi=72)
    assert page.size == (40, 100)
    assert page.getpixel((20, 10)) == (255, 0, 0) and page.getpixel((20, 90)) == (255, 255, 255)


@pytest.mark.parametrize("cut", [9, 20, 200])
def test_truncated_and_corrupt_documents_are_clear_errors(cut: int) -> None:
    for read in (page_count, iter_pages):
        with pytest.raises(MediaError, match="corrupt, truncated") as caught:
            read(document()[:cut])
        assert "\n" not in str(caught.value)


def test_a_document_without_pages_is_refused() -> None:
    empty = assemble([b"<</Type /Catalog /Pages 2 0 R>>", b"<</Type /Pages /Kids [] /Count 0>>"])
    with pytest.raises(MediaError):
        page_count(empty)


def test_an_encrypted_document_is_refused_as_such() -> None:
    with pytest.raises(MediaError, match="encrypted and needs a password"):
        page_count(encrypted())


def test_missing_files_and_other_types_are_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no such file: 'gone.pdf'"):
        iter_pages("gone.pdf")
    with pytest.raises(MediaError, match="is a folder"):
        iter_pages(tmp_path)
    buffer = io.BytesIO()
    Image.new("RGB", (3, 3)).save(buffer, "PNG")
    with pytest.raises(MediaError, match="is PNG, not a PDF; send it as an image"):
        iter_pages(buffer.getvalue())


@pytest.fixture
def open_documents(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Count documents that are open right now."""
    opened: list[Any] = []

    class Counted(pypdfium2.PdfDocument):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            opened.append(self)

    monkeypatch.setattr(pypdfium2, "PdfDocument", Counted)
    return lambda: sum(bool(one.raw) for one in opened)


def test_documents_are_closed_at_the_end_on_early_stop_and_on_error(open_documents: Callable[[], int]) -> None:
    pages = iter_pages(document())
    assert open_documents() == 0  # nothing stays open before the first page is asked for
    next(pages)
    assert open_documents() == 1
    pages.close()
    assert open_documents() == 0
    assert len(list(iter_pages(document()))) == 4 and open_documents() == 0
    with pytest.raises(MediaError):
        list(iter_pages(document(), max_pixels=10))
    assert open_documents() == 0


def test_pages_are_rendered_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[int] = []
    render = pdf._render_page

    def recorded(document: Any, number: int, *rest: Any) -> Image.Image:
        rendered.append(number)
        return render(document, number, *rest)

    monkeypatch.setattr(pdf, "_render_page", recorded)
    pages = iter_pages(document())
    assert rendered == []
    next(pages)
    assert rendered == [1]


def test_several_threads_may_render_at_once() -> None:
    data, results = document(3, (200, 200)), []

    def work() -> None:
        results.append([middle(page) for page in iter_pages(data)])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and all(one == results[0] for one in results)


def test_filled_form_fields_are_drawn() -> None:
    appearance = b"0 0.5 0 rg 0 0 30 30 re f"
    form = assemble(
        [
            b"<</Type /Catalog /Pages 2 0 R /AcroForm <</Fields [4 0 R]>>>>",
            b"<</Type /Pages /Kids [3 0 R] /Count 1>>",
            b"<</Type /Page /Parent 2 0 R /MediaBox [0 0 50 50] /Annots [4 0 R]>>",
            b"<</Type /Annot /Subtype /Widget /FT /Tx /T (name) /V (x) /F 4 /P 3 0 R "
            b"/Rect [10 10 40 40] /AP <</N 5 0 R>>>>",
            b"<</Type /XObject /Subtype /Form /BBox [0 0 30 30] /Length %d>>\nstream\n%s\nendstream"
            % (len(appearance), appearance),
        ]
    )
    (page,) = iter_pages(form, dpi=72)
    red, green, blue = middle(page)
    assert green > red + 50 and green > blue + 50  # a field may also be tinted
    assert page.getpixel((2, 2)) == (255, 255, 255)
