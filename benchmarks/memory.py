"""Load a checkpoint in a fresh process, answer about one picture, print time and peak memory beside the file size.

    python benchmarks/memory.py MODEL [--device cuda] [--new-tokens 8]

The disk's read rate is measured on the same files just before, with the page cache dropped for them, so that the
loading time has its ceiling beside it. Weights may be random (benchmarks/random_checkpoint.py): speed and memory do
not depend on their values. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import threading
import time
from pathlib import Path


def files_of(model: str) -> list[Path]:
    path = Path(model)
    return sorted(path.glob("*.safetensors")) if path.is_dir() else [path, *path.parent.glob("*mmproj*.gguf")]


def forget(files: list[Path]) -> None:
    """Ask the kernel to drop these files from the page cache."""
    for file in files:
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_rate(files: list[Path], limit: int = 4 << 30) -> float:
    """Sequential read rate of the files, GB/s, from a cold cache; at most `limit` bytes are read."""
    forget(files)
    done, start = 0, time.perf_counter()
    for file in files:
        with open(file, "rb", buffering=0) as handle:
            while done < limit and (block := handle.read(16 << 20)):
                done += len(block)
    return done / (time.perf_counter() - start) / 1e9


class PeakMemory:
    """Samples this process's memory: all resident pages, and those that are not file pages (the heap)."""

    def __init__(self) -> None:
        self.heap = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            fields = dict(
                line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if "kB" in line
            )
            self.heap = max(self.heap, int(fields.get("RssAnon", "0 kB").split()[0]) * 1024)

    @property
    def resident(self) -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model")
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--new-tokens", type=int, default=8)
    parser.add_argument("--picture", type=int, nargs=2, default=(1344, 896), metavar=("W", "H"))
    args = parser.parse_args()

    files = files_of(args.model)
    size = sum(f.stat().st_size for f in files)
    rate = read_rate(files)
    forget(files)

    import numpy as np
    import PIL.Image
    import torch

    import cpmv

    picture = PIL.Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (args.picture[1], args.picture[0], 3), dtype=np.uint8)
    )
    with PeakMemory() as peak:
        start = time.perf_counter()
        model = cpmv.load(args.model, device=args.device, dtype=args.dtype)
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        load_s = time.perf_counter() - start
        inputs = model.processor([{"role": "user", "content": [picture, "What is in the picture?"]}])
        start = time.perf_counter()
        output = model.generate(inputs, cpmv.SamplingParams(temperature=0.0, max_new_tokens=args.new_tokens))
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        answer_s = time.perf_counter() - start
    result = {
        "model": Path(args.model).name,
        "format": model.format,
        "device": str(model.device),
        "dtype": str(model.dtype),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "file_gb": size / 1e9,
        "load_s": load_s,
        "load_gb_per_s": size / load_s / 1e9,
        "disk_read_gb_per_s": rate,
        "answer_s": answer_s,
        "prompt_tokens": len(inputs),
        "new_tokens": len(output.token_ids),
        "peak_resident_gb": peak.resident / 1e9,
        "peak_heap_gb": peak.heap / 1e9,
        "peak_gpu_gb": torch.cuda.max_memory_reserved() / 1e9 if model.device.type == "cuda" else None,
    }
    for key, value in result.items():
        print(f"{key:>20}: {value:.3f}" if isinstance(value, float) else f"{key:>20}: {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
