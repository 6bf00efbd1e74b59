"""Where the dense labels are asked: 2 x 2 points a patch, and a 32 x 32 lattice at equal fractions of a picture."""

from __future__ import annotations

import torch
from torch import Tensor

PATCH = 14  # px
LATTICE = 32


def patch_points(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Points 7 px apart, the first at 3.5: x and y [P] with P = (H / 7) * (W / 7), row-major."""
    step = PATCH / 2
    x = (torch.arange(width // 7, device=device) + 0.5) * step
    y = (torch.arange(height // 7, device=device) + 0.5) * step
    return x.repeat(y.shape[0]), y.repeat_interleave(x.shape[0])


def lattice_points(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Centres of 32 x 32 equal cells: x and y [1024], row-major."""
    fraction = (torch.arange(LATTICE, device=device) + 0.5) / LATTICE
    return (fraction * width).repeat(LATTICE), (fraction * height).repeat_interleave(LATTICE)
