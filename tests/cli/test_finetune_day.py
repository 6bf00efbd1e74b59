"""A user's day, short: pictures of one's own, checked, learnt on a CPU, and asked about."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from cpmv.cli.main import main

LAMPS = {"stop": "red", "wait": "yellow", "go": "green"}
QUESTION = "What does the light say?"


def write(folder: Path, name: str, count: int, rng: random.Random) -> str:
    """Traffic lights somewhere in the picture, labelled in LLaMA-Factory's layout."""
    rows = []
    for i in range(count):
        answer = list(LAMPS)[i % 3]
        picture = Image.new("RGB", (224, 224), tuple(rng.randrange(180, 256) for _ in range(3)))
        pen, x, y = ImageDraw.Draw(picture), rng.randrange(20, 130), rng.randrange(10, 40)
        pen.rectangle((x, y, x + 60, y + 160), fill="#222")
        for row, (word, colour) in enumerate(LAMPS.items()):
            top = y + 8 + 50 * row
            pen.ellipse((x + 8, top, x + 52, top + 44), fill=colour if word == answer else "#444")
        picture.save(folder / f"{name}-{i}.png")
        turns = [{"role": "user", "content": f"<image>{QUESTION}"}, {"role": "assistant", "content": answer}]
        rows.append({"messages": turns, "images": [f"{name}-{i}.png"]})
    (folder / f"{name}.json").write_text(json.dumps(rows))
    return str(folder / f"{name}.json")


def test_pictures_of_ones_own_are_checked_learnt_and_asked_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(0)
    train, test = write(tmp_path, "train", 36, rng), write(tmp_path, "test", 15, rng)
    assert main(["data", "check", train, test]) == 0
    assert "all 51 samples are usable" in capsys.readouterr().out
    out = tmp_path / "run"
    data = ["--data", train, "--eval-data", test, "--out", str(out), "--device", "cpu"]
    learning = ["--lora", "--targets", "all", "--lr", "2e-3", "--epochs", "4", "--batch-size", "6"]
    assert main(["train", "sft", *data, *learning, "--save-every", "0", "--eval-every", "1000", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    before, after = (found[when]["held-out"]["exact"] for when in ("before", "after"))
    assert after >= before + 0.3
    ask = ["chat", str(tmp_path / "test-0.png"), "-q", QUESTION, "--greedy", "--device", "cpu"]
    assert main([*ask, "--adapter", str(out / "adapter")]) == 0
    assert capsys.readouterr().out.strip() in LAMPS
