"""The real `cpmv serve` process for tests: started once, spoken to over its socket, stopped and looked at."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "examples" / "pictures"
START_TIMEOUT_S = 120
_ANNOUNCED = re.compile(r"at http://(\S+):(\d+)$")


class Server:
    """A running server. `post` and `get` speak plain HTTP, `client` is the official one."""

    def __init__(
        self,
        *flags: str,
        model: str | None = None,
        env: dict[str, str] | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        command = [sys.executable, "-m", "cpmv", "serve", *([model] if model else []), "--port", "0", *flags]
        if settings is not None:  # what has no flag
            command = [sys.executable, str(Path(__file__).with_name("serve_custom.py")), json.dumps(settings)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **(env or {})}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=ROOT
        )
        self.lines: list[str] = []
        self._found = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._found.wait(START_TIMEOUT_S) or self.process.poll() is not None:
            self.process.kill()
            raise AssertionError("the server did not start:\n" + "".join(self.lines[-30:]))

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            match = _ANNOUNCED.search(line.strip())
            if match is not None:
                self.host, self.port = "127.0.0.1", int(match[2])
                self._found.set()
        self._found.set()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(**{"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0, **options})

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = 60
    ) -> tuple[int, dict[str, str], bytes]:
        """One request; return (status, headers in lower case, body)."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            given = dict(headers or {})
            if body is not None and not isinstance(body, (bytes, Iterator)):
                body = json.dumps(body).encode()
            if body is not None:
                given.setdefault("content-type", "application/json")
            connection.request(method, path, body, given)
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()

    def post(self, path: str, body: Any, **more: Any) -> tuple[int, Any]:
        status, _, data = self.request("POST", path, body, **more)
        return status, json.loads(data)

    def get(self, path: str, **more: Any) -> tuple[int, Any]:
        status, headers, data = self.request("GET", path, **more)
        return status, json.loads(data) if headers.get("content-type", "").startswith("application/json") else data

    def chat(self, content: Any, **more: Any) -> tuple[int, Any]:
        """Ask once, greedily, for few tokens."""
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 8, "temperature": 0, **more}
        return self.post("/v1/chat/completions", body)

    def metric(self, name: str) -> float:
        """The value of a metric, summed over its labels."""
        _, text = self.get("/metrics")
        found = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text.decode(), re.M)
        return sum(map(float, found))

    def wait_for(self, name: str, value: float, within_s: float = 20) -> None:
        deadline = time.monotonic() + within_s
        while (found := self.metric(name)) != value:
            assert time.monotonic() < deadline, f"{name} is {found}, not {value}"
            time.sleep(0.05)

    def memory(self) -> int:
        """Resident bytes of the server's own process."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) * 1024

    def raw(self, timeout: float = 30) -> socket.socket:
        connection = socket.create_connection((self.host, self.port), timeout)
        connection.settimeout(timeout)
        return connection

    def stop(self, timeout: float = 60) -> int:
        """SIGTERM; return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("the server did not end") from None


@contextmanager
def serving(*flags: str, **more: Any) -> Iterator[Server]:
    server = Server(*flags, **more)
    try:
        yield server
    finally:
        server.stop()


def data_uri(data: bytes | Path, kind: str) -> str:
    raw = data.read_bytes() if isinstance(data, Path) else data
    return f"data:{kind};base64,{base64.b64encode(raw).decode()}"


def image_part(data: bytes | Path, kind: str = "image/png") -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_uri(data, kind)}}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
