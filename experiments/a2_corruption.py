"""A2: what marked regions of a page are turned into: left as they are, noisy, or noisy and covered by turns.

    python experiments/a2_corruption.py draw sets/a2 --seed 77 --per-set 500
    python experiments/a2_corruption.py run --sets sets/a2 --atlas atlas.npz --out runs/a2 --seconds 60
    python experiments/a2_corruption.py report runs/a2 docs/results/a2-corruption.json --plot a2-corruption.png

Every arm is asked to read the same marked regions of the same pages, in the same order, from the bundled model on:

    clean    the regions are left as they are (clean OCR)
    noise    every region under heavy noise, none covered (conventional strong augmentation)
    unified  each region draws its level: mild noise, heavy noise, covered

Half of the samples ask for one region that the rest of the page tells (a total, a repeated name, a day of a week);
nothing else on that page is touched. Asked are pages of the independent renderer, damaged mildly, heavily, covered but
told by the page, and covered and told by nothing.

Time: about 4 minutes on one H100 for three arms and one seed.
Expected: unified reads mild and heavy noise at a lower CER than clean; of covered text that the page tells at least 10
points more; its confidence in text that nothing tells is at most half of that in text that the page tells. Confidence
is the mean probability of the reference's own characters, without the numbers of the list and the end. What came out is
in docs/experiments.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from training_arms import Asked, Experiment, main

from cpmv.train.config import Combination, ComposedConfig, TrainConfig, tiny_j3
from cpmv.train.corrupt import Plan, Target, draw_plan
from cpmv.train.corrupt_pixels import FAMILIES, HIGH, LOW, MAX_STRENGTH, MODERATE, NONE
from cpmv.train.draw.corrupted import frame_targets
from cpmv.train.draw.document import Document, Region

if TYPE_CHECKING:
    from cpmv.api import Model
    from cpmv.train.composed_steps import Makes
    from cpmv.train.draw.documents import Maker

LEVELS = ("mild", "heavy", "covered", "unknown")
TOLD = 0.5  # share of samples whose region the page tells
TOLD_LEVELS = {LOW: 0.25, MODERATE: 0.25, HIGH: 0.5}
TOLD_BASES = {("page", "page_prose"): 0.55, ("receipt", "receipt_read"): 0.3, ("table", "table_markdown"): 0.15}
BASES = {
    ("page", "page_prose"): 0.3, ("page", "page_read"): 0.25, ("receipt", "receipt_read"): 0.15,
    ("table", "table_markdown"): 0.12, ("form", "form_json"): 0.08, ("label", "label_read"): 0.1,
}  # fmt: skip
_HEAVY = (0.4, MAX_STRENGTH)
_ANSWER = 96  # characters
_TRIES = 40


class Damaged:
    """Pages with marked regions, damaged as an arm does it; pages, regions and questions are the same in all arms."""

    def __init__(self, maker: Maker, arm: str) -> None:
        self.maker, self.arm = maker, arm

    def make(self, kind: str, rng: np.random.Generator, width: int, height: int) -> Document:
        told = rng.random() < TOLD
        bases = TOLD_BASES if told else BASES
        for _ in range(_TRIES):
            base, task = list(bases)[int(rng.choice(len(bases), p=list(bases.values())))]
            document = self.maker.make(base, rng, width, height, task=task)
            sheet = document.sheets[0]
            regions = [r for r in sheet.regions if self.maker.metrics.knows(r.text) and len(r.text) <= _ANSWER - 8]
            if told:
                regions = [r for r in regions if r.derivable]
            if regions:
                break
        else:
            raise ValueError("no page has such a region")
        most = 1 if told else int(rng.integers(1, 4))
        numbers = (int(rng.integers(1 << 31)), int(rng.integers(1 << 31)))
        plan = self._plan(regions, width, height, numbers, document.language, most, told)
        if plan.framed:
            frame_targets(sheet, plan, np.random.default_rng((*numbers, 1)), self.maker)
        return Document("told" if told else "other", [sheet], [plan.turn()], plan.language, meta={"corrupt": plan})

    def _plan(
        self, regions: Sequence[Region], width: int, height: int, numbers: tuple[int, int], language: int, most: int,
        told: bool,
    ) -> Plan:  # fmt: skip
        plan = draw_plan(
            regions, width, height, *numbers, 0, language=language, max_regions=most, max_characters=_ANSWER
        )
        rng = np.random.default_rng((*numbers, 2))
        levelled = told_levels(rng, plan.targets) if told else plan.targets
        return replace(plan, targets=tuple(self._level(rng, target) for target in levelled))

    def _level(self, rng: np.random.Generator, target: Target) -> Target:
        if self.arm == "clean":
            return replace(target, level=NONE, families=(), strength=0.0)
        if self.arm == "noise":
            return noisy(rng, target, MODERATE)
        return target


def told_levels(rng: np.random.Generator, targets: Sequence[Target]) -> list[Target]:
    """Levels for regions that the page tells: half of them covered."""
    out = []
    for target in targets:
        level = int(rng.choice(list(TOLD_LEVELS), p=list(TOLD_LEVELS.values())))
        covered = replace(target, level=HIGH, families=(), strength=0.0)
        out.append(covered if level == HIGH else noisy(rng, target, level))
    return out


def noisy(rng: np.random.Generator, target: Target, level: int) -> Target:
    """The region at a level of noise: with the families it has, or one where it was to be covered."""
    families = target.families or (int(rng.integers(len(FAMILIES))),)
    strength = float(rng.uniform(*(_HEAVY if level == MODERATE else (0.0, 0.4))))
    return replace(target, level=level, families=families, strength=strength)


def damaged(arm: str) -> Callable[[Makes], Makes]:
    return lambda maker: Damaged(maker, arm)  # type: ignore[arg-type]


def config() -> TrainConfig:
    """Pages with marked regions alone, on two grids, from the bundled model on."""
    composed = ComposedConfig(
        singles=96, pages=0, packages=0, texts=0, tokens=96 * 128, corrupted_singles=96,
        single_glyphs=(110, 40, 10), single_kinds={"corrupted": 1.0}, workers=15,
    )  # fmt: skip
    combinations = tuple(
        Combination(((16, 16),), (8, 8), single, (448, 448), (8, 8)) for single in ((16, 16), (14, 18))
    )
    return replace(tiny_j3(), mix={}, combinations=combinations, composed=composed, aux_weight=0.0)


def draw(folder: Path, seed: int, count: int) -> None:
    """Write `hidden_LEVEL.zip` of the four levels."""
    from cpmv.evals.draw.sets import write_sets

    folder.mkdir(parents=True, exist_ok=True)
    write_sets(folder, seed, count, [f"hidden_{level}" for level in LEVELS])


def asked(name: str, args: argparse.Namespace) -> Sequence[Asked]:
    """The four levels; shuffled and blank pages on text that the page tells."""
    from cpmv.evals.tasks import Task

    rows = []
    for level in LEVELS:
        controls = ("blank", "shuffled") if level == "covered" else ()
        stored = f"hidden_{level}"
        rows.append(Asked(level, Task(stored, "hidden", level, "read", 500, 48), args.sets, controls))
    return rows


def confidence(model: Model, args: argparse.Namespace) -> dict[str, Any]:
    """Mean probability of the reference's characters on covered text: told by the page, and by nothing."""
    from cpmv.evals.prepare import both_processors, with_answer
    from cpmv.evals.samples import read_set
    from cpmv.evals.tasks import TASKS

    both = both_processors(model.processor)
    out: dict[str, Any] = {}
    for level in ("covered", "unknown"):
        task = TASKS[f"hidden_{level}"]
        means = []
        for sample in read_set(args.sets / f"hidden_{level}.zip", args.limit or 300):
            inputs = with_answer(both, task, sample)
            assert inputs.labels is not None
            positions = (inputs.labels >= 0).nonzero().flatten()
            ids = inputs.labels[positions]
            kept = text_places([model.processor.tokenizer.decode([int(i)]) for i in ids], sample.answer)
            logits = model.logits(inputs)[(positions[kept] - 1).to(model.device)].float()
            wanted = ids[kept].to(model.device)
            means.append(float(logits.softmax(-1).gather(1, wanted[:, None]).mean()))
        values = np.array(means)
        out[level] = {"n": len(means), "mean": float(values.mean()), "error": float(values.std() / len(means) ** 0.5)}
    out["ratio"] = out["unknown"]["mean"] / out["covered"]["mean"]
    return out


def text_places(tokens: Sequence[str], answer: str) -> list[int]:
    """Which tokens of "1. text\\n2. text" and its end write the texts themselves."""
    wanted, at = [], 0
    for line in answer.split("\n"):
        begin = at + line.index(" ") + 1
        wanted.append((begin, at + len(line)))
        at += len(line) + 1
    places, at = [], 0
    for index, token in enumerate(tokens):
        if any(begin <= at < end for begin, end in wanted) and at < len(answer):
            places.append(index)
        at += len(token)
    return places


ARMS = {arm: damaged(arm) for arm in ("clean", "noise", "unified")}
EXPERIMENT = Experiment(ARMS, config, asked, draw, confidence)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, doc=__doc__))
