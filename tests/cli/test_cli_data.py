"""`cpmv data check`: what it counts, what it finds wrong, and the pictures it draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cpmv.cli.main import main


def sample(picture: str, answer: str = "red", **more: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": "<image>What colour?"}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "images": [picture], **more}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (200, 200), "red").save(tmp_path / "small.png")
    Image.new("RGB", (900, 500), "blue").save(tmp_path / "large.png")
    (tmp_path / "frames").mkdir()
    for i in range(6):
        Image.new("RGB", (64, 48), (40 * i, 0, 0)).save(tmp_path / "frames" / f"{i}.png")
    return tmp_path


def write(folder: Path, rows: list[Any], name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def check(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, dict[str, Any]]:
    code = main(["data", "check", *map(str, arguments), "--json"])
    out = capsys.readouterr().out
    return code, out, json.loads(out.splitlines()[-1])


def test_clean_files_pass_with_counts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = {
        "messages": [
            {"role": "user", "content": "<video>What happens?"},
            {"role": "assistant", "content": "It reddens."},
        ],
        "videos": [{"video": [f"frames/{i}.png" for i in range(6)], "frame_fps": 3, "fps": 3, "packing": 3}],
    }
    path = write(folder, [sample("small.png"), sample("large.png"), clip])
    code, out, found = check(capsys, f"{path}:2")
    file = found["files"][0]
    assert code == 0 and found["ok"] and "all 3 samples are usable" in out
    assert (file["format"], file["weight"], file["roles"]) == ("ms-swift", 2.0, {"user": 3, "assistant": 3})
    assert file["media"] == {"images": 2, "videos": 1, "slices": 10, "packages": 2, "frames": 6}
    # 16 tokens a slice in the bundled model: the large picture's nine outweigh the small one's.
    assert file["tokens"]["max"] > file["tokens"]["min"] + 8 * 16
    assert 0 < file["learnt_tokens"] < 40


def test_bad_samples_are_counted_by_kind_and_the_first_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "torn.png").write_bytes((folder / "small.png").read_bytes()[:80])
    rows = [sample("small.png"), sample("gone.png"), sample("torn.png"), sample("large.png"), sample("small.png", "")]
    path = write(folder, rows)
    with path.open("a") as file:
        file.write("{torn\n")
    code, out, found = check(capsys, path, "--max-tokens", 150)
    file = found["files"][0]
    assert code == 1 and not found["ok"] and (file["usable"], found["bad"]) == (2, 4)
    assert (file["missing_media"], file["unreadable_media"], file["too_long"]) == (1, 1, 1)
    assert file["first_bad"]["line"] == 2 and "gone.png is missing" in file["first_bad"]["reason"]
    assert "line 6: the line is not JSON" in out
    assert "left out whole, never cut" in out and "over --max-tokens" in out


def test_quick_reads_no_pixels(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray((folder / "small.png").read_bytes())
    data[60:] = bytes(len(data) - 60)  # the header stands, the pixels are gone
    (folder / "torn.png").write_bytes(data)
    path = write(folder, [sample("torn.png")])
    assert check(capsys, path, "--quick")[0] == 0
    assert check(capsys, path)[0] == 1


def test_pictures_show_grids_packages_and_learnt_words(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = {
        "messages": [{"role": "user", "content": "<video>What?"}, {"role": "assistant", "content": "It <reddens>."}],
        "videos": [{"video": [f"frames/{i}.png" for i in range(6)], "frame_fps": 3, "fps": 3, "packing": 6}],
    }
    path = write(folder, [sample("large.png"), clip])
    page, sheet = folder / "out.html", folder / "out.png"
    assert check(capsys, path, "--pictures", page)[0] == 0
    text = page.read_text()
    assert text.count("<img ") == 9 + 6
    assert "overview and 8 slices" in text and "package 1: 6 frames at" in text
    assert "<mark>It &lt;reddens&gt;.&lt;|im_end|&gt;</mark>" in text
    check(capsys, path, "--pictures", sheet)
    with Image.open(sheet) as drawn:
        small = drawn.convert("RGB").resize((140, 60), 0)
        blue = sum(1 for pixel in small.get_flattened_data() if pixel == (0, 0, 255))
    assert blue > 100


def test_prompts_and_pairs_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = {"messages": [{"role": "user", "content": "1+1?"}], "solution": "2"}
    pair = sample("small.png", rejected_response="blue")
    *_, found = check(capsys, write(folder, [prompt, pair]))
    assert (found["files"][0]["prompts"], found["files"][0]["pairs"], found["bad"]) == (1, 1, 0)


def test_usage_mistakes_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(folder, [sample("small.png")]))
    for arguments, message in (
        (["data"], "usage: cpmv data check"),
        (["data", "look"], "there is no cpmv data 'look'"),
        (["data", "check", path, "--pictures", "x.gif"], "must end with .html or .png"),
        (["data", "check", path, "--format", "alpaca"], "format 'alpaca' is unknown"),
        (["data", "check", str(folder / "none.json")], "cannot be read"),
    ):
        code = main(arguments)
        printed = capsys.readouterr()
        assert code == 2 and message in printed.out + printed.err
