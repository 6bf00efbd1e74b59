"""The objective of fine-tuning on answers: `sft.SupervisedObjective`, safe for any mixture of data and frozen parts.

Rows without pictures, and steps whose samples were all bad, still give a gradient (of zero), so that every rank does
the same work. What dropout drops follows from the step's number, so that a resumed run drops the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..model.config import ModelInputs
from ..model.lora import lora_layers
from ..model.minicpmv import MiniCPMV
from .metrics import forward_flops
from .sft import ALL_ROWS, SupervisedObjective, num_supervised


class FinetuneObjective(SupervisedObjective):
    """num_tokens: of all samples trained on so far on this GPU. level: makes rows alike on all ranks, in place, where
    a sharded model needs that (`sharding.level`)."""

    def __init__(
        self,
        model: MiniCPMV,
        samples: Callable[[int], Sequence[ModelInputs]],
        max_tokens: int,
        samples_per_step: int,
        seed: int,
        level: Callable[[list[list[ModelInputs]]], None] | None = None,
    ) -> None:
        super().__init__(model, samples, max_tokens, samples_per_step)
        self.seed, self.level = seed, level
        if level is not None:
            self.head_rows = ALL_ROWS
        self.num_tokens = 0
        self._flops = 0.0
        self._through_vision = any(p.requires_grad for p in model.vpm.parameters())
        self._adapts_only = bool(lora_layers(model))

    def feed(self, key: int, step: int) -> None:
        torch.manual_seed(self.seed * 1_000_003 + step)

    def load(self, key: int, generator: torch.Generator | None) -> list[list[ModelInputs]]:
        rows = super().load(key, generator)
        self._flops = sum(self._cost(sample) for row in rows for sample in row)
        self.num_tokens += sum(len(sample) for row in rows for sample in row)
        if self.level is not None:
            self.level(rows)
        return rows

    def sums(self, batch: Sequence[ModelInputs]) -> Tensor:
        total = super().sums(batch)
        if total.requires_grad:
            return total
        # Only the tower or the resampler learns and this row has no picture: a gradient of zero instead of none.
        anchor = next(p for p in self.model.parameters() if p.requires_grad)
        return total + 0.0 * anchor.flatten()[0].float()

    def flops(self, key: int) -> float:
        """Operations of the step that was loaded last, recomputation not counted."""
        return self._flops

    def _cost(self, sample: ModelInputs) -> float:
        """Forward once; backward through activations once more, and once more for weights that learn whole."""
        config = self.model.config
        cost = forward_flops(config, len(sample), 0)
        head = 2.0 * config.language.hidden_size * config.language.vocab_size
        words = len(sample) * (cost["token"] - head) + num_supervised(sample) * head
        areas = sample.tgt_sizes.prod(1).double()
        sight = float(areas.sum() * cost["patch"] + areas.square().sum() * cost["patch_pair"])
        return words * (2.0 if self._adapts_only else 3.0) + sight * (3.0 if self._through_vision else 1.0)
