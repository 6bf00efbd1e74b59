"""The bank of text pieces (words, dates, prices, codes, Han words), and lines composed from it on the device.

A piece is a row of character ids; negative ids are wildcards that become a random digit, letter, sign or Han character
each time. The bank is built once on the CPU from the word lists of this folder; a line is a handful of pieces, so the
number of different lines has no practical limit. One word in ten is held out by its checksum.
"""

from __future__ import annotations

import calendar
import zlib

import numpy as np
import torch
from torch import Tensor

from .chance import Chance, cumulative, join
from .charset import ASCII, CJK_SIGNS, LATIN, NUM_DRAWN_HAN, character_ids, drawn_characters, read_words

PIECE_WIDTH = 18
MAX_PIECES = 6  # of a line
SPACE = 0
_DIGIT, _UPPER, _LOWER, _ANY, _HAN = -1, -2, -3, -4, -5
_WILDCARDS = {"\x01": _DIGIT, "\x02": _UPPER, "\x03": _LOWER, "\x04": _ANY, "\x05": _HAN}
_D, _U, _L, _A, _H = _WILDCARDS  # how wildcards are written in the patterns below
NUM_COMMON = 370  # words at the head of words_en.txt that are drawn more often

# Patterns in which 9 is any digit, A any capital, a any small letter.
PATTERNS = {
    "int": "9 99 99 999 999 9999 99999 999999",
    "number": "999,999 9.99 99.9 -99 99% +9999999 9999-9999 99999999 9999999999 1/9 9x9",
    "price": "$99.99 $9.99 9.99 99.99 €99 99,99€ £9.99 $999 $1,999.00 ¥999",
    "code": "AA-9999 A999 999AA AAA999 99a9 #99999 No.999 Aaa99 a9a9 A9A9A9 AAAA/99 ID:9999",
    "zh_price": "99.99元 ￥999 99元 9个 第99号",
}
LABELS = "Total: Date: MFG EXP LOT Price: Qty: Tel. Sum Tax No. kg ml cm".split()

# Sorts of pieces, and which sorts the lines of a mode use: mode -> (share of lines, {sort: weight}).
LATIN_MODES: dict[str, tuple[float, dict[str, float]]] = {
    "lower": (0.20, {"en": 5, "common": 3, "ended": 1.2, "int": 0.5, "title": 0.4}),
    "title": (0.12, {"title": 6, "common": 0.6, "int": 0.5, "price": 0.3, "ended": 0.4}),
    "upper": (0.11, {"upper": 6, "int": 0.5, "code": 0.3}),
    "mixed": (0.17, {"en": 2, "title": 2, "upper": 1, "int": 1, "price": 1, "date": 1, "code": 1, "time": 0.7}),
    "data": (0.14, {"date": 2.5, "price": 2.5, "int": 2, "code": 2, "time": 1, "number": 1.5, "label": 1}),
    "signs": (0.08, {"noise": 3, "address": 1, "quoted": 1, "ended": 1}),
    "german": (0.09, {"de": 5, "de_title": 3, "int": 0.5, "price": 0.3}),
    "spanish": (0.09, {"es": 5, "es_title": 2, "int": 0.5, "price": 0.3}),
}
HAN_MODES: dict[str, tuple[float, dict[str, float]]] = {
    "han": (0.6, {"zh": 4, "zh_any": 2, "zh_ended": 0.8, "int": 0.2}),
    "han_any": (0.25, {"zh_any": 4, "zh": 1}),
    "han_data": (0.15, {"zh": 2, "zh_date": 1, "zh_price": 1, "zh_any": 1, "int": 1, "code": 0.4}),
}
_NO_SPACE = ("zh", "zh_any", "zh_ended", "zh_date", "zh_price")


def is_held_out(word: str) -> bool:
    """Whether a word is kept for evaluation (one in ten, by checksum)."""
    return zlib.crc32(word.lower().encode("utf-8")) % 10 == 0


def date_text(form: int, year: int, month: int, day: int) -> str:
    """A date in one of five Latin formats (0-4) or the Chinese one (5)."""
    name = calendar.month_abbr[month]
    return (
        f"{year:04d}-{month:02d}-{day:02d}",
        f"{day:02d}.{month:02d}.{year:04d}",
        f"{month:02d}/{day:02d}/{year:04d}",
        f"{day:02d} {name} {year:04d}",
        f"{name} {day}, {year:04d}",
        f"{year}年{month}月{day}日",
    )[form]


