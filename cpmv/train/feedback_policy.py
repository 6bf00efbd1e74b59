"""A checkpoint that responds, divides and judges: loaded when it is first needed, and let go with `close`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from ..device import choose
from ..inputs.messages import Message, Text
from ..inputs.processor import Processor
from ..weights import checkpoint
from ..weights.hub import resolve
from .feedback_claims import Claim, Divider, ModelDivider, RuleDivider, WholeDivider
from .feedback_files import Row
from .feedback_judges import Judge, ModelJudge, TruthJudge, Verdict
from .feedback_prompts import Asked
from .rollouts import Prompt, Sampler

if TYPE_CHECKING:
    from .feedback_config import FeedbackConfig

_DIVIDING_TOKENS = 1024  # of a model's list of claims


class Policy:
    """model: a checkpoint's folder or name, None for the bundled one."""

    def __init__(self, config: FeedbackConfig, model: str | None, device: str | None) -> None:
        self._config, self._name, self._device = config, model, device
        self._loaded: checkpoint.Loaded | None = None
        self._processor: Processor | None = None
        self._samplers: dict[tuple[float, int], Sampler] = {}

    def loaded(self) -> checkpoint.Loaded:
        if self._loaded is None:
            device = choose(self._device).device
            dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
            self._loaded = checkpoint.load(resolve(self._name), device=device, dtype=dtype)
            self._processor = Processor(self._loaded.config, self._loaded.tokenizer)
        return self._loaded

    @property
    def processor(self) -> Processor:
        self.loaded()
        assert self._processor is not None
        return self._processor

    def _sampler(self, temperature: float, max_new_tokens: int) -> Sampler:
        key = (temperature, max_new_tokens)
        if key not in self._samplers:
            loaded = self.loaded()
            self._samplers[key] = Sampler(
                loaded.model,
                loaded.tokenizer,
                max_new_tokens=max_new_tokens,
                temperature=temperature or 1.0,
                rows=self._config.rows,
            )
        return self._samplers[key]

    def sample(self, asked: Sequence[Asked], count: int, temperature: float, seed: tuple[int, int]) -> list[Row]:
        """Lines with `count` responses to each prompt. seed: round and place; the same one repeats the draws.

        Temperature 0 gives the likeliest response.
        """
        sampler = self._sampler(temperature, self._config.max_new_tokens)
        sampler.follow()  # nothing kept from earlier blocks, so that a block is the same after a kill
        torch.manual_seed(((self._config.seed * 1_000_003 + seed[0]) * 1_000_003 + seed[1]) % (1 << 63))
        prompts = [self._prompt(one.number, one.messages(), one.question) for one in asked]
        if temperature == 0:
            groups = [[answer] for answer in sampler.answer(prompts)]
        else:
            groups = sampler.respond(prompts, count)
        return [
            {
                "number": one.number,
                "responses": [{"text": r.text, "tokens": len(r.ids), "finished": r.finished} for r in group],
            }
            for one, group in zip(asked, groups, strict=True)
        ]

    def _prompt(self, number: int, messages: list[Message], question: str) -> Prompt:
        reading = self._config.reading
        inputs = self.processor(messages, enable_thinking=False, max_inp_length=reading.max_tokens, **reading.media())
        return Prompt(number, False, inputs, "", "exact", question)

    def num_tokens(self, text: str) -> int:
        """Tokens of a response, its end marker included."""
        return len(self.loaded().tokenizer.encode_plain(text)) + 1

    def ask(self, texts: Sequence[str]) -> list[str]:
        """The likeliest answers to questions without a picture."""
        sampler = self._sampler(0.0, _DIVIDING_TOKENS)
        prompts = [self._prompt(i, [Message("user", [Text(text)])], text) for i, text in enumerate(texts)]
        return [answer.text for answer in sampler.answer(prompts)]

    def divider(self, name: str) -> Divider:
        if name == "model":
            return ModelDivider(self.ask)
        return WholeDivider() if name == "whole" else RuleDivider()

    @staticmethod
    def divide(divider: Divider, asked: Sequence[Asked], samples: Sequence[Row]) -> list[Row]:
        """Lines with the claims of each response of each prompt."""
        answers = [(one.question, r["text"]) for one, row in zip(asked, samples, strict=True) for r in row["responses"]]
        claims = iter(divider.divide(answers))
        return [
            {"number": one.number, "claims": [[c.to_json() for c in next(claims)] for _ in row["responses"]]}
            for one, row in zip(asked, samples, strict=True)
        ]

    def close(self) -> None:
        for sampler in self._samplers.values():
            sampler.close()
        self._samplers.clear()
        self._loaded = self._processor = None


@contextmanager
def judge_of(name: str, policy: Policy, config: FeedbackConfig, device: str | None) -> Iterator[Judge]:
    """The judge of that name: "truth", "self" (the policy that responded), or a checkpoint."""
    if name == "truth":
        yield TruthJudge()
        return
    if name == "self":
        yield _Lazy(policy, config)
        return
    policy.close()  # two models need not share the memory
    other = Policy(config, None if name == "bundled" else name, device)
    try:
        yield _Lazy(other, config)
    finally:
        other.close()


class _Lazy:
    """A model as judge, loaded only when there is something left to judge."""

    def __init__(self, policy: Policy, config: FeedbackConfig) -> None:
        self._policy, self._config = policy, config
        self._judge: ModelJudge | None = None

    def judge(self, cases: Sequence[tuple[Asked, Claim]]) -> list[Verdict]:
        if self._judge is None:
            loaded, config = self._policy.loaded(), self._config
            self._judge = ModelJudge(
                loaded.model,
                loaded.tokenizer,
                self._policy.processor,
                config.reading,
                max_tokens=config.row_tokens or 2 * config.reading.max_tokens,
                autocast=torch.bfloat16 if loaded.model.device.type == "cuda" else None,
            )
        return self._judge.judge(cases)
