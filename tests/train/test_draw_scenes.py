"""Scenes and several pictures: everything stays on its sheet and apart, answers follow from what is drawn."""

from __future__ import annotations

import math
import re
from collections import Counter

import numpy as np
import pytest
from test_draw_samples import synthetic_atlas

from cpmv.train.draw.document import ELLIPSE, RECT, TRIANGLE, Document, Mark, Metrics
from cpmv.train.draw.documents import Maker
from cpmv.train.draw.figures import Figure, figure_marks, pair_word, place_of
from cpmv.train.draw.prompts import COLOURS, HELD_OUT_PAIRS, SCENE, SHAPES
from cpmv.train.draw.scene_layouts import LAYOUTS
from cpmv.train.draw.scenes import ASKS, Scene, draw_scene, reading_order
from cpmv.train.draw.wordings import EVENTS, SEVERAL, THINK

MAKER = Maker(Metrics(synthetic_atlas()))
SIZES = ((112, 112), (224, 224), (308, 140), (126, 322), (420, 280))
CHINESE = {chinese: name for name, (chinese, _) in COLOURS.items()}


def make(kind: str, task: str, seed: int, size: tuple[int, int] = (224, 224)) -> Document:
    return MAKER.make(kind, np.random.default_rng((seed, 11)), *size, task=task)


def scenes(count: int, held_out: bool = False) -> list[Scene]:
    rng = np.random.default_rng(4)
    return [draw_scene(rng, *SIZES[i % len(SIZES)], held_out) for i in range(count)]


def corners(mark: Mark) -> tuple[list[float], list[float]]:
    count = {RECT: 4, ELLIPSE: 4, TRIANGLE: 6}[mark.kind]
    return list(mark.places[0:count:2]), list(mark.places[1:count:2])


def test_figures_stay_on_their_sheet_and_do_not_touch() -> None:
    for scene in scenes(400):
        assert 1 <= len(scene.figures) <= 9
        for figure in scene.figures:
            for mark in figure_marks(figure, scene.paper):
                xs, ys = corners(mark)
                assert min(xs) >= 0 and max(xs) <= scene.width and min(ys) >= 0 and max(ys) <= scene.height
        for index, a in enumerate(scene.figures):
            for b in scene.figures[index + 1 :]:
                apart = math.dist((a.x, a.y), (b.x, b.y)) > a.radius + b.radius
                boxes = a.box[2] <= b.box[0] or b.box[2] <= a.box[0] or a.box[3] <= b.box[1] or b.box[3] <= a.box[1]
                assert apart or boxes


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_layout_gives_what_is_asked_on_ordinary_sheets(layout: object) -> None:
    rng = np.random.default_rng(0)
    for number in range(1, 10):
        assert callable(layout)
        places = layout(rng, 224, 224, number)
        assert len(places) >= min(number, 6)


def test_held_out_pairs_occur_only_when_asked_for() -> None:
    trained = {f.pair for scene in scenes(500) for f in scene.figures}
    assert not trained & set(HELD_OUT_PAIRS) and len(trained) > 50
    assert {f.pair for scene in scenes(500, held_out=True) for f in scene.figures} >= set(HELD_OUT_PAIRS)


def recomputed(scene: Scene, kind: str, question: str) -> str | None:
    """The English answer to a question of a kind, from the figures and the words of the question."""
    words = re.findall(r"[a-z]+", question.lower())
    colours = [w for w in words if w in COLOURS]
    plurals = {plural: shape for shape, (plural, _) in SHAPES.items()}
    shapes = [plurals.get(w, w) for w in words if w in SHAPES or w in plurals]
    figures = scene.figures
    if kind.startswith("count"):
        matching = [f for f in figures if kind == "count" or (
            (kind == "count_shape" or f.colour == colours[0]) and (kind == "count_colour" or f.shape == shapes[0])
        )]  # fmt: skip
        return str(len(matching))
    if kind == "colour_of":
        (figure,) = [f for f in figures if f.shape == shapes[0]]
        return figure.colour
    if kind == "shape_of":
        (figure,) = [f for f in figures if f.colour == colours[0]]
        return figure.shape
    if kind == "exists":
        return "yes" if any(f.pair == (colours[0], shapes[0]) for f in figures) else "no"
    if kind in ("left_of", "right_of", "above", "below"):
        (a,), (b,) = ([f for f in figures if f.pair == (c, s)] for c, s in zip(colours, shapes, strict=True))
        holds = {"left_of": a.x < b.x, "right_of": a.x > b.x, "above": a.y < b.y, "below": a.y > b.y}[kind]
        return "yes" if holds else "no"
    if kind == "where_is":
        (figure,) = [f for f in figures if f.pair == (colours[0], shapes[0])]
        return place_of(figure.x, figure.y, scene.width, scene.height)
    best = {
        "largest": lambda f: -f.radius, "smallest": lambda f: f.radius, "leftmost": lambda f: f.x,
        "rightmost": lambda f: -f.x,
    }.get(kind)  # fmt: skip
    return " ".join(min(figures, key=best).pair) if best else None


