"""Pixels of a page that are writing: dark strokes on light paper, light strokes on dark bands, without ruled lines.

The first step of `layout`. Everything is running sums over numpy arrays; no connected components are needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

Mask: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"

BAND_PX = 28  # a solid dark square of this side is a filled band, not a stroke
RULE_SHARE = 0.05  # of the page's width: a thin run longer than this is a ruled line
RULE_THICK_PX = 7
_DARKEST, _LIGHTEST = 80, 205  # between these lies the threshold that parts ink from paper


@dataclass(frozen=True)
class Ink:
    """writing: strokes alone. across, down: ruled lines, horizontal and vertical. All bool [height, width]."""

    writing: Mask
    across: Mask
    down: Mask


def find_ink(picture: Image.Image) -> Ink:
    """Part the writing of an RGB or grey page from paper, filled bands and ruled lines."""
    grey = np.asarray(picture.convert("L"))
    threshold = _threshold(grey)
    dark = grey < threshold
    if dark.mean() > 0.5:  # a page in white on black
        dark = grey > threshold
    solid = _box_sum(dark, BAND_PX, BAND_PX) == BAND_PX**2
    band = _spread(solid, BAND_PX, BAND_PX)
    ink = np.where(band, ~dark, dark) if solid.any() else dark
    length = max(40, round(RULE_SHARE * grey.shape[1]))
    across, down = _rules(ink, length), _rules(ink.T, length).T
    writing = ink & ~_spread_by_one(across | down)
    return Ink(_without_specks(writing), across, down)


def any_along(mask: Mask, axis: int) -> Mask:
    """Whether anything is set along an axis: 0 looks down columns, 1 along rows."""
    return np.asarray(mask.any(axis=axis))


def _threshold(grey: np.ndarray[Any, Any]) -> int:
    """Otsu's threshold: the grey value that parts the histogram into the two most distinct classes."""
    counts = np.bincount(grey.ravel(), minlength=256).astype(np.float64)
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * np.arange(256))
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    between[~np.isfinite(between)] = -1
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))  # a plateau between two clear classes: its middle
    return int(np.clip(round(best.mean()) + 1, _DARKEST, _LIGHTEST))


def _rules(ink: Mask, length: int) -> Mask:
    """Thin horizontal runs of at least `length` pixels."""
    if ink.shape[1] < length:
        return np.zeros_like(ink)
    long = _spread(_box_sum(ink, 1, length) == length, 1, length)
    thick = _spread(_box_sum(long, RULE_THICK_PX + 1, 1) == RULE_THICK_PX + 1, RULE_THICK_PX + 1, 1)
    return long & ~thick


def _box_sum(mask: Mask, height: int, width: int) -> np.ndarray[Any, Any]:
    """Sums over every height x width window, indexed by its upper left corner; 0 where it would not fit."""
    total = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int32)
    total[1:, 1:] = mask.cumsum(0, dtype=np.int32).cumsum(1, dtype=np.int32)
    out = np.zeros(mask.shape, np.int32)
    if mask.shape[0] >= height and mask.shape[1] >= width:
        inner = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
        out[: inner.shape[0], : inner.shape[1]] = inner
    return out


def _spread(corners: Mask, height: int, width: int) -> Mask:
    """Pixels of all windows whose upper left corner is set: what `_box_sum` found, whole again."""
    padded = np.zeros((corners.shape[0] + height - 1, corners.shape[1] + width - 1), bool)
    padded[height - 1 :, width - 1 :] = corners
    return _box_sum(padded, height, width)[: corners.shape[0], : corners.shape[1]] > 0


def _spread_by_one(mask: Mask) -> Mask:
    out = mask.copy()
    out[1:] |= mask[:-1]
    out[:-1] |= mask[1:]
    wide = out.copy()
    wide[:, 1:] |= out[:, :-1]
    wide[:, :-1] |= out[:, 1:]
    return wide


def _without_specks(mask: Mask) -> Mask:
    """Drop pixels with fewer than two others around them: dust, and crumbs of ruled lines."""
    padded = np.pad(mask, 1)
    around = _box_sum(padded, 3, 3)[: mask.shape[0], : mask.shape[1]]
    return mask & (around >= 3)
