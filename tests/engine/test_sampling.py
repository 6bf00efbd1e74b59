"""Choosing tokens: the reference's probabilities, the filters against plain numpy, rows of unlike parameters."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from cpmv.engine.sampling import Sampler, SamplingParams, draw, keep_min_p, keep_top_k, keep_top_p, read_logprobs
from cpmv.errors import MessageError

CPU = torch.device("cpu")
REFERENCE = load_file(GOLDEN / "sampling.safetensors")
CASES = sorted({name.split(".")[0] for name in REFERENCE})


def sampler(params: list[SamplingParams], vocab_size: int, generated: list[list[int]] | None = None) -> Sampler:
    """A sampler whose rows have generated these tokens; terminators are the ids 0 and 1."""
    one = Sampler(params, [0, 1], vocab_size, CPU)
    for step in zip(*(generated or []), strict=True):
        one.accept(torch.tensor(step))
    return one


def reference_case(index: str) -> tuple[torch.Tensor, list[int], SamplingParams, torch.Tensor]:
    penalty, temperature, top_k, top_p = REFERENCE[f"{index}.params"].tolist()
    params = SamplingParams(
        repetition_penalty=round(penalty, 6),
        temperature=round(temperature, 6),
        top_k=int(top_k),
        top_p=round(top_p, 6),
    )
    generated = REFERENCE[f"{index}.generated"].tolist()
    return REFERENCE[f"{index}.logits"], generated, params, REFERENCE[f"{index}.probs"]


@pytest.mark.parametrize("index", CASES)
def test_probabilities_equal_the_reference(index: str) -> None:
    logits, generated, params, expected = reference_case(index)
    found = sampler([params], len(logits), [generated]).distribution(logits[None])[0]
    assert (found > 0).equal(expected > 0)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_rows_with_unlike_parameters_in_one_batch_equal_each_alone() -> None:
    cases = [reference_case(index) for index in CASES]
    logits = torch.stack([case[0] for case in cases])
    extras = [SamplingParams(), SamplingParams(temperature=2.0, min_p=0.3)]
    params = [case[2] for case in cases] + extras
    generated = [case[1] for case in cases] + [cases[0][1]] * 2
    found = sampler(params, logits.shape[1], generated).distribution(torch.cat([logits, logits[:2]]))
    for row, (one, history) in enumerate(zip(params, generated, strict=True)):
        alone = sampler([one], logits.shape[1], [history]).distribution(logits[row % len(cases)][None])
        torch.testing.assert_close(found[row : row + 1], alone, atol=0, rtol=0)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 4),
    top_k=st.integers(0, 40),
    top_p=st.sampled_from([0.05, 0.3, 0.8, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    penalty=st.sampled_from([1.0, 0.7, 1.03, 2.0]),
    temperature=st.sampled_from([0.3, 0.7, 1.0, 1.9]),
    min_new=st.integers(0, 4),
)
def test_distribution_equals_a_plain_one(
    seed: int, rows: int, top_k: int, top_p: float, min_p: float, penalty: float, temperature: float, min_new: int
) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (rows, 30)).astype(np.float32)
    generated = rng.integers(0, 30, (rows, 3)).tolist()
    params = SamplingParams(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=penalty,
        min_new_tokens=min_new,
    )
    found = sampler([params] * rows, 30, generated).distribution(torch.from_numpy(logits)).numpy()
    for row in range(rows):
        expected = plain_distribution(logits[row].astype(np.float64), generated[row], params)
        np.testing.assert_allclose(found[row], expected, atol=1e-5)


def plain_distribution(logits: np.ndarray, generated: list[int], params: SamplingParams) -> np.ndarray:
    scores = logits.copy()
    for token in set(generated):
        scores[token] *= params.repetition_penalty if scores[token] < 0 else 1 / params.repetition_penalty
    if len(generated) < params.min_new_tokens:
        scores[[0, 1]] = -np.inf
    order = sorted(range(len(scores)), key=lambda token: -scores[token])
    weights = np.exp((scores - scores.max()) / params.temperature)
    kept = order[: params.top_k or None]
    reached, nucleus = 0.0, []
    for token in kept:  # the smallest set that reaches top_p
        if nucleus and reached >= params.top_p - 1e-9:
            break
        nucleus.append(token)
        reached += weights[token] / weights[kept].sum()
    kept = [token for token in nucleus if weights[token] >= params.min_p * weights.max() * (1 - 1e-9)]
    out = np.zeros_like(scores)
    out[kept] = weights[kept] / weights[kept].sum()
    return out


def test_scores_equal_to_the_kth_stay() -> None:
    kept = keep_top_k(torch.tensor([[1.0, 3.0, 2.0, 2.0, 0.0]]), torch.tensor([[2]]))
    assert kept.isfinite().tolist() == [[False, True, True, True, False]]


def test_top_k_beyond_the_vocabulary_keeps_all() -> None:
    scores = torch.randn(2, 5)
    assert keep_top_k(scores, torch.tensor([[9], [0]])).equal(scores)


def test_tokens_that_make_up_the_tail_exactly_are_dropped() -> None:
    assert keep_top_p(torch.zeros(1, 4), 0.5).isfinite().sum() == 2


def test_the_likeliest_token_always_stays() -> None:
    scores = torch.tensor([[0.0, 5.0, 1.0]])
    for kept in (
        keep_top_p(scores, torch.tensor([[1 - 1e-9]])),
        keep_min_p(scores, 1.0),
        keep_top_k(scores, torch.tensor([[1]])),
    ):
        assert kept.isfinite().tolist() == [[False, True, False]]


def test_greedy_rows_take_the_likeliest_beside_rows_that_draw() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    params = [SamplingParams(temperature=0), SamplingParams(seed=4), SamplingParams(temperature=0, top_p=0.1)]
    chosen = Sampler(params, [], 50, CPU).choose(logits)
    assert chosen[[0, 2]].equal(logits[[0, 2]].argmax(-1))
    assert chosen[1:2].equal(Sampler([params[1]], [], 50, CPU).choose(logits[1:2]))


def test_a_seeded_row_draws_the_same_whatever_runs_beside_it() -> None:
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(1))
    mine, other = SamplingParams(seed=7), SamplingParams()
    alone = Sampler([mine], [], 50, CPU)
    beside = Sampler([other, mine, mine.replace(seed=8)], [], 50, CPU)
    expected = [alone.choose(logits).item() for _ in range(20)]
    torch.manual_seed(0)
    found = [beside.choose(logits.expand(3, -1))[1].item() for _ in range(10)]
    beside.select([1])
    found += [beside.choose(logits).item() for _ in range(10)]
    assert found == expected and len(set(expected)) > 5


def test_rows_without_a_seed_follow_the_global_generator() -> None:
    logits = torch.randn(2, 50, generator=torch.Generator().manual_seed(2))
    one = Sampler([SamplingParams(), SamplingParams()], [], 50, CPU)

    def run() -> list[list[int]]:
        torch.manual_seed(100)
        return [one.choose(logits).tolist() for _ in range(8)]

    torch.manual_seed(100)
    plain = [torch.multinomial(logits.softmax(-1), 1).flatten().tolist() for _ in range(8)]
    assert run() == run() == plain


def test_draws_follow_the_probabilities() -> None:
    probabilities = torch.tensor([[0.1, 0.0, 0.6, 0.3]]).expand(4000, -1)
    share = torch.bincount(draw(probabilities, [torch.Generator().manual_seed(i) for i in range(4000)]), minlength=4)
    torch.testing.assert_close(share / 4000, probabilities[0], atol=0.04, rtol=0)
    assert share[1] == 0


def test_the_penalty_follows_rows_that_are_selected() -> None:
    one = sampler([SamplingParams(temperature=0, repetition_penalty=2.0)] * 3, 10, [[3], [4], [5]])
    one.select([2, 0])
    assert (one.adjust(torch.ones(2, 10)) < 1).nonzero().tolist() == [[0, 5], [1, 3]]


def test_terminators_are_banned_row_by_row_until_the_minimum() -> None:
    one = sampler([SamplingParams(min_new_tokens=2), SamplingParams(min_new_tokens=1)], 4, [[2], [2]])
    assert one.adjust(torch.zeros(2, 4)).isinf().tolist() == [[True, True, False, False], [False] * 4]


def test_logprobs_are_the_models_own() -> None:
    logits = torch.randn(3, 20)
    found = read_logprobs(logits, [2, 0], [5, 6], [0, 3])
    expected = logits.double().log_softmax(-1)
    assert [one.token_id for one in found] == [5, 6]
    assert found[0].logprob == pytest.approx(expected[2, 5].item(), abs=1e-5) and found[0].top == ()
    best = expected[0].topk(3)
    assert [token for token, _ in found[1].top] == best.indices.tolist()
    assert [value for _, value in found[1].top] == pytest.approx(best.values.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    "field, value",
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", "hot"),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("top_k", 2.5),
        ("min_p", 1.5),
        ("repetition_penalty", 0),
        ("num_beams", 0),
        ("num_beams", True),
        ("length_penalty", float("inf")),
        ("max_new_tokens", 0),
        ("min_new_tokens", -1),
        ("stop", [""]),
        ("stop", [3]),
        ("stop", 3),
        ("seed", -1),
        ("seed", 2**64),
        ("logprobs", 101),
    ],
)
def test_values_out_of_range_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(MessageError, match=f"^{field}=") as caught:
        SamplingParams(**{field: value})
    assert "\n" not in str(caught.value)


def test_contradictions_are_refused() -> None:
    with pytest.raises(MessageError, match="min_new_tokens=9 exceeds max_new_tokens=8"):
        SamplingParams(min_new_tokens=9, max_new_tokens=8)
    with pytest.raises(MessageError, match="set temperature=0"):
        SamplingParams(num_beams=2, temperature=0.5)
    with pytest.raises(MessageError, match="topk is no sampling parameter"):
        SamplingParams().replace(topk=3)


def test_an_unset_temperature_draws_but_not_with_beams() -> None:
    assert SamplingParams().temperature == 1 and SamplingParams(num_beams=3).temperature == 0
    assert SamplingParams(stop="a").stop == ("a",) and hash(SamplingParams(stop=["a", "b"]))


def test_reference_defaults_are_the_published_ones() -> None:
    assert SamplingParams.reference(True) == SamplingParams(
        temperature=0.7, top_p=0.8, top_k=100, repetition_penalty=1.03, max_new_tokens=2048
    )
    assert SamplingParams.reference(False) == SamplingParams(temperature=0, num_beams=3, repetition_penalty=1.2)
    assert SamplingParams.reference(True, do_sample=False, temperature=0.9).greedy
    assert SamplingParams.reference(False, num_beams=1).greedy


@pytest.mark.parametrize("sampling, key", [(True, "num_beams"), (False, "temperature"), (False, "top_p"), (True, "x")])
def test_keys_outside_the_reference_set_are_ignored_with_a_warning(
    sampling: bool, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "cpmv"):
        params = SamplingParams.reference(sampling, **{key: 2}, max_new_tokens=5)
    assert params == dataclasses.replace(SamplingParams.reference(sampling), max_new_tokens=5)
    assert [record.getMessage().split(" is ignored")[0] for record in caplog.records] == [f"{key}=2"]


def test_draws_are_those_of_multinomial() -> None:
    probabilities = (torch.randn(5, 300, generator=torch.Generator().manual_seed(0)) * 3).softmax(-1)
    ours, theirs = ([torch.Generator().manual_seed(seed) for seed in range(5)] for _ in range(2))
    for _ in range(20):
        expected = [
            torch.multinomial(row, 1, generator=generator)[0].item()
            for row, generator in zip(probabilities, theirs, strict=True)
        ]
        assert draw(probabilities, ours).tolist() == expected
