"""Short forms of the load test and of fuzzing by the server's own document; the long ones are in benchmarks/."""

from __future__ import annotations

import json
import subprocess
import sys

from serve_process import ROOT, Server, serving

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "maximum": 2**80}}}


def run(script: str, *arguments: str) -> dict:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *arguments], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_mixed_load_leaves_nothing_behind() -> None:
    found = run("serve_load.py", "--clients", "16", "--seconds", "10", "--full-seconds", "0")["mixed"]
    assert found["requests"] > 10 and found["statuses"].get("200", 0) > 0
    assert found["server_errors"] == found["hung"] == found["broken"] == 0
    assert found["wrong"] == [] and found["leaked_blocks"] == found["left_under_way"] == 0
    assert found["exit_code"] == 0


def test_requests_made_from_the_document_are_never_server_errors() -> None:
    with serving("--max-model-len", "256") as server:
        found = run("serve_fuzz.py", server.url, "--cases", "150")
        assert found["cases"] > 100 and found["server_errors"] == 0 and found["failures"] == []
        assert "Traceback" not in server.log


def test_numbers_beyond_the_machines_are_taken_or_refused(server: Server) -> None:
    """Found by fuzzing: a division by almost nothing, and integers of more than 64 bits."""
    call = {"function": {"name": "f", "arguments": '{"a": 1e999, "b": ' + "9" * 99 + "}"}}
    history = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]}]
    for fields in (
        {"temperature": 1e-300},
        {"temperature": 5e-324, "top_p": 5e-324, "min_p": 1},
        {"tools": [TOOL]},
        {"messages": [*history, {"role": "tool", "content": "y"}]},
    ):
        status, answer = server.chat("x", **fields)
        assert status == 200, answer
    assert server.chat("x", repetition_penalty=1e-300)[0] == 400
    assert server.chat("x", seed=10**30)[0] == 400
