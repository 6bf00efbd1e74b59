"""`cpmv batch IN OUT`: answer a folder, a JSONL or a Parquet file; killed at any moment, the same command goes on.

Options -> `Job.open` -> `cpmv.load` and an `Engine` (or Ray, with --cluster) -> the journal -> OUT.
Exit codes: 0 every input answered, 1 all done but some inputs were bad (their lines say why), 2 a mistake that stopped
the job, 130 stopped by Ctrl-C or 143 by SIGTERM, with everything that was answered kept.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from .arguments import UsageError, described, number, parse, text
from .progress import Progress

if TYPE_CHECKING:
    from ..batch.bodies import Defaults
    from ..batch.job import Job
    from ..batch.run import Tally

_Flag = tyro.conf.FlagCreatePairsOff

SOME_FAILED = 1
DEFAULT_BATCH = 64  # answers at once: throughput matters here, not the first word
DEFAULT_WORKERS = 4  # of a replica on Ray, whose machine's cores are shared
TERMINATED = 128 + 15  # as a shell reports SIGTERM


@dataclass
class Batch:
    """Answer many inputs, each exactly once, and go on after any crash.

    IN is a folder of pictures, videos and PDFs (with -q), JSONL in OpenAI's batch format, or Parquet; OUT ends in
    .jsonl or .parquet and gets one result for each input, in the order of IN. Run the same command again to go on.
    """

    input: Annotated[
        str, tyro.conf.Positional, described("folder, JSONL in OpenAI's batch format, or Parquet", metavar="IN")
    ]
    output: Annotated[str, tyro.conf.Positional, described("where results go, .jsonl or .parquet", metavar="OUT")]
    question: Annotated[str | None, text("TEXT"), described("ask this about every file of a folder", "-q")] = None
    system: Annotated[str, described("system prompt, for inputs that bring none", metavar="TEXT")] = ""
    model: Annotated[
        str | None,
        text("MODEL"),
        described("folder, .gguf file, Hugging Face id, or modelscope:ID; by default the bundled model", "-m"),
    ] = None
    mmproj: Annotated[str | None, text("FILE"), described("vision half of a GGUF pair, if not beside it")] = None
    device: Annotated[str | None, text("DEVICE"), described("auto, cpu, cuda, cuda:N or mps (default: auto)")] = None
    gpus: Annotated[
        int, number(int, "N", 1, 8), described("GPUs of this machine that share the model, such as 2 or 4 (default: 1)")
    ] = 1
    dtype: Annotated[str | None, text("DTYPE"), described("auto, bfloat16, float16, float32 (default: auto)")] = None
    max_memory: Annotated[
        str | None, text("SIZE"), described("refuse to load what needs more, such as 8GB (default: what is free)")
    ] = None
    think: Annotated[bool, _Flag, described("reason before answering, where an input does not say")] = False
    fps: Annotated[
        float | None, number(float, "RATE", 0.01, 1000), described("frames for each second of video (default: 3)")
    ] = None
    packing: Annotated[
        int | None, number(int, "N", 1, 6), described("frames packed into 64 tokens, 1 to 6 (default: by length)")
    ] = None
    max_slices: Annotated[
        int | None, number(int, "N", 1), described("most slices of a large image (default: the checkpoint's)")
    ] = None
    pages: Annotated[str | None, text("RANGE"), described("pages of PDFs, such as 1-3,7 (default: all)")] = None
    greedy: Annotated[bool, _Flag, described("always take the likeliest token, where an input does not say")] = False
    seed: Annotated[int | None, number(int, "N", 0), described("make the drawing of tokens repeatable")] = None
    max_new_tokens: Annotated[
        int | None,
        number(int, "N", 1),
        described("longest answer in tokens, where an input does not say (default: 2048, 8192 when thinking)"),
    ] = None
    max_batch: Annotated[
        int | None, number(int, "N", 1, 1024), described("answers generated at once (default: 64)")
    ] = None
    workers: Annotated[
        int | None, number(int, "N", 1, 256), described("threads that decode media ahead (default: one a core)")
    ] = None
    cluster: Annotated[
        str | None, text("ray|ADDRESS"), described("run on Ray: a cluster found or begun here, or one at an address")
    ] = None
    replicas: Annotated[
        int | None, number(int, "N", 1), described("with --cluster: models that work at once (default: one a GPU)")
    ] = None
    overwrite: Annotated[bool, _Flag, described("begin anew, throwing away what OUT and its journal hold")] = False
    json: Annotated[bool, _Flag, described("print one JSON object at the end")] = False

    def defaults(self) -> Defaults:
        """What applies where an input says nothing, in the words of its body."""
        from ..batch.bodies import Defaults

        fields: dict[str, Any] = {"temperature": 0, "repetition_penalty": 1.0} if self.greedy else {}
        fields |= _given(max_completion_tokens=self.max_new_tokens, seed=self.seed)
        template = {"enable_thinking": True} if self.think else {}
        return Defaults(fields, template, _given(fps=self.fps, packing=self.packing, max_slice_nums=self.max_slices))

    def shape(self) -> dict[str, Any]:
        """What decides the answers: a resumed run must have the same."""
        names = ("model", "dtype", "think", "fps", "packing", "max_slices", "greedy", "seed", "max_new_tokens")
        return {name: getattr(self, name) for name in names}


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def run(argv: list[str]) -> int:
    options = parse(Batch, "batch", argv)
    _check(options)
    from ..batch.job import Job
    from ..batch.sources import Question

    question = Question(options.question, options.system, options.pages)
    start = time.perf_counter()
    job = Job.open(
        options.input, Path(options.output).expanduser(), question, options.shape(), overwrite=options.overwrite
    )
    earlier = job.tally.done
    signal.signal(signal.SIGTERM, _terminate)
    try:
        if job.journal is None:
            return _report(options, job, earlier, start)
        if job.pending:
            if options.cluster is None:
                _run_here(options, job)
            else:
                _run_on_cluster(options, job)
        job.finish()
    except (KeyboardInterrupt, SystemExit):
        left = job.tally.total - job.tally.done
        print(
            f"cpmv: {job.tally.done} results are kept; run the same command again for the other {left}", file=sys.stderr
        )
        raise
    finally:
        job.close()
    return _report(options, job, earlier, start)


def _check(options: Batch) -> None:
    if options.question is not None and not options.question.strip():
        raise UsageError("--question is empty; write what to ask")
    if options.replicas is not None and options.cluster is None:
        raise UsageError("--replicas needs --cluster; without it one model works here")


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)


def _run_here(options: Batch, job: Job) -> None:
    import cpmv

    with Progress("loading", "bytes") as loading:
        model = cpmv.load(
            options.model,
            device=options.device,
            dtype=options.dtype,
            mmproj=options.mmproj,
            max_memory=options.max_memory,
            gpus=options.gpus,
            progress=loading,
        )
    max_batch, workers = options.max_batch or DEFAULT_BATCH, options.workers or os.cpu_count() or 1
    engine = model.new_engine(max_batch=max_batch)
    engine.start()
    try:
        with BatchProgress(job.tally) as progress:
            job.run_here(
                model.processor,
                engine,
                options.defaults(),
                options.model or "bundled",
                window=2 * max_batch + workers,
                workers=workers,
                on_progress=progress.show,
            )
    finally:
        engine.close()


def _run_on_cluster(options: Batch, job: Job) -> None:
    from ..cluster.batch import Replica, run_on_ray

    assert options.cluster is not None
    replica = Replica(
        source=job.source,
        defaults=options.defaults(),
        load={name: getattr(options, name) for name in ("device", "dtype", "mmproj", "max_memory")},
        model=options.model,
        max_batch=options.max_batch or DEFAULT_BATCH,
        workers=options.workers or DEFAULT_WORKERS,
    )
    with BatchProgress(job.tally) as progress:
        run_on_ray(job, replica, options.cluster, options.replicas, progress.show)


class BatchProgress(Progress):
    """Inputs done, with throughput of this run and the time that is left."""

    def __init__(self, tally: Tally) -> None:
        super().__init__("batch", "inputs")
        self._tally, self._earlier, self._begun = tally, tally.done, time.monotonic()

    def __enter__(self) -> BatchProgress:
        return self

    def show(self, tally: Tally) -> None:
        self(tally.done, tally.total)

    def amount(self, done: int, total: int) -> str:
        seconds = max(time.monotonic() - self._begun, 1e-9)
        rate = (done - self._earlier) / seconds
        parts = [f"{done} of {total} inputs", f"{rate:.1f}/s", f"{self._tally.tokens / seconds:.0f} tokens/s"]
        if self._tally.failed:
            parts.append(f"{self._tally.failed} failed")
        if rate > 0 and not sys.stderr.isatty():  # the bar has a column for it
            parts.append(f"{duration((total - done) / rate)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """Say a time in its two largest units: "3 h 20 min", "40 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _report(options: Batch, job: Job, earlier: int, start: float) -> int:
    """Say what came of it on stderr, or as one JSON object on stdout."""
    tally, seconds = job.tally, time.perf_counter() - start
    if options.json:
        from .screen import print_json

        counts = {"inputs": tally.total, "answered": tally.done - tally.failed, "failed": tally.failed}
        counts |= {"done_before": earlier, "tokens": tally.tokens}
        print_json({**counts, "seconds": round(seconds, 3), "output": str(job.out)})
    elif sys.stderr.isatty() or tally.failed:
        done = f"{tally.total} inputs, {tally.failed} of them failed" if tally.failed else f"{tally.total} inputs"
        print(f"cpmv: {done}, {duration(seconds)}; results are in {job.out}", file=sys.stderr)
        for line in tally.named:
            print(f"  {line}", file=sys.stderr)
        if tally.failed > len(tally.named):
            print(f"  and {tally.failed - len(tally.named)} more, by their error in {job.out}", file=sys.stderr)
    return SOME_FAILED if tally.failed else 0
