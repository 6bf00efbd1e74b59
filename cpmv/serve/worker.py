"""The bridge between asyncio and the engine's thread: requests go over at once, pieces come back as they are made.

A `Generation` is the answers to one prompt being generated. Whoever stops reading it cancels it, and the engine frees
its blocks within a step. With several engines (one for each GPU) a prompt goes to the one that has least to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from ..engine.engine import Engine, EngineStats
from ..engine.output import Output, Piece
from ..engine.request import Constraint, Request
from ..engine.sampling import SamplingParams
from ..errors import CpmvError
from ..model.config import ModelInputs
from .errors import ApiError, from_cpmv


class Generation:
    """Answers to one prompt. Iterate over `pieces` once; `outputs` are there at its end."""

    def __init__(self, engine: Engine, on_end: Callable[[Request], None]) -> None:
        self._engine, self._on_end = engine, on_end
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Piece | None]] = asyncio.Queue()
        self.requests: list[Request] = []

    def listener(self, index: int) -> Callable[[Request, Piece | None], None]:
        """Return the engine's callback for one answer."""

        def on_piece(request: Request, piece: Piece | None) -> None:
            if piece is None:
                self._on_end(request)
            try:
                self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, piece))
            except RuntimeError:  # the loop has closed: nobody reads any more
                request.on_piece = None

        return on_piece

    async def pieces(self, idle_s: float | None = None) -> AsyncIterator[tuple[int, Piece | Output] | None]:
        """Yield (index of the answer, piece), and last (index, output) for each; None when nothing came for `idle_s`.

        Raises ApiError when an answer ends with an error, or because the server shuts down.
        """
        going = len(self.requests)
        while going:
            try:
                async with asyncio.timeout(idle_s):
                    index, piece = await self._queue.get()
            except TimeoutError:
                yield None
                continue
            if piece is not None:
                yield index, piece
                continue
            going -= 1
            request = self.requests[index]
            _check(request)
            assert request.output is not None
            yield index, request.output

    @property
    def num_cached_tokens(self) -> int:
        """Of the prompt, by the first answer; those after it share what the first has just computed."""
        return self.requests[0].timing.num_cached_tokens

    def cancel(self) -> None:
        """Stop the work, if there is any left."""
        for request in self.requests:
            if request.output is None:
                self._engine.cancel(request)


def _check(request: Request) -> None:
    error = request.error
    if isinstance(error, CpmvError):
        raise from_cpmv(error)
    if error is not None:
        raise ApiError(500, "the answer could not be generated; the server's log says why", code="engine_error")
    if request.output is None or request.output.finish_reason == "cancelled":
        raise ApiError(503, "the server ended this answer because it is shutting down", code="shutting_down")


class Worker:
    """The engines. `start` before use, `close` at the end."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = list(engines)

    @property
    def capacity(self) -> int:
        """Tokens, prompt and answer together, that one request can have at most."""
        return min(engine.capacity for engine in self._engines)

    def start(self) -> None:
        for engine in self._engines:
            engine.start()

    def submit(
        self,
        inputs: ModelInputs,
        params: Sequence[SamplingParams],
        constraints: Sequence[Constraint | None],
        *,
        thinking: bool,
        client: str,
        on_end: Callable[[Request], None],
    ) -> Generation:
        """Hand in one answer for each of `params`, all to one prompt. Raises ApiError for what cannot be.

        on_end: called on the engine's thread when an answer has ended, however it did.
        """
        engine = min(self._engines, key=_num_unfinished)
        generation = Generation(engine, on_end)
        try:
            for index, (one, constraint) in enumerate(zip(params, constraints, strict=True)):
                generation.requests.append(
                    engine.add(
                        inputs,
                        one,
                        thinking=thinking,
                        constraint=constraint,
                        client=client,
                        on_piece=generation.listener(index),
                    )
                )
        except (CpmvError, RuntimeError) as error:
            generation.cancel()
            if isinstance(error, CpmvError):
                raise from_cpmv(error) from None
            raise ApiError(503, "the server is shutting down", code="shutting_down") from None
        return generation

    def stats(self) -> list[EngineStats]:
        return [engine.stats() for engine in self._engines]

    def check_integrity(self) -> None:
        for engine in self._engines:
            engine.check_integrity()

    def close(self) -> None:
        for engine in self._engines:
            engine.close()


def _num_unfinished(engine: Engine) -> int:
    stats = engine.stats()
    return stats.running + stats.waiting
