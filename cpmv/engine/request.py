"""One request to the engine: what was asked, how far it is, and when things happened.

Callers read `output`, `error` and `timing`; the rest belongs to the engine's parts. The scheduler moves
`num_computed` and `blocks`, the engine appends tokens, and nothing here touches a tensor but the constraint's mask.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..model.config import ModelInputs
from .blocks import BlockKeys
from .image_cache import PromptMedia
from .lookup import Lookup
from .output import Answer, FinishReason, Output, Piece, PieceSplitter
from .sampling import SamplingParams, TokenLogprob


class Constraint(Protocol):
    """What an answer may be, token by token (a grammar, a schema, a choice)."""

    def allowed(self) -> Tensor:
        """Return which tokens may come next, bool [V] on the CPU."""
        ...

    def accept(self, token_id: int) -> None:
        """Take the token that was chosen."""
        ...


@dataclass
class Timing:
    """When things happened to a request, in seconds of `time.perf_counter`; None where they have not.

    num_cached_tokens: of the prompt, taken from blocks that others had computed, when it was first admitted.
    num_preemptions: how often it lost its place for want of cache and was computed again.
    """

    arrived: float
    admitted: float | None = None
    first_token: float | None = None
    finished: float | None = None
    num_cached_tokens: int = 0
    num_preemptions: int = 0


class Request:
    """A request in the engine's hands, as `Engine.add` returns it. Callers only read it.

    output: the answer, once it is finished. error: what went wrong, for finish_reason "error".
    """

    def __init__(
        self,
        id: int,
        inputs: ModelInputs,
        answer: Answer,
        media: PromptMedia,
        keys: BlockKeys,
        *,
        client: str = "",
        raw: bool = False,
        constraint: Constraint | None = None,
        on_piece: Callable[[Request, Piece | None], None] | None = None,
        lookup: Lookup | None = None,
        arrived: float = 0.0,
    ) -> None:
        self.id, self.inputs, self.client = id, inputs, client
        self.params: SamplingParams = answer.params
        self.thinking = answer.thinking
        self.output: Output | None = None
        self.error: Exception | None = None
        self.timing = Timing(arrived)

        self.answer = answer
        self.constraint = constraint
        self.on_piece = on_piece
        self.splitter = PieceSplitter(answer, raw)
        self.tokens: list[int] = inputs.input_ids.tolist()  # prompt and answer
        self.num_prompt = len(self.tokens)
        self.lookup = lookup
        self.media, self.keys = media, keys
        self.features: dict[int, Tensor] = {}  # encoded groups whose tokens are not all computed yet

        self.blocks: list[int] = []
        self.num_published = 0  # of its blocks, known to others by their keys or taken from them
        self.num_computed = 0  # tokens whose keys and values are in the blocks
        self.slot: int | None = None  # its row among those that run together
        self.generator: torch.Generator | None = None  # of its draws, when it has a seed of its own
        self.cancelled = False
        self.raw = raw
        self._news = threading.Condition()  # held while the answer changes or is read

    def __repr__(self) -> str:
        state = self.output.finish_reason if self.output is not None else f"{self.num_generated} tokens so far"
        return f"Request({self.id}, {self.num_prompt} prompt tokens, {state})"

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def num_left(self) -> int:
        """Tokens to compute before the next can be chosen; 1 while it decodes."""
        return len(self.tokens) - self.num_computed

    @property
    def max_tokens(self) -> int:
        """The most tokens it will ever have, prompt included."""
        return self.num_prompt + self.answer.max_new_tokens

    def append(self, token: int, logprob: TokenLogprob | None) -> None:
        """Take a chosen token."""
        with self._news:
            self.tokens.append(token)
            self.answer.add(token, logprob)
            self._news.notify_all()
        if self.lookup is not None:
            self.lookup.append(token)
        if self.constraint is not None and self.answer.finish_reason is None:
            self.constraint.accept(token)

    def end(self, reason: FinishReason) -> None:
        """End an answer that has not ended by itself."""
        if self.answer.finish_reason is None:
            with self._news:
                self.answer.finish(reason)

    def settle(self) -> None:
        """Set the output of an answer that has ended, and tell whoever waits."""
        with self._news:
            self.output = self.answer.output()
            self._news.notify_all()

    def take(self, splitter: PieceSplitter) -> list[Piece]:
        """Return what a splitter of this answer has not given out yet."""
        with self._news:
            return splitter.take()

    def wait_for_news(self, known: int, timeout_s: float = 1.0) -> None:
        """Wait until more than `known` tokens are generated, or the request has ended, or time is up."""
        with self._news:
            self._news.wait_for(lambda: self.output is not None or self.num_generated > known, timeout_s)
