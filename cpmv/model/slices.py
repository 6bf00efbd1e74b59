"""Slices of a call to the encoder: where their patches begin, which are alike, and what runs together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..kernels.vision import Span


class Slice:
    """One slice of a call: where its patches begin, its grid, its time."""

    def __init__(self, start: int, size: tuple[int, int], time: int) -> None:
        self.start, self.size, self.time = start, size, time
        self.length = size[0] * size[1]


def slices_of(sizes: Sequence[tuple[int, int]], temporal_ids: Sequence[Sequence[int]]) -> list[list[Slice]]:
    groups, at, start = [], 0, 0
    for ids in temporal_ids:
        group = []
        for time in ids:
            group.append(Slice(start, sizes[at], time))
            start += group[-1].length
            at += 1
        groups.append(group)
    return groups


def chunks_of(groups: list[list[Slice]], patches_at_once: int) -> list[list[int]]:
    """Whole groups of at most so many patches together, at least one; those of a chunk sorted, equal ones together."""
    chunks: list[list[int]] = []
    room = 0
    for index, group in enumerate(groups):
        num_patches = sum(one.length for one in group)
        if not chunks or num_patches > room:
            chunks.append([])
            room = patches_at_once
        chunks[-1].append(index)
        room -= num_patches
    return [sorted(chunk, key=lambda g: [one.length for one in groups[g]]) for chunk in chunks]


def spans_of(slices: Sequence[Slice]) -> list[Span]:
    spans: list[Span] = []
    at = 0
    for one in slices:
        if spans and spans[-1].length == one.length:
            spans[-1] = spans[-1]._replace(num_slices=spans[-1].num_slices + 1)
        else:
            spans.append(Span(at, 1, one.length))
        at += one.length
    return spans


def neighbours(slices: Sequence[Slice]) -> list[tuple[int, int]]:
    """Ranges of patches that hold the slices in order, neighbours joined."""
    ranges: list[tuple[int, int]] = []
    for one in slices:
        stop = one.start + one.length
        if ranges and ranges[-1][1] == one.start:
            ranges[-1] = (ranges[-1][0], stop)
        else:
            ranges.append((one.start, stop))
    return ranges


@lru_cache(maxsize=256)
def _grid(size: tuple[int, int]) -> np.ndarray:
    """Column and row of every patch, int32 [2, rows * columns]."""
    rows, columns = size
    y, x = np.divmod(np.arange(rows * columns, dtype=np.int32), np.int32(columns))
    return np.stack([x, y])


def places_of(slices: Sequence[Slice], times: Sequence[int]) -> Tensor:
    """Column, row and index of the time of every patch, int32 [3, P]."""
    grids = np.concatenate([_grid(one.size) for one in slices], axis=1)
    moments = np.repeat(np.asarray(times, dtype=np.int32), [one.length for one in slices])
    return torch.from_numpy(np.concatenate([grids, moments[None]]))
