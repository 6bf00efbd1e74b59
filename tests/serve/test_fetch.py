"""Fetching over real sockets: the checked address is the one connected to, and nothing is unbounded."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cpmv.serve.addresses import Domains, read_networks
from cpmv.serve.errors import ApiError
from cpmv.serve.fetch import Fetcher

LOOPBACK = read_networks(["127.0.0.1/32"])
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def run(
    handler: Handler,
    url: str = "http://media.test:{port}/a",
    *,
    addresses: list[list[str]] | None = None,
    tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None,
    networks: list = LOOPBACK,
    domains: tuple[str, ...] = ("http://media.test:{port}",),
    max_bytes: int = 10_000,
    timeout_s: float = 5,
) -> bytes:
    """Fetch `url` from a server on loopback; `addresses` are what the name resolves to, each time it is asked."""

    async def go() -> bytes:
        answers = list(addresses or [["127.0.0.1"]])

        async def resolve(host: str, port: int) -> list[str]:
            return answers.pop(0) if len(answers) > 1 else answers[0]

        server = await asyncio.start_server(handler, "127.0.0.1", 0, ssl=tls[0] if tls else None)
        port = server.sockets[0].getsockname()[1]
        listed = Domains([domain.format(port=port) for domain in domains])
        fetcher = Fetcher(
            listed, networks, max_bytes=max_bytes, timeout_s=timeout_s, resolve=resolve, tls=tls[1] if tls else None
        )
        try:
            return await fetcher.get(url.format(port=port))
        finally:
            server.close()

    return asyncio.run(go())


def answering(*parts: bytes, heard: list[bytes] | None = None, pause_s: float = 0) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if heard is not None:
            heard.append(head)
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause_s)
            writer.close()
        except ConnectionError:
            pass

    return handler


def ok(body: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *headers, b"", body])


def refused(status: int, handler: Handler, *args: object, **more: object) -> ApiError:
    with pytest.raises(ApiError) as caught:
        run(handler, *args, **more)  # type: ignore[arg-type]
    assert caught.value.status == status, caught.value.message
    return caught.value


def test_the_body_comes_with_the_name_in_the_host_header() -> None:
    heard: list[bytes] = []
    assert run(answering(ok(b"pixels"), heard=heard)) == b"pixels"
    assert heard[0].startswith(b"GET /a HTTP/1.1\r\n") and b"Host: media.test:" in heard[0]
    assert b"authorization" not in heard[0].lower() and b"cookie" not in heard[0].lower()


def test_chunked_bodies_are_read() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    assert run(answering(chunked)) == b"abcde"


def test_a_server_without_domains_fetches_nothing() -> None:
    error = refused(403, answering(ok(b"x")), domains=())
    assert "--allowed-media-domains" in error.message


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "10.0.0.5"])
def test_a_name_that_resolves_inwards_is_never_connected_to(address: str) -> None:
    heard: list[bytes] = []
    refused(403, answering(ok(b"secret"), heard=heard), addresses=[[address]], networks=[])
    assert not heard


def test_the_address_that_was_checked_is_the_one_connected_to() -> None:
    """Rebinding: a second resolution would give another address, but there is none."""
    heard: list[bytes] = []
    assert run(answering(ok(b"x"), heard=heard), addresses=[["127.0.0.1"], ["10.0.0.1"]]) == b"x"
    assert len(heard) == 1


def test_redirects_are_checked_like_the_first_address() -> None:
    for target in (b"http://169.254.169.254/latest", b"https://evil.org/", b"file:///etc/passwd", b"//evil.org/x"):
        heard: list[bytes] = []
        moved = b"HTTP/1.1 302 Found\r\nLocation: " + target + b"\r\nContent-Length: 0\r\n\r\n"
        error = refused(403 if not target.startswith(b"file") else 400, answering(moved, heard=heard))
        assert len(heard) == 1 and error.message


def test_a_redirect_may_resolve_inwards_only_once_checked() -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n"
    heard: list[bytes] = []
    refused(403, answering(moved, heard=heard), addresses=[["127.0.0.1"], ["192.168.0.1"]])
    assert len(heard) == 1


def test_redirects_end() -> None:
    heard: list[bytes] = []
    moved = b"HTTP/1.1 302 Found\r\nLocation: /a\r\nContent-Length: 0\r\n\r\n"
    assert "redirects" in refused(400, answering(moved, heard=heard)).message
    assert len(heard) == 4


def test_sizes_are_bounded_by_header_and_by_count() -> None:
    refused(413, answering(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n"))
    refused(413, answering(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 20_000))


def test_time_is_bounded_even_when_bytes_trickle() -> None:
    start = time.monotonic()
    slow = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", *[b"x"] * 100, pause_s=0.2)
    assert "within" in refused(400, slow, timeout_s=1).message
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", ok(b"x", b"Content-Encoding: gzip"), b"no http\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort", b"", b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000,
     b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy"],
)  # fmt: skip
def test_answers_that_are_no_media_are_bad_requests(answer: bytes) -> None:
    refused(400, answering(answer))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(server's, client's) TLS contexts around a certificate for media.test."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    folder: Path = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2",
         "-subj", "/CN=media.test", "-addext", "subjectAltName=DNS:media.test"],
        check=True, capture_output=True,
    )  # fmt: skip
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    return server, ssl.create_default_context(cafile=str(cert))


def test_tls_checks_the_name_although_an_address_is_connected_to(certificates: tuple) -> None:
    https = {"domains": ("media.test:{port}", "other.test:{port}"), "tls": certificates}
    assert run(answering(ok(b"x")), "https://media.test:{port}/a", **https) == b"x"
    refused(400, answering(ok(b"x")), "https://other.test:{port}/a", **https)


def test_an_untrusted_certificate_is_refused(certificates: tuple) -> None:
    tls = (certificates[0], ssl.create_default_context())
    refused(400, answering(ok(b"x")), "https://media.test:{port}/a", domains=("media.test:{port}",), tls=tls)
