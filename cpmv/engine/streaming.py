"""Pieces of a request's answer, taken by whoever reads them, in any thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .output import Output, Piece, PieceSplitter
from .request import Request

if TYPE_CHECKING:
    from .engine import Engine


class RequestStream(Iterator[Piece]):
    """The pieces of one request. A reader that is slow gets longer pieces, never fewer words.

    Where the engine has no background thread, reading steps it. Closing the stream, or forgetting it, cancels the
    request. Raises the request's error, if it has one, after the last piece.
    """

    def __init__(self, engine: Engine, request: Request) -> None:
        self._engine, self._request = engine, request
        self._splitter = PieceSplitter(request.answer, request.raw)
        self._ready: deque[Piece] = deque()
        self._closed = False

    @property
    def request(self) -> Request:
        return self._request

    @property
    def output(self) -> Output | None:
        """The whole answer, once it has ended or the stream is closed; None before."""
        return self._request.output if self._closed or not self._ready else None

    def __next__(self) -> Piece:
        while not self._ready:
            if self._closed:
                raise StopIteration
            ended, known = self._request.output is not None, self._request.num_generated
            self._ready.extend(self._request.take(self._splitter))
            if self._ready:
                break
            if ended:
                self._closed = True
                if self._request.error is not None:
                    raise self._request.error
                raise StopIteration
            self._engine.advance(self._request, known)
        return self._ready.popleft()

    def close(self) -> None:
        """Stop reading; the request is cancelled if it has not ended."""
        if not self._closed:
            self._closed = True
            self._ready.clear()
            self._engine.cancel(self._request)
            while self._request.output is None and self._engine.started:
                self._request.wait_for_news(self._request.num_generated)

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self._closed = True
            self._engine.abandon(self._request)
