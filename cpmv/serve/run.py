"""Listen: uvicorn around the application, with the ends it leaves open closed.

A connection whose request head does not arrive in time is dropped; malformed HTTP gets OpenAI's body as well; SIGTERM
and Ctrl-C let answers finish for a while, then end them with an error that clients understand.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Iterator
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .app import Service, build
from .errors import ApiError
from .transport import LINGER_S

log = logging.getLogger("cpmv")

MAX_HEAD_BYTES = 64 << 10
KEEP_ALIVE_S = 30
ABORT_S = 3.0  # to hand the last errors to clients, after those that were still answered have been ended


def serve(service: Service, *, announce: str | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C; return 0, or 130 when it was Ctrl-C. announce: a line to print when ready."""
    settings = service.settings

    class Protocol(_Protocol):
        head_timeout_s = settings.head_timeout_s

    config = uvicorn.Config(
        build(service),
        host=settings.host,
        port=settings.port,
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=settings.max_connections,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(settings.drain_s + ABORT_S + 1),
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # not a line for each malformed request
    server = _Server(config, service, announce)
    try:
        server.run()
    finally:
        service.decoders.close()  # also where a second signal cut the end short
    return 128 + signal.SIGINT if server.was_interrupted else 0


class _Protocol(H11Protocol):
    """uvicorn's protocol, with a time limit on request heads and a JSON body on malformed ones."""

    head_timeout_s = 15.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_timer: asyncio.TimerHandle | None = None
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.conn.their_state is h11.ERROR:
            return  # refused already; it is read only so that the refusal arrives before the connection closes
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._expect_head()  # a head has begun, and must end
        else:
            self._stop_timer()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        body = ApiError(400, "this is not HTTP that can be answered", code="malformed_http").encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            output = self.conn.send(event)
            if output:
                self.transport.write(output)
        self.loop.call_later(LINGER_S, self.transport.close)

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_timeout_s, self._head_is_late)

    def _head_is_late(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class _Server(uvicorn.Server):
    """uvicorn's server; its signals drain the service first, and do not end the process by a signal."""

    def __init__(self, config: uvicorn.Config, service: Service, announce: str | None) -> None:
        super().__init__(config)
        self._service, self._announce = service, announce
        self.was_interrupted = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._announce:
            port = self.servers[0].sockets[0].getsockname()[1]
            print(self._announce.replace("{port}", str(port)), flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.drain()
        ending = asyncio.get_running_loop().call_later(self._service.settings.drain_s, self._service.chat.abort)
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        handled = (signal.SIGINT, signal.SIGTERM)
        before: dict[int, Any] = {number: signal.signal(number, self.handle_exit) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second ends at once."""
        self.was_interrupted = self.was_interrupted or sig == signal.SIGINT
        if self.should_exit:
            self.force_exit = True
            self._service.chat.abort()
        self._service.drain()
        self.should_exit = True
