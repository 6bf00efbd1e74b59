"""DPO: hand-worked numbers, log 2 at the start, the reference kept, pairs from a file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from toy_drawer import VOCAB, logged, toy_config

from cpmv.errors import CpmvError
from cpmv.model.config import ModelInputs
from cpmv.model.lora import LoraConfig, apply_lora, lora_parameters
from cpmv.model.minicpmv import MiniCPMV
from cpmv.train.answers import answer_log_probs, score_answers
from cpmv.train.distributed import World
from cpmv.train.finetune import finetune
from cpmv.train.finetune_config import FinetuneConfig
from cpmv.train.init import build
from cpmv.train.optim import Optimizer
from cpmv.train.preference import Pair, PreferenceObjective, dpo_loss, reference_log_probs
from cpmv.train.step import Step

BASE = Path(__file__).parents[1] / "golden" / "tiny_a"


def conversation(seed: int, length: int, answer: int) -> ModelInputs:
    """Words alone, the last `answer` of them learnt."""
    ids = torch.randint(1, VOCAB, (length,), generator=torch.Generator().manual_seed(seed))
    labels = ids.clone()
    labels[: length - answer] = -100
    none = torch.empty(0, 2, dtype=torch.int64)
    patches = torch.empty(0, 3, 14, 14, dtype=torch.uint8)
    return ModelInputs(ids, none, patches, none, [], "", labels=labels)


PAIRS = [Pair(conversation(i, 20 + i, 5), conversation(50 + i, 24 + i, 3 + i), i) for i in range(4)]


@pytest.fixture
def model() -> MiniCPMV:
    return build(toy_config(), "cpu", 0)


def objective(model: MiniCPMV, reference: torch.Tensor, max_tokens: int = 400) -> PreferenceObjective:
    return PreferenceObjective(
        model, lambda step: PAIRS, reference, beta=0.5, max_tokens=max_tokens, samples_per_step=len(PAIRS)
    )


def reference_of(model: MiniCPMV) -> torch.Tensor:
    return reference_log_probs(model, lambda i: PAIRS[i], len(PAIRS), World())


def test_the_loss_is_that_of_the_formula() -> None:
    # margin = 0.1 ((-10 + 12) - (-20 + 15)) = 0.7, and 0.1 ((-5 + 4) - (-6 + 9)) = -0.4
    better, worse = torch.tensor([-10.0, -5.0]), torch.tensor([-20.0, -6.0])
    losses, margins = dpo_loss(better, worse, torch.tensor([[-12.0, -15.0], [-4.0, -9.0]]), beta=0.1)
    torch.testing.assert_close(margins, torch.tensor([0.7, -0.4]))
    expected = torch.tensor([math.log(1 + math.exp(-0.7)), math.log(1 + math.exp(0.4))])
    torch.testing.assert_close(losses, expected)


def test_log_probabilities_are_sums_over_the_answer(model: MiniCPMV) -> None:
    samples = [PAIRS[0].better, PAIRS[3].worse]
    with torch.no_grad():
        found = answer_log_probs(model, samples)
    for value, sample in zip(found, samples, strict=True):
        log_probs = model.logits(sample).log_softmax(-1)
        assert sample.labels is not None
        places = [t for t in range(len(sample)) if sample.labels[t] >= 0]
        expected = sum(float(log_probs[t - 1, sample.labels[t]]) for t in places)
        assert float(value) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("adapted", [True, False])
def test_it_begins_at_log_two_and_prefers_the_better(model: MiniCPMV, adapted: bool) -> None:
    if adapted:
        apply_lora(model, LoraConfig(rank=4, alpha=8))
    else:
        model.requires_grad_(True)
    goal = objective(model.train(), reference_of(model))
    optimizer = Optimizer(goal.named_parameters(), adam_scale=1.0, weight_decay=0.0, muon=False)
    step = Step(goal, optimizer, World(), torch.Generator())
    seen = []
    for number in range(8):
        optimizer.lr.fill_(3e-3)
        step.run(number, number)
        seen.append(step.read())
    assert seen[0]["dpo"] == pytest.approx(math.log(2), abs=1e-5) and abs(seen[0]["margin"]) < 1e-5
    assert seen[-1]["dpo"] < 0.5 * math.log(2) and seen[-1]["accuracy"] == 1 and seen[-1]["margin"] > 0


def test_the_gradient_raises_the_better_and_lowers_the_worse() -> None:
    better, worse = (torch.zeros(1, requires_grad=True) for _ in range(2))
    dpo_loss(better, worse, torch.zeros(1, 2), beta=0.2)[0].sum().backward()
    torch.testing.assert_close(better.grad, torch.tensor([-0.1]))
    torch.testing.assert_close(worse.grad, torch.tensor([0.1]))


def test_the_reference_is_the_model_without_its_adapter(model: MiniCPMV) -> None:
    before = reference_of(model)
    apply_lora(model, LoraConfig(rank=4, alpha=8))
    with torch.no_grad():
        for parameter in lora_parameters(model):
            parameter.add_(0.1)
    assert torch.equal(reference_of(model), before)


def test_rows_of_pairs_change_nothing(model: MiniCPMV) -> None:
    model.requires_grad_(True)
    reference = reference_of(model) + torch.tensor([0.3, -0.2])
    norms = []
    for max_tokens in (70, 400):
        goal = objective(model, reference, max_tokens)
        rows = goal.load(0, None)
        norms.append(torch.stack([goal.sums(row) for row in rows]).sum(0).tolist())
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_exact_answers_are_those_that_greedy_decoding_gives(model: MiniCPMV) -> None:
    prompt = conversation(3, 12, 1)
    ids = prompt.input_ids[:9].tolist()
    for _ in range(3):
        none = prompt.image_bounds
        so_far = ModelInputs(torch.tensor(ids), none, prompt.patches, none, [], "")
        ids.append(int(model.logits(so_far)[-1].argmax()))
    labels = torch.tensor([-100] * 9 + ids[9:])
    greedy = ModelInputs(
        torch.tensor(ids), prompt.image_bounds, prompt.patches, prompt.image_bounds, [], "", labels=labels
    )
    found = score_answers(model, [greedy, PAIRS[1].better], 100)
    assert found["exact"] == 0.5 and 3 / 8 <= found["tokens"] < 1


def test_the_command_trains_on_a_file_of_pairs_and_resumes(tmp_path: Path) -> None:
    rows = []
    for i, word in enumerate(("red", "green", "blue", "black")):
        turns = [{"role": "user", "content": f"Number {i}?"}, {"role": "assistant", "content": word}]
        rows.append({"messages": turns, "rejected_response": word[::-1]})
    rows.append({"messages": rows[0]["messages"]})  # no pair: named and left out
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = FinetuneConfig(
        model=str(BASE),
        data=(str(file),),
        objective="dpo",
        lora=LoraConfig(rank=4, alpha=8),
        batch_size=4,
        steps=6,
        lr=5e-3,
        log_every=1,
        save_every_s=0.001,
    )
    result = finetune(config, tmp_path / "run", device="cpu")
    seen = [line["dpo"] for line in logged(tmp_path / "run")]
    assert result.bad == 1 and seen[0] == pytest.approx(math.log(2), abs=1e-4) and seen[-1] < seen[0] - 0.1
    again = finetune(config, tmp_path / "run", device="cpu", resume=True)
    assert again.steps == 6
    with pytest.raises(CpmvError, match="was begun with beta = 0.1"):
        finetune(FinetuneConfig(**{**config.__dict__, "beta": 0.3}), tmp_path / "run", device="cpu", resume=True)
