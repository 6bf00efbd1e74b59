"""Scenes of one to nine shapes placed freely, in rows, columns, rings or clusters, and a question about each.

The questions and what counts as a clear answer are those of `scene.py`, which draws its loose grids on the device;
here figures overlap no cell borders, sizes and papers vary more, and descriptions go up to seven figures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .document import Colour, Document, Mark, Sheet, Turn
from .figures import (
    COLOUR_NAMES,
    PLACE_NAMES,
    SHAPE_NAMES,
    Figure,
    a_pair,
    colour_word,
    draw_pair,
    draw_paper,
    figure_marks,
    is_barred,
    listed,
    pair_word,
    place_of,
    place_word,
    shape_word,
    toned,
    visible_colours,
)
from .prompts import NOTHING, SCENE, YES_NO
from .scene import MAX_COUNT
from .scene import WEIGHTS as KIND_WEIGHTS
from .scene_layouts import LAYOUT_SHARES, LAYOUTS
from .scene_layouts import row as place_in_row

if TYPE_CHECKING:
    from .documents import Maker

MAX_LISTED = 7  # figures of a full description: seven are at most about 150 tokens
CHINESE_SHARE = 0.3
_CLEAR_GAP = 0.12  # of the side, between two figures that are compared
_LARGER = 1.25
_DEEP_COUNTS = 0.3  # share of plain counts that are counted in steps first
_SHORT_ROWS = 0.75  # share of chats that are rows of short questions
_COMPARING = 0.4  # share of those rows that compare places alone, which is learnt last of all
_COMPARED = frozenset({"left_of", "right_of", "above", "below", "leftmost", "rightmost", "count"})

Templates = Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]  # by kind, English and Chinese
Say = tuple[str, str]  # question, answer
Ask = Callable[["Scene", np.random.Generator, int], Say | None]


@dataclass
class Scene:
    """Figures on a sheet of width x height px."""

    figures: list[Figure]
    width: int
    height: int
    paper: Colour
    held_out: bool

    def sheet(self, rng: np.random.Generator, tones: dict[Figure, Colour] | None = None) -> Sheet:
        """The sheet that shows it; colours vary a little. tones: keeps them, so that two sheets can agree."""
        marks: list[Mark] = []
        tones = {} if tones is None else tones
        for figure in self.figures:
            if figure not in tones:
                tones[figure] = toned(rng, figure.colour)
            marks += figure_marks(figure, self.paper, tones[figure])
        return Sheet(self.width, self.height, self.paper, marks)

    def unique(self, key: Callable[[Figure], object]) -> list[Figure]:
        """Figures that share `key` with no other."""
        counts = Counter(key(f) for f in self.figures)
        return [f for f in self.figures if counts[key(f)] == 1]


def draw_scene(
    rng: np.random.Generator,
    width: int,
    height: int,
    held_out: bool,
    *,
    least: int = 1,
    most: int = MAX_COUNT,
    shapes: list[str] | None = None,
) -> Scene:
    """A scene of `least` to `most` figures, fewer on small sheets. No two touch, none leaves the sheet."""
    paper = draw_paper(rng)
    weights = np.array([1.0 if n <= 4 else 0.85 if n <= 6 else 0.75 for n in range(least, most + 1)])
    number = least + int(rng.choice(len(weights), p=weights / weights.sum()))
    places = LAYOUTS[int(rng.choice(len(LAYOUTS), p=LAYOUT_SHARES))](rng, width, height, number)
    if len(places) < least:
        places = place_in_row(rng, width, height, least)
    colours, kinds = visible_colours(paper), shapes or SHAPE_NAMES
    repeats = rng.random() < 0.4
    first = draw_pair(rng, colours, held_out, kinds)
    figures: list[Figure] = []
    for x, y, radius in places:
        pair = first if repeats and rng.random() < 0.5 else draw_pair(rng, colours, held_out, kinds)
        figures.append(Figure(pair[1], pair[0], x, y, radius))
    return Scene(figures, width, height, paper, held_out)


def reading_order(scene: Scene) -> list[Figure] | None:
    """Figures row by row from the top, each row from the left; None where rows or order in a row are not clear."""
    rows: list[list[Figure]] = []
    for figure in sorted(scene.figures, key=lambda f: f.y):
        if rows and figure.y - rows[-1][-1].y < 0.1 * scene.height:
            rows[-1].append(figure)
        else:
            rows.append([figure])
    for row in rows:
        row.sort(key=lambda f: f.x)
        heights = [f.y for f in row]
        if max(heights) - min(heights) > 0.14 * scene.height:
            return None
        if any(b.x - a.x < 0.08 * scene.width for a, b in zip(row, row[1:], strict=False)):
            return None
    lowest = [max(f.y for f in row) for row in rows]
    highest = [min(f.y for f in row) for row in rows]
    if any(high - low < 0.15 * scene.height for low, high in zip(lowest, highest[1:], strict=False)):
        return None
    return [figure for row in rows for figure in row]


def describe(scene: Scene, language: int, most: int = MAX_LISTED) -> str | None:
    """All figures in reading order, or None where there are too many or no clear order."""
    order = reading_order(scene)
    if order is None or len(order) > most:
        return None
    return listed([a_pair(f.pair, language) for f in order], language)


def wording(rng: np.random.Generator, table: Templates, kind: str, language: int) -> str:
    """A wording of a question kind."""
    texts = table[kind][language]
    return texts[int(rng.integers(len(texts)))]


def _pick(rng: np.random.Generator, figures: list[Figure]) -> Figure:
    return figures[int(rng.integers(len(figures)))]


def _count(scene: Scene, rng: np.random.Generator, language: int) -> Say:
    return wording(rng, SCENE, "count", language), str(len(scene.figures))


def _count_colour(scene: Scene, rng: np.random.Generator, language: int) -> Say:
    colour = _pick(rng, scene.figures).colour if rng.random() < 0.8 else str(rng.choice(COLOUR_NAMES))
    question = wording(rng, SCENE, "count_colour", language).format(colour_word(colour, language))
    return question, str(sum(f.colour == colour for f in scene.figures))


def _count_shape(scene: Scene, rng: np.random.Generator, language: int) -> Say:
    shape = _pick(rng, scene.figures).shape if rng.random() < 0.8 else str(rng.choice(SHAPE_NAMES))
    question = wording(rng, SCENE, "count_shape", language).format(shape_word(shape, language, plural=True))
    return question, str(sum(f.shape == shape for f in scene.figures))


def _count_pair(scene: Scene, rng: np.random.Generator, language: int) -> Say:
    counts = Counter(f.pair for f in scene.figures)
    several = [f for f in scene.figures if counts[f.pair] > 1]
    pair = _pick(rng, several if several and rng.random() < 0.6 else scene.figures).pair
    question = wording(rng, SCENE, "count_pair", language).format(pair_word(pair, language, plural=True))
    return question, str(counts[pair])


def _colour_of(scene: Scene, rng: np.random.Generator, language: int) -> Say | None:
    alone = scene.unique(lambda f: f.shape)
    if not alone:
        return None
    figure = _pick(rng, alone)
    question = wording(rng, SCENE, "colour_of", language).format(shape_word(figure.shape, language))
    return question, colour_word(figure.colour, language)


def _shape_of(scene: Scene, rng: np.random.Generator, language: int) -> Say | None:
    alone = scene.unique(lambda f: f.colour)
    if not alone:
        return None
    figure = _pick(rng, alone)
    question = wording(rng, SCENE, "shape_of", language).format(colour_word(figure.colour, language))
    return question, shape_word(figure.shape, language)


def _exists(scene: Scene, rng: np.random.Generator, language: int) -> Say:
    there = {f.pair for f in scene.figures}
    pair = _pick(rng, scene.figures).pair
    if rng.random() < 0.5:  # one that is there, with another colour or shape
        for _ in range(20):
            other = str(rng.choice(COLOUR_NAMES)), str(rng.choice(SHAPE_NAMES))
            tried = (other[0], pair[1]) if rng.random() < 0.5 else (pair[0], other[1])
            if tried not in there and not is_barred(*tried, scene.held_out):
                pair = tried
                break
    question = wording(rng, SCENE, "exists", language).format(pair_word(pair, language))
    return question, YES_NO[language][0 if pair in there else 1]


def _relation(kind: str, axis: int, sign: int) -> Ask:
    def ask(scene: Scene, rng: np.random.Generator, language: int) -> Say | None:
        alone = scene.unique(lambda f: f.pair)
        if len(alone) < 2:
            return None
        first, second = (alone[int(i)] for i in rng.permutation(len(alone))[:2])
        gap = (second.y - first.y) / scene.height if axis else (second.x - first.x) / scene.width
        if abs(gap) <= _CLEAR_GAP:
            return None
        words = (pair_word(first.pair, language), pair_word(second.pair, language))
        return wording(rng, SCENE, kind, language).format(*words), YES_NO[language][0 if gap * sign > 0 else 1]

    return ask


def _what_at(scene: Scene, rng: np.random.Generator, language: int) -> Say | None:
    """A ninth with just one figure well inside it, or one that no figure touches."""
    inside: dict[str, list[Figure]] = {name: [] for name in PLACE_NAMES}
    touched: Counter[str] = Counter()
    for figure in scene.figures:
        home = place_of(figure.x, figure.y, scene.width, scene.height, margin=0.06)
        if home:
            inside[home].append(figure)
        touched.update(_ninths(figure, scene))
    full = [name for name, figures in inside.items() if len(figures) == 1 and touched[name] == 1]
    empty = [name for name in PLACE_NAMES if not touched[name]]
    if not full or (empty and rng.random() < 0.15):
        if not empty or not full:
            return None
        place, answer = str(rng.choice(empty)), NOTHING[language]
    else:
        place = str(rng.choice(full))
        answer = pair_word(inside[place][0].pair, language)
    return wording(rng, SCENE, "what_at", language).format(place_word(place, language)), answer


def _ninths(figure: Figure, scene: Scene) -> set[str]:
    """Places that a figure's box touches."""
    left, top, right, bottom = figure.box
    columns = range(max(0, int(left / scene.width * 3)), min(2, int(right / scene.width * 3)) + 1)
    rows = range(max(0, int(top / scene.height * 3)), min(2, int(bottom / scene.height * 3)) + 1)
    return {PLACE_NAMES[row * 3 + column] for row in rows for column in columns}


