"""GRPO against numbers worked out by hand: advantages, the asymmetric clip, no KL term, the filter's average."""

from __future__ import annotations

import math

import pytest
import torch

from cpmv.train.rl_loss import StdFilter, clipped_surrogate, deviation, group_advantages, standardise


def test_advantages_are_normalised_within_the_group() -> None:
    # mean 0.25, unbiased variance (0.75^2 + 3 · 0.25^2) / 3 = 0.25
    assert group_advantages([1, 0, 0, 0]) == pytest.approx([1.5, -0.5, -0.5, -0.5], rel=1e-5)
    assert group_advantages([2, 4]) == pytest.approx([-1 / math.sqrt(2), 1 / math.sqrt(2)], rel=1e-5)


def test_a_group_of_equal_rewards_has_no_advantage() -> None:
    assert group_advantages([0.7] * 8) == [0.0] * 8
    assert deviation([0.7] * 8) < 1e-12 and deviation([1.0]) == 0.0
    assert standardise([3.0, 3.0]) == [0.0, 0.0]


def test_standardised_scores_have_mean_zero_and_deviation_one() -> None:
    scores = standardise([1.0, 2.0, 6.0])
    assert sum(scores) == pytest.approx(0) and deviation(scores) == pytest.approx(1)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped", "slope"),
    [
        (1.0, 2.0, -2.0, 0, -2.0),  # slope: of the loss by the new log-probability, -ratio · advantage
        (1.25, 2.0, -2.5, 0, -2.5),  # above 1 + 0.2, below 1 + 0.27: not clipped
        (1.30, 2.0, -2.54, 1, 0.0),  # clipped at 1.27
        (0.70, 2.0, -1.4, 0, -1.4),  # a good token that became rarer may come back
        (0.75, -1.0, 0.8, 1, 0.0),  # clipped at 0.8
        (0.85, -1.0, 0.85, 0, 0.85),
        (1.50, -1.0, 1.5, 0, 1.5),  # a bad token that became likelier is pushed back in full
    ],
)
def test_the_clip_is_asymmetric_and_one_sided(
    ratio: float, advantage: float, loss: float, clipped: int, slope: float
) -> None:
    new = torch.tensor([math.log(ratio) - 1.0], requires_grad=True)
    losses, decided, _ = clipped_surrogate(new, torch.tensor([-1.0]), torch.tensor([advantage]))
    losses.sum().backward()
    assert float(losses.detach()) == pytest.approx(loss, rel=1e-5) and int(decided) == clipped
    assert new.grad is not None and float(new.grad) == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_there_is_no_kl_term() -> None:
    """Without an advantage nothing is learnt, however far the policy has moved."""
    new = torch.tensor([-0.1, -3.0], requires_grad=True)
    losses, _, drift = clipped_surrogate(new, torch.tensor([-2.0, -0.5]), torch.zeros(2))
    losses.sum().backward()
    assert new.grad is not None and not new.grad.any()
    assert (drift > 0).all() and not drift.requires_grad


def test_the_filter_follows_the_moving_average_of_deviations() -> None:
    filter_ = StdFilter(beta=0.5, ratio=0.9, first=2, start=4)
    assert filter_.threshold() == 1e-6
    filter_.update([0.4, 0.0])  # batch 1: before the average begins
    assert filter_.mean is None
    filter_.update([0.4, 0.2])  # batch 2 begins it
    assert filter_.mean == pytest.approx(0.3)
    assert filter_.threshold() == 1e-6  # batch 3: filtering begins with batch 4
    filter_.update([0.1, 0.1])
    assert filter_.mean == pytest.approx(0.9 * 0.3 + 0.1 * 0.1)
    assert filter_.threshold() == pytest.approx(0.5 * 0.28)
    published = StdFilter()
    assert (published.ratio, published.first, published.start, published.beta) == (0.99, 6, 11, 0.5)


def test_without_beta_only_equal_groups_are_dropped() -> None:
    filter_ = StdFilter(beta=0.0, first=1, start=1)
    filter_.update([0.5])
    assert filter_.threshold() == 1e-6
