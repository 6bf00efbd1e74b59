"""The table of sets: who draws each, on pictures of which size; and writing them to a folder."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..samples import EvalError, Sample, write_set
from ..tasks import TASKS
from . import charts, clips, events, hidden, papers, reading, scenes, several, tables, talking, thinking
from .canvas import Size

Draw = Callable[[random.Random, int], Sample | list[Sample]]

_ODD_SIZES = (
    (238, 238), (210, 210), (280, 280), (252, 196), (182, 266), (364, 154), (168, 336), (196, 252), (392, 126),
)  # fmt: skip
_PAGE_SIZES = ((448, 448), (448, 448), (420, 504), (504, 420), (448, 560))


def single(rng: random.Random) -> Size:
    """Mostly the plain square; a third on other shapes."""
    return (224, 224) if rng.random() < 0.67 else rng.choice(_ODD_SIZES)


def _chinese(rng: random.Random) -> bool:
    return rng.random() < 0.25


def _read(kind: str, held_out: bool, paragraph: bool = False) -> Draw:
    def draw(rng: random.Random, index: int) -> Sample:
        size = single(rng)
        if paragraph:
            return reading.draw_paragraph(rng, size, kind, held_out)
        return reading.draw_text(rng, size, kind=kind, held_out_faces=held_out)

    return draw


def _old_style(rng: random.Random, index: int) -> Sample:
    """Lines and paragraphs by turns."""
    size = single(rng)
    if index % 2:
        return reading.draw_paragraph(rng, size, "oldstyle", True)
    return reading.draw_text(rng, size, kind="oldstyle", held_out_faces=True)


def _scene(*kinds: str, held_out_pair: bool = False, count: tuple[int, int] | None = None) -> Draw:
    def draw(rng: random.Random, index: int) -> Sample:
        number = rng.randint(*count) if count else None
        return scenes.draw_scene(
            rng, single(rng), kinds=kinds, count=number, held_out_pair=held_out_pair, chinese=_chinese(rng)
        )

    return draw


def _clip(*kinds: str) -> Draw:
    return lambda rng, index: clips.draw_clip(rng, clips.clip_size(rng), kinds=kinds, chinese=_chinese(rng))


def _hidden(level: str) -> Draw:
    return lambda rng, index: hidden.draw_hidden(rng, level, _chinese(rng))


DRAWERS: dict[str, Draw] = {
    "line": _read("ordinary", False),
    "paragraph": _read("ordinary", False, paragraph=True),
    "line_new_faces": _read("ordinary", True),
    "paragraph_new_faces": _read("ordinary", True, paragraph=True),
    "old_style": _old_style,
    "date": lambda rng, index: reading.draw_date(rng, single(rng)),
    "han": _read("han", False),
    "han_new_faces": _read("han", True),
    "tilted": lambda rng, index: reading.draw_tilted(rng, single(rng)),
    "page": lambda rng, index: reading.draw_page(rng, rng.choice(_PAGE_SIZES)),
    "grids": lambda rng, index: reading.draw_grid_pair(rng, index),
    "scene_colour": _scene("colour_of"),
    "scene_shape": _scene("shape_of"),
    "scene_exists": _scene("exists"),
    "scene_left_of": _scene("left_of", "right_of", "above", "below"),
    "scene_count": _scene("count", "count_colour", "count_shape"),
    "scene_places": _scene("what_at", "where_is", "largest", "smallest"),
    "scene_many": _scene("count", count=(7, 9)),
    "scene_new_pairs": _scene(held_out_pair=True),
    "describe": _scene("describe"),
    "clip_direction": _clip("direction"),
    "clip_speed": _clip("faster", "slower"),
    "clip_order": _clip("first", "last"),
    "events": lambda rng, index: events.draw_event(rng, rng.choice(events.SIZES), _chinese(rng)),
    "card": lambda rng, index: events.draw_card(rng, _chinese(rng)),
    "date_known": lambda rng, index: papers.draw_date_series(rng, papers.KNOWN_FORMS, _chinese(rng)),
    "date_new_format": lambda rng, index: papers.draw_date_series(rng, (papers.NEW_FORM,), _chinese(rng)),
    "receipt_total": lambda rng, index: papers.draw_receipt(rng, _chinese(rng)),
    "table": lambda rng, index: tables.draw_table(rng, _chinese(rng), whole=True),
    "table_cell": lambda rng, index: tables.draw_table(rng, _chinese(rng), whole=False),
    "chart_value": lambda rng, index: charts.draw_chart(rng, _chinese(rng), extremes=False),
    "chart_extreme": lambda rng, index: charts.draw_chart(rng, _chinese(rng), extremes=True),
    "form": lambda rng, index: papers.draw_form(rng, _chinese(rng)),
    "several": lambda rng, index: several.draw_several(rng, _chinese(rng)),
    **{f"hidden_{level}": _hidden(level) for level in hidden.LEVELS},
    "thinking": lambda rng, index: thinking.draw_thinking(rng, _chinese(rng)),
    "talk": lambda rng, index: talking.draw_talk(rng, _chinese(rng)),
}


def draw_samples(name: str, seed: int, count: int) -> Iterator[Sample]:
    """`count` samples of a set; the same seed and fonts give the same samples, and a longer set begins alike."""
    drawn = index = 0
    while drawn < count:
        made = DRAWERS[name](random.Random(f"{seed} {name} {index}"), index)
        for sample in (made if isinstance(made, list) else [made])[: count - drawn]:
            yield sample
            drawn += 1
        index += 1


def write_sets(
    folder: Path,
    seed: int,
    per_set: int | None = None,
    names: Sequence[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, int]:
    """Write sets into `folder`, `per_set` samples each (None: as many as the frozen ones); bytes of each.

    Raises EvalError for an unknown set or when no fonts are installed.
    """
    for name in names:
        if name not in DRAWERS:
            raise EvalError(f"there is no set {name!r} to draw; allowed: {', '.join(DRAWERS)}")
    wanted = list(names or DRAWERS)
    sizes = {}
    for done, name in enumerate(wanted):
        progress(done, len(wanted))
        count = frozen_size(name) if per_set is None else per_set
        sizes[name] = write_set(folder / f"{name}.zip", draw_samples(name, seed, count))
    progress(len(wanted), len(wanted))
    return sizes


def frozen_size(name: str) -> int:
    """Samples that the tasks of a set ask for."""
    return max(task.frozen for task in TASKS.values() if task.stored_as == name)
