"""Kill `cpmv batch` with SIGKILL at random moments, resume it each time, and prove that nothing is lost or repeated.

    python benchmarks/batch_kill.py --inputs 1000 --bad 20 --kills 100

Inputs are tiny pictures with a question, in OpenAI's batch format, for the bundled model; bad ones are broken in ten
ways. Half of the kills come at a random time since the process began (imports and loading included), half after a
random number of further results. A job that ends before all kills are spent is checked and begun again, so that
every part of a run is hit, writing OUT included. An undisturbed run at the end gives the answers to compare with.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

POLL_S = 0.002
BAD = (
    lambda name: "{" + name,
    lambda name: json.dumps({"no": name}),
    lambda name: _line(name, url="/v1/embeddings"),
    lambda name: _line(name, method="GET"),
    lambda name: _line(name, body={"messages": []}),
    lambda name: _line(name, body={"messages": [{"role": "user", "content": "?"}], "surprise": 1}),
    lambda name: _line(name, body={"messages": [{"role": "user", "content": "?"}], "temperature": -1}),
    lambda name: _ask(name, "data:image/png;base64,AAAA"),
    lambda name: _ask(name, "missing.png"),
    lambda name: _ask(name, "https://example.com/a.png"),
)


def _line(name: str, **changed: Any) -> str:
    return json.dumps({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", **changed})


def _ask(name: str, url: str, max_tokens: int = 4) -> str:
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "Read the text."}]
    body = {"model": "bundled", "messages": [{"role": "user", "content": content}], "max_tokens": max_tokens}
    return _line(name, body=body)


def _picture(number: int) -> str:
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (64, 28), "white")
    ImageDraw.Draw(picture).text((4, 8), f"{number}", fill="black")
    file = io.BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def write_inputs(path: Path, count: int, bad: int, seed: int) -> set[str]:
    """Write the job and return the names under which the bad inputs must come out."""
    rng = random.Random(seed)
    broken = dict(zip(sorted(rng.sample(range(count), bad)), [i % len(BAD) for i in range(bad)], strict=True))
    names, lines = set(), []
    for number in range(count):
        name = f"input-{number}"
        if number in broken:
            lines.append(BAD[broken[number]](name))
            # Lines that are no requests have no name but their place.
            names.add(name if broken[number] >= 2 else f"line-{number + 1}")
        else:
            lines.append(_ask(name, _picture(number)))
    path.write_text("\n".join(lines) + "\n")
    return names


@dataclass
class Outcome:
    """What a series of kills saw."""

    kills: int = 0
    rounds: int = 0
    results_at_kill: list[int] = field(default_factory=list)
    seconds_at_kill: list[float] = field(default_factory=list)
    torn_lines: int = 0
    problems: list[str] = field(default_factory=list)


class Job:
    """One IN and OUT, run as a process of its own."""

    def __init__(self, source: Path, out: Path, *options: str) -> None:
        self.out, self.journal = out, out.with_name(out.name + ".part")
        self._command = [
            sys.executable,
            "-m",
            "cpmv",
            "batch",
            str(source),
            str(out),
            "--greedy",
            "--max-batch",
            "8",
            *options,
        ]

    def start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            self._command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )

    def results(self) -> list[str]:
        """Ids in the journal, whole lines only."""
        if not self.journal.exists():
            return []
        lines = self.journal.read_bytes().split(b"\n")[1:-1]
        return [json.loads(line)["id"] for line in lines]


def kill_when(job: Job, is_time: Callable[[float], bool]) -> tuple[int | None, float, str]:
    """Run a job and kill it when it is time; return its exit code (None: it was killed), seconds, and stderr."""
    start = time.perf_counter()
    process = job.start()
    while process.poll() is None:
        if is_time(time.perf_counter() - start):
            os.killpg(process.pid, signal.SIGKILL)
            _, error = process.communicate()
            killed = process.returncode == -signal.SIGKILL
            return None if killed else process.returncode, time.perf_counter() - start, error.decode()
        time.sleep(POLL_S)
    _, error = process.communicate()
    return process.returncode, time.perf_counter() - start, error.decode()


def series(job: Job, total: int, bad: set[str], kills: int, seed: int, log: Callable[[str], None]) -> Outcome:
    """Kill and resume until `kills` are spent, then let the last round end; check after every step."""
    rng, outcome, startup = random.Random(seed), Outcome(), 4.0
    while True:
        before = job.results()
        last = outcome.kills >= kills
        wanted, moment = rng.randrange(2 * total // max(1, kills) + 1), rng.uniform(0, 1.5 * startup)
        by_results = rng.random() < 0.5

        def is_time(seconds: float, last: bool = last, by_results: bool = by_results) -> bool:
            if last:
                return False
            if not by_results:
                return seconds >= moment  # noqa: B023
            size = job.journal.stat().st_size if job.journal.exists() else 0
            return size > grown_from and len(job.results()) - len(before) >= wanted  # noqa: B023

        grown_from = job.journal.stat().st_size if job.journal.exists() else 0
        code, seconds, error = kill_when(job, is_time)
        if code is None:
            outcome.kills += 1
            outcome.seconds_at_kill.append(round(seconds, 2))
            found = job.results()
            outcome.results_at_kill.append(len(found))
            data = job.journal.read_bytes() if job.journal.exists() else b""
            outcome.torn_lines += not data.endswith(b"\n") if data else 0
            if not job.out.exists() or job.journal.exists():
                _check_journal(outcome, before, found)
            continue
        log(f"round {outcome.rounds + 1} ended after {outcome.kills} kills in all, exit code {code}")
        if code != 1:
            outcome.problems.append(f"exit code {code}: {error[-3000:]}")
            return outcome
        outcome.problems += check_output(job.out, total, bad)
        outcome.rounds += 1
        if last or outcome.problems:
            return outcome
        job.out.unlink()


def _check_journal(outcome: Outcome, before: list[str], after: list[str]) -> None:
    if after[: len(before)] != before:
        outcome.problems.append(f"a kill lost results: {len(before)} before, {len(after)} after")
    twice = [id for id, count in Counter(after).items() if count > 1]
    if twice:
        outcome.problems.append(f"{len(twice)} inputs were recorded twice")


def check_output(out: Path, total: int, bad: set[str]) -> list[str]:
    """Say what is wrong with an output: lost, repeated, misnamed, or out of order."""
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    problems = []
    if len(lines) != total or len({line["custom_id"] for line in lines}) != total:
        problems.append(f"{len(lines)} lines, {len({line['custom_id'] for line in lines})} names, {total} inputs")
    named = {line["custom_id"] for line in lines if line["error"] is not None}
    if named != bad:
        problems.append(f"errors are {sorted(named ^ bad)[:5]} off")
    numbers = [int(line["custom_id"].rpartition("-")[2]) - line["custom_id"].startswith("line-") for line in lines]
    if numbers != list(range(total)):
        problems.append("the order is not that of the inputs")
    return problems


def answers(out: Path) -> dict[str, str]:
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    return {
        line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"]
        for line in lines
        if line["error"] is None
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--bad", type=int, default=20)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, start = Path(folder) / "in.jsonl", time.perf_counter()
        bad = write_inputs(source, given.inputs, given.bad, given.seed)
        job = Job(source, Path(folder) / "out.jsonl")
        outcome = series(job, given.inputs, bad, given.kills, given.seed, print)
        seconds = time.perf_counter() - start
        calm = Job(source, Path(folder) / "calm.jsonl")
        begun = time.perf_counter()
        code, _, _ = kill_when(calm, lambda _: False)
        calm_seconds = time.perf_counter() - begun
        same = None
        if not outcome.problems and code == 1:
            first, second = answers(job.out), answers(calm.out)
            same = sum(first[name] == second[name] for name in second)
        report = {
            "inputs": given.inputs,
            "bad": given.bad,
            "kills": outcome.kills,
            "rounds": outcome.rounds,
            "killed_before_any_result": sum(1 for n in outcome.results_at_kill if n == 0),
            "results_at_kill": outcome.results_at_kill,
            "seconds_at_kill": outcome.seconds_at_kill,
            "torn_lines": outcome.torn_lines,
            "problems": outcome.problems,
            "seconds": round(seconds, 1),
            "undisturbed_seconds": round(calm_seconds, 1),
            "answers_equal_to_undisturbed": same,
        }
        print(json.dumps(report))
    return 1 if outcome.problems or code != 1 else 0


if __name__ == "__main__":
    sys.exit(main())
