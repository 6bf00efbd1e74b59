"""A video file to its first token: decoding, cutting, encoding and reading, as a model's caller has it."""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path

from ..engine.ahead import MediaAhead
from ..inputs.messages import Video as VideoPart
from ..inputs.video import Video, sample_video
from ..model.config import ModelInputs
from . import limits
from .clip import make_clip
from .plan import Plan
from .timing import Work
from .workloads import Bench, to_first_token


class FileVideo:
    """The sampled frames of a file, from its path on. prepared: seconds until the prompt was complete, by repeat."""

    what = "frames"

    def __init__(self, bench: Bench, path: Path) -> None:
        sampled = sample_video(path)
        self._groups, self._packing = len(sampled.temporal_ids), sampled.packing
        count, (width, height) = len(sampled), sampled.size
        seconds = sampled.video.duration
        self.key, self.per_unit = f"file-frames-{count}", float(count)
        self.label = f"{count} frames of a file of {seconds:.0f} s, {width}x{height}, to first token"
        self.prepared: list[float] = []
        self._bench, self._path = bench, path
        self._turns = itertools.count()
        self._length = 0

    def prepare(self) -> Work:
        self._repeat()
        self.prepared.clear()
        return self._repeat

    def _repeat(self) -> float:
        engine = self._bench.engine
        engine._images.clear()  # the same pictures would be found there

        def inputs() -> ModelInputs:
            start = time.perf_counter()
            ahead = MediaAhead(lambda: engine) if self._bench.device.type != "cpu" else None
            # Words that nobody has used come first, so that no prefix is shared.
            content = [f"{next(self._turns)}", VideoPart(Video(self._path)), "What happens?"]
            made = self._bench.processor([{"role": "user", "content": content}], on_group=ahead)
            self.prepared.append(time.perf_counter() - start)
            self._length = len(made)
            return made

        return to_first_token(self._bench, inputs)

    def limit_s(self) -> float:
        """As if the frames were in memory; every frame fills a slice."""
        b, count = self._bench, int(self.per_unit)
        vision = limits.vision_s(b.machine, b.config, count, b.slice_side**2, self._groups)
        return vision + limits.prefill_s(b.machine, b.config.language, self._length)

    def finish(self) -> None:
        return None


def open_file_workload(bench: Bench, plan: Plan, clip: str | None) -> FileVideo:
    """Take the given clip, or make one that gives the planned number of frames and keep it for the next run."""
    if clip is not None:
        return FileVideo(bench, Path(clip))
    side = bench.config.image.scale_resolution
    # Up to 180 frames come at three a second; more make groups of three from ten minutes.
    seconds = plan.frames / 3 if plan.frames <= 180 else 600
    path = Path(tempfile.gettempdir(), f"cpmv-bench-{side}-{seconds:.0f}s.mp4")
    if not path.is_file():
        make_clip(path, side, side, seconds)
    return FileVideo(bench, path)
