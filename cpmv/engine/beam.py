"""Beam search as the reference's library (release 4.51) does it, except that conversations never touch each other.

Each step ranks the (1 + number of terminators) x beams likeliest continuations of a conversation. Those that end and
rank among the first `num_beams` are kept as finished, scored by summed log-probability / length ** length_penalty; the
best that go on are the next beams. Processors act on log-probabilities and see generated tokens only. The search ends
when the best beam that goes on, scored at its present length, cannot beat the worst of `num_beams` finished ones. The
library asks this of the whole batch at once, so there an answer can depend on its neighbours; here each conversation
stops by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .batch import Batch
from .output import Answer
from .sampling import Sampler, TokenLogprob, read_logprobs

# Score of a beam that must not win: below any sum of log-probabilities, yet finite.
_HOPELESS = -1.0e9


class Candidate(NamedTuple):
    """One continuation: its summed score, the beam it continues, the token, and what to report about the token."""

    score: float
    beam: int
    token: int
    logprob: TokenLogprob | None


@dataclass(frozen=True)
class Beam:
    """A sequence with its summed score (divided by the length penalty once it is finished)."""

    score: float
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    parent: int = 0

    def extend(self, candidate: Candidate, score: float) -> Beam:
        logprobs = self.logprobs if candidate.logprob is None else (*self.logprobs, candidate.logprob)
        return Beam(score, (*self.tokens, candidate.token), logprobs, candidate.beam)


class Search:
    """The beams of one conversation. `advance` takes ranked candidates until `done`."""

    def __init__(self, answer: Answer, num_beams: int) -> None:
        self.answer = answer
        self.num_beams = num_beams
        # All beams are equal at first: only the first may be continued.
        self.running = [Beam(0.0)] + [Beam(_HOPELESS)] * (num_beams - 1)
        self.finished: list[Beam] = []
        self.done = False

    def advance(self, candidates: list[Candidate]) -> None:
        """Take the likeliest continuations, best first, and choose the next beams."""
        length = len(self.running[0].tokens) + 1
        ended = [self._ends(candidate, length) for candidate in candidates]
        divisor = length**self.answer.params.length_penalty
        for candidate, ends in list(zip(candidates, ended, strict=True))[: self.num_beams]:
            if ends:
                self.finished.append(self.running[candidate.beam].extend(candidate, candidate.score / divisor))
        self.finished.sort(key=lambda beam: -beam.score)
        del self.finished[self.num_beams :]
        going_on = [c for c, ends in zip(candidates, ended, strict=True) if not ends]
        # Where too few go on, ended ones fill the places without a chance to win.
        filling = [c._replace(score=c.score + _HOPELESS) for c, ends in zip(candidates, ended, strict=True) if ends]
        self.running = [self.running[c.beam].extend(c, c.score) for c in (going_on + filling)[: self.num_beams]]
        full = len(self.finished) == self.num_beams
        self.done = not going_on or (full and self.running[0].score / divisor <= self.finished[-1].score)

    def _ends(self, candidate: Candidate, length: int) -> bool:
        if self.answer.is_terminator(candidate.token) or length >= self.answer.max_new_tokens:
            return True
        return self.answer.has_stop_string((*self.running[candidate.beam].tokens, candidate.token))

    def settle(self, cancelled: bool = False) -> None:
        """Write the best sequence into the answer."""
        best = (self.finished or self.running)[0]
        for token, logprob in zip(best.tokens, best.logprobs or [None] * len(best.tokens), strict=True):
            if self.answer.finish_reason is None:
                self.answer.add(token, logprob)
        if self.answer.finish_reason is None:
            self.answer.finish("cancelled" if cancelled else "stop")


def search(
    batch: Batch,
    sampler: Sampler,
    answers: list[Answer],
    *,
    prefill_chunk: int | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> None:
    """Find the best answer of each conversation of a batch whose parameters agree in `num_beams`."""
    num_beams = answers[0].params.num_beams
    searches = [Search(answer, num_beams) for answer in answers]
    logits = batch.prefill(prefill_chunk)
    repeated = [row for row in range(len(searches)) for _ in range(num_beams)]
    batch.select(repeated)
    sampler.select(repeated)
    logits = logits[repeated]
    num_candidates = (1 + sampler.num_terminators) * num_beams
    while True:
        if should_stop is not None and should_stop():
            for one in searches:
                one.settle(cancelled=True)
            return
        ranked = _rank(logits, sampler, searches, num_candidates)
        for one, candidates in zip(searches, ranked, strict=True):
            one.advance(candidates)
            if one.done:
                one.settle()
        going = [at for at, one in enumerate(searches) if not one.done]
        searches = [searches[at] for at in going]
        if not searches:
            return
        rows = [at * num_beams + beam.parent for at, one in zip(going, searches, strict=True) for beam in one.running]
        batch.select(rows)
        sampler.select(rows)
        tokens = torch.tensor([beam.tokens[-1] for one in searches for beam in one.running], device=logits.device)
        sampler.accept(tokens)
        logits = batch.step(tokens)


@torch.inference_mode()
def _rank(logits: Tensor, sampler: Sampler, searches: list[Search], num_candidates: int) -> list[list[Candidate]]:
    """Return each conversation's likeliest continuations, best first. logits: [conversations * beams, V]."""
    vocab_size = logits.shape[1]
    sums = torch.tensor([[beam.score] for one in searches for beam in one.running], device=logits.device)
    scores = (sampler.adjust(logits.log_softmax(-1)) + sums).view(len(searches), -1)  # [conversations, beams * V]
    best = scores.topk(min(num_candidates, scores.shape[1]))
    ranked = []
    for at, (one, values, flat) in enumerate(zip(searches, best.values.tolist(), best.indices.tolist(), strict=True)):
        beams, tokens = [i // vocab_size for i in flat], [i % vocab_size for i in flat]
        logprobs: list[TokenLogprob | None] = [None] * len(flat)
        if one.answer.params.logprobs is not None:
            rows = [at * one.num_beams + beam for beam in beams]
            logprobs = [*read_logprobs(logits, rows, tokens, [one.answer.params.logprobs] * len(rows))]
        ranked.append([Candidate(*fields) for fields in zip(values, beams, tokens, logprobs, strict=True)])
    return ranked
