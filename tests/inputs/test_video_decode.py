"""Frames of files, folders and lists: exact however they are reached, upright, in flat memory, and safe to open.

Clips are tiny and made here. The upper half of each frame is a barcode of its number; the lower half is moving noise,
so that a frame put together from the wrong references cannot equal the right one.
"""

from __future__ import annotations

import io
import json
import logging
import random
import struct
import subprocess
import sys
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from cpmv.errors import CpmvError, MediaError, MessageError
from cpmv.inputs import decode, packets
from cpmv.inputs.video import SampledVideo, Video, encode_video, sample_video

W, H, N = 64, 48, 50
NOISE = np.random.default_rng(0).integers(0, 255, (H, W * 3, 3)).astype(np.uint8)


def picture(i: int, width: int = W, height: int = H) -> np.ndarray:
    """Frame i: 8 bars that spell its number in binary, over noise that moves 3 pixels a frame."""
    pixels = np.roll(NOISE, 3 * i, axis=1)[:height, :width] // 4 + 40
    pixels = np.resize(pixels, (height, width, 3)) if pixels.shape[:2] != (height, width) else pixels.copy()
    for bit in range(8):
        left, right = bit * width // 8, (bit + 1) * width // 8
        pixels[: height // 2, left:right] = 250 if i >> bit & 1 else 5
    return pixels


def number(image: Image.Image) -> int:
    """Read the barcode of a frame."""
    grey = np.asarray(image.convert("L"), dtype=float)
    height, width = grey.shape
    bars = grey[2 : height // 2 - 4]
    return sum(
        (bars[:, bit * width // 8 + 2 : (bit + 1) * width // 8 - 2].mean() > 127) << bit for bit in range(8)
    )  # fmt: skip


@dataclass(frozen=True)
class Codec:
    """One way of writing a clip."""

    file: str
    encoder: str
    options: dict[str, str] = field(default_factory=dict)
    pix_fmt: str = "yuv420p"
    gop: int | None = 10
    b_frames: int | None = None
    seeks: bool = True


CODECS = [
    Codec("h264.mp4", "libx264", {"preset": "veryfast"}, b_frames=3),
    Codec("h264.mov", "libx264", {"preset": "veryfast"}, b_frames=0),
    Codec("h264-open.mkv", "libx264", {"x264-params": "open-gop=1:bframes=3:b-pyramid=normal"}, b_frames=3),
    Codec("h264.ts", "libx264", {"preset": "veryfast"}, b_frames=2),
    Codec("h264-refresh.ts", "libx264", {"x264-params": "intra-refresh=1:keyint=10"}, b_frames=0, seeks=False),
    Codec("h264.h264", "libx264", {"preset": "veryfast"}, b_frames=2, seeks=False),
    Codec("h265.mp4", "libx265", {"preset": "fast", "x265-params": "log-level=none:open-gop=0"}),
    Codec("h265-open.mkv", "libx265", {"preset": "fast", "x265-params": "log-level=none:open-gop=1:keyint=10"}),
    Codec("h265-10bit.mp4", "libx265", {"preset": "fast", "x265-params": "log-level=none"}, "yuv420p10le"),
    Codec("vp8.webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "10", "cpu-used": "8"}, gop=16),
    Codec("vp9.webm", "libvpx-vp9", {"lag-in-frames": "10", "cpu-used": "8", "deadline": "realtime"}, gop=16),
    Codec("av1.mp4", "libsvtav1", {"preset": "12"}, gop=16),
    Codec("av1.mkv", "libsvtav1", {"preset": "12"}, gop=16),
    Codec("mpeg4.avi", "mpeg4", b_frames=0),
    Codec("mpeg4-b.avi", "mpeg4", b_frames=2),
    Codec("mpeg4.mp4", "mpeg4", b_frames=2),
    Codec("mpeg2.ts", "mpeg2video", b_frames=2),
    Codec("mjpeg.avi", "mjpeg", pix_fmt="yuvj420p", gop=None),
    Codec("prores.mov", "prores_ks", pix_fmt="yuv422p10le", gop=None),
    Codec("gif.gif", "gif", pix_fmt="rgb8", gop=None, seeks=False),
]


def write(
    path: Path,
    encoder: str = "libx264",
    options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    gop: int | None = 10,
    b_frames: int | None = None,
    n: int = N,
    rate: int = 25,
    size: tuple[int, int] = (W, H),
    times_ms: Sequence[int] | None = None,
    rotation: tuple[int, bool, bool] | None = None,
    faststart: bool = False,
    **color: int,
) -> Path:
    """Encode n pictures to a file; times_ms gives a variable frame rate."""
    try:
        av.Codec(encoder, "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"this build of PyAV has no {encoder} encoder")
    index_first = {"movflags": "faststart"} if path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", options=index_first if faststart else {}) as container:
        stream = container.add_stream(encoder, rate=rate, options=options or {})
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        if gop is not None:
            stream.codec_context.gop_size = gop
        if b_frames is not None:
            stream.codec_context.max_b_frames = b_frames
        if rotation is not None:
            stream.set_display_rotation(*rotation)
        for name, value in color.items():
            setattr(stream.codec_context, name, value)
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(n):
            frame = av.VideoFrame.from_ndarray(picture(i, *size), format="rgb24")
            frame.pts = i if times_ms is None else times_ms[i]
            if times_ms is not None:
                frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    logger = logging.getLogger("cpmv")
    before = logger.level
    yield
    logger.setLevel(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def plain(folder: Path) -> Path:
    """An everyday clip: H.264 with B-frames, a keyframe every 10, index first."""
    return write(folder / "plain.mp4", b_frames=3, faststart=True)


def clip(codec: Codec, folder: Path) -> Path:
    path = folder / codec.file
    if not path.exists():
        write(path, codec.encoder, codec.options, codec.pix_fmt, codec.gop, codec.b_frames)
    return path


def decoded_plainly(path: Path) -> list[np.ndarray]:
    """The file's frames as PyAV gives them from first to last, without any of our code."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24", interpolation="BICUBIC") for frame in container.decode(video=0)]


def arrays(video: Video, indices: Sequence[int]) -> list[np.ndarray]:
    return [np.asarray(image) for image in video.iter_frames(indices)]


def same(ours: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return len(ours) == len(expected) and all(np.array_equal(a, b) for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.file)
def test_frames_are_exact_whether_decoded_through_or_sought(
    codec: Codec, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = clip(codec, folder)
    truth = decoded_plainly(path)
    assert len(truth) == N
    video = Video(path)
    assert (video.num_frames, video.fps, video.size) == (N, 25.0, (W, H)) and len(video) == N
    assert [number(image) for image in video.iter_frames(range(N))] == list(range(N))
    assert same(arrays(video, range(N)), truth)

    monkeypatch.setattr(packets, "SEEK_COST", 0)
    monkeypatch.setattr(packets, "READ_AHEAD", 0)
    monkeypatch.setattr(decode, "READ_AHEAD", 0)
    for indices in (range(0, N, 7), range(3, N, 13), [N - 1], [1, 2, 30, 31, 49]):
        assert same(arrays(video, indices), [truth[i] for i in indices])
    assert all(np.array_equal(arrays(video, [i])[0], truth[i]) for i in range(0, N, 3))
    caught = "seeking is not exact" in caplog.text or "counting the frames" in caplog.text
    assert caught == (not codec.seeks and codec.encoder != "gif")


def test_sparse_frames_are_sought_and_dense_ones_decoded_through(plain: Path) -> None:
    index = Video(plain)._frames.index  # type: ignore[attr-defined]
    assert index is not None
    dense = index.runs(list(range(0, N, 5)), seekable=True)
    sparse = index.runs([2, 47], seekable=True)
    assert len(dense) == 1
    assert len(sparse) == 2 and sparse[1].start >= 40 and sparse[1].stop - sparse[1].start < 10
    assert len(index.runs([2, 47], seekable=False)) == 1


def test_seeking_decodes_fewer_packets_than_decoding_through(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[int] = []
    feed = decode._Reader.feed
    monkeypatch.setattr(decode._Reader, "feed", lambda self, packet: fed.append(1) or feed(self, packet))
    video = Video(plain)
    fed.clear()
    list(video.iter_frames([2, 47]))
    assert len(fed) < 25
    fed.clear()
    list(video.iter_frames(range(N)))
    assert len(fed) >= N


@pytest.mark.parametrize("as_bytes", [False, True])
def test_bytes_and_paths_give_the_same_frames(plain: Path, as_bytes: bool) -> None:
    source: Any = plain.read_bytes() if as_bytes else str(plain)
    assert [number(image) for image in Video(source).iter_frames([0, 20, 41])] == [0, 20, 41]


def test_a_variable_frame_rate_keeps_presentation_order_and_the_average_rate(folder: Path) -> None:
    rng = random.Random(1)
    times = [0]
    for _ in range(N - 1):
        times.append(times[-1] + rng.choice([10, 40, 200]))
    video = Video(write(folder / "vfr.mkv", times_ms=times, b_frames=2))
    assert video.num_frames == N
    assert [number(image) for image in video.iter_frames(range(0, N, 9))] == list(range(0, N, 9))
    mp4 = Video(write(folder / "vfr.mp4", times_ms=times, b_frames=2))
    assert mp4.fps == pytest.approx((N - 1) * 1000 / times[-1], rel=0.05)
    assert mp4.frame_time(10) == 10 / mp4.fps  # the recipe's time, not the stamp


def test_a_recording_begun_mid_way_starts_at_its_first_decodable_frame(folder: Path) -> None:
    data = clip(CODECS[3], folder).read_bytes()
    cut = len(data) // 188 * 2 // 5 * 188
    video = Video(data[cut:])
    shown = [number(image) for image in video.iter_frames(range(len(video)))]
    assert 10 < len(shown) < N and shown == list(range(N - len(shown), N))


def test_two_sizes_in_one_stream_are_shown_in_the_first(folder: Path) -> None:
    first = write(folder / "small.ts", n=5).read_bytes()
    second = write(folder / "large.ts", n=5, size=(2 * W, 2 * H)).read_bytes()
    video = Video(first + second)
    images = list(video.iter_frames(range(len(video))))
    assert {image.size for image in images} == {(W, H)}
    assert [number(image) for image in images] == [0, 1, 2, 3, 4] * 2


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("hflip, vflip", [(False, False), (True, False), (False, True)])
def test_rotation_metadata_is_applied_as_a_player_would(degrees: int, hflip: bool, vflip: bool, folder: Path) -> None:
    path = write(folder / f"turn-{degrees}-{hflip}-{vflip}.mp4", n=2, rotation=(degrees, hflip, vflip))
    stored = Image.fromarray(decoded_plainly(path)[1])
    expected = stored.rotate(degrees, expand=True)  # counter-clockwise, as the metadata counts
    if hflip:
        expected = expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if vflip:
        expected = expected.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    video = Video(path)
    assert video.size == expected.size
    assert np.array_equal(np.asarray(next(video.iter_frames([1]))), np.asarray(expected))


@pytest.mark.parametrize(
    "name, encoder, pix_fmt, size",
    [
        ("odd.mkv", "ffv1", "yuv420p", (65, 49)),
        ("one.mkv", "ffv1", "yuv444p", (1, 1)),
        ("alpha.mkv", "ffv1", "bgra", (64, 48)),
        ("grey.mkv", "ffv1", "gray", (64, 48)),
        ("deep.mkv", "ffv1", "yuv444p16le", (64, 48)),
    ],
)
def test_odd_sizes_depths_and_layouts_become_rgb(
    name: str, encoder: str, pix_fmt: str, size: tuple[int, int], folder: Path
) -> None:
    video = Video(write(folder / name, encoder, pix_fmt=pix_fmt, n=3, size=size))
    images = list(video.iter_frames([0, 2]))
    assert all(image.mode == "RGB" and image.size == size == video.size for image in images)
    if size[0] >= W:
        assert [number(image) for image in images] == [0, 2]


def test_hdr_tags_do_not_stop_a_clip(folder: Path) -> None:
    path = write(
        folder / "hdr.mp4", "libx265", {"x265-params": "log-level=none"}, "yuv420p10le",
        n=4, color_primaries=9, color_trc=16, colorspace=9,
    )  # fmt: skip
    assert [number(image) for image in Video(path).iter_frames([0, 3])] == [0, 3]


@pytest.mark.parametrize("colorspace, color_range", [(1, 1), (5, 1), (1, 2)])
def test_colours_follow_the_tags_of_the_stream(colorspace: int, color_range: int, folder: Path) -> None:
    colour = np.array([200, 60, 30], dtype=np.uint8)
    path = folder / f"colour-{colorspace}-{color_range}.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = W, H, "yuv444p"
        stream.codec_context.colorspace, stream.codec_context.color_range = colorspace, color_range
        frame = av.VideoFrame.from_ndarray(np.broadcast_to(colour, (H, W, 3)).copy(), format="rgb24")
        frame = frame.reformat(format="yuv444p", dst_colorspace=colorspace, dst_color_range=color_range)
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    pixel = np.asarray(next(Video(path).iter_frames([0])))[H // 2, W // 2].astype(int)
    assert np.abs(pixel - colour).max() <= 3


def test_any_order_and_repeats_of_indices_are_honoured(plain: Path) -> None:
    wanted = [5, 5, 5, 40, 3, 4, 3, 49, 0]
    assert [number(image) for image in Video(plain).iter_frames(wanted)] == wanted
    assert list(Video(plain).iter_frames([])) == []


@pytest.mark.parametrize("index", [-1, N, 10_000])
def test_an_index_outside_the_clip_is_refused_at_once(index: int, plain: Path) -> None:
    with pytest.raises(MessageError, match=f"frame {index} was asked for; the video has frames 0 to {N - 1}"):
        Video(plain).iter_frames([0, index])


def test_progress_counts_every_frame_once(plain: Path) -> None:
    seen: list[tuple[int, int]] = []
    list(Video(plain).iter_frames([1, 1, 9, 30], lambda done, total: seen.append((done, total))))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_frames_stream_without_being_kept(plain: Path) -> None:
    alive: list[weakref.ref[Image.Image]] = []
    most = 0
    for image in sample_video(plain, choose_fps=25).frames():
        alive.append(weakref.ref(image))
        most = max(most, sum(ref() is not None for ref in alive))
    assert len(alive) == N and most <= 2


def test_abandoned_and_interleaved_readings_do_not_disturb_each_other(plain: Path) -> None:
    video = Video(plain)
    first, second = video.iter_frames(range(0, N, 2)), video.iter_frames(range(1, N, 2))
    mixed = [number(next(stream)) for _ in range(5) for stream in (first, second)]
    assert mixed == list(range(10))
    first.close()  # type: ignore[attr-defined]
    assert number(next(second)) == 11


def test_encode_video_gives_the_frames_and_ids_of_the_recipe(plain: Path) -> None:
    frames, groups = encode_video(plain, choose_fps=5)
    assert [number(image) for image in frames] == [2, 7, 12, 17, 22, 27, 32, 37, 42, 47]
    # Frame 2 at 25 a second is at 0.08 s, nearest to tick 1, and so on; 0.1 s a tick.
    assert groups == [[1], [3], [5], [7], [9], [11], [13], [15], [17], [19]]
    assert all(type(i) is int for ids in groups for i in ids)
    _, packed = encode_video(plain, 5, 3)
    assert [len(ids) for ids in packed] == [3, 3, 3, 1]


def test_encode_video_clamps_packing_as_the_guide_does(plain: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, groups = encode_video(plain, 5, force_packing=6)
    assert [len(ids) for ids in groups] == [3, 3, 3, 1] and "packing 6 is above" in caplog.text
    _, wider = encode_video(plain, 5, force_packing=6, max_num_packing=6)
    assert [len(ids) for ids in wider] == [6, 4]
    caplog.clear()
    _, clamped = encode_video(plain, 5, force_packing=8, max_num_packing=6)
    assert clamped == wider and "packing 8 is above" in caplog.text


@pytest.mark.parametrize("packing", [1, 2, 3, 4, 5, 6])
def test_asking_for_a_packing_gives_it(packing: int, plain: Path) -> None:
    sampled = sample_video(plain, choose_fps=5, force_packing=packing)
    assert isinstance(sampled, SampledVideo)
    assert sampled.packing == packing and len(sampled) == 10 and sampled.size == (W, H)
    assert [len(ids) for ids in sampled.temporal_ids][:-1] == [packing] * ((10 - 1) // packing)
    assert [number(image) for image in sampled.frames()] == sampled.indices


@pytest.mark.parametrize("packing", [7, -1])
def test_a_packing_the_model_cannot_do_is_refused(packing: int, plain: Path) -> None:
    with pytest.raises(MessageError, match="packs 1 to 6 frames a group"):
        sample_video(plain, force_packing=packing)


def test_a_gif_is_a_video(folder: Path) -> None:
    sampled = sample_video(clip(CODECS[-1], folder), choose_fps=3)
    assert [number(image) for image in sampled.frames()] == sampled.indices and len(sampled) == 6


def test_a_single_frame_is_a_video(folder: Path) -> None:
    for path in (write(folder / "single.gif", "gif", pix_fmt="rgb8", n=1), write(folder / "single.mp4", n=1)):
        sampled = sample_video(path)
        assert sampled.temporal_ids == [[0]] and [image.size for image in sampled.frames()] == [(W, H)]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for i in range(12):
        Image.fromarray(picture(i)).save(tmp_path / f"frame{i}.png")  # frame10 sorts before frame2 as text
    (tmp_path / "notes.md").write_text("not a picture")
    return tmp_path


def test_a_folder_is_read_in_natural_order(pictures: Path) -> None:
    video = Video(pictures, fps=4)
    assert (video.num_frames, video.fps, video.duration, video.size) == (12, 4.0, 3.0, (W, H))
    assert [number(image) for image in video.iter_frames(range(12))] == list(range(12))
    assert sample_video(video, choose_fps=2).indices == [1, 3, 5, 7, 9, 11]


@pytest.mark.parametrize("name", ["timestamps.txt", "timestamps.json"])
def test_a_folder_can_bring_its_timestamps(name: str, pictures: Path) -> None:
    times = [7.0 + 0.5 * i for i in range(11)] + [20.0]
    text = json.dumps(times) if name.endswith("json") else "\n".join(map(str, times))
    (pictures / name).write_text(text)
    video = Video(pictures)
    assert video.fps == pytest.approx(11 / 13)
    sampled = sample_video(pictures, choose_fps=1)
    ids = [i for group in sampled.temporal_ids for i in group]
    assert ids == [int(round((times[i] - 7.0) * 10)) for i in sampled.indices]  # own times, from the first


def test_even_timestamps_mean_the_same_as_their_rate(pictures: Path) -> None:
    by_rate = sample_video(Video(pictures, fps=2.0), choose_fps=2)
    by_time = sample_video(Video(pictures, timestamps=[i / 2 for i in range(12)]), choose_fps=2)
    assert by_rate.plan == by_time.plan


def test_a_list_of_anything_that_opens_as_a_picture_is_a_video(pictures: Path) -> None:
    listed: list[Any] = [Image.fromarray(picture(0)), picture(1), pictures / "frame2.png", str(pictures / "frame3.png")]
    listed.append((pictures / "frame4.png").read_bytes())
    assert [number(image) for image in Video(listed, fps=1).iter_frames(range(5))] == [0, 1, 2, 3, 4]


def test_frames_without_times_say_what_is_missing(pictures: Path) -> None:
    with pytest.raises(MessageError, match=r"Video\(frames, fps=...\).*timestamps"):
        sample_video(pictures)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"fps": 2, "timestamps": [0, 1]}, "both fps and timestamps"),
        ({"timestamps": [0.0, 1.0]}, "2 timestamps were given for 12 frames"),
        ({"timestamps": [float(12 - i) for i in range(12)]}, "ascending"),
        ({"timestamps": [0.0] * 12}, "must ascend"),
        ({"timestamps": [float("nan")] * 12}, "finite"),
        ({"fps": 0}, "fps is 0"),
        ({"timestamps": "absent.txt"}, "absent.txt"),
    ],
)
def test_times_that_make_no_sense_are_refused(options: dict[str, Any], words: str, pictures: Path) -> None:
    with pytest.raises(CpmvError, match=words) as caught:
        Video(pictures, **options)
    assert "\n" not in str(caught.value)


def test_rates_are_not_accepted_and_forgotten_for_files(plain: Path) -> None:
    with pytest.raises(MessageError, match="a video file has its own"):
        Video(plain, fps=10)


def test_empty_lists_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="empty"):
        Video([], fps=1)
    with pytest.raises(MediaError, match="no pictures"):
        Video(tmp_path, fps=1)
    with pytest.raises(MessageError, match="int"):
        Video(5)


def audio_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def refused(source: Any, words: str, **limits: Any) -> None:
    with pytest.raises(MediaError, match=words) as caught:
        Video(source, **limits)
    assert "\n" not in str(caught.value)


def test_a_file_without_a_video_stream_is_refused(folder: Path) -> None:
    refused(audio_only(folder / "sound.mp4"), "no video stream, only audio")


def test_a_video_without_frames_is_refused(folder: Path, plain: Path) -> None:
    data = bytearray(plain.read_bytes())
    start = data.index(b"mdat") + 4
    (size,) = struct.unpack(">I", data[start - 8 : start - 4])
    data[start : start + size - 8] = bytes(size - 8)  # every sample is zeros
    refused(bytes(data), "no frame that can be decoded")


def test_missing_empty_and_foreign_files_are_refused(folder: Path) -> None:
    refused(folder / "absent.mp4", "no such file")
    (folder / "empty.mp4").write_bytes(b"")
    refused(folder / "empty.mp4", "empty")
    refused(b"", "empty")
    refused(b"hello, this is no video" * 100, "cannot be opened as a video")


@pytest.mark.parametrize("text", ["#EXTM3U\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile '{}'\n"])
def test_playlists_that_name_other_files_are_not_followed(text: str, folder: Path, plain: Path) -> None:
    path = folder / "list.m3u8"
    path.write_text(text.format(plain))
    refused(path, "cannot be opened as a video")


def test_limits_are_stated_with_the_numbers(plain: Path) -> None:
    refused(plain, rf"{W}x{H} = {W * H} pixels; at most 1000", max_pixels=1000)
    refused(clip(CODECS[3], plain.parent), f"{W}x{H} = {W * H} pixels", max_pixels=1000)
    refused(plain, "over 20 frames", max_frames=20)
    refused(plain, "lasts 2 s .50 frames at 25 a second.; at most 1 s", max_duration_s=1)
    refused([picture(0)] * 3, "3 pictures were given as a video; at most 2", fps=1, max_frames=2)
    refused([picture(0)] * 3, "lasts 300 s", fps=0.01, max_duration_s=200)


def test_a_truncated_file_gives_what_is_left_with_a_warning(plain: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = plain.read_bytes()
    video = Video(data[: len(data) * 6 // 10])
    assert 10 < len(video) < N and "cut short" in caplog.text
    # The last packet itself is cut, and may show what its decoder makes of it.
    shown = [number(image) for image in video.iter_frames(range(len(video)))]
    assert shown[:-4] == list(range(len(shown) - 4))


def test_a_file_truncated_before_its_index_is_refused(folder: Path) -> None:
    data = write(folder / "late-index.mp4").read_bytes()
    refused(data[: len(data) * 6 // 10], "cannot be opened as a video")


def test_a_damaged_frame_is_stood_in_for_with_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = bytearray(clip(next(c for c in CODECS if c.encoder == "mjpeg"), folder).read_bytes())
    starts = [i for i in range(data.index(b"movi"), len(data) - 4) if data[i : i + 4] == b"00dc"]
    (size,) = struct.unpack("<I", data[starts[20] + 4 : starts[20] + 8])
    data[starts[20] + 8 : starts[20] + 8 + size] = bytes(size)
    video = Video(bytes(data))
    shown = [number(image) for image in video.iter_frames(range(len(video)))]
    assert len(shown) == N and shown[19:22] == [19, 19, 21]
    assert "frame 20 of 50 cannot be decoded" in caplog.text


def test_a_damaged_keyframe_after_a_seek_does_not_crash_the_decoder(folder: Path) -> None:
    path = clip(next(codec for codec in CODECS if codec.file == "vp9.webm"), folder)
    with av.open(str(path)) as container:
        key = [bytes(p) for p in container.demux(video=0) if p.size and p.is_keyframe][1]
    data = path.read_bytes()
    broken = bytearray(key)
    broken[2] ^= 0xFF  # inside the sync code
    (folder / "broken-key.webm").write_bytes(data.replace(key, bytes(broken)))
    # In a process of its own: without its precaution the decoder takes the whole process down.
    code = (
        "import sys; from cpmv.inputs.video import Video; v = Video(sys.argv[1], num_threads=4);"
        "print([len(list(v.iter_frames(list(range(0, len(v), step))))) for step in (30, 17, 1)])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(folder / "broken-key.webm")], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "[2, 3, 50]"


@pytest.mark.parametrize("name", ["h264.mp4", "h264.ts", "vp9.webm", "mpeg4-b.avi", "gif.gif", "h264-open.mkv"])
def test_flipped_bits_end_in_frames_or_in_our_own_error(name: str, folder: Path) -> None:
    logging.getLogger("cpmv").setLevel(logging.ERROR)
    whole = clip(next(codec for codec in CODECS if codec.file == name), folder).read_bytes()
    rng = random.Random(name)
    opened = 0
    for trial in range(24):
        data = bytearray(whole)
        # Every third trial aims at the headers, where sizes and counts are.
        reach = len(data) if trial % 3 else min(len(data), 2000)
        for _ in range(rng.choice([1, 8, 64])):
            data[rng.randrange(reach)] ^= 1 << rng.randrange(8)
        try:
            video = Video(bytes(data), max_pixels=1_000_000, max_frames=10_000)
            frames = list(video.iter_frames(range(0, min(len(video), 200), 9)))
            assert all(frame.mode == "RGB" for frame in frames)
            opened += 1
        except CpmvError as error:
            assert "\n" not in str(error)
    assert opened  # or nothing was tested


@pytest.mark.parametrize("name", ["h264.mp4", "vp9.webm", "gif.gif", "mpeg4-b.avi"])
def test_any_truncation_ends_in_frames_or_in_our_own_error(name: str, folder: Path) -> None:
    logging.getLogger("cpmv").setLevel(logging.ERROR)
    whole = clip(next(codec for codec in CODECS if codec.file == name), folder).read_bytes()
    for i in range(0, 20):
        data = whole[: len(whole) * i // 20]
        try:
            list(Video(data).iter_frames([0]))
        except MediaError as error:
            assert "\n" not in str(error)


def test_a_cover_picture_is_not_a_video(folder: Path) -> None:
    path = folder / "cover.mkv"
    png = io.BytesIO()
    Image.fromarray(picture(1)).save(png, "PNG")
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16000)
        sound.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        if not hasattr(container, "add_attachment"):
            pytest.skip("this PyAV cannot write attachments")
        container.add_attachment("cover.png", "image/png", png.getvalue())
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    refused(path, "no video stream")
