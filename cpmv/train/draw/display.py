"""Draws sheets of text and marks on the device, many at once, by fixed sequences of tensor operations.

`SheetPacker` (CPU, in worker processes) turns the sheets of a batch into arrays of fixed size: glyphs in three size
classes, marks, papers. `draw_sheets` turns those into pictures: marks first, the topmost at each pixel with its edge
blended over the one below, then every glyph as a small tile read from the atlas, joined by the darkest ink that falls
on a pixel. Nothing depends on the data's values for its shape, so a CUDA graph can hold it all.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import CpmvError
from .atlas import EM, PEN_X, PEN_Y, Atlas
from .chance import Chance
from .charset import character_ids, drawn_characters, fallback_of
from .document import ELLIPSE, FRAME, LINE, NUM_PLACES, RECT, TRIANGLE, WEDGE, Run, Sheet
from .glyphs import HALF_BELOW, DeviceAtlas, read_cells
from .paper import draw_grain, draw_paper, render_paper, soften

# Tile sides and the largest em that fits each: a cell is 40 px at em 28, plus one px for the fraction of the place.
TILES = ((24, 16.0), (40, 27.0), (60, 41.0))
MAX_EM = TILES[-1][1]  # px
_INK_LEVELS = 127
NO_MARK = 6


class CapacityError(CpmvError):
    """A batch has no room for a sheet; draw a smaller one instead."""


@dataclass(frozen=True)
class Capacity:
    """Room of a batch of sheets: how many, glyphs of each size class in all, marks a sheet."""

    sheets: int
    glyphs: tuple[int, int, int]
    marks: int

    @classmethod
    def of(cls, sheets: int, small: int, middle: int, large: int, marks: int) -> Capacity:
        """small, middle, large: glyphs a sheet on average."""
        return cls(sheets, (sheets * small, sheets * middle, sheets * large), marks)


@dataclass
class SheetBatch:
    """N sheets as tensors, in this order everywhere.

    glyph_sheet, glyph_cell: int32 [G]; glyph_place: float32 [G, 3] pen x, baseline y, em; glyph_colour: int32 [G], RGB
    packed; G is all size classes one after the other. mark_kind: int32 [N, M]; mark_place: float32 [N, M, 6];
    mark_colour: float32 [N, M, 3]; paper: float32 [N, 3]. Unused glyphs lie on sheet N, unused marks have kind 6.
    """

    glyph_sheet: Tensor
    glyph_cell: Tensor
    glyph_place: Tensor
    glyph_colour: Tensor
    mark_kind: Tensor
    mark_place: Tensor
    mark_colour: Tensor
    paper: Tensor

    def tensors(self) -> list[Tensor]:
        return [getattr(self, f.name) for f in fields(self)]

    def to(self, device: torch.device) -> SheetBatch:
        return SheetBatch(*(t.to(device, non_blocking=True) for t in self.tensors()))


class SheetPacker:
    """Collects sheets into a `SheetBatch`. `add` raises CapacityError when it is full, and leaves it as it was."""

    def __init__(self, atlas: Atlas, capacity: Capacity) -> None:
        self._atlas, self.capacity = atlas, capacity
        self._ids = character_ids()
        ids = self._ids
        self._stand_in = np.array([ids[fallback_of(c)] for c in drawn_characters()])
        total = sum(capacity.glyphs)
        self._sheet = np.full(total, capacity.sheets, np.int32)
        self._cell = np.zeros(total, np.int32)
        self._place = np.zeros((total, 3), np.float32)
        self._place[:, 2] = 1.0
        self._colour = np.zeros(total, np.int32)
        self._kind = np.full((capacity.sheets, capacity.marks), NO_MARK, np.int32)
        self._mark_place = np.zeros((capacity.sheets, capacity.marks, NUM_PLACES), np.float32)
        self._mark_colour = np.zeros((capacity.sheets, capacity.marks, 3), np.float32)
        self._paper = np.ones((capacity.sheets, 3), np.float32)
        self._used = [0, 0, 0]
        self._starts = np.cumsum([0, *capacity.glyphs]).tolist()
        self.num_sheets = 0

    @property
    def room(self) -> int:
        """Sheets that still fit."""
        return self.capacity.sheets - self.num_sheets

    def add(self, sheets: Sequence[Sheet]) -> int:
        """Add the sheets of one document; return the number of the first."""
        if len(sheets) > self.room:
            raise CapacityError(f"{len(sheets)} sheets for {self.room} places")
        placed = [self._glyphs(run) for sheet in sheets for run in sheet.runs]
        owner = [number for number, sheet in enumerate(sheets) for _ in sheet.runs]
        used = list(self._used)
        for kind, cells, _, _ in placed:
            used[kind] += len(cells)
        for kind, name in enumerate(("small", "middle", "large")):
            if used[kind] > self.capacity.glyphs[kind]:
                raise CapacityError(f"{used[kind]} {name} glyphs for {self.capacity.glyphs[kind]} places")
        if any(len(sheet.marks) > self.capacity.marks for sheet in sheets):
            raise CapacityError(f"a sheet has more than {self.capacity.marks} marks")
        first = self.num_sheets
        for (kind, cells, places, colour), number in zip(placed, owner, strict=True):
            start = self._starts[kind] + self._used[kind]
            span = slice(start, start + len(cells))
            self._sheet[span], self._cell[span] = first + number, cells
            self._place[span], self._colour[span] = places, colour
            self._used[kind] += len(cells)
        for number, sheet in enumerate(sheets, first):
            self._paper[number] = sheet.paper
            for row, mark in enumerate(sheet.marks):
                self._kind[number, row] = mark.kind
                self._mark_place[number, row, : len(mark.places)] = mark.places
                self._mark_colour[number, row] = mark.colour
        self.num_sheets += len(sheets)
        return first

    def _glyphs(self, run: Run) -> tuple[int, np.ndarray, np.ndarray, int]:
        """Size class, cells, places [n, 3] and packed colour of a run; empty cells are left out."""
        if not run.em <= MAX_EM:
            raise CapacityError(f"text of {run.em:.0f} px; at most {MAX_EM:.0f} is drawn")
        ids = np.array([self._ids[c] for c in run.text], np.int64)
        glyph = self._atlas.glyph[run.face]
        ids = np.where(glyph[ids] < 0, self._stand_in[ids], ids)
        advance = self._atlas.advance[run.face, ids] * run.em
        x = run.x + np.concatenate(([0.0], np.cumsum(advance)[:-1])) if len(ids) else np.zeros(0)
        cells = glyph[ids]
        inked = cells > 0
        places = np.stack([x, np.full(len(ids), run.y), np.full(len(ids), run.em)], 1)[inked].astype(np.float32)
        kind = next(k for k, (_, most) in enumerate(TILES) if run.em <= most)
        red, green, blue = (int(round(max(0.0, min(1.0, c)) * 255)) for c in run.colour)
        return kind, cells[inked].astype(np.int32), places, red << 16 | green << 8 | blue

    def batch(self) -> SheetBatch:
        """The arrays as tensors, sharing memory."""
        arrays = (self._sheet, self._cell, self._place, self._colour)
        marks = (self._kind, self._mark_place, self._mark_colour, self._paper)
        return SheetBatch(*(torch.from_numpy(a) for a in (*arrays, *marks)))


def mark_distance(kind: Tensor, place: Tensor, turn: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Signed distance, px, of points to marks: negative inside.

    kind [...]; place [..., 6]; turn [..., 4], see `wedge_turns`; x, y broadcast to [...].
    """
    a, b, c, d, e, f = place.unbind(-1)
    middle_x, middle_y, half_x, half_y = (a + c) / 2, (b + d) / 2, (c - a) / 2, (d - b) / 2
    rect = torch.maximum((x - middle_x).abs() - half_x, (y - middle_y).abs() - half_y)
    frame = torch.maximum(rect, -e - rect)
    scaled = (((x - middle_x) / half_x.clamp(min=0.5)) ** 2 + ((y - middle_y) / half_y.clamp(min=0.5)) ** 2).sqrt()
    ellipse = (scaled - 1) * torch.minimum(half_x, half_y)
    # A line is the points near a segment.
    dx, dy = c - a, d - b
    along = (((x - a) * dx + (y - b) * dy) / (dx * dx + dy * dy).clamp(min=1e-6)).clamp(0, 1)
    line = ((x - a - along * dx) ** 2 + (y - b - along * dy) ** 2).sqrt() - e / 2
    # A triangle is three half-planes; `sense` makes them point outwards whatever the order of the corners.
    sense = torch.sign((c - a) * (f - b) - (d - b) * (e - a))
    sides = [_side(x, y, *corners) for corners in ((a, b, c, d), (c, d, e, f), (e, f, a, b))]
    triangle = torch.maximum(torch.maximum(sense * sides[0], sense * sides[1]), sense * sides[2])
    # A wedge is a disc within two half-planes through its centre (or outside their other part, beyond half a turn).
    u, v = x - a, y - b
    start_cos, start_sin, end_cos, end_sin = turn.unbind(-1)
    after_start, before_end = -(u * start_cos + v * start_sin), u * end_cos + v * end_sin
    narrow = e - d <= math.pi
    opening = torch.where(narrow, torch.maximum(after_start, before_end), torch.minimum(after_start, before_end))
    opening = torch.where(e - d >= 2 * math.pi - 1e-3, -1e3, opening)
    wedge = torch.maximum((u * u + v * v).sqrt() - c, opening)
    out = torch.where(kind == RECT, rect, 1e4)
    for number, value in ((ELLIPSE, ellipse), (LINE, line), (TRIANGLE, triangle), (WEDGE, wedge), (FRAME, frame)):
        out = torch.where(kind == number, value, out)
    return out


