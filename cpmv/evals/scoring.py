"""What an answer is worth: exact match, character errors, table cells, JSON fields, objects told and made up.

Every score is a pure function of the answer and the reference. Intervals are Wilson's at 95 %.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..train.draw.prompts import COLOURS, SHAPES

Z = 1.96  # 95 %


def wilson(hits: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of hits out of n, both ends in 0..1; (0, 1) when nothing was asked."""
    if n == 0:
        return 0.0, 1.0
    p, scale = hits / n, 1 + Z * Z / n
    middle, half = (p + Z * Z / (2 * n)) / scale, Z / scale * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def normalise(text: str) -> str:
    """What "exact" forgives: space at the ends of lines and of the whole."""
    return "\n".join(line.strip() for line in text.strip().splitlines())


def exact(answer: str, reference: str) -> bool:
    """Equal but for space at the ends of lines."""
    return normalise(answer) == normalise(reference)


def edit_distance(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Insertions, deletions and substitutions that make a into b."""
    if a == b:
        return 0
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


def f1(found: Counter[Any], wanted: Counter[Any]) -> float:
    """Harmonic mean of precision and recall of two multisets; 1 when both are empty."""
    common = sum((found & wanted).values())
    total = sum(found.values()) + sum(wanted.values())
    return 2 * common / total if total else 1.0


def table_cells(markdown: str) -> Counter[tuple[int, int, str]]:
    """Cells of a Markdown table with their row and column; the line of dashes is no row."""
    cells: Counter[tuple[int, int, str]] = Counter()
    rows = [line.strip() for line in markdown.strip().splitlines() if line.strip().startswith("|")]
    rows = [line for line in rows if not re.fullmatch(r"\|[\s:|-]+", line)]
    for row, line in enumerate(rows):
        for column, cell in enumerate(line.strip("|").split("|")):
            cells[row, column, cell.strip()] += 1
    return cells


def cell_f1(answer: str, reference: str) -> float:
    """F1 of a Markdown table's cells, each at its row and column."""
    return f1(table_cells(answer), table_cells(reference))


def json_fields(answer: str, reference: str) -> float:
    """Share of the reference's fields that the answer, an object in JSON, has with the same value; 0 if it is none."""
    wanted = json.loads(reference)
    try:
        found = json.loads(answer)
    except ValueError:
        return 0.0
    if not isinstance(found, dict):
        return 0.0
    return sum(key in found and found[key] == value for key, value in wanted.items()) / len(wanted)


def _mention_patterns() -> list[tuple[re.Pattern[str], tuple[str, str]]]:
    patterns = []
    for colour, (chinese, _) in COLOURS.items():
        for shape, (plural, chinese_shape) in SHAPES.items():
            names = rf"\b{colour} (?:{shape}|{plural})\b|{chinese}的?{chinese_shape}"
            patterns.append((re.compile(names), (colour, shape)))
    return patterns


_MENTIONS = _mention_patterns()


def mentioned(text: str) -> Counter[str]:
    """Objects that a description names, as "red circle" -> how often."""
    found: Counter[str] = Counter()
    lower = text.lower()
    for pattern, (colour, shape) in _MENTIONS:
        count = len(pattern.findall(lower))
        if count:
            found[f"{colour} {shape}"] = count
    return found


def hallucination(answer: str, objects: Sequence[str]) -> tuple[int, int, int]:
    """(objects named that are not there, objects named, objects there that are named) for CHAIR and recall."""
    named, there = mentioned(answer), Counter(objects)
    return sum((named - there).values()), sum(named.values()), sum((named & there).values())


_HAN, _LATIN = re.compile(r"[\u4e00-\u9fff]"), re.compile(r"[A-Za-z]")


def language_of(text: str) -> str | None:
    """ "zh", "en", or None for numbers and signs alone."""
    if _HAN.search(text):
        return "zh"
    return "en" if _LATIN.search(text) else None


_MONTHS = "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
DATE_FORMATS = (
    r"\d{4}-\d{2}-\d{2}", r"\d{2}\.\d{2}\.\d{4}", r"\d{2}/\d{2}/\d{4}", rf"\d{{2}} (?:{_MONTHS}) \d{{4}}",
    rf"(?:{_MONTHS}) \d{{1,2}}, \d{{4}}", r"\d{4}年\d{1,2}月\d{1,2}日", r"\d{4}\.\d{2}\.\d{2}",
    r"\d{4}/\d{2}/\d{2}", r"\d{2}-\d{2}-\d{4}",
)  # fmt: skip


def date_format(text: str) -> int | None:
    """Number of the format that a text has, whatever the date; None for none."""
    return next((i for i, pattern in enumerate(DATE_FORMATS) if re.fullmatch(pattern, text.strip())), None)


def constant_guess(samples: Sequence[tuple[str, str, str]]) -> float:
    """Share right when each kind of question always gets its most frequent answer.

    samples: (kind, language, reference). A blank picture should do no better.
    """
    by_kind: dict[tuple[str, str], Counter[str]] = {}
    for kind, language, reference in samples:
        by_kind.setdefault((kind, language), Counter())[reference] += 1
    return sum(max(answers.values()) for answers in by_kind.values()) / max(1, len(samples))
