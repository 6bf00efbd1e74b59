"""Lines cut into pieces that the model reads well, and pieces drawn at the size it knows best.

A line that is too long is cut at the widest gap near the end of a piece, between words or between Han characters;
where there is none, two pieces overlap and `merge` finds out what both show. Each piece becomes one small picture of
one slice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..errors import MediaError
from .boxes import Box, Line, runs
from .ink import Mask, any_along

if TYPE_CHECKING:
    from PIL import Image

Glue = Literal["space", "", "overlap", "end"]

EM_SHARE = 0.14  # of the slice's side: the size letters are drawn at, 31 px for slices of 224
MOST_ASPECT = 4.0  # pieces wider than this become too flat for slices
LEAST_ASPECT = 1.0
MARGIN_EMS = 0.6
OVERLAP_EMS = 2.6
WORD_GAP_EMS = 0.17  # a narrower gap lies inside a word
LEAST_SHARE = 0.5  # of the widest piece: no cut before this


@dataclass(frozen=True)
class Piece:
    """Part of a line, page pixels. em: size of its letters, px. glue: how its words join the next piece's."""

    box: Box
    em: float
    glue: Glue


@dataclass(frozen=True)
class TileShape:
    """side: of the model's slices, px. patch: sides of tiles are multiples of it."""

    side: int
    patch: int

    @property
    def em(self) -> float:
        return EM_SHARE * self.side

    @property
    def widest(self) -> float:
        """Letters' worth of writing that a tile can hold, in ems."""
        return math.sqrt(MOST_ASPECT) * self.side / self.em - 2 * MARGIN_EMS


def cut_line(line: Line, writing: Mask, shape: TileShape) -> list[Piece]:
    """Pieces of one line, from left to right, none wider than a tile holds."""
    em = line_em(line)
    box, most = line.box, shape.widest * em
    gaps = runs(~any_along(writing[box.top : box.bottom, box.left : box.right], 0))
    pieces: list[Piece] = []
    start = 0
    while box.width - start > most:
        inside = [gap for gap in gaps if start + LEAST_SHARE * most <= gap[0] and gap[1] <= start + most]
        if inside:
            # The widest gap; of equal ones the last. A hair of difference between words is no reason for short pieces.
            a, b = max(inside, key=lambda gap: (round((gap[1] - gap[0]) / (0.08 * em)), gap[0]))
            glue: Glue = "space" if b - a >= WORD_GAP_EMS * em else ""
            end, following = a, b
        else:
            end = start + int(most)
            following, glue = end - round(OVERLAP_EMS * em), "overlap"
        pieces.append(Piece(Box(box.left + start, box.top, box.left + end, box.bottom), em, glue))
        start = following
    pieces.append(Piece(Box(box.left + start, box.top, box.right, box.bottom), em, "end"))
    return pieces


def line_em(line: Line) -> float:
    """The size of a line's letters, px: from its height, or its small letters when nothing stands out of them."""
    return max(line.box.height / 0.97, 1.45 * line.core)


def draw_piece(picture: Image.Image, piece: Piece, shape: TileShape) -> Image.Image:
    """Draw a piece on paper of its own colour, letters at the size the model knows, sides multiples of a patch."""
    from PIL import Image

    scale = shape.em / piece.em
    margin = MARGIN_EMS * piece.em
    wide = (piece.box.width + 2 * margin) * scale
    width = min(max(wide, shape.side / math.sqrt(LEAST_ASPECT)), shape.side * math.sqrt(MOST_ASPECT))
    width = round(width / shape.patch) * shape.patch
    height = max(round(shape.side**2 / width / shape.patch) * shape.patch, shape.patch)
    source = Box(
        max(0, round(piece.box.left - margin / 2)),
        max(0, round(piece.box.top - margin / 3)),
        min(picture.width, round(piece.box.right + margin / 2)),
        min(picture.height, round(piece.box.bottom + margin / 3)),
    )
    if source.width < 1 or source.height < 1:
        raise MediaError(f"a line of {piece.box.width} x {piece.box.height} px is too small to read")
    part = picture.crop((source.left, source.top, source.right, source.bottom))
    fit = min(scale, (width - 2) / source.width, (height - 2) / source.height)
    size = (max(1, round(source.width * fit)), max(1, round(source.height * fit)))
    part = part.resize(size, Image.Resampling.LANCZOS if fit < 1 else Image.Resampling.BICUBIC)
    tile = Image.new("RGB", (width, height), _paper(part))
    left = min(round(margin * scale / 2), width - size[0])
    tile.paste(part, (left, (height - size[1]) // 2))
    return tile


def _paper(part: Image.Image) -> tuple[int, int, int]:
    """The colour around a piece: the median of its border."""
    pixels = np.asarray(part)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    red, green, blue = np.median(border, axis=0).round().astype(int).tolist()
    return red, green, blue
