"""Two replicas behind Ray Serve answer as one server does, and go when they are told to."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import GOLDEN

import cpmv
from cpmv.cli.main import main
from cpmv.cluster.ray_session import ClusterError
from cpmv.cluster.serve import read_replicas

MODEL = str(GOLDEN / "tiny_a")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    pytest.importorskip("ray", reason="needs Ray: pip install 'cpmv[cluster]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "cpmv", "serve", MODEL, "--served-model-name", "tiny", "--port", str(port)]
    command += ["--max-num-seqs", "4", "--decoders", "1", "--cluster", "ray", "--replicas", "2"]
    log = tmp_path_factory.mktemp("ray") / "log"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, text=True, env=environment)
    deadline = time.monotonic() + 240
    while "on Ray at" not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.5)
    yield port, process
    if process.poll() is None:
        process.kill()


def post(port: int, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return dict(json.load(reply))


def test_answers_are_those_of_one_model(server: tuple[int, Any]) -> None:
    question = [{"role": "user", "content": "What is this?"}]
    body = {"messages": question, "temperature": 0, "repetition_penalty": 1.0, "max_tokens": 6}
    answers = {post(server[0], body)["choices"][0]["message"]["content"] for _ in range(6)}
    expected = cpmv.load(MODEL).ask(None, "What is this?", greedy=True, max_new_tokens=6)
    assert answers == {expected}


def test_it_ends_when_it_is_told_to(server: tuple[int, subprocess.Popen[str]]) -> None:
    port, process = server
    process.send_signal(signal.SIGTERM)
    assert process.wait(90) == 0
    with pytest.raises(OSError):
        post(port, {})


def test_replicas_are_a_number_or_a_range() -> None:
    assert read_replicas("4") == (4, 4) and read_replicas("1-8") == (1, 8)
    for wrong in ("0", "8-1", "many", "-3", ""):
        with pytest.raises(ClusterError, match="no range"):
            read_replicas(wrong)


def test_mistakes_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", MODEL, "--replicas", "2"]) == 2
    assert "--replicas needs --cluster" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["serve", MODEL, "--cluster", "ray"]) == 2
    assert "pip install 'cpmv[cluster]'" in capsys.readouterr().err
