"""Progress of what takes long, for the `progress(done, total)` callables of loading and video decoding.

In a terminal a bar that goes away when done; otherwise, in logs, a plain line every few seconds. On stderr, so that
the answer on stdout stays clean; nothing at all for what is done at once.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

PATIENCE_S = 0.5  # what ends sooner shows nothing
LINE_EVERY_S = 5.0


class Progress:
    """`with Progress("reading frames", "frames") as progress:`, then progress(done, total) as often as one likes.

    unit: "bytes" are shown in GB or MB; anything else is counted.
    """

    def __init__(self, label: str, unit: str) -> None:
        self.label, self.unit = label, unit
        self._start: float | None = None  # of the work itself, when it first reports
        self._last_line = 0.0
        self._bar: Bar | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._start is None:
            self._start = self._last_line = now
        if now - self._start < PATIENCE_S:
            return
        if sys.stderr.isatty():
            self._draw(done, total)
        elif now - self._last_line >= LINE_EVERY_S and done < total:
            self._last_line = now
            print(f"cpmv: {self.label}: {self.amount(done, total)}", file=sys.stderr, flush=True)

    def amount(self, done: int, total: int) -> str:
        """Say how far it is: "3.1 of 17.4 GB" or "120 of 540 frames"."""
        if self.unit == "bytes":
            divisor, name = (1e9, "GB") if total >= 1e8 else (1e6, "MB")
            return f"{done / divisor:.1f} of {total / divisor:.1f} {name}"
        return f"{done} of {total} {self.unit}"

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[amount]}"),
                TimeRemainingColumn(),
            )
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._bar.add_task(self.label, total=total, amount="")
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, total=total, amount=self.amount(done, total))
