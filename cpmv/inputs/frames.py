"""Which frames of a clip the model sees, and the time each one is told to it as: arithmetic only, no decoding.

The recipe is the published guide's: sample evenly at `choose_fps`, up to `max_num_frames` groups of at most
`max_num_packing` frames; a frame's temporal id is its time in ticks of 0.1 s. Everything is done in the same double
operations as the guide, because some ids depend on the last bit (see `tick_ids`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import MediaError, MessageError

logger = logging.getLogger("cpmv")

MAX_NUM_FRAMES = 180  # groups after packing, hence 180 * packing frames at most
MAX_NUM_PACKING = 3  # the guide's default
PACKING_LIMIT = 6  # frames the resampler was trained to take together
TIME_SCALE = 0.1  # seconds per temporal id
MAX_CHOOSE_FPS = 1000  # frames per second asked for; far above any training data, keeps the arithmetic finite


@dataclass(frozen=True)
class FramePlan:
    """indices: frames to decode, ascending, repeated when more are asked for than exist.
    packing: frames in a group. temporal_ids: one list a group (the last may be shorter), in units of 0.1 s.
    """

    indices: list[int]
    packing: int
    temporal_ids: list[list[int]]


def plan_frames(
    num_frames: int,
    fps: float,
    choose_fps: float = 3,
    force_packing: int | None = None,
    max_num_frames: int = MAX_NUM_FRAMES,
    max_num_packing: int = MAX_NUM_PACKING,
) -> FramePlan:
    """Choose frames, packing and temporal ids for a clip of `num_frames` frames at an average of `fps` a second.

    choose_fps: frames a second to look at, if the budget allows. force_packing: frames in a group (None or 0: let the
    length decide); it does not change how many frames are chosen, and is clamped to `max_num_packing` with a warning.
    At least one frame is always chosen. Raises MediaError for an empty clip or an impossible rate, MessageError for
    options out of range.
    """
    _check_options(choose_fps, force_packing, max_num_frames, max_num_packing)
    if num_frames < 1:
        raise MediaError(f"the video has {num_frames} frames; at least one is needed")
    if not (math.isfinite(fps) and fps > 0):
        raise MediaError(f"the video has a frame rate of {fps}; it must be above zero")
    duration = num_frames / fps
    if choose_fps * int(duration) <= max_num_frames:
        packing = 1
        count = round(min(choose_fps, round(fps)) * min(max_num_frames, duration))
    else:
        packing = math.ceil(duration * choose_fps / max_num_frames)
        count = round(duration * choose_fps)
        if packing > max_num_packing:
            packing, count = max_num_packing, max_num_frames * max_num_packing
    # Very short clips, and rates that round to zero, ask for no frames at all; the guide divides by zero there.
    count = max(1, count)
    gap = num_frames / count
    indices = [int(i * gap + gap / 2) for i in range(count)]
    if force_packing:
        packing = min(force_packing, max_num_packing)
        if packing < force_packing:
            logger.warning("packing %d is above max_num_packing; packing %d frames a group", force_packing, packing)
    return FramePlan(indices, packing, group(tick_ids([i / fps for i in indices], duration), packing))


def tick_ids(times: Sequence[float], duration: float) -> list[int]:
    """Return the temporal id of each time: the nearest tick of 0.1 s in [0, duration), as an integer.

    The ticks are the doubles `j * 0.1`; a tie goes to the lower one. The id is `int(tick / 0.1)`, which the division's
    rounding makes j - 1 for about one tick in twenty (43, 81, 86, ...): the model was trained with exactly these ids.
    """
    last = max(0, math.ceil(duration / TIME_SCALE) - 1)
    return [int(_nearest_tick(time, last) * TIME_SCALE / TIME_SCALE) for time in times]


def _nearest_tick(time: float, last: int) -> int:
    guess = int(time / TIME_SCALE)
    candidates = range(min(max(guess - 1, 0), last), min(max(guess + 2, 0), last) + 1)
    return min(candidates, key=lambda j: abs(time - j * TIME_SCALE))  # the first, hence lowest, of equals


def group(ids: Sequence[int], size: int) -> list[list[int]]:
    """Cut ids into consecutive groups of `size`; the last may be shorter."""
    return [list(ids[i : i + size]) for i in range(0, len(ids), size)]


def _check_options(choose_fps: float, force_packing: int | None, max_num_frames: int, max_num_packing: int) -> None:
    if not (math.isfinite(choose_fps) and 0 < choose_fps <= MAX_CHOOSE_FPS):
        raise MessageError(f"choose_fps is {choose_fps}; give frames per second above 0 and up to {MAX_CHOOSE_FPS}")
    if not 1 <= max_num_packing <= PACKING_LIMIT:
        raise MessageError(f"max_num_packing is {max_num_packing}; the model packs 1 to {PACKING_LIMIT} frames a group")
    if max_num_frames < 1:
        raise MessageError(f"max_num_frames is {max_num_frames}; at least one group of frames is needed")
    if force_packing is not None and (force_packing < 0 or int(force_packing) != force_packing):
        raise MessageError(
            f"packing is {force_packing}; give 1 to {PACKING_LIMIT} frames a group, or None to let the length decide"
        )
