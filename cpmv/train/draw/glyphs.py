"""Lines of glyphs as per-pixel lookups: where each character lies, how much ink a pixel gets, and what stands where.

A `TextLayout` describes up to L lines of N characters a picture. For a pixel: rotate back, find the line, then the
character from a table over pixel columns, then read the atlas cell at the right scale (four taps). The neighbour on
the nearer side is read too, so that overhanging ink is not clipped. The same lookup gives the class at any point.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import atlas as atlas_file
from .atlas import CELL, EM, PEN_X, PEN_Y, Atlas
from .charset import fallback_of

HALF_BELOW = 18.0  # px: smaller text reads the half-size cell, or it would alias
ABOVE, BELOW = 0.72, 0.12  # em around the baseline in which a point counts as "on" the character


class DeviceAtlas:
    """The atlas as tensors: full cells, then their half-size copies, in one flat uint8 buffer."""

    def __init__(self, atlas: Atlas, device: torch.device) -> None:
        full = torch.from_numpy(atlas.cells).to(device)
        num_cells, half = full.shape[0], CELL // 2
        small = full.float().reshape(num_cells, half, 2, half, 2).mean((2, 4)).round().to(torch.uint8)
        self.ink = torch.cat([full.flatten(), small.flatten()])
        self.half_start = num_cells * CELL * CELL
        self.glyph = torch.from_numpy(atlas.glyph).long().to(device)  # [F, C]
        self.advance = torch.from_numpy(atlas.advance).to(device)  # [F, C], em
        index = {character: i for i, character in enumerate(atlas.characters)}
        self.fallback = torch.tensor([index[fallback_of(character)] for character in atlas.characters], device=device)
        self.complete = atlas_file.complete_faces(atlas)

    def present(self, face: Tensor, line: Tensor) -> Tensor:
        """Swap characters that the face lacks for their stand-in. face: [R]; line: [R, N] character ids."""
        return torch.where(self.glyph[face.unsqueeze(1), line] < 0, self.fallback[line], line)


@dataclass
class TextLayout:
    """Text placed on B pictures, in pixels of the unrotated page.

    cell, start: [B, L, N] atlas cell and left pen position; characters: [B, L, N]; stop: [B, L] end of each line.
    em: [B, L]; top: [B] top of the first line's slot; pitch: [B] height of a slot; lines: [B] number of lines.
    cosine, sine: [B] rotation about the picture's centre; block: [B] side of the squares that share one value
    (1: none). table: [B, L, W] character at a pixel column. stretch, slant: [B] width of the glyphs as a share of their
    own, and how far each px above the baseline leans right; None: as the face has them.
    """

    characters: Tensor
    cell: Tensor
    start: Tensor
    stop: Tensor
    em: Tensor
    top: Tensor
    pitch: Tensor
    lines: Tensor
    cosine: Tensor
    sine: Tensor
    block: Tensor
    table: Tensor
    height: int
    width: int
    stretch: Tensor | None = None
    slant: Tensor | None = None


def column_table(start: Tensor, width: int) -> Tensor:
    """Index of the character whose advance box holds each pixel column. start: [B, L, N], rising -> int64 [B, L, W]."""
    columns = torch.arange(width, device=start.device, dtype=start.dtype) + 0.5
    batch, lines, count = start.shape
    columns = columns.expand(batch, lines, width).contiguous()
    return (torch.searchsorted(start.contiguous(), columns, right=True) - 1).clamp(0, count - 1)


def _locate(layout: TextLayout, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Page coordinates and the line of points. x, y: [B or 1, P] px -> u, v [B, P], line [B, P], inside bool [B, P]."""
    centre_x, centre_y = layout.width / 2, layout.height / 2
    cosine, sine = layout.cosine.unsqueeze(1), layout.sine.unsqueeze(1)
    u = cosine * (x - centre_x) + sine * (y - centre_y) + centre_x
    v = cosine * (y - centre_y) - sine * (x - centre_x) + centre_y
    line = ((v - layout.top.unsqueeze(1)) / layout.pitch.unsqueeze(1)).floor()
    inside = (line >= 0) & (line < layout.lines.unsqueeze(1))
    line = line.long().clamp(0, layout.em.shape[1] - 1)
    if layout.slant is not None:
        u = u + layout.slant.unsqueeze(1) * (v - _baseline(layout, line))
    return u, v, line, inside


