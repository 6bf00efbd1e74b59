"""Text only: small sums, comparing, copying, following a format, and small talk, without any picture."""

from __future__ import annotations

import random
from collections.abc import Callable

from ...train.draw.prompts import SMALL_TALK, TALK, YES_NO
from ..samples import Sample, picture
from .reading import han_line, latin_line, pieces

_Made = tuple[tuple[str, ...], str]  # slots, answer


def draw_talk(rng: random.Random, chinese: bool) -> Sample:
    """A question with one right answer."""
    language = int(chinese)
    meta = {"language": "zh" if chinese else "en"}
    if rng.random() < 0.3:
        questions, answers = rng.choice(SMALL_TALK[language])
        return picture([], rng.choice(questions), answers[0], kind="small talk", **meta)
    kind = rng.choice(sorted(_MAKE))
    values, answer = _MAKE[kind](rng, language)
    return picture([], rng.choice(TALK[kind][language]).format(*values), answer, kind=kind, **meta)


def _number(rng: random.Random) -> int:
    return rng.randrange(10 ** rng.randint(1, 3))


def _two(rng: random.Random) -> tuple[int, int]:
    a, b = _number(rng), _number(rng)
    return a, b + (a == b)


def _add(rng: random.Random, language: int) -> _Made:
    a, b = _two(rng)
    return (str(a), str(b)), str(a + b)


def _subtract(rng: random.Random, language: int) -> _Made:
    b, a = sorted(_two(rng))
    return (str(a), str(b)), str(a - b)


def _multiply(rng: random.Random, language: int) -> _Made:
    a, b = rng.randint(0, 12), rng.randint(0, 20)
    return (str(a), str(b)), str(a * b)


def _larger(rng: random.Random, language: int) -> _Made:
    a, b = _two(rng)
    return (str(a), str(b)), str(max(a, b))


def _is_larger(rng: random.Random, language: int) -> _Made:
    a, b = _two(rng)
    return (str(a), str(b)), YES_NO[language][0 if a > b else 1]


def _next(rng: random.Random, language: int) -> _Made:
    a = _number(rng)
    return (str(a),), str(a + 1)


def _copy(rng: random.Random, language: int) -> _Made:
    text = han_line(rng, 12) if language else latin_line(rng, 32)
    return (text,), text


def _word(rng: random.Random) -> str:
    return rng.choice(pieces()["en"])


def _upper(rng: random.Random, language: int) -> _Made:
    word = _word(rng)
    return (word,), word.upper()


def _pair(form: str) -> Callable[[random.Random, int], _Made]:
    """Two words, and an answer that puts them into `form`."""

    def make(rng: random.Random, language: int) -> _Made:
        a, b = _word(rng), _word(rng)
        return (a, b), form.replace("A", a).replace("B", b)

    return make


_MAKE: dict[str, Callable[[random.Random, int], _Made]] = {
    "add": _add, "subtract": _subtract, "multiply": _multiply, "larger": _larger, "is_larger": _is_larger,
    "next": _next, "copy": _copy, "upper": _upper, "first_word": _pair("A"), "last_word": _pair("B"),
    "swap": _pair("B A"), "list": _pair("- A\n- B"), "json": _pair('{"A": "B"}'),
}  # fmt: skip
