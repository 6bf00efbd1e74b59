"""Random choices on the device, as tensor operations of fixed shape, so that a CUDA graph can hold them.

Everything draws from one `torch.Generator` (None: the device's default one, which CUDA graphs advance by themselves).
Nothing here copies a number from the host or waits for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Chance:
    """Draws of shape `shape` on `device`."""

    def __init__(self, device: torch.device, generator: torch.Generator | None = None) -> None:
        self.device = device
        self.generator = generator

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Float32 in [low, high)."""
        return torch.rand(shape, device=self.device, generator=self.generator) * (high - low) + low

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, device=self.device, dtype=dtype, generator=self.generator)

    def integer(self, *shape: int, high: int | Tensor) -> Tensor:
        """Int64 in [0, high); high may be a tensor that broadcasts against `shape`."""
        drawn = (self.uniform(*shape) * high).long()
        return torch.minimum(drawn, high - 1) if isinstance(high, Tensor) else drawn.clamp(max=high - 1)

    def chosen(self, *shape: int, share: float) -> Tensor:
        """True with probability `share`."""
        return self.uniform(*shape) < share

    def weighted(self, *shape: int, cumulative: Tensor) -> Tensor:
        """Index drawn by a cumulative distribution. cumulative: [..., K], last entry 1; leading axes equal `shape`."""
        drawn = self.uniform(*shape)
        return (drawn.unsqueeze(-1) >= cumulative[..., :-1]).sum(-1)

    def one_of(self, allowed: Tensor) -> Tensor:
        """Index of a random true entry along the last axis (0 where none is true)."""
        return (self.uniform(*allowed.shape) + allowed.float() * 2).argmax(-1)


def cumulative(weights: list[float] | list[list[float]], device: torch.device) -> Tensor:
    """Cumulative distribution for `Chance.weighted`. Made before a graph is captured."""
    table = torch.tensor(weights, dtype=torch.float64)
    return (table.cumsum(-1) / table.sum(-1, keepdim=True)).float().to(device)


def pick(table: Tensor, index: Tensor) -> Tensor:
    """table[b, index[b, ...]] for each row b. table: [B, K] or [K]; index: [B, ...]."""
    if table.dim() == 1:
        return table[index]
    return table.gather(1, index.reshape(index.shape[0], -1)).reshape(index.shape)


def join(segments: list[tuple[Tensor, Tensor]], width: int, fill: int = 0) -> tuple[Tensor, Tensor]:
    """Write segments one after another into rows. segments: (values int64 [B, l], used length [B]).

    Returns [B, width] and the used length [B], which may exceed `width`: what does not fit is cut.
    """
    first = segments[0][0]
    out = torch.full((first.shape[0], width + 1), fill, dtype=torch.int64, device=first.device)
    end = torch.zeros_like(segments[0][1])
    for values, length in segments:
        step = torch.arange(values.shape[1], device=first.device)
        place = torch.where(step < length.unsqueeze(1), end.unsqueeze(1) + step, width).clamp(max=width)
        out.scatter_(1, place, values)  # the last column collects what is unused
        end = end + length
    return out[:, :width], end
