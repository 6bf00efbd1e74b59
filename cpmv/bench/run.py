"""One run: open a model, make an engine, time every workload beside its peers and its limit, return the result."""

from __future__ import annotations

import contextlib
import datetime
import importlib.util
import logging
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import cpmv

from ..engine.engine import Engine
from ..weights.plan import free_memory
from .bars import BARS
from .busy import BusyShare
from .machine import Machine
from .peers import Peer, PeerError, open_peer
from .plan import Options, Plan, check_options, choose_plan, needed_tokens
from .profile import kernel_tables
from .random_model import EndlessTokenizer, decoder_bytes, random_model
from .results import add_bars, make_row, one_line
from .timing import interleave, warm_up
from .workloads import Bench, Decode, FirstToken, Prefill, Throughput, Vision, Workload, greedy

if TYPE_CHECKING:
    from ..api import Model

log = logging.getLogger("cpmv")

Progress = Callable[[str], None]


def run(options: Options, *, kernel_table: bool = False, tell: Progress = lambda line: None) -> dict[str, Any]:
    """Measure what `options` ask for and return the result as `results.py` describes it.

    tell: called with a line when something begins. A workload that fails is told in the result's `failed` and does
    not end the run, and its traceback is logged. Raises CpmvError for options that cannot be.
    """
    check_options(options)
    started = time.perf_counter()
    with _heard() as heard:
        tell("opening the model")
        model = open_model(options)
        weight_bytes = decoder_bytes(model.network)  # as stored: an engine may lay weights out anew
        plan = choose_plan(options, model.network)
        bench = _prepare(model, plan, weight_bytes, options)
        result = _head(options, model, bench)
        peers = _open_peers(options, bench, result, tell)
        for workload in workloads(bench, plan, options, result):
            if plan.limit_s is not None and time.perf_counter() - started > plan.limit_s:
                result["notes"].append(f"{workload.label}: not measured, the time given was over")
                continue
            _measure(workload, bench, plan, peers, result)
            tell(one_line(result["rows"][-1]) if result["rows"] else workload.label)
        if "memory" in options.only:
            tell("memory")
            result["memory"] = _memory(bench)
        if kernel_table:
            tell("where the time goes")
            result["kernels"] = kernel_tables(bench, plan)
        result["abilities"] = {name: float(f"{v:.4g}") for name, v in bench.machine.measured().items()}
        if options.random == "real" and "H200" in result["machine"]["device"]:
            add_bars(result["rows"], options.format if options.format in BARS else "")
        bench.engine.close()
    result["log"] = heard
    return result


def open_model(options: Options) -> Model:
    """Load or make the model that is asked for; by default the bundled one."""
    if options.random is not None:
        return random_model(
            options.random, options.format, device=options.device, dtype=options.dtype, seed=options.seed
        )
    from .. import api

    return api.load(options.model, device=options.device, dtype=options.dtype)


def _prepare(model: Model, plan: Plan, weight_bytes: int, options: Options) -> Bench:
    network = model.network
    queries = network.config.resampler.query_num
    rows = max([rows for rows, _ in plan.decode] + [plan.requests])
    per_token = network.cache_spec().bytes_per_token
    wanted = needed_tokens(plan, queries) * per_token
    engine = Engine(
        network,
        EndlessTokenizer.of(model.tokenizer),
        max_batch=rows,
        cache_bytes=min(wanted, int(0.6 * free_memory(network.device))),
    )
    machine = Machine(network.device, network.dtype)
    generator = torch.Generator().manual_seed(options.seed)
    return Bench(network, engine, machine, weight_bytes, generator, model.processor)


