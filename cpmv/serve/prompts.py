"""A request's messages with their media as bytes (`Job`), and what becomes of them: `ModelInputs`.

A `Job` is plain data, so it can be prepared in another process (`decoders`). `prepare` holds the limits that need a
media library to check, then hands everything to the one path from messages to tensors, `inputs.processor`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from ..errors import MediaError, MessageError
from .settings import MediaLimits

if TYPE_CHECKING:
    from ..inputs.messages import Image, Message, Part, Pdf, Video
    from ..inputs.processor import Processor
    from ..model.config import ModelInputs

MAX_NUM_FRAMES = 180  # groups of frames, as the guide's sampling recipe has it
MAX_PACKING = 6  # frames that the resampler was trained to take together
DEFAULT_FPS = 3.0


class Media(msgspec.Struct):
    """One file. kind "file" is told by content. num_frames: most frames of a video; None packing: by its length."""

    kind: Literal["image", "video", "file"]
    data: bytes
    max_slice_nums: int | None = None
    fps: float | None = None
    packing: int | None = None
    num_frames: int | None = None
    pages: str | None = None


class Turn(msgspec.Struct):
    role: str
    parts: list[str | Media]
    tool_calls: Any = None  # a list of JSON objects
    reasoning: str | None = None


class Job(msgspec.Struct):
    """Everything that decides a prompt. Fields as in `Processor.__call__`; `task` says what is wanted of it."""

    turns: list[Turn]
    task: Literal["inputs", "preview"] = "inputs"
    thinking: bool = False
    tools: Any = None  # a list of JSON objects
    max_slice_nums: int | None = None
    use_image_id: bool | None = None
    temporal_ids: list[list[int]] | None = None
    max_inp_length: int | None = None

    @property
    def has_media(self) -> bool:
        return any(isinstance(part, Media) for turn in self.turns for part in turn.parts)

    @property
    def num_text_bytes(self) -> int:
        """Bytes of everything written that goes into the prompt: words, reasoning, tools and calls."""
        texts = [part for turn in self.turns for part in turn.parts if isinstance(part, str)]
        texts += [turn.reasoning or "" for turn in self.turns]
        objects = [self.tools, *(turn.tool_calls for turn in self.turns)]
        texts += [json.dumps(one, ensure_ascii=False) for one in objects if one]
        return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)


def pack(job: Job) -> bytes:
    """Write a job for another process. Tools and calls go as JSON text, whose integers may have any size."""
    turns = [msgspec.structs.replace(turn, tool_calls=json.dumps(turn.tool_calls)) for turn in job.turns]
    return msgspec.msgpack.encode(msgspec.structs.replace(job, turns=turns, tools=json.dumps(job.tools)))


def unpack(data: bytes) -> Job:
    """Read what `pack` wrote."""
    job = _JOBS.decode(data)
    for turn in job.turns:
        turn.tool_calls = json.loads(turn.tool_calls)
    job.tools = json.loads(job.tools)
    return job


# Made here, once: working a type out is not safe in two threads at a time.
_JOBS = msgspec.msgpack.Decoder(Job)


def prepare(job: Job, processor: Processor, limits: MediaLimits) -> ModelInputs:
    """Make a job into what the model takes. Raises CpmvError for whatever is wrong with it."""
    return processor(
        [_message(turn, limits) for turn in job.turns],
        enable_thinking=job.thinking,
        max_slice_nums=job.max_slice_nums,
        use_image_id=job.use_image_id,
        temporal_ids=job.temporal_ids,
        tools=job.tools,
        max_inp_length=job.max_inp_length,
    )


def _message(turn: Turn, limits: MediaLimits) -> Message:
    from ..inputs.messages import Message, Text

    parts: list[Part] = [Text(part) if isinstance(part, str) else open_media(part, limits) for part in turn.parts]
    return Message(turn.role, parts, turn.tool_calls, turn.reasoning)


def open_media(media: Media, limits: MediaLimits) -> Image | Video | Pdf:
    """Check one file's header against the limits and make it a part. Raises MediaError or MessageError."""
    from ..inputs.image import image_size
    from ..inputs.media import media_kind
    from ..inputs.messages import Image, Pdf, Video

    kind: str = media.kind
    if kind == "file":
        kind = media_kind(media.data)
    if media.pages is not None and kind != "pdf":
        raise MessageError(f"pages={media.pages!r} was given for a file that is a {kind}, not a PDF; leave it out")
    if kind == "image":
        image_size(media.data, max_pixels=limits.max_image_pixels)
        return Image(media.data, media.max_slice_nums)
    if kind == "pdf":
        return Pdf(media.data, media.pages)
    clip = open_clip(media, limits)
    fps, packing = sampling(clip, media)
    return Video(clip, fps, packing)


def open_clip(media: Media, limits: MediaLimits) -> Any:
    """Open a video within the limits on pixels, frames, duration and frame rate."""
    from ..inputs.video import Video as Clip

    clip = Clip(
        media.data,
        max_pixels=limits.max_frame_pixels,
        max_frames=limits.max_video_frames,
        max_duration_s=limits.max_video_duration_s,
        num_threads=1,
    )
    if not 0 < clip.fps <= limits.max_frame_rate:
        raise MediaError(
            f"the video states {clip.fps:g} frames a second; at most {limits.max_frame_rate:g} are supported"
        )
    width, height = clip.size
    if width * height > limits.max_frame_pixels:
        raise MediaError(
            f"the video's frames have {width} x {height} pixels; at most {limits.max_frame_pixels} pixels are supported"
        )
    return clip


def sampling(clip: Any, media: Media) -> tuple[float, int]:
    """Return (frames to choose a second, frames a group) for a clip, by request or by the recipe with groups of six."""
    fps = DEFAULT_FPS if media.fps is None else media.fps
    if media.num_frames is not None:
        fps = min(fps, media.num_frames / clip.duration)
    if media.packing is not None:
        return fps, media.packing
    return fps, clip.plan(fps, None, MAX_NUM_FRAMES, MAX_PACKING).packing
