"""Decode speed of the engine beside the plain loop, interleaved, on whatever machine this is.

    python benchmarks/engine_decode.py --threads 1

Tokens per second of wall time and of CPU time (the honest one where other work shares the cores), for 1, 8 and 32 rows
of 64 new tokens after a short prompt, greedy and with the published sampling defaults. Medians and the spread of
`--repeats` runs; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import torch

import cpmv
from cpmv.engine.engine import Engine
from cpmv.engine.generate import generate
from cpmv.engine.sampling import SamplingParams

NEW_TOKENS = 64


def measure(run: Callable[[], None], num_tokens: int) -> tuple[float, float]:
    """Tokens a second of wall time and of CPU time."""
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return num_tokens / wall, num_tokens / cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", help="folder, .gguf or id; the bundled model by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = cpmv.load(options.model)
    engine = Engine(model.network, model.tokenizer, max_batch=32)
    inputs = model.processor([{"role": "user", "content": ["Describe the picture."]}])
    length = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
    kinds = {"greedy": SamplingParams(temperature=0, **length), "drawn": SamplingParams.reference(True, **length)}
    print(
        f"{model}, torch {torch.__version__}, {options.threads} threads, {platform.processor() or platform.machine()}"
    )
    rows: list[dict[str, object]] = []
    for kind, params in kinds.items():
        for batch in (1, 8, 32):

            def with_engine(params: SamplingParams = params, batch: int = batch) -> None:
                requests = [engine.add(inputs, params) for _ in range(batch)]
                for request in requests:
                    engine.wait(request)

            def plainly(params: SamplingParams = params, batch: int = batch) -> None:
                generate(model.network, model.tokenizer, [inputs] * batch, params)

            with_engine()
            found: dict[str, list[tuple[float, float]]] = {"engine": [], "generate": []}
            for _ in range(options.repeats):
                found["engine"].append(measure(with_engine, batch * NEW_TOKENS))
                found["generate"].append(measure(plainly, batch * NEW_TOKENS))
            for name, speeds in found.items():
                wall, cpu = ([speed[at] for speed in speeds] for at in (0, 1))
                row = {"kind": kind, "rows": batch, "path": name}
                row |= {"wall_tok_s": round(statistics.median(wall), 1), "cpu_tok_s": round(statistics.median(cpu), 1)}
                row |= {"cpu_spread": [round(min(cpu), 1), round(max(cpu), 1)]}
                rows.append(row)
                print(row, flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
