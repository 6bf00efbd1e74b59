"""How the next token is chosen: `SamplingParams`, pure functions on logits [B, V], `Sampler`, a batch of rows.

The order is the one of the reference's library: repetition penalty (generated tokens only, since generation starts
from embeddings), ban on terminators, temperature, top-k, top-p, min-p, draw. Ties and borders follow that library too.
Everything here takes float32 logits. Each row may have parameters and a random generator of its own.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import MessageError

log = logging.getLogger("cpmv")

MAX_LOGPROBS = 100  # most alternatives reported beside each token

# What the published chat() generates with; only keys that stand in the chosen set can be overridden there.
_REFERENCE_SAMPLING: dict[str, Any] = {
    "temperature": 0.7,
    "top_p": 0.8,
    "top_k": 100,
    "repetition_penalty": 1.03,
    "do_sample": True,
}
_REFERENCE_BEAMS: dict[str, Any] = {"num_beams": 3, "repetition_penalty": 1.2}
# Arguments of chat() itself, and our additions, which apply either way.
_REFERENCE_ALWAYS = ("max_new_tokens", "min_new_tokens", "stop", "seed", "logprobs")


@dataclass(frozen=True)
class SamplingParams:
    """How one answer is generated. Raises MessageError for a value out of range.

    temperature: 0 is greedy; None means 1, or 0 when num_beams > 1.
    top_k: draw among the k likeliest tokens; 0 is off.
    top_p: draw among the fewest tokens whose probabilities reach p, in (0, 1]; 1 is off.
    min_p: drop tokens less likely than min_p times the likeliest, in [0, 1]; 0 is off.
    repetition_penalty: > 1 discourages tokens already generated (never those of the prompt).
    num_beams: beams of a beam search, which needs temperature 0; 1 is no search.
    length_penalty: beam scores are divided by length ** length_penalty; > 0 favours long answers.
    max_new_tokens, min_new_tokens: bounds on the answer, its terminator included.
    stop: a string or several; the answer ends before the first that appears.
    seed: makes this request's draws its own, whatever runs beside it; None draws from torch's global generator.
    logprobs: None, or how many of the likeliest tokens to report beside each chosen one (0 to 100).
    """

    temperature: float | None = None
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    num_beams: int = 1
    length_penalty: float = 1.0
    max_new_tokens: int = 2048
    min_new_tokens: int = 0
    stop: str | Sequence[str] = ()
    seed: int | None = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        _check_integer("num_beams", self.num_beams, 1)
        if self.temperature is None:
            object.__setattr__(self, "temperature", 0.0 if self.num_beams > 1 else 1.0)
        object.__setattr__(self, "stop", _stop_strings(self.stop))
        _check_number("temperature", self.temperature, "at least 0", lambda x: x >= 0)
        _check_number("top_p", self.top_p, "above 0, up to 1", lambda x: 0 < x <= 1)
        _check_number("min_p", self.min_p, "from 0 to 1", lambda x: 0 <= x <= 1)
        _check_number("repetition_penalty", self.repetition_penalty, "above 0", lambda x: x > 0)
        _check_number("length_penalty", self.length_penalty, "finite", math.isfinite)
        _check_integer("top_k", self.top_k, 0)
        _check_integer("max_new_tokens", self.max_new_tokens, 1)
        _check_integer("min_new_tokens", self.min_new_tokens, 0)
        if self.seed is not None:
            _check_integer("seed", self.seed, 0, 2**63 - 1)
        if self.logprobs is not None:
            _check_integer("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        if self.min_new_tokens > self.max_new_tokens:
            raise MessageError(
                f"min_new_tokens={self.min_new_tokens} exceeds max_new_tokens={self.max_new_tokens}; raise the latter"
            )
        if self.num_beams > 1 and not self.greedy:
            raise MessageError(
                f"num_beams={self.num_beams} searches without drawing but temperature={self.temperature} draws; "
                "set temperature=0 or num_beams=1"
            )

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken (or searched for), with no randomness."""
        return self.temperature == 0

    def replace(self, **changes: Any) -> SamplingParams:
        """Return a copy with fields changed. Raises MessageError for a name that is no field."""
        names = [f.name for f in dataclasses.fields(self)]
        for name in changes:
            if name not in names:
                raise MessageError(f"{name} is no sampling parameter; there are {', '.join(names)}")
        return dataclasses.replace(self, **changes)

    @classmethod
    def default(cls, greedy: bool) -> SamplingParams:
        """Return what applies when nobody says: the published drawing, or the likeliest token where a checkpoint's
        generation_config.json asks for it (`ModelConfig.greedy`)."""
        published = cls.reference(True)
        return published.replace(temperature=0.0, repetition_penalty=1.0) if greedy else published

    @classmethod
    def reference(cls, sampling: bool = True, **overrides: Any) -> SamplingParams:
        """Return the published chat()'s defaults: drawing, or 3 beams when sampling is False.

        As there, only what the chosen set holds can be overridden; another key is ignored, with a warning.
        """
        chosen = dict(_REFERENCE_SAMPLING if sampling else _REFERENCE_BEAMS)
        for name, value in overrides.items():
            if name in chosen or name in _REFERENCE_ALWAYS:
                chosen[name] = value
            else:
                log.warning(
                    "%s=%r is ignored with sampling=%s, as in the published chat(); what applies is %s",
                    *(name, value, sampling, ", ".join((*chosen, *_REFERENCE_ALWAYS))),
                )
        if not sampling or not chosen.pop("do_sample"):
            chosen["temperature"] = 0.0
        return cls(**chosen)


