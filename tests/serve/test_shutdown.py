"""The end: SIGTERM lets answers finish, then ends what is left so that clients understand; and a full queue."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from serve_process import Server, serving

LONG = {"model": "cpmv-tiny", "messages": [{"role": "user", "content": "Tell me."}], "temperature": 0}


def stream_of(server: Server, tokens: int, client: openai.OpenAI | None = None) -> openai.Stream:
    """A stream that goes on for so many tokens; its first token has come."""
    stream = (client or server.client()).chat.completions.create(
        **LONG, stream=True, max_tokens=tokens, extra_body={"min_tokens": tokens}
    )
    chunks = iter(stream)
    next(chunks), next(chunks)
    return stream


def test_answers_under_way_are_finished_and_new_ones_refused() -> None:
    with serving("--drain", "60") as server:
        stream = stream_of(server, 120)
        idle = server.raw()
        server.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 10
        refused = False
        while not refused and time.monotonic() < deadline:
            try:
                refused = server.chat("x")[0] == 503
            except OSError:
                refused = True  # it listens no longer
        reasons = [chunk.choices[0].finish_reason for chunk in stream]
        assert refused and reasons[-1] == "length"
        assert server.process.wait(30) == 0
        idle.close()
        assert "Traceback" not in server.log


def test_what_does_not_finish_in_time_ends_with_an_error_event() -> None:
    with serving("--drain", "1") as server:
        stream = stream_of(server, 6000)
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIError, match="shutting down"):
            for _ in stream:
                pass
        assert server.process.wait(30) == 0
        assert time.monotonic() - start < 25
        assert "Traceback" not in server.log


def is_alive(pid: str) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


def test_a_second_signal_ends_at_once_and_no_process_is_left() -> None:
    with serving("--drain", "300") as server:
        stream = stream_of(server, 6000)
        children = subprocess.run(
            ["pgrep", "-P", str(server.process.pid)], capture_output=True, text=True
        ).stdout.split()
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(30) == 130
        stream.close()
        assert children
        deadline = time.monotonic() + 20
        while any(is_alive(child) for child in children):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_full_queue_says_when_to_come_back_and_serves_those_it_took() -> None:
    settings = {"max_num_seqs": 2, "max_queue": 2}
    with serving(settings=settings) as server:
        streams = [stream_of(server, 3000) for _ in range(2)]
        body = {**LONG, "max_tokens": 4}

        def ask(_: int) -> tuple[int, dict[str, str]]:
            same = {"authorization": "Bearer none"}  # the streams' client, who may fill the queue alone
            status, headers, data = server.request("POST", "/v1/chat/completions", body, headers=same, timeout=120)
            if status != 200:
                assert json.loads(data)["error"]["type"] == "rate_limit_error"
            return status, headers

        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(ask, i) for i in range(8)]
            deadline = time.monotonic() + 30
            while sum(one.done() for one in waiting) < 6 and time.monotonic() < deadline:
                time.sleep(0.05)
            refused = [one.result() for one in waiting if one.done()]
            assert len(refused) == 6 and {status for status, _ in refused} == {429}
            assert all(1 <= int(headers["retry-after"]) <= 60 for _, headers in refused)
            for stream in streams:
                stream.close()
            served = [one.result()[0] for one in waiting]
        assert sorted(served) == [200] * 2 + [429] * 6
        server.wait_for("cpmv:kv_cache_blocks_used", 0)


def test_a_busy_client_does_not_keep_another_waiting_for_long() -> None:
    """Twelve requests of one user are queued before the only one of another, which is served among the first."""
    settings = {"max_num_seqs": 1, "max_queue": 40}
    with serving(settings=settings) as server:
        order: list[str] = []
        lock = threading.Lock()

        def ask(user: str) -> None:
            body = {**LONG, "max_tokens": 40, "min_tokens": 40, "user": user}
            assert server.request("POST", "/v1/chat/completions", body, timeout=120)[0] == 200
            with lock:
                order.append(user)

        threads = [threading.Thread(target=ask, args=("busy",)) for _ in range(12)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 20
        while server.metric("cpmv:num_requests_under_way") < 12 and not order and time.monotonic() < deadline:
            time.sleep(0.01)
        other = threading.Thread(target=ask, args=("other",))
        other.start()
        for thread in (*threads, other):
            thread.join()
        assert order.index("other") < 8
