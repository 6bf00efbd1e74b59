"""Telling images, videos and PDFs apart by content."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cpmv.errors import MediaError
from cpmv.inputs.media import media_kind, sniff

av = pytest.importorskip("av")


def image_bytes(format: str, frames: int = 1) -> bytes:
    first, *rest = [Image.new("RGB", (16, 16), (40 * i, 0, 200)) for i in range(frames)]
    buffer = io.BytesIO()
    first.save(buffer, format, **({"save_all": True, "append_images": rest} if rest else {}))
    return buffer.getvalue()


def video_bytes(container: str, codec: str) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for i in range(6):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 30 * i, dtype=np.uint8), format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000"])
def test_pictures_are_images_whatever_their_name(format: str, tmp_path: Path) -> None:
    data = image_bytes(format)
    (tmp_path / "clip.mp4").write_bytes(data)
    uri = "data:video/mp4;base64," + base64.b64encode(data).decode()
    for source in (data, tmp_path / "clip.mp4", str(tmp_path / "clip.mp4"), uri):
        assert media_kind(source) == "image"
    found = sniff(data)
    assert found is not None and found.name == format


@pytest.mark.parametrize(
    "container,codec",
    [
        ("mp4", "mpeg4"),
        ("mov", "mpeg4"),
        ("matroska", "mpeg4"),
        ("avi", "mpeg4"),
        ("flv", "flv"),
        ("mpegts", "mpeg2video"),
        ("mpeg", "mpeg1video"),
        ("asf", "mpeg4"),
    ],
)
def test_clips_are_videos_whatever_their_name(container: str, codec: str, tmp_path: Path) -> None:
    data = video_bytes(container, codec)
    (tmp_path / "photo.jpg").write_bytes(data)
    assert media_kind(data) == media_kind(tmp_path / "photo.jpg") == "video"


def test_an_mov_older_than_ftyp_is_a_video() -> None:
    assert media_kind(b"\0\0\0\x08wide\0\0\x10\0mdat" + bytes(50)) == "video"


def test_a_pdf_is_a_pdf_even_behind_leading_bytes() -> None:
    data = image_bytes("PDF")
    assert media_kind(data) == media_kind(b"\r\n" * 100 + data) == "pdf"


@pytest.mark.parametrize("frames,kind", [(1, "image"), (3, "video")])
def test_a_gif_is_a_video_when_it_moves(frames: int, kind: str) -> None:
    assert media_kind(image_bytes("GIF", frames)) == kind


@pytest.mark.parametrize("format", ["WEBP", "PNG", "AVIF"])
def test_other_animations_are_images(format: str) -> None:
    assert media_kind(image_bytes(format, 3)) == "image"


def test_a_corrupt_gif_is_left_to_the_image_reader() -> None:
    assert media_kind(image_bytes("GIF", 3)[:20]) == "image"


def test_pil_images_and_arrays_are_images() -> None:
    assert media_kind(Image.new("L", (3, 3))) == media_kind(np.zeros((2, 2), dtype=np.uint8)) == "image"


def test_a_folder_of_pictures_is_a_video(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("frames below")
    (tmp_path / "sub").mkdir()
    with pytest.raises(MediaError, match="holds no images"):
        media_kind(tmp_path)
    (tmp_path / "0001").write_bytes(image_bytes("PNG"))
    assert media_kind(tmp_path) == media_kind(str(tmp_path)) == "video"


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MediaError, match="neither a file nor a folder"):
        media_kind(tmp_path / "pipe")


@pytest.mark.parametrize(
    "data",
    [
        b"just text",
        b"BMW is a car maker, and this text is no bitmap",
        b"RIFF\x24\0\0\0WAVEfmt " + bytes(40),
        b"\0\0\0\x18ftypM4A \0\0\0\0M4A mp42isom",
        b"ID3\x04" + bytes(60),
        b"PK\x03\x04" + bytes(60),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        bytes(1000),
        b"G" + bytes(600),
    ],
)
def test_other_types_are_refused_with_the_list_of_supported_ones(data: bytes) -> None:
    expected = r"unsupported type; supported are images \(JPEG, .*videos \(MP4.*PDF"
    with pytest.raises(MediaError, match=expected) as caught:
        media_kind(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source,message",
    [
        ("missing.jpg", "no such file: 'missing.jpg'"),
        (Path("missing") / "clip.mp4", "no such file: .*clip.mp4"),
        ("line\nbreak.png", r"no such file: 'line\\nbreak.png'"),
        ("rtsp://camera/1", "is a URL"),
        (b"", "is empty"),
        (3.5, "a float is not media"),
        (None, "a NoneType is not media"),
    ],
)
def test_missing_and_impossible_sources_are_named(source: Any, message: str) -> None:
    with pytest.raises(MediaError, match=message) as caught:
        media_kind(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", range(0, 24))
def test_short_heads_never_break_the_sniffer(size: int) -> None:
    for data in (image_bytes("PNG"), image_bytes("BMP"), b"\xff\xff\xff\xffftypavif", b"RIFF", b"G" * 24):
        found = sniff(data[:size])
        assert found is None or found.kind in ("image", "video", "pdf")
