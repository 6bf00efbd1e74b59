"""Fetch remote media with nothing left to chance: a checked address, a bounded body, a bounded time.

A small HTTP/1.1 client over h11: names are resolved here, addresses checked by `addresses`, and the connection goes to
the checked address with the name kept in the Host header and in TLS. Redirects are followed a few times, each checked
like the first. Nothing compressed is accepted, so a body cannot grow after its size was counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from urllib.parse import urljoin

import h11

from .addresses import Domains, Network, Target, check_addresses
from .errors import ApiError, bad_request

MAX_REDIRECTS = 3
MAX_HEAD_BYTES = 64 << 10
CHUNK_BYTES = 64 << 10

_RESOLVERS = ThreadPoolExecutor(8, thread_name_prefix="resolve")

Resolve = Callable[[str, int], Awaitable[list[str]]]


class Fetcher:
    """Gets media from allowed hosts. resolve: host, port -> addresses; the system's by default."""

    def __init__(
        self,
        domains: Domains,
        networks: Sequence[Network],
        *,
        max_bytes: int,
        timeout_s: float,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._domains, self._networks = domains, list(networks)
        self._max_bytes, self._timeout_s = max_bytes, timeout_s
        self._resolve = resolve or resolve_with_system
        self._tls = tls

    async def get(self, url: str) -> bytes:
        """Return the body behind a URL. Raises ApiError: 403 not allowed, 400 not there, too large or too slow."""
        if not self._domains:
            raise ApiError(
                403,
                "this server fetches no remote media; send it as a data: URI, or start it with --allowed-media-domains",
                code="media_not_allowed",
            )
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._follow(url)
        except TimeoutError:
            raise bad_request(f"the media could not be fetched within {self._timeout_s:g} s") from None
        except (OSError, h11.RemoteProtocolError, asyncio.IncompleteReadError) as error:
            raise bad_request(f"the media could not be fetched ({type(error).__name__})") from None

    async def _follow(self, url: str) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            target = self._domains.check(url)
            found = await self._ask(target)
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        raise bad_request(f"the media URL redirects more than {MAX_REDIRECTS} times")

    async def _ask(self, target: Target) -> bytes | str:
        """One request; return the body, or the address of a redirect."""
        addresses = check_addresses(await self._resolve(target.host, target.port), self._networks)
        reader, writer = await self._connect(target, addresses)
        try:
            connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
            writer.write(_request(connection, target))
            await writer.drain()
            return await self._answer(connection, reader)
        finally:
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), 1)

    async def _connect(self, target: Target, addresses: list[str]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the first address that answers; the name serves only TLS."""
        last: OSError | None = None
        for address in addresses:
            try:
                if target.scheme == "https":
                    tls = self._tls or ssl.create_default_context()
                    return await asyncio.open_connection(
                        address, target.port, ssl=tls, server_hostname=target.host, limit=CHUNK_BYTES
                    )
                return await asyncio.open_connection(address, target.port, limit=CHUNK_BYTES)
            except OSError as error:
                last = error
        assert last is not None
        raise last

    async def _answer(self, connection: h11.Connection, reader: asyncio.StreamReader) -> bytes | str:
        body = bytearray()
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(CHUNK_BYTES))
            elif isinstance(event, h11.Response):
                redirect = self._check_head(event)
                if redirect is not None:
                    return redirect
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > self._max_bytes:
                    raise self._too_large()
            elif isinstance(event, h11.EndOfMessage):
                return bytes(body)
            elif isinstance(event, h11.ConnectionClosed):
                raise h11.RemoteProtocolError("closed before its end")

    def _check_head(self, response: h11.Response) -> str | None:
        headers = {name.lower(): value for name, value in response.headers}
        if response.status_code in (301, 302, 303, 307, 308) and b"location" in headers:
            return headers[b"location"].decode("latin-1")
        if response.status_code != 200:
            raise bad_request(f"the media URL was answered with status {response.status_code}")
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise bad_request("the media comes compressed although that was not asked for")
        if int(headers.get(b"content-length", b"0")) > self._max_bytes:
            raise self._too_large()
        return None

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the media at the URL is larger than {self._max_bytes} bytes; send a smaller one")


def _request(connection: h11.Connection, target: Target) -> bytes:
    headers = [
        ("Host", target.authority),
        ("Accept", "image/*, video/*, application/pdf, */*;q=0.1"),
        ("Accept-Encoding", "identity"),
        ("User-Agent", "cpmv"),
        ("Connection", "close"),
    ]
    head = connection.send(h11.Request(method="GET", target=target.path, headers=headers))
    end = connection.send(h11.EndOfMessage())
    assert head is not None and end is not None
    return head + end


async def resolve_with_system(host: str, port: int) -> list[str]:
    """All addresses of a host, in the system's order of preference."""
    # Threads of its own: a resolver that hangs must not use up those that prepare prompts.
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        found = await asyncio.get_running_loop().run_in_executor(_RESOLVERS, look_up)
    except (socket.gaierror, UnicodeError):
        raise bad_request(f"the media host {host!r} cannot be resolved") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
