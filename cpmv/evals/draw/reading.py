"""Text to read: lines, paragraphs, dates and Han lines of new words on plain paper, and pages that need slices."""

from __future__ import annotations

import random
from functools import cache

from PIL import Image

from ...train.draw.charset import ASCII, NUM_DRAWN_HAN, han_by_frequency
from ...train.draw.faces import Face
from ...train.draw.prompts import READ
from ...train.draw.words import date_text, piece_sorts
from ..samples import Sample, picture
from .canvas import Sheet, Size, between, choose_face, faces, has_all, largest_size, paper_and_ink, width_of

MIN_SIZE = 12  # px
_SORTS = (
    ("en", "common"),
    ("title",),
    ("upper",),
    ("en", "int", "price", "title"),
    ("date", "price", "code", "int"),
)


@cache
def pieces(held_out: bool = True) -> dict[str, list[str]]:
    """Words and patterns of each sort; by default those never trained on."""
    return piece_sorts(held_out, seed=7)


def fill(rng: random.Random, piece: str) -> str:
    """Put characters in place of a pattern's wildcards."""
    choices = {"\x01": "0123456789", "\x02": "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "\x03": "abcdefghijklmnopqrstuvwxyz",
               "\x04": ASCII[1:], "\x05": han_by_frequency()[:NUM_DRAWN_HAN]}  # fmt: skip
    return "".join(rng.choice(choices[c]) if c in choices else c for c in piece)


def latin_line(rng: random.Random, limit: int, most_words: int = 6) -> str:
    """New words, dates, prices or codes of at most `limit` characters."""
    sorts = rng.choice(_SORTS)
    words: list[str] = []
    while len(words) < most_words:
        word = fill(rng, rng.choice(pieces()[rng.choice(sorts)]))
        if len(" ".join([*words, word])) > limit:
            break
        words.append(word)
    return " ".join(words) or "".join(rng.choice("abcdefghkmnprstuwxyz") for _ in range(min(limit, 5)))


def han_line(rng: random.Random, limit: int) -> str:
    """New Chinese words and random characters, at most `limit` characters."""
    line = ""
    while True:
        part = (
            rng.choice(pieces()["zh"])
            if rng.random() < 0.6
            else "".join(rng.choices(han_by_frequency()[:NUM_DRAWN_HAN], k=3))
        )
        if line and len(line + part) > limit:
            return line
        line = (line + part)[:limit]
        if rng.random() < 0.15:
            return line


def write_lines(
    rng: random.Random, size: Size, lines: list[str], face: Face, point: int, gap: float, *, inverse: float = 0.25
) -> Sheet:
    """Lines of one face and size somewhere on plain paper, inside its edges."""
    paper, ink = paper_and_ink(rng, inverse)
    sheet = Sheet(size, paper)
    block = max(width_of(line, face, point) for line in lines)
    left = rng.uniform(4, max(4.0, size[0] - 5 - block))
    top = rng.uniform(3, max(3.0, size[1] - 4 - len(lines) * gap * point))
    align = rng.choice([0.0, 0.0, 0.5, 1.0])
    for row, line in enumerate(lines):
        x = left + (block - width_of(line, face, point)) * align
        sheet.text((x, top + (row * gap + 1.0) * point), line, face, point, ink)
    return sheet


def ask_to_read(rng: random.Random, chinese: bool) -> str:
    return rng.choice(READ[int(chinese)])


def facts_of(face: Face, point: int, lines: list[str], chinese: bool) -> dict[str, object]:
    return {
        "kind": "read",
        "family": face.family,
        "face": face.name,
        "held_out_face": face.held_out,
        "size_px": point,
        "lines": len(lines),
        "language": "zh" if chinese else "en",
    }