def _check_number(name: str, value: Any, allowed: str, holds: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or not holds(value):
        raise MessageError(f"{name}={value!r} is not allowed; give a number, {allowed}")


def _check_integer(name: str, value: Any, low: int, high: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        bounds = f"from {low} to {high}" if high is not None else f"of at least {low}"
        raise MessageError(f"{name}={value!r} is not allowed; give an integer {bounds}")


def _stop_strings(stop: Any) -> tuple[str, ...]:
    strings = (stop,) if isinstance(stop, str) else stop if stop is not None else ()
    if not isinstance(strings, Sequence) or not all(isinstance(one, str) and one for one in strings):
        raise MessageError(f"stop={stop!r} is not allowed; give a string or a list of strings, none of them empty")
    return tuple(strings)


def penalize_repetition(scores: Tensor, seen: Tensor, penalty: Tensor | float) -> Tensor:
    """Divide positive scores and multiply negative ones of tokens already seen (CTRL, arXiv 1909.05858).

    scores [B, V]; seen: bool [B, V]; penalty: [B, 1].
    """
    return torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def keep_top_k(scores: Tensor, k: Tensor, largest: int | None = None) -> Tensor:
    """Set all but the k highest scores of each row to -inf; scores equal to the k-th stay, too.

    k: int64 [B, 1], 0 for a row that keeps all. largest: the largest k, when known, saves asking the device.
    """
    most = min(int(k.max()) if largest is None else largest, scores.shape[-1])
    if most == 0:
        return scores
    kth = scores.topk(most).values.gather(-1, (k - 1).clamp(0, most - 1))
    return scores.masked_fill((scores < kth) & (k > 0), -math.inf)


def keep_top_p(scores: Tensor, tail: Tensor | float) -> Tensor:
    """Set the least likely tokens, `tail` = 1 - top_p of probability in all, to -inf; the likeliest always stays.

    tail: [B, 1]. It is 1 - top_p rather than top_p because the difference is exact only before the cast to float32.
    """
    ascending, order = scores.sort(dim=-1)
    dropped = ascending.softmax(-1).cumsum(-1) <= tail
    dropped[..., -1] = False
    return scores.masked_fill(dropped.scatter(-1, order, dropped), -math.inf)


def keep_min_p(scores: Tensor, min_p: Tensor | float) -> Tensor:
    """Set tokens less likely than min_p (a number or [B, 1]) times the likeliest to -inf."""
    probabilities = scores.softmax(-1)
    return scores.masked_fill(probabilities < min_p * probabilities.amax(-1, keepdim=True), -math.inf)


def draw(probabilities: Tensor, generators: Sequence[torch.Generator | None]) -> Tensor:
    """Draw one token a row, int64 [B], each row from its generator; rows without one share torch's global generator.

    The draws of `torch.multinomial`, which would make the host wait for the device.
    """
    shared = [row for row, generator in enumerate(generators) if generator is None]
    if len(shared) == len(generators):
        return _race(probabilities, None)
    tokens = torch.empty(len(generators), dtype=torch.int64, device=probabilities.device)
    if shared:
        index = torch.tensor(shared, dtype=torch.int64)
        if probabilities.is_cuda:
            index = index.pin_memory().to(probabilities.device, non_blocking=True)
        tokens.index_copy_(0, index, _race(probabilities[index], None))
    for row, generator in enumerate(generators):
        if generator is not None:
            tokens[row] = _race(probabilities[row], generator)
    return tokens


def _race(probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    """Every token arrives after an exponential time over its probability; the first to arrive is drawn."""
    times = torch.empty_like(probabilities).exponential_(generator=generator)
    return (probabilities / times).argmax(-1)


@dataclass(frozen=True)
class TokenLogprob:
    """Natural-log probability of a chosen token, and of the likeliest ones as (token id, logprob), best first.

    They are the model's own, from a float32 log-softmax before any penalty, temperature or filter.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@torch.inference_mode()
def read_logprobs(
    logits: Tensor, rows: Sequence[int], tokens: Sequence[int], num_top: Sequence[int]
) -> list[TokenLogprob]:
    """Report on tokens[i], chosen from logits[rows[i]], with its num_top[i] likeliest alternatives."""
    if not rows:
        return []
    logprobs = logits[list(rows)].log_softmax(-1)
    chosen = logprobs.gather(1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0].tolist()
    best = logprobs.topk(min(max(num_top), logprobs.shape[1]))
    tops = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [
        TokenLogprob(token, logprob, tuple(zip(ids[:num], values[:num], strict=True)))
        for token, logprob, num, (ids, values) in zip(tokens, chosen, num_top, tops, strict=True)
    ]


class Filters:
    """What turns scores into the probabilities that some rows draw with: their parameters as columns [B, 1]."""

    def __init__(self, params: Sequence[SamplingParams], device: torch.device) -> None:
        self._params = list(params)
        self.drawn = [row for row, p in enumerate(params) if not p.greedy]
        # None where every row draws: indexing would copy the logits and wait for the device.
        self.drawn_index = None
        if len(self.drawn) < len(params):
            self.drawn_index = torch.tensor(self.drawn, dtype=torch.int64, device=device)
        drawn = [params[row] for row in self.drawn]
        self._temperature = as_column([p.temperature or 0.0 for p in drawn], device)
        self._top_k = as_column([p.top_k for p in drawn], device)
        self._tail = as_column([1 - p.top_p for p in drawn], device)
        self._min_p = as_column([p.min_p for p in drawn], device)
        self._largest_k = max((p.top_k for p in drawn), default=0)
        self._any_top_p = any(p.top_p < 1 for p in drawn)
        self._any_min_p = any(p.min_p for p in drawn)

    def probabilities(self, scores: Tensor) -> Tensor:
        """Return [drawn rows, V] of adjusted scores [B, V]."""
        scores = scores if self.drawn_index is None else scores[self.drawn_index]
        scores = scores / self._temperature
        if self._largest_k:
            scores = keep_top_k(scores, self._top_k, self._largest_k)
        if self._any_top_p:
            scores = keep_top_p(scores, self._tail)
        if self._any_min_p:
            scores = keep_min_p(scores, self._min_p)
        return scores.softmax(-1)

    def choose(self, scores: Tensor, generators: Sequence[torch.Generator | None]) -> Tensor:
        """Choose a token for every row, int64 [B]: the likeliest, or one drawn with the row's generator."""
        if not self.drawn:
            return scores.argmax(-1)
        drawn = draw(self.probabilities(scores), [generators[row] for row in self.drawn])
        if self.drawn_index is None:
            return drawn
        return scores.argmax(-1).index_copy(0, self.drawn_index, drawn)


def as_column(values: Sequence[float], device: torch.device) -> Tensor:
    """Values as a column [B, 1], int64 when all are integers."""
    dtype = torch.int64 if all(isinstance(v, int) for v in values) else torch.float32
    return torch.tensor(values, dtype=dtype, device=device).unsqueeze(-1)


class Sampler:
    """The rows of a batch: their parameters as columns [B, 1], what they have generated, their generators.

    All rows are at the same step; `select` drops, repeats or reorders rows, `accept` ends a step.
    """

    def __init__(
        self, params: Sequence[SamplingParams], terminators: Sequence[int], vocab_size: int, device: torch.device
    ) -> None:
        self._device = device
        self._terminators = torch.tensor(sorted(terminators), dtype=torch.int64, device=device)
        self._generators = [None if p.seed is None else torch.Generator(device).manual_seed(p.seed) for p in params]
        self._step = 0
        self._seen: Tensor | None = None
        if any(p.repetition_penalty != 1 for p in params):
            self._seen = torch.zeros(len(params), vocab_size, dtype=torch.bool, device=device)
        self._set_params(list(params))

    @property
    def num_terminators(self) -> int:
        return self._terminators.shape[0]

    def _set_params(self, params: list[SamplingParams]) -> None:
        self._params = params
        self._penalty = as_column([p.repetition_penalty for p in params], self._device)
        self._min_new = as_column([p.min_new_tokens for p in params], self._device)
        self._filters = Filters(params, self._device)

    @torch.inference_mode()
    def adjust(self, scores: Tensor) -> Tensor:
        """Apply the repetition penalty and the ban on early terminators to scores (logits or log-probabilities)."""
        if self._seen is not None:
            scores = penalize_repetition(scores, self._seen, self._penalty)
        if any(self._step < p.min_new_tokens for p in self._params):
            banned = torch.zeros_like(scores, dtype=torch.bool)
            banned[:, self._terminators] = self._step < self._min_new
            scores = scores.masked_fill(banned, -math.inf)
        return scores

    @torch.inference_mode()
    def distribution(self, logits: Tensor) -> Tensor:
        """Return the probabilities [drawn rows, V] that the next tokens of rows that draw are drawn with."""
        return self._filters.probabilities(self.adjust(logits))

    @torch.inference_mode()
    def choose(self, logits: Tensor) -> Tensor:
        """Choose the next token of each row, int64 [B], from float32 logits [B, V]."""
        return self._filters.choose(self.adjust(logits), self._generators)

    @torch.inference_mode()
    def accept(self, tokens: Tensor) -> None:
        """End the step: tokens int64 [B] now count as generated."""
        if self._seen is not None:
            self._seen.scatter_(1, tokens[:, None], True)
        self._step += 1

    @torch.inference_mode()
    def select(self, rows: Sequence[int]) -> None:
        """Let row i continue what row rows[i] was; rows may be left out or repeated."""
        if self._seen is not None:
            self._seen = self._seen[list(rows)]
        self._generators = [self._generators[row] for row in rows]
        params = [self._params[row] for row in rows]
        if params != self._params:
            self._set_params(params)