def _baseline(layout: TextLayout, line: Tensor) -> Tensor:
    """Baseline of a line: four fifths down its slot."""
    return layout.top.unsqueeze(1) + (line + 0.79) * layout.pitch.unsqueeze(1)


def _character(layout: TextLayout, line: Tensor, u: Tensor) -> Tensor:
    """Index of the character under page column u, counted through all lines of the picture: [B, P]."""
    lines, count = layout.em.shape[1], layout.start.shape[2]
    column = u.floor().long().clamp(0, layout.width - 1)
    batch = u.shape[0]
    within = layout.table.reshape(batch, -1).gather(1, line * layout.width + column)
    assert layout.table.shape[1] == lines
    return line * count + within


def ink(layout: TextLayout, atlas: DeviceAtlas) -> Tensor:
    """Coverage 0..1 of the text, float32 [B, H, W]."""
    height, width = layout.height, layout.width
    device = layout.em.device
    pixel = torch.arange(height * width, device=device)
    x, y = (pixel % width).float().unsqueeze(0), (pixel // width).float().unsqueeze(0)
    block = layout.block.unsqueeze(1)
    u, v, line, inside = _locate(layout, ((x / block).floor() + 0.5) * block, ((y / block).floor() + 0.5) * block)
    em = layout.em.gather(1, line)
    row = (v - _baseline(layout, line)) / em * EM + PEN_Y  # in full-size cell pixels
    wide = em if layout.stretch is None else em * layout.stretch.unsqueeze(1)
    character = _character(layout, line, u)
    count = layout.start.shape[2]
    start, cell = layout.start.flatten(1), layout.cell.flatten(1)
    small = em < HALF_BELOW
    out = read_cells(atlas, cell.gather(1, character), (u - start.gather(1, character)) / wide * EM + PEN_X, row, small)
    following = (character % count + 1).clamp(max=count - 1) - character % count + character
    middle = (start.gather(1, character) + start.gather(1, following)) / 2
    beside = torch.where(u < middle, (character % count - 1).clamp(min=0) + line * count, following)
    over = read_cells(atlas, cell.gather(1, beside), (u - start.gather(1, beside)) / wide * EM + PEN_X, row, small)
    out = torch.maximum(out, torch.where(beside == character, 0.0, over))
    return (out * inside).reshape(-1, height, width)


def read_cells(atlas: DeviceAtlas, cell: Tensor, column: Tensor, row: Tensor, small: Tensor) -> Tensor:
    """Bilinear read of atlas cells at (column, row) in full-size cell pixels; 0 outside the cell. All [B, P]."""
    scale = torch.where(small, 0.5, 1.0)
    side = torch.where(small, CELL // 2, CELL)
    base = torch.where(small, atlas.half_start + cell * (CELL // 2) ** 2, cell * CELL**2)
    column, row = column * scale - 0.5, row * scale - 0.5
    inside = (column > -1) & (column < side) & (row > -1) & (row < side)
    left, upper = column.floor(), row.floor()
    dx, dy = column - left, row - upper
    zero = torch.zeros_like(side)
    x0 = torch.minimum(torch.maximum(left.long(), zero), side - 1)
    x1 = torch.minimum(torch.maximum(left.long() + 1, zero), side - 1)
    y0 = torch.minimum(torch.maximum(upper.long(), zero), side - 1) * side + base
    y1 = torch.minimum(torch.maximum(upper.long() + 1, zero), side - 1) * side + base
    above = atlas.ink[y0 + x0] * (1 - dx) + atlas.ink[y0 + x1] * dx
    below = atlas.ink[y1 + x0] * (1 - dx) + atlas.ink[y1 + x1] * dx
    return (above * (1 - dy) + below * dy) * inside / 255


def classes_at(layout: TextLayout, x: Tensor, y: Tensor) -> Tensor:
    """Class at points: 1 + character id on a character, 0 on the page (and on spaces). x, y: [P] px -> int64 [B, P]."""
    u, v, line, inside = _locate(layout, x.unsqueeze(0), y.unsqueeze(0))
    above = (_baseline(layout, line) - v) / layout.em.gather(1, line)
    index = _character(layout, line, u)
    hit = inside & (above < ABOVE) & (above > -BELOW)
    hit &= (u >= layout.start.flatten(1).gather(1, index)) & (u < layout.stop.gather(1, line))
    character = layout.characters.flatten(1).gather(1, index)
    return torch.where(hit & (character > 0), character + 1, 0)
