"""Text-only conversations: small sums, comparing, copying, following a format, small talk, what the model can see."""

from __future__ import annotations

import torch
from torch import Tensor

from .chance import Chance, cumulative
from .phrases import PhraseBank, Segments, Wordings
from .prompts import SMALL_TALK, TALK, YES_NO
from .words import WordBank

MAX_NUMBER = 1998
SMALL_TALK_SHARE = 0.3
WEIGHTS = {
    "add": 2.0, "subtract": 1.5, "multiply": 1.0, "larger": 1.0, "is_larger": 1.0, "next": 0.7, "copy": 2.5,
    "upper": 1.0,
    "quote": 0.6, "first_word": 0.7, "last_word": 0.7, "swap": 0.7, "list": 0.5, "json": 0.5,
}  # fmt: skip
_NUMERIC = ("add", "subtract", "multiply", "larger", "is_larger", "next")
MAX_COPY = 40  # characters


class TalkWords:
    """Phrase rows of numbers, wordings, small talk and the pieces of formatted answers."""

    def __init__(self, bank: PhraseBank) -> None:
        self.number = bank.add_all([str(n) for n in range(MAX_NUMBER + 1)])
        self.yes_no = bank.add_all(*[[no, yes] for yes, no in YES_NO])
        self.wordings = Wordings(bank, TALK)
        self.kinds = cumulative([WEIGHTS[kind] for kind in TALK], bank.device)
        # Around the two words of an answer: before, between, after; per kind.
        around = {
            "quote": ('"', "", '"'),
            "swap": ("", " ", ""),
            "list": ("- ", "\n- ", ""),
            "json": ('{"', '": "', '"}'),
        }
        rows = [[bank.add(text) for text in around.get(kind, ("", "", ""))] for kind in TALK]
        self.around = torch.tensor(rows, device=bank.device)  # [K, 3]
        self._index_small_talk(bank)

    def _index_small_talk(self, bank: PhraseBank) -> None:
        pairs = [
            (language, bank.add(question), bank.add(answer))
            for language, rows in enumerate(SMALL_TALK)
            for questions, answers in rows
            for question in questions
            for answer in answers
        ]
        self.pairs = torch.tensor([pair[1:] for pair in pairs], device=bank.device)  # [n, 2]
        counts = [sum(pair[0] == language for pair in pairs) for language in (0, 1)]
        self.pair_start = torch.tensor([0, counts[0]], device=bank.device)
        self.pair_count = torch.tensor(counts, device=bank.device)


def ask(
    chance: Chance, batch: int, talk: TalkWords, bank: PhraseBank, words: WordBank, token_of: Tensor, language: Tensor
) -> tuple[Segments, Segments, Tensor]:
    """Question, answer and kind [B] (kinds in the order of TALK; len(TALK) is small talk)."""
    kinds = list(TALK)
    small = chance.chosen(batch, share=SMALL_TALK_SHARE)
    kind = chance.weighted(batch, cumulative=talk.kinds)
    numeric = (kind < len(_NUMERIC)) & ~small
    copied = (kind == kinds.index("copy")) & ~small
    worded = ~(numeric | copied | small)
    numbers, result = _numbers(chance, kind, talk, language)
    line, line_length = _line(chance, batch, words, language)
    word = [words.sort_rows(chance, "en", batch) for _ in range(2)]
    written = [(token_of[words.pieces[row].clamp(min=0)], words.length[row]) for row in word]
    parts = talk.wordings.ask(chance, kind, language)

    def word_segment(which: int, used: Tensor) -> tuple[Tensor, Tensor]:
        return written[which][0], written[which][1] * used

    two = worded & (kind >= kinds.index("first_word"))
    pair = talk.pairs[talk.pair_start[language] + chance.integer(batch, high=talk.pair_count[language])]
    question: Segments = [
        bank.segment(parts[:, 0], ~small),
        bank.segment(talk.number[numbers[0]], numeric),
        (token_of[line], line_length * copied),
        word_segment(0, worded),
        bank.segment(parts[:, 1], ~small),
        bank.segment(talk.number[numbers[1]], numeric & (kind != kinds.index("next"))),
        word_segment(1, two),
        bank.segment(parts[:, 2], ~small),
        bank.segment(pair[:, 0], small),
    ]
    upper_row = words.start[words.names.index("upper")] - words.start[words.names.index("en")] + word[0]
    is_upper, is_swap = worded & (kind == kinds.index("upper")), worded & (kind == kinds.index("swap"))
    is_last, is_two = worded & (kind == kinds.index("last_word")), worded & (kind >= kinds.index("list"))
    answer: Segments = [
        bank.segment(result, numeric),
        (token_of[line], line_length * copied),
        bank.segment(talk.around[kind, 0], worded),
        word_segment(0, worded & ~is_upper & ~is_last & ~is_swap),
        (token_of[words.pieces[upper_row].clamp(min=0)], words.length[upper_row] * is_upper),
        word_segment(1, is_swap | is_last),
        bank.segment(talk.around[kind, 1], worded),
        word_segment(0, is_swap),
        word_segment(1, is_two),
        bank.segment(talk.around[kind, 2], worded),
        bank.segment(pair[:, 1], small),
    ]
    return question, answer, torch.where(small, len(kinds), kind)


def _numbers(chance: Chance, kind: Tensor, talk: TalkWords, language: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Two numbers that suit each numeric kind, and the phrase row of the result. All [B]."""
    batch = kind.shape[0]
    size = torch.pow(10.0, 1 + chance.integer(batch, high=3).float()).long()  # 10, 100 or 1000
    a, b = chance.integer(batch, high=size), chance.integer(batch, high=size)
    times = kind == _NUMERIC.index("multiply")
    a, b = torch.where(times, a % 13, a), torch.where(times, b % 21, b)
    minus = kind == _NUMERIC.index("subtract")
    a, b = torch.where(minus, torch.maximum(a, b), a), torch.where(minus, torch.minimum(a, b), b)
    b = torch.where((kind >= _NUMERIC.index("larger")) & (b == a), b + 1, b)
    yes_no = talk.yes_no[language, (a > b).long()]
    values = torch.stack([a + b, (a - b).clamp(min=0), (a % 13) * (b % 21), torch.maximum(a, b), a, a + 1], 1)
    numeric_kind = kind.clamp(max=len(_NUMERIC) - 1)
    row = talk.number[values.gather(1, numeric_kind.unsqueeze(1))[:, 0]]
    return (a, b), torch.where(numeric_kind == _NUMERIC.index("is_larger"), yes_no, row)


def _line(chance: Chance, batch: int, words: WordBank, language: Tensor) -> tuple[Tensor, Tensor]:
    """A line to copy: character ids [B, MAX_COPY] and lengths."""
    mode = words.choose_modes(chance, language == 1)
    limit = 4 + chance.integer(batch, high=MAX_COPY - 3).view(batch)
    return words.compose(chance, mode, limit, MAX_COPY)
