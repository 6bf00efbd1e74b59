"""The Pillow renderer of evaluation sets: exact answers, reproducible files. Scenes and clips need no fonts."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from PIL import Image

from cpmv.train.draw import independent
from cpmv.train.draw.prompts import COLOURS, DIRECTIONS, HELD_OUT_PAIRS, SHAPES

needs_fonts = pytest.mark.skipif(not independent.faces("latin", False), reason="no fonts of the face table installed")


def nearest_colour(pixel: tuple[int, int, int]) -> str:
    return min(COLOURS, key=lambda name: sum((a - b) ** 2 for a, b in zip(COLOURS[name][1], pixel, strict=True)))


def test_counts_and_descriptions_match_the_objects() -> None:
    for seed in range(30):
        count = independent.draw_scene(random.Random(seed), (224, 224), kind="count", count=1 + seed % 9)
        assert count.answer == str(1 + seed % 9) == str(len(count.meta["objects"]))
        told = independent.draw_scene(random.Random(seed), (224, 224), kind="describe", count=1 + seed % 4)
        listed = [item.split(" ", 1)[1] for item in told.answer.replace(" and ", ", ").split(", ")]
        assert sorted(listed) == sorted(told.meta["objects"])


def test_held_out_pairs_appear_only_when_asked_for() -> None:
    held_out = {" ".join(pair) for pair in HELD_OUT_PAIRS}
    for seed in range(40):
        plain = independent.draw_scene(random.Random(seed), (112, 112))
        assert not held_out & set(plain.meta["objects"])
        special = independent.draw_scene(random.Random(seed), (112, 112), held_out_pair=True)
        assert special.meta["objects"][0] in held_out


@pytest.mark.parametrize("shape", list(SHAPES))
def test_a_shape_is_drawn_in_its_colour_where_it_should_be(shape: str) -> None:
    image = independent.render_things((64, 64), (200, 200, 200), [independent.Thing("blue", shape, 32, 32, 20)])
    assert nearest_colour(image.getpixel((32, 32 - 17 if shape in ("ring", "circle", "star") else 32))) == "blue"
    assert image.getpixel((4, 4)) == (200, 200, 200)


@pytest.mark.parametrize("frames", [2, 6])
def test_a_clip_moves_as_its_answer_says(frames: int) -> None:
    for seed in range(12):
        clip = independent.draw_clip(random.Random(seed), (112, 112), num_frames=frames)
        assert len(clip.images) == len(clip.temporal_ids or []) == frames
        colour = next(name for name in COLOURS if f"the {name} " in clip.prompt)
        (x0, y0), (x1, y1) = (centre(image, colour) for image in (clip.images[0], clip.images[-1]))
        horizontal = "right" if x1 - x0 > 9 else "left" if x0 - x1 > 9 else ""
        vertical = "down" if y1 - y0 > 9 else "up" if y0 - y1 > 9 else ""
        assert clip.answer == f"{vertical} {horizontal}".strip()
        assert clip.meta["opposite"] in DIRECTIONS and clip.meta["opposite"] != clip.answer


def centre(image: Image.Image, colour: str) -> tuple[float, float]:
    """Middle of the bounding box of a colour: right even where another object covers a part of it, nearly always."""
    wanted = COLOURS[colour][1]
    points = [
        (x, y)
        for x in range(image.width)
        for y in range(image.height)
        if sum(abs(a - b) for a, b in zip(image.getpixel((x, y)), wanted, strict=True)) < 24
    ]
    return tuple((min(p[i] for p in points) + max(p[i] for p in points)) / 2 for i in (0, 1))  # type: ignore[return-value]


def test_order_and_speed_are_decided_by_the_frames() -> None:
    for seed in range(12):
        clip = independent.draw_clip(random.Random(seed), (84, 84), kind="first", num_frames=3)
        first = {nearest_colour(pixel) for _, pixel in clip.images[0].getcolors(84 * 84) if _ > 40}
        assert clip.answer in first
        assert independent.draw_clip(random.Random(seed), (84, 84), kind="faster").answer in COLOURS


def test_a_frozen_set_is_the_same_again(tmp_path: Path) -> None:
    names = ["scene", "clip_order"]
    for run in ("a", "b"):
        assert independent.write_set(tmp_path / run, 5, 2, names) > 0
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert files and all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    records = [json.loads(line) for line in (tmp_path / "a" / "samples.jsonl").read_text().splitlines()]
    assert [record["set"] for record in records] == ["scene", "scene", "clip_order", "clip_order"]
    for record in records:
        assert record["prompt"] and record["answer"]
        assert len(record["images"]) == len(record["temporal_ids"] or [0])
        assert all(Image.open(tmp_path / "a" / name).mode == "RGB" for name in record["images"])


@needs_fonts
def test_text_stays_inside_its_picture_and_limits() -> None:
    for seed in range(10):
        sample = independent.draw_text(random.Random(seed), (224, 224), num_lines=1 + seed % 4)
        assert len(sample.answer) <= 97 and sample.answer.count("\n") == seed % 4
        image = sample.images[0]
        edge = {image.getpixel((x, y)) for x in range(224) for y in (0, 223)}
        assert edge == {image.getpixel((0, 0))}
        assert len(image.getcolors(224 * 224)) > 2
