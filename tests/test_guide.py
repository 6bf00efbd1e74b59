"""The user's guide: its four scripts run with nothing but their import lines changed.

`tests/guide/` holds them as published, `from modelscope import ...` and `from decord import ...` replaced by
`from cpmv import ...`. They run in a folder where the id they name is a checkpoint of the reference data.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import GOLDEN, synthetic_image

SCRIPTS = sorted((Path(__file__).parent / "guide").glob("*.py"))


def write_video(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for i in range(20):
            pixels = np.full((64, 96, 3), 12 * i, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def guide_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "OpenBMB").mkdir()
    for i, name in enumerate(("example.jpeg", "s1.jpg", "s2.jpg", "example1.jpg", "example2.jpg", "test.jpg")):
        synthetic_image(180 + 10 * i, 120, i).save(tmp_path / name)
    write_video(tmp_path / "video_test.mp4")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("checkpoint", ["tiny_int4", "tiny_awq"])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_guide_script_runs_with_only_its_imports_changed(
    script: Path, checkpoint: str, guide_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (guide_folder / "OpenBMB" / "MiniCPM-V-4_5-int4").symlink_to(GOLDEN / checkpoint, target_is_directory=True)
    ran = runpy.run_path(str(script))
    printed = capsys.readouterr().out
    said = ran["generated_text"] if script.stem == "one_image" else ran["answer"]
    assert isinstance(said, str) and said.strip() and said.strip() in printed
    if script.stem == "video":
        assert "get video frames=10, packing_nums=1" in printed
