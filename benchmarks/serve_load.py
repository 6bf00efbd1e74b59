"""Load on `cpmv serve` with the bundled model: mixed requests, cancels, mistakes; then a queue that is full.

    python benchmarks/serve_load.py --clients 64 --seconds 300

Clients ask one request after another: text, pictures, videos, PDFs, whole or streamed, a third of them cancelled at a
random moment, some malformed. Counted are statuses, hung requests, streams that ended wrongly, blocks that were not
given back, and the server's memory over time. Then a small server is filled by as many clients as it takes, and by
many more: the refused must not slow the admitted. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL.Image

ROOT = Path(__file__).parents[1]
HUNG_S = 90.0  # without a byte
SAMPLE_S = 2.0
CACHE = "128MiB"


def start_server(*flags: str) -> tuple[subprocess.Popen[str], int]:
    """Start `cpmv serve` on a free port; return the process and its port."""
    command = [sys.executable, "-m", "cpmv", "serve", "--port", "0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        match = re.search(r"at http://\S+:(\d+)$", line.strip())
        if match is not None:
            return process, int(match[1])
    raise SystemExit("the server did not start:\n" + "".join(lines))


def picture(rng: random.Random) -> str:
    width, height = rng.choice([(160, 120), (224, 224), (300, 200), (448, 336)])
    pixels = np.random.default_rng(rng.randrange(8)).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    out = io.BytesIO()
    PIL.Image.fromarray(pixels).resize((width, height)).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def clip(seed: int) -> str:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for i in range(30 + seed):
            pixels = np.full((64, 96, 3), (i * 7 + seed * 30) % 255, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return "data:video/mp4;base64," + base64.b64encode(out.getvalue()).decode()


def document() -> str:
    out = io.BytesIO()
    PIL.Image.new("RGB", (300, 400), "white").save(out, "PDF")
    return "data:application/pdf;base64," + base64.b64encode(out.getvalue()).decode()


@dataclass
class Tally:
    """What the clients saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    cancelled: int = 0
    hung: int = 0
    broken: int = 0  # streams that ended without [DONE], connections that were cut
    wrong: list[str] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    tokens: int = 0