def _where_is(scene: Scene, rng: np.random.Generator, language: int) -> Say | None:
    named = [(f, place_of(f.x, f.y, scene.width, scene.height, margin=0.06)) for f in scene.unique(lambda f: f.pair)]
    clear = [(figure, place) for figure, place in named if place]
    if not clear:
        return None
    figure, place = clear[int(rng.integers(len(clear)))]
    question = wording(rng, SCENE, "where_is", language).format(pair_word(figure.pair, language))
    return question, place_word(str(place), language)


def _extreme(kind: str, value: Callable[[Figure, Scene], float], factor: float, margin: float) -> Ask:
    def ask(scene: Scene, rng: np.random.Generator, language: int) -> Say | None:
        if len(scene.figures) < 2:
            return None
        ranked = sorted(scene.figures, key=lambda f: -value(f, scene))
        first, second = value(ranked[0], scene), value(ranked[1], scene)
        if first <= second * factor or first <= second + margin:
            return None
        return wording(rng, SCENE, kind, language), pair_word(ranked[0].pair, language)

    return ask


def _describe(scene: Scene, rng: np.random.Generator, language: int) -> Say | None:
    text = describe(scene, language)
    return None if text is None else (wording(rng, SCENE, "describe", language), text)


ASKS: dict[str, Ask] = {
    "count": _count,
    "count_colour": _count_colour,
    "count_shape": _count_shape,
    "count_pair": _count_pair,
    "colour_of": _colour_of,
    "shape_of": _shape_of,
    "exists": _exists,
    "left_of": _relation("left_of", 0, 1),
    "right_of": _relation("right_of", 0, -1),
    "above": _relation("above", 1, 1),
    "below": _relation("below", 1, -1),
    "what_at": _what_at,
    "where_is": _where_is,
    "largest": _extreme("largest", lambda f, s: f.radius, _LARGER, 0.0),
    "smallest": _extreme("smallest", lambda f, s: 1 / f.radius, _LARGER, 0.0),
    "leftmost": _extreme("leftmost", lambda f, s: 1 - f.x / s.width, 1.0, 0.08),
    "rightmost": _extreme("rightmost", lambda f, s: f.x / s.width, 1.0, 0.08),
    "describe": _describe,
}


