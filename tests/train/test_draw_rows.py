"""Rows of questions about one picture: every answer worked out again from what is drawn; names that are not learnt by
heart; examples that are read and not learnt; steps of the preset that trains on all of it."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from test_draw_samples import synthetic_atlas

from cpmv.inputs.text import Tokenizer
from cpmv.model.config import from_hf
from cpmv.train.composed import LONGEST, Room, blank_fields
from cpmv.train.composed_steps import ComposedSteps, unlearnt
from cpmv.train.config import tiny_j3
from cpmv.train.draw.charset import drawn_characters
from cpmv.train.draw.content import Content, content_of
from cpmv.train.draw.document import LINE, Document, Metrics
from cpmv.train.draw.documents import Maker
from cpmv.train.draw.figures import PLACE_NAMES, RGB, place_word
from cpmv.train.draw.fresh_content import invented_word, misspelt
from cpmv.train.draw.mixed_lines import mixed_line
from cpmv.train.draw.prompts import COLOURS, DIRECTIONS, PLACES, YES_NO
from cpmv.train.draw.tokenizer import write_tokenizer
from cpmv.train.draw.words import is_held_out
from cpmv.train.joint import combination_of
from cpmv.train.joint_model import IGNORE

MAKER = Maker(Metrics(synthetic_atlas()))
GOLDEN = Path(__file__).parents[1] / "golden" / "tiny_a"


def make(kind: str, task: str, seed: int, size: tuple[int, int] = (252, 252)) -> Document:
    return MAKER.make(kind, np.random.default_rng((seed, 11)), *size, task=task)


@pytest.mark.parametrize(
    ("kind", "task"),
    [("scene", "scene_chat"), ("chart", "chart_chat"), ("table", "table_chat"), ("form", "form_chat"),
     ("receipt", "receipt_chat"), ("clip", "motion"), ("think", "think_single_arrows")],
)  # fmt: skip
def test_a_row_asks_different_things_about_its_pictures_once(kind: str, task: str) -> None:
    lengths = Counter(len(make(kind, task, seed).turns) for seed in range(30))
    assert max(lengths) >= 4
    for seed in range(30):
        document = make(kind, task, seed)
        assert document == make(kind, task, seed)
        assert [turn.num_sheets for turn in document.turns[1:]] == [0] * (len(document.turns) - 1)
        assert len({turn.question for turn in document.turns}) == len(document.turns)
        assert sum(len(turn.question) + len(turn.answer) + 16 for turn in document.turns) < LONGEST


def test_charts_tables_and_forms_answer_with_what_is_drawn() -> None:
    for kind in ("chart", "table", "form", "receipt"):
        for seed in range(25):
            document = make(kind, f"{kind}_chat", seed)
            written = " ".join(run.text for run in document.sheets[0].runs)
            for turn in document.turns:
                said = turn.answer
                known = said in YES_NO[0] + YES_NO[1] or said in COLOURS or said in [c for c, _ in COLOURS.values()]
                parts = said.split(", ")
                unprinted = kind == "chart" and not document.meta["printed"]
                counted = said.isdigit() and int(said) <= 12
                assert known or counted or unprinted or all(part in written for part in parts), said


def test_the_largest_of_a_chart_or_table_is_the_largest() -> None:
    found = 0
    for seed in range(40):
        document = make("chart", "chart_chat", seed)
        values = dict(zip(document.meta["labels"], document.meta["values"], strict=True))
        for turn in document.turns:
            words = turn.question.lower()
            if "largest category" in words or "highest value" in words or "最高" in words:
                assert values[turn.answer] == max(values.values())
                found += 1
    assert found > 5


def test_shapes_move_as_the_answers_say() -> None:
    asked: Counter[str] = Counter()
    for seed in range(60):
        document = make("clip", "motion", seed)
        assert 2 <= len(document.sheets) <= 6 and document.groups is not None
        assert sum(map(len, document.groups)) == len(document.sheets)
        pairs = document.meta["pairs"]
        for turn in document.turns:  # two move: a question about one names it
            places = turn.answer in PLACES or turn.answer in PLACES.values()
            assert not places or any(w in turn.question for c, _ in pairs for w in (c, COLOURS[c][0]))
        for kind, which, answer in document.meta["says"]:
            asked[kind] += 1
            if kind not in ("direction", "end_place"):
                continue
            rgb = RGB[pairs[which][0]]
            seen = [[m.places for m in sheet.marks if m.colour == rgb] for sheet in document.sheets]
            places = [np.mean([np.mean(np.array(p[: len(p) // 2 * 2]).reshape(-1, 2), 0) for p in marks], 0)
                      for marks in seen if marks]  # fmt: skip
            if kind == "end_place":
                cell = (np.clip(places[-1] / 252, 0, 0.999) * 3).astype(int)
                assert answer in (PLACE_NAMES[cell[1] * 3 + cell[0]], place_word(PLACE_NAMES[cell[1] * 3 + cell[0]], 1))
                continue
            way = places[-1] - places[0]
            turned = round(float(np.arctan2(way[1], way[0])) / (np.pi / 4)) % 8
            assert answer in (list(DIRECTIONS)[turned], list(DIRECTIONS.values())[turned])
    assert asked["direction"] > 60 and asked["faster"] > 10 and asked["first"] > 5 and asked["end_place"] > 20


def test_frames_in_packages_of_one_are_timeless_half_of_the_time() -> None:
    single = [d for seed in range(160) if len((d := make("clip", "motion", seed)).groups or []) == len(d.sheets)]
    timeless = sum(document.groups[0] == [-1] for document in single)  # type: ignore[index]
    assert len(single) > 10 and 0.2 < timeless / len(single) < 0.8


def test_single_arrows_lead_to_the_next_box() -> None:
    for seed in range(20):
        document = make("think", "think_single_arrows", seed)
        path = document.meta["path"]
        assert sum(mark.kind == LINE for mark in document.sheets[0].marks) == len(path)
        for turn in document.turns:
            (start,) = re.findall(r"(?<![A-Za-z])[A-Z](?![A-Za-z])", turn.question)
            assert turn.answer == path[(path.index(start) + 1) % len(path)]


def test_names_are_many_and_none_is_kept_for_evaluation() -> None:
    content, rng = content_of(False), np.random.default_rng(0)
    drawn = set(drawn_characters())
    for make_one in (content.person, content.city, content.job, content.product, content.shop, content.heading):
        for language in (0, 1):
            made = [make_one(rng, language) for _ in range(400)]
            assert len(set(made)) > 200 and {c for text in made for c in text} <= drawn
    words = [word for _ in range(300) for word in content.words(rng, 4)]
    assert not any(is_held_out(word) for word in words)
    assert not any(is_held_out(name) for _ in range(300) for name in content.people(rng, 3))
    assert type(content_of(True)) is Content  # evaluation draws from what it always drew from


def test_false_words_stay_near_or_are_new() -> None:
    rng = np.random.default_rng(1)
    for word in ("butter", "Riga", "at"):
        made = {misspelt(rng, word) for _ in range(60)}
        assert all(abs(len(m) - len(word)) <= 1 and m[0] == word[0] for m in made)
        assert (len(made) > 5) == (len(word) > 2)
    assert len({invented_word(rng) for _ in range(200)}) > 150


def test_mixed_lines_keep_their_limit_and_their_characters() -> None:
    rng, drawn = np.random.default_rng(2), set(drawn_characters())
    for number in range(600):
        limit, han = int(rng.integers(2, 40)), number % 3 == 0
        line = mixed_line(rng, limit, han=han)
        assert 1 <= len(line) <= limit and set(line) <= drawn and line == line.strip()


def test_a_page_of_two_by_two_slices_is_read_to_400_characters() -> None:
    lengths = [len(make("page", "page_read", seed, (448, 448)).turns[0].answer) for seed in range(80)]
    assert max(lengths) > 330 and np.mean(lengths) > 130


def test_answers_that_nothing_tells_are_not_learnt() -> None:
    labels = [IGNORE, 1, 2, IGNORE, IGNORE, 3, IGNORE, 4, 5]
    assert unlearnt(labels, [True] * 3) == labels
    assert unlearnt(labels, [False, True, False]) == [IGNORE] * 5 + [3] + [IGNORE] * 3


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> ComposedSteps:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, json.loads((GOLDEN / "tokenizer_config.json").read_text()))
    preset = tiny_j3()
    config = from_hf(preset.model, preset.preprocessor)
    assert preset.composed is not None
    rooms = [Room(combination, preset.composed, config) for combination in preset.combinations]
    key_of = partial(combination_of, seed=0, num=len(rooms))
    return ComposedSteps(rooms, key_of, MAKER.metrics.atlas, Tokenizer.from_folder(folder), config, MAKER, (0, 0))


@pytest.mark.parametrize("step", [0, 1])
def test_steps_of_the_joint_preset_build_and_fill_their_room(steps: ComposedSteps, step: int) -> None:
    batch, room = steps[step], steps.rooms[steps.key_of(step)]
    composed = room.composed
    fields = blank_fields(room, steps.atlas).over(batch.flat)
    used = batch.ends[-1]
    assert 0.6 * composed.tokens < used <= composed.tokens
    placed = int((fields.rows < composed.tokens - 1).sum()) // room.query_num
    assert placed > 0.93 * (room.num_visual // room.query_num)  # singles, slices, packages
    learnt = int((fields.targets != IGNORE).sum())
    assert learnt > 0.1 * used
    kinds = Counter(task.split("_")[0] for task in batch.tasks)
    assert kinds["scene"] > 10 and kinds["clip"] > 4 and kinds["page"] > 5 and kinds["text"] > 5
    assert kinds["corrupted"] == composed.corrupted_singles + composed.corrupted_pages


def test_the_preset_splits_over_one_two_and_four_gpus() -> None:
    preset = tiny_j3()
    for gpus in (1, 2, 4):
        for kind in ("text", "scene"):
            assert preset.mix[kind] % (gpus * 2) == 0
        assert all(count % gpus == 0 for count in preset.mix.values())
