"""A made clip to decode: a window that wanders over a textured plane, so every pixel moves and residuals are never
empty. Needs PyAV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_MARGIN = 256  # pixels that the window wanders


def make_clip(
    path: Path, width: int, height: int, seconds: float, fps: int = 30, preset: str = "veryfast", keyint: int = 250
) -> None:
    """Encode a clip as H.264 (MPEG-4 part 2 where FFmpeg lacks x264); it appears under its name when it is whole."""
    import av
    import numpy as np

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, ((height + _MARGIN) // 16 + 1, (width + _MARGIN) // 16 + 1), dtype=np.uint8)
    plane = np.kron(coarse, np.ones((16, 16), np.uint8))[: height + _MARGIN, : width + _MARGIN]
    plane = (plane // 2 + rng.integers(0, 24, plane.shape, dtype=np.uint8)).astype(np.uint8)
    chroma = np.full((height // 2, width), 128, np.uint8)
    encoder = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    unfinished = path.with_suffix(f".part{path.suffix}")
    with av.open(str(unfinished), "w") as container:
        options = {"preset": preset, "g": str(keyint)} if encoder == "libx264" else {"g": str(keyint)}
        stream: Any = container.add_stream(encoder, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(round(fps * seconds)):
            x = int(_MARGIN / 2 * (1 + np.sin(i / 97)))
            y = int(_MARGIN / 2 * (1 + np.cos(i / 61)))
            pixels = np.concatenate([plane[y : y + height, x : x + width], chroma])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="yuv420p")))
        container.mux(stream.encode())
    unfinished.rename(path)
