"""A1 and A1b: frames a package at equal visual tokens, and packages of random size against fixed ones.

    python experiments/a1_packing.py draw sets/a1 --seed 77 --per-set 400
    python experiments/a1_packing.py run --sets sets/a1 --atlas atlas.npz --out runs/a1 --seconds 55
    python experiments/a1_packing.py report runs/a1 docs/results/a1-packing.json --plot docs/results/a1-packing.png

A clip of 18 frames costs three packages, 48 tokens, in every arm: `pack1` sees every sixth frame, one a package,
`pack3` every second one in threes, `pack6` all of them in sixes; where sampling begins is drawn for each clip. Arms
differ in nothing else: the same clips in the same order from the bundled model on, as many steps. `random` draws 1, 2,
3 or 6 frames for each clip (A1b). Every arm is asked with 1, 3 and 6 frames a package at equal tokens, and events at
equal frames too (the frames of pack1, in packages of three). Events last one or two of the 18 frames. The static task
is a scene seen by a shaking camera: frames that are equal to the pixel give the same tokens at every size.

Time: about 4 minutes on one H100 for four arms and one seed.
Expected (TR table: 67.3 against 65.5 at a third of the tokens a frame): pack3 better than pack1 by at least 10 points
on events and at most a point worse on still scenes; random as good as fixed at every size. What came out is in
docs/experiments.md.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from training_arms import Asked, Experiment, main

from cpmv.train.config import Combination, ComposedConfig, TrainConfig, tiny_j3
from cpmv.train.draw.document import TRIANGLE, WEDGE, Document, Mark, Sheet

if TYPE_CHECKING:
    from cpmv.evals.samples import Sample
    from cpmv.train.composed_steps import Makes

FRAMES = 18  # of a clip, before it is sampled
DENSEST = 6  # frames a package of the densest arm
SIZES, SHARES = (1, 2, 3, 6), (0.2, 0.15, 0.3, 0.35)  # of the arm with random packages
EVENTS = {"count_flashes": 2.0, "which_flashed": 1.5, "count_bounces": 2.2, "nth": 1.2, "order": 0.6}
STILL = 0.25  # share of training clips in which nothing moves but the camera
SHAKE = 0.035  # of the side: how far frames of a still scene are apart
PICTURE = (112, 112)  # px of a frame: 64 patches


def sampled(count: int, size: int, phase: int) -> list[int]:
    """Which of `count` frames are seen with `size` a package, so that packages are as many whatever the size."""
    every = DENSEST // size
    return list(range(phase % every, count, every))


class Packed:
    """Clips at the rate and in the packages of an arm. size: frames a package; None draws it for each clip."""

    def __init__(self, maker: Makes, size: int | None) -> None:
        self.maker, self.size = maker, size

    def make(self, kind: str, rng: np.random.Generator, width: int, height: int) -> Document:
        document = self._still(rng, width, height) if rng.random() < STILL else self._event(rng, width, height)
        frames = document.sheets
        frames += [frames[-1]] * (-len(frames) % DENSEST)
        step, start, phase = int(rng.integers(1, 9)), int(rng.integers(1, 301)), int(rng.integers(DENSEST))
        drawn = int(rng.choice(SIZES, p=SHARES))
        size = self.size or drawn
        chosen = sampled(len(frames), size, phase)
        times = [start + i * step for i in chosen]
        groups = [times[i : i + size] for i in range(0, len(times), size)]
        turns = [replace(document.turns[0], num_sheets=len(chosen)), *document.turns[1:]]
        return Document(
            document.task, [frames[i] for i in chosen], turns, document.language, groups, meta=document.meta
        )

    def _event(self, rng: np.random.Generator, width: int, height: int) -> Document:
        weights = np.array(list(EVENTS.values()))
        task = str(rng.choice(list(EVENTS), p=weights / weights.sum()))
        document: Document = self.maker.make("clip", rng, width, height, task=task)  # type: ignore[call-arg]
        if len(document.sheets) > FRAMES:
            raise ValueError(f"{len(document.sheets)} frames are too many")
        return document

    def _still(self, rng: np.random.Generator, width: int, height: int) -> Document:
        scene = self.maker.make("scene", rng, width, height)
        count = DENSEST * int(rng.integers(1, FRAMES // DENSEST + 1))
        return replace(
            scene, sheets=scene.sheets * count, turns=[replace(scene.turns[0], num_sheets=count), *scene.turns[1:]]
        )


def moved(sheet: Sheet, dx: float, dy: float) -> Sheet:
    """The sheet as a camera sees it that stands a little aside."""
    num = {WEDGE: 2, TRIANGLE: 6}
    marks = []
    for mark in sheet.marks:
        points = num.get(mark.kind, 4)
        shifted = (place + (dx, dy)[i % 2] for i, place in enumerate(mark.places[:points]))
        marks.append(Mark(mark.kind, (*shifted, *mark.places[points:]), mark.colour))
    runs = [replace(run, x=run.x + dx, y=run.y + dy) for run in sheet.runs]
    return Sheet(sheet.width, sheet.height, sheet.paper, marks, runs)


def arm(size: int | None) -> Callable[[Makes], Makes]:
    return lambda maker: Packed(maker, size)


ARMS = {"pack1": arm(1), "pack3": arm(3), "pack6": arm(6), "random": arm(None)}
OWN = {"pack1": 1, "pack3": 3, "pack6": 6}


def config() -> TrainConfig:
    """Clips alone, frames of 8 x 8 patches, from the bundled model on."""
    side = PICTURE[0] // 14
    composed = ComposedConfig(
        singles=0, pages=0, packages=192, texts=0, tokens=192 * 72,
        frame_glyphs=(1, 1, 1), clip_kinds={"clip": 1.0}, workers=14,
    )  # fmt: skip
    combination = Combination(((16, 16),), (8, 8), (16, 16), (448, 448), (side, side))
    return replace(tiny_j3(), mix={}, combinations=(combination,), composed=composed, aux_weight=0.0)


def draw(folder: Path, seed: int, count: int) -> None:
    """Write `events.zip` and `still.zip`, all 18 frames of every clip, each a package of its own."""
    from cpmv.evals.draw.events import draw_event
    from cpmv.evals.samples import write_set

    def event(rng: random.Random) -> Sample:
        return longer(draw_event(rng, PICTURE, rng.random() < 0.25, FRAMES))

    folder.mkdir(parents=True, exist_ok=True)
    write_set(folder / "events.zip", (event(random.Random(f"{seed} event {i}")) for i in range(count)))
    write_set(folder / "still.zip", (still(random.Random(f"{seed} still {i}")) for i in range(count)))


def still(rng: random.Random) -> Sample:
    """A scene in which nothing moves, seen by a camera that shakes, and a question about it."""
    from PIL.Image import Transform

    from cpmv.evals.draw.scenes import draw_scene

    kinds = ("colour_of", "shape_of", "exists", "count", "count_colour", "left_of", "above", "where_is")
    sample = draw_scene(rng, PICTURE, kinds=kinds, chinese=rng.random() < 0.25)
    step, start = rng.randint(1, 8), rng.randint(1, 300)
    image = sample.turns[0].images[0]
    reach = SHAKE * min(PICTURE)
    shifts = [(1, 0, rng.uniform(-reach, reach), 0, 1, rng.uniform(-reach, reach)) for _ in range(FRAMES)]
    paper = image.getpixel((0, 0))
    frames = [image.transform(image.size, Transform.AFFINE, shift, fillcolor=paper) for shift in shifts]
    turn = replace(sample.turns[0], images=frames)
    return replace(sample, turns=[turn], groups=[[start + i * step] for i in range(FRAMES)])


def longer(sample: Sample) -> Sample:
    """A clip whose last frame stays until there are 18."""
    assert sample.groups is not None
    images, times = sample.turns[0].images, [group[0] for group in sample.groups]
    step = times[1] - times[0]
    missing = FRAMES - len(images)
    if missing < 0:
        raise ValueError(f"a clip has {len(images)} frames; at most {FRAMES} can be sampled")
    turn = replace(sample.turns[0], images=images + [images[-1]] * missing)
    return replace(
        sample,
        turns=[turn],
        groups=[[time] for time in (*times, *(times[-1] + step * (i + 1) for i in range(missing)))],
    )


def seen(sample: Sample, rate: int, size: int, number: int) -> Sample:
    """The clip as it is sampled for `rate` frames a package at equal tokens, shown in packages of `size`."""
    assert sample.groups is not None
    turn, times = sample.turns[0], [group[0] for group in sample.groups]
    chosen = sampled(len(times), rate, random.Random(number).randrange(DENSEST))
    kept = [times[i] for i in chosen]
    groups = [kept[i : i + size] for i in range(0, len(kept), size)]
    shown = [replace(turn, images=[turn.images[i] for i in chosen])]
    grid = f"{PICTURE[1] // 14}x{PICTURE[0] // 14}"  # of a frame, which is not resized
    return replace(sample, turns=shown, groups=groups, meta={**sample.meta, "group": "trained", "grid": grid})


def asked(name: str, args: argparse.Namespace) -> Sequence[Asked]:
    """Events and still scenes at every size, at equal tokens; controls at the arm's own size; and equal frames."""
    from cpmv.evals.tasks import Task

    rows = []
    for what in ("events", "still"):
        shown = [(f"{what} {size}", size, size) for size in (1, 3, 6)]
        if what == "events":
            shown.append(("events equal frames", 1, 3))
        for title, rate, size in shown:
            folder = sampled_sets(args.sets, what, rate, size, Path(args.out) / "sets")
            controls = ("blank", "shuffled") if rate == size == OWN.get(name) else ()
            rows.append(Asked(title, Task(what, "event", title, "exact", 400, 16, native=True), folder, controls))
    return rows


def sampled_sets(source: Path, name: str, rate: int, size: int, out: Path) -> Path:
    """Write a set as an arm sees it, once; return its folder."""
    from cpmv.evals.samples import read_set, write_set

    folder = out / f"{rate}-{size}"
    if not (folder / f"{name}.zip").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        samples = read_set(source / f"{name}.zip")
        write_set(folder / f"{name}.zip", [seen(sample, rate, size, i) for i, sample in enumerate(samples)])
    return folder


EXPERIMENT = Experiment(ARMS, config, asked, draw)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, doc=__doc__))
