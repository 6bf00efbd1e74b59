"""The run: inputs are decoded in threads ahead of need, the engine is kept full, results go to the journal in groups.

At most `window` inputs are between the source and the journal, and what is prepared but not yet answered is bounded in
bytes, so memory does not grow with the job. Every input that went in comes out once, as an answer or as an error.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import ContextLengthError, CpmvError, MediaError
from ..serve.errors import ApiError
from ..serve.structured import Grammars
from .bodies import Ask, Defaults, make_ready, read_call
from .results import answered, refused
from .sources import Item, LineError, Source

if TYPE_CHECKING:
    from ..engine.engine import Engine, Request
    from ..engine.output import Piece
    from ..inputs.processor import Processor
    from ..model.config import ModelInputs
    from ..serve.answers import Choice, Reply

log = logging.getLogger("cpmv")

PREPARED_BYTES = 1 << 30  # most pixels that wait, decoded, for the engine
MAX_FAILURES_IN_A_ROW = 20  # of ours, not of inputs; then something is broken and going on would only spoil results
MAX_NAMED = 10  # failures told at the end; OUT names all
_NO_REQUEST = {"invalid_json_line", "missing_custom_id", "duplicate_custom_id"}


@dataclass
class Tally:
    """How far a run is."""

    total: int
    done: int = 0  # those of earlier runs included
    failed: int = 0
    tokens: int = 0  # written in this run
    named: list[str] = field(default_factory=list)  # the first failures, "custom_id: message"

    def count(self, result: dict[str, Any]) -> None:
        self.done += 1
        error = result["error"]
        if error is not None:
            self.failed += 1
            if len(self.named) < MAX_NAMED:
                self.named.append(f"{result['custom_id']}: {error['message']}")
        elif "response" in result:
            self.tokens += result["response"]["body"]["usage"]["completion_tokens"]


class EngineFailure(CpmvError):
    """The engine failed again and again; the inputs are not to blame."""


class Budget:
    """A bound on bytes held. One holder is always let in, however much it needs."""

    def __init__(self, limit: int) -> None:
        self._limit, self._held, self._closed = limit, 0, False
        self._changed = threading.Condition()

    def take(self, size: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._held or self._held + size <= self._limit)
            self._held += size

    def give_back(self, size: int) -> None:
        with self._changed:
            self._held -= size
            self._changed.notify_all()

    def close(self) -> None:
        """Let everybody in: the run ends."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Worker:
    """Answers items with one model: `submit` from any thread, the result comes through `deliver`, exactly once."""

    def __init__(
        self,
        source: Source,
        processor: Processor,
        engine: Engine,
        defaults: Defaults,
        model: str,
        deliver: Callable[[dict[str, Any]], None],
        prepared_bytes: int = PREPARED_BYTES,
    ) -> None:
        make_ready()
        self._source, self._processor, self._engine = source, processor, engine
        self._defaults, self._model, self._deliver = defaults, model, deliver
        self._grammars = Grammars(processor.tokenizer, processor.config.language.vocab_size)
        self._budget = Budget(prepared_bytes)
        self._stopped = threading.Event()
        self._requests: set[Request] = set()
        self._lock = threading.Lock()

    def submit(self, item: Item) -> None:
        """Read, decode and hand one item to the engine; whatever is wrong with it becomes its result."""
        if self._stopped.is_set():
            return
        try:
            if item.problem is not None:
                raise LineError(*item.problem)
            ask = read_call(self._source.read(item), self._defaults)
            self._begin(item, ask, ask.prepare(self._processor))
        except Exception as error:
            self._deliver(failure(item, error))

    def _begin(self, item: Item, ask: Ask, inputs: ModelInputs) -> None:
        params = ask.params(self._engine.capacity - len(inputs), self._processor.config.greedy)
        constraints = ask.constraints(self._grammars, params)
        pending = _Pending(self, item, ask.reply(item.id, self._model, inputs), ask.choices(self._processor), inputs)
        self._budget.take(pending.size)
        try:
            for index, (one, constraint) in enumerate(zip(params, constraints, strict=True)):
                if self._stopped.is_set():
                    raise EngineFailure("the run was stopped")
                on_piece = partial(pending.on_piece, index)
                request = self._engine.add(
                    inputs, one, thinking=ask.request.thinking, constraint=constraint, on_piece=on_piece
                )
                with self._lock:
                    self._requests.add(request)
        except BaseException:
            self._budget.give_back(pending.size)
            raise

    def finished(self, pending: _Pending) -> None:
        """Take the answers of an item; called on the engine's thread."""
        self._budget.give_back(pending.size)
        with self._lock:
            self._requests.difference_update(pending.finished)
        if not self._stopped.is_set():
            try:
                self._deliver(pending.result())
            except Exception as error:
                self._deliver(failure(pending.item, error))

    def stop(self) -> None:
        """Deliver nothing more; what the engine still works at is cancelled."""
        self._stopped.set()
        self._budget.close()
        with self._lock:
            requests = list(self._requests)
        for request in requests:
            self._engine.cancel(request)


