"""Video as the model takes it: frames sampled by the guide's recipe (`frames.py`) out of anything that holds frames.

A source is a video file or its bytes (decoded by `decode.py`), a folder of pictures, or a list of them. `Video` gives
frames by number; `sample_video` chooses them and streams them to the processor one at a time; `encode_video` is the
guide's function, which returns them all.

Frame i of a file is at i / fps seconds, fps being the average rate, as the guide has it: for a variable frame rate
this differs from the true time. Pictures with timestamps keep their own times.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from ..errors import MediaError, MessageError
from .ahead import available_cores, run_ahead
from .frames import (
    MAX_NUM_FRAMES,
    MAX_NUM_PACKING,
    PACKING_LIMIT,
    FramePlan,
    group,
    plan_frames,
    tick_ids,
)
from .media import HEAD_BYTES, describe, locate, one_line, sniff

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["FramePlan", "SampledVideo", "Video", "encode_video", "plan_frames", "sample_video"]

T = TypeVar("T")
Progress = Callable[[int, int], None]  # (frames done, frames in all)
_Picture: TypeAlias = "Callable[[], Image]"  # makes the image of a frame that has been decoded
AHEAD_BYTES = 256 << 20  # decoded frames held at once, at most, beside those the decoder itself holds
MAX_FRAME_PIXELS = 8192 * 8192  # a decoder holds several frames; 8K video has half of this
MAX_FRAMES = 4_000_000  # 37 hours at 30 frames a second; the index takes 40 bytes a frame
MAX_DURATION_S = 48 * 3600  # temporal ids grow with the time; a damaged header can state centuries
TIMESTAMP_FILES = ("timestamps.txt", "timestamps.json")


class _Frames(Protocol):
    """What `Video` stands on: a file decoded, or a list of pictures opened one by one."""

    num_frames: int
    fps: float
    size: tuple[int, int]

    def frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, Callable[[], Image]]]: ...


class Video:
    """A clip whose frames are read when asked for; nothing stays open or decoded in between.

    source: path or bytes of a video file; a folder of pictures, in natural order ("2" before "10"); or a list of
    pictures (anything `open_image` takes). Pictures need `fps`, or `timestamps`: seconds, one each, ascending, as a
    sequence or a file of them (text, a number a line, or a JSON list; `timestamps.txt` in the folder is found alone).
    max_pixels, max_frames, max_duration_s: limits. num_threads: of the decoder, and of what is done to its frames; 0
    chooses, 1 does everything in the caller's thread.

    num_frames: frames that can be shown. fps: average rate. duration: num_frames / fps seconds. size: (w, h) of the
    first frame as shown. Raises MediaError for what cannot be read or exceeds a limit, MessageError for bad options.
    """

    def __init__(
        self,
        source: Any,
        *,
        fps: float | None = None,
        timestamps: Sequence[float] | str | Path | None = None,
        max_pixels: int = MAX_FRAME_PIXELS,
        max_frames: int = MAX_FRAMES,
        max_duration_s: float = MAX_DURATION_S,
        num_threads: int = 0,
    ) -> None:
        self.timestamps: list[float] | None = None
        self.num_threads = num_threads
        self._frames: _Frames
        folder = _as_folder(source)
        if folder is not None or isinstance(source, (list, tuple)):
            pictures = _pictures_in(folder) if folder is not None else list(source)
            if folder is not None and fps is None and timestamps is None:
                timestamps = _find_timestamps(folder)
            self.timestamps, rate = _read_times(timestamps, fps, len(pictures))
            self._frames = _Pictures(pictures, rate, max_pixels, max_frames)
        else:
            if fps is not None or timestamps is not None:
                raise MessageError("fps and timestamps are for folders and lists of pictures; a video file has its own")
            from .decode import FileFrames

            self._frames = FileFrames(
                _locate(source), max_pixels=max_pixels, max_frames=max_frames, num_threads=num_threads
            )
        self.num_frames, self.fps, self.size = self._frames.num_frames, self._frames.fps, self._frames.size
        if self.duration > max_duration_s:
            raise MediaError(
                f"the video lasts {self.duration:.0f} s ({self.num_frames} frames at {self.fps:g} a second); "
                f"at most {max_duration_s:.0f} s are supported; cut it into shorter clips"
            )

    def __len__(self) -> int:
        return self.num_frames

    @property
    def duration(self) -> float:
        """Seconds: frames over average rate, which is what the sampling recipe counts with."""
        return self.num_frames / self.fps

    def frame_time(self, index: int) -> float:
        """Seconds from the first frame to frame `index`, as the model will be told."""
        return index / self.fps if self.timestamps is None else self.timestamps[index] - self.timestamps[0]

    def iter_frames(self, indices: Sequence[int], progress: Progress | None = None) -> Iterator[Image]:
        """Yield RGB images of the frames at `indices`, in that order; one frame is held at a time.

        A repeated index gives the same image object again. Ascending indices are read in one pass; each step back
        begins another. Raises MessageError for an index outside the clip.
        """
        wanted = [int(i) for i in indices]
        outside = next((i for i in wanted if not 0 <= i < self.num_frames), None)
        if outside is not None:
            raise MessageError(f"frame {outside} was asked for; the video has frames 0 to {self.num_frames - 1}")
        return self._iterate(wanted, progress)

    def _iterate(self, wanted: list[int], progress: Progress | None) -> Iterator[Image]:
        for done, image in enumerate(_images_of(self.pictures(wanted)), 1):
            if progress is not None:
                progress(done, len(wanted))
            yield image

    def pictures(self, wanted: Sequence[int]) -> Iterator[_Picture]:
        """Yield what makes the image of each frame in `wanted`, in any thread; the same object for a repeated index."""
        for stretch in _ascending_stretches(wanted):
            counts: dict[int, int] = {}
            for i in stretch:
                counts[i] = counts.get(i, 0) + 1
            for i, picture in self._frames.frames(list(counts)):
                for _ in range(counts[i]):
                    yield picture

    def plan(
        self,
        choose_fps: float = 3,
        force_packing: int | None = None,
        max_num_frames: int = MAX_NUM_FRAMES,
        max_num_packing: int = MAX_NUM_PACKING,
    ) -> FramePlan:
        """Apply the sampling recipe to this clip; pictures with timestamps get ids from their own times."""
        plan = plan_frames(self.num_frames, self.fps, choose_fps, force_packing, max_num_frames, max_num_packing)
        if self.timestamps is None:
            return plan
        ids = tick_ids([self.frame_time(i) for i in plan.indices], self.duration)
        return FramePlan(plan.indices, plan.packing, group(ids, plan.packing))


@dataclass(frozen=True)
class SampledVideo:
    """Frames chosen but not yet decoded. `frames()` streams them; `temporal_ids` groups them for the resampler."""

    video: Video
    plan: FramePlan
    progress: Progress | None = None

    def __len__(self) -> int:
        return len(self.plan.indices)

    @property
    def indices(self) -> list[int]:
        return self.plan.indices

    @property
    def packing(self) -> int:
        return self.plan.packing

    @property
    def temporal_ids(self) -> list[list[int]]:
        return self.plan.temporal_ids

    @property
    def size(self) -> tuple[int, int]:
        return self.video.size

    def frames(self) -> Iterator[Image]:
        """Decode and yield the chosen frames in order, one at a time, reporting to `progress`."""
        return self.video.iter_frames(self.plan.indices, self.progress)

    def map_groups(self, work: Callable[[Iterator[Image], list[int]], T]) -> Generator[T, None, None]:
        """Yield work(frames, temporal ids) of each group, in order, done in threads while the next are decoded.

        work: takes the group's images one by one, in any thread. As many groups are held as keep the threads busy
        within `AHEAD_BYTES`; `progress` hears of frames as their group is taken. Raises MediaError for a clip that
        ends early.
        """
        threads = self.video.num_threads or available_cores()
        width, height = self.size
        # A decoded frame takes 1.5 to 3 bytes a pixel, its RGB three more while it is converted.
        group_bytes = 6 * width * height * max(map(len, self.temporal_ids))
        results = run_ahead(self._jobs(work), threads, min(2 * threads, AHEAD_BYTES // group_bytes))
        done = 0
        for ids, result in zip(self.temporal_ids, results, strict=True):
            for _ in ids:
                done += 1
                if self.progress is not None:
                    self.progress(done, len(self))
            yield result

    def _jobs(self, work: Callable[[Iterator[Image], list[int]], T]) -> Iterator[Callable[[], T]]:
        pictures = self.video.pictures(self.plan.indices)
        for ids in self.temporal_ids:
            group = list(itertools.islice(pictures, len(ids)))
            if len(group) < len(ids):
                raise MediaError("the video ended before its last sampled frame; it is truncated, cut it again")
            yield partial(_work_on, work, group, ids)


def _work_on(work: Callable[[Iterator[Image], list[int]], T], group: list[_Picture], ids: list[int]) -> T:
    return work(_images_of(_emptying(group)), ids)


def _emptying(pictures: list[_Picture]) -> Iterator[_Picture]:
    """Yield and forget, so that no decoded frame outlives its use."""
    while pictures:
        yield pictures.pop(0)


def _images_of(pictures: Iterator[_Picture]) -> Iterator[Image]:
    """Make one image after the other; a picture that comes again gives the same image again."""
    last: tuple[_Picture, Image] | None = None
    for picture in pictures:
        image = last[1] if last is not None and last[0] is picture else picture()
        last = (picture, image)
        yield image


def sample_video(
    source: Any,
    choose_fps: float = 3,
    force_packing: int | None = None,
    *,
    max_num_frames: int = MAX_NUM_FRAMES,
    max_num_packing: int | None = None,
    progress: Progress | None = None,
) -> SampledVideo:
    """Choose the frames of a clip for the model, to be streamed in flat memory.

    source: a `Video`, or anything it opens. force_packing: 1 to 6 frames a group, None or 0 to let the length decide.
    max_num_packing: None allows the guide's 3, or `force_packing` when that is more, so that asking for 6 gives 6 and
    up to 180 * 6 frames. progress: called with (frames done, frames in all) while frames are read.
    """
    if force_packing is not None and not 0 <= force_packing <= PACKING_LIMIT:
        raise MessageError(f"packing is {force_packing}; the model packs 1 to {PACKING_LIMIT} frames a group")
    if max_num_packing is None:
        max_num_packing = max(MAX_NUM_PACKING, force_packing or 0)
    video = source if isinstance(source, Video) else Video(source)
    return SampledVideo(video, video.plan(choose_fps, force_packing, max_num_frames, max_num_packing), progress)


def encode_video(
    source: Any,
    choose_fps: float = 3,
    force_packing: int | None = None,
    *,
    max_num_frames: int = MAX_NUM_FRAMES,
    max_num_packing: int = MAX_NUM_PACKING,
    progress: Progress | None = None,
) -> tuple[list[Image], list[list[int]]]:
    """Return the sampled frames of a clip and their temporal ids in groups: the guide's function, for `chat`.

    Every frame is kept at full size, w * h * 3 bytes each (1.5 GB for 540 of 1280x720); a `Video` part in a message
    streams instead. Arguments as in `plan_frames`.
    """
    video = source if isinstance(source, Video) else Video(source)
    plan = video.plan(choose_fps, force_packing, max_num_frames, max_num_packing)
    return list(video.iter_frames(plan.indices, progress)), plan.temporal_ids


class _Pictures:
    """Pictures as frames; each is opened only when its turn comes."""

    def __init__(self, pictures: list[Any], fps: float, max_pixels: int, max_frames: int) -> None:
        if not pictures:
            raise MediaError("the list of frames is empty; at least one picture is needed")
        if len(pictures) > max_frames:
            raise MediaError(f"{len(pictures)} pictures were given as a video; at most {max_frames} are supported")
        self.pictures, self.fps, self.max_pixels = pictures, fps, max_pixels
        self.num_frames = len(pictures)
        self.size = self._open(0).size

    def _open(self, index: int) -> Image:
        from .image import open_image

        return open_image(self.pictures[index], max_pixels=self.max_pixels)

    def frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, Callable[[], Image]]]:
        for index in wanted:
            yield index, partial(self._open, index)


def _ascending_stretches(indices: Sequence[int]) -> Iterator[list[int]]:
    stretch: list[int] = []
    for i in indices:
        if stretch and i < stretch[-1]:
            yield stretch
            stretch = []
        stretch.append(i)
    if stretch:
        yield stretch


def _as_folder(source: Any) -> Path | None:
    if not isinstance(source, (str, os.PathLike)):
        return None
    try:
        path = Path(source).expanduser()
        return path if path.is_dir() else None
    except (OSError, ValueError, RuntimeError):  # `locate` says what is wrong with it
        return None


def _locate(source: Any) -> Path | bytes:
    if not isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview)):
        raise MessageError(
            f"a video cannot be read from {type(source).__name__}; give a path, bytes, a folder or a list of pictures"
        )
    located = locate(source)
    if (len(located) if isinstance(located, bytes) else located.stat().st_size) == 0:
        raise MediaError(f"{describe(source)} is empty; give a file with content")
    return located


def _pictures_in(folder: Path) -> list[Path]:
    """List the pictures of a folder, told by content, in natural order."""

    def natural(path: Path) -> list[tuple[bool, int, str]]:
        parts = re.split(r"(\d+)", path.name.lower())
        return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts if part]

    def is_picture(path: Path) -> bool:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            found = sniff(file.read(HEAD_BYTES))
        return found is not None and found.kind == "image"

    try:
        found = sorted((path for path in folder.iterdir() if is_picture(path)), key=natural)
    except OSError as error:
        raise MediaError(f"the folder {describe(folder)} cannot be read ({one_line(error)})") from error
    if not found:
        raise MediaError(f"the folder {describe(folder)} holds no pictures; give a folder of frames, or a file")
    return found


def _find_timestamps(folder: Path) -> Path | None:
    return next((folder / name for name in TIMESTAMP_FILES if (folder / name).is_file()), None)


def _read_times(
    timestamps: Sequence[float] | str | Path | None, fps: float | None, num_frames: int
) -> tuple[list[float] | None, float]:
    """Return (timestamps or None, average rate) of `num_frames` pictures."""
    if fps is not None and timestamps is not None:
        raise MessageError("both fps and timestamps were given; one of them says when the frames are")
    if fps is not None:
        if not (math.isfinite(fps) and fps > 0):
            raise MessageError(f"fps is {fps}; give the pictures' frames per second, above zero")
        return None, float(fps)
    if timestamps is None:
        raise MessageError(
            "a folder or list of frames does not say how fast it runs; open it as "
            "cpmv.inputs.video.Video(frames, fps=...) or with timestamps=, or put a timestamps.txt into the folder"
        )
    times = _parse_times(Path(timestamps)) if isinstance(timestamps, (str, Path)) else [float(t) for t in timestamps]
    if len(times) != num_frames:
        raise MessageError(f"{len(times)} timestamps were given for {num_frames} frames; give one for each")
    if not all(math.isfinite(t) for t in times) or any(b < a for a, b in zip(times, times[1:], strict=False)):
        raise MessageError("timestamps must be finite seconds in ascending order")
    if num_frames > 1 and times[-1] <= times[0]:
        raise MessageError(f"all {num_frames} timestamps are {times[0]:g}; they must ascend")
    return times, (num_frames - 1) / (times[-1] - times[0]) if num_frames > 1 else 1.0


def _parse_times(path: Path) -> list[float]:
    try:
        text = path.read_text(encoding="utf-8")
        return [float(t) for t in (json.loads(text) if path.suffix.lower() == ".json" else text.split())]
    except (OSError, ValueError, TypeError) as error:
        raise MediaError(f"timestamps in {describe(path)} cannot be read ({one_line(error)})") from None
