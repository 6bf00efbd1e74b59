"""Weights of learnt tokens: short answers are not drowned, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cpmv.train.answer_weights import answer_weights
from cpmv.train.joint_model import IGNORE, _cross_entropy_of


def targets_of(*answers: int) -> torch.Tensor:
    """Answers of so many tokens, with something between them."""
    parts = [torch.full((2,), IGNORE)]
    for number, size in enumerate(answers):
        parts += [torch.full((size,), number + 1), torch.full((1 + number % 2,), IGNORE)]
    return torch.cat(parts)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_an_answer_counts_by_the_power_of_its_length(power: float) -> None:
    targets = targets_of(1, 3, 1, 50, 7)
    weights = answer_weights(targets, power)
    assert weights.sum() == pytest.approx(62) and (weights[targets == IGNORE] == 0).all()
    shares = [float(weights[targets == number].sum()) for number in range(1, 6)]
    wanted = [n ** (1 - power) for n in (1, 3, 1, 50, 7)]
    assert shares == pytest.approx([62 * w / sum(wanted) for w in wanted], rel=1e-5)
    if power == 0.0:
        assert torch.equal(weights, (targets != IGNORE).float())


def test_answers_at_both_ends_and_none_at_all() -> None:
    weights = answer_weights(torch.tensor([5, 5, IGNORE, 5]), 1.0)
    assert weights.tolist() == pytest.approx([0.75, 0.75, 0.0, 1.5])
    assert answer_weights(torch.full((4,), IGNORE), 0.5).tolist() == [0.0] * 4


def test_the_weighted_loss_is_the_sum_of_weighted_terms() -> None:
    generator = torch.Generator().manual_seed(0)
    states, table = (torch.randn(n, 8, generator=generator) for n in (9, 6))
    targets = torch.tensor([IGNORE, 2, 3, IGNORE, 5, IGNORE, 0, 1, 2])
    weights = answer_weights(targets, 0.5)
    each = F.cross_entropy(states @ table.T, targets.clamp(min=0), reduction="none")
    loss = _cross_entropy_of(states, table, None, targets, weights)
    torch.testing.assert_close(loss, (each * weights).sum())
    plain = _cross_entropy_of(states, table, None, targets)
    torch.testing.assert_close(plain, each[targets != IGNORE].sum())
