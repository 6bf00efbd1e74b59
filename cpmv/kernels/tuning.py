"""Which shape of a kernel is the fastest here: measured at first use, kept in a file.

A choice depends on the card, torch, Triton, the operation, its shape and its dtype. Measurements are made at first use,
outside of recordings, and kept as JSON in the user's cache folder ($XDG_CACHE_HOME/cpmv, or ~/.cache/cpmv); a file
that cannot be read or written is only a measurement made again.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch

log = logging.getLogger("cpmv")

Config = TypeVar("Config")
_LOCK = threading.Lock()
_WARM_UP, _REPEATS = 2, 12
_FLUSH_BYTES = 128 << 20  # more than any card's L2, read between repeats so that weights come from memory


def cache_file() -> Path:
    """Where measured choices are kept."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "cpmv" / "kernels.json"


@lru_cache
def card(index: int) -> str:
    """Name the card and the software that compiles for it, as keys of the file begin."""
    import triton

    return f"{torch.cuda.get_device_name(index)} torch {torch.__version__} triton {triton.__version__}"


def measures(capability: tuple[int, int]) -> bool:
    """Whether to measure on a card: not where the first candidates come from measurements on its kind (sm_90).

    CPMV_TUNE=1 always measures, CPMV_TUNE=0 never does.
    """
    wanted = os.environ.get("CPMV_TUNE", "")
    return wanted == "1" or (wanted != "0" and capability != (9, 0))


class Choices:
    """The choices of this process and, behind them, those of the file."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known: dict[str, dict[str, Any]] | None = None

    def _read(self) -> dict[str, dict[str, Any]]:
        if self._known is None:
            try:
                found = json.loads((self._path or cache_file()).read_text(encoding="utf-8"))
                self._known = {k: v for k, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}
            except (OSError, ValueError):
                self._known = {}
        return self._known

    def get(self, key: str, kind: type[Config]) -> Config | None:
        """Return the choice under a key, or None where there is none that `kind` can be made of."""
        found = self._read().get(key)
        if found is None:
            return None
        try:
            return kind(**found)
        except TypeError:
            return None

    def put(self, key: str, config: Any) -> None:
        """Keep a choice, in the file as well where it can be written. Others' choices in the file stay."""
        path = self._path or cache_file()
        with _LOCK:
            self._read()[key] = dataclasses.asdict(config)
            try:
                kept = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                kept = {}
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
                    json.dump({**(kept if isinstance(kept, dict) else {}), **self._read()}, file, indent=0)
                os.replace(file.name, path)
            except OSError as error:
                log.info("measured kernel choices cannot be kept in %s: %s", path, error)


CHOICES = Choices()


def fastest(
    key: str,
    candidates: Sequence[Config],
    run: Callable[[Config], object],
    choices: Choices | None = None,
    measure: Callable[[Callable[[], object]], float] | None = None,
) -> Config:
    """Return the fastest of some configurations under a key: known, or measured now and kept.

    run: launch with a configuration; one that the card refuses may raise. During a recording nothing can be measured
    and the first candidate is returned, without being kept. Raises the last error when no candidate runs.
    """
    choices = CHOICES if choices is None else choices
    known = choices.get(key, type(candidates[0]))
    if known is not None:
        return known
    if measure is None and torch.cuda.is_current_stream_capturing():
        return candidates[0]
    times: list[tuple[float, int]] = []
    failure: Exception | None = None
    for place, config in enumerate(candidates):
        try:
            times.append(((measure or _measure)(lambda config=config: run(config)), place))  # type: ignore[misc]
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # too much shared memory, or a compiler that gives up: another will do
            failure = error
    if not times:
        assert failure is not None
        raise failure
    chosen = candidates[min(times)[1]]
    log.info("measured %s: %s of %d candidates, %.1f us", key, chosen, len(candidates), 1e6 * min(times)[0])
    choices.put(key, chosen)
    return chosen


def _measure(run: Callable[[], object]) -> float:
    """Median seconds of a launch whose operands are not in L2."""
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device="cuda")
    for _ in range(_WARM_UP):
        run()
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(_REPEATS)]
    for start, stop in marks:
        flush.zero_()
        start.record()
        run()
        stop.record()
    torch.cuda.synchronize()
    times = sorted(start.elapsed_time(stop) for start, stop in marks)
    return times[len(times) // 2] / 1e3
