"""Sheets of other kinds with some of their text regions to be corrupted, and the question for what stood there.

The plan (`train/corrupt.py`) travels in `meta["corrupt"]`; whoever draws the sheet carries it out. Where the prompt
points by number, thin frames and their numbers are part of the sheet, just outside the regions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..corrupt import Plan, draw_plan
from .canvas import Unfit, limits_of
from .document import FRAME, Document, Mark, Run, Sheet

if TYPE_CHECKING:
    from .documents import Maker

_BASES = {"page": 0.5, "receipt": 0.14, "table": 0.14, "form": 0.12, "label": 0.1}
_COLOURS = ((0.78, 0.12, 0.12), (0.12, 0.3, 0.8), (0.1, 0.5, 0.2), (0.1, 0.1, 0.1))
_GAP = 2.0  # px between a region and its frame
_OTHER_LANGUAGE = 0.1
_TASKS = {"page": "page_read", "receipt": "receipt_read", "table": "table_markdown", "form": "form_json"}


def _corrupted(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    base = str(rng.choice(list(_BASES), p=list(_BASES.values())))
    document = maker.make(base, rng, width, height, task=_TASKS.get(base, "label_read"))
    sheet = document.sheets[0]
    regions = [region for region in sheet.regions if maker.metrics.knows(region.text)]
    if not regions:
        raise Unfit("nothing to corrupt")
    language = document.language ^ int(rng.random() < _OTHER_LANGUAGE)
    numbers = (int(rng.integers(1 << 31)), int(rng.integers(1 << 31)), 0)
    longest = min(limits_of(width, height).answer, 240) - 8
    plan = draw_plan(regions, width, height, *numbers, language=language, max_characters=longest)
    if plan.framed:
        _draw_frames(sheet, plan, rng, maker)
    meta = {"corrupt": plan, "base": base, "regions": regions}
    return Document("corrupted", [sheet], [plan.turn()], language, meta=meta)


def _draw_frames(sheet: Sheet, plan: Plan, rng: np.random.Generator, maker: Maker) -> None:
    """Add a numbered frame around each target; the number stands left of it where there is room, else right."""
    colour = _COLOURS[int(rng.integers(len(_COLOURS)))]
    if sum(sheet.paper) < 1.2:  # on dark paper
        colour = (1.0, 0.85, 0.3)
    face = maker.metrics.choose(rng)
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
        wide = maker.metrics.width(str(number), face, em)
        x = box[0] - wide - 2 if box[0] >= wide + 3 else min(sheet.width - wide - 1, box[2] + 2)
        sheet.runs.append(Run(str(number), x, (top + bottom) / 2 + em * 0.36, em, face, colour))


TASKS: dict[str, Callable[[Maker, np.random.Generator, int, int], Document]] = {"corrupted": _corrupted}
WEIGHTS: dict[str, float] = {"corrupted": 1.0}
