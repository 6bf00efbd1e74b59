"""The real command, run in this process, and the media that it is asked about."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from conftest import GOLDEN

from cpmv.cli.main import main

MODEL = str(GOLDEN / "tiny_a")
ROOT = Path(__file__).parents[2]
PICTURE = str(ROOT / "examples" / "pictures" / "receipt.png")


class Command:
    """`command(*argv)` runs `cpmv` and keeps its exit code and what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys, self._monkeypatch = capsys, monkeypatch
        self.out = self.err = ""

    def __call__(self, *argv: str, stdin: str | bytes = "", encoding: str = "utf-8") -> int:
        raw = stdin.encode(encoding) if isinstance(stdin, str) else stdin
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding=encoding))
        self._capsys.readouterr()
        code = main(argv)
        self.out, self.err = self._capsys.readouterr()
        return code

    def answers(self) -> list[dict[str, Any]]:
        """What `--json` printed, an object a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    def mistake(self, *argv: str, stdin: str | bytes = "") -> str:
        """Run what must fail with exit code 2 and exactly one line on stderr; return the line."""
        assert self(*argv, stdin=stdin) == 2
        assert self.out == ""
        lines = self.err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("cpmv: "), self.err
        return lines[0]


def write_video(path: Path, num_frames: int = 20, rate: int = 10) -> str:
    """A clip that grows brighter; without frames where num_frames is 0."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for i in range(num_frames):
            pixels = np.full((64, 96, 3), 255 * i // num_frames, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        if num_frames:
            container.mux(stream.encode())
        else:
            container.start_encoding()
    return str(path)


def write_sound(path: Path) -> str:
    """A film container that holds a second of silence and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), dtype=np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


def write_pdf(path: Path) -> str:
    """Two pages: the pictures of the examples."""
    from PIL import Image

    chart, receipt = (Image.open(ROOT / "examples" / "pictures" / name) for name in ("chart.png", "receipt.png"))
    chart.save(path, save_all=True, append_images=[receipt])
    return str(path)
