"""Content of training sheets: names and labels mostly from the full word lists, so that none can be learnt by heart.

A model that meets sixty cities in a million pictures answers with one of the sixty. Here a name of a person, a place,
an article or a job is three times in four any word of the lists, and one time in ten no word at all: two letters of
one changed places, one letter is another, or syllables are put together. Evaluation keeps `content.Content` as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .charset import NUM_DRAWN_HAN, han_by_frequency
from .content import CHINESE, ENGLISH, Content
from .words import is_held_out

_WORD_SHARE, _FALSE_SHARE = 0.75, 0.12  # of names: any word; no word
_OTHER_TONGUE = 0.08  # of any words: German or Spanish
_ONSETS = "b br c ch cl d dr f fl g gr h j k l m n p pl qu r s sh sl sp st t th tr v w y z".split()
_VOWELS = "a e i o u a e o ai ea ee io ou ua".split()
_ENDS = ["", "", "", "n", "r", "s", "t", "l", "m", "d", "ck", "ng", "x", "p", "st", "nd"]
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_ENDINGS = ("ville", "ton", "ford", "stad", "burg", "ia", "ham", "o", "berg", "by")


def invented_word(rng: np.random.Generator, least: int = 1, most: int = 3) -> str:
    """A word of one to three syllables that no list has, in lower case."""
    draws = rng.random((int(rng.integers(least, most + 1)), 3))
    parts = ((_ONSETS, _VOWELS, _ENDS),) * len(draws)
    return "".join(t[int(d * len(t))] for tables, row in zip(parts, draws, strict=True)
                   for t, d in zip(tables, row, strict=True))  # fmt: skip


def misspelt(rng: np.random.Generator, word: str) -> str:
    """The word with two neighbours swapped, or one letter replaced, dropped or doubled; its first letter stays."""
    if len(word) < 3 or not word.isascii():
        return word
    place = int(rng.integers(1, len(word) - 1))
    letter = _LETTERS[int(rng.integers(26))]
    draw = int(rng.integers(4))
    if draw == 0:
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    if draw == 1:
        return word[:place] + letter + word[place + 1 :]
    return word[:place] + word[place + 1 :] if draw == 2 else word[:place] + word[place] + word[place:]


class FreshContent(Content):
    """`Content` of the training side whose names are mostly new ones."""

    def __init__(self) -> None:
        super().__init__(held_out=False)
        self._foreign = [w[:1].upper() + w[1:] for t in ("de", "es") for w in self._words[t] if 3 <= len(w) <= 10]
        self._long = [word.capitalize() for word in self._words["en"] if 10 <= len(word) <= 12]
        self._han = han_by_frequency()[:NUM_DRAWN_HAN]

    def _any_word(self, rng: np.random.Generator, language: int) -> str:
        """A capitalised word of the lists, or none of them."""
        draw = rng.random()
        if language:
            if draw < 0.3:
                return "".join(self._han[int(i)] for i in rng.integers(NUM_DRAWN_HAN, size=int(rng.integers(2, 4))))
            return self.pick(rng, self._words["zh"])
        if draw < _FALSE_SHARE:
            return self._false_word(rng, self.pick(rng, self._titles), 0.4)
        if draw < _FALSE_SHARE + _OTHER_TONGUE:
            return self.pick(rng, self._foreign)
        return self.pick(rng, self._long if draw > 0.97 else self._titles)

    @staticmethod
    def _false_word(rng: np.random.Generator, word: str, invented: float) -> str:
        """A word that no list has, in the case of `word`; none whose checksum keeps it for evaluation."""
        for _ in range(8):
            made = invented_word(rng) if rng.random() < invented else misspelt(rng, word)
            if not is_held_out(made):
                return made.capitalize() if word[0].isupper() else made
        return word

    def _named(self, rng: np.random.Generator, known: Sequence[str], language: int) -> str:
        """One of a short list a quarter of the time, else any word."""
        return self._any_word(rng, language) if rng.random() < _WORD_SHARE else self.pick(rng, known)

    def _different(self, rng: np.random.Generator, count: int, known: Sequence[str], language: int) -> list[str]:
        found: dict[str, None] = {}
        for _ in range(8 * count):
            if len(found) == count:
                break
            found.setdefault(self._named(rng, known, language))
        return list(found)

    def words(self, rng: np.random.Generator, count: int, tongue: str = "en") -> list[str]:
        words = super().words(rng, count, tongue)
        if tongue == "en":
            draws = rng.random(count)
            for place in np.flatnonzero(draws < 0.07).tolist():
                words[place] = self._false_word(rng, words[place], 0.35)
        return words

    def title_word(self, rng: np.random.Generator, language: int = ENGLISH) -> str:
        return self._any_word(rng, language)

    def person(self, rng: np.random.Generator, language: int = ENGLISH, *, full: bool | None = None) -> str:
        if language:
            if rng.random() < 0.4:
                return super().person(rng, CHINESE)
            given = "".join(self._han[int(i)] for i in rng.integers(NUM_DRAWN_HAN, size=int(rng.integers(1, 3))))
            return super().person(rng, CHINESE)[0] + given
        full = bool(rng.random() < 0.5) if full is None else full
        first = self._named(rng, self._first, ENGLISH)
        return f"{first} {self._named(rng, self._last, ENGLISH)}" if full else first

    def people(self, rng: np.random.Generator, count: int, language: int = ENGLISH) -> list[str]:
        if language:
            return list({self.person(rng, CHINESE): None for _ in range(2 * count)})[:count]
        return self._different(rng, count, self._first, ENGLISH)

    def city(self, rng: np.random.Generator, language: int = ENGLISH) -> str:
        if not language and rng.random() < 0.2:
            stem = self.pick(rng, self._titles) if rng.random() < 0.5 else invented_word(rng, 1, 2).capitalize()
            name = stem[:8] + _ENDINGS[int(rng.integers(len(_ENDINGS)))]
            if not is_held_out(name):
                return name
        return self._named(rng, self._cities[language], language)

    def cities(self, rng: np.random.Generator, count: int, language: int = ENGLISH) -> list[str]:
        return self._different(rng, count, self._cities[language], language)

    def job(self, rng: np.random.Generator, language: int = ENGLISH) -> str:
        name = self._named(rng, self._jobs[language], language)
        return name if language or rng.random() < 0.3 else name.lower()

    def goods(self, rng: np.random.Generator, count: int, language: int = ENGLISH) -> list[str]:
        names = self._different(rng, count, self._goods[language], language)
        if not language and names and rng.random() < 0.3:
            names[0] = f"{self.pick(rng, self._titles)} {names[0].lower()}"
        return names

    def shop(self, rng: np.random.Generator, language: int = ENGLISH) -> str:
        if language:
            return self._any_word(rng, CHINESE)[:3] + self.pick(rng, self._zh_shops)
        draw = rng.random()
        if draw < 0.2:
            return self._any_word(rng, ENGLISH)
        second = self.pick(rng, self._shops) if draw < 0.6 else self._any_word(rng, ENGLISH)
        return f"{self._named(rng, self._last, ENGLISH)} {second}"

    def product(self, rng: np.random.Generator, language: int = ENGLISH) -> str:
        if rng.random() < 0.2:
            return self.pick(rng, self._products[language])
        if language:
            return self._any_word(rng, CHINESE) + (self.pick(rng, self._words["zh"]) if rng.random() < 0.3 else "")
        return " ".join(self._any_word(rng, ENGLISH) for _ in range(int(rng.integers(1, 3))))

    def street(self, rng: np.random.Generator, language: int = ENGLISH) -> str:
        if language:
            return f"{self._any_word(rng, CHINESE)[:3]}路{int(rng.integers(1, 300))}号"
        kind = super().street(rng, ENGLISH).split()[-1]
        return f"{int(rng.integers(1, 300))} {self._any_word(rng, ENGLISH)} {kind}"

    def heading(self, rng: np.random.Generator, language: int = ENGLISH, tongue: str = "en") -> str:
        draw = rng.random()
        if draw < 0.35:
            return super().heading(rng, language, tongue)
        if language:
            return "".join(self._any_word(rng, CHINESE) for _ in range(int(rng.integers(1, 3))))
        words = [self._any_word(rng, ENGLISH) for _ in range(int(rng.integers(1, 4)))]
        if draw > 0.9:
            words[-1] = str(int(rng.integers(1, 3000)))
        text = " ".join(words)
        return text.upper() if 0.5 < draw < 0.58 else text

    @staticmethod
    def number(rng: np.random.Generator) -> str:
        return str(int(rng.integers(10 ** int(rng.integers(1, 6)))))
