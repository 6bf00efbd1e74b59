"""Encoded pictures, kept by what they show: the same picture in another prompt, or after a preemption, is not encoded
again. The least recently used are forgotten when `max_bytes` are held.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from ..errors import MessageError
from ..model.config import ModelInputs
from ..model.minicpmv import MiniCPMV

_SLICES_AT_ONCE = 36


class ImageCache:
    """The resampler's output of one group (a slice, or packed frames), [Q, E], by the digest of its content."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.hits = self.misses = 0
        self._held: OrderedDict[str, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: str) -> Tensor | None:
        found = self._held.get(key)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
            self._held.move_to_end(key)
        return found

    def put(self, key: str, features: Tensor) -> None:
        if key in self._held or features.nbytes > self.max_bytes:
            return
        self._held[key] = features
        self.num_bytes += features.nbytes
        while self.num_bytes > self.max_bytes:
            self.num_bytes -= self._held.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        self._held.clear()
        self.num_bytes = 0


@dataclass(frozen=True)
class PromptMedia:
    """Where the groups of one prompt lie: bounds[g] in its tokens, first_slice and first_patch in its pixels."""

    inputs: ModelInputs
    bounds: list[tuple[int, int]]
    keys: list[str]
    first_slice: list[int]
    first_patch: list[int]
    sizes: list[list[int]]

    @classmethod
    def of(cls, inputs: ModelInputs) -> PromptMedia:
        """Read a prompt. Raises MessageError when its pictures and their places do not agree."""
        bounds = [(start, end) for start, end in inputs.image_bounds.tolist()]
        groups = inputs.temporal_ids
        if len(bounds) != len(groups):
            raise MessageError(
                f"the text has {len(bounds)} places for pictures but {len(groups)} groups of slices came"
            )
        first_slice = [0, *accumulate(map(len, groups))]
        sizes = inputs.tgt_sizes.tolist()
        patches = [0, *accumulate(rows * columns for rows, columns in sizes)]
        if first_slice[-1] != len(sizes) or patches[-1] != len(inputs.patches):
            raise MessageError(
                f"{len(groups)} groups name {first_slice[-1]} slices with {patches[-1]} patches, but {len(sizes)} "
                f"slices and {len(inputs.patches)} patches came"
            )
        first_patch = [patches[at] for at in first_slice]
        media = cls(inputs, bounds, list(inputs.media_hashes), first_slice, first_patch, sizes)
        if len(media.keys) != len(bounds):
            media.keys[:] = [media.digest(group) for group in range(len(bounds))]
        return media

    def digest(self, group: int) -> str:
        """Name what a group shows, for inputs that were made without hashes."""
        patches, sizes, times = self.pixels(group, group + 1)
        digest = hashlib.sha256(repr((tuple(patches.shape), str(patches.dtype), sizes, times)).encode())
        digest.update(patches.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def pixels(self, start: int, stop: int) -> tuple[Tensor, list[list[int]], list[list[int]]]:
        """Patches, sizes and times of groups [start, stop), as `encode_images` takes them."""
        patches = self.inputs.patches[self.first_patch[start] : self.first_patch[stop]]
        sizes = self.sizes[self.first_slice[start] : self.first_slice[stop]]
        return patches, sizes, self.inputs.temporal_ids[start:stop]

    def overlapping(self, start: int, end: int) -> list[int]:
        """Groups that have tokens in [start, end)."""
        return [group for group, (first, last) in enumerate(self.bounds) if first < end and last > start]


def encode(
    network: MiniCPMV, cache: ImageCache, media: PromptMedia, groups: Sequence[int], *, one_by_one: bool = False
) -> dict[int, Tensor]:
    """Return the features [Q, E] of some groups of a prompt, encoding those that are not cached.

    one_by_one: each in a pass of its own, so that the result cannot depend on which others were cached.
    """
    found: dict[int, Tensor] = {}
    missing: list[int] = []
    for group in groups:
        held = cache.get(media.keys[group])
        if held is None:
            missing.append(group)
        else:
            found[group] = held
    for start, stop in _runs(missing, one_by_one):
        features = network.encode_images(*media.pixels(start, stop), steady=one_by_one).to(network.dtype)
        for group, tokens in zip(range(start, stop), features, strict=True):
            # A copy of its own: a view would keep the whole pass alive.
            found[group] = tokens.clone() if stop - start > 1 else tokens
            cache.put(media.keys[group], found[group])
    return found


def encode_together(
    network: MiniCPMV, cache: ImageCache, wanted: Sequence[tuple[PromptMedia, Sequence[int]]]
) -> list[dict[int, Tensor]]:
    """The same for some groups of several prompts, in passes that they share: a slice alone leaves a GPU half empty."""
    found: list[dict[int, Tensor]] = [{} for _ in wanted]
    missing: dict[str, tuple[PromptMedia, int]] = {}
    waiting: list[tuple[str, dict[int, Tensor], int]] = []
    for (media, groups), mine in zip(wanted, found, strict=True):
        for group in groups:
            key = media.keys[group]
            held = None if key in missing else cache.get(key)
            if held is not None:
                mine[group] = held
                continue
            missing.setdefault(key, (media, group))
            waiting.append((key, mine, group))
    new: dict[str, Tensor] = {}
    for keys in _passes(missing):
        parts = [media.pixels(group, group + 1) for media, group in (missing[key] for key in keys)]
        patches = parts[0][0] if len(parts) == 1 else torch.cat([part[0] for part in parts])
        sizes, times = [size for part in parts for size in part[1]], [ids for part in parts for ids in part[2]]
        features = network.encode_images(patches, sizes, times).to(network.dtype)
        for key, tokens in zip(keys, features, strict=True):
            new[key] = tokens.clone() if len(keys) > 1 else tokens
            cache.put(key, new[key])
    for key, mine, group in waiting:
        mine[group] = new[key]
    return found


def _passes(missing: dict[str, tuple[PromptMedia, int]]) -> list[list[str]]:
    """Cut groups into passes of some slices: while one is computed the pixels of the next are put together."""
    passes: list[list[str]] = []
    room, kind = 0, None
    for key, (media, group) in missing.items():
        num_slices, patches = len(media.inputs.temporal_ids[group]), media.inputs.patches
        if num_slices > room or (patches.dtype, patches.device) != kind:
            passes.append([])
            room, kind = _SLICES_AT_ONCE, (patches.dtype, patches.device)
        passes[-1].append(key)
        room -= num_slices
    return passes


def _runs(groups: Sequence[int], one_by_one: bool) -> list[tuple[int, int]]:
    """Cut ascending groups into half-open ranges of neighbours."""
    runs: list[tuple[int, int]] = []
    for group in groups:
        if runs and runs[-1][1] == group and not one_by_one:
            runs[-1] = (runs[-1][0], group + 1)
        else:
            runs.append((group, group + 1))
    return runs
