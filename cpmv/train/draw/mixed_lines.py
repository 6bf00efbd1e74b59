"""Lines of mixed text on the host, from the pieces and modes of `words.py`, like those of the device's own samples.

Words in three casings, dates, prices, codes, signs, German, Spanish and Chinese; a line keeps to one mode.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from .charset import ASCII, NUM_DRAWN_HAN, han_by_frequency
from .words import _NO_SPACE, HAN_MODES, LATIN_MODES, piece_sorts

_WILD = {
    "\x01": "0123456789",
    "\x02": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "\x03": "abcdefghijklmnopqrstuvwxyz",
    "\x04": ASCII[1:],
    "\x05": han_by_frequency()[:NUM_DRAWN_HAN],
}


@cache
def _sorts(held_out: bool) -> dict[str, list[str]]:
    return piece_sorts(held_out, seed=3)


@cache
def _modes(han: bool) -> tuple[list[dict[str, float]], list[float]]:
    modes = HAN_MODES if han else LATIN_MODES
    shares = np.cumsum([share for share, _ in modes.values()])
    return [mix for _, mix in modes.values()], (shares / shares[-1]).tolist()


def _piece(rng: np.random.Generator, sorts: list[str], shares: np.ndarray, held_out: bool) -> tuple[str, str]:
    """A sort and a piece of it, wildcards filled."""
    sort = sorts[int(np.searchsorted(shares, rng.random(), side="right"))]
    pieces = _sorts(held_out)[sort]
    piece = pieces[int(rng.integers(len(pieces)))]
    if any(c in _WILD for c in piece):
        piece = "".join(_WILD[c][int(rng.integers(len(_WILD[c])))] if c in _WILD else c for c in piece)
    return sort, piece


def mixed_line(
    rng: np.random.Generator, limit: int, *, most: int = 6, han: bool = False, held_out: bool = False
) -> str:
    """A line of at most `limit` (>= 2) characters and `most` pieces; never empty, without blanks at its ends."""
    mixes, shares = _modes(han)
    mix = mixes[int(np.searchsorted(shares, rng.random(), side="right"))]
    sorts = list(mix)
    weights = np.cumsum(list(mix.values()))
    weights = weights / weights[-1]
    line, before = "", ""
    for _ in range(most):
        sort, piece = _piece(rng, sorts, weights, held_out)
        gap = " " if line and not (sort in _NO_SPACE and before in _NO_SPACE) else ""
        if len(line) + len(gap) + len(piece) > limit:
            break
        line, before = line + gap + piece, sort
    if line:
        return line
    return _piece(rng, sorts, weights, held_out)[1][:limit].strip() or "Ok"