def ask(
    scene: Scene, rng: np.random.Generator, language: int, *, leave: frozenset[str] = frozenset()
) -> tuple[str, Say]:
    """A question kind, drawn by weight among those that this scene answers clearly, with question and answer."""
    kinds = [kind for kind in SCENE if kind not in leave]
    weights = np.array([KIND_WEIGHTS[kind] for kind in kinds])
    # An exponential race orders the kinds by weighted chance; the first that the scene can answer is asked.
    for index in np.argsort(-np.log(1 - rng.random(len(kinds))) / weights):
        said = ASKS[kinds[int(index)]](scene, rng, language)
        if said is not None:
            return kinds[int(index)], said
    raise AssertionError("counting is always possible")


def draw_language(rng: np.random.Generator) -> int:
    """0 English, 1 Chinese."""
    return int(rng.random() < CHINESE_SHARE)


def count_trace(scene: Scene, language: int) -> str:
    """The figures one by one, numbered, in reading order where it is clear, else from the left."""
    order = reading_order(scene) or sorted(scene.figures, key=lambda f: f.x)
    return "\n".join(f"{number}. {pair_word(f.pair, language)}" for number, f in enumerate(order, 1))


def _scene(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    language = draw_language(rng)
    scene = draw_scene(rng, width, height, maker.held_out)
    kind, (question, answer) = ask(scene, rng, language)
    thinking = count_trace(scene, language) if kind == "count" and rng.random() < _DEEP_COUNTS else ""
    turn = Turn(question, answer, 1, thinking)
    return Document(f"scene_{kind}", [scene.sheet(rng)], [turn], language, meta={"scene": scene})


def _chat(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    """Several different questions about one picture, one after another: two or three, or a whole row of short ones."""
    language = draw_language(rng)
    scene = draw_scene(rng, width, height, maker.held_out, least=2)
    turns: list[Turn] = []
    asked: set[str] = set()
    kinds: set[str] = set()
    room, short = 150, rng.random() < _SHORT_ROWS
    others = frozenset(SCENE) - _COMPARED if short and rng.random() < _COMPARING else frozenset()
    for _ in range(int(rng.integers(5, 10) if short else rng.integers(2, 4))):
        leave = frozenset({"describe"} if short or room < 140 else set()) | (others if short else kinds)
        kind, (question, answer) = ask(scene, rng, language, leave=leave)
        if question in asked or len(answer) > room:
            continue
        asked.add(question)
        kinds.add(kind)
        room -= len(answer)
        turns.append(Turn(question, answer, 1 if not turns else 0))
    return Document("scene_chat", [scene.sheet(rng)], turns, language, meta={"scene": scene, "kinds": sorted(kinds)})


TASKS: dict[str, Callable[[Maker, np.random.Generator, int, int], Document]] = {"scene": _scene, "scene_chat": _chat}
WEIGHTS: dict[str, float] = {"scene": 0.7, "scene_chat": 1.0}
