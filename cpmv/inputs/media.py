"""What a file is, told by its first bytes and never by its name: an image, a video, or a PDF.

The first stop of every path, byte string and data URI on its way in. `media_kind` routes a file to `image`, `video` or
`pdf`; the other functions give those modules one way to reach a source's bytes and to name it in an error.
Nothing is ever downloaded: a URL is refused.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple, TypeAlias

from ..errors import MediaError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

MediaKind: TypeAlias = Literal["image", "video", "pdf"]
FileSource: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview"
ImageSource: TypeAlias = "FileSource | Image.Image | np.ndarray[Any, Any]"

HEAD_BYTES = 1024  # a PDF may begin with up to this much foreign data; every other format shows itself within 600
SUPPORTED = (
    "images (JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000), "
    "videos (MP4, MOV, MKV, WebM, AVI, GIF, FLV, WMV, MPEG), PDF, and folders of images"
)
_MAX_NAME = 120  # characters of a name that an error line quotes


class Format(NamedTuple):
    """A file format: the kind of media it holds and its name, as Pillow spells it where it is an image."""

    kind: MediaKind
    name: str


_PREFIXES: tuple[tuple[bytes, Format], ...] = (
    (b"\xff\xd8\xff", Format("image", "JPEG")),
    (b"\x89PNG\r\n\x1a\n", Format("image", "PNG")),
    (b"GIF87a", Format("image", "GIF")),
    (b"GIF89a", Format("image", "GIF")),
    (b"II*\0", Format("image", "TIFF")),
    (b"MM\0*", Format("image", "TIFF")),
    (b"II+\0", Format("image", "TIFF")),  # BigTIFF
    (b"MM\0+", Format("image", "TIFF")),
    (b"\0\0\0\x0cjP  \r\n\x87\n", Format("image", "JPEG2000")),
    (b"\xff\x4f\xff\x51", Format("image", "JPEG2000")),
    (b"\x1a\x45\xdf\xa3", Format("video", "Matroska")),  # MKV and WebM
    (b"FLV\x01", Format("video", "FLV")),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", Format("video", "WMV")),
    (b"\0\0\x01\xba", Format("video", "MPEG")),  # program stream
    (b"\0\0\x01\xb3", Format("video", "MPEG")),  # bare video stream
)
_RIFF_FORMS = {b"WEBP": Format("image", "WEBP"), b"AVI ": Format("video", "AVI")}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_NOT_VIDEO_BRANDS = {b"M4A ", b"M4B ", b"M4P ", b"crx "}  # audio; camera raw
_QUICKTIME_ATOMS = {b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}  # a MOV older than `ftyp` begins with one
_BMP_HEADER_SIZES = {12, 16, 40, 52, 56, 64, 108, 124}


def sniff(head: bytes) -> Format | None:
    """Name the format of a file from its first `HEAD_BYTES` bytes, or None when it is no supported one."""
    for prefix, found in _PREFIXES:
        if head.startswith(prefix):
            return found
    if head[:4] == b"RIFF":
        return _RIFF_FORMS.get(head[8:12])
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return Format("image", "BMP")
    if head[4:8] == b"ftyp":
        return _sniff_brands(head)
    if head[4:8] in _QUICKTIME_ATOMS:
        return Format("video", "MOV")
    if _is_transport_stream(head):
        return Format("video", "MPEG-TS")
    if b"%PDF-" in head[:HEAD_BYTES]:
        return Format("pdf", "PDF")
    return None


def media_kind(source: ImageSource) -> MediaKind:
    """Tell by content whether a source is an "image", a "video" or a "pdf".

    source: a path, the bytes of a file, a data URI, a PIL image or a numpy array (both "image").
    An animated GIF is a "video"; animated WebP, PNG and AVIF are an "image" (`open_image` reads the first frame, also
    of a GIF). A folder that holds at least one image is a "video": its frames.
    Raises MediaError for what is missing, unreadable or of another type.
    """
    if not isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview)):
        return _kind_of_object(source)
    if (folder := _as_folder(source)) is not None:
        if not _holds_image(folder):
            raise MediaError(f"the folder {describe(source)} holds no images; give a folder of frames, or a file")
        return "video"
    with open_source(source) as file:
        found = sniff_file(file, source)
        return "video" if found.name == "GIF" and _is_animated_gif(file) else found.kind


def sniff_file(file: BinaryIO, source: object) -> Format:
    """Name the format of an open file and rewind it. Raises MediaError, naming `source`, for an unsupported one."""
    try:
        head = file.read(HEAD_BYTES)
        file.seek(0)
    except OSError as error:
        raise MediaError(f"{describe(source)} cannot be read ({one_line(error)}); check the file") from error
    if not head:
        raise MediaError(f"{describe(source)} is empty; give a file with content")
    found = sniff(head)
    if found is None:
        raise MediaError(f"{describe(source)} is of an unsupported type; supported are {SUPPORTED}")
    return found


@contextmanager
def open_source(source: FileSource) -> Iterator[BinaryIO]:
    """Open a path, bytes or data URI for reading. Raises MediaError if it is missing, a folder, or unreadable."""
    located = locate(source)
    if isinstance(located, bytes):
        yield io.BytesIO(located)
        return
    try:
        file = located.open("rb")
    except OSError as error:
        raise MediaError(f"{describe(source)} cannot be read ({one_line(error)}); check its permissions") from error
    with file:
        yield file


def locate(source: FileSource) -> Path | bytes:
    """Turn a source into the path of an existing file (`~` is expanded) or into the bytes it carries."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, str) and source[:5].lower() == "data:":
        return _decode_data_uri(source)
    path = _existing_path(source)
    if path.is_dir():
        raise MediaError(f"{describe(source)} is a folder where a file is needed; name a file in it")
    if not path.is_file():  # a pipe or a device could block for ever
        raise MediaError(f"{describe(source)} is neither a file nor a folder; copy its content to a file")
    return path


