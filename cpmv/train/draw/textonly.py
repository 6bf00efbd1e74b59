"""Conversations without a picture: sums, copying, following a format, days and months, letters, and what is not there.

Richer than `talk.py`, which fills the joint start: several turns, formats, and answers that admit there is no picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .document import Document, Turn
from .prompts import SMALL_TALK, TALK
from .scenes import draw_language

if TYPE_CHECKING:
    from .documents import Maker

Exchange = tuple[str, str]
_DAYS = (
    "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
    "星期一 星期二 星期三 星期四 星期五 星期六 星期日".split(),
)
_MONTHS = (
    "January February March April May June July August September October November December".split(),
    [f"{number}月" for number in range(1, 13)],
)
_AFTER = (
    ("What comes after {0}?", "Which one follows {0}?", "After {0} comes?", "Name the one after {0}."),
    ("{0}后面是什么？", "{0}的下一个是什么？", "{0}之后是？"),
)
_BEFORE = (
    ("What comes before {0}?", "Which one is before {0}?", "Name the one before {0}."),
    ("{0}前面是什么？", "{0}的上一个是什么？"),
)
_LETTERS = (
    ("How many letters does {0} have?", "Count the letters of {0}.", "{0}: how many letters?", "Length of {0}?"),
    ("{0}有几个字母？", "数一数{0}的字母。"),
)
_FIRST_LETTER = (
    ("What is the first letter of {0}?", "First letter of {0}?", "{0} begins with which letter?"),
    ("{0}的第一个字母是什么？",),
)
_SORT = (
    ("Sort these: {0}", "Put these in order: {0}", "Sort from small to large: {0}", "In rising order: {0}"),
    ("请从小到大排列：{0}", "排序：{0}"),
)
_LARGEST = (
    ("Which is the largest: {0}?", "Largest of {0}?", "Name the biggest number of {0}."),
    ("{0}中最大的是哪个？", "最大的数：{0}"),
)
_NUMBERED = (
    ("Number these: {0}", "Make a numbered list: {0}", "List with numbers: {0}"),
    ("请编号列出：{0}", "写成编号列表：{0}"),
)
_BULLETS = (
    ("Make a bullet list: {0}", "List with dashes: {0}", "One item a line, with dashes: {0}"),
    ("用短横线列出：{0}", "逐行列出：{0}"),
)
_JSON_LIST = (("Write as a JSON list: {0}", "JSON array of {0}", "As JSON list, please: {0}"), ("写成JSON列表：{0}",))
_ONE_WORD = (
    ("Answer in one word: which comes first in {0}?", "One word only: the first of {0}?", "Just the first: {0}"),
    ("只写第一个：{0}",),
)
_LAST = (("Only the last one: {0}", "Which is the last: {0}?", "Last of these: {0}"), ("只写最后一个：{0}",))
_REVERSE = (("Write backwards: {0}", "Reverse the order: {0}"), ("倒过来写：{0}", "反过来排列：{0}"))


def _say(rng: np.random.Generator, table: tuple[tuple[str, ...], tuple[str, ...]], language: int, *slots: str) -> str:
    texts = table[language]
    return texts[int(rng.integers(len(texts)))].format(*slots)


def _neighbour(maker: Maker, rng: np.random.Generator, language: int) -> Exchange:
    names = (_DAYS, _MONTHS)[int(rng.integers(2))][language]
    index, after = int(rng.integers(len(names))), rng.random() < 0.6
    question = _say(rng, _AFTER if after else _BEFORE, language, names[index])
    return question, names[(index + (1 if after else -1)) % len(names)]


def _letters(maker: Maker, rng: np.random.Generator, language: int) -> Exchange:
    word = maker.content.words(rng, 1)[0]
    if rng.random() < 0.5:
        return _say(rng, _FIRST_LETTER, language, word), word[0]
    return _say(rng, _LETTERS, language, word), str(len(word))


def _numbers(maker: Maker, rng: np.random.Generator, language: int) -> Exchange:
    values = [int(n) for n in rng.choice(np.arange(1, 200), int(rng.integers(3, 6)), replace=False)]
    listed = ("、" if language else ", ").join(map(str, values))
    if rng.random() < 0.5:
        return _say(rng, _LARGEST, language, listed), str(max(values))
    return _say(rng, _SORT, language, listed), ", ".join(map(str, sorted(values)))


def _format(maker: Maker, rng: np.random.Generator, language: int) -> Exchange:
    """Two to four words in a wanted form."""
    words = maker.content.words(rng, int(rng.integers(2, 5)))
    listed = ("、" if language else ", ").join(words)
    forms: list[tuple[tuple[tuple[str, ...], tuple[str, ...]], str]] = [
        (_NUMBERED, "\n".join(f"{n}. {word}" for n, word in enumerate(words, 1))),
        (_BULLETS, "\n".join(f"- {word}" for word in words)),
        (_JSON_LIST, "[" + ", ".join(f'"{word}"' for word in words) + "]"),
        (_ONE_WORD, words[0]),
        (_LAST, words[-1]),
        (_REVERSE, ", ".join(reversed(words))),
    ]
    table, answer = forms[int(rng.integers(len(forms)))]
    return _say(rng, table, language, listed), answer


def _sum(maker: Maker, rng: np.random.Generator, language: int) -> Exchange:
    kind = str(rng.choice(["add", "subtract", "multiply", "larger", "next"]))
    a, b = (int(n) for n in rng.integers(1, int(rng.choice([10, 50, 100, 500])), 2))
    if kind == "multiply":
        a, b = a % 12 + 1, b % 12 + 1
    if kind == "subtract" and b > a:
        a, b = b, a
    if kind == "larger" and a == b:
        b += 1
    answer = {"add": a + b, "subtract": a - b, "multiply": a * b, "larger": max(a, b), "next": a + 1}[kind]
    return _say(rng, TALK[kind], language, str(a), str(b)), str(answer)


def _copy(maker: Maker, rng: np.random.Generator, language: int) -> Exchange:
    if language:
        line = "".join(maker.content.sentence(rng, 3, "zh"))
    else:
        line = " ".join(maker.content.words(rng, int(rng.integers(2, 6))))
    return _say(rng, TALK["copy"], language, line), line


def _small_talk(maker: Maker, rng: np.random.Generator, language: int) -> Exchange:
    rows = SMALL_TALK[language]
    questions, answers = rows[int(rng.integers(len(rows)))]
    return questions[int(rng.integers(len(questions)))], answers[int(rng.integers(len(answers)))]


_MAKE: dict[str, tuple[float, Callable[[Maker, np.random.Generator, int], Exchange]]] = {
    "neighbour": (1.0, _neighbour), "letters": (0.7, _letters), "numbers": (1.0, _numbers), "format": (1.6, _format),
    "sum": (2.0, _sum), "copy": (1.0, _copy), "small_talk": (2.5, _small_talk),
}  # fmt: skip


def _chat(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    """One to three exchanges of any sort, in one language."""
    language = draw_language(rng)
    names = list(_MAKE)
    shares = np.array([share for share, _ in _MAKE.values()])
    turns, kinds = [], []
    for _ in range(1 + int(rng.choice(3, p=[0.65, 0.25, 0.1]))):
        kind = names[int(rng.choice(len(names), p=shares / shares.sum()))]
        question, answer = _MAKE[kind][1](maker, rng, language)
        turns.append(Turn(question, answer))
        kinds.append(kind)
    return Document(f"text_{kinds[-1]}", [], turns, language, meta={"kinds": kinds})


TASKS: dict[str, Callable[[Maker, np.random.Generator, int, int], Document]] = {"text": _chat}
WEIGHTS: dict[str, float] = {"text": 1.0}
