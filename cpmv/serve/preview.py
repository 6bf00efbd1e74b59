"""What the model sees of a file: slices of pictures and pages, sampled frames of videos, and the tokens of each.

Runs where media are decoded (`decoders`); the page draws the result. Sizes are [width, height] in pixels.
"""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

from .prompts import Job, Media, open_clip, open_media, sampling
from .settings import MediaLimits

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    from ..inputs.processor import Processor
    from ..model.config import ImageConfig

THUMBNAIL = (160, 120)  # pixels that fit the largest side
MAX_THUMBNAILS = 96  # of one video, spread evenly
MAX_PAGES = 60


def preview(job: Job, processor: Processor, limits: MediaLimits) -> dict[str, Any]:
    """Return {"parts": [...], "visual_tokens": n}, one entry a media part, in order. Raises CpmvError."""
    config = processor.config.image
    parts = []
    for turn in job.turns:
        for part in turn.parts:
            if isinstance(part, Media):
                parts.append(_describe(part, job, config, limits))
    return {"parts": parts, "visual_tokens": sum(part["tokens"] for part in parts)}


def _describe(media: Media, job: Job, config: ImageConfig, limits: MediaLimits) -> dict[str, Any]:
    from ..inputs.image import open_image
    from ..inputs.messages import Image, Pdf
    from ..inputs.pdf import iter_pages

    part = open_media(media, limits)
    if isinstance(part, Image):
        picture = open_image(media.data, max_pixels=limits.max_image_pixels)
        slices = media.max_slice_nums or job.max_slice_nums or config.max_slice_nums
        return {"type": "image", **_grid(picture.size, slices, config)}
    if isinstance(part, Pdf):
        pages: list[dict[str, Any]] = []
        for page in iter_pages(media.data, media.pages):
            grid = _grid(page.size, job.max_slice_nums or config.max_slice_nums, config)
            pages.append({**grid, "thumbnail": _thumbnail(page) if len(pages) < MAX_PAGES else None})
        return {"type": "pdf", "pages": pages, "tokens": sum(page["tokens"] for page in pages)}
    return _video(media, config, limits)


def _grid(size: tuple[int, int], max_slice_nums: int, config: ImageConfig) -> dict[str, Any]:
    from ..inputs.image import plan_slices

    plan = plan_slices(size, max_slice_nums, config.scale_resolution, config.patch_size, config.slice_mode)
    return {
        "size": list(size),
        "grid": None if plan.grid is None else {"columns": plan.grid[0], "rows": plan.grid[1]},
        "overview": list(plan.overview),
        "slice": None if plan.grid is None else list(plan.sizes[1]),
        "num_slices": len(plan.sizes),
        "tokens": len(plan.sizes) * config.image_feature_size,
    }


def _video(media: Media, config: ImageConfig, limits: MediaLimits) -> dict[str, Any]:
    clip = open_clip(media, limits)
    fps, packing = sampling(clip, media)
    from ..inputs.video import sample_video

    sampled = sample_video(clip, fps, packing)
    count = len(sampled)
    shown = sorted({i * count // min(count, MAX_THUMBNAILS) for i in range(min(count, MAX_THUMBNAILS))})
    thumbnails: dict[int, str] = {}
    for i, frame in zip(shown, clip.iter_frames([sampled.indices[i] for i in shown]), strict=True):
        thumbnails[i] = _thumbnail(frame)
    frames = [
        {"index": index, "time_s": round(clip.frame_time(index), 3), "thumbnail": thumbnails.get(i)}
        for i, index in enumerate(sampled.indices)
    ]
    packages = [
        {
            "frames": frames[start : start + sampled.packing],
            "temporal_ids": [int(i) for i in ids],
            "tokens": config.image_feature_size,
        }
        for start, ids in zip(range(0, count, sampled.packing), sampled.temporal_ids, strict=True)
    ]
    return {
        "type": "video",
        "size": list(clip.size),
        "duration_s": round(clip.duration, 3),
        "frame_rate": round(clip.fps, 3),
        "fps": fps,
        "packing": sampled.packing,
        "num_frames": count,
        "packages": packages,
        "slice": _grid(clip.size, 1, config)["overview"],
        "tokens": len(packages) * config.image_feature_size,
    }


def _thumbnail(picture: Picture) -> str:
    """A small JPEG as a data: URI."""
    small = picture.copy()
    small.thumbnail(THUMBNAIL)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=60)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
