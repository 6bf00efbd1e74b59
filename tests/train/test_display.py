"""Drawing sheets on the device: marks and glyphs lie where the sheet says, and a full batch says so."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from test_draw_samples import synthetic_atlas

from cpmv.train.draw.chance import Chance
from cpmv.train.draw.display import Capacity, CapacityError, Display, Look, SheetPacker
from cpmv.train.draw.document import ELLIPSE, FRAME, LINE, RECT, TRIANGLE, WEDGE, Mark, Run, Sheet
from cpmv.train.draw.glyphs import DeviceAtlas

ATLAS = synthetic_atlas()
HEIGHT, WIDTH = 70, 98
RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


def draw(sheets: list[Sheet], marks: int = 8) -> torch.Tensor:
    capacity = Capacity.of(len(sheets), 30, 10, 5, marks)
    packer = SheetPacker(ATLAS, capacity)
    for sheet in sheets:
        packer.add([sheet])
    display = Display(DeviceAtlas(ATLAS, torch.device("cpu")), capacity, HEIGHT, WIDTH)
    return display.clean(packer.batch())


def marked(*marks: Mark) -> np.ndarray:
    """Where a sheet with these marks is not white, bool [H, W]."""
    return (draw([Sheet(WIDTH, HEIGHT, marks=list(marks))])[0].mean(0) < 0.5).numpy()


@pytest.mark.parametrize(
    ("mark", "pillow"),
    [
        (Mark(RECT, (10, 20, 60, 50), RED), lambda d: d.rectangle([10, 20, 59, 49], fill=0)),
        (Mark(ELLIPSE, (10, 20, 60, 50), RED), lambda d: d.ellipse([10, 20, 59, 49], fill=0)),
        (Mark(FRAME, (10, 20, 60, 50, 3), RED), lambda d: d.rectangle([10, 20, 59, 49], outline=0, width=3)),
        (Mark(TRIANGLE, (10, 60, 80, 60, 40, 5), RED), lambda d: d.polygon([(10, 60), (80, 60), (40, 5)], fill=0)),
        (Mark(TRIANGLE, (40, 5, 80, 60, 10, 60), RED), lambda d: d.polygon([(10, 60), (80, 60), (40, 5)], fill=0)),
        (Mark(LINE, (10, 35.5, 80, 35.5, 5), RED), lambda d: d.rectangle([10, 33, 79, 37], fill=0)),
        (Mark(WEDGE, (49, 35, 30, 0, math.pi / 2), RED), lambda d: d.pieslice([19, 5, 78, 64], -90, 0, fill=0)),
        (Mark(WEDGE, (49, 35, 30, 1.0, 5.5), RED), lambda d: d.pieslice([19, 5, 78, 64], -32.7, 225.1, fill=0)),
        (Mark(WEDGE, (49, 35, 30, 0, 2 * math.pi), RED), lambda d: d.ellipse([19, 5, 78, 64], fill=0)),
    ],
)
def test_marks_cover_what_pillow_covers(mark: Mark, pillow: object) -> None:
    expected = Image.new("L", (WIDTH, HEIGHT), 255)
    pillow(ImageDraw.Draw(expected))  # type: ignore[operator]
    there, wanted = marked(mark), np.asarray(expected) < 128
    assert (there & wanted).sum() / (there | wanted).sum() > 0.9


def test_later_marks_lie_over_earlier_ones_and_text_over_both() -> None:
    sheet = Sheet(WIDTH, HEIGHT, marks=[Mark(RECT, (0, 0, 98, 70), RED), Mark(RECT, (20, 20, 60, 60), BLUE)])
    sheet.runs = [Run("a", 30, 50, 28, 0, (0.0, 1.0, 0.0))]
    picture = draw([sheet])[0]
    assert picture[:, 5, 5].tolist() == [1, 0, 0]
    assert picture[:, 25, 25].tolist() == [0, 0, 1]
    # The block of the synthetic face: 6..20 right of the cell's left, 8..30 below its top, pen at (6, 29).
    assert picture[:, 40, 36].tolist() == [0, 1, 0]


def test_a_glyph_grows_with_its_size_and_stays_on_its_sheet() -> None:
    small, large = (Sheet(WIDTH, HEIGHT, runs=[Run("aa", 10, 60, em, 0)]) for em in (12, 36))
    pictures = draw([small, Sheet(WIDTH, HEIGHT), large])
    ink = (1 - pictures.mean(1)).sum((1, 2))
    assert ink[1] == 0
    assert 7 < ink[2] / ink[0] < 11  # nine times the area
    assert float(ink[0]) == pytest.approx(2 * 14 * 22 * (12 / 28) ** 2, rel=0.15)


def test_text_beyond_the_edge_leaves_other_sheets_alone() -> None:
    outside = Sheet(WIDTH, HEIGHT, runs=[Run("aaaa", -40, 5, 20, 0), Run("aaaa", 80, 90, 20, 0)])
    pictures = draw([Sheet(WIDTH, HEIGHT), outside, Sheet(WIDTH, HEIGHT)])
    assert (pictures[[0, 2]] == 1).all()


def test_a_full_batch_refuses_and_stays_as_it_was() -> None:
    packer = SheetPacker(ATLAS, Capacity(2, (3, 0, 0), 1))
    packer.add([Sheet(WIDTH, HEIGHT, runs=[Run("aa", 0, 20, 12, 0)])])
    before = [t.clone() for t in packer.batch().tensors()]
    for refused in (
        Sheet(WIDTH, HEIGHT, runs=[Run("aa", 0, 20, 12, 0)]),
        Sheet(WIDTH, HEIGHT, runs=[Run("a", 0, 20, 20, 0)]),
        Sheet(WIDTH, HEIGHT, runs=[Run("a", 0, 20, 99, 0)]),
        Sheet(WIDTH, HEIGHT, marks=[Mark(RECT, (0, 0, 1, 1), RED)] * 2),
    ):
        with pytest.raises(CapacityError):
            packer.add([refused])
    assert all(torch.equal(a, b) for a, b in zip(before, packer.batch().tensors(), strict=True))
    assert packer.room == 1


def test_rough_pictures_keep_the_text_and_follow_their_seed() -> None:
    sheet = Sheet(WIDTH, HEIGHT, runs=[Run("aaa", 10, 50, 28, 0)])
    capacity = Capacity.of(4, 10, 10, 10, 2)
    packer = SheetPacker(ATLAS, capacity)
    packer.add([sheet] * 4)
    look = Look(blur=1.0, turned=1.0, coarse=0.5)
    display = Display(DeviceAtlas(ATLAS, torch.device("cpu")), capacity, HEIGHT, WIDTH, look)
    plain = display.clean(packer.batch())[0].mean(0)

    def rough(seed: int) -> torch.Tensor:
        chance = Chance(torch.device("cpu"), torch.Generator().manual_seed(seed))
        return display.finish(display.draw(packer.batch(), chance), chance, torch.float32)

    pictures = rough(3)
    assert torch.equal(pictures, rough(3)) and not torch.equal(pictures, rough(4))
    assert pictures.min() >= -1 and pictures.max() <= 1
    dark, light = plain < 0.2, plain > 0.9
    for picture in pictures.mean(1):
        assert picture[dark].mean() + 0.8 < picture[light].mean()


def test_damage_is_done_before_a_picture_is_turned() -> None:
    """What is covered stays covered however the sheet lies."""
    sheet = Sheet(WIDTH, HEIGHT, runs=[Run("aaa", 20, 50, 28, 0)])
    capacity = Capacity.of(6, 10, 10, 10, 2)
    packer = SheetPacker(ATLAS, capacity)
    packer.add([sheet] * 6)
    look = Look(blur=0, grain=0, texture=0, turned=1.0, turn=4.0, coarse=0)
    display = Display(DeviceAtlas(ATLAS, torch.device("cpu")), capacity, HEIGHT, WIDTH, look)

    def cover(pictures: torch.Tensor) -> torch.Tensor:
        pictures = pictures.clone()
        pictures[:, :, 15:60, 15:95] = 1.0
        return pictures

    def dark(damage: object) -> float:
        chance = Chance(torch.device("cpu"), torch.Generator().manual_seed(1))
        return float((display.draw(packer.batch(), chance, damage=damage) < 0.5).float().mean())  # type: ignore[arg-type]

    assert dark(None) > 0.05 and dark(cover) == 0