def wedge_turns(place: Tensor) -> Tensor:
    """Cosine and sine of a wedge's start and end [..., 4], once a mark rather than once a pixel."""
    return torch.stack([place[..., 3].cos(), place[..., 3].sin(), place[..., 4].cos(), place[..., 4].sin()], -1)


def _side(x: Tensor, y: Tensor, x0: Tensor, y0: Tensor, x1: Tensor, y1: Tensor) -> Tensor:
    """Distance of points to the line through two points, positive on its left in a y-down frame."""
    length = ((x1 - x0) ** 2 + (y1 - y0) ** 2).sqrt().clamp(min=1e-6)
    return ((y1 - y0) * (x - x0) - (x1 - x0) * (y - y0)) / length


def topmost(kind: Tensor, place: Tensor, turn: Tensor, x: Tensor, y: Tensor, below: Tensor, edge: float) -> Tensor:
    """The last mark that reaches each pixel: number plus one, 0 for none, int64 [N, P].

    kind [N, M]; place [N, M, 6]; turn [N, M, 4]; x, y [P]; below [N, P]: only marks of lower numbers count. edge: px
    beyond its outline that a mark reaches. Compiled, distances are never stored.
    """
    distance = mark_distance(kind[:, :, None], place[:, :, None], turn[:, :, None], x, y)  # [N, M, P]
    number = torch.arange(1, kind.shape[1] + 1, device=kind.device)[None, :, None]
    return torch.where((distance < edge) & (number < below[:, None]), number, 0).amax(1)