@pytest.mark.parametrize("kind", list(SCENE))
def test_answers_about_a_scene_are_recomputed(kind: str) -> None:
    rng = np.random.default_rng(8)
    asked = 0
    for scene in scenes(120):
        said = ASKS[kind](scene, rng, 0)
        if said is None:
            continue
        asked += 1
        expected = recomputed(scene, kind, said[0])
        assert expected is None or said[1] == expected, (kind, said, scene.figures)
    assert asked > 8


def test_descriptions_name_every_figure_once_from_the_top_left() -> None:
    rng = np.random.default_rng(2)
    described = 0
    for scene in scenes(200):
        said = ASKS["describe"](scene, rng, 0)
        if said is None:
            continue
        described += 1
        named = re.findall(r"an? ([a-z]+ [a-z]+)", said[1])
        assert Counter(named) == Counter(" ".join(f.pair) for f in scene.figures)
        order = reading_order(scene)
        assert order is not None and named == [" ".join(f.pair) for f in order]
        for first, second in zip(order, order[1:], strict=False):
            assert second.x > first.x or second.y > first.y
    assert described > 60


def test_what_stands_in_a_place_is_told_and_empty_places_too() -> None:
    rng = np.random.default_rng(6)
    empty = 0
    for scene in scenes(400):
        said = ASKS["what_at"](scene, rng, 0)
        if said is None:
            continue
        empty += said[1] == "nothing"
        homes = Counter(place_of(f.x, f.y, scene.width, scene.height) for f in scene.figures)
        named = [f for f in scene.figures if " ".join(f.pair) == said[1]]
        place = next(p for p in sorted(homes | Counter(
            "top left,top right,bottom left,bottom right,top,bottom,left,right,center".split(",")
        ), key=lambda p: -len(str(p))) if f"the {p}" in said[0])  # fmt: skip
        if said[1] == "nothing":
            assert not homes[place]
        else:
            assert homes[place] == 1 and any(place_of(f.x, f.y, scene.width, scene.height) == place for f in named)
    assert empty > 3


def test_a_chat_asks_different_things_about_one_picture() -> None:
    lengths = Counter()
    for seed in range(40):
        document = make("scene", "scene_chat", seed)
        lengths[len(document.turns)] += 1
        assert [t.num_sheets for t in document.turns] == [1] + [0] * (len(document.turns) - 1)
        assert len({turn.question for turn in document.turns}) == len(document.turns) >= len(document.meta["kinds"])
    assert min(lengths) <= 2 and max(lengths) >= 7


def test_what_changed_is_the_only_difference() -> None:
    changes = Counter()
    for seed in range(120):
        document = make("several", "changed", seed)
        before, after = (set(scene.figures) for scene in document.meta["scenes"])
        gone, new = before - after, after - before
        change, answer = document.meta["change"], document.turns[0].answer
        changes[change] += 1
        expected = {"nothing": (0, 0), "gone": (1, 0), "new": (0, 1)}.get(change, (1, 1))
        assert (len(gone), len(new)) == expected
        for figure in list(gone)[:1]:
            assert pair_word(figure.pair, document.language) in answer
        if change in ("colour", "shape", "moved"):
            (old,), (fresh,) = gone, new
            differing = {name for name in ("colour", "shape", "x", "y") if getattr(old, name) != getattr(fresh, name)}
            assert differing <= ({change} if change != "moved" else {"x", "y"}) and len(differing) == 1
        if change == "moved" and not document.language:
            way = answer.split()[-1]
            assert (way in ("left", "up")) == (fresh.x < old.x or fresh.y < old.y)
    assert set(changes) == {"colour", "shape", "new", "gone", "moved", "nothing"}


def test_same_or_different_text_is_told_from_what_is_written() -> None:
    same = 0
    for seed in range(60):
        document = make("several", "same_text", seed)
        written = [[run.text for run in sheet.runs] for sheet in document.sheets]
        yes = document.turns[0].answer in ("yes", "是")
        assert yes == (written[0] == written[1])
        same += yes
    assert 15 < same < 45


