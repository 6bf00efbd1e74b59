"""Triton kernels for the pictures of the joint start: text, shapes, paper; imported where there is a GPU.

Each function takes and returns what its plain form does: `glyphs.ink`, `shapes.render`, `clip.owner_of`,
`paper.composite` and `paper.soften`. Compiling those instead took a minute of every cold start.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .draw.atlas import EM, PEN_X, PEN_Y
from .draw.glyphs import HALF_BELOW, DeviceAtlas, TextLayout
from .draw.paper import Grain, Paper
from .draw.shapes import RADIUS_OF_SQUARE, Shapes
from .kernels_draw import blurred, paper_channel, paper_numbers, read_cell, wave

_EM, _PEN_X, _PEN_Y = tl.constexpr(float(EM)), tl.constexpr(PEN_X), tl.constexpr(PEN_Y)
_HALF_BELOW, _SQUARE, _PAPER = tl.constexpr(HALF_BELOW), tl.constexpr(RADIUS_OF_SQUARE), tl.constexpr(26)
_BLOCK = 512


@triton.jit(do_not_specialize=["half_start", "most", "count", "height", "width"])
def _ink(
    cosine, sine, top, pitch, slant, stretch, lines, em, start, cell, block, table, ink, half_start, out, most, count,
    height, width, BLOCK: tl.constexpr
):  # fmt: skip
    """Pixels of one picture: rotate back, find line and character, read its cell and the nearer neighbour's."""
    picture = tl.program_id(1)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < height * width
    step = tl.load(block + picture)
    x = (tl.floor((at % width).to(tl.float32) / step) + 0.5) * step
    y = (tl.floor((at // width).to(tl.float32) / step) + 0.5) * step
    centre_x, centre_y = width / 2, height / 2
    c, s = tl.load(cosine + picture), tl.load(sine + picture)
    u = c * (x - centre_x) + s * (y - centre_y) + centre_x
    v = c * (y - centre_y) - s * (x - centre_x) + centre_y
    first, slot = tl.load(top + picture), tl.load(pitch + picture)
    line = tl.floor((v - first) / slot)
    written = (line >= 0) & (line < tl.load(lines + picture))
    line = tl.minimum(tl.maximum(line, 0.0), (most - 1).to(tl.float32)).to(tl.int32)
    size = tl.load(em + picture * most + line, mask=inside, other=1.0)
    over_base = v - (first + (line.to(tl.float32) + 0.79) * slot)
    u += tl.load(slant + picture) * over_base
    row = over_base / size * _EM + _PEN_Y
    wide = size * tl.load(stretch + picture)
    column = tl.minimum(tl.maximum(tl.floor(u), 0.0), (width - 1).to(tl.float32)).to(tl.int32)
    base = picture * most + line
    within = tl.load(table + base * width + column, mask=inside, other=0).to(tl.int32)
    begin = tl.load(start + base * count + within, mask=inside, other=0.0)
    following = tl.minimum(within + 1, count - 1)
    after = tl.load(start + base * count + following, mask=inside, other=0.0)
    beside = tl.where(u < (begin + after) / 2, tl.maximum(within - 1, 0), following)
    begin_beside = tl.load(start + base * count + beside, mask=inside, other=0.0)
    small = size < _HALF_BELOW
    own = tl.load(cell + base * count + within, mask=inside, other=0).to(tl.int32)
    value = read_cell(ink, half_start, own, (u - begin) / wide * _EM + _PEN_X, row, small)
    other = tl.load(cell + base * count + beside, mask=inside, other=0).to(tl.int32)
    over = read_cell(ink, half_start, other, (u - begin_beside) / wide * _EM + _PEN_X, row, small)
    value = tl.maximum(value, tl.where(beside == within, 0.0, over))
    tl.store(out + picture.to(tl.int64) * height * width + at, tl.where(written, value, 0.0), mask=inside)


@triton.jit
def _shape_distance(kind, dx, dy, radius, angle):
    """Signed distance to a shape of each kind; `shapes.distance_to`, the star folded by reflections."""
    cosine, sine = tl.cos(angle), tl.sin(angle)
    x, y = (dx * cosine + dy * sine) / radius, (dy * cosine - dx * sine) / radius
    length = tl.sqrt(x * x + y * y)
    ax, ay = tl.abs(x), tl.abs(y)
    out = length - 0.96
    out = tl.where(kind == 1, tl.maximum(ax, ay) - _SQUARE, out)
    out = tl.where(kind == 2, tl.maximum(ax * 0.866 - y * 0.5 - 0.5, y - 0.62), out)
    cross = tl.minimum(tl.maximum(ax - 0.98, ay - 0.33), tl.maximum(ax - 0.33, ay - 0.98))
    out = tl.where(kind == 3, cross, out)
    # A point of the right half is mirrored at the lines 36 and 108 degrees from the tip into the first sector.
    px, py = ax, -y
    fold = 2 * tl.maximum(0.809017 * px - 0.587785 * py, 0.0)
    px, py = px - fold * 0.809017, py + fold * 0.587785
    fold = 2 * tl.maximum(-0.809017 * px - 0.587785 * py, 0.0)
    px, py = tl.abs(px + fold * 0.809017), py + fold * 0.587785
    star = (0.246876 * (py - 1.0) + 0.66022 * px) / 0.7048668
    out = tl.where(kind == 4, star, out)
    out = tl.where(kind == 5, tl.abs(length - 0.75) - 0.23, out)
    return out * radius


@triton.jit(do_not_specialize=["objects", "height", "width"])
def _render(kind, xs, ys, radius, angle, rgb, shown, owner, cover, colour, objects, height, width, BLOCK: tl.constexpr):
    picture, size = tl.program_id(1), height * width
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    start = picture.to(tl.int64) * size
    one = picture * objects + tl.load(owner + start + at, mask=inside, other=0).to(tl.int32)
    dx = (at % width).to(tl.float32) + 0.5 - tl.load(xs + one, mask=inside, other=0.0)
    dy = (at // width).to(tl.float32) + 0.5 - tl.load(ys + one, mask=inside, other=0.0)
    r = tl.load(radius + one, mask=inside, other=1.0)
    turn = tl.load(angle + one, mask=inside, other=0.0)
    distance = _shape_distance(tl.load(kind + one, mask=inside, other=0), dx, dy, r, turn)
    value = tl.minimum(tl.maximum(0.5 - distance, 0.0), 1.0) * tl.load(shown + one, mask=inside, other=0.0)
    tl.store(cover + start + at, value, mask=inside)
    for channel in tl.static_range(3):
        value = tl.load(rgb + one * 3 + channel, mask=inside, other=0.0)
        tl.store(colour + 3 * start + channel * size + at, value, mask=inside)


@triton.jit(do_not_specialize=["points"])
def _second_covers(kind, xs, ys, radius, shown, px, py, out, points, BLOCK: tl.constexpr):
    picture = tl.program_id(1)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < points
    one = picture * 2 + 1
    dx = tl.load(px + at, mask=inside, other=0.0) - tl.load(xs + one)
    dy = tl.load(py + at, mask=inside, other=0.0) - tl.load(ys + one)
    distance = _shape_distance(tl.load(kind + one), dx, dy, tl.load(radius + one), dx * 0.0)
    covers = distance < tl.where(tl.load(shown + one) > 0, 0.5, -1e9)
    tl.store(out + picture.to(tl.int64) * points + at, covers.to(tl.int64), mask=inside)


@triton.jit(do_not_specialize=["plane_step", "height", "width", "frames"])
def _composite(
    papers, cover, colour, plane_step, pixel_step: tl.constexpr, grain, tint, out, height, width, frames,
    BLOCK: tl.constexpr
):  # fmt: skip
    picture, size = tl.program_id(1), height * width
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    numbers = papers + picture // frames * 26
    u, v = ((at % width).to(tl.float32) + 0.5) / width, ((at // width).to(tl.float32) + 0.5) / height
    slope = tl.load(numbers + 6) * (u - 0.5) + tl.load(numbers + 7) * (v - 0.5)
    one, two, three = wave(numbers, 0, u, v), wave(numbers, 1, u, v), wave(numbers, 2, u, v)
    start = picture.to(tl.int64) * size
    ink = tl.load(cover + start + at, mask=inside, other=0.0)
    noise = tl.load(grain + start + at, mask=inside, other=0.0).to(tl.float32)
    for channel in tl.static_range(3):
        behind = paper_channel(numbers, channel, slope, one, two, three)
        plane = picture.to(tl.int64) * 3 + channel
        over = tl.load(colour + plane * plane_step + at * pixel_step, mask=inside, other=0.0)
        value = behind * (1 - ink) + over * ink + noise * tl.load(tint + plane)
        value = tl.minimum(tl.maximum(value, 0.0), 1.0) * 2 - 1
        tl.store(out + plane * size + at, value.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["height", "width"])
def _soften(coverage, strength, out, height, width, BLOCK: tl.constexpr):
    picture, size = tl.program_id(1), height * width
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    start = picture.to(tl.int64) * size
    value = blurred(coverage + start, at // width, at % width, height, width, tl.load(strength + picture), inside)
    tl.store(out + start + at, value, mask=inside)


def _grid(pixels: int, pictures: int) -> tuple[int, int]:
    return triton.cdiv(pixels, _BLOCK), pictures


def ink(layout: TextLayout, atlas: DeviceAtlas) -> Tensor:
    """Coverage 0..1 of the text, float32 [B, H, W]."""
    (batch, most, count), height, width = layout.start.shape, layout.height, layout.width
    out = torch.empty(batch, height, width, device=layout.em.device)
    slant = torch.zeros_like(layout.top) if layout.slant is None else layout.slant
    stretch = torch.ones_like(layout.top) if layout.stretch is None else layout.stretch
    floats = (layout.cosine, layout.sine, layout.top, layout.pitch, slant, stretch)
    _ink[_grid(height * width, batch)](
        *(t.contiguous() for t in floats),
        layout.lines.contiguous(),
        layout.em.contiguous(),
        layout.start.contiguous(),
        layout.cell.contiguous(),
        layout.block.contiguous(),
        layout.table.contiguous(),
        atlas.ink,
        atlas.half_start,
        out,
        most,
        count,
        height,
        width,
        BLOCK=_BLOCK,
    )
    return out


def render(shapes: Shapes, owner: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Coverage [B, H, W] and colour [B, 3, H, W]; each pixel looks only at the shape `owner` [B, H * W] names."""
    batch, objects = shapes.x.shape
    cover = torch.empty(batch, height, width, device=owner.device)
    colour = torch.empty(batch, 3, height, width, device=owner.device)
    own = (shapes.kind, shapes.x, shapes.y, shapes.radius, shapes.angle, shapes.rgb, shapes.shown, owner)
    _render[_grid(height * width, batch)](
        *(t.contiguous() for t in own), cover, colour, objects, height, width, BLOCK=_BLOCK
    )
    return cover, colour


def owner_of(shapes: Shapes, x: Tensor, y: Tensor) -> Tensor:
    """The object of two that covers each point; the second lies over the first. x, y: [P] -> int64 [N, P]."""
    out = torch.empty(shapes.x.shape[0], x.shape[0], dtype=torch.int64, device=x.device)
    own = (shapes.kind, shapes.x, shapes.y, shapes.radius, shapes.shown, x, y)
    _second_covers[_grid(x.shape[0], out.shape[0])](*(t.contiguous() for t in own), out, x.shape[0], BLOCK=_BLOCK)
    return out


def composite(paper: Paper, cover: Tensor, colour: Tensor, grain: Grain, frames: int = 1) -> Tensor:
    """Lay `colour` over the paper by `cover`, add the grain, go to -1..1: [N, 3, H, W] in the grain's dtype."""
    count, height, width = cover.shape
    out = torch.empty(count, 3, height, width, dtype=grain.value.dtype, device=cover.device)
    plain = colour.shape[2] == 1 and height * width > 1
    _composite[_grid(height * width, count)](
        paper_numbers(paper),
        cover.contiguous(),
        colour.contiguous(),
        1 if plain else height * width,
        0 if plain else 1,
        grain.value,
        grain.tint.contiguous(),
        out,
        height,
        width,
        frames,
        BLOCK=_BLOCK,
    )
    return out


def soften(coverage: Tensor, strength: Tensor) -> Tensor:
    """Blur with the kernel (s, 1 - 2s, s) in both directions. coverage: [B, H, W]; strength s: [B] in 0..1/3."""
    batch, height, width = coverage.shape
    out = torch.empty_like(coverage, memory_format=torch.contiguous_format)
    _soften[_grid(height * width, batch)](
        coverage.contiguous(), strength.contiguous(), out, height, width, BLOCK=_BLOCK
    )
    return out
