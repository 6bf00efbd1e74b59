"""Coloured shapes as signed distances: rendering with smooth edges, and which shape lies at a point."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .chance import Chance
from .prompts import COLOURS, HELD_OUT_PAIRS, SHAPES

NUM_COLOURS, NUM_SHAPES = len(COLOURS), len(SHAPES)
RADIUS_OF_SQUARE = 0.86  # half side, in radii: about the area of the circle


@dataclass
class Shapes:
    """O shapes on each of B pictures, px. kind, colour: int64 [B, O]; the rest float [B, O] ([B, O, 3] for rgb)."""

    kind: Tensor
    colour: Tensor
    x: Tensor
    y: Tensor
    radius: Tensor
    angle: Tensor
    rgb: Tensor
    shown: Tensor


def palette(device: torch.device) -> Tensor:
    """RGB in 0..1 of the named colours, [colours, 3]."""
    return torch.tensor([rgb for _, rgb in COLOURS.values()], device=device) / 255


def held_out_pairs(device: torch.device) -> Tensor:
    """Bool [colours, shapes]: pairs kept for evaluation."""
    colours, shapes = list(COLOURS), list(SHAPES)
    table = torch.zeros(NUM_COLOURS, NUM_SHAPES, dtype=torch.bool)
    for colour, shape in HELD_OUT_PAIRS:
        table[colours.index(colour), shapes.index(shape)] = True
    return table.to(device)


def choose_pairs(chance: Chance, base: Tensor, colours: Tensor, barred: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Shape and colour for `count` objects a picture, visible on the paper and not barred.

    base: [B, 3] paper colour; colours: [colours, 3]; barred: bool [colours, shapes] -> kind, colour [B, count].
    """
    batch = base.shape[0]
    kind = chance.integer(batch, count, high=NUM_SHAPES)
    distance = (base.unsqueeze(1) - colours.unsqueeze(0)).square().sum(2)  # [B, colours]
    visible = (distance > 0.16).unsqueeze(1) & ~barred.t()[kind]
    return kind, chance.one_of(visible)


def distance_to(kind: Tensor, dx: Tensor, dy: Tensor, radius: Tensor, angle: Tensor) -> Tensor:
    """Signed distance (px, negative inside) to a shape of each kind, in the order of SHAPES. All one shape."""
    cosine, sine = angle.cos(), angle.sin()
    x, y = (dx * cosine + dy * sine) / radius, (dy * cosine - dx * sine) / radius
    length = (x * x + y * y).sqrt()
    ax, ay = x.abs(), y.abs()
    circle = length - 0.96
    square = torch.maximum(ax, ay) - RADIUS_OF_SQUARE
    triangle = torch.maximum(ax * 0.866 - y * 0.5 - 0.5, y - 0.62)  # point up; centre of the circumcircle
    arm = 0.33
    cross = torch.minimum(torch.maximum(ax - 0.98, ay - arm), torch.maximum(ax - arm, ay - 0.98))
    star = _star(ax, y)
    ring = (length - 0.75).abs() - 0.23
    result = torch.where(kind == 1, square, circle)
    for index, value in ((2, triangle), (3, cross), (4, star), (5, ring)):
        result = torch.where(kind == index, value, result)
    return result * radius


def _star(ax: Tensor, y: Tensor) -> Tensor:
    """Five-pointed star with its tip up, in unit radius: distance to the nearest edge line, folded into one sector."""
    angle = torch.atan2(ax, -y)  # 0 at the tip
    sector = 1.2566  # 72 degrees
    folded = (angle + sector / 2) % sector - sector / 2
    length = (ax * ax + y * y).sqrt()
    px, py = length * folded.sin().abs(), length * folded.cos()
    # Edge from the tip (0, 1) to the notch at 36 degrees and radius 0.42.
    nx, ny = 0.42 * 0.5878, 0.42 * 0.8090
    ex, ey = nx, ny - 1.0
    norm = (ex * ex + ey * ey) ** 0.5
    return (ex * (py - 1.0) - ey * px) / norm


def render(shapes: Shapes, owner: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Coverage [B, H, W] and colour [B, 3, H, W]; each pixel looks only at the shape `owner` [B, H*W] names."""
    x, y = _pixels(height, width, owner.device)
    distance = _distance_of(shapes, owner, x, y)
    cover = (0.5 - distance).clamp(0, 1) * shapes.shown.gather(1, owner)
    rgb = shapes.rgb.gather(1, owner.unsqueeze(2).expand(-1, -1, 3))
    return cover.view(-1, height, width), rgb.transpose(1, 2).reshape(-1, 3, height, width)


def classes_at(shapes: Shapes, owner: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """1 + colour * shapes + kind at points, 0 on the paper. owner: [B, P]; x, y: [P]."""
    inside = (_distance_of(shapes, owner, x, y) < 0) & (shapes.shown.gather(1, owner) > 0)
    pair = shapes.colour * NUM_SHAPES + shapes.kind
    return torch.where(inside, pair.gather(1, owner) + 1, 0)


def _pixels(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    pixel = torch.arange(height * width, device=device)
    return (pixel % width).float() + 0.5, (pixel // width).float() + 0.5


def _distance_of(shapes: Shapes, owner: Tensor, x: Tensor, y: Tensor) -> Tensor:
    radius = shapes.radius.gather(1, owner)
    dx, dy = x.unsqueeze(0) - shapes.x.gather(1, owner), y.unsqueeze(0) - shapes.y.gather(1, owner)
    return distance_to(shapes.kind.gather(1, owner), dx, dy, radius, shapes.angle.gather(1, owner))
