"""What each set measures: its question, its metrics, how its pictures reach the model, how many samples are frozen.

A row of `TASKS` is one line of a report. Several rows may ask about the same samples (`source`): clips repacked, or
questions answered with and without thinking. `BARS` are the demands on the bundled model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .samples import EvalError, Sample, read_set

SETS = Path(__file__).parent / "sets"  # the frozen ones
MEASURES = {  # measure: metrics that are reported, the first one with an interval
    "read": ("exact", "cer"),
    "exact": ("exact",),
    "date": ("exact", "format"),
    "table": ("cell_f1", "exact"),
    "json": ("fields", "exact"),
    "describe": ("exact", "chair", "recall"),
    "hidden": ("exact", "cer", "probability"),
}


@dataclass(frozen=True)
class Task:
    """One row of a report.

    measure: of MEASURES. frozen: samples in the frozen set. source: the set whose samples are asked. packing: frames a
    package, None as stored. slices: most slices of a picture. native: pictures keep their own size, 14 px a patch.
    """

    name: str
    group: str
    title: str
    measure: str
    frozen: int
    max_new_tokens: int = 24
    source: str = ""
    packing: int | None = None
    slices: int = 1
    native: bool = False
    thinking: bool = False

    @property
    def stored_as(self) -> str:
        return self.source or self.name


def _tasks() -> list[Task]:
    return [
        Task("line", "read", "one line, training faces", "read", 300, 48),
        Task("paragraph", "read", "paragraph, training faces", "read", 150, 128),
        Task("line_new_faces", "read", "one line, held-out faces", "read", 300, 48),
        Task("paragraph_new_faces", "read", "paragraph, held-out faces", "read", 150, 128),
        Task("old_style", "read", "lines, held-out old-style family", "read", 100, 128),
        Task("date", "read", "one date", "read", 60, 24),
        Task("han", "read", "Han line, training faces", "read", 150, 48),
        Task("han_new_faces", "read", "Han line, held-out faces", "read", 150, 48),
        Task("tilted", "read", "one line, tilted and faint", "read", 60, 48),
        Task("page", "read", "12-line page with slices", "read", 30, 448, slices=9),
        Task("grids", "read", "24 grids, half of them unseen", "read", 240, 112, native=True),
        Task("scene_colour", "scene", "colour of a shape", "exact", 100),
        Task("scene_shape", "scene", "shape of a colour", "exact", 100),
        Task("scene_exists", "scene", "is there one: yes or no", "exact", 100),
        Task("scene_left_of", "scene", "left of, above: yes or no", "exact", 100),
        Task("scene_count", "scene", "count, at most 6", "exact", 100),
        Task("scene_places", "scene", "places and sizes", "exact", 100),
        Task("scene_many", "scene", "count 7 to 9 objects", "exact", 100),
        Task("scene_new_pairs", "scene", "held-out colour-shape pairs", "exact", 100),
        Task("describe", "scene", "full description", "describe", 100, 96),
        Task("clip_direction", "clip", "direction, eight ways", "exact", 120),
        Task("clip_speed", "clip", "which is faster", "exact", 60),
        Task("clip_order", "clip", "which comes first", "exact", 100),
        Task("events_1", "event", "short events, a frame a package", "exact", 100, source="events", packing=1),
        Task("events_3", "event", "short events, 3 frames a package", "exact", 100, source="events", packing=3),
        Task("events_6", "event", "short events, 6 frames a package", "exact", 100, source="events", packing=6),
        Task("card", "event", "text on a moving card", "read", 60, 48),
        Task("date_known", "document", "production date, known formats", "date", 60),
        Task("date_new_format", "document", "production date, held-out format", "date", 40),
        Task("receipt_total", "document", "receipt: total", "exact", 60),
        Task("table", "document", "table as Markdown", "table", 50, 240),
        Task("table_cell", "document", "table: a cell, the largest", "exact", 60),
        Task("chart_value", "document", "chart: a value", "exact", 100),
        Task("chart_extreme", "document", "chart: largest, smallest", "exact", 60),
        Task("form", "document", "form as JSON", "json", 50, 200),
        Task("several", "several", "questions over 2 to 4 pictures", "exact", 100, 96),
        Task("hidden_mild", "hidden", "damaged text, mild", "hidden", 50, 96),
        Task("hidden_heavy", "hidden", "damaged text, heavy", "hidden", 50, 96),
        Task("hidden_covered", "hidden", "covered, told by the page", "hidden", 50, 96),
        Task("hidden_unknown", "hidden", "covered, told by nothing", "hidden", 50, 96),
        Task("think_fast", "think", "reasoning, answered at once", "exact", 100, 32, source="thinking"),
        Task("think_deep", "think", "reasoning, with thinking", "exact", 100, 320, source="thinking", thinking=True),
        Task("talk", "text", "text only", "exact", 150, 96),
    ]


TASKS: dict[str, Task] = {task.name: task for task in _tasks()}


@dataclass(frozen=True)
class Bar:
    """A demand: `metric` of `task` at least (or, with `most`, at most) `value`. control: of that control's run."""

    task: str
    metric: str
    value: float
    most: bool = False
    control: str = ""

    def met(self, value: float) -> bool:
        return value <= self.value if self.most else value >= self.value

    def __str__(self) -> str:
        name = {"cer": "CER ", "chair": "CHAIR "}.get(self.metric, "")
        return f"{name}{'≤' if self.most else '≥'} {self.value * 100:g} %"


