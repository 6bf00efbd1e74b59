"""Rewards: rules on short answers, which rule judges what, form, repetition, and the sum of the terms by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch

from cpmv.errors import CpmvError
from cpmv.model.config import ModelInputs
from cpmv.train.reward_mix import Judge, Weights, load_reward_model
from cpmv.train.rewards import (
    PROBABILITY,
    format_reward,
    iou,
    kind_of,
    repetition_reward,
    rule_reward,
    split_response,
)
from cpmv.train.rollouts import Group, Prompt, Rollout


@pytest.mark.parametrize(
    ("kind", "answer", "reference", "reward"),
    [
        ("number", "14.30", "14.3", 1),
        ("number", "The answer is 1,430.", "1430", 1),
        ("number", "so \\boxed{7}", "7", 1),
        ("number", "$14.30", "14.30", 1),
        ("number", "３７", "37", 1),
        ("number", "1/4", "0.25", 1),
        ("number", "-5", "5", 0),
        ("number", "37 38 39", "38", 0),  # a list of candidates is no answer
        ("number", "14.31", "14.30", 0),
        ("number", "seven", "7", 0),
        ("number", "0.333333333", "1/3", 1),
        ("choice", "B", "b", 1),
        ("choice", "(b)", "B", 1),
        ("choice", "B. a dog", "B", 1),
        ("choice", "A or B", "B", 0),
        ("choice", "Because", "B", 0),
        ("yes_no", "Yes, it is.", "yes", 1),
        ("yes_no", "不是", "否", 1),
        ("yes_no", "no", "yes", 0),
        ("yes_no", "maybe", "yes", 0),
        ("date", "14 March 2027", "2027-03-14", 1),
        ("date", "2027年3月14日", "14.03.2027", 1),
        ("date", "March 14, 2027", "2027-03-14", 1),
        ("date", "03/04/2027", "2027-04-03", 0),  # day or month first: nobody knows
        ("date", "03/04/2027", "3/4/2027", 1),
        ("date", "15 March 2027", "2027-03-14", 0),
        ("label", " Blue. ", "blue", 1),
        ("label", "dark blue", "blue", 0),
        ("label", "答案是蓝色", "蓝色", 1),
        ("exact", "a \nb", "a\nb", 1),
        ("exact", "A", "a", 0),
        ("box", "<box>0 0 10 10</box>", "[0, 0, 10, 5]", 0.5),
        ("box", "[0, 0, 10, 10] or [0, 0, 10, 5]", "[0, 0, 10, 5]", 0),
        ("box", "nowhere", "[0, 0, 10, 5]", 0),
    ],
)
def test_rules_say_what_is_right(kind: str, answer: str, reference: str, reward: float) -> None:
    assert rule_reward(kind, answer, reference) == pytest.approx(reward)


@pytest.mark.parametrize(
    ("reference", "tokens", "kind"),
    [
        ("14.30", 3, "number"),
        ("¥12", 3, "number"),
        ("40 %", 3, "number"),
        ("B", 1, "choice"),
        ("yes", 1, "yes_no"),
        ("14 March 2027", 9, "date"),
        ("blue", 1, "label"),
        ("三角形", 3, "label"),
        ("<box>1 2 30 40</box>", 12, "box"),
        ("12 km per hour", 4, PROBABILITY),
        ("blue", 6, PROBABILITY),
        ("the blue square is now yellow", 6, PROBABILITY),
        ("1234567", 7, PROBABILITY),
    ],
)
def test_short_answers_of_a_known_kind_go_to_rules_and_all_others_to_probability(
    reference: str, tokens: int, kind: str
) -> None:
    assert kind_of(reference, tokens) == kind


def test_where_nothing_is_known_nothing_is_right() -> None:
    assert rule_reward("none", "5", "5") == 0
    with pytest.raises(ValueError, match="there is no rule 'guess'"):
        rule_reward("guess", "5", "5")


def test_a_box_apart_and_half_of_a_box() -> None:
    assert iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0
    assert iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("text", "deep", "finished", "answer", "well"),
    [
        ("a + b\n</think>\n\n5", True, True, "5", True),
        ("a + b\n</think>\n\n5", True, False, "5", False),
        ("a + b\n5", True, True, "", False),  # never closed: there is no answer
        ("a</think>b</think>5", True, True, "b</think>5", False),
        ("<think>a</think>5", True, True, "5", False),
        ("a\n</think>\n\n", True, True, "", False),
        ("5", False, True, "5", True),
        ("<think>\n</think>5", False, True, "<think>\n</think>5", False),
        ("", False, True, "", False),
    ],
)
def test_a_response_is_well_formed_when_its_tags_are_as_the_mode_asks(
    text: str, deep: bool, finished: bool, answer: str, well: bool
) -> None:
    response = split_response(text, deep=deep, finished=finished)
    assert (response.answer, response.well_formed) == (answer, well)
    assert format_reward(response) == (0.1 if well else 0.0)


def test_repetition_costs_one_at_the_limit_and_nothing_below() -> None:
    run = "a b c d e f g h i j "
    # Separators differ, so that only the run itself is counted.
    assert repetition_reward("".join(f"{run}{n} " for n in range(9))) == 0.0
    assert repetition_reward("".join(f"{run}{n} " for n in range(10))) == -1.0
    assert repetition_reward("".join(f"{run}{n} " for n in range(6)), limit=6) == -1.0
    assert repetition_reward("".join(f"{run}{n} " for n in range(5)), limit=6) == 0.0
    assert repetition_reward("一二三四五六七八九十" * 10) == -1.0
    assert repetition_reward("short") == 0.0


NONE = torch.empty(0, 2, dtype=torch.int64)
INPUTS = ModelInputs(torch.ones(3).long(), NONE, torch.empty(0, 3, 14, 14).byte(), NONE, [], "")


def group(*texts: str, deep: bool = True, reference: str = "5", kind: str = "number") -> Group:
    prompt = Prompt(0, deep, INPUTS, reference, kind, "2 + 3?")
    return Group(prompt, [Rollout([1, 2], text, True) for text in texts])


def judge(**options: Any) -> Judge:
    return Judge(cast(Any, None), cast(Any, None), **options)


def test_the_reward_is_the_sum_of_its_terms_and_the_model_sees_final_answers_alone() -> None:
    asked: list[tuple[str, list[str]]] = []

    def model(question: str, answers: Sequence[str]) -> list[float]:
        asked.append((question, list(answers)))
        return [3.0, 1.0, 2.0]

    made = group("2 + 3 = 5\n</think>\n\n5", "I guess\n</think>\n\n6", "5 5 5")
    judge_ = judge(reward_model=model)
    # No sequence needs the network: log-probabilities of no line are none.
    judge_._probabilities = lambda groups: {}  # type: ignore[method-assign]
    judge_([made])
    assert asked == [("2 + 3?", ["5", "6", ""])]
    first, second, third = made.rollouts
    assert [r.parts["preference"] for r in made.rollouts] == pytest.approx([1.0, -1.0, 0.0])
    assert sum(r.parts["preference"] for r in made.rollouts) == pytest.approx(0.0)
    # R = accuracy + format + repetition + 1/2 preference
    assert [r.reward for r in made.rollouts] == pytest.approx([1 + 0.1 + 0.5, 0 + 0.1 - 0.5, 0.0])
    # mean 0.4, deviations 1.2, -0.8, -0.4; unbiased std sqrt(2.24 / 2)
    std = (2.24 / 2) ** 0.5
    assert [r.advantage for r in made.rollouts] == pytest.approx([1.2 / std, -0.8 / std, -0.4 / std], rel=1e-5)


def test_scoring_the_whole_trace_is_an_ablation_that_can_be_asked_for() -> None:
    seen: list[str] = []

    def model(question: str, answers: Sequence[str]) -> list[float]:
        seen.extend(answers)
        return [0.0 for _ in answers]

    judge_ = judge(reward_model=model, weights=Weights(whole_trace=True))
    judge_._probabilities = lambda groups: {}  # type: ignore[method-assign]
    judge_([group("why\n</think>\n\n5")])
    assert seen == ["why\n</think>\n\n5"]


def test_a_reward_model_that_scores_too_few_answers_is_named() -> None:
    judge_ = judge(reward_model=lambda question, answers: [1.0])
    judge_._probabilities = lambda groups: {}  # type: ignore[method-assign]
    with pytest.raises(CpmvError, match="1 scores for 2 answers"):
        judge_([group("5", "6", deep=False)])


def test_a_reward_model_is_imported_by_name() -> None:
    assert callable(load_reward_model("math:fsum"))
    with pytest.raises(CpmvError, match="MODULE:FUNCTION"):
        load_reward_model("no_such_module:f")
    with pytest.raises(CpmvError, match="give a function"):
        load_reward_model("math:pi")