def _as_wildcards(pattern: str) -> str:
    return pattern.translate(str.maketrans("9Aa", _D + _U + _L))


def _dates(rng: np.random.Generator, forms: range, count: int) -> list[str]:
    draws = zip(rng.choice(list(forms), count), rng.integers(1990, 2040, count), rng.integers(1, 13, count),
                rng.integers(1, 29, count), strict=True)  # fmt: skip
    return [date_text(int(form), int(year), int(month), int(day)) for form, year, month, day in draws]


def piece_sorts(held_out: bool, seed: int = 0) -> dict[str, list[str]]:
    """Pieces of each sort as text, wildcards included. held_out: only the words kept for evaluation, else only the
    others."""
    rng = np.random.default_rng(seed)
    lists = {language: read_words(f"words_{language}.txt") for language in ("en", "de", "es", "zh")}
    lists["common"] = lists["en"][:NUM_COMMON]
    kept = {name: [word for word in words if is_held_out(word) == held_out] for name, words in lists.items()}
    every, german, spanish, chinese = kept["en"], kept["de"], kept["es"], kept["zh"]
    ends, han_ends = rng.choice(list(",,,...!?:;"), len(every)), rng.choice(list("，，。。、！？：；"), len(chinese))
    parts = rng.choice(every, (1500, 2))
    addresses = [f"{a[:7]}{mark}{b[:6]}.com" for (a, b), mark in zip(parts, rng.choice(list("@.-"), 1500), strict=True)]
    return {
        "common": kept["common"],
        "en": every,
        "title": [word.capitalize() for word in every],
        "upper": [word.upper() for word in every],
        "ended": [word + end for word, end in zip(every, ends, strict=True)],
        "quoted": [f'"{w}"' for w in every[::3]] + [f"({w})" for w in every[1::3]] + [f"'{w}'" for w in every[2::3]],
        "address": addresses,
        "de": german,
        "de_title": [word[:1].upper() + word[1:] for word in german],
        "es": spanish,
        "es_title": [word[:1].upper() + word[1:] for word in spanish],
        "date": _dates(rng, range(5), 6000),
        "time": [f"{hour:02d}:{minute:02d}" for hour in range(24) for minute in range(0, 60, 7)],
        "noise": [_A * n for n in range(1, 11)],
        "zh": chinese,
        "zh_any": [_H * n for n in range(1, 7)],
        "zh_ended": [word + end for word, end in zip(chinese, han_ends, strict=True)],
        "zh_date": _dates(rng, range(5, 6), 1500),
        **{name: [_as_wildcards(text) for text in texts.split()] for name, texts in PATTERNS.items()},
        "label": LABELS,
    }


