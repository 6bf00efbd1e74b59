"""From scored responses to preference pairs: the pair rule, and the balance of lengths.

Two responses to one prompt make a pair when their scores differ by one or more; the higher is chosen. Fewer rejected
claims also come of saying less, so pairs whose chosen response is too much shorter are dropped: the ratio is searched
so that chosen and rejected responses are equally long on average.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

MIN_GAP = 1
PAIRS_PER_PROMPT = 2
RATIOS = tuple(step * 0.02 for step in range(50))  # 0 ... 0.98


@dataclass(frozen=True)
class Response:
    """A response as pairs need it. length: in tokens. source: who wrote it, where that must differ in a pair."""

    text: str
    score: float
    length: int
    source: str = ""


@dataclass(frozen=True)
class Preference:
    """number: of the prompt."""

    number: int
    chosen: Response
    rejected: Response


def pairs_of(
    number: int,
    responses: Sequence[Response],
    rng: random.Random,
    *,
    most: int = PAIRS_PER_PROMPT,
    across: bool = False,
) -> list[Preference]:
    """At most `most` pairs of a prompt's responses, drawn among those that the rule allows, no two alike.

    across: only pairs of different sources.
    """
    possible: dict[tuple[str, str], Preference] = {}
    for better in responses:
        for worse in responses:
            if better.score - worse.score < MIN_GAP or better.text.strip() == worse.text.strip():
                continue
            if across and better.source == worse.source:
                continue
            possible.setdefault((better.text, worse.text), Preference(number, better, worse))
    found = list(possible.values())
    return found if len(found) <= most else rng.sample(found, most)


def mean_lengths(pairs: Sequence[Preference]) -> tuple[float, float]:
    """Mean tokens of the chosen and of the rejected responses; zeros without pairs."""
    count = max(1, len(pairs))
    return sum(p.chosen.length for p in pairs) / count, sum(p.rejected.length for p in pairs) / count


def kept_at(pairs: Sequence[Preference], ratio: float) -> list[Preference]:
    """The pairs whose chosen response has at least `ratio` of the rejected one's tokens."""
    return [p for p in pairs if p.chosen.length >= ratio * p.rejected.length]


def balance(pairs: Sequence[Preference], *, least_share: float = 0.1) -> tuple[list[Preference], float]:
    """Drop pairs so that mean lengths are as equal as a ratio can make them; return those kept, and the ratio.

    The lowest ratio wins among equal ones. A ratio that keeps less than `least_share` of the pairs is not taken.
    """
    best: tuple[float, list[Preference], float] | None = None
    for ratio in RATIOS:
        kept = kept_at(pairs, ratio)
        if len(kept) < max(1, least_share * len(pairs)):
            break
        chosen, rejected = mean_lengths(kept)
        if best is None or abs(chosen - rejected) < best[0] - 1e-9:
            best = (abs(chosen - rejected), kept, ratio)
    return ([], 0.0) if best is None else (best[1], best[2])
