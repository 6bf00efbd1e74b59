"""The whole reward of a group of responses: R = accuracy + form + repetition + 1/2 · standardised preference.

Accuracy comes from a rule or, for references that no rule can check, from `rlpr`. A reward model is any function of
questions and final answers; it never sees reasoning, which is outside what such models were trained on, and its scores
are standardised over the responses to one prompt.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import CpmvError
from ..inputs.text import Tokenizer
from ..model.minicpmv import MiniCPMV
from .rewards import FORMAT_REWARD, PROBABILITY, Response, format_reward, repetition_reward, rule_reward, split_response
from .rl_loss import group_advantages, standardise
from .rlpr import baseline_line, debiased, mean_probability, reference_line
from .rollouts import Group, Line, Prompt, Rollout, log_probs_of

PREFERENCE_WEIGHT = 0.5


class RewardModel(Protocol):
    """Scores final answers; only differences between answers to one question matter."""

    def __call__(self, question: str, answers: Sequence[str]) -> Sequence[float]: ...


@dataclass(frozen=True)
class Weights:
    """accuracy: 0 leaves it out. form: of a well-formed response. repetition: of the penalty. preference: of the
    reward model. debias: whether RLPR's baseline is taken off. whole_trace: score reasoning and answer with the reward
    model (an ablation; the published run found it unstable)."""

    accuracy: float = 1.0
    form: float = FORMAT_REWARD
    repetition: float = 1.0
    preference: float = PREFERENCE_WEIGHT
    debias: bool = True
    whole_trace: bool = False


class Judge:
    """Gives every response of a batch its reward and advantage, in place.

    row_tokens: tokens computed at once for probability rewards.
    """

    def __init__(
        self,
        model: MiniCPMV,
        tokenizer: Tokenizer,
        *,
        weights: Weights | None = None,
        reward_model: RewardModel | None = None,
        row_tokens: int = 4096,
        autocast: torch.dtype | None = None,
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self.weights = weights or Weights()
        self._reward_model = reward_model
        self._row_tokens, self._autocast = row_tokens, autocast

    def __call__(self, groups: Sequence[Group]) -> None:
        probabilities = self._probabilities(groups)
        for group in groups:
            responses = [split_response(r.text, deep=group.prompt.deep, finished=r.finished) for r in group.rollouts]
            for rollout, response in zip(group.rollouts, responses, strict=True):
                accuracy = self._accuracy(group.prompt, response, probabilities.get(id(rollout)))
                rollout.parts = {
                    "accuracy": accuracy,
                    "form": format_reward(response, self.weights.form),
                    "repetition": repetition_reward(rollout.text),
                }
            self._add_preferences(group, responses)
            self._sum(group)

    def _accuracy(self, prompt: Prompt, response: Response, probability: float | None) -> float:
        """By rule, or by what the reasoning adds; an answer in the reference's very words is right all the same."""
        if prompt.kind != PROBABILITY:
            return rule_reward(prompt.kind, response.answer, prompt.reference)
        if rule_reward("label", response.answer, prompt.reference) == 1:
            return 1.0
        assert probability is not None and prompt.baseline is not None
        return debiased(probability, prompt.baseline if self.weights.debias else 0.0)

    def _probabilities(self, groups: Sequence[Group]) -> dict[int, float]:
        """How likely the reference is after each response's reasoning, for prompts without a rule."""
        owners: list[Rollout] = []
        lines: list[Line] = []
        for group in groups:
            prompt = group.prompt
            if prompt.kind == PROBABILITY:
                for rollout in group.rollouts:
                    owners.append(rollout)
                    lines.append(
                        reference_line(
                            self._tokenizer, prompt.inputs, rollout, prompt.reference.strip(), deep=prompt.deep
                        )
                    )
        found = log_probs_of(self._model, lines, self._row_tokens, autocast=self._autocast)
        return {id(rollout): mean_probability(part) for rollout, part in zip(owners, found, strict=True)}

    def _add_preferences(self, group: Group, responses: Sequence[Response]) -> None:
        if self._reward_model is None:
            return
        if self.weights.whole_trace:
            answers = [rollout.text for rollout in group.rollouts]
        else:
            answers = [response.answer for response in responses]
        scores = [float(score) for score in self._reward_model(group.prompt.question, answers)]
        if len(scores) != len(answers):
            raise CpmvError(f"the reward model gave {len(scores)} scores for {len(answers)} answers; give one each")
        for rollout, score in zip(group.rollouts, standardise(scores), strict=True):
            rollout.parts["preference"] = score

    def _sum(self, group: Group) -> None:
        weights = self.weights
        for rollout in group.rollouts:
            parts = rollout.parts
            rollout.reward = weights.accuracy * parts["accuracy"] + parts["form"]
            rollout.reward += weights.repetition * parts["repetition"]
            rollout.reward += weights.preference * parts.get("preference", 0.0)
        advantages = group_advantages([rollout.reward for rollout in group.rollouts])
        for rollout, advantage in zip(group.rollouts, advantages, strict=True):
            rollout.advantage = advantage

    def baselines(
        self, prompts: Sequence[Prompt], *, progress: Callable[[int, int], None] | None = None
    ) -> list[float]:
        """r' of prompts in fast mode, under the policy as it is now."""
        out: list[float] = []
        for start in range(0, len(prompts), 64):
            part = prompts[start : start + 64]
            lines = [baseline_line(self._tokenizer, p.inputs, p.reference.strip()) for p in part]
            found: list[Tensor] = log_probs_of(self._model, lines, self._row_tokens, autocast=self._autocast)
            out += [mean_probability(log_probs) for log_probs in found]
            if progress is not None:
                progress(len(out), len(prompts))
        return out


def load_reward_model(spec: str) -> RewardModel:
    """Import `module:function`: called with a question and its answers, it returns a number for each."""
    module, _, name = spec.partition(":")
    try:
        found = getattr(importlib.import_module(module), name or "reward")
    except (ImportError, AttributeError, ValueError) as error:
        raise CpmvError(f"reward model {spec} cannot be imported ({error}); give MODULE:FUNCTION") from error
    if not callable(found):
        raise CpmvError(f"reward model {spec} is a {type(found).__name__}; give a function of (question, answers)")
    model: RewardModel = found
    return model