def test_sums_of_receipts_are_those_of_their_printed_prices() -> None:
    for seed in range(60):
        document = make("several", "sum_receipts", seed)
        amounts = [
            [float(m.replace(",", ".")) for run in sheet.runs[0:] if (m := _amount(run.text))]
            for sheet in document.sheets
        ]
        for prices in amounts:
            assert sum(prices[:-1]) == pytest.approx(prices[-1])
        answer = float((_amount(document.turns[0].answer) or "").replace(",", "."))
        assert answer == pytest.approx(sum(prices[-1] for prices in amounts))
        dearer = make("several", "which_costs_more", seed)
        assert dearer.turns[0].answer == str(1 + int(np.argmax(dearer.meta["totals"])))


def _amount(text: str) -> str | None:
    """The number of a text that is an amount of money and nothing else."""
    match = re.fullmatch(r"[$€£￥]? ?([0-9]+(?:[.,][0-9]{2})?)(?:€|元| EUR| USD)?", text)
    return match[1] if match else None


@pytest.mark.parametrize("task", ["which_contains", "which_says", "how_many_show", "more_shapes", "read_one"])
def test_the_picture_or_the_number_is_right(task: str) -> None:
    for seed in range(50):
        document = make("several", task, seed)
        meta, answer = document.meta, document.turns[0].answer
        assert 2 <= len(document.sheets) <= 4 and document.turns[0].num_sheets == len(document.sheets)
        if task == "which_contains":
            homes = [i for i, s in enumerate(meta["scenes"], 1) if any(f.pair == meta["pair"] for f in s.figures)]
            assert [str(home) for home in homes] == [answer]
        elif task == "which_says":
            asked = meta["words"][int(answer) - 1]
            homes = [i for i, s in enumerate(document.sheets, 1) if [run.text for run in s.runs] == [asked]]
            assert homes == [int(answer)] and asked in document.turns[0].question
        elif task == "how_many_show":
            shows = [any(meta["asked"] in (f.shape, f.pair) for f in s.figures) for s in meta["scenes"]]
            assert answer == str(sum(shows))
        elif task == "more_shapes":
            counts = [len(s.figures) for s in meta["scenes"]]
            assert counts[int(answer) - 1] == max(counts) and counts.count(max(counts)) == 1
        else:
            assert answer == "\n".join(run.text for run in document.sheets[meta["which"]].runs)


def test_order_by_size_goes_from_small_to_large() -> None:
    for seed in range(50):
        document = make("several", "order_by_size", seed)
        order = [int(n) - 1 for n in re.split(", |、", document.turns[0].answer)]
        extents = []
        for sheet in document.sheets:
            xs = [x for mark in sheet.marks for x in corners(mark)[0]]
            extents.append(max(xs) - min(xs))
        sizes = [extents[i] for i in order]
        assert sorted(order) == list(range(len(document.sheets)))
        assert all(a < b for a, b in zip(sizes, sizes[1:], strict=False))


def test_a_star_is_whole() -> None:
    """Its three triangles cover every point between the middle and each tip, and nothing outside the tips' circle."""
    marks = figure_marks(Figure("star", "red", 50, 50, 40), (1.0, 1.0, 1.0))

    def covered(x: float, y: float) -> bool:
        for mark in marks:
            (ax, bx, cx), (ay, by, cy) = corners(mark)
            signs = [
                (qx - px) * (y - py) - (qy - py) * (x - px)
                for px, py, qx, qy in ((ax, ay, bx, by), (bx, by, cx, cy), (cx, cy, ax, ay))
            ]
            if min(signs) >= 0 or max(signs) <= 0:
                return True
        return False

    for k in range(5):
        angle = k * 0.4 * math.pi
        for share in (0.0, 0.3, 0.6, 0.95):
            assert covered(50 + 40 * share * math.sin(angle), 50 - 40 * share * math.cos(angle))
        between = angle + 0.2 * math.pi
        assert covered(50 + 14 * math.sin(between), 50 - 14 * math.cos(between))
        assert not covered(50 + 20 * math.sin(between), 50 - 20 * math.cos(between))


@pytest.mark.parametrize("table", [SEVERAL, EVENTS, THINK], ids=["several", "events", "think"])
def test_every_question_has_many_wordings_in_both_languages(table: dict[str, tuple[tuple[str, ...], ...]]) -> None:
    for kind, (english, chinese) in table.items():
        assert len(set(english)) >= 12 and len(set(chinese)) >= 6, kind
        slots = {frozenset(re.findall(r"\{[0-9]\}", text)) for text in english + chinese}
        assert max(slots, key=len) <= {"{0}", "{1}"}
