"""Corruption of text regions as tensor operations of fixed shape, for whole batches at once inside a CUDA graph.

Every region has a level: low and moderate pass through one or two noise families at a strength, high is covered whole.
Families follow one another in a fixed order (shift, blur, blocks, fade, quantisation, blots, drops, grain), and each
is as strong at a pixel as the region there asks; outside the regions a picture stays as it is, to the bit. Which
regions, levels and families is decided in `corrupt.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .draw.chance import Chance

MAX_REGIONS = 8
NONE, LOW, MODERATE, HIGH = range(4)
FAMILIES = ("grain", "drop", "blur", "resample", "blot", "fade", "quantise", "shift")
GRAIN, DROP, BLUR, RESAMPLE, BLOT, FADE, QUANTISE, SHIFT = range(len(FAMILIES))
FILLS = ("background", "grey", "black", "white", "noise")
BACKGROUND, GREY, BLACK, WHITE, NOISE = range(len(FILLS))
MAX_STRENGTH = 0.9

_BLOT_SIDE = 5  # px of the lattice that blots are made of
_BLUR_STEPS = ((3, 0.8), (5, 1.6), (9, 3.1), (15, 5.3))  # box side and the deviation it leads to, px
_RING = 2  # px around a box whose mean is taken for the background
_BLOCK = 8  # px of a quantised block


class Rows(Protocol):
    """What `CorruptionArrays.put` needs of a plan."""

    def rows(self) -> dict[str, list[Any]]:
        """Values of each field, one a region, at most MAX_REGIONS."""
        ...


@dataclass
class CorruptionArrays:
    """What happens to N pictures, R regions each.

    boxes: float32 [N, R, 4], left, top, right, bottom as shares of width and height. level, fill: int64 [N, R].
    strength: float32 [N, R], 0..0.9. family: int64 [N, R, 2], -1 none. height: float32 [N, R], of the text, as a share
    of the picture's. pad: float32 [N, R], px by which a covered box grows. offset: float32 [N, R], 0..1, where in the
    box an occluding bar lies; negative for blots instead.
    """

    boxes: Tensor
    level: Tensor
    strength: Tensor
    family: Tensor
    fill: Tensor
    height: Tensor
    pad: Tensor
    offset: Tensor

    @classmethod
    def empty(cls, count: int) -> CorruptionArrays:
        """Arrays of `count` pictures that stay as they are."""
        shape = (count, MAX_REGIONS)
        return cls(
            torch.zeros(*shape, 4),
            torch.zeros(shape, dtype=torch.int64),
            torch.zeros(shape),
            torch.full((*shape, 2), -1),
            torch.zeros(shape, dtype=torch.int64),
            torch.zeros(shape),
            torch.zeros(shape),
            torch.zeros(shape),
        )

    def tensors(self) -> list[Tensor]:
        return [getattr(self, f.name) for f in fields(self)]

    def to(self, device: torch.device) -> CorruptionArrays:
        return CorruptionArrays(*(t.to(device, non_blocking=True) for t in self.tensors()))

    def put(self, number: int, plan: Rows) -> None:
        """Write a plan into the row of picture `number`."""
        for name, values in plan.rows().items():
            row = getattr(self, name)[number]
            row[: len(values)] = torch.tensor(values, dtype=row.dtype)


@dataclass
class Noise:
    """The random numbers of a batch, all but `normal` uniform in 0..1.

    normal, uniform [N, 1, H, W]; colour [N, 3, H, W]; blots [N, 1, h, w]; rows [N, H].
    """

    normal: Tensor
    uniform: Tensor
    colour: Tensor
    blots: Tensor
    rows: Tensor

    @classmethod
    def draw(cls, chance: Chance, count: int, height: int, width: int) -> Noise:
        coarse = (-(-height // _BLOT_SIDE) + 1, -(-width // _BLOT_SIDE) + 1)
        return cls(
            chance.normal(count, 1, height, width),
            chance.uniform(count, 1, height, width),
            chance.uniform(count, 3, height, width),
            chance.uniform(count, 1, *coarse),
            chance.uniform(count, height),
        )


@dataclass
class _Pixels:
    """For every pixel the region that owns it. index [N, P], 0 none, then 1 + region; x, y [P] px."""

    index: Tensor
    x: Tensor
    y: Tensor
    height: int
    width: int

    def of(self, values: Tensor) -> Tensor:
        """values [N, R] at each pixel, 0 outside the regions: [N, 1, H, W]."""
        table = torch.cat([torch.zeros_like(values[:, :1]), values], 1)
        return table.gather(1, self.index).view(-1, 1, self.height, self.width)


def corrupt(pictures: Tensor, arrays: CorruptionArrays, chance: Chance, noise: Noise | None = None) -> Tensor:
    """Corrupt the regions of pictures [N, 3, H, W] in 0..1; the others stay.

    noise: random numbers drawn before, for a replay; None draws them from `chance`.
    """
    count, _, height, width = pictures.shape
    noise = noise or Noise.draw(chance, count, height, width)
    edges = _edges(arrays, height, width)
    pixels = _owners(arrays.level, edges, height, width)
    background = _around(pictures, edges)
    readable = (arrays.level == LOW) | (arrays.level == MODERATE)

    def strength(family: int) -> Tensor:
        used = (arrays.family == family).any(2) & readable
        return arrays.strength * used

    text = arrays.height * height
    paper = torch.cat([background[:, :1], background], 1)  # row 0 belongs to no region
    paper = paper.gather(1, pixels.index[..., None].expand(-1, -1, 3)).transpose(1, 2).view_as(pictures)
    out = _shift(pictures, pixels, pixels.of(strength(SHIFT) * text * 0.5), noise.rows, edges)
    block = (1 + strength(RESAMPLE) * text * 0.27) * (strength(RESAMPLE) > 0)
    out = _blur(out, pixels.of(strength(BLUR) * text * 0.21 + block * 0.45))
    out = _pixelate(out, pixels, block, edges)
    out = torch.lerp(out, paper, pixels.of(strength(FADE)))
    out = _quantise(out, pixels.of(strength(QUANTISE)))
    fill = _fill(pixels.of(arrays.fill), paper, noise.colour)
    covered = _occluded(pixels, arrays, strength(BLOT), edges, noise.blots)
    out = torch.where(covered, fill, out)
    out = torch.where(noise.uniform < pixels.of(strength(DROP)) * 0.7, paper, out)
    grain = strength(GRAIN)
    out = (out + noise.normal * pixels.of((0.05 + 0.55 * grain) * (grain > 0))).clamp(0, 1)
    hidden = pixels.of(arrays.level) == HIGH
    touched = pixels.index.view(count, 1, height, width) > 0
    return torch.where(hidden, fill, torch.where(touched, out, pictures))


def _edges(arrays: CorruptionArrays, height: int, width: int) -> Tensor:
    """Left, top, right, bottom in px [N, R, 4], right and bottom excluded; covered boxes grow by their pad."""
    boxes, pad = arrays.boxes, torch.where(arrays.level == HIGH, arrays.pad, 0.0)
    left, top = (boxes[..., 0] * width - pad).floor(), (boxes[..., 1] * height - pad).floor()
    right, bottom = (boxes[..., 2] * width + pad).ceil(), (boxes[..., 3] * height + pad).ceil()
    return torch.stack([left, top, right, bottom], 2)


def _owners(level: Tensor, edges: Tensor, height: int, width: int) -> _Pixels:
    """Covered regions own what they touch; of the others the last does."""
    pixel = torch.arange(height * width, device=level.device)
    x, y = pixel % width, pixel // width
    index = torch.zeros(level.shape[0], height * width, dtype=torch.int64, device=level.device)
    for covering in (False, True):
        for region in range(level.shape[1]):
            left, top, right, bottom = (edges[:, region, side, None] for side in range(4))
            chosen = (level[:, region, None] == HIGH) if covering else (level[:, region, None] > 0)
            inside = (x >= left) & (x < right) & (y >= top) & (y < bottom) & chosen
            index = torch.where(inside, region + 1, index)
    return _Pixels(index, x, y, height, width)


def _around(pictures: Tensor, edges: Tensor) -> Tensor:
    """Mean colour of the ring around each box, about the paper's: [N, R, 3]."""
    count, _, height, width = pictures.shape
    table = F.pad(pictures.float().cumsum(2).cumsum(3), (1, 0, 1, 0)).flatten(2)  # [N, 3, (H + 1)(W + 1)]

    def total(left: Tensor, top: Tensor, right: Tensor, bottom: Tensor) -> tuple[Tensor, Tensor]:
        left, right = left.clamp(0, width), right.clamp(0, width)
        top, bottom = top.clamp(0, height), bottom.clamp(0, height)

        def at(y: Tensor, x: Tensor) -> Tensor:
            index = (y * (width + 1) + x).long()[:, None].expand(-1, 3, -1)
            return table.gather(2, index)

        value = at(bottom, right) - at(top, right) - at(bottom, left) + at(top, left)
        return value, ((right - left) * (bottom - top))[:, None]

    left, top, right, bottom = edges.unbind(2)
    inner, inner_area = total(left, top, right, bottom)
    outer, outer_area = total(left - _RING, top - _RING, right + _RING, bottom + _RING)
    mean = (outer - inner) / (outer_area - inner_area).clamp(min=1)
    return mean.transpose(1, 2).clamp(0, 1).to(pictures.dtype)


