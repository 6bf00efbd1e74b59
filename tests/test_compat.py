"""decord's names, as the guide's video script uses them."""

from __future__ import annotations

import math
from pathlib import Path

import av
import numpy as np
import pytest

from cpmv.compat import DeviceContext, VideoReader, cpu, gpu
from cpmv.errors import CpmvError, MediaError, MessageError
from cpmv.inputs.video import encode_video

N, FPS = 60, 20


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frame i is uniformly 4 * i bright."""
    out = tmp_path_factory.mktemp("compat") / "clip.avi"
    with av.open(str(out), "w") as container:
        stream = container.add_stream("mjpeg", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for i in range(N):
            pixels = np.full((48, 64, 3), 4 * i, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return out


def numbers(pixels: np.ndarray) -> list[int]:
    return [round(float(frame.mean()) / 4) for frame in pixels]


def test_a_reader_knows_its_length_and_rate(path: Path) -> None:
    reader = VideoReader(str(path), ctx=cpu(0))
    assert len(reader) == N and reader.get_avg_fps() == float(FPS)


def test_a_batch_is_one_array_in_the_order_asked_for(path: Path) -> None:
    reader = VideoReader(str(path))
    batch = reader.get_batch(np.array([3, 3, 40, 7, -1])).asnumpy()
    assert batch.dtype == np.uint8 and batch.shape == (5, 48, 64, 3)
    assert numbers(batch) == [3, 3, 40, 7, N - 1]
    assert reader.get_batch([]).shape == (0, 48, 64, 3)


def test_single_frames_slices_and_iteration(path: Path) -> None:
    reader = VideoReader(path)
    assert reader[5].shape == (48, 64, 3) and numbers(reader[5].asnumpy()[None]) == [5]
    assert numbers(reader[10:20:4].asnumpy()) == [10, 14, 18]
    assert numbers(np.stack([np.asarray(frame) for frame in reader])) == list(range(N))
    assert numbers(reader[-2].asnumpy()[None]) == [N - 2]


def test_one_frame_after_the_other_opens_the_file_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = VideoReader(path)
    opened: list[int] = []
    real = av.open
    monkeypatch.setattr(av, "open", lambda *args, **kwargs: opened.append(1) or real(*args, **kwargs))
    assert numbers(np.stack([reader[i].asnumpy() for i in range(N)])) == list(range(N))
    assert len(opened) == 1


def test_frames_come_in_the_size_asked_for(path: Path) -> None:
    reader = VideoReader(path, width=30, height=20)
    assert reader[0].shape == (20, 30, 3) and reader.get_batch([0, 9]).shape == (2, 20, 30, 3)
    assert VideoReader(path, width=30)[0].shape == (48, 30, 3)


@pytest.mark.parametrize("index", [N, -N - 1])
def test_frames_outside_the_video_are_an_index_error(index: int, path: Path) -> None:
    with pytest.raises(IndexError, match=f"{N} frames"):
        VideoReader(path)[index]
    with pytest.raises(IndexError):
        VideoReader(path).get_batch([0, index])


def test_what_is_not_to_be_had_says_why(path: Path) -> None:
    with pytest.raises(MessageError, match=r"decoded on the CPU here; use cpu\(0\)"):
        gpu(0)
    with pytest.raises(MessageError, match="ctx is gpu"):
        VideoReader(path, ctx=DeviceContext("gpu"))
    with pytest.raises(MessageError, match="0x-1"):
        VideoReader(path, width=0)
    with pytest.raises(MediaError, match="no such file"):
        VideoReader("absent.mp4")
    assert issubclass(MediaError, CpmvError)


@pytest.mark.parametrize("choose_fps, packing", [(3, None), (5, 2), (5, 6), (1, None)])
def test_the_guides_own_sampling_on_the_look_alike_equals_encode_video(
    choose_fps: int, packing: int | None, path: Path
) -> None:
    """The recipe written out with numpy and scipy's tree, as a user's script has it."""
    tree = pytest.importorskip("scipy.spatial").cKDTree
    reader = VideoReader(str(path), ctx=cpu(0))
    fps, count = reader.get_avg_fps(), len(reader)
    duration = count / fps
    assert choose_fps * int(duration) <= 180
    chosen = round(min(choose_fps, round(fps)) * min(180, duration))
    gap = count / chosen
    indices = np.array([int(i * gap + gap / 2) for i in range(chosen)])
    scale = np.arange(0, duration, 0.1)
    _, nearest = tree(scale[:, None]).query((indices / fps)[:, None])
    ids = (scale[nearest] / 0.1).astype(np.int32)
    size = min(packing, 3) if packing else 1

    frames, groups = encode_video(path, choose_fps, packing)
    pixels = reader.get_batch(indices).asnumpy()
    assert np.array_equal(np.stack([np.asarray(frame) for frame in frames]), pixels)
    assert groups == [ids[i : i + size].tolist() for i in range(0, chosen, size)]
    assert len(groups) == math.ceil(chosen / size)
