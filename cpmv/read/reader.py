"""Ask the model about pictures of writing, many at once, and notice when it repeats itself.

`Reader` stands between pages and the engine: `submit` hands a picture in and returns at once, `Pending.result` waits.
An answer that runs in circles is stopped while it is being written and asked for once more with a penalty on
repetition; if that runs in circles too, what came before the circle is kept and marked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..engine.sampling import SamplingParams
from .merge import find_loop

if TYPE_CHECKING:
    from PIL import Image

    from ..engine.engine import Engine
    from ..engine.output import Piece
    from ..engine.request import Constraint, Request
    from ..inputs.processor import Processor

RETRY_PENALTY = 1.2  # on tokens already written, for the second try
_LOOK_EVERY = 32  # characters written between looks for a loop


@dataclass(frozen=True)
class Reading:
    """What was read. problem: "" or why it may be wrong, in words for the reader of the output."""

    text: str
    problem: str = ""


class Pending(Protocol):
    """A question on its way."""

    def result(self) -> Reading: ...


class Asker(Protocol):
    """What pages need of a reader; tests have their own."""

    def submit(
        self,
        pictures: Sequence[Image.Image],
        question: str,
        *,
        max_slice_nums: int,
        max_new_tokens: int,
        constraint: Callable[[int], Constraint] | None = None,
    ) -> Pending: ...


class Reader:
    """Asks through an engine, greedily."""

    def __init__(self, engine: Engine, processor: Processor) -> None:
        self._engine, self._processor = engine, processor

    def submit(
        self,
        pictures: Sequence[Image.Image],
        question: str,
        *,
        max_slice_nums: int,
        max_new_tokens: int,
        constraint: Callable[[int], Constraint] | None = None,
    ) -> Pending:
        """Ask a question about pictures. constraint(max_new_tokens): makes what the answer must follow, a try each.

        Raises ContextLengthError when the pictures do not fit, MediaError for pictures that cannot be.
        """
        return _Try(self, pictures, question, max_slice_nums, max_new_tokens, constraint)

    def add(
        self,
        pictures: Sequence[Image.Image],
        question: str,
        max_slice_nums: int,
        params: SamplingParams,
        constraint: Constraint | None,
        on_piece: Callable[[Request, Piece | None], None],
    ) -> Request:
        inputs = self._processor([{"role": "user", "content": [*pictures, question]}], max_slice_nums=max_slice_nums)
        return self._engine.add(inputs, params, constraint=constraint, on_piece=on_piece, client="read")

    def wait(self, request: Request) -> str:
        """The words of an answer; raises what ended it, if something did. A cancelled one gives what there was."""
        output = self._engine.wait(request)
        if output.finish_reason == "error":
            raise request.error or RuntimeError("the answer broke off")
        return output.text

    def cancel(self, request: Request) -> None:
        self._engine.cancel(request)


class _Watch:
    """Follows one answer on the engine's thread and stops it when it runs in circles."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._text = ""
        self._looked = 0
        self.is_looping = False

    def __call__(self, request: Request, piece: Piece | None) -> None:
        if piece is None or self.is_looping or request.constraint is not None:
            return
        self._text += piece.text
        if len(self._text) - self._looked < _LOOK_EVERY:
            return
        self._looked = len(self._text)
        if find_loop(self._text) is not None:
            self.is_looping = True
            self._reader.cancel(request)


class _Try:
    """One question, asked at most twice."""

    def __init__(
        self,
        reader: Reader,
        pictures: Sequence[Image.Image],
        question: str,
        max_slice_nums: int,
        max_new_tokens: int,
        constraint: Callable[[int], Constraint] | None,
    ) -> None:
        self._reader, self._pictures, self._question = reader, pictures, question
        self._max_slice_nums, self._max_new_tokens, self._constraint = max_slice_nums, max_new_tokens, constraint
        self._request, self._watch = self._ask(1.0)

    def _ask(self, penalty: float) -> tuple[Request, _Watch]:
        watch = _Watch(self._reader)
        params = SamplingParams(temperature=0, max_new_tokens=self._max_new_tokens, repetition_penalty=penalty)
        constraint = self._constraint(self._max_new_tokens) if self._constraint is not None else None
        request = self._reader.add(self._pictures, self._question, self._max_slice_nums, params, constraint, watch)
        return request, watch

    def result(self) -> Reading:
        text, loop, was_cut = self._wait()
        if loop is None or self._constraint is not None:  # what a schema holds ends by itself, and may repeat
            return Reading(text, "cut off at the longest answer" if was_cut else "")
        self._request, self._watch = self._ask(RETRY_PENALTY)
        again, loop_again, was_cut = self._wait()
        if loop_again is None and again and not was_cut:
            return Reading(again)
        return Reading(text[:loop].rstrip(), "the model repeated itself here; the rest of this part is missing")

    def _wait(self) -> tuple[str, int | None, bool]:
        text = self._reader.wait(self._request)
        assert self._request.output is not None
        return text, find_loop(text), self._request.output.finish_reason == "length"