def _take(pictures: Tensor, pixels: _Pixels, x: Tensor, y: Tensor) -> Tensor:
    """Pictures read at whole places x, y [N, P] px."""
    index = (y.clamp(0, pixels.height - 1) * pixels.width + x.clamp(0, pixels.width - 1)).long()
    return pictures.flatten(2).gather(2, index[:, None].expand(-1, 3, -1)).view_as(pictures)


def _bounds(pixels: _Pixels, edges: Tensor) -> list[Tensor]:
    """Edges of the region that owns each pixel, 0 outside: four [N, P]."""
    return [pixels.of(edges[..., side]).flatten(1) for side in range(4)]


def _shift(pictures: Tensor, pixels: _Pixels, reach: Tensor, rows: Tensor, edges: Tensor) -> Tensor:
    """Move rows of pixels sideways by up to `reach` px, within their own region."""
    smooth = rows * 0.6 + rows.roll(1, 1) * 0.4
    moved = ((smooth * 2 - 1)[:, pixels.y] * reach.flatten(1)).round()
    left, _, right, _ = _bounds(pixels, edges)
    x = torch.where(moved != 0, torch.minimum(torch.maximum(pixels.x + moved, left), right - 1), pixels.x)
    return _take(pictures, pixels, x, pixels.y.expand_as(x))