_SCENES = ("scene_colour", "scene_shape", "scene_exists", "scene_left_of", "scene_count")
BARS = (
    Bar("line", "exact", 0.95), Bar("line", "cer", 0.007, most=True),
    Bar("paragraph", "exact", 0.90), Bar("paragraph", "cer", 0.008, most=True),
    Bar("line_new_faces", "exact", 0.88), Bar("line_new_faces", "cer", 0.02, most=True),
    Bar("paragraph_new_faces", "exact", 0.78), Bar("paragraph_new_faces", "cer", 0.02, most=True),
    Bar("old_style", "cer", 0.06, most=True),
    Bar("page", "cer", 0.04, most=True),
    Bar("han", "cer", 0.02, most=True), Bar("han_new_faces", "cer", 0.05, most=True),
    *(Bar(name, "exact", 0.98) for name in _SCENES),
    Bar("scene_new_pairs", "exact", 0.90), Bar("scene_many", "exact", 0.80),
    Bar("clip_direction", "exact", 0.97), Bar("clip_order", "exact", 0.90),
    Bar("clip_direction", "opposite", 0.90, control="reversed"),
    Bar("grids", "unseen_gap", 0.05, most=True), Bar("grids", "lowest_grid", 0.60),
    Bar("date_known", "exact", 0.85), Bar("date_new_format", "exact", 0.20),
    Bar("table", "cell_f1", 0.85), Bar("chart_value", "exact", 0.70),
    Bar("think_deep", "exact", 0.60), Bar("think_deep", "gain", 0.15),
)  # fmt: skip


def choose(names: Sequence[str]) -> list[Task]:
    """Tasks by name or group, in the order of the table; all without names. Raises EvalError for an unknown one."""
    known = set(TASKS) | {task.group for task in TASKS.values()}
    for name in names:
        if name not in known:
            raise EvalError(f"there is no set or group {name!r}; allowed: {', '.join(sorted(known))}")
    return [task for task in TASKS.values() if not names or task.name in names or task.group in names]


def load(task: Task, folder: Path = SETS, limit: int | None = None) -> list[Sample]:
    """Samples of a task, the first `limit` of them. Raises EvalError where its set is not there."""
    path = folder / f"{task.stored_as}.zip"
    if not path.is_file():
        raise EvalError(f"{path} does not exist; draw sets with: cpmv eval draw {folder}")
    samples = read_set(path, limit)
    return [repack(sample, task.packing) for sample in samples] if task.packing else samples


def repack(sample: Sample, packing: int) -> Sample:
    """The same frames and times, `packing` of them in each package; the last package may be shorter."""
    assert sample.groups is not None
    times = [time for group in sample.groups for time in group]
    return replace(sample, groups=[times[start : start + packing] for start in range(0, len(times), packing)])
