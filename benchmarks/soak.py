"""Soak the engine: many mixed requests with random cancels, and what must hold all along and at the end.

    python benchmarks/soak.py --requests 10000

The bundled model on the CPU answers text, pictures, packed clips and repeated prefixes, greedy and drawn, streamed and
waited for, from several clients; a part is cancelled at random moments. The cache is so small that rows give way.
Blocks, rows and queues are checked as it runs; every request must end exactly once, memory must stay flat within 5 %
after the warm-up, and sampled greedy answers must equal those of requests that ran alone. The last line is JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import cpmv
from cpmv.engine.engine import Engine
from cpmv.engine.output import Output, Piece
from cpmv.engine.request import Request
from cpmv.engine.sampling import SamplingParams
from cpmv.model.config import ModelInputs

CACHE_TOKENS = 768
IN_FLIGHT = 64


@dataclass
class Tally:
    """What happened to the requests. ended: how often each one's callback heard its end."""

    ended: Counter[int] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    generated: int = 0
    wrong: list[int] = field(default_factory=list)
    resident_mb: list[float] = field(default_factory=list)

    def on_piece(self, request: Request, piece: Piece | None) -> None:
        if piece is None:
            self.ended[request.id] += 1


def prompts_of(model: cpmv.Model, seed: int) -> list[ModelInputs]:
    """Mixed prompts of the bundled model: text, one picture, two, packed clips, and shared beginnings."""
    draw = random.Random(seed)

    def picture(size: int) -> Any:
        import numpy as np
        import PIL.Image

        flat = np.full((size, size, 3), [draw.randrange(256) for _ in range(3)], dtype=np.uint8)
        flat[size // 4 : size // 2, size // 4 : size // 2] = draw.randrange(256)
        return PIL.Image.fromarray(flat)

    def ask(*content: Any, **options: Any) -> ModelInputs:
        return model.processor([{"role": "user", "content": list(content)}], **options)

    pictures = [picture(112) for _ in range(6)]
    system = "You answer shortly and plainly, in the language of the question. " * 2
    out = [ask(text) for text in ("Describe the picture.", "三角形是什么颜色？", "Read the text.", "x")]
    out += [ask(one, "Describe the picture.") for one in pictures]
    out += [ask(pictures[0], pictures[at], "What differs?") for at in (1, 2)]
    out += [ask(f"Question {at}?", system_prompt=system) for at in range(40)]
    out += [ask(f"{draw.randrange(10**6)} " * draw.randrange(1, 6)) for _ in range(100)]
    out += [ask(picture(112), f"What is number {at}?") for at in range(30)]
    out += [ask(*pictures[:n], "What happens?", temporal_ids=[list(range(n))]) for n in (3, 6)]
    return out


def params_of(draw: random.Random) -> SamplingParams:
    """Mostly greedy, some drawn, some penalised; short answers and a few long ones."""
    length = draw.choice((1, 2, 4, 8, 8, 16, 16, 80))
    kind = draw.random()
    if kind < 0.6:
        return SamplingParams(temperature=0, max_new_tokens=length, min_new_tokens=draw.choice((0, length)))
    if kind < 0.8:
        return SamplingParams(
            temperature=0.9, top_p=0.9, seed=draw.randrange(1000), max_new_tokens=length, min_new_tokens=length
        )
    return SamplingParams.reference(True, max_new_tokens=length)


def soak(
    num_requests: int, seed: int = 0, *, cache_tokens: int = CACHE_TOKENS, report_every: float = 30.0
) -> tuple[Tally, Engine, float]:
    """Run the requests; raise AssertionError as soon as something does not hold."""
    model = cpmv.load(device="cpu")
    prompts = prompts_of(model, seed)
    per_token = model.network.cache_spec().bytes_per_token
    alone = Engine(model.network, model.tokenizer, max_batch=1, cache_bytes=CACHE_TOKENS * per_token)
    engine = Engine(
        model.network,
        model.tokenizer,
        max_batch=16,
        cache_bytes=cache_tokens * per_token,
        prefill_chunk=128,
        image_cache_bytes=400_000,  # sixteen pictures: the rest is encoded again and again
        lookup=3,
    )
    draw, tally = random.Random(seed), Tally()
    in_flight: list[tuple[Request, ModelInputs]] = []
    expected: dict[tuple[int, SamplingParams], Output] = {}
    begun, shown, added = time.perf_counter(), time.perf_counter(), 0
    while added < num_requests or in_flight:
        while added < num_requests and len(in_flight) < IN_FLIGHT:
            inputs, params = draw.choice(prompts), params_of(draw)
            client = draw.choice(("a", "a", "a", "b", "c"))
            in_flight.append((engine.add(inputs, params, client=client, on_piece=tally.on_piece), inputs))
            added += 1
            if draw.random() < 0.01:
                break
        engine.step()
        if draw.random() < 0.15:
            engine.cancel(draw.choice(in_flight)[0])
        still = []
        for request, inputs in in_flight:
            if request.output is None:
                still.append((request, inputs))
                continue
            tally.reasons[request.output.finish_reason] += 1
            tally.generated += len(request.output.token_ids)
            if request.params.greedy and request.output.finish_reason != "cancelled" and draw.random() < 0.02:
                _compare(request, inputs, alone, expected, tally)
        in_flight = still
        finished = sum(tally.reasons.values())
        if finished // 100 > len(tally.resident_mb):
            engine.check_integrity()
            gc.collect()
            tally.resident_mb.append(resident_mb())
        if time.perf_counter() - shown > report_every:
            shown = time.perf_counter()
            print(f"{shown - begun:6.0f} s  {finished} ended, {tally.resident_mb[-1]:.0f} MB", flush=True)
    return tally, engine, time.perf_counter() - begun


def _compare(
    request: Request,
    inputs: ModelInputs,
    alone: Engine,
    expected: dict[tuple[int, SamplingParams], Output],
    tally: Tally,
) -> None:
    key = (id(inputs), request.params)
    if key not in expected:
        expected[key] = alone.wait(alone.add(inputs, request.params))
    assert request.output is not None
    if request.output != expected[key]:
        tally.wrong.append(request.id)


def resident_mb() -> float:
    """Memory of this process that is in RAM now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def judge(tally: Tally, engine: Engine, num_requests: int, seconds: float) -> dict[str, Any]:
    """Check what must hold at the end; return the figures."""
    engine.check_integrity()
    stats = engine.stats()
    assert stats.used_blocks == stats.running == stats.waiting == 0, f"something is left: {stats}"
    assert sum(tally.reasons.values()) == num_requests == len(tally.ended), "a request never ended"
    assert set(tally.ended.values()) == {1}, "a request ended more than once"
    assert set(tally.reasons) <= {"stop", "length", "cancelled"}, f"a request failed: {tally.reasons}"
    # The first fifth fills caches; from there on memory has to stay where it is.
    steady = tally.resident_mb[len(tally.resident_mb) // 5 :] or [resident_mb()]
    return {
        "requests": num_requests,
        "seconds": round(seconds, 1),
        "finish_reasons": dict(tally.reasons),
        "generated_tokens": tally.generated,
        "tokens_per_s": round(tally.generated / seconds, 1),
        "steps": stats.steps,
        "preemptions": stats.preemptions,
        "prefix_hit_share": round(stats.prefix_hit_tokens / stats.prompt_tokens, 3),
        "image_hits": stats.image_hits,
        "image_misses": stats.image_misses,
        "drafted": stats.drafted,
        "accepted": stats.accepted,
        "answers_unlike_alone": len(tally.wrong),
        "resident_mb_min": round(min(steady), 1),
        "resident_mb_max": round(max(steady), 1),
        "resident_growth": round(max(steady) / steady[0] - 1, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache-tokens", type=int, default=CACHE_TOKENS, help="fewer make more rows give way")
    options = parser.parse_args()
    print(f"python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    tally, engine, seconds = soak(options.requests, options.seed, cache_tokens=options.cache_tokens)
    figures = judge(tally, engine, options.requests, seconds)
    flat = figures["resident_growth"] <= 0.05
    print(f"memory {'is flat' if flat else 'GREW'}: {figures['resident_growth']:+.1%} since the warm-up")
    print(json.dumps(figures))
    sys.exit(0 if flat and not tally.wrong else 1)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
