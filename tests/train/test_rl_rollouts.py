"""Rollouts: the trainer's log-probabilities, the engine on the weights that learn, probabilities, token means."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image

from cpmv.engine.generate import generate
from cpmv.engine.sampling import SamplingParams
from cpmv.inputs.processor import Processor
from cpmv.inputs.text import Tokenizer
from cpmv.model.config import ModelInputs
from cpmv.model.minicpmv import MiniCPMV
from cpmv.train.distributed import World
from cpmv.train.optim import Optimizer
from cpmv.train.reward_mix import Judge, Weights
from cpmv.train.rewards import PROBABILITY
from cpmv.train.rl import PolicyObjective
from cpmv.train.rl_batch import Batches, Plan, State
from cpmv.train.rl_loss import StdFilter
from cpmv.train.rlpr import debiased, mean_probability, with_reference
from cpmv.train.rollouts import Group, Line, Prompt, Rollout, Sampler, lines_of, log_probs_of, rows_of
from cpmv.train.step import Step
from cpmv.weights import checkpoint, hub

BASE = Path(__file__).parents[1] / "golden" / "tiny_a"


@pytest.fixture(scope="module")
def loaded() -> Any:
    return checkpoint.load(hub.resolve(BASE), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def processor(loaded: Any) -> Processor:
    return Processor(loaded.config, loaded.tokenizer)


@pytest.fixture
def model(loaded: Any) -> Iterator[MiniCPMV]:
    """The network as it was read, whatever a test does to it."""
    model: MiniCPMV = loaded.model
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    yield model.requires_grad_(True).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.data = before[name]
            parameter.grad = None
    model.eval()


@pytest.fixture(scope="module")
def shown(processor: Processor) -> ModelInputs:
    picture = Image.linear_gradient("L").convert("RGB").resize((60, 40))
    return processor([{"role": "user", "content": [picture, "Which?"]}])


@pytest.fixture(scope="module")
def words(processor: Processor) -> ModelInputs:
    return processor([{"role": "user", "content": "hello"}], enable_thinking=True)


def whole(inputs: ModelInputs, ids: list[int]) -> ModelInputs:
    return dataclasses.replace(inputs, input_ids=torch.cat((inputs.input_ids, torch.tensor(ids))))


IDS = ([5, 6, 7], [8, 9], [10, 11, 12, 13])


def expected(model: MiniCPMV, inputs: ModelInputs, ids: list[int], temperature: float = 1.0) -> torch.Tensor:
    """Log-probabilities of a response from the logits of the whole sequence."""
    log_probs = (model.logits(whole(inputs, ids)) / temperature).log_softmax(-1)
    places = torch.arange(len(ids)) + len(inputs) - 1
    return log_probs[places, torch.tensor(ids)]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_in_shared_rows_are_those_of_each_sequence(
    model: MiniCPMV, shown: ModelInputs, words: ModelInputs, temperature: float
) -> None:
    lines = [Line(shown, IDS[0]), Line(words, IDS[1]), Line(shown, IDS[2])]
    for max_tokens in (10_000, 1):  # one row for all, and each by itself
        found = log_probs_of(model, lines, max_tokens, temperature=temperature)
        for part, line in zip(found, lines, strict=True):
            wanted = expected(model, line.inputs, list(line.ids), temperature)
            torch.testing.assert_close(part, wanted, rtol=1e-4, atol=1e-5)
    later = log_probs_of(model, [Line(shown, IDS[2], first=2)], 10_000)[0]
    torch.testing.assert_close(later, expected(model, shown, IDS[2])[2:], rtol=1e-4, atol=1e-5)


def test_lines_of_a_prompt_stay_together(shown: ModelInputs, words: ModelInputs) -> None:
    lines = [Line(shown, IDS[0]), Line(words, IDS[1]), Line(shown, IDS[2]), Line(words, IDS[0])]
    rows = rows_of(lines, max(len(lines[0]) + len(lines[2]), len(lines[1]) + len(lines[3])))
    assert sorted(map(sorted, rows)) == [[0, 2], [1, 3]]
    assert sorted(i for row in rows_of(lines, 1) for i in row) == [0, 1, 2, 3]


def test_the_engine_samples_from_the_very_parameters_that_learn(
    model: MiniCPMV, loaded: Any, words: ModelInputs, shown: ModelInputs
) -> None:
    optimizer = Optimizer(model.named_parameters(), adam_scale=1.0, muon=False)
    sampler = Sampler(model, loaded.tokenizer, max_new_tokens=6, rows=4)
    prompts = [Prompt(0, True, words, "", "exact"), Prompt(1, False, shown, "", "exact")]
    try:
        for _ in range(2):
            answers = sampler.answer(prompts)
            for prompt, answer in zip(prompts, answers, strict=True):
                params = SamplingParams(temperature=0, max_new_tokens=6)
                model.eval()
                truth = generate(model, loaded.tokenizer, prompt.inputs, params)
                assert answer.ids == truth.token_ids
            before = [answer.ids for answer in answers]
            optimizer.params.add_(
                torch.randn(optimizer.params.shape, generator=torch.Generator().manual_seed(1)) * 0.05
            )
            sampler.follow()
        assert before != [answer.ids for answer in sampler.answer(prompts)]
    finally:
        sampler.close()


def test_seeding_repeats_what_is_drawn(model: MiniCPMV, loaded: Any, words: ModelInputs) -> None:
    sampler = Sampler(model, loaded.tokenizer, max_new_tokens=5, rows=8)
    prompts = [Prompt(0, True, words, "", "exact")]

    def draw() -> list[list[int]]:
        torch.manual_seed(3)
        sampler.follow()
        return [rollout.ids for rollout in sampler.respond(prompts, 4)[0]]

    try:
        first = draw()
        assert first == draw() and len({tuple(ids) for ids in first}) > 1
    finally:
        sampler.close()


def test_a_probability_is_the_mean_over_tokens_less_its_baseline_clipped() -> None:
    log_probs = torch.tensor([0.9, 0.5, 0.1]).log()
    assert mean_probability(log_probs) == pytest.approx(0.5)  # the product would be 0.045
    assert debiased(0.5, 0.2) == pytest.approx(0.3)
    assert debiased(0.2, 0.5) == 0.0 and debiased(1.0, 0.0) == 1.0


@pytest.mark.parametrize(
    ("text", "deep", "kept"),
    [
        ("2 + 3 = 5\n</think>\n\n5 apples", True, "2 + 3 = 5\n</think>\n\n"),
        ("2 + 3 = 5\n</think>5", True, "2 + 3 = 5\n</think>"),
        ("2 + 3 = 5", True, "2 + 3 = 5\n</think>\n\n"),  # broken: it is closed before the reference
        ("5 apples", False, ""),
        ("2 + 3 = 5\n5 apples", False, "2 + 3 = 5\n"),
    ],
)
def test_the_reference_takes_the_place_of_the_answer(loaded: Any, text: str, deep: bool, kept: str) -> None:
    tokenizer: Tokenizer = loaded.tokenizer
    ids = tokenizer.encode(text)
    ids, first = with_reference(tokenizer, Rollout([*ids, tokenizer.eos_token_ids[0]], text, True), "five", deep=deep)
    assert tokenizer.decode(ids[:first]) == kept
    assert tokenizer.decode(ids[first:]) == "five"
    drawn = tokenizer.encode(text)
    same = next((i for i, (a, b) in enumerate(zip(ids, drawn, strict=False)) if a != b), len(ids))
    assert same >= min(first, len(tokenizer.encode(kept))) - 2  # reasoning stays as it was drawn


def test_a_judged_probability_is_that_of_the_references_tokens(
    model: MiniCPMV, loaded: Any, words: ModelInputs
) -> None:
    tokenizer: Tokenizer = loaded.tokenizer
    reference = "a long answer in words"
    prompt = Prompt(0, True, words, reference, PROBABILITY, baseline=0.0)
    text = "so\n</think>\n\nno"
    ids = tokenizer.encode(text)
    group = Group(prompt, [Rollout(ids, text, True), Rollout(ids, f"so\n</think>\n\n{reference}", True)])
    ids.append(tokenizer.eos_token_ids[0])
    Judge(model, tokenizer, weights=Weights(debias=True))([group])
    head = tokenizer.encode("so\n</think>\n\n")
    target = tokenizer.encode_plain(reference)
    wanted = expected(model, words, [*head, *target])[len(head) :].exp().mean()
    assert group.rollouts[0].parts["accuracy"] == pytest.approx(float(wanted), rel=1e-4)
    assert group.rollouts[1].parts["accuracy"] == 1.0  # the reference's very words


def test_the_baseline_of_a_drawn_prompt_is_read_when_it_is_drawn(
    model: MiniCPMV, loaded: Any, words: ModelInputs, tmp_path: Path
) -> None:
    prompts = Numbered(words)
    judge = Judge(model, loaded.tokenizer)
    batches = Batches(Plan(1, 1, 2), prompts, cast(Any, None), judge, model, State(StdFilter()), tmp_path)
    made = [Prompt(7, True, words, "in many words", PROBABILITY), Prompt(8, True, words, "5", "number")]
    batches._add_baselines(made)
    assert prompts.asked == [(7, False)]  # in fast mode: the reasoning is left out
    target = loaded.tokenizer.encode_plain("in many words")
    # The toy source answers with "" whatever is asked, so what is read is the mean over no token.
    assert made[0].baseline == 0.0 and made[1].baseline is None
    line = Line(words, target)
    (value,) = judge.baselines([Prompt(7, False, words, "in many words", PROBABILITY)])
    assert value == pytest.approx(float(log_probs_of(model, [line], 10_000)[0].exp().mean()))
    assert value == pytest.approx(float(expected(model, words, target).exp().mean()), rel=1e-4)


def groups_of(model: MiniCPMV, words: ModelInputs, shown: ModelInputs) -> list[Group]:
    """Three groups: two with advantages, one whose rewards are all equal."""
    made = []
    for number, (inputs, advantages) in enumerate(((words, (1.0, -1.0)), (shown, (0.5, -0.5)), (words, (0.0, 0.0)))):
        rollouts = [Rollout([*IDS[i], 20 + number], "", True, advantage=a) for i, a in enumerate(advantages)]
        made.append(Group(Prompt(number, False, inputs, "", "exact"), rollouts))
    for rollout, old in zip(
        [r for group in made for r in group.rollouts], log_probs_of(model, lines_of(made), 10_000), strict=True
    ):
        rollout.log_probs = old
    return made


class Given:
    """Batches that are given."""

    def __init__(self, groups: list[Group]) -> None:
        self.groups = groups
        self.plan = Plan(1, 1, 2)

    def make(self, batch: int) -> list[Group]:
        return self.groups


def objective(model: MiniCPMV, groups: list[Group], row_tokens: int = 10_000) -> PolicyObjective:
    return PolicyObjective(
        model, cast(Batches, Given(groups)), parts=1, prompts_per_batch=len(groups), row_tokens=row_tokens
    )


def gradient(model: MiniCPMV, groups: list[Group], row_tokens: int = 10_000) -> tuple[torch.Tensor, dict[str, float]]:
    made = objective(model, groups, row_tokens)
    optimizer = Optimizer(made.named_parameters(), adam_scale=1.0, muon=False, clip_norm=1e9)
    step = Step(made, optimizer, World(), torch.Generator())
    step.run(0, 0)  # the rate is zero: nothing moves
    return optimizer.grads.clone(), step.read()


def test_the_loss_is_a_mean_over_tokens_however_a_step_is_split(
    model: MiniCPMV, words: ModelInputs, shown: ModelInputs
) -> None:
    groups = groups_of(model, words, shown)
    together, values = gradient(model, groups)
    apart, _ = gradient(model, groups, row_tokens=1)
    torch.testing.assert_close(together, apart, rtol=1e-3, atol=1e-6)
    # At the start the ratio is 1, so each token's loss is minus its advantage: 4 · 1 - 3 · 1 + 4 · 0.5 - 3 · 0.5 over
    # all 21 tokens, those of the equal group too.
    assert values["policy"] == pytest.approx(-1.5 / 21, rel=1e-3)
    assert values["clipped"] == 0 and values["drift"] == pytest.approx(0, abs=1e-6)


def test_a_group_of_equal_rewards_contributes_no_gradient(
    model: MiniCPMV, words: ModelInputs, shown: ModelInputs
) -> None:
    groups = groups_of(model, words, shown)
    some, _ = gradient(model, groups[:2])
    more, _ = gradient(model, groups)
    torch.testing.assert_close(more * 21 / 14, some, rtol=1e-3, atol=1e-6)  # only the mean is over more tokens
    none, values = gradient(model, groups[2:])
    assert not none.any() and math.isfinite(values["grad_norm"])


class Numbered:
    """Prompts without an end, and what was asked for."""

    size = None

    def __init__(self, inputs: ModelInputs) -> None:
        self.inputs, self.asked = inputs, list[tuple[int, bool]]()

    def take(self, wanted: Any) -> list[Prompt | None]:
        self.asked += wanted
        return [Prompt(number, deep, self.inputs, "", "exact") for number, deep in wanted]


def test_equal_groups_are_replaced_and_both_modes_fill_their_half(
    model: MiniCPMV, loaded: Any, words: ModelInputs, tmp_path: Path
) -> None:
    prompts = Numbered(words)
    sampler = Sampler(model, loaded.tokenizer, max_new_tokens=2, rows=16)

    def judge(groups: Any) -> None:
        """Responses to even numbers differ, those to odd ones do not."""
        for group in groups:
            for place, rollout in enumerate(group.rollouts):
                rollout.reward = rollout.advantage = float(place) if group.prompt.number % 2 == 0 else 1.0
                rollout.parts = {"accuracy": rollout.reward}

    state = State(StdFilter(0.0))
    seen: list[dict[str, Any]] = []
    batches = Batches(
        Plan(2, 2, 2, seed=1),
        prompts,
        sampler,
        cast(Judge, judge),
        model,
        state,
        tmp_path,
        told=lambda batch, report, groups: seen.append(report),
    )
    try:
        first = batches.make(0)
        kept = dataclasses.replace(state, spare=list(state.spare), filter=dataclasses.replace(state.filter))
        assert sorted(group.prompt.deep for group in first) == [False, False, True, True]
        assert all(group.prompt.number % 2 == 0 for group in first)
        assert all(r.log_probs is not None and len(r.log_probs) == len(r.ids) for g in first for r in g.rollouts)
        assert seen[0]["equal"] == pytest.approx(0.5, abs=0.2) and seen[0]["groups"] == 4
        batches.make(1)
        restored = batches.restore(0)
        assert batches.state.next_number == kept.next_number and batches.state.filter == kept.filter
        assert [g.prompt.number for g in batches.state.spare] == [g.prompt.number for g in kept.spare]
        assert [g.prompt.number for g in restored] == [g.prompt.number for g in first]
        for a, b in zip(restored, first, strict=True):
            assert [r.ids for r in a.rollouts] == [r.ids for r in b.rollouts]
            for x, y in zip(a.rollouts, b.rollouts, strict=True):
                assert x.log_probs is not None and y.log_probs is not None and torch.equal(x.log_probs, y.log_probs)
        batches.prune(1)
        assert [path.name for path in tmp_path.iterdir()] == ["batch-000001-0.safetensors"]
    finally:
        sampler.close()
