"""Scenes of coloured shapes on a loose grid, and one question about each.

Objects sit in the cells of a layout chosen by the picture's aspect, so each pixel asks only the shape of its own cell.
A question kind is drawn among those that this scene answers without doubt (one triangle, a clear largest object, ...).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import shapes as shapes_module
from .chance import Chance, cumulative, pick
from .phrases import PhraseBank, Segments, Wordings
from .prompts import COLOURS, NOTHING, PLACES, SCENE, SHAPES, YES_NO
from .shapes import NUM_COLOURS, NUM_SHAPES, Shapes

MAX_CELLS = 12
MAX_COUNT = 9  # objects
MAX_LISTED = 4  # objects of a full description
# How often each kind is asked; a kind that the scene cannot answer is asked of another scene. A relation compares two
# places and is learnt last of all, so it is asked often.
WEIGHTS = {
    "count": 1.6, "count_colour": 1.0, "count_shape": 0.9, "count_pair": 0.4, "colour_of": 0.6, "shape_of": 0.6,
    "exists": 1.4, "left_of": 2.2, "right_of": 1.8, "above": 1.8, "below": 1.8, "what_at": 0.8, "where_is": 0.9,
    "largest": 0.6, "smallest": 0.6, "leftmost": 0.5, "rightmost": 0.5, "describe": 1.4,
}  # fmt: skip
_NEAR_SQUARE = ((3, 3), (3, 3), (3, 3), (2, 2), (2, 3), (3, 2), (3, 4), (1, 3), (2, 1))
_WIDE = ((2, 4), (2, 5), (1, 4), (2, 3), (1, 3), (1, 6), (2, 6), (3, 4), (1, 2))
_PLACE_GRID = {
    (3, 3): list(range(9)), (2, 2): [0, 2, 6, 8], (1, 3): [3, 4, 5], (3, 1): [1, 4, 7], (2, 1): [1, 7], (1, 2): [3, 5],
}  # fmt: skip


@dataclass
class Layouts:
    """Layouts that a picture size may use: rows, columns [n] and the place name of each cell [n, 12] (-1: none)."""

    rows: Tensor
    columns: Tensor
    place: Tensor


def layouts_for(height: int, width: int, device: torch.device) -> Layouts:
    """Near-square pictures use mostly 3 x 3, strips use long layouts."""
    choices: tuple[tuple[int, int], ...] = _NEAR_SQUARE
    if width > 1.5 * height:
        choices = _WIDE
    elif height > 1.5 * width:
        choices = tuple((columns, rows) for rows, columns in _WIDE)
    place = torch.full((len(choices), MAX_CELLS), -1)
    for index, choice in enumerate(choices):
        for cell, name in enumerate(_PLACE_GRID.get(choice, [])):
            place[index, cell] = name
    sides = torch.tensor(choices)
    return Layouts(sides[:, 0].to(device), sides[:, 1].to(device), place.to(device))


class SceneWords:
    """Phrase rows of everything a scene question or answer may name, [language, ...]."""

    def __init__(self, bank: PhraseBank) -> None:
        colours, shapes = list(COLOURS), list(SHAPES)
        pairs = [(c, s) for c in colours for s in shapes]
        self.colour = bank.add_all(colours, [COLOURS[c][0] for c in colours])
        self.shape = bank.add_all(shapes, [SHAPES[s][1] for s in shapes])
        self.plural = bank.add_all([SHAPES[s][0] for s in shapes], [SHAPES[s][1] for s in shapes])
        self.pair = bank.add_all([f"{c} {s}" for c, s in pairs], [f"{COLOURS[c][0]}{SHAPES[s][1]}" for c, s in pairs])
        self.pairs = bank.add_all(
            [f"{c} {SHAPES[s][0]}" for c, s in pairs], [f"{COLOURS[c][0]}{SHAPES[s][1]}" for c, s in pairs]
        )
        self.a_pair = bank.add_all(
            [f"{'an' if c[0] in 'aeio' else 'a'} {c} {s}" for c, s in pairs],
            [f"一个{COLOURS[c][0]}{SHAPES[s][1]}" for c, s in pairs],
        )
        self.place = bank.add_all(list(PLACES), list(PLACES.values()))
        self.number = bank.add_all([str(n) for n in range(MAX_CELLS + 1)])
        self.yes_no = bank.add_all(*[[no, yes] for yes, no in YES_NO])
        self.nothing = bank.add_all(*[[word] for word in NOTHING])[:, 0]
        # Between listed objects: nothing, ", ", " and " by position (first, inner, last).
        self.between = bank.add_all(["", ", ", " and "], ["", "、", "和"])
        self.wordings = Wordings(bank, SCENE)
        self.kind_weights = [WEIGHTS[kind] for kind in SCENE]


@dataclass
class Scene:
    shapes: Shapes
    owner_rows: Tensor  # [B], layout rows
    owner_columns: Tensor
    place: Tensor  # [B, 12], place name of a cell or -1


def draw_scene(
    chance: Chance,
    base: Tensor,
    layouts: Layouts,
    colours: Tensor,
    barred: Tensor,
    counts: Tensor,
    height: int,
    width: int,
) -> Scene:
    """Place 1 to 9 shapes. base: [B, 3] paper colour; counts: cumulative distribution of the number of shapes."""
    batch = base.shape[0]
    layout = chance.integer(batch, high=layouts.rows.shape[0])
    rows, columns = layouts.rows[layout].unsqueeze(1), layouts.columns[layout].unsqueeze(1)
    cell = torch.arange(MAX_CELLS, device=base.device).expand(batch, -1)
    exists = cell < rows * columns
    order = (chance.uniform(batch, MAX_CELLS) + (~exists).float()).argsort(1).argsort(1)
    number = torch.minimum(chance.weighted(batch, cumulative=counts) + 1, (rows * columns)[:, 0])
    shown = exists & (order < number.unsqueeze(1))
    kind, colour = shapes_module.choose_pairs(chance, base, colours, barred, MAX_CELLS)
    # Half the scenes repeat themselves, so that counting has something to count.
    same = chance.chosen(batch, 1, share=0.4) & chance.chosen(batch, MAX_CELLS, share=0.6)
    kind, colour = torch.where(same, kind[:, :1], kind), torch.where(same, colour[:, :1], colour)
    cell_height, cell_width = height / rows, width / columns
    side = torch.minimum(cell_height, cell_width)
    radius = (side * chance.uniform(batch, MAX_CELLS, low=0.2, high=0.47)).clamp(min=5.5, max=60)
    radius = torch.minimum(radius, side * 0.48)
    slack_x, slack_y = (cell_width / 2 - radius - 1).clamp(min=0), (cell_height / 2 - radius - 1).clamp(min=0)
    slack_x, slack_y = torch.minimum(slack_x, cell_width * 0.25), torch.minimum(slack_y, cell_height * 0.25)
    rgb = (colours[colour] + chance.uniform(batch, MAX_CELLS, 3, low=-0.05, high=0.05)).clamp(0, 1)
    objects = Shapes(
        kind=kind,
        colour=colour,
        x=(cell % columns + 0.5) * cell_width + slack_x * chance.uniform(batch, MAX_CELLS, low=-1),
        y=(cell // columns + 0.5) * cell_height + slack_y * chance.uniform(batch, MAX_CELLS, low=-1),
        radius=radius,
        angle=chance.uniform(batch, MAX_CELLS, low=-0.2, high=0.2) * chance.chosen(batch, 1, share=0.5),
        rgb=rgb,
        shown=shown.float(),
    )
    return Scene(objects, rows, columns, layouts.place[layout])


def owner_of(scene: Scene, x: Tensor, y: Tensor, height: int, width: int) -> Tensor:
    """Cell that holds each point. x, y: [P] px -> [B, P]."""
    row = (y.unsqueeze(0) / height * scene.owner_rows).long()
    column = (x.unsqueeze(0) / width * scene.owner_columns).long()
    return torch.minimum(row, scene.owner_rows - 1) * scene.owner_columns + torch.minimum(
        column, scene.owner_columns - 1
    )


def count_distribution(most: int, device: torch.device) -> Tensor:
    """Fewer shapes are a little likelier; up to `most`."""
    return cumulative([1.0 if n <= 4 else 0.85 if n <= 6 else 0.75 for n in range(1, most + 1)], device)


class _Facts:
    """What can be asked of a scene: counts, unique objects, extremes."""

    def __init__(self, chance: Chance, scene: Scene) -> None:
        s = scene.shapes
        self.shown = s.shown > 0
        self.kind, self.colour, self.pair = s.kind, s.colour, s.colour * NUM_SHAPES + s.kind
        self.by_colour = _histogram(self.colour, self.shown, NUM_COLOURS)
        self.by_kind = _histogram(self.kind, self.shown, NUM_SHAPES)
        self.by_pair = _histogram(self.pair, self.shown, NUM_COLOURS * NUM_SHAPES)
        self.number = self.shown.sum(1)
        self.unique_kind = self.shown & (pick(self.by_kind, self.kind) == 1)
        self.unique_colour = self.shown & (pick(self.by_colour, self.colour) == 1)
        self.unique_pair = self.shown & (pick(self.by_pair, self.pair) == 1)
        self.first = chance.one_of(self.unique_pair)
        others = self.unique_pair & (torch.arange(MAX_CELLS, device=s.x.device) != self.first.unsqueeze(1))
        self.second = chance.one_of(others)
        self.two = others.any(1)


def _histogram(index: Tensor, shown: Tensor, size: int) -> Tensor:
    out = torch.zeros(index.shape[0], size, dtype=torch.int64, device=index.device)
    return out.scatter_add_(1, index, shown.long())


def _at(values: Tensor, index: Tensor) -> Tensor:
    """values[b, index[b]]: [B, O], [B] -> [B]."""
    return values.gather(1, index.unsqueeze(1))[:, 0]


def _extreme(values: Tensor, shown: Tensor, factor: float, margin: float) -> tuple[Tensor, Tensor]:
    """Index of the largest shown value, and whether it exceeds the next by `factor` and `margin`."""
    ranked = torch.where(shown, values, -1e9)
    top = ranked.topk(2, dim=1)
    first, second = top.values[:, 0], top.values[:, 1]
    return top.indices[:, 0], (first > second * factor) & (first > second + margin) & (second > -1e8)


def ask(chance: Chance, scene: Scene, words: SceneWords, bank: PhraseBank, weights: Tensor, language: Tensor,
        barred: Tensor, height: int, width: int) -> tuple[Segments, Segments, Tensor]:  # fmt: skip
    """A question that fits each scene. weights: [K] in the order of SCENE; barred: bool [colours, shapes], never named.

    Returns question, answer and kind [B].
    """
    facts = _Facts(chance, scene)
    options = _Options(chance, scene, facts, words, language, barred, height, width)
    score = (1 - chance.uniform(language.shape[0], len(SCENE))).log() / weights  # exponential race: weighted choice
    kind = torch.where(options.valid, score, -1e9).argmax(1)
    parts = words.wordings.ask(chance, kind, language)
    slot_0, slot_1 = _at(options.slot_0, kind), _at(options.slot_1, kind)
    question = [bank.segment(row) for row in (parts[:, 0], slot_0, parts[:, 1], slot_1, parts[:, 2])]
    describes = kind == list(SCENE).index("describe")
    answer = [bank.segment(_at(options.answer, kind), ~describes)]
    return question, answer + _description(facts, words, bank, language, describes), kind


class _Options:
    """Slots and answers of every kind, one column each, and whether the scene allows the kind. All [B, K]."""

    def __init__(self, chance: Chance, scene: Scene, facts: _Facts, words: SceneWords, language: Tensor,
                 barred: Tensor, height: int, width: int) -> None:  # fmt: skip
        self.words, self.language, self.facts, self.barred = words, language, facts, barred.flatten()
        batch = language.shape[0]
        self.zero = torch.zeros_like(language)
        self.always = torch.ones(batch, dtype=torch.bool, device=language.device)
        self._columns: dict[str, tuple[Tensor, Tensor, Tensor, Tensor]] = {}
        self._counts(chance)
        self._attributes(chance)
        self._relations(scene, height, width)
        self._places(chance, scene)
        self._extremes(scene, width)
        describable = (facts.number <= MAX_LISTED) & (facts.number > 0)
        self._put("describe", describable, self.zero, self.zero, self.zero)
        columns = [self._columns[kind] for kind in SCENE]
        self.valid, self.slot_0, self.slot_1, self.answer = (
            torch.stack(list(c), 1) for c in zip(*columns, strict=True)
        )

    def _put(self, kind: str, valid: Tensor, slot_0: Tensor, slot_1: Tensor, answer: Tensor) -> None:
        self._columns[kind] = (valid, slot_0, slot_1, answer)

    def _say(self, table: Tensor, index: Tensor) -> Tensor:
        return table[self.language, index]

    def _counts(self, chance: Chance) -> None:
        facts, words, batch = self.facts, self.words, self.language.shape[0]
        self._put("count", self.always, self.zero, self.zero, words.number[facts.number])
        seen = chance.one_of(facts.shown)
        present = chance.chosen(batch, share=0.8)
        colour = torch.where(present, _at(facts.colour, seen), chance.integer(batch, high=NUM_COLOURS))
        kind = torch.where(present, _at(facts.kind, seen), chance.integer(batch, high=NUM_SHAPES))
        pair = torch.where(present, _at(facts.pair, seen), colour * NUM_SHAPES + chance.integer(batch, high=NUM_SHAPES))
        several = chance.one_of(facts.shown & (pick(facts.by_pair, facts.pair) > 1))
        pair = torch.where(chance.chosen(batch, share=0.5) & present, _at(facts.pair, several), pair)
        pair = torch.where(_at(facts.by_pair, pair) > 0, pair, _at(facts.pair, seen))
        self._put("count_colour", self.always, self._say(words.colour, colour), self.zero,
                  words.number[_at(facts.by_colour, colour)])  # fmt: skip
        self._put("count_shape", self.always, self._say(words.plural, kind), self.zero,
                  words.number[_at(facts.by_kind, kind)])  # fmt: skip
        self._put("count_pair", self.always, self._say(words.pairs, pair), self.zero,
                  words.number[_at(facts.by_pair, pair)])  # fmt: skip

    def _attributes(self, chance: Chance) -> None:
        facts, words, batch = self.facts, self.words, self.language.shape[0]
        one = chance.one_of(facts.unique_kind)
        self._put("colour_of", facts.unique_kind.any(1), self._say(words.shape, _at(facts.kind, one)), self.zero,
                  self._say(words.colour, _at(facts.colour, one)))  # fmt: skip
        one = chance.one_of(facts.unique_colour)
        self._put("shape_of", facts.unique_colour.any(1), self._say(words.colour, _at(facts.colour, one)), self.zero,
                  self._say(words.shape, _at(facts.kind, one)))  # fmt: skip
        # Half of the asked pairs are there; the others change the colour or the shape of one that is.
        one = chance.one_of(facts.shown)
        colour, kind = _at(facts.colour, one), _at(facts.kind, one)
        change = chance.integer(batch, high=4)
        colour = torch.where(change == 0, chance.integer(batch, high=NUM_COLOURS), colour)
        kind = torch.where(change == 1, chance.integer(batch, high=NUM_SHAPES), kind)
        pair = colour * NUM_SHAPES + kind
        pair = torch.where(self.barred[pair], _at(facts.pair, one), pair)
        there = (_at(facts.by_pair, pair) > 0).long()
        self._put("exists", self.always, self._say(words.pair, pair), self.zero, self._say(words.yes_no, there))

    def _relations(self, scene: Scene, height: int, width: int) -> None:
        facts, words, s = self.facts, self.words, scene.shapes
        names = (
            self._say(words.pair, _at(facts.pair, facts.first)),
            self._say(words.pair, _at(facts.pair, facts.second)),
        )
        dx = (_at(s.x, facts.second) - _at(s.x, facts.first)) / width
        dy = (_at(s.y, facts.second) - _at(s.y, facts.first)) / height
        for kind, gap in (("left_of", dx), ("right_of", -dx), ("above", dy), ("below", -dy)):
            clear = facts.two & (gap.abs() > 0.12)
            self._put(kind, clear, *names, self._say(words.yes_no, (gap > 0).long()))

    def _places(self, chance: Chance, scene: Scene) -> None:
        facts, words = self.facts, self.words
        named = scene.place >= 0
        empty_too = chance.chosen(named.shape[0], 1, share=0.15)
        cell = chance.one_of(named & (facts.shown | empty_too))
        there = _at(facts.shown, cell)
        what = torch.where(there, self._say(words.pair, _at(facts.pair, cell)), words.nothing[self.language])
        name = _at(scene.place, cell).clamp(min=0)
        self._put("what_at", named.any(1), self._say(words.place, name), self.zero, what)
        known = facts.unique_pair & named
        one = chance.one_of(known)
        self._put("where_is", known.any(1), self._say(words.pair, _at(facts.pair, one)), self.zero,
                  self._say(words.place, _at(scene.place, one).clamp(min=0)))  # fmt: skip

    def _extremes(self, scene: Scene, width: int) -> None:
        facts, words, s = self.facts, self.words, scene.shapes
        for kind, values, factor, margin in (
            ("largest", s.radius, 1.25, 0.0),
            ("smallest", 1 / s.radius, 1.25, 0.0),
            ("leftmost", width - s.x, 1.0, 0.08 * width),
            ("rightmost", s.x, 1.0, 0.08 * width),
        ):
            index, clear = _extreme(values, facts.shown, factor, margin)
            self._put(kind, clear, self.zero, self.zero, self._say(words.pair, _at(facts.pair, index)))


def _description(facts: _Facts, words: SceneWords, bank: PhraseBank, language: Tensor, wanted: Tensor) -> Segments:
    """All objects in reading order: "a red circle, a blue square and a black star"."""
    order = torch.where(facts.shown, 0, MAX_CELLS) + torch.arange(MAX_CELLS, device=language.device)
    order = order.argsort(1)[:, :MAX_LISTED]
    segments: Segments = []
    for place in range(MAX_LISTED):
        used = wanted & (facts.number > place)
        between = torch.where(facts.number == place + 1, 2, 1) if place else torch.zeros_like(facts.number)
        segments.append(bank.segment(words.between[language, between], used))
        segments.append(bank.segment(words.a_pair[language, _at(facts.pair, order[:, place])], used))
    return segments
