"""A step that has been launched and whose tokens have not been read: while it computes, the next one can be launched.

On a GPU the host's part of a step (plans, text, callbacks) would leave the card idle. So when nothing but decoding
remains, step n + 1 is launched before the tokens of step n are known here: it reads them on the device. A row whose
answer turns out to have ended was computed once in vain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .request import Request
from .scheduler import Work


class Tokens:
    """Chosen tokens [B] on their way to the host."""

    def __init__(self, tokens: Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        self._tokens = tokens
        if tokens.is_cuda:
            self._tokens = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
            self._tokens.copy_(tokens, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        elif tokens.device.type == "cpu":
            self._tokens = tokens.clone()  # the next step may write over them

    def read(self) -> list[int]:
        """Wait for them."""
        if self._arrived is not None:
            self._arrived.synchronize()
        tokens: list[int] = self._tokens.tolist()
        return tokens


@dataclass
class Flight:
    """The works of a launched step, the request of each row that decides, its logits [B, V] and its tokens.

    logits are only there until another step is launched; tokens is None where nothing was decided.
    """

    works: list[Work]
    rows: list[Request]
    logits: Tensor
    tokens: Tensor | None
    arriving: Tokens | None

    @property
    def is_wanted(self) -> bool:
        """Whether any of its requests still goes on."""
        return any(work.request.output is None for work in self.works)


def can_read_on(works: Sequence[Work]) -> bool:
    """Whether the next step of these rows is certain before their tokens are known: every one goes on decoding unless
    it ends by itself, and what it chooses from depends on nothing that happens on the host."""
    return all(work.decides and not work.drafts and _goes_on(work.request) for work in works)


def _goes_on(request: Request) -> bool:
    known = request.num_generated + 1  # with the token that is being computed
    return (
        not request.cancelled
        and request.constraint is None
        and request.lookup is None
        and request.params.logprobs is None
        and request.params.min_new_tokens <= request.num_generated
        and known < request.answer.max_new_tokens
    )
