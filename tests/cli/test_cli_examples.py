"""What `examples/` holds runs, is short, and draws the pictures that are there."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from command import MODEL, PICTURE, ROOT, write_pdf, write_video
from PIL import Image

EXAMPLES = ROOT / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_examples_are_short() -> None:
    for name in ("one_image", "video", "pdf", "demo"):
        assert len((EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()) < 60


def test_the_image_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    load("one_image").main(MODEL, PICTURE)
    assert len(capsys.readouterr().out) > 100


def test_the_video_example_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load("video").main(MODEL, write_video(tmp_path / "clip.mp4"))
    assert "4 frames of 96 x 64 in 2 groups" in capsys.readouterr().out


def test_the_pdf_example_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load("pdf").main(MODEL, write_pdf(tmp_path / "two.pdf"), "1-2")
    assert capsys.readouterr().out.count("> W") == 2


def test_the_demo_answers_about_the_pictures_that_are_shipped() -> None:
    ran = subprocess.run([sys.executable, str(EXAMPLES / "demo.py")], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert str(EXAMPLES / "pictures") in ran.stdout.splitlines()[0]
    for answer in ("14.03.2027", "14.30", "绿色", "the blue square is now yellow", "2026.03.11", "right", "110"):
        assert f"\n    {answer}\n" in ran.stdout


def test_the_pictures_are_what_the_script_draws() -> None:
    for name, drawn in load("draw_pictures").still_pictures().items():
        kept = np.asarray(Image.open(EXAMPLES / "pictures" / f"{name}.png").convert("RGB"), dtype=int)
        # Versions of the font library shade edges differently; position and colour stay.
        assert np.abs(kept - np.asarray(drawn, dtype=int)).mean() < 2
    assert sum(file.stat().st_size for file in (EXAMPLES / "pictures").iterdir()) < 200_000
