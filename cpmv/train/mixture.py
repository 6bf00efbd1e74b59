"""Which samples a step takes: a pure function of the step's number, so that a resumed run reads on where it stopped.

An epoch shows every sample `weight` times: 2 is twice, 0.5 is half of them, another half in the next epoch. The order
is drawn anew for each epoch from the seed. Ranks take every n-th sample of a step, so that one GPU and two see the same
steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..errors import CpmvError


class Mixture:
    """counts: samples of each source. weights: how often an epoch shows them. Indices run through the sources in turn:
    the first of the second source is counts[0]."""

    def __init__(
        self,
        counts: Sequence[int],
        weights: Sequence[float] | None = None,
        *,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
    ) -> None:
        self.counts = list(counts)
        self.weights = [1.0] * len(self.counts) if weights is None else list(weights)
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self.rank, self.world_size = rank, world_size
        if batch_size % world_size:
            raise CpmvError(f"a batch of {batch_size} cannot be split over {world_size} GPUs; give a multiple of it")
        self.epoch_size = sum(_whole(n * w) for n, w in zip(self.counts, self.weights, strict=True))
        if not self.epoch_size:
            raise CpmvError("no usable sample is left; see what cpmv data check says of the files")
        self._orders: dict[int, list[int]] = {}

    def num_steps(self, epochs: float) -> int:
        """Steps that show about `epochs` epochs, at least one."""
        return max(1, math.ceil(epochs * self.epoch_size / self.batch_size))

    def positions(self, step: int) -> list[int]:
        """Places in the endless stream of samples that this rank takes in a step."""
        return list(range(step * self.batch_size + self.rank, (step + 1) * self.batch_size, self.world_size))

    def index(self, position: int) -> int:
        """The sample at a place of the stream."""
        epoch, place = divmod(position, self.epoch_size)
        if epoch not in self._orders:
            self._orders = {k: v for k, v in self._orders.items() if k >= epoch - 1} | {epoch: self._order(epoch)}
        return self._orders[epoch][place]

    def _order(self, epoch: int) -> list[int]:
        """All samples of an epoch in its order."""
        out: list[int] = []
        first = 0
        for source, (count, weight) in enumerate(zip(self.counts, self.weights, strict=True)):
            wanted = _whole(count * weight)
            # Read on through repeated permutations, so that part of a source moves on from epoch to epoch.
            start = epoch * wanted
            passes: dict[int, list[int]] = {}
            for place in range(start, start + wanted):
                number, offset = divmod(place, count)
                if number not in passes:
                    passes[number] = self._permutation(count, source + 1, number)
                out.append(first + passes[number][offset])
            first += count
        return [out[i] for i in self._permutation(len(out), 0, epoch)]

    def _permutation(self, count: int, stream: int, number: int) -> list[int]:
        if not self.shuffle:
            return list(range(count))
        seed = (self.seed * 1_000_003 + stream) * 1_000_003 + number
        generator = torch.Generator().manual_seed(seed % (1 << 63))
        return torch.randperm(count, generator=generator).tolist()


def _whole(number: float) -> int:
    return int(number + 0.5)
