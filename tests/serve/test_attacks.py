"""What hostile clients send: each refused with the right status in bounded time and memory, and the next served."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
from serve_media import clip, picture, png_bomb
from serve_process import PICTURES, Server, data_uri, image_part, serving, text_part

SECRET = b"\x89PNG\r\n\x1a\n" + b"inside information"
MEGABYTE = 1 << 20


class Inside:
    """A server on loopback that must not be reached by those who may not; `heard` is what was asked of it."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.heard.append(self.path)
                body = picture() if self.path == "/picture.png" else SECRET
                self.send_response(302 if self.path == "/away" else 200)
                if self.path == "/away":
                    self.send_header("Location", "http://169.254.169.254/latest/meta-data")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def inside() -> Iterator[Inside]:
    running = Inside()
    yield running
    running.server.shutdown()


@pytest.fixture(scope="module")
def strict(inside: Inside, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a key, that may fetch from names which all lead inwards, with short patience."""
    folder = tmp_path_factory.mktemp("allowed")
    (folder / "in.png").write_bytes(picture())
    (folder / "link.png").symlink_to("/etc/passwd")
    hosts = [f"http://{host}:{inside.port}" for host in ("localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]")]
    settings = {
        "media_domains": [*hosts, "http://169.254.169.254", "http://metadata.google.internal", "http://0.0.0.0"],
        "media_path": str(folder),
        "api_keys": ["right-key", "other-key"],
        "body_timeout_s": 1.5,
        "head_timeout_s": 1.5,
        "max_request_bytes": 8 * MEGABYTE,
    }
    with serving(settings=settings) as running:
        yield running


@pytest.fixture(scope="module")
def trusting(inside: Inside) -> Iterator[Server]:
    """A server whose operator opened loopback itself."""
    settings = {"media_domains": [f"http://127.0.0.1:{inside.port}"], "media_networks": ["127.0.0.1/32"]}
    with serving(settings=settings) as running:
        yield running


KEY = {"authorization": "Bearer right-key"}


def ask(server: Server, part: dict, headers: dict[str, str] | None = None) -> tuple[int, dict]:
    body = {"messages": [{"role": "user", "content": [part, text_part("?")]}], "max_tokens": 1}
    start = time.monotonic()
    status, answer = server.post("/v1/chat/completions", body, headers=headers or {})
    assert time.monotonic() - start < 45
    return status, answer


def url_part(url: str, kind: str = "image_url") -> dict:
    return {"type": kind, kind: {"url": url}}


def is_error(answer: dict) -> bool:
    return set(answer) == {"error"} and set(answer["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("kind", ["image_url", "video_url"])
@pytest.mark.parametrize(
    "url",
    ["http://localhost:{port}/x", "http://127.0.0.1:{port}/x", "http://[::1]:{port}/x",
     "http://[::ffff:127.0.0.1]:{port}/x", "http://169.254.169.254/latest", "http://0.0.0.0/",
     "http://localhost:1/", "https://localhost:{port}/", "http://2130706433:{port}/x", "http://0x7f.1:{port}/",
     "http://localhost:{port}@evil.org/", "http://evil.org#@localhost:{port}/"],
)  # fmt: skip
def test_addresses_that_lead_inwards_are_never_reached(strict: Server, inside: Inside, url: str, kind: str) -> None:
    status, answer = ask(strict, url_part(url.format(port=inside.port), kind), KEY)
    assert status in (400, 403) and is_error(answer)
    assert not inside.heard or inside.heard[-1] in ("/picture.png", "/away")


def test_remote_media_are_off_by_default(server: Server) -> None:
    status, answer = ask(server, url_part("https://example.com/cat.png"))
    assert status == 403 and "--allowed-media-domains" in answer["error"]["message"]


def test_what_the_operator_opened_is_fetched_but_not_what_it_redirects_to(trusting: Server, inside: Inside) -> None:
    status, answer = ask(trusting, url_part(f"http://127.0.0.1:{inside.port}/picture.png"))
    assert status == 200 and answer["usage"]["prompt_tokens_details"]["image_tokens"] > 0
    status, answer = ask(trusting, url_part(f"http://127.0.0.1:{inside.port}/away"))
    assert status == 403 and is_error(answer)


def test_the_official_client_sends_a_picture_by_its_address(trusting: Server, inside: Inside) -> None:
    part = url_part(f"http://127.0.0.1:{inside.port}/picture.png")
    messages: list = [{"role": "user", "content": [part, text_part("Read the text.")]}]
    reply = trusting.client().chat.completions.create(model="cpmv-tiny", messages=messages, max_tokens=3)
    assert reply.usage.prompt_tokens_details.visual_tokens > 0 and inside.heard[-1] == "/picture.png"


@pytest.mark.parametrize("path", ["/../../etc/passwd", "/link.png", "/%2e%2e/x", "/"])
def test_files_outside_the_folder_are_not_read(strict: Server, path: str) -> None:
    for url in (f"file:///etc/passwd{path}", f"file:///tmp{path}"):
        status, answer = ask(strict, url_part(url), KEY)
        assert status in (400, 403) and is_error(answer)


def test_a_link_inside_the_folder_is_not_followed(strict: Server, tmp_path: Path) -> None:
    folder = json.loads(strict.process.args[2])["media_path"]  # type: ignore[index]
    assert ask(strict, url_part(f"file://{folder}/in.png"), KEY)[0] == 200
    status, _ = ask(strict, url_part(f"file://{folder}/link.png"), KEY)
    assert status == 403


def test_image_bombs_are_refused_by_their_header(server: Server) -> None:
    before = server.memory()
    status, answer = ask(server, image_part(png_bomb()))
    assert status == 400 and "pixels" in answer["error"]["message"]
    assert server.memory() - before < 100 * MEGABYTE


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (clip(10, 10, time_base=Fraction(3600, 1)), "lasts"),  # ten frames, ten hours
        (clip(40, 10_000), "frames a second"),
    ],
)
def test_video_headers_that_claim_too_much_are_refused(server: Server, data: bytes, said: str) -> None:
    status, answer = ask(server, url_part(data_uri(data, "video/mp4"), "video_url"))
    assert status == 400 and said in answer["error"]["message"]


def test_broken_media_are_refused_and_the_next_are_served(server: Server) -> None:
    good = clip(20, 10)
    for data in (good[: len(good) // 2], good[:40], b"\0" * 1000, b"RIFF\0\0\0\0AVI LIST", b"%PDF-1.7\n%%EOF"):
        for kind in ("image_url", "video_url"):
            status, answer = ask(server, url_part(data_uri(data, "application/octet-stream"), kind))
            assert status == 400 and is_error(answer)
    assert ask(server, image_part(picture()))[0] == 200


def test_a_gigabyte_that_is_announced_is_refused_at_once(server: Server) -> None:
    with server.raw() as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                           b"Content-Type: application/json\r\nContent-Length: 1000000000\r\n\r\n")  # fmt: skip
        head = connection.recv(4096)
    assert head.startswith(b"HTTP/1.1 413") and b"connection: close" in head.lower()


def test_a_gigabyte_that_is_not_announced_is_cut_off(server: Server) -> None:
    before, sent = server.memory(), 0
    block = b"%x\r\n" % MEGABYTE + b" " * MEGABYTE + b"\r\n"
    with server.raw() as connection:
        connection.sendall(b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                           b"Transfer-Encoding: chunked\r\n\r\n")  # fmt: skip
        try:
            for _ in range(1000):
                connection.sendall(block)
                sent += 1
        except OSError:
            pass
    assert sent < 200  # the limit is 64 megabytes; some more lie in the sockets' buffers
    assert server.memory() - before < 250 * MEGABYTE
    server.wait_for("cpmv:num_requests_under_way", 0)


def test_bodies_and_heads_that_trickle_time_out(strict: Server) -> None:
    start = time.monotonic()
    with strict.raw() as connection:
        connection.sendall(b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer right-key\r\n"
                           b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{")  # fmt: skip
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")
    with strict.raw() as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: loc")
        assert connection.recv(4096) == b""  # closed
    with strict.raw() as connection:  # a second head on a connection that was kept
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /heal")
        received = b"-"
        while received:
            received = connection.recv(4096)
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000, b'{"messages": ' + b"[" * 5_000_000, b'{"messages": "\xff\xfe"}', b"\x00" * 1000,
     b'{"messages": [{"role": "user", "content": "\\ud800"}]}', b'{"a":' * 50_000, b""],
)  # fmt: skip
def test_bodies_that_are_no_request_are_bad_requests(server: Server, body: bytes) -> None:
    for path in ("/v1/chat/completions", "/tokenize", "/v1/preview"):
        status, answer = server.post(path, body)
        assert status == 400 and is_error(answer)


def test_deep_schemas_and_tools_are_bad_requests(server: Server) -> None:
    deep: dict = {"type": "string"}
    for _ in range(200):
        deep = {"type": "array", "items": deep}
    for fields in (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": deep}}},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": deep}}]},
        {"structured_outputs": {"json": deep}},
        {"structured_outputs": {"regex": "(" * 5000}},
        {"structured_outputs": {"grammar": "root ::= " + "(" * 20_000}},
    ):
        status, answer = server.chat("x", **fields)
        assert status == 400 and is_error(answer), fields
    assert server.chat("x")[0] == 200


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "statuses"),
    [
        (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", (400,)),
        (HEAD + b"Content-Length: 5, 6\r\n\r\nhello", (400,)),
        (HEAD + b"Content-Length: -5\r\n\r\nhello", (400,)),
        (HEAD + b"Content-Length: 0x5\r\n\r\nhello", (400,)),
        (HEAD + b"Transfer-Encoding: gzip\r\n\r\nhello", (400, 501)),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello", (400,)),
        (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", (415,)),
        (HEAD.replace(b"application/json", b"text/plain") + b"Content-Length: 2\r\n\r\n{}", (415,)),
        (b"GET /health HTTP/1.1\r\nHost: evil.org\r\n\r\n", (421,)),
        (b"GET /health HTTP/1.1\r\nHost: localhost.evil.org\r\n\r\n", (421,)),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.org\r\n\r\n", (400, 421)),
        (b"GET /health HTTP/1.1\r\n\r\n", (400,)),
        (b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.org\r\n\r\n", (403,)),
        (b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\n\r\n", (403,)),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Big: " + b"a" * 200_000 + b"\r\n\r\n", (400, 431)),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n", (400,)),
        (b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", (400,)),
        (b"GET /page/..%2f..%2fsettings.py HTTP/1.1\r\nHost: localhost\r\n\r\n", (404,)),
        (b"GET /page/../app.py HTTP/1.1\r\nHost: localhost\r\n\r\n", (404,)),
        (b"GET http://evil.org/health HTTP/1.1\r\nHost: localhost\r\n\r\n", (404,)),
        (b"TRACE /health HTTP/1.1\r\nHost: localhost\r\n\r\n", (405,)),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", (400,)),
    ],
)
def test_header_tricks_are_refused(server: Server, request_bytes: bytes, statuses: tuple[int, ...]) -> None:
    with server.raw() as connection:
        connection.sendall(request_bytes)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while block := connection.recv(65536):
            answer += block
    head, _, body = answer.partition(b"\r\n\r\n")
    assert int(head.split(b" ")[1]) in statuses, answer[:200]
    assert is_error(json.loads(body)) and b"Traceback" not in answer


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer wrong"}, {"authorization": "right-key"}, {"authorization": "Bearer right-ke"},
     {"authorization": "Bearer right-key2"}, {"authorization": "Basic right-key"}, {"authorization": "Bearer "},
     {"x-api-key": "right-key"}],
)  # fmt: skip
def test_wrong_keys_are_refused_everywhere_it_matters(strict: Server, headers: dict[str, str]) -> None:
    for method, path in (("GET", "/v1/models"), ("GET", "/metrics"), ("POST", "/v1/chat/completions"),
                         ("POST", "/tokenize"), ("POST", "/v1/preview"), ("GET", "/nothing")):  # fmt: skip
        status, given, body = strict.request(method, path, {} if method == "POST" else None, headers)
        assert status == 401 and given["www-authenticate"] == "Bearer" and is_error(json.loads(body))
    for path in ("/health", "/ready", "/version"):
        assert strict.get(path, headers=headers)[0] == 200


def test_each_right_key_is_enough(strict: Server) -> None:
    for key in ("right-key", "other-key"):
        assert strict.get("/v1/models", headers={"authorization": f"Bearer {key}"})[0] == 200


def test_too_many_media_are_refused_before_any_is_read(server: Server) -> None:
    parts = [url_part("https://example.com/x.png")] * 65
    status, answer = server.chat([*parts, text_part("?")])
    assert status == 400 and "64 image" in answer["error"]["message"]


def test_texts_beyond_any_context_are_refused_without_being_tokenised(server: Server) -> None:
    start = time.monotonic()
    status, answer = server.chat("a" * 30_000_000)
    assert status == 400 and answer["error"]["code"] == "context_length_exceeded"
    assert time.monotonic() - start < 20


def test_nothing_of_all_this_left_a_trace(server: Server, strict: Server) -> None:
    server.wait_for("cpmv:num_requests_under_way", 0)
    server.wait_for("cpmv:kv_cache_blocks_used", 0)
    assert server.chat([image_part(PICTURES / "label.png"), text_part("Read the text.")], max_tokens=6)[0] == 200
    for running in (server, strict):
        assert "Traceback" not in running.log