class WordBank:
    """Pieces as device tensors. `modes` lists the Latin modes, then the Han modes; `num_latin` says where Han
    begins."""

    def __init__(self, device: torch.device, *, held_out: bool = False, seed: int = 0) -> None:
        ids = character_ids() | _WILDCARDS
        sorts = piece_sorts(held_out, seed)
        rows = [[ids[c] for c in text if c in ids][:PIECE_WIDTH] for texts in sorts.values() for text in texts]
        table = np.zeros((len(rows), PIECE_WIDTH), np.int64)
        for index, characters in enumerate(rows):
            table[index, : len(characters)] = characters
        self.device = device
        self.pieces = torch.from_numpy(table).to(device)
        self.length = torch.tensor([len(characters) for characters in rows], device=device)
        self.names = list(sorts)
        counts = [len(texts) for texts in sorts.values()]
        self.start = torch.tensor(np.cumsum([0, *counts[:-1]]), device=device)
        self.count = torch.tensor(counts, device=device)
        self.spaced = torch.tensor([int(name not in _NO_SPACE) for name in self.names], device=device)
        modes = LATIN_MODES | HAN_MODES
        self.modes, self.num_latin = list(modes), len(LATIN_MODES)
        weights = [[mix.get(name, 0.0) for name in self.names] for _, mix in modes.values()]
        self.sorts_of_mode = cumulative(weights, device)
        self.latin_modes = cumulative([share for share, _ in LATIN_MODES.values()], device)
        self.han_modes = cumulative([share for share, _ in HAN_MODES.values()], device)
        self._prepare_wildcards()

    def _prepare_wildcards(self) -> None:
        """Ranges of character ids that a wildcard draws from, indexed by its negated id."""
        ids = character_ids()
        starts = [0, ids["0"], ids["A"], ids["a"], ids["!"], len(LATIN + CJK_SIGNS)]
        counts = [1, 10, 26, 26, len(ASCII) - 1, NUM_DRAWN_HAN]
        self.wild_start = torch.tensor(starts, device=self.device)
        self.wild_count = torch.tensor(counts, device=self.device)
        self.han_start = starts[-1]
        self.num_characters = len(drawn_characters())

    def sort_rows(self, chance: Chance, name: str, *shape: int) -> Tensor:
        """Random piece rows of one sort."""
        index = self.names.index(name)
        return self.start[index] + chance.integer(*shape, high=self.count[index])

    def fill_wildcards(self, chance: Chance, characters: Tensor) -> Tensor:
        wild = (-characters).clamp(min=0)
        drawn = (chance.uniform(*characters.shape) * self.wild_count[wild]).long()
        drawn = torch.minimum(drawn, self.wild_count[wild] - 1)
        return torch.where(characters < 0, self.wild_start[wild] + drawn, characters)

    def choose_modes(self, chance: Chance, han: Tensor) -> Tensor:
        """A mode for each sample. han: bool [B]."""
        latin_mode = chance.weighted(han.shape[0], cumulative=self.latin_modes)
        han_mode = chance.weighted(han.shape[0], cumulative=self.han_modes) + self.num_latin
        return torch.where(han, han_mode, latin_mode)

    def compose(self, chance: Chance, mode: Tensor, limit: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Write a line into each row. mode, limit (most characters, >= 1): int64 [R].

        Returns character ids [R, width], spaces after the end, and lengths [R] (>= 1).
        """
        rows = mode.shape[0]
        sort = chance.weighted(rows, MAX_PIECES, cumulative=self.sorts_of_mode[mode].unsqueeze(1))
        piece = self.start[sort] + chance.integer(rows, MAX_PIECES, high=self.count[sort])
        length = self.length[piece]
        gap = self.spaced[sort]
        gap = torch.cat([torch.zeros_like(gap[:, :1]), gap[:, 1:] | gap[:, :-1]], 1)
        wanted = 1 + (chance.uniform(rows) * MAX_PIECES).long()  # pieces
        length = torch.cat([torch.minimum(length[:, :1], limit.unsqueeze(1)), length[:, 1:]], 1)
        fits = ((length + gap).cumsum(1) <= limit.unsqueeze(1)) & (
            torch.arange(MAX_PIECES, device=mode.device) < wanted[:, None]
        )
        fits = torch.cat([torch.ones_like(fits[:, :1]), fits[:, 1:]], 1).long().cumprod(1)
        blank = torch.zeros(rows, 1, dtype=torch.int64, device=mode.device)
        segments: list[tuple[Tensor, Tensor]] = []
        for k in range(MAX_PIECES):
            segments += [(blank, gap[:, k] * fits[:, k]), (self.pieces[piece[:, k]], length[:, k] * fits[:, k])]
        line, used = join(segments, width)
        return self.fill_wildcards(chance, line), used

    def substitute(self, chance: Chance, line: Tensor, length: Tensor, rate: Tensor, han: Tensor) -> Tensor:
        """Replace characters by random ones of the same script. line: [R, N]; rate: [R]; han: bool [R]."""
        used = torch.arange(line.shape[1], device=line.device) < length.unsqueeze(1)
        change = (chance.uniform(*line.shape) < rate.unsqueeze(1)) & used & (line != SPACE)
        is_han = (line >= self.han_start) & han.unsqueeze(1)
        kind = torch.where(is_han, -_HAN, -_ANY)
        drawn = self.wild_start[kind] + (chance.uniform(*line.shape) * self.wild_count[kind]).long()
        return torch.where(change, drawn, line)
