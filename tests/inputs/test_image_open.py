"""Opening pictures: every mode and container, orientation, transparency, limits, and what is refused."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cpmv.errors import MediaError
from cpmv.inputs.image import image_size, open_image

Array = np.ndarray[Any, Any]


def picture(width: int = 20, height: int = 12) -> Image.Image:
    rng = np.random.default_rng(7)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(image: Image.Image) -> Array:
    assert image.mode == "RGB"
    return np.asarray(image)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds a few bytes of pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    "format,options",
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
        ("JPEG2000", {"irreversible": False}),
    ],
)
def test_lossless_formats_give_back_their_pixels(format: str, options: dict[str, Any]) -> None:
    data = encode(picture(), format, **options)
    assert np.array_equal(pixels(open_image(data)), np.asarray(picture()))
    assert image_size(data) == (20, 12)


@pytest.mark.parametrize("format", ["JPEG", "AVIF"])
def test_lossy_formats_give_what_pillow_gives(format: str) -> None:
    data = encode(picture(), format)
    assert np.array_equal(pixels(open_image(data)), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_path_text_bytes_and_data_uri_are_the_same_picture(tmp_path: Path) -> None:
    data = encode(picture(), "PNG")
    file = tmp_path / "bild 图片.dat"  # the name says nothing about the content
    file.write_bytes(data)
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    for source in (file, str(file), data, bytearray(data), memoryview(data), uri, picture(), np.asarray(picture())):
        assert np.array_equal(pixels(open_image(source)), np.asarray(picture()))
        assert image_size(source) == (20, 12)


def test_a_tilde_in_a_path_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.png").write_bytes(encode(picture(), "PNG"))
    assert open_image("~/a.png").size == (20, 12)


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "YCbCr", "HSV", "P", "I", "F", "I;16", "RGBX", "LA", "RGBA"])
def test_a_pil_image_of_any_mode_becomes_what_pillow_makes_of_it(mode: str) -> None:
    image = picture().convert("L").convert(mode) if mode == "I;16" else picture().convert(mode)
    assert np.array_equal(pixels(open_image(image)), np.asarray(image.convert("RGB")))


def test_an_rgb_image_is_returned_without_a_copy() -> None:
    image = picture()
    assert open_image(image) is image


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_files_are_turned_upright_by_their_exif_orientation(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = picture()
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # orientation -> index of the inverse Image.Transpose
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    lossless: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    options = lossless.get(format, {})
    data = encode(stored, format, exif=exif, **options)
    opened = open_image(data)
    assert opened.size == upright.size == image_size(data)
    assert np.abs(pixels(opened).astype(int) - np.asarray(upright)).max() <= (12 if format == "JPEG" else 0)
    assert opened.getexif().get(0x0112, 1) == 1 and not opened.info  # nobody can turn it a second time


def test_a_pil_image_with_orientation_is_taken_as_its_pixels_stand() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(io.BytesIO(encode(picture(), "PNG", exif=exif)))
    assert open_image(image).size == (20, 12)


def test_broken_exif_is_reported_and_the_picture_still_opens(caplog: pytest.LogCaptureFixture) -> None:
    data = encode(picture(), "PNG", exif=b"Exif\0\0not a TIFF header at all")
    assert open_image(data).size == (20, 12)
    assert "unreadable EXIF" in caplog.text


def test_transparent_pixels_lie_over_white() -> None:
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0] = [(255, 0, 0, 0), (255, 0, 0, 128), (255, 0, 0, 255)]
    for source in (Image.fromarray(rgba), rgba, encode(Image.fromarray(rgba), "PNG")):
        assert pixels(open_image(source))[0].tolist() == [[255, 255, 255], [255, 127, 127], [255, 0, 0]]


def test_grey_and_premultiplied_alpha_lie_over_white() -> None:
    la = Image.fromarray(np.array([[[0, 0], [0, 255]]], dtype=np.uint8), mode="LA")
    for mode in ("LA", "La"):
        assert pixels(open_image(la.convert(mode)))[0].tolist() == [[255] * 3, [0] * 3]
    assert pixels(open_image(la.convert("RGBA").convert("RGBa")))[0].tolist() == [[255] * 3, [0] * 3]
    palette = Image.new("PA", (1, 1))
    palette.putpalette([10, 20, 30])
    assert pixels(open_image(palette))[0].tolist() == [[255, 255, 255]]


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_white(format: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 100, 0])
    image.putdata([0, 1])
    data = encode(image, format, transparency=0)
    assert pixels(open_image(data))[0].tolist() == [[255, 255, 255], [0, 100, 0]]


@pytest.mark.parametrize("mode,key", [("L", 7), ("RGB", (7, 7, 7)), ("I;16", 700)])
def test_a_png_colour_key_is_transparent(mode: str, key: Any) -> None:
    arrays: dict[str, Array] = {
        "L": np.array([[7, 9]], dtype=np.uint8),
        "RGB": np.array([[[7] * 3, [9] * 3]], dtype=np.uint8),
        "I;16": np.array([[700, 9 * 257]], dtype=np.uint16),
    }
    data = encode(Image.fromarray(arrays[mode]), "PNG", transparency=key)
    assert pixels(open_image(data))[0].tolist() == [[255] * 3, [9] * 3]


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_to_its_full_range(format: str) -> None:
    ramp = np.array([[0, 128, 129, 32768, 65278, 65535]], dtype=np.uint16)
    expected = [0, 0, 1, 128, 254, 255]  # round(v / 257)
    for source in (encode(Image.fromarray(ramp), format), ramp, Image.fromarray(ramp)):
        assert pixels(open_image(source))[0, :, 0].tolist() == expected


def test_wider_integers_and_floats_are_scaled() -> None:
    ints = Image.fromarray(np.array([[-5, 0, 257 * 100, 65535]], dtype=np.int32))
    assert pixels(open_image(ints))[0, :, 0].tolist() == [0, 0, 100, 255]
    huge = Image.fromarray(np.array([[0, 2**30, 2**31 - 1]], dtype=np.int32))
    assert pixels(open_image(huge))[0, :, 0].tolist() == [0, 128, 255]
    unit = Image.fromarray(np.array([[0, 0.5, 1, np.nan, -np.inf]], dtype=np.float32))
    assert pixels(open_image(unit))[0, :, 0].tolist() == [0, 128, 255, 0, 0]
    wide = Image.fromarray(np.array([[0, 32767.5, 65535]], dtype=np.float32))
    assert pixels(open_image(encode(wide, "TIFF")))[0, :, 0].tolist() == [0, 128, 255]


def test_a_cmyk_jpeg_has_pillows_colours() -> None:
    data = encode(picture().convert("CMYK"), "JPEG", quality=95)
    assert np.array_equal(pixels(open_image(data)), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize(
    "array,expected",
    [
        (np.array([[0, 200]], dtype=np.uint8), [0, 200]),
        (np.array([[[0], [200]]], dtype=np.uint8), [0, 200]),
        (np.array([[False, True]]), [0, 255]),
        (np.array([[0.0, 0.5]], dtype=np.float32), [0, 128]),
        (np.array([[[1.0, 1.0, 1.0], [0.2, 0.2, 0.2]]]), [255, 51]),
        (np.arange(8, dtype=np.uint8).reshape(2, 4)[::2, ::3], [0, 3]),
    ],
)
def test_numpy_arrays_of_each_allowed_type(array: Array, expected: list[int]) -> None:
    assert pixels(open_image(array))[0, :, 0].tolist() == expected
    assert image_size(array) == (2, 1)


@pytest.mark.parametrize(
    "array,message",
    [
        (np.zeros((3, 8, 8), dtype=np.uint8), r"shape \(3, 8, 8\)"),
        (np.zeros(5, dtype=np.uint8), "shape"),
        (np.zeros((4, 4), dtype=np.int64), "int64"),
        (np.array([[0.0, 1.5]]), "floats from 0 to 1.5"),
        (np.array([[0.0, np.nan]]), "floats must lie in 0..1"),
        (np.zeros((0, 4, 3), dtype=np.uint8), "at least 1 x 1"),
        (np.zeros((0, 4), dtype=np.float32), "at least 1 x 1"),
    ],
)
def test_other_arrays_are_refused_with_the_reason(array: Array, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        open_image(array)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_gives_its_first_frame(format: str) -> None:
    first, second = Image.new("RGB", (8, 6), (250, 0, 0)), Image.new("RGB", (8, 6), (0, 0, 250))
    options = {"WEBP": {"lossless": True}}.get(format, {})
    data = encode(first, format, save_all=True, append_images=[second], **options)
    assert np.array_equal(pixels(open_image(data)), np.asarray(first))


def test_a_decompression_bomb_is_refused_with_its_pixel_count_before_decoding() -> None:
    bomb = png_header(60_000, 60_000)
    for read in (open_image, image_size):
        with pytest.raises(MediaError, match=r"60000 x 60000 = 3600000000 pixels; at most 180000000") as caught:
            read(bomb)
        assert "\n" not in str(caught.value)


def test_the_pixel_limit_is_the_callers() -> None:
    data = encode(picture(), "PNG")
    assert open_image(data, max_pixels=240).size == (20, 12)
    for source in (data, picture(), np.asarray(picture())):
        with pytest.raises(MediaError, match="240 pixels; at most 239"):
            open_image(source, max_pixels=239)


def test_pillows_own_limit_neither_binds_nor_changes(monkeypatch: pytest.MonkeyPatch, recwarn: Any) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert open_image(encode(picture(), "PNG")).size == (20, 12)
    assert Image.MAX_IMAGE_PIXELS == 10 and not recwarn.list


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000"])
def test_a_truncated_file_is_a_clear_error(format: str) -> None:
    data = encode(picture(200, 200), format)
    with pytest.raises(MediaError, match="given as .* bytes") as caught:
        open_image(data[: len(data) // 3])
    assert "\n" not in str(caught.value)


def test_a_lazily_opened_corrupt_pil_image_is_a_clear_error() -> None:
    data = encode(picture(200, 200), "PNG")
    with pytest.raises(MediaError, match="corrupt, truncated"):
        open_image(Image.open(io.BytesIO(data[:2000])))


@pytest.mark.parametrize(
    "source,message",
    [
        (b"", "is empty"),
        (b"hello world", "unsupported type; supported are images"),
        (b"%PDF-1.7\n", r"is a pdf \(PDF\), not an image"),
        (b"\x1a\x45\xdf\xa3" + bytes(60), "is a video"),
        ("no/such/picture.png", "no such file: 'no/such/picture.png'"),
        ("https://example.com/a.png", "is a URL"),
        ("data:image/png,abc", "is not base64"),
        ("data:image/png;base64,@@@@", "broken base64"),
        ("a\0b.png", "cannot be read"),
        ("x" * 5000, "cannot be read"),
        (None, "NoneType"),
        (7, "int"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "pillow-heif"),
    ],
)
def test_what_cannot_be_an_image_is_refused_on_one_line(source: Any, message: str) -> None:
    with pytest.raises(MediaError, match=message) as caught:
        open_image(source)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_folder_is_not_an_image(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="is a folder"):
        open_image(tmp_path)
