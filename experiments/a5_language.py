"""A5: how small a share of Chinese keeps, or brings back, answers in Chinese.

    python experiments/a5_language.py draw sets/a5 --seed 77 --per-set 400
    python experiments/a5_language.py run --sets sets/a5 --atlas atlas.npz --out runs/a5 --seconds 60
    python experiments/a5_language.py report runs/a5 docs/results/a5-language.json --plot docs/results/a5-language.png

Scenes and questions about them from the bundled model on, which knows both languages: 0, 2, 5 or 20 % of the samples
are Chinese, the others English and the same in all arms. Asked are 400 English and 400 Chinese questions whose answers
are words. To bring a lost language back instead, start from what has been trained on English alone:

    python experiments/a5_language.py run ... --out runs/a5-english --arms share0 --seconds 60
    python experiments/a5_language.py run ... --out runs/a5-back --init runs/a5-english/share0-0/model --seconds 30

Time: about 4 minutes on one H100 for four arms and one seed.
Expected (VisCPM): without Chinese, Chinese questions get English answers; 5 % or less keep or bring back most of what
20 % do; English is as good in all arms. What came out: docs/experiments.md.
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
from cpmv.train.draw.document import Document

if TYPE_CHECKING:
    from cpmv.train.composed_steps import Makes

KINDS = ("colour_of", "shape_of", "exists", "what_at", "where_is")  # answered by words
LANGUAGES = ("English", "Chinese")
_TRIES = 60


class Spoken:
    """Documents of which a share is Chinese. The English ones are the same whatever the share."""

    def __init__(self, maker: Makes, share: float) -> None:
        self.maker, self.share = maker, share

    def make(self, kind: str, rng: np.random.Generator, width: int, height: int) -> Document:
        number, chinese = int(rng.integers(1 << 62)), bool(rng.random() < self.share)
        for attempt in range(_TRIES):
            document = self.maker.make(kind, np.random.default_rng((number, attempt)), width, height)
            if document.language == int(chinese):
                return document
        raise ValueError(f"no {kind} in {LANGUAGES[chinese]} was drawn")


def spoken(share: float) -> Callable[[Makes], Makes]:
    return lambda maker: Spoken(maker, share)


ARMS = {f"share{percent}": spoken(percent / 100) for percent in (0, 2, 5, 20)}


def config() -> TrainConfig:
    """Scenes alone, on two grids."""
    composed = ComposedConfig(
        singles=96, pages=0, packages=0, texts=0, tokens=96 * 224,
        single_glyphs=(1, 1, 1), single_kinds={"scene": 1.0}, workers=15,
    )  # fmt: skip
    combinations = tuple(
        Combination(((16, 16),), (8, 8), single, (448, 448), (8, 8)) for single in ((16, 16), (14, 18))
    )
    return replace(tiny_j3(), mix={}, combinations=combinations, composed=composed, aux_weight=0.0)


def draw(folder: Path, seed: int, count: int) -> None:
    """Write `English.zip` and `Chinese.zip`."""
    from cpmv.evals.draw.scenes import draw_scene
    from cpmv.evals.draw.sets import single
    from cpmv.evals.samples import write_set

    folder.mkdir(parents=True, exist_ok=True)
    for language in LANGUAGES:
        generators = (random.Random(f"{seed} {language} {i}") for i in range(count))
        samples = (draw_scene(rng, single(rng), kinds=KINDS, chinese=language == "Chinese") for rng in generators)
        write_set(folder / f"{language}.zip", samples)


def asked(arm: str, args: argparse.Namespace) -> Sequence[Asked]:
    """Both languages, and without the picture."""
    from cpmv.evals.tasks import Task

    controls = ("blank", "shuffled")
    return [Asked(name, Task(name, "scene", name, "exact", 400, 24), args.sets, controls) for name in LANGUAGES]


EXPERIMENT = Experiment(ARMS, config, asked, draw)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, doc=__doc__))
