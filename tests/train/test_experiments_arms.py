"""Experiments on training: arms differ in what they should and in nothing else, and a short run goes through."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_draw_samples import synthetic_atlas

from cpmv.evals import scoring
from cpmv.evals.samples import Sample, Turn
from cpmv.evals.tasks import SETS
from cpmv.train.corrupt_pixels import HIGH, LOW, MODERATE, NONE
from cpmv.train.draw.document import Document, Metrics
from cpmv.train.draw.documents import Maker

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "experiments"))

import a1_packing as a1  # noqa: E402
import a2_corruption as a2  # noqa: E402
import a5_language as a5  # noqa: E402
import training_arms as arms  # noqa: E402


@pytest.fixture(scope="module")
def maker() -> Maker:
    return Maker(Metrics(synthetic_atlas()))


def made(make: Callable[..., Document], count: int, side: int, seed: int = 3) -> list[Document]:
    """What an arm learns from; a document that does not fit is left out, as in training."""
    rng, out = np.random.default_rng(seed), []
    for _ in range(count):
        try:
            out.append(make("clip", rng, side, side))
        except ValueError:
            continue
    return out


def test_every_rate_costs_the_same_packages() -> None:
    for count in (6, 12, 18):
        for phase in range(6):
            counts = {size: -(-len(a1.sampled(count, size, phase)) // size) for size in a1.SIZES}
            assert set(counts.values()) == {count // 6}
    assert a1.sampled(18, 1, 4) == [4, 10, 16]
    assert a1.sampled(18, 3, 5) == list(range(1, 18, 2))


def test_packing_arms_see_the_same_clips(maker: Maker) -> None:
    seen = {name: made(remake(maker).make, 40, 56) for name, remake in a1.ARMS.items()}
    assert len({len(documents) for documents in seen.values()}) == 1
    for documents in zip(*seen.values(), strict=True):
        assert len({(d.task, d.turns[0].question, d.turns[0].answer, len(d.groups or [])) for d in documents}) == 1
        for document in documents:
            assert document.groups is not None
            times = [time for group in document.groups for time in group]
            assert len(times) == len(document.sheets) == document.turns[0].num_sheets
            assert times == sorted(set(times))
    sizes = {name: {len(g) for d in documents for g in d.groups or []} for name, documents in seen.items()}
    assert sizes == {"pack1": {1}, "pack3": {3}, "pack6": {6}, "random": {1, 2, 3, 6}}
    scenes = [d for d in seen["pack6"] if d.task.startswith("scene")]
    assert scenes
    for scene in scenes:
        first, *others = ([mark.kind for mark in sheet.marks] for sheet in scene.sheets)
        assert all(marks == first for marks in others)
        places = {mark.places for sheet in scene.sheets for mark in sheet.marks[:1]}
        xs = [place[0] for place in places]
        assert max(xs) - min(xs) <= 2 * a1.SHAKE * 56


def test_clips_are_asked_as_they_are_sampled() -> None:
    from PIL import Image

    frames = [Image.new("RGB", (4, 4), (i, 0, 0)) for i in range(16)]
    clip = a1.longer(Sample([Turn(frames, "?", "1")], {}, [[5 + 2 * i] for i in range(16)]))
    assert len(clip.turns[0].images) == 18 and clip.turns[0].images[17] is frames[15]
    shown = a1.seen(clip, 3, 3, 0)
    assert [len(group) for group in shown.groups or []] == [3, 3, 3]
    for image, time in zip(shown.turns[0].images, sum(shown.groups or [], []), strict=True):
        assert image.getpixel((0, 0))[0] == min(15, (time - 5) // 2)  # type: ignore[index]
    assert [len(group) for group in a1.seen(clip, 1, 3, 0).groups or []] == [3]
    with pytest.raises(ValueError, match="at most 18"):
        a1.longer(Sample([Turn(frames + frames, "?", "1")], {}, [[i] for i in range(32)]))


def test_corruption_arms_read_the_same_pages(maker: Maker) -> None:
    seen = {name: made(remake(maker).make, 60, 224) for name, remake in a2.ARMS.items()}
    levels: dict[str, Counter[int]] = {name: Counter() for name in seen}
    for documents in zip(*seen.values(), strict=True):
        assert len({d.turns[0].answer for d in documents}) == len({d.turns[0].question for d in documents}) == 1
        assert len({tuple(run.text for run in d.sheets[0].runs) for d in documents}) == 1
    for name, documents in seen.items():
        for document in documents:
            targets = document.meta["corrupt"].targets
            levels[name].update(target.level for target in targets)
            if document.task == "told":
                assert len(targets) == 1 and targets[0].derivable
            for target in targets:
                assert bool(target.families) == (target.level in (LOW, MODERATE))
                assert name != "noise" or target.strength >= 0.4
    assert set(levels["clean"]) == {NONE} and set(levels["noise"]) == {MODERATE}
    assert set(levels["unified"]) == {LOW, MODERATE, HIGH}
    assert len({sum(counts.values()) for counts in levels.values()}) == 1


def test_only_the_texts_count_for_confidence() -> None:
    answer = "1. ab\n2. 3. x"
    tokens = [*answer, "<end>"]
    assert "".join(tokens[i] for i in a2.text_places(tokens, answer)) == "ab3. x"
    whole = ["1", ". ", "ab", "\n2. ", "3.", " x", "<end>"]
    assert [whole[i] for i in a2.text_places(whole, answer)] == ["ab", "3.", " x"]


def test_shares_of_a_language(maker: Maker) -> None:
    def speak(share: float) -> list[Document]:
        rng = np.random.default_rng(4)
        spoken = a5.Spoken(maker, share)
        return [spoken.make("scene", rng, 224, 224) for _ in range(60)]

    none, fifth, every = speak(0.0), speak(0.2), speak(1.0)
    assert not any(d.language for d in none) and all(d.language for d in every)
    assert 4 <= sum(d.language for d in fifth) <= 24
    for mine, theirs in zip(none, fifth, strict=True):
        assert theirs.language or mine.turns == theirs.turns


def test_intervals_are_those_of_the_evaluation() -> None:
    for hits, n in ((0, 40), (13, 40), (40, 40)):
        assert arms.wilson(hits, n) == pytest.approx(scoring.wilson(hits, n), abs=1e-4)


def test_a_short_run_goes_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    synthetic_atlas().save(tmp_path / "atlas.npz")
    sets = tmp_path / "sets"
    sets.mkdir()
    for language in a5.LANGUAGES:
        shutil.copyfile(SETS / "scene_colour.zip", sets / f"{language}.zip")
    options = ["--steps", "1", "--scale", "0.03", "--limit", "3", "--workers", "0", "--device", "cpu"]
    options += ["--arms", "start", "share5", "--init", str(ROOT / "cpmv" / "bundled"), "--log-every", "1"]
    out = tmp_path / "out"
    places = ["--sets", str(sets), "--atlas", str(tmp_path / "atlas.npz"), "--out", str(out)]
    code = arms.main(a5.EXPERIMENT, ["run", *places, *options])
    assert code == 0, capsys.readouterr().out
    assert arms.main(a5.EXPERIMENT, ["report", str(out), str(tmp_path / "a5.json")]) == 0
    found = json.loads((tmp_path / "a5.json").read_text())["arms"]
    assert set(found) == {"start", "share5"} and found["share5"]["steps"] == [1]
    row = found["start"]["rows"]["English"]
    assert row["n"] == 3 and row["interval"][0] <= row["exact"] <= row["interval"][1]
    assert set(found["start"]["controls"]) == {"blank", "shuffled"}
    broken = arms.main(a5.EXPERIMENT, ["run", *places[:-1], str(tmp_path / "b"), *options, "--init", str(tmp_path)])
    assert broken == 1 and "failed" in capsys.readouterr().out
