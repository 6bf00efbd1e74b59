"""Many requests at once, through one model: `add` them from any thread, then `wait`, `stream` or listen to pieces.

A step plans (`scheduler`), computes (`runner`), chooses tokens (`choose`) and hands them out. Steps run in a background
thread after `start`, else in whichever threads wait for something; either way one at a time, and requests that are
there together share them. Greedy answers equal those of `generate`.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import ContextLengthError, MessageError, OutOfMemoryError
from ..inputs.text import Tokenizer
from ..model.config import ModelInputs
from ..model.minicpmv import MiniCPMV
from .blocks import BlockKeys, BlockPool
from .capacity import is_out_of_memory, plan_cache
from .choose import Chooser, ConstraintError, report
from .flight import Flight, Tokens, can_read_on
from .image_cache import ImageCache, PromptMedia
from .lookup import Lookup
from .output import Answer, Output, Piece
from .request import Constraint, Request
from .runner import Runner
from .sampling import SamplingParams, TokenLogprob
from .scheduler import Scheduler, Work
from .stats import Counters, EngineStats, snapshot
from .streaming import RequestStream

log = logging.getLogger("cpmv")

# Long enough that weights are read once for many tokens, short enough that rows which decode hardly notice.
_PREFILL_CHUNK = {"cpu": 256}
_UNDISTURBED_CHUNK = {"cuda": 8192}  # while no row decodes, so that none waits for it


class Engine:
    """Continuous batching over a paged cache.

    max_batch: rows that run together. block_size: tokens a cache block. cache_bytes: for keys and values; by default
    a share of the free memory. prefill_chunk: prompt tokens read a step, beside the rows that decode; by default 256
    on a CPU and 2048 elsewhere, on CUDA 8192 while no row decodes.
    image_cache_bytes: for encoded pictures. lookup: tokens guessed a step from what followed the same words before;
    only for greedy requests, whose answers it does not change. deterministic: nothing about an answer depends on what
    else runs, to the bit; every row is computed by itself, which is slow.
    """

    def __init__(
        self,
        network: MiniCPMV,
        tokenizer: Tokenizer,
        *,
        max_batch: int = 32,
        block_size: int = 16,
        cache_bytes: int | None = None,
        prefill_chunk: int | None = None,
        image_cache_bytes: int = 256 << 20,
        lookup: int = 0,
        deterministic: bool = False,
    ) -> None:
        undisturbed_chunk = 0
        if prefill_chunk is None:
            kind = network.device.type
            prefill_chunk, undisturbed_chunk = _PREFILL_CHUNK.get(kind, 2048), _UNDISTURBED_CHUNK.get(kind, 0)
        for name, value, least in (
            ("max_batch", max_batch, 1),
            ("block_size", block_size, 1),
            ("prefill_chunk", prefill_chunk, 1),
            ("image_cache_bytes", image_cache_bytes, 0),
            ("lookup", lookup, 0),
        ):
            if value < least:
                raise ValueError(f"{name}={value} is not allowed; give at least {least}")
        if lookup and deterministic:
            raise ValueError("lookup guesses only where there is room, so deterministic=True excludes it; choose one")
        self._network, self._tokenizer = network, tokenizer
        self._context = network.config.language.max_position_embeddings
        self._lookup = lookup
        if deterministic:
            prefill_chunk = -(-prefill_chunk // block_size) * block_size
        plan = plan_cache(network, block_size, cache_bytes, max_batch)
        self._pool = BlockPool(plan.num_blocks, block_size)
        self._scheduler = Scheduler(
            *(self._pool, max_batch, prefill_chunk),
            undisturbed_chunk=undisturbed_chunk,
            deterministic=deterministic,
        )
        self._images = ImageCache(image_cache_bytes)
        self._runner = Runner(
            network, plan.num_blocks, block_size, self._images, max_batch=max_batch, deterministic=deterministic
        )
        vocab_size = network.config.language.vocab_size
        self._chooser = Chooser(max_batch, tokenizer.eos_token_ids, vocab_size, network.device)
        self._ids = itertools.count()
        self._inbox: deque[Request] = deque()
        self._to_cancel: deque[Request] = deque()
        self._seated: dict[int, int] = {}  # request id -> its preemptions when it was given its row
        self._flight: Flight | None = None  # the next step, when it is computing already
        self._lock = threading.Lock()  # held during a step
        self._stepping: int | None = None  # the thread that holds it
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._counters = Counters()

    @property
    def capacity(self) -> int:
        """Tokens, prompt and answer together, that one request can have at most."""
        return min(self._context, self._pool.num_blocks * self._pool.block_size)

    def add(
        self,
        inputs: ModelInputs,
        params: SamplingParams,
        *,
        thinking: bool = False,
        raw: bool = False,
        constraint: Constraint | None = None,
        client: str = "",
        on_piece: Callable[[Request, Piece | None], None] | None = None,
    ) -> Request:
        """Hand in a request from any thread; return at once.

        thinking: the prompt ended inside a `<think>` block. raw: pieces as the published code streams them. client:
        whom to be fair to. on_piece: called on the engine's thread with each piece, and once with None at the end,
        when the request's `output` is set.
        Raises ContextLengthError for a prompt without room for an answer, MessageError for parameters or pictures
        that cannot be.
        """
        if params.num_beams > 1:
            raise MessageError(f"num_beams={params.num_beams} is for generate(); the engine samples: use num_beams=1")
        if not len(inputs):
            raise MessageError("the prompt is empty; give at least one token")
        room = self.capacity - len(inputs)
        if room < 1:
            what = "the context" if self.capacity == self._context else "the cache"
            raise ContextLengthError(len(inputs), self.capacity - 1, f"{what} ({self.capacity}, one for the answer)")
        answer = Answer(
            self._tokenizer,
            params,
            max_new_tokens=min(params.max_new_tokens, room),
            num_prompt_tokens=len(inputs),
            thinking=thinking,
            keep_bos=raw,
        )
        media = PromptMedia.of(inputs)
        exact = params.greedy and params.repetition_penalty == 1 and not params.min_new_tokens and constraint is None
        request = Request(
            next(self._ids),
            inputs,
            answer,
            media,
            BlockKeys(self._pool.block_size, media.bounds, media.keys),
            client=client,
            raw=raw,
            constraint=constraint,
            on_piece=on_piece,
            lookup=Lookup(inputs.input_ids.tolist(), self._lookup) if self._lookup and exact else None,
            arrived=time.perf_counter(),
        )
        with self._wake:
            if self._closed:
                raise RuntimeError("the engine is closed; make another")
            self._inbox.append(request)
            self._wake.notify_all()
        return request

    def cancel(self, request: Request) -> None:
        """End a request from any thread, at any time; its blocks are free within one step."""
        if request.output is not None:
            return
        request.cancelled = True
        self._to_cancel.append(request)
        with self._wake:
            self._wake.notify_all()
        # With a thread, it will see to it. Inside a callback, the step that runs will, at its end.
        if self._thread is None and self._stepping != threading.get_ident():
            with self._lock:
                self._tidy()

    def step(self) -> bool:
        """Run one step in this thread; return whether work remains."""
        with self._lock:
            self._stepping = threading.get_ident()
            try:
                self._tidy()
                works = self._scheduler.schedule() if self._flight is None else self._flight.works
                if works:
                    self._run(works)
                self._tidy()
                return self._scheduler.has_work
            finally:
                self._stepping = None

    def _tidy(self) -> None:
        """Take in what was added and let go what was cancelled since the last time."""
        while self._inbox:
            self._scheduler.add(self._inbox.popleft())
        while self._to_cancel:
            request = self._to_cancel.popleft()
            if request.output is None:
                request.end("cancelled")
                self._finish(request)

    def _run(self, works: list[Work], *, read_on: bool = True) -> None:
        """Launch a step unless it is computing already, launch the one after it if that is certain, hand out."""
        flight, self._flight = self._flight, None
        try:
            if flight is None:
                for work in works:
                    self._seat(work.request)
                flight = self._launch(works, *self._runner.forward(works))
            if read_on:
                self._flight = self._launch_next(flight)
            tokens = flight.arriving.read() if flight.arriving is not None else []
            reports = report(flight.rows, flight.logits, tokens)
        except ConstraintError as error:
            self._fail([error.request], error)
            return  # the others are computed again by the next step
        except Exception as error:  # a mistake of ours must not end everyone's work
            self._flight = None
            if is_out_of_memory(error):
                self._relieve(works, error)
                return
            log.exception("a step failed; its %d requests end with an error", len(works))
            self._fail([work.request for work in works if work.request.output is None], error)
            return
        self._counters.steps += 1
        self._scheduler.recover()
        at = 0
        for work in works:
            count = 1 + len(work.drafts) if work.decides else 0
            if work.request.output is None:  # else it ended while this was computing
                self._scheduler.computed(work.request, work.start + work.count)
                if count:
                    self._take(work, tokens[at : at + count], reports[at : at + count])
            at += count
        if self._flight is not None and not self._flight.is_wanted:
            self._flight = None

    def _launch(self, works: list[Work], logits: Tensor, likeliest: Tensor | None) -> Flight:
        """Choose tokens where they will be computed, and send them here."""
        rows = [work.request for work in works if work.decides for _ in range(1 + len(work.drafts))]
        tokens = self._chooser.choose(rows, logits, likeliest) if rows else None
        return Flight(works, rows, logits, tokens, None if tokens is None else Tokens(tokens))

    def _launch_next(self, flight: Flight) -> Flight | None:
        """Launch the step after one that computes, where nothing else could be in it."""
        scheduler = self._scheduler
        full = len(scheduler.running) >= scheduler.row_limit
        if (
            flight.tokens is None
            or self._to_cancel
            or ((self._inbox or scheduler.num_waiting) and not full)
            or len(flight.works) != len(scheduler.running)
            or not can_read_on(flight.works)
        ):
            return None
        works = scheduler.plan_next(flight.works)
        scores = None if works is None else self._runner.read_on(works, flight.tokens)
        return None if works is None or scores is None else self._launch(works, *scores)

    def _seat(self, request: Request) -> None:
        """Prepare the row of a request that has just been admitted, for the first time or again."""
        timing = request.timing
        if self._seated.get(request.id) != timing.num_preemptions:
            self._seated[request.id] = timing.num_preemptions
            self._chooser.seat(request)
            if timing.admitted is None:
                timing.admitted = time.perf_counter()

    def _take(self, work: Work, tokens: list[int], reports: Sequence[TokenLogprob | None]) -> None:
        """Give a request its next tokens: the one that was chosen, and those after guesses that were right."""
        request = work.request
        self._counters.drafted += len(work.drafts)
        for place, (token, logprob) in enumerate(zip(tokens, reports, strict=True)):
            request.append(token, logprob)
            self._counters.generated += 1
            if request.timing.first_token is None:
                request.timing.first_token = time.perf_counter()
            right = place < len(work.drafts) and work.drafts[place] == token
            if request.answer.finish_reason is not None or not right:
                break
            self._counters.accepted += 1
            self._scheduler.computed(request, work.start + work.count + place + 1)
        if request.answer.finish_reason is not None:
            self._finish(request)
        elif request.on_piece is not None:
            self._tell(request)

    def _tell(self, request: Request) -> None:
        """Call back with what is new."""
        assert request.on_piece is not None
        try:
            for piece in request.splitter.take():
                request.on_piece(request, piece)
            if request.output is not None:
                request.on_piece(request, None)
        except Exception:
            log.exception("on_piece of request %d failed; the request is cancelled", request.id)
            request.on_piece = None
            self._to_cancel.append(request)

    def _finish(self, request: Request) -> None:
        """Settle a request whose answer has ended."""
        self._scheduler.remove(request)
        self._seated.pop(request.id, None)
        request.features.clear()
        request.timing.finished = time.perf_counter()
        self._counters.finished += 1
        request.settle()
        if request.on_piece is not None:
            self._tell(request)

    def _fail(self, requests: Sequence[Request], error: Exception) -> None:
        for request in requests:
            request.error = error
            request.end("error")
            self._finish(request)

    def _relieve(self, works: list[Work], error: Exception) -> None:
        """Make room after a failure of memory: caches first, then smaller chunks, then fewer rows."""
        error.__traceback__ = None  # it keeps the failed step's tensors alive
        self._images.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        rows = len(works)
        log.warning("out of memory with %d rows, %d tokens; doing less at once", rows, sum(w.num_tokens for w in works))
        if not self._scheduler.reduce():
            request = works[0].request
            message = f"a request of {len(request.tokens)} tokens does not fit in memory even alone: {error}"
            self._fail([request], OutOfMemoryError(message.splitlines()[0]))

    def start(self) -> None:
        """Step in a background thread whenever there is work."""
        with self._wake:
            if self._closed:
                raise RuntimeError("the engine is closed; make another")
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="cpmv-engine", daemon=True)
                self._thread.start()

    def _loop(self) -> None:
        while True:
            with self._wake:
                while not (self._inbox or self._to_cancel or self._scheduler.has_work or self._closed):
                    self._wake.wait()
                if self._closed:
                    return
            try:
                self.step()
            except Exception as error:  # the plan itself failed: nothing here can be trusted any more
                log.exception("the engine has failed and is closed")
                self._collapse(error)
                return

    def _collapse(self, error: Exception) -> None:
        """Tell everyone who waits that the engine is gone."""
        with self._wake:
            self._closed = True
        for request in [*self._scheduler.requests(), *self._inbox]:
            if request.output is None:
                request.error = error
                request.end("error")
                request.settle()
                if request.on_piece is not None:
                    self._tell(request)

    def close(self, drain_s: float = 0.0) -> None:
        """End: let requests go on for at most so many seconds, then cancel what is left. Nothing can be added after."""
        deadline = time.perf_counter() + drain_s
        while time.perf_counter() < deadline and (self._scheduler.has_work or self._inbox):
            if self._thread is None:
                self.step()
            else:
                time.sleep(0.01)
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        with self._lock:
            self._tidy()
            self._to_cancel.extend(self._scheduler.requests())
            self._tidy()

    def stream(self, request: Request) -> RequestStream:
        """Iterate over a request's pieces, from any thread. Closing the iterator cancels the request."""
        return RequestStream(self, request)

    def wait(self, request: Request) -> Output:
        """Return a request's answer, stepping here when there is no background thread. Raises the request's error."""
        while request.output is None:
            self.advance(request, request.num_generated)
        if request.error is not None:
            raise request.error
        return request.output

    def advance(self, request: Request, known: int) -> None:
        """Let a request come further than `known` generated tokens, by stepping or by waiting for the thread."""
        if self._thread is None:
            self.step()
        else:
            request.wait_for_news(known)

    def abandon(self, request: Request) -> None:
        """Cancel without ever waiting, as when nobody holds a stream any more."""
        request.cancelled = True
        self._to_cancel.append(request)
        if self._stepping != threading.get_ident() and self._lock.acquire(blocking=False):
            try:
                self._tidy()
            finally:
                self._lock.release()

    @property
    def started(self) -> bool:
        """Whether a background thread steps."""
        return self._thread is not None

    def stats(self) -> EngineStats:
        """Return a snapshot; from any thread, without waiting for a step."""
        return snapshot(self._pool, self._scheduler, self._images, self._counters, len(self._inbox))

    def forget(self, *, weights: bool = True) -> None:
        """Forget shared prefixes and encoded pictures, and read the weights again: call it when they have changed.

        weights: False when new values were written into the very tensors that the engine multiplies with, so that
        recorded steps stay valid. Requests that run go on with the keys and values they have.
        """
        with self._lock:
            if self._flight is not None:
                self._run(self._flight.works, read_on=False)
            self._pool.forget_all()
            self._images.clear()
            if weights:
                self._runner.refresh()

    def check_integrity(self) -> None:
        """Assert that every block, row and queue is accounted for."""
        with self._lock:
            self._tidy()
            self._scheduler.check_integrity()
