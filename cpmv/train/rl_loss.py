"""GRPO in formulas: advantages within a group, the clipped surrogate, standardised scores, and the filter of prompts.

    A_i = (R_i - mean R) / (std R + 1e-6)            over the responses to one prompt, std unbiased
    L = - sum min(r A, clip(r, 1 - 0.2, 1 + 0.27) A) / number of response tokens of the whole step, r = p_new / p_old

No KL term and no entropy term. A group whose rewards are all equal has no advantage and teaches nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

EPS = 1e-6


def group_advantages(rewards: Sequence[float]) -> list[float]:
    """Normalise the rewards of one prompt's responses; all zero where their deviation is below 1e-6."""
    mean, std = _moments(rewards)
    if std < EPS:
        return [0.0] * len(rewards)
    return [(reward - mean) / (std + EPS) for reward in rewards]


def standardise(scores: Sequence[float]) -> list[float]:
    """Scores of one prompt's responses with mean 0 and (unbiased) deviation 1; zeros where they do not differ."""
    mean, std = _moments(scores)
    return [(score - mean) / std if std >= EPS else 0.0 for score in scores]


def deviation(rewards: Sequence[float]) -> float:
    """Unbiased standard deviation; 0 for a single one."""
    return _moments(rewards)[1]


def _moments(values: Sequence[float]) -> tuple[float, float]:
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, 0.0
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def clipped_surrogate(
    new: Tensor, old: Tensor, advantages: Tensor, low: float = 0.2, high: float = 0.27
) -> tuple[Tensor, Tensor, Tensor]:
    """Return each token's loss, whether clipping decided it, and its drift from the policy that wrote it.

    new, old: log-probabilities [T] under the policy now and under the one that responded; advantages [T]. The drift is
    r - 1 - log r, an estimate of the divergence that is never negative; it is watched, not learnt.
    """
    log_ratio = new - old
    ratio = log_ratio.exp()
    plain, limited = ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages
    drift = ratio - 1 - log_ratio
    return -torch.minimum(plain, limited), (limited < plain).float(), drift.detach()


@dataclass
class StdFilter:
    """Drops prompts whose rewards differ too little: an adaptive curriculum (RLPR, arXiv 2506.18254).

    A prompt stays when its rewards' deviation is at least beta times the moving average of the batches' mean
    deviations. The average begins with batch `first` (from 1) and filtering with batch `start`; before, and with beta
    0, only groups of equal rewards are dropped. mean, count: the average so far and the batches seen.
    """

    beta: float = 0.5
    ratio: float = 0.99
    first: int = 6
    start: int = 11
    mean: float | None = None
    count: int = 0

    def threshold(self) -> float:
        """The least deviation that stays, for the batch that is being made."""
        if self.mean is None or self.count + 1 < self.start:
            return EPS
        return max(EPS, self.beta * self.mean)

    def update(self, deviations: Sequence[float]) -> None:
        """End a batch: take in the deviations of all its groups, dropped ones too."""
        self.count += 1
        if not deviations or self.count < self.first:
            return
        mean = math.fsum(deviations) / len(deviations)
        self.mean = mean if self.mean is None else self.ratio * self.mean + (1 - self.ratio) * mean
