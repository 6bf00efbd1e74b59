"""The plain loop: prompts in, answers out. `generate` for whole answers and batches, `stream` for one as it comes.

Prompts are embedded, left-padded and read (`batch`), tokens are chosen (`sampling`, `beam`) and become text
(`output`). Rows that have finished leave the batch. Nothing here is faster than it must be; it is the truth other
engines are compared with. One synchronisation with the device a token.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import overload

from torch import Tensor

from ..errors import ContextLengthError, MessageError
from ..inputs.text import Tokenizer
from ..model.config import ModelInputs
from ..model.minicpmv import MiniCPMV
from . import beam
from .batch import Batch
from .output import Answer, Output, Piece, PieceSplitter
from .sampling import Sampler, SamplingParams, TokenLogprob, read_logprobs

# The published code pads with id 0, and so mistakes the token of that id ("!") for padding.
_REFERENCE_PAD_ID = 0


@overload
def generate(
    model: MiniCPMV,
    tokenizer: Tokenizer,
    inputs: ModelInputs,
    params: SamplingParams | Sequence[SamplingParams],
    *,
    thinking: bool = ...,
    compat: str | None = ...,
    prefill_chunk: int | None = ...,
    on_token: Callable[[int, int], None] | None = ...,
    should_stop: Callable[[], bool] | None = ...,
) -> Output: ...


@overload
def generate(
    model: MiniCPMV,
    tokenizer: Tokenizer,
    inputs: Sequence[ModelInputs],
    params: SamplingParams | Sequence[SamplingParams],
    *,
    thinking: bool = ...,
    compat: str | None = ...,
    prefill_chunk: int | None = ...,
    on_token: Callable[[int, int], None] | None = ...,
    should_stop: Callable[[], bool] | None = ...,
) -> list[Output]: ...


def generate(
    model: MiniCPMV,
    tokenizer: Tokenizer,
    inputs: ModelInputs | Sequence[ModelInputs],
    params: SamplingParams | Sequence[SamplingParams],
    *,
    thinking: bool = False,
    compat: str | None = None,
    prefill_chunk: int | None = None,
    on_token: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Output | list[Output]:
    """Answer one prompt, or a list of them as one batch.

    params: one for all, or one for each. thinking: the prompts ended inside a `<think>` block. compat="reference":
    repeat the published code's mistakes with token id 0 (masked in prompts, dropped from answers). prefill_chunk:
    read prompts so many positions at a time, to the same result in less memory. on_token: called with (index of the
    prompt, token id), for beams once the answer is known. should_stop: asked before each step; true ends all with
    finish_reason "cancelled".
    Raises ContextLengthError for a prompt that leaves no room for an answer; an answer that fills the context ends
    with finish_reason "length".
    """
    prompts = [inputs] if isinstance(inputs, ModelInputs) else list(inputs)
    each = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
    if len(each) != len(prompts):
        raise MessageError(f"{len(each)} sampling parameters were given for {len(prompts)} prompts; give one for each")
    masked_id = _REFERENCE_PAD_ID if is_reference(compat) else None
    _check_chunk(prefill_chunk)
    skip = () if masked_id is None else (masked_id,)
    answers = [
        _new_answer(model, tokenizer, prompt, one, thinking, skip) for prompt, one in zip(prompts, each, strict=True)
    ]
    for num_beams in dict.fromkeys(one.num_beams for one in each):
        chosen = [index for index, one in enumerate(each) if one.num_beams == num_beams]
        group = [answers[index] for index in chosen]
        longest = max(answer.max_new_tokens for answer in group)
        batch = Batch(model, [prompts[index] for index in chosen], longest, masked_id=masked_id)
        sampler = _new_sampler(model, tokenizer, group)
        decode = _decode if num_beams == 1 else _search
        for row, token in decode(batch, sampler, group, prefill_chunk, should_stop):
            if on_token is not None:
                on_token(chosen[row], token)
    outputs = [answer.output() for answer in answers]
    return outputs[0] if isinstance(inputs, ModelInputs) else outputs


class Stream(Iterator[Piece]):
    """Pieces of an answer as it is generated, in the caller's thread. `close` ends the work.

    output: the whole answer, once the pieces are used up or the stream is closed; None before.
    """

    def __init__(self, answer: Answer, pieces: Generator[Piece, None, None]) -> None:
        self._answer, self._pieces = answer, pieces
        self.output: Output | None = None

    def __next__(self) -> Piece:
        try:
            return next(self._pieces)
        except StopIteration:
            self.close()
            raise

    def close(self) -> None:
        """Stop generating. What has been generated is in `output`, with finish_reason "cancelled" if it is not all."""
        self._pieces.close()
        if self.output is None:
            if self._answer.finish_reason is None:
                self._answer.finish("cancelled")
            self.output = self._answer.output()


def stream(
    model: MiniCPMV,
    tokenizer: Tokenizer,
    inputs: ModelInputs,
    params: SamplingParams,
    *,
    thinking: bool = False,
    raw: bool = False,
    prefill_chunk: int | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Stream:
    """Answer one prompt piece by piece, never half a character, thinking apart from the answer.

    raw: pieces as the published code streams them, where thinking and its tags are text like any other. Its stream
    knows no mistakes with token id 0, so there is nothing to be compatible with. Other arguments as in `generate`.
    Mistakes are raised here, before the first piece is asked for.
    """
    if params.num_beams > 1:
        raise MessageError(f"num_beams={params.num_beams} cannot stream: beams are known only at the end; use generate")
    _check_chunk(prefill_chunk)
    answer = _new_answer(model, tokenizer, inputs, params, thinking, keep_bos=raw)
    return Stream(answer, _pieces(model, tokenizer, inputs, answer, raw, prefill_chunk, should_stop))


def _pieces(
    model: MiniCPMV,
    tokenizer: Tokenizer,
    inputs: ModelInputs,
    answer: Answer,
    raw: bool,
    prefill_chunk: int | None,
    should_stop: Callable[[], bool] | None,
) -> Generator[Piece, None, None]:
    batch = Batch(model, [inputs], answer.max_new_tokens)
    splitter = PieceSplitter(answer, raw)
    for _ in _decode(batch, _new_sampler(model, tokenizer, [answer]), [answer], prefill_chunk, should_stop):
        yield from splitter.take()
    if answer.finish_reason == "cancelled":
        yield from splitter.take()


def _decode(
    batch: Batch,
    sampler: Sampler,
    answers: list[Answer],
    prefill_chunk: int | None,
    should_stop: Callable[[], bool] | None,
) -> Iterator[tuple[int, int]]:
    """Choose tokens until every answer is finished; yield (index of the answer, token) for each."""
    going = list(range(len(answers)))  # the answer each row of the batch belongs to
    logits = batch.prefill(prefill_chunk)
    while True:
        if should_stop is not None and should_stop():
            for index in going:
                answers[index].finish("cancelled")
            return
        chosen = sampler.choose(logits)
        sampler.accept(chosen)
        tokens = chosen.tolist()  # the step's one synchronisation
        reports = _logprobs(logits, tokens, [answers[index].params.logprobs for index in going])
        for index, token, report in zip(going, tokens, reports, strict=True):
            answers[index].add(token, report)
            yield index, token
        rows = [row for row, index in enumerate(going) if answers[index].finish_reason is None]
        if not rows:
            return
        if len(rows) < len(going):
            going = [going[row] for row in rows]
            batch.select(rows)
            sampler.select(rows)
            chosen = chosen[rows]
        logits = batch.step(chosen)


def _search(
    batch: Batch,
    sampler: Sampler,
    answers: list[Answer],
    prefill_chunk: int | None,
    should_stop: Callable[[], bool] | None,
) -> Iterator[tuple[int, int]]:
    """Search with beams; then yield (index of the answer, token) for each."""
    beam.search(batch, sampler, answers, prefill_chunk=prefill_chunk, should_stop=should_stop)
    for index, answer in enumerate(answers):
        yield from ((index, token) for token in answer.token_ids)


def _logprobs(logits: Tensor, tokens: list[int], num_top: list[int | None]) -> list[TokenLogprob | None]:
    """Report on the rows' chosen tokens; None for rows that ask for nothing."""
    wanted = {row: num for row, num in enumerate(num_top) if num is not None}
    found = read_logprobs(logits, list(wanted), [tokens[row] for row in wanted], list(wanted.values()))
    reports = dict(zip(wanted, found, strict=True))
    return [reports.get(row) for row in range(len(tokens))]


