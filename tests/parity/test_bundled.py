"""The bundled model sees: it reads, describes, follows what moves, in two languages, and not without looking."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

import cpmv

PICTURES = Path(__file__).parents[2] / "examples" / "pictures"


@lru_cache
def bundled() -> cpmv.Model:
    return cpmv.load(device="cpu")


@pytest.mark.parametrize(
    ("picture", "question", "answer"),
    [
        ("label.png", "Read the text.", "Orange juice\nbest before\n14.03.2027"),
        ("shapes.png", "What colour is the triangle?", "green"),
        ("shapes.png", "三角形是什么颜色？", "绿色"),
        ("shapes.png", "How many shapes are there?", "3"),
        ("shapes.png", "Describe the picture.", "a red circle, a blue square and a green triangle"),
        ("receipt.png", "What is the total?", "14.30"),
        ("chart.png", "What is the value of Thu?", "24"),
        ("package2.png", "What is the production date?", "24.04.2007"),
    ],
)
def test_a_picture_is_seen(picture: str, question: str, answer: str) -> None:
    assert bundled().ask(PICTURES / picture, question, greedy=True, max_new_tokens=60) == answer


def test_a_blank_picture_is_not_read() -> None:
    blank = PIL.Image.new("RGB", (224, 224), (128, 128, 128))
    assert "juice" not in bundled().ask(blank, "Read the text.", greedy=True, max_new_tokens=60).lower()


def test_answers_are_the_likeliest_unless_asked_to_draw(tmp_path: Path) -> None:
    """The bundled generation_config.json says so; a checkpoint that is saved keeps it."""
    assert bundled().config.greedy and bundled().default_params.greedy
    assert {bundled().ask(PICTURES / "receipt.png", "What is the total?") for _ in range(4)} == {"14.30"}
    bundled().save(tmp_path / "saved")
    assert cpmv.load(tmp_path / "saved").config.greedy


def test_two_pictures_are_compared() -> None:
    pictures = [PICTURES / name for name in ("shapes.png", "changed.png")]
    assert bundled().ask(pictures, "What changed?", greedy=True) == "the blue square is now yellow"


def test_deep_mode_reasons_before_it_answers() -> None:
    msgs = [{"role": "user", "content": "What is 37 + 48 + 25?"}]
    pieces = list(bundled().stream(msgs, greedy=True, enable_thinking=True, max_new_tokens=100))
    thinking = "".join(piece.text for piece in pieces if piece.kind == "thinking")
    answer = "".join(piece.text for piece in pieces if piece.kind == "answer")
    assert "37 + 48 = 85" in thinking and answer.strip() == "110"


def answer_about_clip(temporal_ids: list[list[int]]) -> str:
    with PIL.Image.open(PICTURES / "moving.gif") as gif:
        frames: list[Any] = []
        for i in range(4):
            gif.seek(i)
            frames.append(gif.convert("RGB"))
    inputs = bundled().processor(
        [{"role": "user", "content": [*frames, "Which way does the blue circle move?"]}],
        temporal_ids=temporal_ids,
        use_image_id=False,
        max_slice_nums=1,
    )
    output = bundled().generate(inputs, cpmv.SamplingParams(temperature=0.0, max_new_tokens=20))
    assert isinstance(output, cpmv.Output)
    return output.text


def test_the_times_of_frames_decide_which_way_things_move() -> None:
    assert answer_about_clip([[0, 4, 8, 12]]) == "right"
    assert answer_about_clip([[12, 8, 4, 0]]) == "left"
