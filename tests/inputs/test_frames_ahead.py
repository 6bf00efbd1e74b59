"""Jobs run ahead in order, within their window, and let go of everything when nobody wants them any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cpmv.errors import MediaError
from cpmv.inputs import video as video_module
from cpmv.inputs.ahead import run_ahead
from cpmv.inputs.image import patchify, slice_image
from cpmv.inputs.messages import Video as VideoPart
from cpmv.inputs.video import Video, sample_video
from cpmv.inputs.visuals import Group, PatchBuffer, Visuals
from cpmv.model.config import ImageConfig


def own_threads() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith("cpmv-")}


@pytest.mark.parametrize(("threads", "window"), [(1, 8), (4, 1), (2, 2), (3, 8)])
def test_results_come_in_order_and_no_more_are_begun_than_the_window_holds(threads: int, window: int) -> None:
    lock, open_jobs, most = threading.Lock(), 0, 0

    def job(i: int) -> Callable[[], int]:
        def run() -> int:
            time.sleep(0.002 * (i % 3))
            return i

        return run

    def jobs() -> Iterator[Callable[[], int]]:
        nonlocal open_jobs, most
        for i in range(40):
            with lock:
                open_jobs += 1
                most = max(most, open_jobs)
            yield job(i)

    found = []
    for value in run_ahead(jobs(), threads, window):
        found.append(value)
        with lock:
            open_jobs -= 1
    assert found == list(range(40))
    # A place is given back when the next result is asked for.
    assert most <= window + 1
    assert not own_threads()


@pytest.mark.parametrize("threads", [1, 3])
def test_a_failure_is_raised_where_its_result_would_have_come(threads: int) -> None:
    def fail() -> int:
        raise MediaError("broken")

    found = []
    with pytest.raises(MediaError, match="broken"):
        for value in run_ahead([lambda: 1, lambda: 2, fail, lambda: 4], threads, 4):
            found.append(value)
    assert found == [1, 2]

    def broken() -> Iterator[Callable[[], int]]:
        yield lambda: 1
        raise MediaError("no more")

    found.clear()
    with pytest.raises(MediaError, match="no more"):
        found.extend(run_ahead(broken(), threads, 4))
    assert not own_threads()


def test_closing_early_stops_the_threads_and_closes_the_source() -> None:
    closed = threading.Event()

    def jobs() -> Iterator[Callable[[], int]]:
        try:
            for i in range(10**9):
                yield lambda i=i: i  # type: ignore[misc]
        finally:
            closed.set()

    results = run_ahead(jobs(), 3, 5)
    assert [next(results), next(results)] == [0, 1]
    results.close()
    assert not own_threads()
    assert closed.wait(5)


def frames(count: int, size: tuple[int, int] = (90, 60)) -> list[Image.Image]:
    pixels = torch.randint(256, (count, size[1], size[0], 3), generator=torch.Generator().manual_seed(0))
    return [Image.fromarray(one.to(torch.uint8).numpy()) for one in pixels]


def make_clip(path: Path, count: int) -> Path:
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=10, options={"g": "5"})
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for image in frames(count, (160, 96)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("threads", [1, 4])
def test_groups_made_in_threads_equal_frames_cut_one_by_one(
    threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_module, "available_cores", lambda: 4)
    clip = Video(make_clip(tmp_path / "clip.mp4", 40), num_threads=threads)
    plain = [patchify(slice_image(frame, 1), 14)[0] for frame in sample_video(clip, force_packing=3).frames()]
    told: list[int] = []
    heard: list[Group] = []
    visuals = Visuals(ImageConfig(), limit=(10**6, "test"), progress=lambda done, total: told.append(done))
    visuals.add(VideoPart(clip, packing=3))
    loaded = visuals.load(heard.append)
    assert torch.equal(loaded.patches, torch.cat(plain))
    assert told == list(range(1, len(plain) + 1))
    assert [group.digest for group in heard] == loaded.media_hashes
    assert torch.equal(torch.cat([group.patches for group in heard]), loaded.patches)
    assert not own_threads()


def test_threads_of_a_clip_end_when_a_later_picture_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_module, "available_cores", lambda: 4)
    clip = Video(frames(30), fps=5)
    visuals = Visuals(ImageConfig(), limit=(10**6, "test"))
    visuals.add(VideoPart(clip, packing=2))

    def stop(group: Group) -> None:
        raise MediaError("enough")

    with pytest.raises(MediaError, match="enough"):
        visuals.load(stop)
    assert not own_threads()


def test_large_frames_are_not_held_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_module, "available_cores", lambda: 16)
    asked: list[tuple[int, int]] = []

    def spy(jobs: Any, num_threads: int, window: int) -> Any:
        asked.append((num_threads, window))
        return run_ahead(jobs, 1, 1)

    monkeypatch.setattr(video_module, "run_ahead", spy)
    for size in ((448, 448), (1280, 720), (7680, 4320)):
        clip = Video([Image.new("RGB", size)] * 3, fps=3)
        list(sample_video(clip, force_packing=3).map_groups(lambda images, ids: len(list(images))))
    assert asked[0] == (16, 32)
    for (_, window), pixels in zip(asked, (448 * 448, 1280 * 720, 7680 * 4320), strict=True):
        assert window * 3 * pixels * 6 <= video_module.AHEAD_BYTES


@pytest.mark.parametrize("expected", [0, 5, 12, 40])
def test_patches_are_gathered_whatever_number_was_expected(expected: int) -> None:
    patches = torch.arange(12 * 3 * 4).to(torch.uint8).view(12, 3, 2, 2)
    buffer = PatchBuffer(2, expected)
    for part in patches.split(5):
        buffer.append(part)
    assert torch.equal(buffer.finish(), patches)
