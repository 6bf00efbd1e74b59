"""Short clips of two shapes that move straight, stand still or come later: which way, which is faster, which is first.

The questions are those of `clip.py`, which draws such clips on the device, and where a shape starts and ends: a model
sees along which line a shape moves long before it sees which way, as only the frames' times tell that. Several are
asked about one clip, whose frames have the sizes of users' frames, in one package or in several.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .document import Document, Turn
from .figures import Figure, colour_word, place_of, place_word, shape_word
from .prompts import CLIP, DIRECTIONS, YES_NO
from .scenes import wording
from .stage import Stage
from .wordings import EVENTS, Templates

_WHOLE = 0.7  # share of clips that are one package
# Of the wordings for one shape those that name it: here two move.
_ENDS: Templates = {
    kind: (tuple(t for t in EVENTS[kind][0] if "{0}" in t), tuple(t for t in EVENTS[kind][1] if "{0}" in t))
    for kind in ("start_place", "end_place")
}
_PREFERRED = {"direction": 0.6, "end_place": 0.2, "start_place": 0.2}  # these are asked before others


def motion(stage: Stage) -> Document:
    """Two shapes of different colours move straight, stand still or come later; one to five questions about them."""
    rng, language = stage.rng, stage.language
    total, side = stage.between(2, 6), min(stage.width, stage.height)
    pairs = stage.pairs(2)
    radii = [side * float(rng.uniform(0.1, 0.17)) for _ in pairs]
    headings = [stage.between(0, 7) for _ in pairs]
    reach = [side * float(rng.uniform(0.22, 0.62)) * (rng.random() > 0.08) for _ in pairs]
    appears = [0, 0]
    if rng.random() < 0.3:
        appears[stage.between(0, 1)] = stage.between(1, total - 1)
    tracks = [_straight(stage, *track, total) for track in zip(radii, headings, reach, strict=True)]
    frames = []
    for i in range(total):
        shown = zip(pairs, tracks, radii, appears, strict=True)
        frames.append(stage.sheet([Figure(p[1], p[0], *track[i], r) for p, track, r, a in shown if i >= a]))
    names = [colour_word(pair[0], language) for pair in pairs]
    says = _motion_answers(pairs, headings, [r / side for r in reach], appears, total, language)
    says += _ends(stage, tracks, appears)
    turns: list[Turn] = []
    order = np.argsort(rng.random(len(says)) - [_PREFERRED.get(kind, 0.0) for kind, _, _ in says])
    for index in order[: 1 if rng.random() < 0.2 else 5].tolist():
        kind, which, answer = says[index]
        question = wording(rng, CLIP if kind in CLIP else _ENDS, kind, language).format(names[which])
        turns.append(Turn(question, answer, 0 if turns else total))
    groups = stage.packages(total, total if rng.random() < _WHOLE else stage.between(1, 3))
    meta = {"says": says, "pairs": pairs, "appears": appears}
    return Document("clip_motion", frames, turns, language, groups, meta)


Said = tuple[str, int, str]  # kind of question, which shape, answer


def _ends(stage: Stage, tracks: Sequence[list[tuple[float, float]]], appears: Sequence[int]) -> list[Said]:
    """Where shapes that are there from the first frame start and end, if that is in clearly different ninths."""
    says: list[Said] = []
    for which, (track, first) in enumerate(zip(tracks, appears, strict=True)):
        start, end = (place_of(*track[i], stage.width, stage.height, margin=0.05) for i in (0, -1))
        if start and end and start != end and not first:
            says.append(("start_place", which, place_word(start, stage.language)))
            says.append(("end_place", which, place_word(end, stage.language)))
    return says


def _straight(stage: Stage, radius: float, heading: int, reach: float, total: int) -> list[tuple[float, float]]:
    """Points of a straight path that lies on the sheet, evenly spaced."""
    dx, dy = reach * math.cos(heading * math.pi / 4), reach * math.sin(heading * math.pi / 4)
    start = []
    for size, way in ((stage.width, dx), (stage.height, dy)):
        low, high = radius + 1 + max(0.0, -way), size - radius - 1 - max(0.0, way)
        start.append(float(stage.rng.uniform(low, max(low, high))))
    shares = [i / (total - 1) for i in range(total)]
    return [(start[0] + dx * share, start[1] + dy * share) for share in shares]


def _motion_answers(
    pairs: Sequence[tuple[str, str]], headings: Sequence[int], reach: Sequence[float], appears: Sequence[int],
    total: int, language: int
) -> list[Said]:  # fmt: skip
    """(kind, which shape, answer) of everything that can be seen without doubt. reach: shares of the shorter side."""
    names = [colour_word(pair[0], language) for pair in pairs]
    directions = list(DIRECTIONS.values()) if language else list(DIRECTIONS)
    says: list[Said] = []
    for which, (far, first) in enumerate(zip(reach, appears, strict=True)):
        seen = far * (1 - first / (total - 1))
        if first < total - 1 and (seen > 0.12 or not far):
            says.append(("moves", which, YES_NO[language][0 if far else 1]))
            if far:
                says.append(("direction", which, directions[headings[which]]))
        says.append(("shape", which, shape_word(pairs[which][1], language)))
    if abs(reach[0] - reach[1]) > 0.12 and not any(appears):
        quick = int(reach[1] > reach[0])
        says += [("faster", 0, names[quick]), ("slower", 0, names[1 - quick])]
    if appears[0] != appears[1]:
        early = int(appears[0] > appears[1])
        says += [("first", 0, names[early]), ("last", 0, names[1 - early])]
    return says
