"""The bridge to the engine's thread: the least busy engine, pieces in order, ends and errors as clients see them."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from cpmv.engine.output import Output, Piece
from cpmv.engine.sampling import SamplingParams
from cpmv.errors import MessageError
from cpmv.serve.errors import ApiError
from cpmv.serve.worker import Generation, Worker

OUTPUT = Output([1], "ab", "", "ab", "stop", None, 3)


class FakeEngine:
    """Takes requests and calls back from a thread of its own, as the engine does."""

    def __init__(self, busy: int = 0, error: Exception | None = None) -> None:
        self.busy, self.error, self.cancelled = busy, error, []
        self.capacity = 100 - busy
        self.requests: list[Any] = []
        self.is_closed = False

    def stats(self) -> Any:
        return SimpleNamespace(running=self.busy, waiting=len(self.requests))

    def add(self, inputs: Any, params: SamplingParams, *, on_piece: Any, **_: Any) -> Any:
        if self.is_closed:
            raise RuntimeError("closed")
        if params.min_new_tokens:
            raise MessageError("no room for so many")
        request = SimpleNamespace(output=None, error=self.error, on_piece=on_piece, params=params)
        request.timing = SimpleNamespace(num_cached_tokens=2)
        self.requests.append(request)
        return request

    def cancel(self, request: Any) -> None:
        self.cancelled.append(request)

    def finish(self, request: Any, *texts: str, output: Output = OUTPUT) -> None:
        def run() -> None:
            for text in texts:
                request.on_piece(request, Piece(text, "answer", [1]))
            request.output = output
            request.on_piece(request, None)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()


def submit(worker: Worker, count: int = 1, ended: list | None = None, **params: Any) -> Generation:
    many = [SamplingParams(temperature=0.0, **params)] * count
    on_end = (ended if ended is not None else []).append
    return worker.submit(None, many, [None] * count, thinking=False, client="", on_end=on_end)  # type: ignore[arg-type]


async def collect(generation: Generation) -> list[Any]:
    return [found async for found in generation.pieces()]


def test_a_prompt_goes_to_the_engine_with_least_to_do() -> None:
    async def go() -> None:
        engines = [FakeEngine(busy=3), FakeEngine(busy=1), FakeEngine(busy=2)]
        worker = Worker(engines)  # type: ignore[arg-type]
        for _ in range(4):
            submit(worker)
        assert [len(engine.requests) for engine in engines] == [0, 2, 2] or [
            len(engine.requests) for engine in engines
        ] == [1, 2, 1]
        assert worker.capacity == 97

    asyncio.run(go())


def test_pieces_of_several_answers_come_with_their_index_and_end() -> None:
    async def go() -> None:
        engine, ended = FakeEngine(), []
        generation = submit(Worker([engine]), 2, ended)  # type: ignore[list-item]
        engine.finish(engine.requests[1], "x")
        engine.finish(engine.requests[0], "a", "b")
        found = await collect(generation)
        assert [(index, piece.text) for index, piece in found] == [(1, "x"), (1, "ab"), (0, "a"), (0, "b"), (0, "ab")]
        assert len(ended) == 2 and generation.num_cached_tokens == 2

    asyncio.run(go())


def test_silence_is_told_so_that_connections_can_be_kept_alive() -> None:
    async def go() -> None:
        engine = FakeEngine()
        generation = submit(Worker([engine]))  # type: ignore[list-item]
        pieces = generation.pieces(idle_s=0.01)
        assert await anext(pieces) is None
        engine.finish(engine.requests[0])
        assert await anext(pieces) == (0, OUTPUT)

    asyncio.run(go())


@pytest.mark.parametrize(
    ("error", "reason", "status"),
    [
        (MessageError("the form cannot be followed"), "stop", 400),
        (OSError("disk"), "stop", 500),
        (None, "cancelled", 503),
    ],
)
def test_an_answer_that_fails_says_so_without_its_inside(error: Exception | None, reason: Any, status: int) -> None:
    async def go() -> ApiError:
        engine = FakeEngine(error=error)
        generation = submit(Worker([engine]))  # type: ignore[list-item]
        engine.finish(engine.requests[0], output=Output([], "", "", "", reason, None, 3))
        with pytest.raises(ApiError) as caught:
            await collect(generation)
        return caught.value

    failure = asyncio.run(go())
    assert failure.status == status and "disk" not in failure.message


def test_what_cannot_be_added_cancels_what_was() -> None:
    async def go() -> None:
        engine = FakeEngine()
        worker = Worker([engine])  # type: ignore[list-item]
        good, bad = SamplingParams(temperature=0.0), SamplingParams(temperature=0.0, min_new_tokens=5)
        with pytest.raises(ApiError) as caught:
            worker.submit(None, [good, bad], [None, None], thinking=False, client="", on_end=print)  # type: ignore[arg-type]
        assert caught.value.status == 400 and engine.cancelled == engine.requests
        engine.is_closed = True
        with pytest.raises(ApiError) as closed:
            submit(worker)
        assert closed.value.status == 503

    asyncio.run(go())
