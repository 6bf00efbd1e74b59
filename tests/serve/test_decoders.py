"""Decoding processes: the same tensors as in this process, and an end for everything that would not end."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
import torch
from serve_media import clip, pdf, picture, png_bomb

from cpmv.inputs.processor import Processor
from cpmv.inputs.text import Tokenizer
from cpmv.model.config import ModelConfig, from_hf
from cpmv.serve.decoders import Decoders
from cpmv.serve.errors import ApiError
from cpmv.serve.prompts import Job, Media, Turn, prepare
from cpmv.serve.settings import MediaLimits
from cpmv.weights.hub import BUNDLED

T = TypeVar("T")
LIMITS = MediaLimits(max_image_pixels=10_000_000)


def parts() -> tuple[ModelConfig, Tokenizer]:
    files = ("config.json", "preprocessor_config.json")
    return from_hf(*(json.loads((BUNDLED / name).read_text()) for name in files)), Tokenizer.from_folder(BUNDLED)


def with_decoders(work: Callable[[Decoders], Awaitable[T]], limits: MediaLimits = LIMITS, num: int = 1) -> T:
    async def go() -> T:
        decoders = Decoders(*parts(), limits, num)
        await decoders.start()
        try:
            return await work(decoders)
        finally:
            decoders.close()

    return asyncio.run(go())


def job(*media: Media, text: str = "What is this?", **options: Any) -> Job:
    return Job([Turn("user", [*media, text])], **options)


def test_other_processes_make_the_same_tensors() -> None:
    jobs = [
        job(Media("image", picture(300, 200)), Media("image", picture(90, 400, "JPEG"), max_slice_nums=1)),
        job(Media("video", clip(40, 10), fps=5.0, packing=6), thinking=True),
        job(Media("file", pdf(2))),
    ]

    async def work(decoders: Decoders) -> list[Any]:
        return list(await asyncio.gather(*(decoders.run(one) for one in jobs)))

    found = with_decoders(work, num=2)
    processor = Processor(*parts())
    for one, inputs in zip(jobs, found, strict=True):
        expected = prepare(one, processor, LIMITS)
        for field in dataclasses.fields(expected):
            value, wanted = getattr(inputs, field.name), getattr(expected, field.name)
            if isinstance(wanted, torch.Tensor):
                assert torch.equal(value, wanted) and value.dtype == wanted.dtype
            else:
                assert value == wanted


def refusal(media: Media, limits: MediaLimits = LIMITS) -> ApiError:
    async def work(decoders: Decoders) -> ApiError:
        with pytest.raises(ApiError) as caught:
            await decoders.run(job(media))
        again = await decoders.run(job(Media("image", picture())))  # the next one is served
        assert len(again) > 0
        return caught.value

    return with_decoders(work, limits)


def test_a_picture_of_too_many_pixels_is_refused_by_its_header() -> None:
    start = time.monotonic()
    error = refusal(Media("image", png_bomb()))
    assert error.status == 400 and "pixels" in error.message and time.monotonic() - start < 30


@pytest.mark.parametrize(
    ("limit", "data", "said"),
    [
        ({"max_video_duration_s": 1}, clip(30, 10), "lasts"),
        ({"max_frame_rate": 20}, clip(30, 25), "frames a second"),
        ({"max_frame_pixels": 1000}, clip(5, 10), "decoded"),
        ({"max_video_frames": 10}, clip(30, 10), "frames"),
    ],
)
def test_videos_beyond_a_limit_are_refused(limit: dict, data: bytes, said: str) -> None:
    error = refusal(Media("video", data), dataclasses.replace(LIMITS, **limit))
    assert error.status == 400 and said in error.message


def test_decoding_that_takes_too_long_ends_with_its_process() -> None:
    limits = dataclasses.replace(LIMITS, decode_timeout_s=0.3)

    async def work(decoders: Decoders) -> str:
        with pytest.raises(ApiError) as caught:
            await decoders.run(job(Media("video", clip(300, 30, (640, 480)), fps=30.0)))
        return caught.value.message

    assert "to decode" in with_decoders(work, limits)


def test_decoding_that_asks_for_too_much_memory_ends() -> None:
    limits = dataclasses.replace(LIMITS, max_decode_memory_bytes=256 << 20, max_image_pixels=200_000_000)
    error = refusal(Media("image", picture(12_000, 12_000)), limits)
    assert error.status == 400


def test_a_client_that_leaves_ends_the_decoding() -> None:
    async def work(decoders: Decoders) -> float:
        video = job(Media("video", clip(600, 30, (640, 480)), fps=30.0, packing=6))
        task = asyncio.create_task(decoders.run(video))
        await asyncio.sleep(0.1)
        task.cancel()
        start = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(await decoders.run(job(Media("image", picture())))) > 0
        return time.monotonic() - start

    assert with_decoders(work) < 30


def test_packing_follows_the_length_up_to_six() -> None:
    async def work(decoders: Decoders) -> list[int]:
        found = []
        for media in (
            Media("video", clip(60, 10)),  # 6 s: 18 frames, each by itself
            Media("video", clip(60, 10), packing=6),
            Media("video", clip(120, 10), fps=10.0, num_frames=7, packing=1),
        ):
            inputs = await decoders.run(job(media))
            found += [len(inputs.temporal_ids), len(inputs.temporal_ids[0])]
        return found

    assert with_decoders(work) == [18, 1, 3, 6, 7, 1]
