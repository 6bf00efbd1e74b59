"""A video to its first token as a model's caller has it: decoding, cutting, encoding and reading, overlapped."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable
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


class VideoToFirstToken:
    """The sampled frames of a source, from opening it. prepared: seconds until the prompt was complete, by repeat."""

    what = "frames"

    def __init__(self, bench: Bench, kind: str, label: str, source: Callable[[], Video]) -> None:
        sampled = sample_video(source())
        count = len(sampled)
        self._groups = len(sampled.temporal_ids)
        self.key, self.label, self.per_unit = f"{kind}-frames-{count}", label.format(count), float(count)
        self.prepared: list[float] = []
        self._bench, self._source = bench, source
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
            content = [f"{next(self._turns)}", VideoPart(self._source()), "What happens?"]
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


def seconds_of(num_frames: int) -> float:
    """Return how long a clip is whose sampled frames come to this number: three a second up to 180, then packed."""
    return num_frames / 3 if num_frames <= 180 else 600.0


def pictures_workload(bench: Bench, plan: Plan) -> VideoToFirstToken:
    """Frames that are pictures in memory, of a slice's size."""
    from PIL import Image

    side = bench.config.image.scale_resolution
    noise = bench.slices(plan.frames)[0].reshape(plan.frames, side, side, 3).numpy()
    pictures = [Image.fromarray(one) for one in noise]
    fps = plan.frames / seconds_of(plan.frames)
    label = f"{{}} pictures of {side}x{side} in memory, prepared, to first token"
    return VideoToFirstToken(bench, "pictures", label, lambda: Video(pictures, fps=fps))


def file_workload(bench: Bench, plan: Plan, clip: str | None) -> VideoToFirstToken:
    """The given clip, or one that is made for the planned number of frames and kept for the next run."""
    side, seconds = bench.config.image.scale_resolution, seconds_of(plan.frames)
    path = Path(clip) if clip is not None else Path(tempfile.gettempdir(), f"cpmv-bench-{side}-{seconds:.0f}s.mp4")
    if clip is None and not path.is_file():
        make_clip(path, side, side, seconds)
    opened = Video(path)
    width, height = opened.size
    label = f"{{}} frames of a file of {opened.duration:.0f} s, {width}x{height}, to first token"
    return VideoToFirstToken(bench, "file", label, lambda: Video(path))
