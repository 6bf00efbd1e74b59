"""What the drawing modules share: faces that have the characters, plain papers and inks, text with Pillow's own layout.

Ink is laid in 8 levels between paper and ink: hardly seen, and it makes the frozen files small.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from ...train.draw.faces import Face, installed_faces
from ..samples import EvalError

Colour = tuple[int, int, int]
Size = tuple[int, int]
_LEVELS = 7
_MISSING = "\U000fffff"  # a private character that no face has: what it draws is what a missing one draws


class Bounds(NamedTuple):
    """Ink of a piece of text, px."""

    left: float
    top: float
    right: float
    bottom: float


@cache
def faces(kind: str, held_out: bool) -> tuple[Face, ...]:
    """Installed faces. kind: "han", "oldstyle", "ordinary" (Latin, without old-style figures) or "latin" (both)."""
    found = []
    for face in installed_faces():
        latin = face.kind != "han"
        fits = {
            "han": not latin and face.family != "Droid Sans Fallback",  # which has no ASCII
            "oldstyle": face.kind == "oldstyle",
            "ordinary": latin and face.kind != "oldstyle",
            "latin": latin,
        }[kind]
        if fits and face.held_out == held_out:
            found.append(face)
    return tuple(found)


def choose_face(rng: random.Random, kind: str = "latin", held_out: bool = False, text: str = "") -> Face:
    """A family first, then one of its faces, so that large families do not dominate; one that has all of `text`."""
    available = faces(kind, held_out)
    if not available:
        from ...train.draw.faces import packages

        raise EvalError(
            f"no {'held-out' if held_out else 'training'} face of kind {kind} is installed; install the packages "
            f"{', '.join(packages()[:3])}, ... (python -m cpmv.train.draw.atlas lists them)"
        )
    families = sorted({face.family for face in available})
    rng.shuffle(families)
    for family in families:
        members = [face for face in available if face.family == family]
        for face in rng.sample(members, len(members)):
            if has_all(face, text):
                return face
    raise EvalError(f"no installed face of kind {kind} has all characters of {text!r}")


@lru_cache(maxsize=4096)
def font(face: Face, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(face.path, size, index=face.index)


@lru_cache(maxsize=200_000)
def _has(face: Face, character: str) -> bool:
    if character == " ":
        return True
    drawn, missing = (font(face, 24).getmask(c) for c in (character, _MISSING))
    return bytes(drawn) != bytes(missing) and drawn.getbbox() is not None


def has_all(face: Face, text: str) -> bool:
    """Whether a face draws every character of `text` (line ends aside)."""
    return all(_has(face, character) for character in text if character != "\n")


def luma(colour: Sequence[int]) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def paper_and_ink(rng: random.Random, inverse: float = 0.25) -> tuple[Colour, Colour]:
    """Two plain colours with clear contrast; dark on light but for a share `inverse`."""
    while True:
        grey, dark = rng.randint(190, 255), rng.randint(0, 40)
        paper = (grey, grey, grey) if rng.random() < 0.4 else _random_colour(rng, 120, 255)
        ink = (dark, dark, dark) if rng.random() < 0.5 else _random_colour(rng, 0, 150)
        if rng.random() < inverse:
            paper, ink = ink, paper
        if abs(luma(paper) - luma(ink)) > 90:
            return paper, ink


def _random_colour(rng: random.Random, low: int, high: int) -> Colour:
    return (rng.randint(low, high), rng.randint(low, high), rng.randint(low, high))


def between(a: Colour, b: Colour, share: float) -> Colour:
    """The colour `share` of the way from a to b."""
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


class Sheet:
    """A picture being drawn. `taken` lists the ink bounds of every text, for tests and for placing what follows."""

    def __init__(self, size: Size, paper: Colour) -> None:
        self.image = Image.new("RGB", size, paper)
        self.draw = ImageDraw.Draw(self.image)
        self.size, self.paper = size, paper
        self.taken: list[Bounds] = []

    def text(
        self, at: tuple[float, float], text: str, face: Face, size: int, ink: Colour, anchor: str = "ls"
    ) -> Bounds:
        """Write one line. at, anchor: as Pillow has them ("ls": left end of the baseline)."""
        letters = font(face, size)
        mask = Image.new("L", self.size, 0)
        ImageDraw.Draw(mask).text(at, text, fill=255, font=letters, anchor=anchor)
        box = mask.getbbox()
        if box is None:
            return Bounds(*at, *at)
        mask = mask.crop(box).point([round(value / 255 * _LEVELS) * 255 // _LEVELS for value in range(256)])
        self.image.paste(ink, box[:2], mask)
        bounds = Bounds(*box)
        self.taken.append(bounds)
        return bounds


def width_of(text: str, face: Face, size: int) -> float:
    return font(face, size).getlength(text)


def largest_size(lines: Sequence[str], face: Face, room: Size, gap: float, low: int, high: int) -> int:
    """Largest size, px, at which the lines fit into `room` with a pitch of `gap` em; `low` if none does."""
    best = low
    for size in range(low, high + 1):
        if max(width_of(line, face, size) for line in lines) > room[0] or len(lines) * gap * size > room[1]:
            break
        best = size
    return best
