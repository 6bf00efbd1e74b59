"""From chosen tokens to what a person reads: `Answer` grows token by token, `Output` is the end, `Piece` a part of it.

An `Answer` turns tokens into text as they come, ends at a terminator, a stop string or the length, and never shows
half a character. The answer without its thinking, the thinking, and the reference's raw form come from the same text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..inputs.text import Detokenizer, ThinkingSplitter, Tokenizer
from .sampling import SamplingParams, TokenLogprob

FinishReason = Literal["stop", "length", "cancelled", "error"]

THINKING_PREFIX = "<think>\n"  # the prompt's last words when thinking; the reference repeats them before the answer


@dataclass(frozen=True)
class Piece:
    """A part of an answer as it streams in: text, whether it is thinking or answer, and the tokens that completed it.

    The terminator belongs to no piece; a token that completes several pieces belongs to the first.
    """

    text: str
    kind: Literal["thinking", "answer"]
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None = None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Output:
    """A finished answer.

    token_ids: all that was generated, the terminator included. text: the answer without its thinking, stripped.
    thinking: the reasoning before it, "" without. raw_text: the reference's form, reasoning and tags included.
    finish_reason: "stop" (terminator or stop string), "length" (max_new_tokens or the context), "cancelled", or "error"
    (of the engine's requests, which hold the error).
    logprobs: one entry a token, when asked for. num_prompt_tokens: length of the prompt, picture tokens included.
    """

    token_ids: list[int]
    text: str
    thinking: str
    raw_text: str
    finish_reason: FinishReason
    logprobs: list[TokenLogprob] | None
    num_prompt_tokens: int


class Answer:
    """One answer in the making. `add` tokens until `finish_reason` is set; `text` is what they say so far.

    max_new_tokens: of the parameters, or fewer when the context is full before. thinking: whether the prompt ended
    inside a `<think>` block. skip: ids that leave no text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        params: SamplingParams,
        *,
        max_new_tokens: int,
        num_prompt_tokens: int,
        thinking: bool = False,
        skip: tuple[int, ...] = (),
        keep_bos: bool = False,
    ) -> None:
        self.params, self.max_new_tokens, self.num_prompt_tokens = params, max_new_tokens, num_prompt_tokens
        self.thinking = thinking
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] | None = None if params.logprobs is None else []
        self.finish_reason: FinishReason | None = None
        self.text = ""
        self._skip = frozenset(skip)
        self._bos = None if keep_bos else tokenizer.bos_token_id
        self._at_start = True  # no token that leaves text has come yet
        self._terminators = frozenset(tokenizer.eos_token_ids)
        self._tokenizer, self._detokenizer = tokenizer, Detokenizer(tokenizer)

    def add(self, token_id: int, logprob: TokenLogprob | None = None) -> None:
        """Take the next token."""
        assert self.finish_reason is None
        self.token_ids.append(token_id)
        if self.logprobs is not None and logprob is not None:
            self.logprobs.append(logprob)
        if self.is_terminator(token_id):
            self.finish("stop")
            return
        # The reference drops a leading <|im_start|>, after it has dropped the ids that leave no text.
        if token_id not in self._skip:
            if not (self._at_start and token_id == self._bos):
                self._extend(self._detokenizer.put(token_id))
            self._at_start = False
        if self.finish_reason is None and len(self.token_ids) >= self.max_new_tokens:
            self.finish("length")

    def _extend(self, new: str) -> None:
        known = len(self.text)
        self.text += new
        # A stop string may have begun in earlier tokens.
        found = [self.text.find(stop, max(0, known - len(stop) + 1)) for stop in self.params.stop]
        cuts = [at for at in found if at >= 0]
        if cuts:
            self.text = self.text[: min(cuts)]
            self.finish_reason = "stop"

    def finish(self, reason: FinishReason) -> None:
        """End the answer; a character that was never completed becomes U+FFFD."""
        self._extend(self._detokenizer.flush())
        self.finish_reason = reason

    def is_terminator(self, token_id: int) -> bool:
        return token_id in self._terminators

    def has_stop_string(self, token_ids: Sequence[int]) -> bool:
        """Whether other tokens (a beam's), as this answer, would have a stop string in what came last."""
        if not self.params.stop:
            return False
        stops = [stop.encode() for stop in self.params.stop]
        kept = [token for token in token_ids if token not in self._skip]
        if kept[:1] == [self._bos]:
            kept = kept[1:]
        # A stop string spans at most as many tokens as it has bytes.
        recent = b"".join(self._tokenizer.token_bytes(token) for token in kept[-max(map(len, stops)) :])
        return any(stop in recent for stop in stops)

    @property
    def terminated(self) -> bool:
        """Whether the last token is a terminator."""
        return bool(self.token_ids) and self.is_terminator(self.token_ids[-1])

    @property
    def settled(self) -> int:
        """How many characters of `text` will stay, whatever comes: all but the beginning of a stop string."""
        if self.finish_reason is not None:
            return len(self.text)
        for held in range(max((len(stop) for stop in self.params.stop), default=1) - 1, 0, -1):
            tail = self.text[-held:]
            if any(stop.startswith(tail) for stop in self.params.stop):
                return len(self.text) - len(tail)
        return len(self.text)

    def output(self) -> Output:
        """Return the finished answer."""
        assert self.finish_reason is not None
        splitter = ThinkingSplitter(self.thinking)
        parts = splitter.put(self.text) + splitter.flush()
        return Output(
            token_ids=self.token_ids,
            text="".join(text for kind, text in parts if kind == "answer").strip(),
            thinking="".join(text for kind, text in parts if kind == "thinking").strip(),
            raw_text=(THINKING_PREFIX if self.thinking else "") + self.text.strip(),
            finish_reason=self.finish_reason,
            logprobs=self.logprobs,
            num_prompt_tokens=self.num_prompt_tokens,
        )


class PieceSplitter:
    """Cuts an `Answer` that grows into pieces. raw: one kind of text, tags and thinking as they come."""

    def __init__(self, answer: Answer, raw: bool = False) -> None:
        self._answer = answer
        self._splitter = None if raw else ThinkingSplitter(answer.thinking)
        self._num_chars = self._num_tokens = 0  # of the answer, already given out

    def take(self) -> list[Piece]:
        """Return what is new since the last call; after the last token, all that is left."""
        answer = self._answer
        end = answer.settled
        new, self._num_chars = answer.text[self._num_chars : end], end
        if self._splitter is None:
            parts = [("answer", new)] if new else []
        else:
            parts = self._splitter.put(new)
            if answer.finish_reason is not None:
                parts += self._splitter.flush()
        return [self._piece(kind, text) for kind, text in parts]

    def _piece(self, kind: str, text: str) -> Piece:
        answer, since = self._answer, self._num_tokens
        self._num_tokens = len(answer.token_ids)
        if answer.terminated:
            self._num_tokens -= 1
        ids = answer.token_ids[since : self._num_tokens]
        logprobs = None if answer.logprobs is None else answer.logprobs[since : self._num_tokens]
        return Piece(text, "thinking" if kind == "thinking" else "answer", ids, logprobs)
