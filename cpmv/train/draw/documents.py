"""Composed documents: the one entry that draws a document of any kind from a random generator.

A kind (page, receipt, clip, ...) is a module with a table `TASKS` from task name to a function
(maker, rng, width, height) -> Document and a table `WEIGHTS` of how often each is asked. The same generator state
always gives the same document. A layout that does not fit its sheet raises `Unfit`; the maker then draws again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from . import (
    charts,
    corrupted,
    events,
    forms,
    pages,
    product_labels,
    receipts,
    scenes,
    several,
    tables,
    textonly,
    think,
)
from .canvas import Canvas, Typefaces, Unfit, limits_of
from .content import content_of
from .document import Document, Metrics

Task = Callable[["Maker", np.random.Generator, int, int], Document]
_ATTEMPTS = 60
_HAN_SHARE = 0.3
_OTHER_LANGUAGE = 0.1  # share of questions in the other language than the sheet's


@dataclass(frozen=True)
class Kind:
    """Tasks of one kind of document and their weights."""

    tasks: Mapping[str, Task]
    weights: Mapping[str, float]


KINDS: dict[str, Kind] = {
    "page": Kind(pages.TASKS, pages.WEIGHTS),
    "receipt": Kind(receipts.TASKS, receipts.WEIGHTS),
    "label": Kind(product_labels.TASKS, product_labels.WEIGHTS),
    "table": Kind(tables.TASKS, tables.WEIGHTS),
    "form": Kind(forms.TASKS, forms.WEIGHTS),
    "chart": Kind(charts.TASKS, charts.WEIGHTS),
    "scene": Kind(scenes.TASKS, scenes.WEIGHTS),
    "several": Kind(several.TASKS, several.WEIGHTS),
    "corrupted": Kind(corrupted.TASKS, corrupted.WEIGHTS),
    "clip": Kind(events.TASKS, events.WEIGHTS),
    "think": Kind(think.TASKS, think.WEIGHTS),
    "think_clip": Kind(events.THINK_TASKS, events.THINK_WEIGHTS),
    "text": Kind(textonly.TASKS, textonly.WEIGHTS),
    "think_text": Kind(think.TEXT_TASKS, think.TEXT_WEIGHTS),
}
WEIGHTS: dict[str, float] = {"page": 3.0, "receipt": 1.2, "label": 1.2, "table": 1.2, "form": 1.0, "chart": 1.8}


class Maker:
    """Makes documents; built once a process.

    held_out: words kept for evaluation instead of the others (faces follow `metrics`), and the held-out date format in
    few-shot answers.
    """

    def __init__(self, metrics: Metrics, *, held_out: bool = False) -> None:
        self.metrics = metrics
        self.held_out = held_out
        self.faces = Typefaces(metrics)
        self.content = content_of(held_out)
        self.ease = 1.0
        self._shares = {name: _cumulative(kind.tasks, kind.weights) for name, kind in KINDS.items()}

    def make(
        self, kind: str, rng: np.random.Generator, width: int, height: int, *, task: str | None = None
    ) -> Document:
        """A document of `kind` whose sheets are `width` x `height` px. task: one of the kind's, else drawn by weight.

        Raises ValueError for an unknown kind, and when nothing of this kind fits the size.
        """
        if kind not in KINDS:
            raise ValueError(f"unknown kind of document {kind!r}; known: {', '.join(KINDS)}")
        tasks = KINDS[kind].tasks
        names, shares = self._shares[kind]
        for attempt in range(_ATTEMPTS):
            self.ease = max(0.3, 0.94**attempt)
            name = task or names[int(np.searchsorted(shares, rng.random(), side="right"))]
            try:
                return _checked(tasks[name](self, rng, width, height), width, height)
            except Unfit:
                continue
        raise ValueError(f"no {task or kind} fits a sheet of {width} x {height} px; use a larger one")

    def canvas(self, rng: np.random.Generator, width: int, height: int, *, han: bool | None = None) -> Canvas:
        """An empty sheet. han: Chinese text; None draws it."""
        han = bool(rng.random() < _HAN_SHARE) if han is None else han
        return Canvas(self.faces, rng, width, height, han=han, ease=self.ease)

    @staticmethod
    def language(canvas: Canvas) -> int:
        """The language of a question whose answer is copied from the sheet: mostly the sheet's own."""
        return int(canvas.han) ^ int(canvas.chance(_OTHER_LANGUAGE))


def _cumulative(tasks: Mapping[str, Task], weights: Mapping[str, float]) -> tuple[list[str], np.ndarray]:
    shares = np.cumsum([weights[name] for name in tasks])
    return list(tasks), shares / shares[-1]


def _checked(document: Document, width: int, height: int) -> Document:
    """The document, if its answers are short enough."""
    limit = limits_of(width, height).answer
    if sum(len(turn.answer) for turn in document.turns) > limit:
        raise Unfit("the answer is too long")
    return document
