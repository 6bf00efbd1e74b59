"""Triton kernels that draw sheets; imported where there is a GPU and `display` is asked to use them.

`display` holds the plain torch form of each, which is what they must equal: `glyph_tiles` with a scatter, `lay_marks`
and `lay_text` over a rendered paper, and the blur, grain and scaling of `Display.finish`. The torch forms compute every
mark's six distances at every pixel and pass whole pictures through memory for each operation. Here a tile of pixels
looks at the marks whose boxes it touches, from the top down, computes one distance each, and writes once.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .draw.atlas import CELL, EM, PEN_X, PEN_Y
from .draw.display import TILES, Capacity, SheetBatch, wedge_turns
from .draw.glyphs import HALF_BELOW, DeviceAtlas
from .draw.paper import Grain, Paper

_CELL, _EM, _PEN_X, _PEN_Y = tl.constexpr(CELL), tl.constexpr(float(EM)), tl.constexpr(PEN_X), tl.constexpr(PEN_Y)
_HALF_BELOW = tl.constexpr(HALF_BELOW)
_LEVELS = tl.constexpr(127)
_TAU = tl.constexpr(6.2832)  # as `render_paper` has it
_PAPER = tl.constexpr(26)  # numbers a paper
_TILE_Y, _TILE_X = 16, 32
_BLOCK = 512


@triton.jit
def _tap(ink, base, x, y, side):
    x = tl.minimum(tl.maximum(x, 0), side - 1)
    y = tl.minimum(tl.maximum(y, 0), side - 1)
    return tl.load(ink + base + y * side + x).to(tl.float32)


@triton.jit
def read_cell(ink, half_start, cell, column, row, small):
    """Bilinear read of atlas cells; `glyphs.read_cells`."""
    side = tl.where(small, _CELL // 2, _CELL)
    base = tl.where(small, half_start + cell * (_CELL // 2) * (_CELL // 2), cell * _CELL * _CELL)
    scale = tl.where(small, 0.5, 1.0)
    column, row = column * scale - 0.5, row * scale - 0.5
    inside = (column > -1) & (column < side) & (row > -1) & (row < side)
    left, upper = tl.floor(column), tl.floor(row)
    dx, dy = column - left, row - upper
    x, y = left.to(tl.int32), upper.to(tl.int32)
    above = _tap(ink, base, x, y, side) * (1 - dx) + _tap(ink, base, x + 1, y, side) * dx
    below = _tap(ink, base, x, y + 1, side) * (1 - dx) + _tap(ink, base, x + 1, y + 1, side) * dx
    return tl.where(inside, (above * (1 - dy) + below * dy) / 255, 0.0)


@triton.jit(
    do_not_specialize=["half_start", "sheets", "height", "width", "side"],
    do_not_specialize_on_alignment=["sheet", "cell", "place", "colour"],
)
def _glyphs(sheet, cell, place, colour, ink, half_start, canvas, sheets, height, width, side, BLOCK: tl.constexpr):
    """One block of pixels of one glyph's tile: read its ink, and keep the strongest on each pixel of the canvas."""
    glyph = tl.program_id(0)
    number = tl.load(sheet + glyph)
    if number < sheets:
        em = tl.load(place + glyph * 3 + 2)
        pen_x, pen_y = tl.load(place + glyph * 3), tl.load(place + glyph * 3 + 1)
        at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        px = tl.floor(pen_x - _PEN_X * em / _EM) + (at % side).to(tl.float32)
        py = tl.floor(pen_y - _PEN_Y * em / _EM) + (at // side).to(tl.float32)
        column = (px + 0.5 - pen_x) / em * _EM + _PEN_X
        row = (py + 0.5 - pen_y) / em * _EM + _PEN_Y
        value = read_cell(ink, half_start, tl.load(cell + glyph), column, row, em < _HALF_BELOW)
        level = (value * _LEVELS + 0.5).to(tl.int32)
        level_colour = (level << 24) | tl.load(colour + glyph)
        there = (at < side * side) & (level > 0) & (px >= 0) & (px < width) & (py >= 0) & (py < height)
        target = number.to(tl.int64) * height * width + (py.to(tl.int32) * width + px.to(tl.int32))
        tl.atomic_max(canvas + target, level_colour, mask=there, sem="relaxed")


@triton.jit
def _half_plane(x, y, x0, y0, x1, y1):
    length = tl.maximum(tl.sqrt((x1 - x0) * (x1 - x0) + (y1 - y0) * (y1 - y0)), 1e-6)
    return ((y1 - y0) * (x - x0) - (x1 - x0) * (y - y0)) / length


@triton.jit
def _distance(kind, a, b, c, d, e, f, turn, x, y):
    """Signed distance of pixels to one mark; `display.mark_distance`, for the mark's own kind alone."""
    middle_x, middle_y, half_x, half_y = (a + c) / 2, (b + d) / 2, (c - a) / 2, (d - b) / 2
    out = tl.full(x.shape, 1e4, tl.float32)
    if (kind == 0) | (kind == 5):  # a rectangle, or its outline
        rect = tl.maximum(tl.abs(x - middle_x) - half_x, tl.abs(y - middle_y) - half_y)
        out = tl.where(kind == 5, tl.maximum(rect, -e - rect), rect)
    elif kind == 1:  # an ellipse
        u, v = (x - middle_x) / tl.maximum(half_x, 0.5), (y - middle_y) / tl.maximum(half_y, 0.5)
        out = (tl.sqrt(u * u + v * v) - 1) * tl.minimum(half_x, half_y)
    elif kind == 2:  # a line
        dx, dy = c - a, d - b
        along = ((x - a) * dx + (y - b) * dy) / tl.maximum(dx * dx + dy * dy, 1e-6)
        along = tl.minimum(tl.maximum(along, 0.0), 1.0)
        u, v = x - a - along * dx, y - b - along * dy
        out = tl.sqrt(u * u + v * v) - e / 2
    elif kind == 3:  # a triangle
        turns = (c - a) * (f - b) - (d - b) * (e - a)
        sense = tl.where(turns > 0, 1.0, tl.where(turns < 0, -1.0, 0.0))
        sides = tl.maximum(sense * _half_plane(x, y, a, b, c, d), sense * _half_plane(x, y, c, d, e, f))
        out = tl.maximum(sides, sense * _half_plane(x, y, e, f, a, b))
    else:  # a wedge
        u, v = x - a, y - b
        after_start = -(u * tl.load(turn) + v * tl.load(turn + 1))
        before_end = u * tl.load(turn + 2) + v * tl.load(turn + 3)
        narrow = e - d <= 3.141592653589793
        opening = tl.where(narrow, tl.maximum(after_start, before_end), tl.minimum(after_start, before_end))
        opening = tl.where(e - d >= 6.283185307179586 - 1e-3, -1e3, opening)
        out = tl.maximum(tl.sqrt(u * u + v * v) - c, opening)
    return out


@triton.jit
def _touches(kind, a, b, c, d, e, f, left, top, right, bottom):
    """Whether a mark may reach a tile: its box and a margin against the tile's.

    A line is as wide as e; the distance to a flat ellipse grows slowly along it, that to a sharp corner too.
    """
    low_x, high_x, low_y, high_y = tl.minimum(a, c), tl.maximum(a, c), tl.minimum(b, d), tl.maximum(b, d)
    half_x, half_y = (high_x - low_x) / 2, (high_y - low_y) / 2
    flat = tl.maximum(half_x, half_y) / tl.maximum(tl.minimum(half_x, half_y), 1e-3)
    reach = 1.0 + tl.where(kind == 1, flat, tl.where(kind == 2, e / 2, tl.where(kind == 3, 12.0, 0.0)))
    low_x = tl.where(kind == 3, tl.minimum(low_x, e), tl.where(kind == 4, a - c, low_x)) - reach
    high_x = tl.where(kind == 3, tl.maximum(high_x, e), tl.where(kind == 4, a + c, high_x)) + reach
    low_y = tl.where(kind == 3, tl.minimum(low_y, f), tl.where(kind == 4, b - c, low_y)) - reach
    high_y = tl.where(kind == 3, tl.maximum(high_y, f), tl.where(kind == 4, b + c, high_y)) + reach
    return (low_x < right) & (high_x > left) & (low_y < bottom) & (high_y > top)


@triton.jit
def _lerp(start, end, weight):
    return tl.where(weight < 0.5, start + weight * (end - start), end - (end - start) * (1 - weight))


@triton.jit
def paper_channel(numbers, channel: tl.constexpr, slope, one, two, three):
    """One channel of a paper; numbers: base, gradient, tilt, frequencies, phases, wave colours of one sheet."""
    out = tl.load(numbers + channel) + tl.load(numbers + 3 + channel) * slope * 2
    out += tl.load(numbers + 17 + channel) * one
    out += tl.load(numbers + 20 + channel) * two
    out += tl.load(numbers + 23 + channel) * three
    return tl.minimum(tl.maximum(out, 0.0), 1.0)


@triton.jit
def wave(numbers, k: tl.constexpr, x, y):
    angle = tl.load(numbers + 8 + 2 * k) * _TAU * x + tl.load(numbers + 9 + 2 * k) * _TAU * y
    return tl.sin(angle + tl.load(numbers + 14 + k))


@triton.jit(do_not_specialize=["marks", "height", "width"])
def _pictures(
    used, kinds, places, turns, colours, papers, canvas, out, marks, height, width,
    TILE_Y: tl.constexpr, TILE_X: tl.constexpr
):  # fmt: skip
    """One tile of one sheet: paper, marks over it, text over both."""
    sheet = tl.program_id(1)
    across = tl.cdiv(width, TILE_X)
    top = tl.program_id(0) // across * TILE_Y
    left = tl.program_id(0) % across * TILE_X
    row = top + tl.arange(0, TILE_Y)[:, None] + tl.zeros([TILE_Y, TILE_X], tl.int32)
    column = left + tl.arange(0, TILE_X)[None, :] + tl.zeros([TILE_Y, TILE_X], tl.int32)
    x, y = column.to(tl.float32) + 0.5, row.to(tl.float32) + 0.5
    edge = tl.zeros([TILE_Y, TILE_X], tl.float32)
    found, under = edge > 1.0, edge > 1.0
    red, green, blue = edge, edge, edge
    red_under, green_under, blue_under = edge, edge, edge
    left_over = tl.load(used + sheet)
    while left_over > 0:
        left_over -= 1
        mark = sheet * marks + left_over
        kind, at = tl.load(kinds + mark), places + mark * 6
        a, b, c = tl.load(at), tl.load(at + 1), tl.load(at + 2)
        d, e, f = tl.load(at + 3), tl.load(at + 4), tl.load(at + 5)
        if (kind < 6) & _touches(kind, a, b, c, d, e, f, left, top, left + TILE_X, top + TILE_Y):
            distance = _distance(kind, a, b, c, d, e, f, turns + mark * 4, x, y)
            r, g, bl = tl.load(colours + mark * 3), tl.load(colours + mark * 3 + 1), tl.load(colours + mark * 3 + 2)
            covers = found & (under == 0) & (distance < -0.5)
            red_under, green_under = tl.where(covers, r, red_under), tl.where(covers, g, green_under)
            blue_under = tl.where(covers, bl, blue_under)
            reaches = (found == 0) & (distance < 0.5)
            red, green, blue = tl.where(reaches, r, red), tl.where(reaches, g, green), tl.where(reaches, bl, blue)
            edge = tl.where(reaches, tl.minimum(tl.maximum(0.5 - distance, 0.0), 1.0), edge)
            under, found = under | covers, found | reaches
    numbers = papers + sheet * _PAPER
    u, v = x / width, y / height
    slope = tl.load(numbers + 6) * (u - 0.5) + tl.load(numbers + 7) * (v - 0.5)
    one, two, three = wave(numbers, 0, u, v), wave(numbers, 1, u, v), wave(numbers, 2, u, v)
    size = height * width
    pixel = row * width + column
    inside = (row < height) & (column < width)
    text = tl.load(canvas + sheet.to(tl.int64) * size + pixel, mask=inside, other=0)
    cover = (text >> 24).to(tl.float32) / _LEVELS
    target = out + sheet.to(tl.int64) * 3 * size + pixel
    below = tl.where(under, red_under, paper_channel(numbers, 0, slope, one, two, three))
    value = _lerp(_lerp(below, red, edge), ((text >> 16) & 255).to(tl.float32) / 255, cover)
    tl.store(target, value, mask=inside)
    below = tl.where(under, green_under, paper_channel(numbers, 1, slope, one, two, three))
    value = _lerp(_lerp(below, green, edge), ((text >> 8) & 255).to(tl.float32) / 255, cover)
    tl.store(target + size, value, mask=inside)
    below = tl.where(under, blue_under, paper_channel(numbers, 2, slope, one, two, three))
    value = _lerp(_lerp(below, blue, edge), (text & 255).to(tl.float32) / 255, cover)
    tl.store(target + 2 * size, value, mask=inside)


@triton.jit
def _column(start, up, here, down, column, s, inside):
    middle = tl.load(start + here + column, mask=inside, other=0.0) * (1 - 2 * s)
    beside = tl.load(start + up + column, mask=inside, other=0.0) + tl.load(
        start + down + column, mask=inside, other=0.0
    )
    return middle + s * beside


@triton.jit
def blurred(start, row, column, height, width, s, inside):
    """One plane's pixels under the kernel (s, 1 - 2 s, s) in both directions; `paper.soften`."""
    up, here, down = tl.maximum(row - 1, 0) * width, row * width, tl.minimum(row + 1, height - 1) * width
    left, right = tl.maximum(column - 1, 0), tl.minimum(column + 1, width - 1)
    middle = _column(start, up, here, down, column, s, inside)
    sides = _column(start, up, here, down, left, s, inside) + _column(start, up, here, down, right, s, inside)
    return middle * (1 - 2 * s) + s * sides


@triton.jit(do_not_specialize=["height", "width"])
def _finish(picture, strength, grain, tint, out, height, width, BLOCK: tl.constexpr):
    """Blur one channel of one picture over 3 x 3 pixels, add its grain, go to -1..1."""
    plane, size = tl.program_id(1), height * width
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    row, column = at // width, at % width
    s = tl.load(strength + plane // 3)
    value = blurred(picture + plane.to(tl.int64) * size, row, column, height, width, s, inside)
    noise = tl.load(grain + (plane // 3).to(tl.int64) * size + at, mask=inside, other=0.0).to(tl.float32)
    value = value + noise * tl.load(tint + plane)
    value = tl.minimum(tl.maximum(value, 0.0), 1.0) * 2 - 1
    tl.store(out + plane.to(tl.int64) * size + at, value.to(out.dtype.element_ty), mask=inside)


def paper_numbers(paper: Paper) -> Tensor:
    """Everything that makes a paper as one row of numbers a sheet, float32 [N, 26]."""
    parts = (paper.base, paper.gradient, paper.tilt, paper.wave_frequency, paper.wave_phase, paper.wave_colour)
    return torch.cat([part.flatten(1) for part in parts], 1)


def draw_clean(
    batch: SheetBatch, paper: Paper, atlas: DeviceAtlas, capacity: Capacity, height: int, width: int
) -> Tensor:
    """Sheets on their papers, float32 [N, 3, H, W] in 0..1: what `lay_marks` and `lay_text` give."""
    device, sheets = batch.paper.device, capacity.sheets
    canvas = torch.zeros(sheets * height * width, dtype=torch.int32, device=device)
    start = 0
    for (side, _), count in zip(TILES, capacity.glyphs, strict=True):
        span = slice(start, start + count)
        start += count
        if not count:
            continue
        _glyphs[(count, triton.cdiv(side * side, _BLOCK))](
            batch.glyph_sheet[span],
            batch.glyph_cell[span],
            batch.glyph_place[span],
            batch.glyph_colour[span],
            atlas.ink,
            atlas.half_start,
            canvas,
            sheets,
            height,
            width,
            side,
            BLOCK=_BLOCK,
        )
    out = torch.empty(sheets, 3, height, width, device=device)
    marks = batch.mark_kind.shape[1]
    number = torch.arange(1, marks + 1, device=device)
    used = torch.where(batch.mark_kind < 6, number, 0).amax(1).int()
    tiles = triton.cdiv(height, _TILE_Y) * triton.cdiv(width, _TILE_X)
    _pictures[(tiles, sheets)](
        used,
        batch.mark_kind,
        batch.mark_place,
        wedge_turns(batch.mark_place),
        batch.mark_colour,
        paper_numbers(paper),
        canvas,
        out,
        marks,
        height,
        width,
        TILE_Y=_TILE_Y,
        TILE_X=_TILE_X,
    )
    return out


def finish(picture: Tensor, strength: Tensor, grain: Grain, dtype: torch.dtype) -> Tensor:
    """Blur by `strength` [N], add the grain, go to -1..1: [N, 3, H, W] in `dtype`."""
    count, channels, height, width = picture.shape
    out = torch.empty(picture.shape, dtype=dtype, device=picture.device)
    grid = (triton.cdiv(height * width, 1024), count * channels)
    _finish[grid](picture.contiguous(), strength, grain.value, grain.tint.contiguous(), out, height, width, BLOCK=1024)
    return out
