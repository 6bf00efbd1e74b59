"""From `Record`s to what the model takes, by the one processor; what cannot be used is named and left out.

Nothing is ever cut: a sample that is too long is dropped with its length, because a cut through a picture's tokens
leaves a sample that no longer means what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ContextLengthError, CpmvError, MediaError
from ..inputs.messages import Message, Text
from ..inputs.processor import Processor
from ..model.config import ModelInputs
from .formats import Source
from .records import BadSample, Problem, Record


@dataclass(frozen=True)
class Reading:
    """How samples are read. max_tokens: longest sample. max_slice_nums, fps, packing: None takes the checkpoint's, or
    what a sample says itself."""

    max_tokens: int = 4096
    max_slice_nums: int | None = None
    fps: float | None = None
    packing: int | None = None

    def media(self) -> dict[str, Any]:
        return {"max_slice_nums": self.max_slice_nums, "fps": self.fps, "packing": self.packing}


def answered(record: Record) -> list[Message]:
    """The conversation with an answer at its end: its own, or, of a prompt for rewards, the solution."""
    if record.messages[-1].role == "assistant":
        return record.messages
    if record.solution is None:
        raise BadSample("the conversation ends with the user and there is no solution, so there is nothing to learn")
    return [*record.messages, Message("assistant", [Text(str(record.solution))])]


def read_sample(
    processor: Processor, record: Record, reading: Reading, messages: list[Message] | None = None
) -> ModelInputs:
    """Open a record's media and return its tensors with labels. Raises CpmvError.

    messages: instead of the record's own, as its rejected conversation.
    """
    chosen = record.messages if messages is None else messages
    inputs = processor(
        chosen, enable_thinking=record.thinks, max_inp_length=reading.max_tokens, supervised=True, **reading.media()
    )
    check_learnt(inputs.labels.tolist() if inputs.labels is not None else [])
    return inputs


def measure(processor: Processor, messages: list[Message], thinks: bool, reading: Reading) -> tuple[int, int]:
    """Return tokens and learnt tokens of a conversation from the sizes of its media alone. Raises CpmvError."""
    ids, labels, _ = processor.encode(messages, enable_thinking=thinks, **reading.media())
    if len(ids) > reading.max_tokens:
        raise ContextLengthError(len(ids), reading.max_tokens, "--max-tokens")
    return len(ids), check_learnt(labels)


def check_learnt(labels: Sequence[int]) -> int:
    count = sum(label >= 0 for label in labels)
    if not count:
        raise BadSample("no token of it is learnt: the answers are empty")
    return count


def problem_of(source: Source, record: Record, error: CpmvError) -> Problem:
    """Name a record that turned out to be unusable."""
    kind = "sample"
    if isinstance(error, ContextLengthError):
        kind = "long"
    elif isinstance(error, MediaError):
        kind = "media"
    return Problem(source.path, record.line, " ".join(str(error).split()), kind)


def usable(
    sources: Sequence[Source],
    processor: Processor,
    reading: Reading,
    *,
    pairs: bool = False,
    strict: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[int]]:
    """Drop, in place, the records that cannot be trained on; return the tokens of those kept, by source.

    Only the sizes of media are read. pairs: a rejected answer is needed. Problems are added to their sources; with
    `strict` the first one is raised.
    """
    total, done = sum(len(source.records) for source in sources), 0
    lengths: list[list[int]] = []
    for source in sources:
        kept: list[Record] = []
        lengths.append([])
        for record in source.records:
            done += 1
            try:
                tokens = _tokens(processor, record, reading, pairs)
            except CpmvError as error:
                problem = problem_of(source, record, error)
                if strict:
                    raise CpmvError(f"{problem} (--strict was given)") from error
                source.problems.append(problem)
            else:
                kept.append(record)
                lengths[-1].append(tokens)
            if progress is not None:
                progress(done, total)
        source.records = kept
        source.problems.sort(key=lambda problem: problem.line)
    return lengths


def _tokens(processor: Processor, record: Record, reading: Reading, pairs: bool) -> int:
    if record.messages[-1].role != "assistant":
        raise BadSample("the conversation ends without an answer, so there is nothing to learn from it")
    tokens, _ = measure(processor, record.messages, record.thinks, reading)
    if not pairs:
        return tokens
    if record.rejected is None:
        raise BadSample("it has no rejected answer, which a preference pair needs")
    return tokens + measure(processor, record.rejected, record.thinks, reading)[0]
