"""Media made on the spot: clips, pictures, PDFs, and files whose headers lie."""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction

import av
import numpy as np
import PIL.Image


def clip(
    num_frames: int = 30, rate: int = 10, size: tuple[int, int] = (64, 48), time_base: Fraction | None = None
) -> bytes:
    """A small MP4 whose square moves; time_base stretches it."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        if time_base is not None:
            stream.time_base = stream.codec_context.time_base = time_base
        for i in range(num_frames):
            pixels = np.full((size[1], size[0], 3), 40, dtype=np.uint8)
            at = (i * 3) % (size[0] - 16)
            pixels[8:24, at : at + 16] = (250, 200, 20)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if time_base is not None:
                frame.pts, frame.time_base = i, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


def picture(width: int = 64, height: int = 48, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    PIL.Image.linear_gradient("L").resize((width, height)).convert("RGB").save(out, kind)
    return out.getvalue()


def pdf(num_pages: int = 2) -> bytes:
    out = io.BytesIO()
    pages = [PIL.Image.new("RGB", (200, 280), (255, 255 - 40 * i, 255)) for i in range(num_pages)]
    pages[0].save(out, "PDF", save_all=True, append_images=pages[1:])
    return out.getvalue()


def png_bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG of a few kilobytes whose header claims gigapixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 100_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
