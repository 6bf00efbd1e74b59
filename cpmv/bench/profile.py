"""Where the time of a decoding step and of a prefill goes, kernel by kernel, from torch's profiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .plan import Plan
from .workloads import Bench, Decode, Prefill

_SHOWN = 15
_NAME = 90


def kernel_tables(bench: Bench, plan: Plan) -> dict[str, list[str]]:
    """Profile one decoding step (the mean of several) of the smallest and largest batch, and one prefill."""
    found: dict[str, list[str]] = {}
    pairs = sorted(plan.decode)
    for rows, context in dict.fromkeys([pairs[0], pairs[-1]] if pairs else []):
        decode = Decode(bench, rows, context, steps=4)
        work = decode.prepare()
        work()
        found[decode.label] = _profile(work, decode.per_unit and 4, bench.device)
        decode.finish()
    if plan.prefill:
        length = sorted(plan.prefill)[len(plan.prefill) // 2]
        prefill = Prefill(bench, length)
        found[prefill.label] = _profile(prefill.prepare(), 1, bench.device)
    return found


def _profile(work: Callable[[], float], units: float, device: torch.device) -> list[str]:
    """Return a Markdown table of what takes the most time in one unit."""
    from torch.profiler import ProfilerActivity, profile

    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CUDA] if cuda else [ProfilerActivity.CPU]
    with profile(activities=activities, acc_events=True) as profiler:
        seconds = work()
    events: list[Any] = [e for e in profiler.key_averages() if _time_us(e, cuda) > 0]
    events.sort(key=lambda e: _time_us(e, cuda), reverse=True)
    total = sum(_time_us(e, cuda) for e in events)
    where = "kernels" if cuda else "operators"
    lines = [
        f"{total / units / 1e3:.3f} ms of {where} in {seconds * 1e3:.3f} ms of wall time, profiled.",
        "",
        "| kernel | calls | us each | ms | share |",
        "| --- | --- | --- | --- | --- |",
    ]
    for event in events[:_SHOWN]:
        time_us = _time_us(event, cuda)
        name = event.key.replace("|", "/")[:_NAME]
        lines.append(
            f"| {name} | {event.count / units:.3g} | {time_us / event.count:.1f} | {time_us / units / 1e3:.3f} "
            f"| {time_us / total:.1%} |"
        )
    rest = sum(_time_us(e, cuda) for e in events[_SHOWN:])
    if rest:
        lines.append(f"| {len(events) - _SHOWN} others | | | {rest / units / 1e3:.3f} | {rest / total:.1%} |")
    return lines


def _time_us(event: Any, cuda: bool) -> float:
    return float(event.self_device_time_total if cuda else event.self_cpu_time_total)
