"""Supervised conversations: packing changes nothing, and only answers are learnt."""

from __future__ import annotations

import pytest
import torch
from toy_drawer import VOCAB, toy_config

from cpmv.errors import CpmvError
from cpmv.model.config import ModelInputs
from cpmv.model.minicpmv import MiniCPMV
from cpmv.train.distributed import World
from cpmv.train.init import build
from cpmv.train.optim import Optimizer
from cpmv.train.sft import SupervisedObjective, pack
from cpmv.train.step import Step


@pytest.fixture(scope="module")
def model() -> MiniCPMV:
    return build(toy_config(), "cpu", 0).train()


def sample(seed: int, length: int, sizes: list[tuple[int, int]]) -> ModelInputs:
    """A conversation with a picture a size, answered in its last third."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCAB, (length,), generator=generator)
    labels = ids.clone()
    labels[: 2 * length // 3] = -100
    return ModelInputs(
        input_ids=ids,
        image_bounds=torch.tensor([[2 + 17 * i, 18 + 17 * i] for i in range(len(sizes))]).reshape(-1, 2),
        patches=torch.randint(256, (sum(h * w for h, w in sizes), 3, 14, 14), generator=generator).to(torch.uint8),
        tgt_sizes=torch.tensor(sizes).reshape(-1, 2),
        temporal_ids=[[-1]] * len(sizes),
        text="",
        labels=labels,
    )


SAMPLES = [sample(0, 60, [(2, 3)]), sample(1, 30, []), sample(2, 70, [(3, 2), (1, 4)]), sample(3, 45, [(2, 2)])]


def test_packed_rows_give_the_losses_of_samples_alone(model: MiniCPMV) -> None:
    objective = SupervisedObjective(model, lambda step: SAMPLES, max_tokens=120, samples_per_step=4)
    rows = objective.load(0, None)
    assert len(rows) == 2 and sum(len(row) for row in rows) == 4
    for row in rows:
        alone = sum(objective.sums([s]) for s in row)
        torch.testing.assert_close(objective.sums(row), alone, rtol=1e-5, atol=1e-4)


def test_the_loss_is_that_of_answers_under_inference(model: MiniCPMV) -> None:
    objective = SupervisedObjective(model, lambda step: SAMPLES, 120, 4)
    one = SAMPLES[2]
    log_probs = model.logits(one).log_softmax(-1)
    assert one.labels is not None
    expected = -sum(float(log_probs[t - 1, one.labels[t]]) for t in range(70) if one.labels[t] >= 0)
    assert float(objective.sums([one]).detach()) == pytest.approx(expected, rel=1e-4)
    assert float(objective.counts([one])) == (one.labels >= 0).sum()


def test_accumulating_rows_equals_one_long_row() -> None:
    norms = []
    for max_tokens in (75, 300):
        objective = SupervisedObjective(build(toy_config(), "cpu", 0).train(), lambda step: SAMPLES, max_tokens, 4)
        optimizer = Optimizer(objective.named_parameters())
        step = Step(objective, optimizer, World(), torch.Generator())
        step.run(0, 0)
        norms.append(step.read())
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_packing_wastes_little_and_loses_nothing() -> None:
    lengths = torch.randint(1, 100, (200,), generator=torch.Generator().manual_seed(0)).tolist()
    rows = pack(lengths, 256)
    assert sorted(i for row in rows for i in row) == list(range(200))
    assert all(sum(lengths[i] for i in row) <= 256 for row in rows)
    assert sum(lengths) / (256 * len(rows)) > 0.95


def test_samples_without_answers_or_too_long_are_refused(model: MiniCPMV) -> None:
    with pytest.raises(CpmvError, match="a sample has 70 tokens but a row holds 64"):
        pack([10, 70], 64)
    bare = sample(0, 30, [])
    bare.labels = None
    with pytest.raises(CpmvError, match="has no labels"):
        SupervisedObjective(model, lambda step: [bare], 64, 1).counts([bare])