def lay_marks(batch: SheetBatch, paper: Tensor, find: Callable[..., Tensor] = topmost) -> Tensor:
    """Draw the marks over papers [N, 3, H, W]; edges are blended over one pixel with what wholly covers it below."""
    count, _, height, width = paper.shape
    pixel = torch.arange(height * width, device=paper.device)
    x, y = (pixel % width).float() + 0.5, (pixel // width).float() + 0.5
    used = batch.mark_kind.shape[1]
    if paper.device.type == "cpu":  # where every mark costs time and shapes may follow the data
        used = int((batch.mark_kind != NO_MARK).sum(1).max())
        if not used:
            return paper
    marks = batch.mark_kind[:, :used], batch.mark_place[:, :used]
    turn = wedge_turns(marks[1])
    all_marks = torch.full((count, height * width), used + 1, device=paper.device)
    top = find(*marks, turn, x, y, all_marks, 0.5)
    below = find(*marks, turn, x, y, top, -0.5)

    def chosen(table: Tensor, index: Tensor) -> Tensor:
        """Rows of a table [N, M, k] by mark number: [N, P, k]."""
        rows = (index - 1).clamp(min=0)[..., None].expand(-1, -1, table.shape[-1])
        return table.gather(1, rows)

    kind = batch.mark_kind.gather(1, (top - 1).clamp(min=0))
    distance = mark_distance(kind, chosen(batch.mark_place, top), chosen(turn, top), x, y)
    edge = (0.5 - distance).clamp(0, 1) * (top > 0)
    flat = paper.flatten(2).transpose(1, 2)  # [N, P, 3]
    under = torch.where((below > 0)[..., None], chosen(batch.mark_colour, below), flat)
    out = torch.lerp(under, chosen(batch.mark_colour, top), edge[..., None])
    return out.transpose(1, 2).reshape(count, 3, height, width)


def glyph_tiles(atlas: DeviceAtlas, cell: Tensor, place: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ink 0..1 of glyphs and where it lies. cell [G]; place [G, 3]. Returns ink, x, y [G, side * side], px."""
    x, y, em = (place[:, i, None] for i in range(3))
    left, top = (x - PEN_X * em / EM).floor(), (y - PEN_Y * em / EM).floor()
    offset = torch.arange(side * side, device=cell.device)
    px, py = left + (offset % side)[None], top + (offset // side)[None]
    column, row = (px + 0.5 - x) / em * EM + PEN_X, (py + 0.5 - y) / em * EM + PEN_Y
    small = (em < HALF_BELOW).expand_as(column)
    ink = read_cells(atlas, cell.long()[:, None].expand_as(column), column, row, small)
    return ink, px, py


def lay_text(
    batch: SheetBatch,
    atlas: DeviceAtlas,
    capacity: Capacity,
    height: int,
    width: int,
    tiles: Callable[..., tuple[Tensor, Tensor, Tensor]] = glyph_tiles,
) -> tuple[Tensor, Tensor]:
    """Coverage [N, H, W] and colour [N, 3, H, W] of all text, 0..1."""
    device = batch.paper.device
    size = height * width
    # The strongest ink wins; its colour travels in the low bits.
    canvas = torch.zeros((capacity.sheets + 1) * size, dtype=torch.int32, device=device)
    start = 0
    for (side, _), count in zip(TILES, capacity.glyphs, strict=True):
        span = slice(start, start + count)
        start += count
        if not count:
            continue
        ink, x, y = tiles(atlas, batch.glyph_cell[span], batch.glyph_place[span], side)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        index = batch.glyph_sheet[span].long()[:, None] * size + (y * width + x).long()
        index = torch.where(inside, index, capacity.sheets * size)
        level = (ink * _INK_LEVELS + 0.5).int()
        value = torch.where(level > 0, level << 24 | batch.glyph_colour[span][:, None], 0)
        canvas.scatter_reduce_(0, index.flatten(), value.flatten(), "amax")
    canvas = canvas[: capacity.sheets * size].view(capacity.sheets, 1, height, width)
    shift = (16 - 8 * torch.arange(3, dtype=torch.int32, device=device)).view(1, 3, 1, 1)
    colour = ((canvas >> shift) & 255).float() / 255
    return (canvas[:, 0] >> 24).float() / _INK_LEVELS, colour


@dataclass
class Look:
    """How rough the pictures of a batch are. Shares are of sheets; turn: degrees at most."""

    blur: float = 0.35
    grain: float = 0.06
    texture: float = 0.2
    turned: float = 0.25
    turn: float = 2.0
    coarse: float = 0.25  # drawn as if enlarged from a smaller picture


def triton_kernels(name: str) -> ModuleType | None:
    """A module of Triton kernels of `cpmv.train`, where Triton is installed."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return None
    return importlib.import_module(f"...{name}", __name__)


class Display:
    """Draws batches of sheets of one size. Make it before any capture; `compiled` fuses what touches every pixel: by
    Triton kernels on a GPU, or by compiling where Triton is missing."""

    def __init__(
        self,
        atlas: DeviceAtlas,
        capacity: Capacity,
        height: int,
        width: int,
        look: Look | None = None,
        *,
        compiled: bool = False,
    ) -> None:
        self.atlas, self.capacity, self.height, self.width = atlas, capacity, height, width
        self.look = look or Look()
        self._find: Callable[..., Tensor] = topmost
        self._tiles: Callable[..., tuple[Tensor, Tensor, Tensor]] = glyph_tiles
        self._kernels = triton_kernels("kernels_draw") if compiled and atlas.ink.is_cuda else None
        if compiled and self._kernels is None:
            self._find = torch.compile(topmost, dynamic=True)
            self._tiles = torch.compile(glyph_tiles, dynamic=True)

    def clean(self, batch: SheetBatch, paper: Tensor | None = None) -> Tensor:
        """Pictures [N, 3, H, W] in 0..1 without blur, noise or turns. paper: backgrounds instead of plain ones."""
        if paper is None:
            paper = batch.paper[:, :, None, None].expand(-1, -1, self.height, self.width)
        out = lay_marks(batch, paper, self._find)
        cover, colour = lay_text(batch, self.atlas, self.capacity, self.height, self.width, self._tiles)
        return torch.lerp(out, colour, cover[:, None])

    def draw(
        self,
        batch: SheetBatch,
        chance: Chance,
        frames_of: int = 1,
        damage: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Pictures [N, 3, H, W] in 0..1 as a camera or scanner might give them, before `finish` adds noise.

        frames_of: sheets in a row that share their paper (frames of a clip). damage: done to the pictures while text
        still lies where the sheets say, before they are turned.
        """
        look, count = self.look, self.capacity.sheets
        groups = -(-count // frames_of)
        paper = draw_paper(chance, groups, contrast=look.texture)
        for name in ("gradient", "tilt", "wave_frequency", "wave_phase", "wave_colour"):
            value = getattr(paper, name).repeat_interleave(frames_of, 0, output_size=groups * frames_of)[:count]
            setattr(paper, name, value)
        paper.base = batch.paper
        if self._kernels is not None:
            picture = self._kernels.draw_clean(batch, paper, self.atlas, self.capacity, self.height, self.width)
        else:
            picture = self.clean(batch, render_paper(paper, self.height, self.width))
        if damage is not None:
            picture = damage(picture)
        picture = self._coarsen(picture, chance, frames_of)
        if look.turned:
            picture = self._turn(picture, chance)
        return picture

    def _coarsen(self, picture: Tensor, chance: Chance, frames_of: int) -> Tensor:
        """Enlarge some pictures from two thirds of their size, as the preprocessing does with small ones."""
        if not self.look.coarse:
            return picture
        small = F.interpolate(picture, scale_factor=2 / 3, mode="bilinear", antialias=True, align_corners=False)
        again = F.interpolate(small, size=picture.shape[2:], mode="bicubic", align_corners=False).clamp(0, 1)
        groups = -(-picture.shape[0] // frames_of)
        chosen = chance.chosen(groups, share=self.look.coarse)
        chosen = chosen.repeat_interleave(frames_of, output_size=groups * frames_of)[: picture.shape[0]]
        return torch.where(chosen[:, None, None, None], again, picture)

    def _turn(self, picture: Tensor, chance: Chance) -> Tensor:
        count, _, height, width = picture.shape
        angle = (chance.uniform(count) * 2 - 1) * math.radians(self.look.turn)
        angle = angle * chance.chosen(count, share=self.look.turned)
        cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
        rows = [cosine, -sine * height / width, zero, sine * width / height, cosine, zero]
        grid = F.affine_grid(torch.stack(rows, 1).view(count, 2, 3), list(picture.shape), align_corners=False)
        turned = F.grid_sample(picture, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return torch.where((angle != 0)[:, None, None, None], turned, picture)

    def finish(self, picture: Tensor, chance: Chance, dtype: torch.dtype) -> Tensor:
        """Blur some, add noise, go to -1..1."""
        count, channels, height, width = picture.shape
        strength = chance.uniform(count) * 0.3 * chance.chosen(count, share=self.look.blur)
        grain = draw_grain(chance, count, height, width, most=self.look.grain)
        if self._kernels is not None:
            finished: Tensor = self._kernels.finish(picture, strength, grain, dtype)
            return finished
        flat = soften(picture.flatten(0, 1), strength.repeat_interleave(channels, output_size=count * channels))
        picture = flat.view_as(picture)
        return ((picture + grain.value * grain.tint).clamp(0, 1) * 2 - 1).to(dtype)