def workloads(bench: Bench, plan: Plan, options: Options, result: dict[str, Any]) -> Iterator[Workload]:
    """Yield the lines of the table; what has to be left out is noted in the result."""
    only = options.only
    if "decode" in only:
        yield from (Decode(bench, rows, context, plan.decode_steps) for rows, context in plan.decode)
    if "prefill" in only:
        yield from (Prefill(bench, length) for length in plan.prefill)
    groups = -(-plan.frames // 3)
    if "vision" in only:
        yield from (Vision(bench, count) for count in plan.vision)
        yield Vision(bench, groups * 3, packed=3)
    if "first-token" in only:
        yield from (FirstToken(bench, count) for count in (10,) if count <= max(plan.vision, default=0))
        yield FirstToken(bench, groups, group=3)
    if "throughput" in only:
        yield Throughput(bench, plan.requests, plan.answer)
    if "file" in only:
        from .media import file_workload, pictures_workload

        yield pictures_workload(bench, plan)
        if importlib.util.find_spec("av") is None:
            result["notes"].append("PyAV is not installed, so no video file was decoded; pip install av")
        else:
            yield file_workload(bench, plan, options.clip)


def _measure(workload: Workload, bench: Bench, plan: Plan, peers: list[Peer], result: dict[str, Any]) -> None:
    """Time one workload, its peers turn by turn, and its limit at the same clocks; add its row."""
    try:
        works = {"": workload.prepare()}
        for peer in peers:
            theirs = peer.works(workload.key)
            for work in theirs.values():
                warm_up(work)
            works |= theirs
        slow = isinstance(workload, Throughput)
        with BusyShare(bench.device) as busy:
            least = 1 if slow else plan.least
            spreads = interleave(works, budget_s=plan.budget_s, least=least, most=plan.most)
        limit = workload.limit_s()
        ours = spreads.pop("")
        share = busy.share if slow and not spreads else None
        prepared = getattr(workload, "prepared", None)
        more = {"busy": share, "prepared_ms": round(1e3 * statistics.median(prepared), 1) if prepared else None}
        what, per_unit = workload.what, workload.per_unit
        row = make_row(workload.key, workload.label, what, per_unit, ours, limit, spreads, **more)
        result["rows"].append(row)
    except Exception as error:  # the other lines are still worth having
        log.exception("%s failed", workload.label)
        result["failed"].append(f"{workload.label}: {type(error).__name__}: {str(error).splitlines()[:1]}")
    finally:
        workload.finish()


def _open_peers(options: Options, bench: Bench, result: dict[str, Any], tell: Progress) -> list[Peer]:
    peers: list[Peer] = []
    for name in options.peers:
        tell(f"opening {name}")
        try:
            peer = open_peer(name, bench, options.model, options.quick)
            said = peer.agreement()
        except PeerError as error:
            result["notes"].append(str(error))
            log.warning("%s", error)
            continue
        peers.append(peer)
        result["machine"]["versions"] |= peer.versions
        if said is not None:
            result["notes"].append(f"{name}, same weights: {said}")
    return peers


def _memory(bench: Bench) -> dict[str, int]:
    """Bytes of weights and of the cache, and the peak while a picture of ten slices is answered."""
    stats, per_token = bench.engine.stats(), bench.network.cache_spec().bytes_per_token
    cache = stats.total_blocks * stats.block_size * per_token
    weights = sum(t.nbytes for t in [*bench.network.parameters(), *bench.network.buffers()])
    found = {"weights": weights, "key_value_cache": cache}
    cuda = bench.device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(bench.device)
    bench.engine.wait(bench.engine.add(bench.pictures(10), greedy(16)))
    if cuda:
        found["peak"] = torch.cuda.max_memory_allocated(bench.device)
    else:
        peak = _peak_resident_bytes()
        if peak is not None:
            found["peak_resident"] = peak
    return found


def _peak_resident_bytes() -> int | None:
    """Highest resident size of this process: VmHWM, where the system tells it."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), None)


def _head(options: Options, model: Model, bench: Bench) -> dict[str, Any]:
    return {
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["cpmv bench", *sys.argv[1:]]).replace("bench bench", "bench"),
        "model": _about_model(options, model, bench.weight_bytes),
        "machine": _about_machine(bench.device),
        "quick": options.quick,
        "rows": [],
        "notes": [],
        "failed": [],
    }


def _about_model(options: Options, model: Model, weight_bytes: int) -> dict[str, Any]:
    dtype = str(model.dtype).removeprefix("torch.")
    made = f"Random weights of {options.random} dimensions" if options.random else f"{options.model or 'bundled model'}"
    c = model.config
    return {
        "name": f"MiniCPM-V {c.version}, {model.format}",
        "short": f"{model.format}" if options.random == "real" else f"{options.model or options.random or 'bundled'}",
        "text": (
            f"{made}, {model.format} in {dtype}: {c.language.num_hidden_layers} layers of width "
            f"{c.language.hidden_size}; a decoding step reads {weight_bytes / 1e9:.3g} GB of weights."
        ),
        "format": model.format,
        "dtype": dtype,
        "decoder_bytes": weight_bytes,
    }


def _about_machine(device: torch.device) -> dict[str, Any]:
    versions = {"python": platform.python_version(), "torch": str(torch.__version__), "cpmv": cpmv.__version__}
    if importlib.util.find_spec("triton") is not None:
        versions["triton"] = metadata_version("triton")
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        memory = torch.cuda.get_device_properties(device).total_memory
        text = f"{name}, {memory / 1e9:.0f} GB, {os.cpu_count()} CPU cores."
    else:
        name = _cpu_name()
        text = f"{name}, {os.cpu_count()} logical cores, {torch.get_num_threads()} threads."
    text += " " + ", ".join(f"{k} {v}" for k, v in versions.items()) + "."
    kernels = os.environ.get("CPMV_KERNELS")
    if kernels:
        text += f" CPMV_KERNELS={kernels}."
    return {"device": name, "text": text, "versions": versions}


def metadata_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@contextlib.contextmanager
def _heard() -> Iterator[list[str]]:
    """Collect what the package's own log says meanwhile: which paths were taken, and warnings."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            line = f"{record.levelname.lower()}: {record.getMessage()}"
            if line not in lines:
                lines.append(line)

    listener, level = Listener(logging.INFO), log.level
    log.addHandler(listener)
    log.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        log.removeHandler(listener)
        log.setLevel(level)
