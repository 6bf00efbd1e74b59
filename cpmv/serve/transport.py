"""HTTP as the server needs it: bounded bodies, streams that notice a client leaving, and who may ask at all.

`Guard` stands before every route: host name, origin, key, and the headers that every reply carries. `endpoint` turns
whatever a route raises into OpenAI's error body. `read_body` bounds size and time before anything is parsed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import CpmvError
from .admission import ByteBudget
from .errors import ApiError, from_cpmv
from .settings import LOOPBACK, Settings

log = logging.getLogger("cpmv")

T = TypeVar("T")

# Anyone may see whether the server lives, and load the page; everything else needs the key where there is one.
OPEN_PATHS = ("/", "/health", "/ready", "/version", "/openapi.json", "/favicon.ico")
OPEN_PREFIX = "/page/"
LINGER_S = 1.0
CLIENT_CLOSED = 499  # nobody sees it but the log and the metrics


class ClientLeft(Exception):
    """The client closed its connection; there is nobody to answer."""


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, dict(headers or {}), "application/json")


def error_response(error: ApiError) -> Response:
    headers = dict(error.headers)
    if error.status in (408, 413):
        headers["connection"] = "close"  # the rest of the body is not worth reading
    return Response(error.encode(), error.status, headers, "application/json")


def endpoint(route: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Coroutine[Any, Any, Any]]:
    """Wrap a route so that every mistake becomes a body, and our own leave only an id outside the log."""

    async def run(request: Request) -> Any:
        try:
            return await route(request)
        except ApiError as error:
            return error_response(error)
        except CpmvError as error:
            return error_response(from_cpmv(error, None))
        except (ClientDisconnect, ClientLeft):
            return Response(status_code=CLIENT_CLOSED)
        except Exception:
            mark = secrets.token_hex(6)
            log.exception("error %s in %s", mark, request.url.path)
            return error_response(ApiError(500, f"internal error {mark}; the server's log has it", code="internal"))

    return run


async def read_body(request: Request, settings: Settings, budget: ByteBudget) -> tuple[bytearray, int]:
    """Return a JSON body and the bytes of `budget` taken for it. Raises ApiError 408, 411 to 415, 429."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "the body must be JSON; send it with content-type: application/json")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "the body is compressed; send it as it is")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > settings.max_request_bytes:
        await _discard(request, settings.max_request_bytes)
        raise _too_large(settings)
    body, taken = bytearray(), 0
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for chunk in request.stream():
                if len(body) + len(chunk) > settings.max_request_bytes:
                    await _discard(request, settings.max_request_bytes)
                    raise _too_large(settings)
                budget.take(len(chunk))
                taken += len(chunk)
                body += chunk
    except TimeoutError:
        budget.release(taken)
        raise ApiError(408, f"the body did not arrive within {settings.body_timeout_s:g} s") from None
    except BaseException:
        budget.release(taken)
        raise
    return body, taken


