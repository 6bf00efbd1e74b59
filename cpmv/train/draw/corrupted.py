"""Sheets of other kinds with some of their text regions to be corrupted, and the question for what stood there.

The plan (`train/corrupt.py`) travels in `meta["corrupt"]`; whoever draws the sheet carries it out. Where the prompt
points by number, thin frames and their numbers are part of the sheet, just outside the regions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..corrupt import Plan, draw_plan
from .canvas import Unfit, limits_of
from .document import FRAME, Box, Colour, Document, Mark, Run, Sheet

if TYPE_CHECKING:
    from .documents import Maker

_BASES = {"page": 0.5, "receipt": 0.14, "table": 0.14, "form": 0.12, "label": 0.1}
_COLOURS = ((0.78, 0.12, 0.12), (0.12, 0.3, 0.8), (0.1, 0.5, 0.2), (0.1, 0.1, 0.1))
_PROSE_SHARE = 0.6
_GAP = 2.0  # px between a region and its frame
_OTHER_LANGUAGE = 0.1
_TASKS = {"page": "page_read", "receipt": "receipt_read", "table": "table_markdown", "form": "form_json"}


def _corrupted(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    base = str(rng.choice(list(_BASES), p=list(_BASES.values())))
    task = _TASKS.get(base, "label_read")
    if base == "page" and rng.random() < _PROSE_SHARE:
        task = "page_prose"  # more of it can be worked out from the rest
    document = maker.make(base, rng, width, height, task=task)
    sheet = document.sheets[0]
    regions = [region for region in sheet.regions if maker.metrics.knows(region.text)]
    if not regions:
        raise Unfit("nothing to corrupt")
    language = document.language ^ int(rng.random() < _OTHER_LANGUAGE)
    numbers = (int(rng.integers(1 << 31)), int(rng.integers(1 << 31)), 0)
    longest = min(limits_of(width, height).answer, 240) - 8
    plan = draw_plan(regions, width, height, *numbers, language=language, max_characters=longest)
    if plan.framed:
        frame_targets(sheet, plan, rng, maker)
    meta = {"corrupt": plan, "base": base, "regions": regions}
    return Document("corrupted", [sheet], [plan.turn()], language, meta=meta)


def frame_targets(sheet: Sheet, plan: Plan, rng: np.random.Generator, maker: Maker) -> None:
    """Add a numbered frame around each target; the number stands left of it where there is room, else right."""
    colour = _COLOURS[int(rng.integers(len(_COLOURS)))]
    if sum(sheet.paper) < 1.2:  # on dark paper
        colour = (1.0, 0.85, 0.3)
    face = maker.metrics.choose(rng)
    taken = [_box_of(run, maker) for run in sheet.runs]
    for number, target in enumerate(plan.targets, 1):
        left, top, right, bottom = (v * (sheet.width, sheet.height)[i % 2] for i, v in enumerate(target.box))
        box = (
            max(0.0, left - _GAP),
            max(0.0, top - _GAP),
            min(sheet.width, right + _GAP),
            min(sheet.height, bottom + _GAP),
        )
        sheet.marks.append(Mark(FRAME, (*box, 1.0), colour))
        em = float(np.clip((bottom - top) * 0.7, 9.0, 20.0))
        run = _place_number(str(number), box, em, face, sheet, taken, maker, colour)
        taken.append(_box_of(run, maker))
        sheet.runs.append(run)


def _box_of(run: Run, maker: Maker) -> Box:
    return (run.x, run.y - 0.75 * run.em, run.x + maker.metrics.width(run.text, run.face, run.em), run.y + 0.2 * run.em)


def _place_number(
    text: str, box: Box, em: float, face: int, sheet: Sheet, taken: Sequence[Box], maker: Maker, colour: Colour
) -> Run:
    """The number right of its frame, left of it, above or below: where no text is, smaller if need be.

    Where text is everywhere it stands at the frame's upper left corner, over what is to be read.
    """
    left, top, right, bottom = box
    for size in (em, max(8.0, 0.75 * em)):
        wide = maker.metrics.width(text, face, size)
        middle = (top + bottom) / 2 + 0.36 * size
        spots = (
            (right + 2, middle), (left - wide - 2, middle), (left, top - 0.1 * size), (right - wide, top - 0.1 * size),
            (left, bottom + 0.8 * size), (right - wide, bottom + 0.8 * size),
        )  # fmt: skip
        for x, y in spots:
            run = Run(text, x, y, size, face, colour)
            a = _box_of(run, maker)
            inside = a[0] >= 1 and a[1] >= 0 and a[2] <= sheet.width - 1 and a[3] <= sheet.height
            if inside and not any(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for b in taken):
                return run
    return Run(text, left + 1, top + 0.75 * 8.0, 8.0, face, colour)


TASKS: dict[str, Callable[[Maker, np.random.Generator, int, int], Document]] = {"corrupted": _corrupted}
WEIGHTS: dict[str, float] = {"corrupted": 1.0}
