"""Lines in pieces: whole together, none too wide, cut between words, and drawn at one size."""

from __future__ import annotations

import numpy as np
import pytest
from paper import Sheet

from cpmv.read.boxes import Box, Line
from cpmv.read.ink import find_ink
from cpmv.read.layout import find_layout
from cpmv.read.tiles import TileShape, cut_line, draw_piece

SHAPE = TileShape(224, 14)
TEXT = "The train to the coast leaves from platform four every hour until ten o'clock"


@pytest.mark.parametrize("size", [14, 20, 28, 40])
def test_a_long_line_is_cut_between_words(size: int) -> None:
    sheet = Sheet((2600, 200))
    sheet.write(40, 60, TEXT, size)
    writing = find_ink(sheet.picture).writing
    (block,) = find_layout(sheet.picture).blocks
    (line,) = block.lines
    pieces = cut_line(line, writing, SHAPE)
    assert len(pieces) >= 2
    assert pieces[0].box.left == line.box.left and pieces[-1].box.right == line.box.right
    for piece, following in zip(pieces, pieces[1:], strict=False):
        between = writing[line.box.top : line.box.bottom, piece.box.right : following.box.left]
        assert piece.glue == "space" and not between.any()
        assert following.box.left - piece.box.right > 0.15 * size
    assert all(piece.box.width <= SHAPE.widest * piece.em for piece in pieces)
    assert pieces[-1].glue == "end"


def test_a_line_without_gaps_is_cut_with_an_overlap() -> None:
    writing = np.zeros((60, 3000), bool)
    writing[20:44, 10:2990] = True
    line = Line(Box(10, 20, 2990, 44), core=16)
    pieces = cut_line(line, writing, SHAPE)
    assert [piece.glue for piece in pieces[:-1]] == ["overlap"] * (len(pieces) - 1)
    for piece, following in zip(pieces, pieces[1:], strict=False):
        assert 2 * piece.em < piece.box.right - following.box.left < 3 * piece.em


@pytest.mark.parametrize("size", [12, 24, 60])
@pytest.mark.parametrize("text", ["97", "Green tea", "The train to the coast"])
def test_letters_have_one_size_whatever_they_had_on_the_page(size: int, text: str) -> None:
    sheet = Sheet((1600, 200))
    sheet.write(40, 60, text, size)
    writing = find_ink(sheet.picture).writing
    (line,) = find_layout(sheet.picture).blocks[0].lines
    (piece,) = cut_line(line, writing, SHAPE)
    tile = draw_piece(sheet.picture, piece, SHAPE)
    assert tile.width % 14 == 0 and tile.height % 14 == 0
    assert 0.7 * 224**2 < tile.width * tile.height < 1.3 * 224**2
    tall = np.flatnonzero(find_ink(tile).writing.any(axis=1))
    assert tall[-1] - tall[0] + 1 == pytest.approx(line.box.height * SHAPE.em / piece.em, abs=4)


def test_a_piece_at_the_edge_of_the_page_keeps_its_paper() -> None:
    sheet = Sheet((300, 40), paper="#eed8b0")
    sheet.write(0, 5, "at the edge", 24)
    writing = find_ink(sheet.picture).writing
    (line,) = find_layout(sheet.picture).blocks[0].lines
    tile = draw_piece(sheet.picture, cut_line(line, writing, SHAPE)[0], SHAPE)
    assert tile.getpixel((tile.width - 1, tile.height - 1)) == (0xEE, 0xD8, 0xB0)
