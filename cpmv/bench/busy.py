"""How busy a GPU was while something ran: the driver's own figure, sampled beside it."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
from types import TracebackType

import torch

_PERIOD_MS = 100


class BusyShare:
    """Sample `nvidia-smi`'s utilisation (the share of time in which a kernel ran) while the block runs.

    share: mean of the samples, 0 to 1, or None where there is no NVIDIA GPU or no such program.
    """

    def __init__(self, device: torch.device) -> None:
        self.share: float | None = None
        self._command: list[str] | None = None
        program = shutil.which("nvidia-smi")
        if device.type == "cuda" and program:
            self._command = [program, f"--id={_physical(device)}", "--query-gpu=utilization.gpu"]
            self._command += ["--format=csv,noheader,nounits", f"-lms={_PERIOD_MS}"]

    def __enter__(self) -> BusyShare:
        self._process = None
        if self._command is not None:
            self._process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        self._process.terminate()
        out, _ = self._process.communicate()
        self.share = mean_share(out)


def mean_share(lines: str) -> float | None:
    """Return the mean of sampled percentages as a share; the first and last samples reach beyond the block."""
    samples = [float(line) for line in lines.splitlines() if line.strip().replace(".", "", 1).isdigit()]
    inner = samples[2:-1]
    return statistics.fmean(inner) / 100 if inner else None


def _physical(device: torch.device) -> str:
    """The name by which the driver knows a device that torch counts among the visible ones."""
    index = device.index or 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return visible.split(",")[index].strip() if visible else str(index)
