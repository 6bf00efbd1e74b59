"""Conversations without a picture: sums, copying, following a format, days and months, letters, and what is not there.

Richer than `talk.py`, which fills the joint start: several turns, formats, examples to follow, and answers that admit
there is no picture. A part of it is asked in deep mode, with a line of thought, so that small talk survives there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .date_formats import draw_format
from .document import Document, Turn
from .mixed_lines import mixed_line
from .prompts import SMALL_TALK, TALK, YES_NO
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
_LETTER_IN = (
    ("How many times does {1} occur in {0}?", "Count the letter {1} in {0}.", "How many {1} are in {0}?",
     "{0}: how often {1}?", "How many {1}'s does {0} have?"),
    ("{0}里有几个{1}？", "{1}在{0}中出现几次？"),
)  # fmt: skip
_HAS_LETTER = (
    ("Does {0} contain the letter {1}?", "Is there a {1} in {0}?", "{1} in {0}: yes or no?"),
    ("{0}里有{1}吗？",),
)
_LAST_LETTER = (
    ("What is the last letter of {0}?", "Last letter of {0}?", "{0} ends with which letter?"),
    ("{0}的最后一个字母是什么？",),
)
_SPELL = (
    ("Spell {0}.", "Spell {0} with hyphens.", "Write {0} letter by letter.", "Letters of {0}, with hyphens:"),
    ("请拼写{0}。", "逐个字母写出{0}。"),
)
_ALPHABET = (
    ("Sort alphabetically: {0}", "Put these words in alphabetical order: {0}", "Alphabetical order, please: {0}",
     "Order these words from A to Z: {0}", "Sort these words: {0}"),
    ("按字母顺序排列：{0}", "请把这些词按字母排序：{0}"),
)  # fmt: skip
_ALPHABET_FIRST = (
    (
        "Which comes first in the alphabet: {0}?",
        "First in alphabetical order: {0}?",
        "Which word is first: {0}?",
    ),
    ("按字母顺序哪个在前：{0}？",),
)
_COUNT_WORDS = (
    ("How many words are there: {0}", "Count the words: {0}", "Number of words in: {0}"),
    ("有几个词：{0}", "数一数有几个词：{0}"),
)
_SMALLEST = (
    ("Which is the smallest: {0}?", "Smallest of {0}?", "Name the smallest number of {0}."),
    ("{0}中最小的是哪个？", "最小的数：{0}"),
)
_LONGEST = (
    ("Which word is the longest: {0}?", "Longest of {0}?", "Name the word with the most letters: {0}"),
    ("{0}中最长的词是哪个？",),
)
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
    letter = word[int(rng.integers(len(word)))] if rng.random() < 0.75 else chr(97 + int(rng.integers(26)))
    count = word.lower().count(letter.lower())
    forms = (
        (_FIRST_LETTER, word[0]), (_LAST_LETTER, word[-1]), (_LETTERS, str(len(word))), (_LETTER_IN, str(count)),
        (_LETTER_IN, str(count)), (_HAS_LETTER, YES_NO[language][0 if count else 1]), (_SPELL, "-".join(word)),
    )  # fmt: skip
    table, answer = forms[int(rng.integers(len(forms)))]
    return _say(rng, table, language, word, letter), answer


def _sorting(maker: Maker, rng: np.random.Generator, language: int) -> Exchange:
    """Words by the alphabet, or the longest of them."""
    words = list(dict.fromkeys(word.lower() for word in maker.content.words(rng, int(rng.integers(3, 6)))))
    listed = ("、" if language else ", ").join(words)
    draw = rng.random()
    if draw < 0.55 or len(words) < 2:
        return _say(rng, _ALPHABET, language, listed), ", ".join(sorted(words))
    lengths = sorted(map(len, words))
    if draw < 0.75 or lengths[-1] == lengths[-2]:
        return _say(rng, _ALPHABET_FIRST, language, listed), min(words)
    return _say(rng, _LONGEST, language, listed), max(words, key=len)


def _dates_like(maker: Maker, rng: np.random.Generator, language: int) -> list[Exchange]:
    """Dates written anew in a format that the first answer sets: what follows must copy it."""
    source, target = draw_format(rng, printed=True), draw_format(rng)
    days = [maker.content.day(rng) for _ in range(int(rng.integers(2, 5)))]
    style = int(rng.integers(3))
    pattern = (("{0}", "{0} ->", "Date: {0}"), ("{0}", "日期：{0}", "{0} ->"))[language][style]
    return [(pattern.format(source.write(day)), target.write(day)) for day in days]


def _words_like(maker: Maker, rng: np.random.Generator, language: int) -> list[Exchange]:
    """Two words rewritten as the first answer rewrites them."""
    forms: list[Callable[[str, str], str]] = [
        lambda a, b: f"{b}, {a}", lambda a, b: f"{a}/{b}", lambda a, b: a.upper() + " " + b, lambda a, b: f"[{a}] {b}",
        lambda a, b: b, lambda a, b: f"{a[0]}. {b}", lambda a, b: f"{a}-{b}".lower(), lambda a, b: f"{b} ({a})",
        lambda a, b: f"{len(a)} {len(b)}", lambda a, b: f"{a}={b};", lambda a, b: f"<{a}>{b}", lambda a, b: f"{b} {a}",
    ]  # fmt: skip
    form = forms[int(rng.integers(len(forms)))]
    pairs = [maker.content.words(rng, 2) for _ in range(int(rng.integers(3, 5)))]
    return [(f"{a} {b}", form(a, b)) for a, b in pairs]


def _numbers(maker: Maker, rng: np.random.Generator, language: int) -> Exchange:
    values = [int(n) for n in rng.choice(np.arange(1, 200), int(rng.integers(3, 6)), replace=False)]
    listed = ("、" if language else ", ").join(map(str, values))
    draw = rng.random()
    if draw < 0.3:
        return _say(rng, _LARGEST, language, listed), str(max(values))
    if draw < 0.5:
        return _say(rng, _SMALLEST, language, listed), str(min(values))
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
        (_COUNT_WORDS, str(len(words))),
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
    if kind in ("add", "subtract") and rng.random() < 0.3:  # prices
        a, b = (int(n) for n in rng.integers(50, 9000, 2))
        low, high = sorted((a, b))
        total = a + b if kind == "add" else high - low
        slots = (a, b) if kind == "add" else (high, low)
        return _say(rng, TALK[kind], language, *(f"{n / 100:.2f}" for n in slots)), f"{total / 100:.2f}"
    answer = {"add": a + b, "subtract": a - b, "multiply": a * b, "larger": max(a, b), "next": a + 1}[kind]
    return _say(rng, TALK[kind], language, str(a), str(b)), str(answer)


def _copy(maker: Maker, rng: np.random.Generator, language: int) -> Exchange:
    line = mixed_line(rng, 12 if language else 32, han=bool(language), held_out=maker.held_out)
    return _say(rng, TALK["copy"], language, line), line


def _two_words(maker: Maker, rng: np.random.Generator, language: int) -> Exchange:
    """The tasks of `prompts.TALK` on one or two words."""
    a, b = maker.content.words(rng, 2)
    answers = {"upper": a.upper(), "quote": f'"{a}"', "first_word": a, "last_word": b, "swap": f"{b} {a}",
               "list": f"- {a}\n- {b}", "json": f'{{"{a}": "{b}"}}'}  # fmt: skip
    kind = list(answers)[int(rng.integers(len(answers)))]
    return _say(rng, TALK[kind], language, a, b), answers[kind]


def _small_talk(maker: Maker, rng: np.random.Generator, language: int) -> Exchange:
    rows = SMALL_TALK[language]
    questions, answers = rows[int(rng.integers(len(rows)))]
    return questions[int(rng.integers(len(questions)))], answers[int(rng.integers(len(answers)))]


_MAKE: dict[str, tuple[float, Callable[[Maker, np.random.Generator, int], Exchange]]] = {
    "neighbour": (0.8, _neighbour), "letters": (1.4, _letters), "sorting": (1.0, _sorting), "numbers": (1.0, _numbers),
    "format": (1.6, _format), "sum": (2.4, _sum), "copy": (1.4, _copy), "two_words": (1.8, _two_words),
    "small_talk": (2.5, _small_talk),
}  # fmt: skip
_LIKE_SHARE = 0.16  # of conversations: examples to follow
_DEEP_SHARE = 0.25  # of single small talk in deep mode
_THOUGHTS = (
    ("A short question without a picture.", "Small talk.", "No sum is needed here.", "A simple question."),
    ("没有图片，简单回答。", "闲聊。", "不用计算。", "简单的问题。"),
)


def _chat(maker: Maker, rng: np.random.Generator, width: int, height: int) -> Document:
    """One to four exchanges of any sort, in one language; or examples, and more of the same."""
    language = draw_language(rng)
    if rng.random() < _LIKE_SHARE:
        exchanges = (_dates_like if rng.random() < 0.6 else _words_like)(maker, rng, language)
        turns = [Turn(question, answer, learn=place > 0) for place, (question, answer) in enumerate(exchanges)]
        return Document("text_like", [], turns, language, meta={"kinds": ["like"] * len(turns)})
    names = list(_MAKE)
    shares = np.array([share for share, _ in _MAKE.values()])
    turns, kinds = [], []
    for _ in range(1 + int(rng.choice(4, p=[0.5, 0.2, 0.15, 0.15]))):
        kind = names[int(rng.choice(len(names), p=shares / shares.sum()))]
        question, answer = _MAKE[kind][1](maker, rng, language)
        turns.append(Turn(question, answer))
        kinds.append(kind)
    if kinds == ["small_talk"] and rng.random() < _DEEP_SHARE:
        thoughts = _THOUGHTS[language]
        turns[0].thinking = thoughts[int(rng.integers(len(thoughts)))]
    return Document(f"text_{kinds[-1]}", [], turns, language, meta={"kinds": kinds})


TASKS: dict[str, Callable[[Maker, np.random.Generator, int, int], Document]] = {"text": _chat}
WEIGHTS: dict[str, float] = {"text": 1.0}
