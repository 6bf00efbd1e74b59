"""How a run goes: one JSON line an interval, TensorBoard when it is installed, a live line, and the speed achieved."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ..model.config import ModelConfig
from .config import Combination

# Dense bf16 matrix products as measured (8192^3, random data), not as printed in datasheets.
PEAK_TFLOPS = {"H200": 790.0, "H100": 740.0, "A100": 270.0}


def forward_flops(config: ModelConfig, length: int, num_classes: int) -> dict[str, float]:
    """Count multiply-adds x 2 of one sequence of `length` tokens and of each picture patch, forward only.

    Returns {"token", "patch", "patch_pair"}: operations a token of the decoder (causal attention at this length
    included), a patch (tower, resampler, dense head), and a pair of patches of one picture (tower attention).
    """
    v, r, m = config.vision, config.resampler, config.language
    heads, kv = m.num_attention_heads * m.head_dim, m.num_key_value_heads * m.head_dim
    layer = m.hidden_size * (2 * heads + 2 * kv) + 3 * m.hidden_size * m.intermediate_size + heads * length
    token = 2.0 * (m.num_hidden_layers * layer + m.hidden_size * m.vocab_size)
    block = 4 * v.hidden_size**2 + 2 * v.hidden_size * v.intermediate_size
    pixels = v.num_channels * v.patch_size**2
    bridge = v.hidden_size * r.embed_dim + 2 * r.embed_dim**2 + 2 * r.query_num * r.embed_dim
    patch = 2.0 * (v.num_hidden_layers * block + pixels * v.hidden_size + bridge + 4 * v.hidden_size * num_classes)
    return {"token": token, "patch": patch, "patch_pair": 4.0 * v.num_hidden_layers * v.hidden_size}


def step_flops(
    config: ModelConfig,
    combination: Combination,
    mix: dict[str, int],
    tokens: int,
    length: int,
    frames: int,
    num_classes: int,
) -> float:
    """Count the operations of one training step (backward costs twice the forward pass).

    tokens: of all sequences, each about `length` long; frames: of a clip.
    """
    cost = forward_flops(config, length, num_classes)
    pictures = (mix.get("text", 0) + mix.get("scene", 0)) / len(combination.pictures)
    shapes = [(pictures, shape) for shape in combination.pictures]
    shapes.append((mix.get("clip", 0) * frames, combination.clips))
    total = tokens * cost["token"]
    for count, (rows, columns) in shapes:
        patches = rows * columns
        total += count * patches * (cost["patch"] + patches * cost["patch_pair"])
    return 3.0 * total


def peak_flops(device: torch.device, given_tflops: float | None) -> float | None:
    """Return the device's peak in operations a second, or None when it is not known."""
    if given_tflops is not None:
        return given_tflops * 1e12
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((tflops * 1e12 for part, tflops in PEAK_TFLOPS.items() if part in name), None)


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory held so far: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Log:
    """Writes `metrics.jsonl`, TensorBoard events and the live line. Other ranks than 0 stay silent.

    After a resume from `step`, lines of later steps (of the run that was killed) are removed first.
    """

    def __init__(self, folder: Path, *, quiet: bool, tensorboard: bool, step: int = 0) -> None:
        self._file, self._board, self._quiet = None, None, quiet
        self._live = sys.stderr.isatty()
        if quiet:
            return
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        kept = []
        if step and path.exists():
            kept = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
        path.write_text("".join(line + "\n" for line in kept))
        self._file = path.open("a")
        if tensorboard:
            self._board = _summary_writer(folder / "tensorboard")

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Record values of one moment; `kind` is "train", "eval" or "note"."""
        if self._file is None:
            return
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in _flatten(values):
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def line(self, text: str, *, keep: bool = False) -> None:
        """Show progress: overwritten in a terminal unless `keep`, one line each elsewhere."""
        if self._quiet:
            return
        if self._live and not keep:
            print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)
        else:
            print(f"\r\x1b[2K{text}" if self._live else text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


def _summary_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))


def _flatten(values: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    out: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            out += _flatten(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            out.append((prefix + name, float(value)))
    return out


class Stopwatch:
    """Wall-clock time and samples since the last reading."""

    def __init__(self) -> None:
        self.start = self._last = time.perf_counter()
        self._paused = 0.0

    def lap(self) -> float:
        """Seconds since the last lap, without the time spent in `skip`."""
        now = time.perf_counter()
        elapsed, self._last, self._paused = now - self._last - self._paused, now, 0.0
        return max(elapsed, 1e-9)

    def skip(self, seconds: float) -> None:
        """Leave out time that was not training: evaluation, saving."""
        self._paused += seconds


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance, bit-parallel (Myers 1999, in Hyyrö's form): a column of the table is two integers."""
    if not a or not b:
        return len(a) + len(b)
    masks: dict[str, int] = {}
    for i, character in enumerate(a):
        masks[character] = masks.get(character, 0) | 1 << i
    last, every = 1 << len(a) - 1, (1 << len(a)) - 1
    plus, minus, distance = every, 0, len(a)
    for character in b:
        match = masks.get(character, 0)
        diagonal = ((match & plus) + plus ^ plus) | match | minus
        up, down = minus | ~(diagonal | plus) & every, plus & diagonal
        distance += bool(up & last) - bool(down & last)
        up = up << 1 | 1
        plus, minus = (down << 1 | ~(diagonal | up)) & every, up & diagonal
    return distance
