"""What the independent renderer draws: answers follow from the facts, ink stays on the picture, files repeat."""

from __future__ import annotations

import datetime
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cpmv.evals import scoring
from cpmv.evals.draw import canvas, charts, events, hidden, papers, reading, scenes, several, tables, talking, thinking
from cpmv.evals.draw.clips import draw_clip
from cpmv.evals.draw.sets import DRAWERS, draw_samples, frozen_size, write_sets
from cpmv.evals.samples import EvalError
from cpmv.evals.tasks import TASKS
from cpmv.train.draw.prompts import COLOURS, DIRECTIONS, HELD_OUT_PAIRS, SHAPES
from cpmv.train.draw.words import is_held_out

needs_fonts = pytest.mark.skipif(
    not all(canvas.faces(kind, held_out) for kind in ("ordinary", "han", "oldstyle") for held_out in (False, True)),
    reason="the fonts of the face table are not installed",
)


def rng(seed: int) -> random.Random:
    return random.Random(seed)


def nearest_colour(pixel: tuple[int, int, int]) -> str:
    return min(COLOURS, key=lambda name: sum((a - b) ** 2 for a, b in zip(COLOURS[name][1], pixel, strict=True)))


def centre(image: Image.Image, colour: str) -> tuple[float, float]:
    """Middle of the bounding box of a colour: right even where another object covers a part of it, nearly always."""
    near = np.abs(np.asarray(image).astype(int) - COLOURS[colour][1]).sum(-1) < 24
    rows, columns = np.nonzero(near)
    return (columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2


def ink_at_edge(image: Image.Image) -> bool:
    """Whether the outermost pixels are of more than one colour."""
    pixels = np.asarray(image).reshape(image.height, image.width, 3)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return bool((edge != edge[0]).any())


def test_every_task_has_a_set_to_draw_and_every_set_a_task() -> None:
    assert {task.stored_as for task in TASKS.values()} == set(DRAWERS)
    assert all(frozen_size(name) >= 30 for name in DRAWERS)


def test_counts_and_descriptions_match_the_objects() -> None:
    for seed in range(30):
        count = scenes.draw_scene(rng(seed), (224, 224), kinds=("count",), count=1 + seed % 9)
        assert count.answer == str(1 + seed % 9) == str(len(count.meta["objects"]))
        told = scenes.draw_scene(rng(seed), (224, 224), kinds=("describe",), count=1 + seed % 4, chinese=seed % 3 == 0)
        assert sorted(scoring.mentioned(told.answer).elements()) == sorted(told.meta["objects"])


def test_yes_and_no_are_both_asked_and_right() -> None:
    answers = []
    for seed in range(40):
        sample = scenes.draw_scene(rng(seed), (224, 224), kinds=("exists",))
        pair = next(f"{c} {s}" for c in COLOURS for s in SHAPES if f"{c} {s}" in sample.question)
        assert (sample.answer == "yes") == (pair in sample.meta["objects"])
        answers.append(sample.answer)
    assert 10 < answers.count("yes") < 30


def test_held_out_pairs_appear_only_when_asked_for() -> None:
    held_out = {" ".join(pair) for pair in HELD_OUT_PAIRS}
    for seed in range(40):
        plain = scenes.draw_scene(rng(seed), (112, 112))
        assert not held_out & set(plain.meta["objects"])
        assert not any(pair in plain.question for pair in held_out)
        special = scenes.draw_scene(rng(seed), (112, 112), held_out_pair=True)
        assert special.meta["objects"][0] in held_out


@pytest.mark.parametrize("shape", list(SHAPES))
def test_a_shape_is_drawn_in_its_colour_where_it_should_be(shape: str) -> None:
    image = scenes.render((64, 64), (200, 200, 200), [scenes.Thing("blue", shape, 32, 32, 20)])
    assert nearest_colour(image.getpixel((32, 32 - 17 if shape in ("ring", "circle", "star") else 32))) == "blue"
    assert image.getpixel((4, 4)) == (200, 200, 200)


def test_a_clip_moves_as_its_answer_says() -> None:
    for seed in range(24):
        clip = draw_clip(rng(seed), (112, 112))
        assert clip.groups is not None and len(clip.images) == len(clip.groups[0]) == clip.meta["frames"]
        colour = next(name for name in COLOURS if f"the {name} " in clip.question)
        (x0, y0), (x1, y1) = (centre(image, colour) for image in (clip.images[0], clip.images[-1]))
        across = "right" if x1 - x0 > 9 else "left" if x0 - x1 > 9 else ""
        down = "down" if y1 - y0 > 9 else "up" if y0 - y1 > 9 else ""
        assert clip.answer == f"{down} {across}".strip()
        assert clip.meta["opposite"] in DIRECTIONS and clip.meta["opposite"] != clip.answer


def test_events_are_those_of_the_frames() -> None:
    for seed in range(40):
        clip = events.draw_event(rng(seed), (112, 112), False)
        assert clip.groups is not None and all(len(group) == 1 for group in clip.groups)
        assert len(clip.groups) == len(clip.images) == clip.meta["num_frames"]
        colours = [{nearest_colour(p) for n, p in i.getcolors(20000) if n > 60} for i in clip.images]
        if clip.meta["kind"] == "which_flashed":
            assert 1 <= sum(clip.answer in seen for seen in colours) <= 2
        elif clip.meta["kind"] == "nth":
            first = {c: next(i for i, seen in enumerate(colours) if c in seen) for c in COLOURS if c in colours[-1]}
            stay = [c for c, frame in first.items() if all(c in seen for seen in colours[frame:])]
            place = next(i for i, word in enumerate(("first", "second", "third")) if word in clip.question)
            assert clip.answer in stay and (place == 0) == (first[clip.answer] == 0)
        else:
            assert clip.answer in "1234"


def test_bounces_turn_round_as_often_as_told() -> None:
    for seed in range(200):
        clip = events.draw_event(rng(seed), (112, 98), False)
        if clip.meta["kind"] != "count_bounces":
            continue
        places = []
        for image in clip.images:
            pixels = np.asarray(image).astype(int)
            background = np.median(pixels.reshape(-1, 3), axis=0)
            rows, columns = np.nonzero(np.abs(pixels - background).sum(-1) > 60)
            places.append((columns.mean(), rows.mean()))
        steps = np.diff(np.array(places), axis=0)
        along = steps[:, np.abs(steps).sum(0).argmax()]
        assert str(int((np.sign(along[1:]) != np.sign(along[:-1])).sum())) == clip.answer


@needs_fonts
@pytest.mark.parametrize("kind", ["ordinary", "oldstyle", "han"])
def test_text_is_of_new_words_and_stays_inside(kind: str) -> None:
    for seed in range(12):
        sample = reading.draw_text(
            rng(seed), (224, 224), num_lines=1 + seed % 4, kind=kind, held_out_faces=seed % 2 == 0
        )
        assert len(sample.answer) <= 97 and sample.answer.count("\n") == seed % 4
        assert sample.meta["held_out_face"] == (seed % 2 == 0)
        assert not ink_at_edge(sample.images[0])
        words = re.findall(r"\b[a-z]{6,}\b", sample.answer)
        assert all(is_held_out(word) for word in words)


@needs_fonts
def test_a_face_that_lacks_a_sign_is_not_used_for_it() -> None:
    for face in canvas.faces("latin", False):
        assert not canvas.has_all(face, "\u4e0d") and canvas.has_all(face, "abc 123")


@needs_fonts
def test_pages_have_twelve_lines_and_need_slices() -> None:
    for seed in range(3):
        page = reading.draw_page(rng(seed), (448, 448))
        assert page.answer.count("\n") == 11 and len(page.answer) <= 400
        assert not ink_at_edge(page.images[0])


@needs_fonts
def test_grid_pairs_show_the_same_text_on_a_trained_and_an_unseen_grid() -> None:
    trained = {pair[0] for pair in reading.GRID_PAIRS}
    for index, pair in enumerate(reading.GRID_PAIRS):
        one, other = reading.draw_grid_pair(rng(index), index)
        assert one.answer == other.answer and one.question == other.question
        assert one.meta["size_px"] == other.meta["size_px"] and pair[1] not in trained
        for sample, (rows, columns) in zip((one, other), pair, strict=True):
            assert sample.images[0].size == (columns * 14, rows * 14) and 81 <= rows * columns <= 576
            assert min(rows, columns) >= 8 and not ink_at_edge(sample.images[0])


@needs_fonts
def test_receipts_add_up() -> None:
    for seed in range(20):
        for sample, known in ((papers.draw_receipt(rng(seed), seed % 4 == 0), "total"),
                              (thinking._receipt_sum(rng(seed), seed % 4 == 0), "")):  # fmt: skip
            cents = round(float(re.sub(r"[^\d.]", "", sample.answer)) * 100)
            assert cents == (sample.meta["total"] if known else sum(sample.meta["prices"]))
            assert not known or sample.meta["total"] >= sum(sample.meta["prices"])


@needs_fonts
@pytest.mark.parametrize("forms", [papers.KNOWN_FORMS, (papers.NEW_FORM,)])
def test_date_series_answer_in_the_format_of_the_examples(forms: tuple[int, ...]) -> None:
    for seed in range(20):
        sample = papers.draw_date_series(rng(seed), forms, seed % 4 == 0)
        formats = {scoring.date_format(turn.answer) for turn in sample.turns}
        assert len(formats) == 1 and None not in formats and 2 <= len(sample.turns) <= 4
        assert (formats == {papers.NEW_FORM}) == (forms == (papers.NEW_FORM,))
        assert len({turn.text for turn in sample.turns}) == 1
        assert sample.answer not in sample.meta["distractors"]


@needs_fonts
def test_tables_answer_from_their_cells() -> None:
    for seed in range(30):
        sample = tables.draw_table(rng(seed), seed % 4 == 0, whole=seed % 2 == 0)
        header, rows = sample.meta["header"], sample.meta["rows"]
        if seed % 2 == 0:
            cells = scoring.table_cells(sample.answer)
            assert [cells[0, c, text] for c, text in enumerate(header)] == [1] * len(header)
            assert sum(cells.values()) == len(header) * (1 + len(rows))
        elif sample.meta["kind"] == "table_cell":
            column = next(c for c, name in enumerate(header) if c and name in sample.question)
            assert any(row[0] in sample.question and row[column] == sample.answer for row in rows)
        else:
            column = next(c for c, name in enumerate(header) if c and name in sample.question)
            extreme = max if sample.meta["kind"] == "table_largest" else min
            assert extreme(rows, key=lambda row: int(row[column]))[0] == sample.answer


@needs_fonts
def test_charts_answer_from_their_data() -> None:
    for seed in range(30):
        sample = charts.draw_chart(rng(seed), seed % 4 == 0, extremes=seed % 2 == 0)
        data = sample.meta["data"]
        if sample.meta["kind"].endswith("value"):
            assert any(name in sample.question and str(value) == sample.answer for name, value in data.items())
        else:
            extreme = max if sample.meta["kind"].endswith("largest") else min
            assert extreme(data, key=data.get) == sample.answer


@needs_fonts
def test_forms_are_their_fields() -> None:
    for seed in range(10):
        sample = papers.draw_form(rng(seed), seed % 3 == 0)
        assert json.loads(sample.answer) == sample.meta["fields"] and "\n" not in sample.answer
        assert not ink_at_edge(sample.images[0])


@needs_fonts
@pytest.mark.parametrize("level", hidden.LEVELS)
def test_damaged_regions_are_marked_and_covered_ones_hold_no_ink(level: str) -> None:
    for seed in range(8):
        sample = hidden.draw_hidden(rng(seed), level, False)
        texts = sample.meta["hidden"]
        assert sample.answer == "\n".join(f"{n}. {text}" for n, text in enumerate(texts, 1))
        boxes = re.findall(r"<box>(\d+) (\d+) (\d+) (\d+)</box>", sample.question)
        if not boxes or level in ("mild", "heavy"):
            continue
        image = sample.images[0]
        for box in boxes:
            x0, y0, x1, y1 = (int(v) / 1000 * (image.width, image.height)[i % 2] for i, v in enumerate(box))
            inside = image.crop((round(x0) + 2, round(y0) + 2, round(x1) - 2, round(y1) - 2))
            assert len(inside.getcolors(1000)) == 1


@needs_fonts
def test_what_is_covered_follows_from_the_page_or_from_nothing() -> None:
    for seed in range(30):
        told = hidden.draw_hidden(rng(seed), "covered", False)
        lines, text = told.meta["lines"], told.meta["hidden"][0]
        prices = [float(line.split()[-1]) for line in lines if re.search(r"\d\.00$", line)]
        days = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
        repeated = sum(text in line for line in lines) == 2
        assert repeated or text in days[1:6] or (prices and float(text) * 2 == sum(prices))
        unknown = hidden.draw_hidden(rng(seed), "unknown", False)
        assert all(sum(text in line for line in unknown.meta["lines"]) == 1 for text in unknown.meta["hidden"][:1])


@needs_fonts
def test_several_pictures_answer_by_their_number() -> None:
    kinds = set()
    for seed in range(60):
        sample = several.draw_several(rng(seed), seed % 4 == 0)
        kinds.add(sample.meta["kind"])
        assert 2 <= len(sample.images) <= 4
        if sample.meta["kind"] in ("which_says", "which_contains", "more_shapes", "which_costs_more"):
            assert 1 <= int(sample.answer) <= len(sample.images)
    assert len(kinds) == len(several._MAKE)


@needs_fonts
def test_reasoning_answers_are_right() -> None:
    for seed in range(80):
        sample = thinking.draw_thinking(rng(seed), seed % 4 == 0)
        meta = sample.meta
        if meta["kind"] == "sum_text":
            assert sample.answer == str(sum(meta["numbers"]))
        elif meta["kind"] == "days_on_sheet":
            first, second = (datetime.date.fromisoformat(text) for text in meta["dates"])
            assert int(sample.answer) == (second - first).days
        elif meta["kind"] == "arrows":
            place = meta["start"]
            for _ in range(meta["steps"]):
                place = meta["arrows"][place]
            assert place == sample.answer != meta["start"]
        elif meta["kind"] == "table_count":
            right = [n > meta["bound"] if meta["above"] else n < meta["bound"] for n in meta["numbers"]]
            assert int(sample.answer) == sum(right) > 0 and str(meta["bound"]) in sample.question
        elif meta["kind"] == "chart_difference":
            values = [value for name, value in meta["data"].items() if name in sample.question]
            assert int(sample.answer) in {abs(a - b) for a in values for b in values}


def test_talk_needs_no_picture_and_is_right() -> None:
    for seed in range(60):
        sample = talking.draw_talk(rng(seed), seed % 4 == 0)
        numbers = [int(n) for n in re.findall(r"\d+", sample.question)]
        assert not sample.images and sample.answer
        if sample.meta["kind"] in ("add", "subtract", "multiply"):
            a, b = numbers
            assert int(sample.answer) == {"add": a + b, "subtract": a - b, "multiply": a * b}[sample.meta["kind"]]


@needs_fonts
def test_the_same_seed_draws_the_same_files(tmp_path: Path) -> None:
    for run in ("a", "b"):
        write_sets(tmp_path / run, 5, 2, ["line", "scene_count", "clip_order"])
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["clip_order.zip", "line.zip", "scene_count.zip"]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)
    few, more = (list(draw_samples("line", 5, count)) for count in (2, 4))
    assert [sample.answer for sample in more[:2]] == [sample.answer for sample in few]
    with pytest.raises(EvalError, match="no set 'poems'"):
        write_sets(tmp_path, 5, 2, ["poems"])
