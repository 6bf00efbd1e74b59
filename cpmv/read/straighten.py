"""Scans that lie a little crooked, turned upright: the angle at which rows of writing are most distinct.

Angles up to MOST_DEGREES are looked for; a page that stands on its side is left as it is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .ink import find_ink

if TYPE_CHECKING:
    from PIL import Image

MOST_DEGREES = 4.0
LEAST_DEGREES = 0.12  # less is not worth the blur of turning
LEAST_GAIN = 1.04  # by which rows must become more distinct
_WIDTH = 900  # px: the size at which the angle is measured
_MOST_POINTS = 60_000


def straighten(picture: Image.Image) -> tuple[Image.Image, float]:
    """Return a page upright, and by how many degrees it was turned, counter-clockwise; 0 for the same picture."""
    from PIL import Image

    angle = crookedness(picture)
    if angle == 0:
        return picture, 0.0
    pixels = np.asarray(picture)
    paper = tuple(int(v) for v in np.median(pixels.reshape(-1, pixels.shape[-1])[::97], axis=0))
    turned = picture.rotate(angle, resample=Image.Resampling.BICUBIC, fillcolor=paper)
    return turned, angle


def crookedness(picture: Image.Image) -> float:
    """Degrees, counter-clockwise, by which a page must be turned to lie upright; 0 where turning would not help."""
    scale = min(1.0, _WIDTH / picture.width)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    ys, xs = np.nonzero(find_ink(picture.resize(size)).writing)
    if len(xs) < 200:
        return 0.0
    step = max(1, len(xs) // _MOST_POINTS)
    xs, ys = xs[::step].astype(np.float64), ys[::step].astype(np.float64)
    upright = _distinctness(xs, ys, 0.0)
    best, score = 0.0, upright
    reach, width = MOST_DEGREES, 0.5
    while width >= 0.05:
        centre = best
        for angle in np.arange(centre - reach, centre + reach + width / 2, width):
            found = _distinctness(xs, ys, float(angle))
            if found > score:
                best, score = float(angle), found
        reach, width = width, width / 3
    if abs(best) < LEAST_DEGREES or abs(best) > MOST_DEGREES or score < LEAST_GAIN * upright:
        return 0.0
    return -best


def _distinctness(xs: np.ndarray[Any, Any], ys: np.ndarray[Any, Any], degrees: float) -> float:
    """How unevenly the ink is spread over rows that rise at an angle: the sum of squares of their counts."""
    rows = np.round(ys + xs * math.tan(math.radians(degrees))).astype(np.int64)
    counts = np.bincount(rows - rows.min())
    return float((counts.astype(np.float64) ** 2).sum())