@contextmanager
def as_media_error(what: str) -> Iterator[None]:
    """Turn whatever a decoding library raises inside the block into a MediaError about `what`."""
    try:
        yield
    except MediaError:
        raise
    except Exception as error:  # Pillow alone raises OSError, SyntaxError, struct.error, IndexError and more
        raise MediaError(
            f"{what} cannot be decoded ({one_line(error)}); it is corrupt, truncated, or an unsupported variant"
        ) from error


def describe(source: object) -> str:
    """Name a source in an error line: short, printable, on one line."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"the media given as {len(source)} bytes"
    if isinstance(source, str) and source[:5].lower() == "data:":
        return f"the data URI {_shorten(source[:40] + '...')}"
    if isinstance(source, (str, os.PathLike)):
        return _shorten(os.fspath(source))
    if (size := getattr(source, "size", None)) is not None and isinstance(size, tuple):
        return f"the given {size[0]} x {size[1]} image"
    if (shape := getattr(source, "shape", None)) is not None:
        return f"the array of shape {tuple(shape)}"
    return f"the given {type(source).__name__}"


def one_line(error: BaseException) -> str:
    """Say on one line of at most 200 characters what a library's exception says on any number."""
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__


def _shorten(text: str) -> str:
    return repr(text if len(text) <= _MAX_NAME else f"{text[: _MAX_NAME - 3]}...")


def _existing_path(source: str | os.PathLike[str]) -> Path:
    text = os.fspath(source)
    if isinstance(text, bytes):
        text = os.fsdecode(text)
    if "://" in text[:10]:
        raise MediaError(f"{_shorten(text)} is a URL and nothing is downloaded here; give a local file or its bytes")
    try:
        path = Path(text).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MediaError(f"no such file: {_shorten(text)}; check the path") from error
    except (OSError, ValueError, RuntimeError) as error:  # too long, null bytes, no permission, no such home folder
        raise MediaError(f"{_shorten(text)} cannot be read ({one_line(error)}); check the path") from error
    return path


def _as_folder(source: FileSource) -> Path | None:
    if isinstance(source, (bytes, bytearray, memoryview)) or (
        isinstance(source, str) and source[:5].lower() == "data:"
    ):
        return None
    path = _existing_path(source)
    return path if path.is_dir() else None


def _holds_image(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_file():
                    with open(entry.path, "rb") as file:
                        found = sniff(file.read(HEAD_BYTES))
                    if found is not None and found.kind == "image":
                        return True
    except OSError as error:
        raise MediaError(f"the folder {describe(folder)} cannot be read ({one_line(error)})") from error
    return False


def _kind_of_object(source: object) -> MediaKind:
    import numpy as np
    from PIL import Image

    if isinstance(source, (Image.Image, np.ndarray)):
        return "image"
    raise MediaError(
        f"a {type(source).__name__} is not media; give a path, bytes, a data URI, a PIL image or a numpy array"
    )


def _decode_data_uri(uri: str) -> bytes:
    header, comma, body = uri.partition(",")
    if not comma or not header.lower().endswith(";base64"):
        raise MediaError(f"{describe(uri)} is not base64; write it as data:<type>;base64,<data>")
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"{describe(uri)} holds broken base64 ({one_line(error)}); encode it again") from error


def _sniff_brands(head: bytes) -> Format | None:
    """Tell AVIF, HEIC and video apart: all three are ISO media files, and the `ftyp` box lists their brands."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    major = head[8:12]
    compatible = {head[i : i + 4] for i in range(16, end - 3, 4)}
    if {b"avif", b"avis"} & (compatible | {major}):
        return Format("image", "AVIF")
    if major in _HEIF_BRANDS:
        return Format("image", "HEIF")
    return None if major in _NOT_VIDEO_BRANDS else Format("video", "MP4")


def _is_transport_stream(head: bytes) -> bool:
    """Packets of 188 bytes begin with 0x47; on discs (M2TS) four bytes of time stamp come before each."""
    plain = head[0:565:188]
    stamped = head[4:581:192]
    return plain == b"GGGG" or stamped == b"GGGG"


def _is_animated_gif(file: BinaryIO) -> bool:
    from PIL import GifImagePlugin

    try:
        return bool(GifImagePlugin.GifImageFile(file).is_animated)
    except Exception:  # Pillow raises many types on a broken file; `open_image` will say what is wrong with it
        return False
