"""Direct preference optimisation (arXiv 2305.18290): the better answer gains on the worse one, against a reference.

    loss = -log sigmoid(beta · [(log p(better) - log ref(better)) - (log p(worse) - log ref(worse))])

Log-probabilities are sums over the tokens of the answer. Those of the reference are computed once, before the first
step, by the model as it is then (with its adapters off), so no second copy is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model.config import ModelInputs
from ..model.lora import disabled
from ..model.minicpmv import MiniCPMV
from .answers import answer_log_probs
from .distributed import World
from .sft import ALL_ROWS, HEAD_ROWS, pack


@dataclass
class Pair:
    """Two answers to one prompt. index: its place in the table of the reference's log-probabilities; below zero the
    pair only keeps ranks in step and teaches nothing."""

    better: ModelInputs
    worse: ModelInputs
    index: int

    def __len__(self) -> int:
        return len(self.better) + len(self.worse)


def dpo_loss(better: Tensor, worse: Tensor, reference: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return losses and margins, both [n]. better, worse: log-probabilities [n]; reference: of both, [n, 2]."""
    margins = beta * ((better - reference[:, 0]) - (worse - reference[:, 1]))
    return -F.logsigmoid(margins), margins


class PreferenceObjective:
    """DPO over pairs (see `step.Objective`); "accuracy" and "margin" are watched, not learnt.

    samples: gives the pairs of a step, from its number. reference: float32 [pairs, 2], of better and worse.
    max_tokens: of a row; the two answers of a pair share one. level: makes rows alike on all ranks, in place, where a
    sharded model needs that (`sharding.level`).
    """

    names: tuple[str, ...] = ("dpo", "accuracy", "margin")
    capturable = False

    def __init__(
        self,
        model: MiniCPMV,
        samples: Callable[[int], Sequence[Pair]],
        reference: Tensor,
        *,
        beta: float,
        max_tokens: int,
        samples_per_step: int,
        seed: int = 0,
        level: Callable[[list[list[Pair]]], None] | None = None,
    ) -> None:
        self.model, self.samples, self.beta, self.level = model, samples, beta, level
        self.head_rows = HEAD_ROWS if level is None else ALL_ROWS
        self.reference = reference.to(model.device)
        self.max_tokens, self.samples_per_step, self.seed = max_tokens, samples_per_step, seed
        self.weights = torch.tensor([1.0, 0.0, 0.0], device=model.device)
        self.num_tokens = 0

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        return self.model.named_parameters()

    def key(self, step: int, seed: int) -> int:
        return step

    def feed(self, key: int, step: int) -> None:
        """Let what is dropped follow from the step, so that a resumed run drops the same."""
        torch.manual_seed(self.seed * 1_000_003 + step)

    def set_progress(self, fade: float) -> None:
        """Nothing fades here."""

    def flops(self, key: int) -> float:
        return 0.0

    def load(self, key: int, generator: torch.Generator | None) -> list[list[Pair]]:
        pairs = self.samples(key)
        self.num_tokens += sum(map(len, pairs))
        rows = [[pairs[i] for i in row] for row in pack([len(p) for p in pairs], self.max_tokens)]
        if self.level is not None:
            self.level(rows)
        return rows

    def counts(self, batch: Sequence[Pair]) -> Tensor:
        return torch.full((3,), float(len(_learnt(batch))), device=self.model.device)

    def sums(self, batch: Sequence[Pair]) -> Tensor:
        answers = [s for pair in batch for s in (pair.better, pair.worse)]
        log_probs = answer_log_probs(self.model, answers, self.head_rows).view(-1, 2)[_learnt(batch)]
        reference = self.reference[[pair.index for pair in batch if pair.index >= 0]]
        losses, margins = dpo_loss(log_probs[:, 0], log_probs[:, 1], reference, self.beta)
        return torch.stack((losses.sum(), (margins > 0).float().sum(), margins.sum()))


def _learnt(batch: Sequence[Pair]) -> list[int]:
    return [place for place, pair in enumerate(batch) if pair.index >= 0]


@torch.no_grad()
def reference_log_probs(
    model: MiniCPMV,
    read: Callable[[int], Pair | None],
    num_pairs: int,
    world: World,
    *,
    autocast: torch.dtype | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Compute the reference's log-probabilities of all pairs, float32 [num_pairs, 2]; ranks share the work.

    read: the pair at an index, or None for one that turned out to be bad (its row stays zero and is never used).
    """
    out = torch.zeros(num_pairs, 2, device=model.device)
    was_training = model.training
    model.eval()
    with disabled(model), torch.autocast(model.device.type, autocast or torch.bfloat16, enabled=autocast is not None):
        for index in range(world.rank, num_pairs, world.size):
            pair = read(index)
            if pair is not None:
                out[index] = answer_log_probs(model, [pair.better, pair.worse])
            if progress is not None:
                progress(index + 1, num_pairs)
    model.train(was_training)
    world.add(out)
    return out