def _new_sampler(model: MiniCPMV, tokenizer: Tokenizer, answers: list[Answer]) -> Sampler:
    return Sampler(
        [answer.params for answer in answers],
        tokenizer.eos_token_ids,
        model.config.language.vocab_size,
        model.device,
    )


def _new_answer(
    model: MiniCPMV,
    tokenizer: Tokenizer,
    inputs: ModelInputs,
    params: SamplingParams,
    thinking: bool,
    skip: tuple[int, ...] = (),
    keep_bos: bool = False,
) -> Answer:
    """Begin an answer, bounded by the room its prompt leaves in the context."""
    limit = model.config.language.max_position_embeddings
    room = limit - len(inputs)
    if room < 1:
        raise ContextLengthError(len(inputs), limit - 1, f"the context ({limit}, one kept for the answer)")
    return Answer(
        tokenizer,
        params,
        max_new_tokens=min(params.max_new_tokens, room),
        num_prompt_tokens=len(inputs),
        thinking=thinking,
        skip=skip,
        keep_bos=keep_bos,
    )


def _check_chunk(prefill_chunk: int | None) -> None:
    if prefill_chunk is not None and prefill_chunk < 1:
        raise MessageError(f"prefill_chunk={prefill_chunk} is not allowed; give at least 1, or None for all at once")


def is_reference(compat: str | None) -> bool:
    """Whether the published code's mistakes are asked for. Raises MessageError for an unknown `compat`."""
    if compat not in (None, "reference"):
        raise MessageError(f"compat={compat!r} is unknown; use None or 'reference'")
    return compat is not None
