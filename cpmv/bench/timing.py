"""Repeats of one piece of work, and their spread."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

Work = Callable[[], float]  # does it once and returns the seconds of one unit


@dataclass(frozen=True)
class Spread:
    """Seconds of every repeat."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        return min(self.seconds)

    @property
    def most(self) -> float:
        return max(self.seconds)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def timed(device: torch.device, run: Callable[[], object]) -> float:
    """Run once and return its wall-clock seconds, the device's work included."""
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


def best_of(device: torch.device, run: Callable[[], object], *, budget_s: float, warm: int = 1) -> float:
    """Return the least seconds of one call, from as many calls as the budget allows (2 to 20).

    On CUDA calls are queued and timed by events, so that what a launch costs the host does not count.
    """
    for _ in range(warm):
        run()
    once = timed(device, run)
    count = min(20, max(2, int(budget_s / max(once, 1e-6))))
    if device.type != "cuda":
        return min(once, *(timed(device, run) for _ in range(count)))
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    marks[0].record()
    for mark in marks[1:]:
        run()
        mark.record()
    marks[-1].synchronize()
    return min(a.elapsed_time(b) for a, b in zip(marks, marks[1:], strict=False)) / 1e3


def warm_up(work: Work, budget_s: float = 0.5, most: int = 6) -> Work:
    """Do a work a few times, so that what is built, recorded or chosen at first is there; return it."""
    started = time.perf_counter()
    for _ in range(most):
        work()
        if time.perf_counter() - started > budget_s:
            break
    return work


def interleave(works: dict[str, Work], *, budget_s: float, least: int = 3, most: int = 9) -> dict[str, Spread]:
    """Run works that are warm turn by turn, so that a slow moment falls on all of them.

    budget_s: for all repeats together; the first round's seconds decide how many there are. Python's garbage is
    collected before and not meanwhile, as in `timeit`: a collection takes milliseconds, in whoever's turn it falls.
    """
    found: dict[str, list[float]] = {name: [] for name in works}
    gc.collect()
    collects = gc.isenabled()
    gc.disable()
    try:
        count, started = 1, time.perf_counter()
        while len(next(iter(found.values()))) < count:
            for name, work in works.items():
                found[name].append(work())
            if count == 1:
                round_s = max(time.perf_counter() - started, 1e-6)
                count = max(least, min(most, int(budget_s / round_s)))
    finally:
        if collects:
            gc.enable()
    return {name: Spread(tuple(seconds)) for name, seconds in found.items()}
