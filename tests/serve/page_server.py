"""A stand-in for `cpmv serve`, with which the page is tested: its files, a preview, and canned streamed answers.

What it sends has the form of the real server's replies; what the page asked is kept for the tests to look at.
"""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

import cpmv.serve
from cpmv.inputs.image import plan_slices

PAGE = Path(cpmv.serve.__file__).parent / "page"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
TABLE = """The receipt has **three** items:

| Item | Count | Price |
|:-----|------:|------:|
| Green tea | 2 | 7.00 |
| Rice cake | 1 | 4.50 |
| Oranges | 6 | 3.90 |

## What stands out

1. The total is `15.40`, which agrees with the lines.
2. The date is *14 March 2027*.

```python
total = 7.00 + 4.50 + 3.90
```
"""
HOSTILE = """<img src=x onerror="window.hacked=1"> <script>window.hacked=1</script>
[press me](javascript:window.hacked=1) and [a page](https://example.org/a_b) ![pixel](https://example.org/p.png)

<svg onload="window.hacked=1"></svg>
"""
THINKING = "The picture shows printed words.\nThe first line is larger than the others, so it is read first."


class PageServer(ThreadingHTTPServer):
    """`asked`: bodies of chat requests. `left`: set when a client went away in the middle. `key`: wanted, if any."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[dict[str, Any]] = []
        self.fetched: list[str] = []
        self.left = threading.Event()
        self.key = ""
        self.model = "MiniCPM-V-4.5"
        self.gate = threading.Event()  # a gated answer waits for it half-way
        self.url = f"http://127.0.0.1:{self.server_port}/"


@contextmanager
def page_server() -> Iterator[PageServer]:
    server = PageServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.gate.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: PageServer

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.fetched.append(self.path)
        if self.path == "/v1/models":
            if self._is_allowed():
                self._json(200, {"object": "list", "data": [{"id": self.server.model, "object": "model"}]})
            return
        name = "index.html" if self.path == "/" else self.path.removeprefix("/page/")
        file = PAGE / name
        if "/" in name or not file.is_file():
            self._json(404, {"error": {"message": f"there is no {self.path}", "type": "invalid_request_error"}})
            return
        self._send(200, TYPES[file.suffix], file.read_bytes())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._is_allowed():
            return
        if self.path == "/v1/preview":
            parts = [_preview(part, body["mm_processor_kwargs"]) for part in body["content"]]
            self._json(200, {"parts": parts, "visual_tokens": sum(part["tokens"] for part in parts)})
            return
        self.server.asked.append(body)
        question = _question(body)
        if "fail" in question:
            self._json(400, {"error": {"message": "the prompt has 9000 tokens but the context allows 8192"}})
        elif "busy" in question:
            self._json(429, {"error": {"message": "the queue is full"}}, {"Retry-After": "7"})
        else:
            self._stream(body, question)

    def _is_allowed(self) -> bool:
        if self.server.key and self.headers.get("Authorization") != f"Bearer {self.server.key}":
            self._json(401, {"error": {"message": "wrong key", "type": "authentication_error"}})
            return False
        return True

    def _stream(self, body: dict[str, Any], question: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.end_headers()
        deltas = [{"role": "assistant"}]
        if body["chat_template_kwargs"]["enable_thinking"]:
            deltas += [{"reasoning_content": THINKING[i : i + 9]} for i in range(0, len(THINKING), 9)]
        text = _answer(body, question)
        deltas += [{"content": text[i : i + 7]} for i in range(0, len(text), 7)]
        try:
            for i, delta in enumerate(deltas):
                if "gate" in question and i == len(deltas) // 2:
                    self.server.gate.wait(20)
                self._event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
                time.sleep(0.02 if "slow" in question else 0.001)
            self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            details = {"cached_tokens": 128, "visual_tokens": 448}
            usage = {"prompt_tokens": 1212, "completion_tokens": 96, "prompt_tokens_details": details}
            self._event({"choices": [], "usage": usage})
            self.wfile.write(b"data: [DONE]\n\n")
        except (BrokenPipeError, ConnectionResetError):
            self.server.left.set()
        self.close_connection = True

    def _event(self, data: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode())
        self.wfile.flush()

    def _json(self, status: int, data: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self._send(status, "application/json", json.dumps(data).encode(), headers)

    def _send(self, status: int, kind: str, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("Cache-Control", "no-cache")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def _question(body: dict[str, Any]) -> str:
    content = body["messages"][-1]["content"]
    return " ".join(part["text"] for part in content if part["type"] == "text")


def _answer(body: dict[str, Any], question: str) -> str:
    if "table" in question:
        return TABLE
    if "hostile" in question:
        return HOSTILE
    if "slow" in question:
        return "word " * 2000
    parts = [part["type"] for message in body["messages"] for part in message["content"] if isinstance(part, dict)]
    return f"You sent {', '.join(parts)} and asked “{question}”."


def _preview(part: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    kind = part["type"]
    if kind == "video_url":
        return _video_preview(settings)
    if kind == "file" and part["file"]["file_data"].startswith("data:application/pdf"):
        page = Image.new("RGB", (595, 842), "white")
        for line in range(18):
            ImageDraw.Draw(page).rectangle((60, 60 + 40 * line, 500 - 37 * (line % 4), 70 + 40 * line), fill="#444")
        pages = [{"thumbnail": _uri(page), **_plan((1190, 1684), settings)} for _ in range(2)]
        return {"type": "pdf", "pages": pages, "tokens": sum(page["tokens"] for page in pages)}
    url = part["image_url"]["url"] if kind == "image_url" else part["file"]["file_data"]
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        return {"type": "image", **_plan(image.size, settings)}


def _plan(size: tuple[int, int], settings: dict[str, Any]) -> dict[str, Any]:
    plan = plan_slices(size, settings.get("max_slice_nums", 9), 448, 14, True)
    found: dict[str, Any] = {"size": list(size), "overview": list(plan.sizes[0]), "tokens": 64 * len(plan.sizes)}
    if plan.grid is None:
        return {**found, "grid": None, "slice": None}
    return {**found, "grid": {"columns": plan.grid[0], "rows": plan.grid[1]}, "slice": list(plan.sizes[1])}


def _video_preview(settings: dict[str, Any]) -> dict[str, Any]:
    packing = settings.get("packing", 6)
    frames = []
    for i in range(20):
        time_s = i / settings.get("fps", 3)
        frames.append({"index": 2 * i, "time_s": time_s, "thumbnail": _uri(_frame(time_s))})
    packages = [{"frames": frames[i : i + packing], "tokens": 64} for i in range(0, len(frames), packing)]
    size = {"size": [640, 400], "duration_s": 6.7, "num_frames": len(frames), "packing": packing}
    return {"type": "video", "packages": packages, "tokens": 64 * len(packages), **size}


def _frame(time: float) -> Image.Image:
    frame = Image.new("RGB", (160, 100), "#dfe8ee")
    draw = ImageDraw.Draw(frame)
    draw.rectangle((0, 74, 160, 100), fill="#8aa37c")
    x = 10 + 18 * time
    draw.ellipse((x, 40, x + 34, 74), fill="#d2603a")
    return frame


def _uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=70)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
