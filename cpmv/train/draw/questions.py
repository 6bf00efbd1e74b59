"""Wordings of the questions about documents, and the one function that asks.

As in `prompts.py`: for each task English, then Chinese wordings, with slots {0}, {1}, {2} that the layout fills.
Training and evaluation ask from the same tables; layouts stay apart. Where a task has an ordinal, {0} is the word
("second") and {1} the digit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from .canvas import Unfit
from .document import Turn
from .questions_data import CHARTS, FORMS, TABLES
from .questions_text import LABELS, PAGES, RECEIPTS

if TYPE_CHECKING:
    import numpy as np

ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
QUESTIONS = PAGES | RECEIPTS | LABELS | TABLES | FORMS | CHARTS

# Endings that may follow a question: they ask for what the answers already are.
_ENDINGS = (
    (
        " Answer briefly.",
        " Only the answer.",
        " Give just the value.",
        " Short answer, please.",
        " Answer in a few words.",
    ),
    ("只写答案。", "请简短回答。", "直接回答。"),
)
_LONG = frozenset(
    "page_read page_paragraph page_section receipt_read label_read table_markdown form_json chart_table "
    "production_date".split()
)
_ENDING_SHARE = 0.08


def ask(rng: np.random.Generator, task: str, language: int, *values: str) -> str:
    """A random wording of a task's question. language: 0 English, 1 Chinese; values fill its slots."""
    wordings = QUESTIONS[task][language]
    question = wordings[int(rng.integers(len(wordings)))].format(*values).replace("..", ".")
    if task not in _LONG and question[-1] in ".?。？" and rng.random() < _ENDING_SHARE:
        endings = _ENDINGS[language]
        question += endings[int(rng.integers(len(endings)))]
    return question


def ordinal(number: int) -> tuple[str, str]:
    """The two slot values of an ordinal, from 1."""
    return ORDINALS[number - 1], str(number)


def row_of_turns(
    rng: np.random.Generator,
    weights: Mapping[str, float],
    answer: Callable[[str], tuple[str, tuple[str, ...]]],
    language: int,
    *,
    most: int,
    room: int,
) -> list[Turn]:
    """Up to `most` different questions about one sheet, whose answers have at most `room` characters together.

    weights: of the tasks; answer: answer and slot values of a task, or Unfit. Raises Unfit when fewer than two remain.
    """
    names, shares = list(weights), shares_of(weights)
    turns: list[Turn] = []
    asked: set[tuple[str, ...]] = set()
    for _ in range(3 * most):
        task = names[int(rng.choice(len(names), p=shares))]
        try:
            text, values = answer(task)
        except Unfit:
            continue
        if (task, *values) in asked or not text or len(text) > room:
            continue
        asked.add((task, *values))
        room -= len(text)
        turns.append(Turn(ask(rng, task, language, *values), text, 0 if turns else 1))
        if len(turns) == most:
            break
    if len(turns) < 2:
        raise Unfit("too few questions")
    return turns


def shares_of(weights: Mapping[str, float]) -> list[float]:
    """Weights that sum to 1."""
    total = sum(weights.values())
    return [weight / total for weight in weights.values()]
