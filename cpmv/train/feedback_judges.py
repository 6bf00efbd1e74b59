"""Who says whether a claim is true: what was drawn, or a model that answers the claim's question.

A model is asked yes or no, and its probabilities of all spellings of either are summed: a claim is rejected when
p(no) >= p(yes). A spelling of several tokens counts with the product of their probabilities. Spellings that begin
alike share a sequence, so a vocabulary that has "yes" and "no" as tokens needs one pass a question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import CpmvError
from ..inputs.processor import Processor
from ..inputs.text import Tokenizer
from ..model.config import ModelInputs
from ..model.minicpmv import MiniCPMV
from .feedback_claims import Claim
from .feedback_prompts import Asked
from .samples import Reading
from .sft import pack, packed_hidden

YES = ("yes", "Yes", "YES", " yes", " Yes", "是", "有", "对")
NO = ("no", "No", "NO", " no", " No", "否", "不", "没")
_PLAIN = ("yes", "Yes", "no", "No", "是", "否")


@dataclass(frozen=True)
class Verdict:
    """yes, no: probabilities. rejected: whether the claim counts as wrong."""

    yes: float
    no: float

    @property
    def rejected(self) -> bool:
        return self.no >= self.yes

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "rejected": self.rejected}


class Judge(Protocol):
    """Says of claims about prompts' pictures whether they are true, in order."""

    def judge(self, cases: Sequence[tuple[Asked, Claim]]) -> list[Verdict]: ...


class TruthJudge:
    """Knows what was drawn. A claim that it knows nothing about is let pass; `unknown` counts them."""

    def __init__(self) -> None:
        self.unknown = 0

    def judge(self, cases: Sequence[tuple[Asked, Claim]]) -> list[Verdict]:
        return [self._one(asked, claim) for asked, claim in cases]

    def _one(self, asked: Asked, claim: Claim) -> Verdict:
        if asked.objects is None:
            raise CpmvError("the judge 'truth' needs drawn scenes, whose contents are known; choose self or a model")
        if claim.shape is None:
            self.unknown += 1
            return Verdict(1.0, 0.0)
        colour, shape, number = claim.shape
        there = Counter(asked.objects)[colour, shape] >= number
        return Verdict(1.0, 0.0) if there else Verdict(0.0, 1.0)


class ModelJudge:
    """A model answers. max_tokens: of questions computed at once. Equal questions about a picture are asked once."""

    def __init__(
        self,
        model: MiniCPMV,
        tokenizer: Tokenizer,
        processor: Processor,
        reading: Reading,
        *,
        max_tokens: int = 4096,
        autocast: torch.dtype | None = None,
    ) -> None:
        self._model, self._processor, self._reading = model, processor, reading
        self._max_tokens, self._autocast = max(max_tokens, reading.max_tokens + 64), autocast
        yes = spellings(tokenizer, YES)
        self._yes, self._all = len(yes), yes + spellings(tokenizer, NO)

    def judge(self, cases: Sequence[tuple[Asked, Claim]]) -> list[Verdict]:
        keys = [(str(asked.image), claim.question) for asked, claim in cases]
        unique = {key: case for key, case in zip(reversed(keys), reversed(cases), strict=True)}
        asked = [self._inputs(one, claim) for one, claim in unique.values()]
        found = probabilities(self._model, asked, self._all, self._max_tokens, self._autocast)
        verdicts = {
            key: Verdict(float(row[: self._yes].sum()), float(row[self._yes :].sum()))
            for key, row in zip(unique, found, strict=True)
        }
        return [verdicts[key] for key in keys]

    def _inputs(self, asked: Asked, claim: Claim) -> ModelInputs:
        return self._processor(
            asked.messages(claim.question),
            enable_thinking=False,
            max_inp_length=self._reading.max_tokens,
            **self._reading.media(),
        )


def spellings(tokenizer: Tokenizer, words: Sequence[str]) -> list[tuple[int, ...]]:
    """Token ids of each word, without those that begin with another's: their probability is in that one already.

    A vocabulary of small pieces spells words in several tokens; then only the plain forms in `_PLAIN` are looked at.
    """
    ids_of = {word: tuple(tokenizer.encode_plain(word)) for word in words}
    found = list(dict.fromkeys(ids for word, ids in ids_of.items() if len(ids) == 1 or word in _PLAIN))
    return [ids for ids in found if not any(ids != other and ids[: len(other)] == other for other in found)]


@torch.no_grad()
def probabilities(
    model: MiniCPMV,
    prompts: Sequence[ModelInputs],
    continuations: Sequence[tuple[int, ...]],
    max_tokens: int,
    autocast: torch.dtype | None = None,
) -> Tensor:
    """How likely each prompt goes on with each continuation, float32 [prompts, continuations] on the CPU."""
    begins = {ids[:-1] for ids in continuations}
    # The longest beginnings hold the shorter ones.
    begins = {b for b in begins if not any(b != other and other[: len(b)] == b for other in begins)}
    samples = [(index, begin) for index in range(len(prompts)) for begin in sorted(begins)]
    rows = [_extended(prompts[index], begin) for index, begin in samples]
    out = torch.zeros(len(prompts), len(continuations))
    was_training = model.training
    model.eval()
    for row in pack([len(r) for r in rows], max_tokens):
        batch = [rows[i] for i in row]
        with torch.autocast(model.device.type, autocast or torch.bfloat16, enabled=autocast is not None):
            hidden, start = packed_hidden(model, batch), 0
            places: list[int] = []
            for i in row:
                start += len(rows[i])
                places += range(start - len(samples[i][1]) - 1, start)
            logs = model.llm.head(hidden[torch.tensor(places, device=hidden.device)]).float().log_softmax(-1).cpu()
        start = 0
        for i in row:
            index, begin = samples[i]
            for column, ids in enumerate(continuations):
                if begin[: len(ids) - 1] == ids[:-1]:
                    steps = torch.arange(start, start + len(ids))
                    out[index, column] = logs[steps, torch.tensor(ids)].sum().exp()
            start += len(begin) + 1
    model.train(was_training)
    return out


def _extended(inputs: ModelInputs, ids: Sequence[int]) -> ModelInputs:
    more = torch.tensor(list(ids), dtype=inputs.input_ids.dtype)
    return replace(inputs, input_ids=torch.cat((inputs.input_ids, more)), labels=None)
