"""From the answers of one task to its numbers: metrics with intervals, by kind of question, tokens and times."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from . import scoring
from .samples import Sample
from .tasks import Task

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What a model said to one sample. ms: its share of its batch's time. probability: mean probability of the
    reference's tokens, where a task asks for it."""

    index: int
    text: str
    thinking: str
    finish_reason: str
    prompt_tokens: int
    visual_tokens: int
    generated_tokens: int
    ms: float
    probability: float | None = None


def measure(task: Task, samples: Sequence[Sample], answers: Sequence[Answer], control: str = "") -> Numbers:
    """Numbers of one task. samples[i] is what answers[i] answered, with the reference it should have had."""
    hits = [scoring.exact(answer.text, sample.answer) for sample, answer in zip(samples, answers, strict=True)]
    n = len(hits)
    numbers: Numbers = {"n": n, "exact": _mean(hits), "exact_interval": list(scoring.wilson(sum(hits), n))}
    numbers["hits"] = "".join("1" if hit else "0" for hit in hits)
    more = _MORE.get(task.measure)
    if more is not None:
        numbers |= more(samples, answers)
    kinds = by_kind(samples, hits)
    if len(kinds) > 1:
        numbers["kinds"] = kinds
    if task.measure == "exact" and task.group in ("scene", "clip", "event", "several"):
        facts = [(str(s.meta.get("kind")), str(s.meta.get("language", "en")), s.answer) for s in samples]
        numbers["constant_guess"] = scoring.constant_guess(facts)
    if task.native:
        numbers |= by_grid(samples, hits)
    if control == "reversed":
        pairs = [(s, a) for s, a in zip(samples, answers, strict=True) if "opposite" in s.meta]
        opposite = [scoring.exact(answer.text, sample.meta["opposite"]) for sample, answer in pairs]
        if opposite:
            numbers |= {
                "opposite": _mean(opposite),
                "opposite_interval": list(scoring.wilson(sum(opposite), len(pairs))),
            }
    return numbers | costs(answers) | languages(samples, answers)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _read(samples: Sequence[Sample], answers: Sequence[Answer]) -> Numbers:
    """Character error rate over all characters."""
    errors = sum(
        scoring.edit_distance(scoring.normalise(answer.text), scoring.normalise(sample.answer))
        for sample, answer in zip(samples, answers, strict=True)
    )
    return {"cer": errors / max(1, sum(len(scoring.normalise(sample.answer)) for sample in samples))}


def _date(samples: Sequence[Sample], answers: Sequence[Answer]) -> Numbers:
    """Whether the answer has the format of the examples, right date or not."""
    right = [
        scoring.date_format(answer.text) == scoring.date_format(sample.answer)
        for sample, answer in zip(samples, answers, strict=True)
    ]
    return {"format": _mean(right)}


def _mean_score(name: str, score: Callable[[str, str], float]) -> Callable[..., Numbers]:
    def numbers(samples: Sequence[Sample], answers: Sequence[Answer]) -> Numbers:
        scores = [score(answer.text, sample.answer) for sample, answer in zip(samples, answers, strict=True)]
        return {name: _mean(scores)}

    return numbers


def _describe(samples: Sequence[Sample], answers: Sequence[Answer]) -> Numbers:
    """CHAIR: objects named that are not there, of all named. Recall: objects there that are named, of all there."""
    made_up = named = found = there = told_wrong = 0
    for sample, answer in zip(samples, answers, strict=True):
        wrong, all_named, right = scoring.hallucination(answer.text, sample.meta["objects"])
        made_up, named, found = made_up + wrong, named + all_named, found + right
        there, told_wrong = there + len(sample.meta["objects"]), told_wrong + (wrong > 0)
    return {
        "chair": made_up / max(1, named),
        "chair_answers": told_wrong / max(1, len(samples)),
        "recall": found / max(1, there),
    }


def _hidden(samples: Sequence[Sample], answers: Sequence[Answer]) -> Numbers:
    """Reading scores, and how sure the model is of the reference text."""
    probabilities = [answer.probability for answer in answers if answer.probability is not None]
    numbers = _read(samples, answers)
    return numbers | ({"probability": _mean(probabilities)} if probabilities else {})


_MORE: dict[str, Callable[..., Numbers]] = {
    "read": _read,
    "date": _date,
    "table": _mean_score("cell_f1", scoring.cell_f1),
    "json": _mean_score("fields", scoring.json_fields),
    "describe": _describe,
    "hidden": _hidden,
}


def by_kind(samples: Sequence[Sample], hits: Sequence[bool]) -> Numbers:
    """Exact match for each kind of question."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for sample, hit in zip(samples, hits, strict=True):
        groups[str(sample.meta.get("kind", ""))].append(hit)
    return {kind: {"n": len(found), "exact": _mean(found)} for kind, found in sorted(groups.items())}


def by_grid(samples: Sequence[Sample], hits: Sequence[bool]) -> Numbers:
    """Exact match on each grid; the gap between trained and unseen grids on equal texts; the lowest grid."""
    grids: dict[str, list[bool]] = defaultdict(list)
    groups: dict[str, list[bool]] = defaultdict(list)
    for sample, hit in zip(samples, hits, strict=True):
        grids[f"{sample.meta['group']} {sample.meta['grid']}"].append(hit)
        groups[sample.meta["group"]].append(hit)
    table = {grid: {"n": len(found), "exact": _mean(found)} for grid, found in sorted(grids.items())}
    trained, unseen = _mean(groups["trained"]), _mean(groups["unseen"])
    return {
        "grids": table,
        "trained_grids": trained,
        "unseen_grids": unseen,
        "unseen_gap": trained - unseen,
        "lowest_grid": min((row["exact"] for row in table.values()), default=0.0),
    }


def costs(answers: Sequence[Answer]) -> Numbers:
    """Means a sample: tokens of the prompt, of them visual, generated; milliseconds of generation in its batch."""
    return {
        "prompt_tokens": _mean([answer.prompt_tokens for answer in answers]),
        "visual_tokens": _mean([answer.visual_tokens for answer in answers]),
        "generated_tokens": _mean([answer.generated_tokens for answer in answers]),
        "ms": _mean([answer.ms for answer in answers]),
        "cut_off": sum(answer.finish_reason == "length" for answer in answers),
    }


def languages(samples: Sequence[Sample], answers: Sequence[Answer]) -> Numbers:
    """How often words are in the question's language, where the reference is words in that language: [right, of n]."""
    counts: dict[str, list[int]] = {}
    for sample, answer in zip(samples, answers, strict=True):
        asked = str(sample.meta.get("language", "en"))
        if sample.meta.get("kind") == "read" or scoring.language_of(sample.answer) != asked:
            continue
        right, n = counts.get(asked, [0, 0])
        counts[asked] = [right + (scoring.language_of(answer.text) == asked), n + 1]
    return {"answer_language": counts} if counts else {}
