"""Crooked scans are turned upright, upright pages left alone."""

from __future__ import annotations

import pytest
from paper import Sheet
from PIL import Image

from cpmv.read.layout import find_layout
from cpmv.read.straighten import crookedness, straighten

TEXT = ["The train to the coast leaves from platform four", "every hour until ten in the evening, and tickets"]


def page() -> Image.Image:
    sheet = Sheet()
    sheet.write(120, 100, "Opening hours", 40)
    sheet.paragraph(120, 200, TEXT * 8)
    return sheet.picture


@pytest.mark.parametrize("degrees", [-3.3, -1.2, -0.4, 0.7, 2.5])
def test_the_angle_of_a_scan_is_found(degrees: float) -> None:
    crooked = page().rotate(degrees, resample=Image.Resampling.BICUBIC, fillcolor="white")
    assert crookedness(crooked) == pytest.approx(-degrees, abs=0.12)
    turned, angle = straighten(crooked)
    assert angle != 0 and [len(b.lines) for b in find_layout(turned).blocks] == [1, 16]


def test_upright_pages_are_returned_as_they_are() -> None:
    picture = page()
    assert straighten(picture) == (picture, 0.0)
    assert straighten(page().rotate(0.05, resample=Image.Resampling.BICUBIC, fillcolor="white"))[1] == 0.0
    assert straighten(Image.new("RGB", (300, 400), "white"))[1] == 0.0
