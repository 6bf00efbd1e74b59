"""Drawing ahead changes when a batch is drawn, never what is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy_drawer import logged, toy_loop, toy_objective, toy_train_config

from cpmv.train.ahead import Branches
from cpmv.train.distributed import World
from cpmv.train.optim import Optimizer
from cpmv.train.step import Step, own_stream


def test_branches_run_in_order_where_nothing_is_captured() -> None:
    branches = Branches(torch.device("cpu"))
    seen: list[int] = []
    for number in range(3):
        with branches.branch():
            seen.append(number)
    branches.join()
    assert seen == [0, 1, 2]


def test_knowing_the_next_key_changes_nothing_on_a_cpu() -> None:
    losses = []
    for knows in (False, True):
        objective = toy_objective()
        step = Step(objective, Optimizer(objective.named_parameters()), World(), torch.Generator().manual_seed(1))
        step.optimizer.lr.fill_(1e-3)
        for number in range(3):
            following = objective.key(number + 1, 0) if knows else None
            step.run(objective.key(number, 0), number, following)
        assert step.resumable_generator is step.generator
        assert step.num_samples == objective.samples_per_step == 16
        losses.append(step.read())
    assert losses[0] == losses[1]


def test_the_loop_counts_the_samples_of_the_steps_it_did(tmp_path: Path) -> None:
    loop = toy_loop(tmp_path, toy_train_config(steps=4))
    loop.run()
    assert [line["samples"] for line in logged(tmp_path)] == [16, 32, 48, 64]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_losses_with_and_without_drawing_ahead_agree() -> None:
    from cpmv.model.config import from_hf
    from cpmv.train.config import tiny_words
    from cpmv.train.init import build
    from cpmv.train.joint import JointObjective
    from cpmv.train.joint_model import JointModel
    from cpmv.train.words import WordsDrawer, words_tokenizer

    device = torch.device("cuda")
    own_stream(device)
    seen = []
    for ahead in (False, True):
        config = tiny_words()
        drawer = WordsDrawer(words_tokenizer(), device)
        model = JointModel(build(from_hf(config.model, config.preprocessor), device, 0), drawer.num_classes).to(device)
        objective = JointObjective(model, drawer, config.mix, config.combinations)
        generator = torch.Generator(device).manual_seed(3)
        optimizer = Optimizer(objective.named_parameters())
        step = Step(objective, optimizer, World(), generator, graphs="whole", ahead=ahead)
        optimizer.lr.fill_(1e-3)
        values = []
        for number in range(18):
            step.run(objective.key(number, 0), number, objective.key(number + 1, 0))
            values.append(step.read()["lm"])
        assert (step._ahead is not None) == ahead
        seen.append((torch.tensor(values), step.resumable_generator.get_state()))
    torch.testing.assert_close(seen[0][0], seen[1][0], rtol=1e-3, atol=1e-3)
    assert torch.equal(seen[0][1], seen[1][1]), "a run resumed here would draw the same"