async def _discard(request: Request, most: int) -> None:
    """Read on for a moment without keeping anything: a client that is cut off while it sends never sees why."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while most > 0:
                message = await request.receive()
                most -= len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return


def _too_large(settings: Settings) -> ApiError:
    return ApiError(413, f"the body has more than {settings.max_request_bytes} bytes; send less", code="too_large")


async def until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run `work`; cancel it and raise ClientLeft when the client leaves first. The body must have been read."""
    task = asyncio.ensure_future(work)
    listener = asyncio.ensure_future(until_disconnected(request.receive))
    try:
        await asyncio.wait({task, listener}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeft
    finally:
        listener.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


class EventStream(Response):
    """Server-sent events from a generator. `held` is closed when they end, the client leaves, or it stops reading."""

    def __init__(self, events: AsyncGenerator[bytes, None], write_timeout_s: float, held: AsyncExitStack) -> None:
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self.headers["x-accel-buffering"] = "no"  # nginx would gather events
        self._events, self._write_timeout_s, self._held = events, write_timeout_s, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            sending = asyncio.ensure_future(self._send(send))
            listener = asyncio.ensure_future(until_disconnected(receive))
            try:
                await asyncio.wait({sending, listener}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                listener.cancel()
                if not sending.done():
                    sending.cancel()
                    await asyncio.wait({sending})
                await self._events.aclose()
        if not sending.cancelled() and sending.exception() is not None:
            log.info("a stream ended early: %s", type(sending.exception()).__name__)

    async def _send(self, send: Send) -> None:
        await self._write(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for event in self._events:
            await self._write(send, {"type": "http.response.body", "body": event, "more_body": True})
        await self._write(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, send: Send, message: Message) -> None:
        async with asyncio.timeout(self._write_timeout_s):
            await send(message)


class Guard:
    """ASGI middleware: refuse foreign hosts, origins and keys; count replies; add headers.

    A server on this machine alone still hears every page the user's browser shows; such a page can point a name of its
    own here (so host names are checked) and send requests across origins (so origins are).
    """

    def __init__(self, app: ASGIApp, settings: Settings, count: Callable[[str, int], None]) -> None:
        self._app, self._settings, self._count = app, settings, count
        self._keys = [hashlib.sha256(key.encode()).digest() for key in settings.api_keys]
        self._origins = {origin.rstrip("/").lower() for origin in settings.origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        allowed_origin = origin if origin is not None and origin.lower() in self._origins else None

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                _decorate(MutableHeaders(scope=message), allowed_origin)
                self._count(scope.get("counted_path", "other"), message["status"])
            await send(message)

        refusal = self._refusal(scope, headers, origin, allowed_origin)
        if refusal is not None:
            await error_response(refusal)(scope, receive, send_with_headers)
        elif scope["method"] == "OPTIONS" and allowed_origin is not None:
            await Response(status_code=204, headers=_PREFLIGHT)(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, headers: Headers, origin: str | None, allowed: str | None) -> ApiError | None:
        if len(headers.getlist("host")) != 1 or not self._is_our_host(headers["host"]):
            return ApiError(421, "this server does not answer to that host name; see --allowed-hosts")
        if origin is not None and allowed is None and not _is_same_origin(origin, headers["host"]):
            return ApiError(403, "pages of another origin may not use this server; see --allowed-origins")
        path = scope["path"]
        is_open = path in OPEN_PATHS or path.startswith(OPEN_PREFIX) or scope["method"] == "OPTIONS"
        if self._keys and not is_open and not self._has_key(headers):
            return ApiError(
                401, "a valid key is needed; send it as authorization: Bearer KEY", code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )  # fmt: skip
        return None

    def _is_our_host(self, host: str) -> bool:
        """A server for others answers to any name unless some are listed; one on loopback only to loopback's names."""
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        name = name.strip("[]").lower().rstrip(".")
        if name in LOOPBACK or name in {one.lower() for one in self._settings.hosts}:
            return True
        return not self._settings.is_local and not self._settings.hosts

    def _has_key(self, headers: Headers) -> bool:
        """Compare in constant time, with every key there is."""
        given = headers.getlist("authorization")
        scheme, _, key = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        digest = hashlib.sha256(key.strip().encode()).digest()
        matches = [hmac.compare_digest(digest, one) for one in self._keys]
        return scheme.lower() == "bearer" and any(matches)


_PREFLIGHT = {
    "access-control-allow-methods": "GET, POST",
    "access-control-allow-headers": "authorization, content-type",
    "access-control-max-age": "600",
}


def _decorate(headers: MutableHeaders, allowed_origin: str | None) -> None:
    headers.setdefault("x-content-type-options", "nosniff")
    headers.setdefault("referrer-policy", "no-referrer")
    headers.setdefault("cross-origin-resource-policy", "same-origin" if allowed_origin is None else "cross-origin")
    headers.setdefault("cache-control", "no-store")
    headers.add_vary_header("origin")
    if allowed_origin is not None:
        headers["access-control-allow-origin"] = allowed_origin


def _is_same_origin(origin: str, host: str) -> bool:
    return origin.lower().partition("://")[2] == host.lower()