class _Pending:
    """The answers to one item, on their way."""

    def __init__(self, worker: Worker, item: Item, reply: Reply, choices: list[Choice], inputs: ModelInputs) -> None:
        self._worker, self.item, self._reply, self._choices = worker, item, reply, choices
        self.size = inputs.patches.nbytes  # what it holds while it waits
        self.finished: dict[Request, int] = {}
        self._error: Exception | None = None

    def on_piece(self, index: int, request: Request, piece: Piece | None) -> None:
        choice = self._choices[index]
        if piece is not None:
            choice.take(piece)
            return
        self.finished[request] = index
        output = request.output
        if request.error is not None:
            self._error = request.error
        elif output is None or output.finish_reason not in ("stop", "length"):
            self._error = EngineFailure("the engine ended the request before its answer")
        else:
            choice.finish(output)
        if len(self.finished) == len(self._choices):
            self._worker.finished(self)

    def result(self) -> dict[str, Any]:
        if self._error is not None:
            return failure(self.item, self._error)
        first = next(request for request, index in self.finished.items() if index == 0)
        return answered(self.item, self._reply.whole(self._choices, first.timing.num_cached_tokens))


def failure(item: Item, error: BaseException) -> dict[str, Any]:
    """Return the line of an input that an error ended: its own mistake, or ours."""
    message = str(error)
    if isinstance(error, LineError):
        return refused(item, error.code, message, None if error.code in _NO_REQUEST else 400)
    if isinstance(error, ApiError):
        return refused(item, error.code or "invalid_request", error.message, error.status, error.param)
    if isinstance(error, ContextLengthError):
        return refused(item, "context_length_exceeded", message)
    if isinstance(error, MediaError):
        return refused(item, "invalid_media", message)
    if isinstance(error, CpmvError) and not isinstance(error, EngineFailure):
        return refused(item, "invalid_request", message)
    log.debug("input %s failed", item.custom_id, exc_info=error)
    return refused(item, "internal_error", f"{type(error).__name__}: {message}", 500)


def run(
    items: Iterable[Item],
    submit: Callable[[Item], None],
    results: queue.SimpleQueue[dict[str, Any]],
    record: Callable[[Sequence[dict[str, Any]]], None],
    *,
    window: int,
    workers: int,
) -> None:
    """Submit items from `workers` threads, at most `window` of them unanswered, and record results as they come.

    record: called in this thread with all results that have arrived; once it returns they are safe.
    Raises EngineFailure when MAX_FAILURES_IN_A_ROW inputs fail through no fault of theirs.
    """
    waiting, unanswered, failures = iter(items), 0, 0
    pool = ThreadPoolExecutor(workers, thread_name_prefix="cpmv-batch")
    try:
        while True:
            while unanswered < window and (item := next(waiting, None)) is not None:
                pool.submit(submit, item)
                unanswered += 1
            if not unanswered:
                return
            arrived = [results.get()]
            while not results.empty():
                arrived.append(results.get())
            record(arrived)
            unanswered -= len(arrived)
            for result in arrived:
                failures = failures + 1 if _is_ours(result) else 0
                if failures >= MAX_FAILURES_IN_A_ROW:
                    raise EngineFailure(f"{failures} inputs in a row failed: {result['error']['message']}")
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _is_ours(result: dict[str, Any]) -> bool:
    response = result["response"]
    return response is not None and response["status_code"] >= 500
