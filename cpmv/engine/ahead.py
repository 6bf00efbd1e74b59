"""Pictures encoded while the rest of their prompt is still being decoded, so that a long video waits for neither.

`Visuals.load` calls a `MediaAhead` with each group whose pixels are there; it encodes them a tower batch at a time into
the engine's picture cache, between two steps, and the request that comes later finds them by their digests. Nothing
else changes: a group that is not in the cache any more is encoded as ever.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..inputs.visuals import Group
from ..model.config import ModelInputs
from .engine import Engine
from .image_cache import PromptMedia, encode

# Slices of a pass: enough to fill a card, few enough that others' steps hardly wait.
_SLICES_AT_ONCE = 36


class MediaAhead:
    """Takes groups in order, from one thread; encodes what has come whenever a pass is full.

    engine: asked for the engine at the first group. No more is encoded than its cache can hold at once.
    """

    def __init__(self, engine: Callable[[], Engine], slices_at_once: int = _SLICES_AT_ONCE) -> None:
        self._get_engine, self._slices_at_once = engine, slices_at_once
        self._engine: Engine | None = None
        self._waiting: list[Group] = []
        self._left = 0

    def __call__(self, group: Group) -> None:
        """Take a group; its pixels have been read when the pass that has it returns."""
        if self._engine is None:
            engine = self._engine = self._get_engine()
            config = engine._network.config.resampler
            group_bytes = config.query_num * config.embed_dim * engine._network.dtype.itemsize
            self._left = engine._images.max_bytes // group_bytes
        if self._left < 1:
            return
        self._left -= 1
        self._waiting.append(group)
        if sum(len(one.sizes) for one in self._waiting) >= self._slices_at_once:
            self._encode(self._engine)

    def _encode(self, engine: Engine) -> None:
        groups, self._waiting = self._waiting, []
        none = torch.zeros(len(groups), 2, dtype=torch.int64)  # they have no places in a prompt yet
        part = ModelInputs(
            none[:0, 0],
            none,
            torch.cat([group.patches for group in groups]),
            torch.cat([group.sizes for group in groups]),
            [group.temporal_ids for group in groups],
            "",
            [group.digest for group in groups],
        )
        alone = engine._runner._deterministic
        with engine._lock, torch.inference_mode():
            encode(engine._network, engine._images, PromptMedia.of(part), range(len(groups)), one_by_one=alone)