class Load:
    """Requests drawn from one seed, sent to one server."""

    def __init__(self, port: int, tally: Tally) -> None:
        self.port, self.tally = port, tally
        self.retry_after_s = 1
        rng = random.Random(0)
        self._pictures = [picture(rng) for _ in range(12)]
        self._clips = [clip(i) for i in range(3)]
        self._document = document()

    def body(self, rng: random.Random) -> tuple[str, bytes, int]:
        """Draw a request: (kind, body, the status it deserves)."""
        kind = rng.choices(["text", "picture", "video", "pdf", "malformed"], [30, 35, 15, 5, 15])[0]
        self.tally.kinds[kind] += 1
        if kind == "malformed":
            return (kind, *rng.choice(_MALFORMED))
        parts: list[dict[str, Any]] = [{"type": "text", "text": f"What is this? {rng.randrange(50)}"}]
        if kind == "picture":
            for _ in range(rng.choice([1, 1, 2])):
                parts.insert(0, {"type": "image_url", "image_url": {"url": rng.choice(self._pictures)}})
        elif kind == "video":
            parts.insert(0, {"type": "video_url", "video_url": {"url": rng.choice(self._clips), "packing": 6}})
        elif kind == "pdf":
            parts.insert(0, {"type": "file", "file": {"file_data": self._document, "filename": "a.pdf"}})
        tokens = rng.randint(4, 40)
        request: dict[str, Any] = {"messages": [{"role": "user", "content": parts}], "max_tokens": tokens}
        request |= {"min_tokens": tokens, "stream": rng.random() < 0.6, "user": f"u{rng.randrange(16)}"}
        if rng.random() < 0.1:
            del request["min_tokens"]
            request |= {"response_format": {"type": "json_object"}, "max_tokens": 120}
        return kind, json.dumps(request).encode(), 200

    async def client(self, seed: int, until: float) -> None:
        rng = random.Random(seed)
        while time.monotonic() < until:
            kind, body, expected = self.body(rng)
            leave_after = rng.uniform(0, 2.0) if rng.random() < 1 / 3 else None
            start = time.monotonic()
            try:
                async with asyncio.timeout(leave_after):
                    status = await self.ask(body)
            except TimeoutError:
                if leave_after is None:
                    self.tally.hung += 1
                else:
                    self.tally.cancelled += 1
                continue
            except (OSError, EOFError, ValueError) as error:
                self.tally.broken += 1
                self.tally.wrong.append(f"{kind}: {type(error).__name__} {error}")
                continue
            self.tally.statuses[status] += 1
            if status == expected == 200:
                self.tally.latencies.append(time.monotonic() - start)
            elif status != expected and status != 429:
                self.tally.wrong.append(f"{kind}: {status} instead of {expected}")
            if status == 429:
                await asyncio.sleep(rng.uniform(0.2, 0.6))

    async def ask(self, body: bytes) -> int:
        """One request on its own connection; return its status. The answer is read to its end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        try:
            head = (
                "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            writer.write(head.encode() + body)
            await writer.drain()
            answer = bytearray()
            while block := await self._read(reader):
                answer += block
            return self._check(bytes(answer))
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        try:
            return await asyncio.wait_for(reader.read(65536), HUNG_S)
        except TimeoutError:
            self.tally.hung += 1
            raise EOFError("nothing came") from None

    def _check(self, answer: bytes) -> int:
        head, _, rest = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 "):
            raise EOFError("the connection was cut")
        status = int(head.split(b" ")[1])
        if status == 429:
            self.retry_after_s = int(re.findall(rb"retry-after: (\d+)", head.lower())[0])
        if b"text/event-stream" in head:
            if b"data: [DONE]" not in rest:
                raise ValueError(f"a stream ended without [DONE]: {rest[-200:]!r}")
            self.tally.tokens += rest.count(b'"delta"')
        elif status != 200 and not json.loads(rest).get("error"):
            raise ValueError("an error without OpenAI's body")
        return status


def _asking(content: Any, **fields: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": content}], **fields}).encode()


_MALFORMED: list[tuple[bytes, int]] = [
    (b"{", 400),
    (b'{"messages": []}', 400),
    (b'{"messages": [{"role": "user", "content": "\xff"}]}', 400),
    (_asking("x", temperature=9), 400),
    (_asking("x", model="other"), 404),
    (_asking([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]), 400),
    (_asking([{"type": "image_url", "image_url": {"url": "https://example.com/a"}}]), 403),
]


def metric(port: int, name: str) -> float:
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60).read().decode()
    return sum(float(value) for value in re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.M))


def resident(pid: int) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def sample_memory(pid: int, until: float, samples: list[tuple[float, int]]) -> None:
    start = time.monotonic()
    while time.monotonic() < until:
        samples.append((time.monotonic() - start, resident(pid)))
        await asyncio.sleep(SAMPLE_S)


async def mixed(port: int, pid: int, clients: int, seconds: float) -> dict[str, Any]:
    """The mixed load, and whether the server comes back to rest."""
    tally = Tally()
    load = Load(port, tally)
    until = time.monotonic() + seconds
    samples: list[tuple[float, int]] = []
    await asyncio.gather(sample_memory(pid, until, samples), *(load.client(1000 + i, until) for i in range(clients)))
    leaked = await rest(port)
    sizes = [size for _, size in samples]
    middle, end = sizes[len(sizes) // 2 : len(sizes) * 3 // 4], sizes[len(sizes) * 3 // 4 :]
    growth = statistics.median(end) / statistics.median(middle) - 1 if middle and end else 0.0
    return {
        "clients": clients,
        "seconds": seconds,
        "cache_memory": CACHE,
        "requests": sum(tally.statuses.values()) + tally.cancelled + tally.hung + tally.broken,
        "kinds": dict(tally.kinds),
        "statuses": {str(status): count for status, count in sorted(tally.statuses.items())},
        "server_errors": sum(count for status, count in tally.statuses.items() if status >= 500),
        "cancelled": tally.cancelled,
        "hung": tally.hung,
        "broken": tally.broken,
        "wrong": tally.wrong[:10],
        "leaked_blocks": leaked["blocks"],
        "left_under_way": leaked["under_way"],
        "memory_mb": {"first": sizes[0] >> 20, "middle": int(statistics.median(middle)) >> 20 if middle else None,
                      "end": int(statistics.median(end)) >> 20 if end else None, "most": max(sizes) >> 20},
        "memory_growth": round(growth, 4),
        "latency_s": quantiles(tally.latencies),
        "generated_tokens": metric(port, "cpmv:generation_tokens_total"),
    }  # fmt: skip


async def rest(port: int) -> dict[str, int]:
    """Wait until nothing is under way; return what is still held."""
    deadline = time.monotonic() + 30
    while True:
        held = {
            "under_way": int(metric(port, "cpmv:num_requests_under_way")),
            "blocks": int(metric(port, "cpmv:kv_cache_blocks_used")),
        }
        if not any(held.values()) or time.monotonic() > deadline:
            return held
        await asyncio.sleep(0.2)


def quantiles(values: list[float]) -> dict[str, float]:
    if len(values) < 2:
        return {}
    cuts = statistics.quantiles(values, n=100)
    return {name: round(cuts[at - 1], 3) for name, at in (("p50", 50), ("p90", 90), ("p99", 99))}


async def full_queue(port: int, places: int, seconds: float) -> dict[str, Any]:
    """Latency of admitted requests when all places are taken, without and with many more clients who are refused."""
    request = {"messages": [{"role": "user", "content": "Tell me."}], "max_tokens": 24, "min_tokens": 24}
    body = json.dumps({**request, "temperature": 0}).encode()
    found: dict[str, Any] = {"places": places}
    # In turns, because other work on the machine slows whichever half it meets.
    turns = (("exactly_full", places), ("four_times_as_many", 4 * places))
    for name, clients in [(f"{name}_{i}", clients) for i in (1, 2, 3) for name, clients in turns]:
        tally = Tally()
        load = Load(port, tally)

        async def client(load: Load, tally: Tally, until: float, seed: int) -> None:
            rng = random.Random(seed)
            while time.monotonic() < until:
                start = time.monotonic()
                status = await load.ask(body)
                tally.statuses[status] += 1
                if status == 200:
                    tally.latencies.append(time.monotonic() - start)
                else:
                    await asyncio.sleep(load.retry_after_s * rng.uniform(1, 1.5))

        until = time.monotonic() + seconds
        await asyncio.gather(*(client(load, tally, until, seed) for seed in range(clients)))
        found[name] = {
            "clients": clients,
            "statuses": {str(status): count for status, count in sorted(tally.statuses.items())},
            "latency_s": quantiles(tally.latencies),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300, help="of the mixed part; 0: none")
    parser.add_argument("--full-seconds", type=float, default=20, help="of each sixth of the full-queue part; 0: none")
    options = parser.parse_args()
    report: dict[str, Any] = {}
    if options.seconds:
        # A cache that fills in seconds, so that growth is not the cache being touched for the first time.
        process, port = start_server("--cache-memory", CACHE)
        try:
            report["mixed"] = asyncio.run(mixed(port, process.pid, options.clients, options.seconds))
        finally:
            process.send_signal(signal.SIGTERM)
            exit_code = process.wait(60)
        report["mixed"]["exit_code"] = exit_code
    if options.full_seconds:
        process, port = start_server("--max-num-seqs", "8", "--max-queue", "8")
        try:
            report["full_queue"] = asyncio.run(full_queue(port, 16, options.full_seconds))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    print(json.dumps(report, indent=1))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
