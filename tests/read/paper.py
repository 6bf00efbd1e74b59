"""Pages for the tests: drawn with Pillow's own face, PDFs with a text layer, and canned answers for a model's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from cpmv.read.reader import Reading


def font(size: int) -> Any:
    return ImageFont.load_default(size)


class Sheet:
    """A page to write on. `lines` holds what was written, in order."""

    def __init__(self, size: tuple[int, int] = (1000, 1300), paper: str = "white", ink: str = "#111") -> None:
        self.picture = Image.new("RGB", size, paper)
        self.draw = ImageDraw.Draw(self.picture)
        self.ink = ink
        self.lines: list[str] = []

    def write(self, x: int, y: int, text: str, size: int = 24, ink: str | None = None) -> None:
        self.draw.text((x, y), text, font=font(size), fill=ink or self.ink)
        self.lines.append(text)

    def paragraph(self, x: int, y: int, texts: Sequence[str], size: int = 24) -> int:
        """Lines one under another; returns the y after them."""
        for i, text in enumerate(texts):
            self.write(x, y + round(1.5 * size) * i, text, size)
        return y + round(1.5 * size) * len(texts)


class Answers:
    """Stands in for the model: answers in the order of asking, and keeps what it was asked.

    answers: texts, readings, or a function of (number of the question, its pictures).
    """

    def __init__(self, answers: Sequence[str | Reading] | Callable[[int, Sequence[Image.Image]], str]) -> None:
        self._answers = answers
        self.asked: list[tuple[Sequence[Image.Image], str, dict[str, Any]]] = []

    def submit(self, pictures: Sequence[Image.Image], question: str, **options: Any) -> Any:
        number = len(self.asked)
        self.asked.append((pictures, question, options))
        answer = self._answers(number, pictures) if callable(self._answers) else self._answers[number]
        return _Given(answer if isinstance(answer, Reading) else Reading(answer))


class _Given:
    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def result(self) -> Reading:
        return self._reading


def write_pdf(path: Path, pages: Sequence[Sequence[tuple[int, int, int, str]]], rotate: int = 0) -> Path:
    """A PDF with text: a page is a list of (x, y from the top, size, text) in points, on A4, in Helvetica."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", "", "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for page in pages:
        stream = "\n".join(f"BT /F1 {size} Tf {x} {842 - y} Td ({_escaped(text)}) Tj ET" for x, y, size, text in page)
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
        contents = len(objects)
        resources = "<< /Font << /F1 3 0 R >> >>"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Rotate {rotate} /Resources {resources} "
            f"/Contents {contents} 0 R >>"
        )
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    out, places = "%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    out += f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{out.index('xref')}\n%%EOF\n"
    path.write_bytes(out.encode("latin-1"))
    return path


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