def choose_lines(rng: random.Random, size: Size, kind: str, num_lines: int, max_line: int, total: int) -> list[str]:
    """Lines short enough to be printed at MIN_SIZE."""
    room = (size[0] - 12) / (14.0 if kind == "han" else 8.8)
    limit = max(2, min(max_line, int(room), (total + 1) // num_lines - 1))
    make = han_line if kind == "han" else latin_line
    return [make(rng, limit if rng.random() < 0.6 else rng.randint(2, limit)) for _ in range(num_lines)]


def draw_text(
    rng: random.Random,
    size: Size,
    *,
    num_lines: int = 1,
    kind: str = "ordinary",
    held_out_faces: bool = False,
    max_line: int = 24,
    total: int = 96,
) -> Sample:
    """Read one to six lines of new text. kind: of the face, as `canvas.faces` has them."""
    lines = choose_lines(rng, size, kind, num_lines, max_line, total)
    while not any(has_all(face, "".join(lines)) for face in faces(kind, held_out_faces)):
        lines = choose_lines(rng, size, kind, num_lines, max_line, total)  # a sign that no such face has
    face = choose_face(rng, kind, held_out_faces, "".join(lines))
    gap = rng.uniform(1.25, 1.5)
    largest = largest_size(lines, face, (size[0] - 10, size[1] - 8), gap, MIN_SIZE, 47)
    point = rng.randint(max(MIN_SIZE, int(largest * 0.6)), largest)
    sheet = write_lines(rng, size, lines, face, point, gap)
    chinese = rng.random() < (0.6 if kind == "han" else 0.15)
    return picture(sheet.image, ask_to_read(rng, chinese), "\n".join(lines), **facts_of(face, point, lines, chinese))


def draw_paragraph(rng: random.Random, size: Size, kind: str = "ordinary", held_out_faces: bool = False) -> Sample:
    """Two to six lines, at most 96 characters."""
    most = max(2, min(6, size[1] // 22))
    return draw_text(rng, size, num_lines=rng.randint(2, most), kind=kind, held_out_faces=held_out_faces)


def draw_date(rng: random.Random, size: Size) -> Sample:
    """A single date in one of the five Latin formats."""
    text = date_text(rng.randrange(5), rng.randint(1990, 2039), rng.randint(1, 12), rng.randint(1, 28))
    face = choose_face(rng, "ordinary", False, text)
    largest = largest_size([text], face, (size[0] - 10, size[1] - 8), 1.3, MIN_SIZE, 40)
    point = rng.randint(max(MIN_SIZE, int(largest * 0.6)), largest)
    sheet = write_lines(rng, size, [text], face, point, 1.3)
    return picture(sheet.image, ask_to_read(rng, False), text, **facts_of(face, point, [text], False))


def draw_tilted(rng: random.Random, size: Size) -> Sample:
    """One line in a training face, turned by up to 5 degrees, in an ink that is nearly the paper's colour."""
    lines = choose_lines(rng, size, "ordinary", 1, 20, 96)
    face = choose_face(rng, "ordinary", False, lines[0])
    point = min(30, largest_size(lines, face, (int(size[0] * 0.9), size[1]), 1.3, MIN_SIZE, 40))
    paper, ink = paper_and_ink(rng)
    ink = between(ink, paper, rng.uniform(0.3, 0.55))
    width = width_of(lines[0], face, point)
    band = Sheet((size[0], size[1]), (0, 0, 0))
    band.text(((size[0] - width) / 2, size[1] / 2 + point * 0.35), lines[0], face, point, (255, 255, 255))
    angle = rng.uniform(2, 5) * rng.choice([-1, 1])
    turned = band.image.convert("L").rotate(angle, Image.Resampling.BICUBIC)
    turned = turned.point([round(value / 17) * 17 for value in range(256)])
    sheet = Sheet(size, paper)
    room = max(0, size[1] // 2 - int(size[0] * 0.05) - point - 2)
    sheet.image.paste(ink, (0, rng.randint(-room, room)), turned)
    return picture(sheet.image, ask_to_read(rng, False), lines[0], **facts_of(face, point, lines, False), angle=angle)


def draw_page(rng: random.Random, size: Size) -> Sample:
    """A page that needs slices: a heading and lines of new text, twelve in all and at most 400 characters."""
    num_lines = 11
    lines = [latin_line(rng, rng.randint(18, 35), most_words=9) for _ in range(num_lines)]
    while sum(map(len, lines)) > 376:
        lines[rng.randrange(num_lines)] = latin_line(rng, 20)
    heading = latin_line(rng, 16, 3)
    body = choose_face(rng, "ordinary", False, "".join(lines))
    head = choose_face(rng, "ordinary", False, heading)
    margin = rng.randint(16, 36)
    room = (size[0] - 2 * margin, size[1] - 2 * margin)
    gap = rng.uniform(1.3, 1.55)
    point = min(22, largest_size(lines, body, (room[0], int(room[1] * 0.86)), gap, 13, 24))
    paper, ink = paper_and_ink(rng, inverse=0.1)
    sheet = Sheet(size, paper)
    large = largest_size([heading], head, room, 1.2, point, int(point * 1.7))
    y = float(margin + large)
    sheet.text(
        (margin + (room[0] - width_of(heading, head, large)) * rng.choice([0, 0.5]), y), heading, head, large, ink
    )
    y += 0.6 * large
    split = rng.randint(3, 8)  # a space between two paragraphs
    spare = size[1] - margin - y - num_lines * gap * point
    for row, line in enumerate(lines):
        y += gap * point + (max(0.0, min(spare, 0.7 * point)) if row == split else 0.0)
        sheet.text((margin, y), line, body, point, ink)
    text = "\n".join([heading, *lines])
    facts = facts_of(body, point, [heading, *lines], False)
    return picture(sheet.image, ask_to_read(rng, rng.random() < 0.15), text, **facts)


# Rows x columns: a grid that training uses, and an unseen neighbour of it (both sides at least 8, 81 to 576 patches).
GRID_PAIRS = (
    ((16, 16), (17, 17)), ((16, 16), (15, 15)), ((19, 19), (20, 20)), ((19, 19), (24, 24)), ((12, 12), (9, 9)),
    ((14, 17), (13, 19)), ((21, 15), (18, 14)), ((25, 10), (24, 12)), ((32, 8), (26, 9)), ((10, 22), (11, 26)),
    ((8, 30), (9, 28)), ((16, 16), (18, 30)),
)  # fmt: skip


def draw_grid_pair(rng: random.Random, index: int) -> list[Sample]:
    """The same lines in the same face and size on a trained grid and on an unseen one; 14 px a patch."""
    pair = GRID_PAIRS[index % len(GRID_PAIRS)]
    sizes = [(columns * 14, rows * 14) for rows, columns in pair]
    least = (min(w for w, _ in sizes), min(h for _, h in sizes))
    num_lines = rng.randint(1, max(1, min(5, least[1] // 26)))
    lines = choose_lines(rng, least, "ordinary", num_lines, 24, 90)
    face = choose_face(rng, "ordinary", False, "".join(lines))
    gap = rng.uniform(1.25, 1.45)
    largest = largest_size(lines, face, (least[0] - 10, least[1] - 8), gap, MIN_SIZE, 30)
    point = rng.randint(max(MIN_SIZE, int(largest * 0.7)), largest)
    question, samples = ask_to_read(rng, False), []
    for size, (rows, columns), group in zip(sizes, pair, ("trained", "unseen"), strict=True):
        sheet = write_lines(rng, size, lines, face, point, gap)
        facts = facts_of(face, point, lines, False) | {"grid": f"{rows}x{columns}", "group": group}
        facts["pair"] = index
        samples.append(picture(sheet.image, question, "\n".join(lines), **facts))
    return samples
