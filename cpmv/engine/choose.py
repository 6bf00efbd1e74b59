"""The next token of every row of a step, where each row has come a different way.

`sampling.Sampler` serves rows that started together; here rows come and go. What is remembered of a row (the tokens it
must be penalised for, its generator) lies under its slot, so rows that run need no copying when others join or leave.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import MessageError
from .request import Request
from .sampling import Filters, TokenLogprob, as_column, penalize_repetition, read_logprobs


class Chooser:
    """num_slots: rows that run together. Rows are named by their requests, whose `slot` is set."""

    def __init__(self, num_slots: int, terminators: Sequence[int], vocab_size: int, device: torch.device) -> None:
        self._num_slots, self._vocab_size, self._device = num_slots, vocab_size, device
        self._terminators = torch.tensor(sorted(terminators), dtype=torch.int64, device=device)
        self._seen: Tensor | None = None  # bool [slots, V], made when a penalty first needs it
        self._rows: list[int] = []  # the requests that the columns below belong to
        self._filters: Filters | None = None
        self._plain = False  # whether every row takes the likeliest token as it comes
        self._penalty: Tensor | None = None
        self._slots: Tensor | None = None

    def seat(self, request: Request) -> None:
        """Begin or resume a row in its slot."""
        params = request.params
        if params.seed is not None and request.generator is None:
            request.generator = torch.Generator(self._device).manual_seed(params.seed)
        if params.repetition_penalty != 1:
            if self._seen is None:
                shape = (self._num_slots, self._vocab_size)
                self._seen = torch.zeros(shape, dtype=torch.bool, device=self._device)
            self._seen[request.slot] = False
            if request.num_generated:
                generated = torch.tensor(request.tokens[request.num_prompt :], device=self._device)
                self._seen[request.slot, generated] = True

    @torch.inference_mode()
    def choose(self, requests: Sequence[Request], logits: Tensor, likeliest: Tensor | None = None) -> Tensor:
        """Choose a token for each row of float32 logits [B, V], int64 [B]. A request may stand for several rows.

        likeliest: int64 [B], the arguments of the rows' maxima, where they are known already.
        """
        self._set_rows(requests)
        assert self._filters is not None
        if likeliest is not None and self._plain and not any(map(_is_held, requests)):
            return likeliest
        scores = logits
        if self._penalty is not None:
            assert self._seen is not None
            scores = penalize_repetition(scores, self._seen[self._slots], self._penalty)
        scores = self._ban_early_ends(requests, scores)
        scores = self._constrain(requests, scores)
        tokens = self._filters.choose(scores, [request.generator for request in requests])
        if self._penalty is not None:
            assert self._seen is not None
            self._seen[self._slots, tokens] = True
        return tokens

    def _set_rows(self, requests: Sequence[Request]) -> None:
        """Make the parameters' columns, unless the rows are those of the last step."""
        rows = [request.id for request in requests]
        if rows == self._rows:
            return
        params = [request.params for request in requests]
        self._filters = Filters(params, self._device)
        self._plain = all(p.greedy and p.repetition_penalty == 1 for p in params)
        self._penalty = None
        if any(p.repetition_penalty != 1 for p in params):
            self._penalty = as_column([p.repetition_penalty for p in params], self._device)
            slots = [request.slot for request in requests]
            self._slots = torch.tensor(slots, dtype=torch.int64, device=self._device)
        # A row that gave way and came back may have another slot.
        self._rows = rows

    def forget_rows(self) -> None:
        """Rows have changed places."""
        self._rows = []

    def _ban_early_ends(self, requests: Sequence[Request], scores: Tensor) -> Tensor:
        early = [_is_early(request) for request in requests]
        if not any(early):
            return scores
        banned = torch.zeros_like(scores, dtype=torch.bool)
        banned[:, self._terminators] = torch.tensor(early, device=self._device)[:, None]
        return scores.masked_fill(banned, -math.inf)

    def _constrain(self, requests: Sequence[Request], scores: Tensor) -> Tensor:
        """Leave each row the tokens its constraint allows. A constraint that only allows an end outdoes a minimum."""
        rows = [row for row, request in enumerate(requests) if request.constraint is not None]
        if not rows:
            return scores
        scores = scores.clone()
        for row in rows:
            request = requests[row]
            assert request.constraint is not None
            allowed = request.constraint.allowed()
            if allowed.shape != (self._vocab_size,):
                raise ConstraintError(
                    request, f"the constraint speaks of {tuple(allowed.shape)} tokens, the model of {self._vocab_size}"
                )
            if not bool(allowed.any()):
                raise ConstraintError(request, "the constraint allows no token; it must allow an end at the least")
            masked = scores[row].masked_fill(~allowed.to(self._device), -math.inf)
            if _is_early(request) and not bool(masked.isfinite().any()):
                masked = torch.zeros_like(masked).masked_fill(~allowed.to(self._device), -math.inf)
            scores[row] = masked
        return scores


def _is_early(request: Request) -> bool:
    """Whether the answer may not end yet."""
    return request.num_generated < request.params.min_new_tokens


def _is_held(request: Request) -> bool:
    """Whether something forbids the request some tokens."""
    return request.constraint is not None or _is_early(request)


class ConstraintError(MessageError):
    """A constraint that cannot be followed; `request` is the one that brought it."""

    def __init__(self, request: Request, message: str) -> None:
        super().__init__(message)
        self.request = request


def report(requests: Sequence[Request], logits: Tensor, tokens: Sequence[int]) -> list[TokenLogprob | None]:
    """Report on the chosen tokens of rows [B, V]; None for rows that ask for nothing."""
    wanted = {row: r.params.logprobs for row, r in enumerate(requests) if r.params.logprobs is not None}
    if not wanted:
        return [None] * len(tokens)
    found = read_logprobs(logits, list(wanted), [tokens[row] for row in wanted], list(wanted.values()))
    reports: dict[int, TokenLogprob] = dict(zip(wanted, found, strict=True))
    return [reports.get(row) for row in range(len(tokens))]
