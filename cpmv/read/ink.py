"""Pixels of a page that are writing: dark strokes on light paper, light strokes on dark bands, without ruled lines.

The first step of `layout`. Everything is runs along rows and columns, found by running sums; no connected components
are needed.
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
LEAST_CONTRAST = 24  # grey levels; a page with less is empty
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
    if int(grey.max()) - int(grey.min()) < LEAST_CONTRAST:
        nothing = np.zeros(grey.shape, bool)
        return Ink(nothing, nothing, nothing)
    threshold = _threshold(grey)
    dark = grey < threshold
    if dark.mean() > 0.5:  # a page in white on black
        dark = grey > threshold
    ink = _without_bands(dark)
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


def _without_bands(dark: Mask) -> Mask:
    """Ink where filled bands are turned round: what is light on them is the writing."""
    coarse = 4  # nearly every page has no band, and a look at every fourth pixel tells
    if not _windows(_windows(dark[::coarse, ::coarse], BAND_PX // coarse - 1, 0), BAND_PX // coarse - 1, 1).any():
        return dark
    solid = _windows(_windows(dark, BAND_PX, 0), BAND_PX, 1)
    band = _spread(_spread(solid, BAND_PX, 0), BAND_PX, 1)
    return np.where(band, ~dark, dark)


def _rules(ink: Mask, length: int) -> Mask:
    """Thin horizontal runs of at least `length` pixels."""
    starts = _windows(ink, length, 1)
    if not starts.any():
        return starts
    long = _spread(starts, length, 1)
    thick = _spread(_windows(long, RULE_THICK_PX + 1, 0), RULE_THICK_PX + 1, 0)
    return long & ~thick


def _windows(mask: Mask, length: int, axis: int) -> Mask:
    """Where a run of `length` set pixels begins, along an axis."""
    out = np.zeros(mask.shape, bool)
    if mask.shape[axis] < length:
        return out
    total = _running(mask, axis)
    whole = _from(total, length, axis) - _until(total, -length, axis) == length
    out[: whole.shape[0], : whole.shape[1]] = whole
    return out


def _spread(starts: Mask, length: int, axis: int) -> Mask:
    """Pixels of all runs that begin where `starts` is set: what `_windows` found, whole again."""
    total = _running(starts, axis)
    before = np.zeros_like(total)
    if total.shape[axis] > length:
        if axis == 0:
            before[length:] = total[:-length]
        else:
            before[:, length:] = total[:, :-length]
    return _from(total - before, 1, axis) > 0


def _running(mask: Mask, axis: int) -> np.ndarray[Any, Any]:
    """Running sums along an axis, beginning with a zero."""
    shape = (mask.shape[0] + (axis == 0), mask.shape[1] + (axis == 1))
    total = np.zeros(shape, np.int32)
    np.cumsum(mask, axis=axis, dtype=np.int32, out=_from(total, 1, axis))
    return total


def _from(array: np.ndarray[Any, Any], start: int, axis: int) -> np.ndarray[Any, Any]:
    return array[start:] if axis == 0 else array[:, start:]


def _until(array: np.ndarray[Any, Any], end: int, axis: int) -> np.ndarray[Any, Any]:
    return array[:end] if axis == 0 else array[:, :end]


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
    padded = np.pad(mask, 1).astype(np.uint8)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return mask & (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] >= 3)