def _blur(pictures: Tensor, reach: Tensor) -> Tensor:
    """Blur with deviation `reach` px at each pixel, between pictures blurred in steps."""
    out, last, previous = pictures, pictures, 0.0
    for side, deviation in _BLUR_STEPS:
        channels = last.flatten(0, 1)[:, None]
        padded = F.pad(channels, (side // 2,) * 4, mode="replicate")
        blurred = F.avg_pool2d(F.avg_pool2d(padded, (1, side), 1), (side, 1), 1)
        blurred = blurred.view_as(pictures)
        share = ((reach - previous) / (deviation - previous)).clamp(0, 1)
        out = torch.lerp(out, blurred, share)
        last, previous = blurred, deviation
    return out


def _pixelate(pictures: Tensor, pixels: _Pixels, block: Tensor, edges: Tensor) -> Tensor:
    """Read blocks of `block` px [N, R] at their middle, as a small picture enlarged without smoothing."""
    side = pixels.of(block).flatten(1)
    left, top, _, _ = _bounds(pixels, edges)
    step = side.clamp(min=1)
    x = torch.where(side > 1, left + ((pixels.x - left) / step).floor() * step + step / 2, pixels.x)
    y = torch.where(side > 1, top + ((pixels.y - top) / step).floor() * step + step / 2, pixels.y)
    return _take(pictures, pixels, x.floor(), y.floor())


def _quantise(pictures: Tensor, strength: Tensor) -> Tensor:
    """Round the cosine transform of blocks of 8 x 8 px, coarser for higher frequencies, as JPEG does."""
    count, channels, height, width = pictures.shape
    pad = (0, -width % _BLOCK, 0, -height % _BLOCK)
    number = torch.arange(_BLOCK, device=pictures.device, dtype=pictures.dtype)
    basis = ((number[None] + 0.5) * number[:, None] * (math.pi / _BLOCK)).cos() * (2 / _BLOCK) ** 0.5
    basis = torch.where(number[:, None] == 0, basis * 0.5**0.5, basis)  # rows are frequencies, orthonormal
    padded = F.pad(pictures, pad, mode="replicate")
    blocks = padded.unflatten(3, (-1, _BLOCK)).unflatten(2, (-1, _BLOCK)).transpose(3, 4)  # [N, 3, h, w, 8, 8]
    coarse = F.max_pool2d(F.pad(strength, pad), _BLOCK)[..., None, None]
    step = coarse * (0.16 + 0.22 * (number[None] + number[:, None]))
    values = basis @ blocks @ basis.t()
    values = torch.where(step > 0, (values / step.clamp(min=1e-3)).round() * step, values)
    again = (basis.t() @ values @ basis).transpose(3, 4).flatten(4, 5).flatten(2, 3)[:, :, :height, :width]
    return torch.where(strength > 0, again, pictures)


def _fill(kind: Tensor, paper: Tensor, colour: Tensor) -> Tensor:
    """What covers: paper, grey, black, white, or coloured noise. kind [N, 1, H, W]."""
    out = torch.where(kind == GREY, 0.5, paper)
    out = torch.where(kind == BLACK, 0.0, torch.where(kind == WHITE, 1.0, out))
    return torch.where(kind == NOISE, colour.to(paper.dtype), out)


def _occluded(pixels: _Pixels, arrays: CorruptionArrays, strength: Tensor, edges: Tensor, blots: Tensor) -> Tensor:
    """Which pixels a horizontal bar, or blots, cover: about `strength` of the box. Bool [N, 1, H, W]."""
    _, top, _, bottom = _bounds(pixels, edges)
    share, offset = pixels.of(strength).flatten(1), pixels.of(arrays.offset).flatten(1)
    size = (bottom - top) * share
    start = top + (bottom - top - size) * offset
    bar = (pixels.y >= start) & (pixels.y < start + size) & (offset >= 0)
    field = F.interpolate(blots, scale_factor=float(_BLOT_SIDE), mode="bilinear", align_corners=False)
    field = field[:, 0, : pixels.height, : pixels.width].flatten(1)
    # Interpolation narrows the uniform distribution around its middle; the slope makes up for it.
    blot = (field < 0.5 + (share - 0.5) * 0.75) & (offset < 0)
    return ((bar | blot) & (share > 0)).view(-1, 1, pixels.height, pixels.width)
