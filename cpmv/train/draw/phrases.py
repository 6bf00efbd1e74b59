"""Prompts and answers as token rows, the wordings of each question, and the conversation they are placed in.

The conversation is the released chat template in fast mode. Everything before the question has a fixed length, so the
placeholders of the visual tokens always begin at the same position.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .chance import Chance, join

Segments = list[tuple[Tensor, Tensor]]
Templates = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]
IGNORED = -100
CHINESE_SHARE = 0.25
_TURN, _END = "<|im_start|>", "<|im_end|>"


class Encoder(Protocol):
    """What is needed of a tokenizer."""

    def encode(self, text: str) -> list[int]: ...


class PhraseBank:
    """Texts as rows of tokens. Rows are added first; `freeze` then puts them on the device."""

    def __init__(self, tokenizer: Encoder, device: torch.device) -> None:
        self.tokenizer = tokenizer
        self.device = device
        self.rows: dict[str, int] = {}
        self._tokens: list[list[int]] = []
        self.add("")

    def add(self, text: str) -> int:
        """Row of `text`, added if new."""
        if text not in self.rows:
            self.rows[text] = len(self._tokens)
            self._tokens.append(self.tokenizer.encode(text) if text else [])
        return self.rows[text]

    def add_all(self, *groups: list[str]) -> Tensor:
        """Rows of equally long lists of texts: int64 [len(groups), n] (one list: [n])."""
        table = torch.tensor([[self.add(text) for text in group] for group in groups], device=self.device)
        return table[0] if len(groups) == 1 else table

    def freeze(self) -> None:
        width = max(len(tokens) for tokens in self._tokens)
        padded = [tokens + [0] * (width - len(tokens)) for tokens in self._tokens]
        self.tokens = torch.tensor(padded, device=self.device)
        self.length = torch.tensor([len(tokens) for tokens in self._tokens], device=self.device)

    def segment(self, row: Tensor, used: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Token segment of a row per sample; where `used` is false, nothing. row: [B]."""
        length = self.length[row]
        return self.tokens[row], length if used is None else length * used


class Wordings:
    """Templates of a set of question kinds, cut at their slots, with ranges by kind and language."""

    def __init__(self, bank: PhraseBank, templates: Templates) -> None:
        self.kinds = list(templates)
        parts: list[list[int]] = []
        start: list[list[int]] = []
        count: list[list[int]] = []
        for by_language in templates.values():
            start.append([])
            count.append([])
            for texts in by_language:
                start[-1].append(len(parts))
                count[-1].append(len(texts))
                for text in texts:
                    pieces = re.split(r"\{[01]\}", text)
                    parts.append([bank.add(piece) for piece in (pieces + ["", ""])[:3]])
        self.parts = torch.tensor(parts, device=bank.device)  # [T, 3]
        self.start = torch.tensor(start, device=bank.device)  # [K, languages]
        self.count = torch.tensor(count, device=bank.device)

    def ask(self, chance: Chance, kind: Tensor, language: Tensor) -> Tensor:
        """Rows of the three parts of a random wording. kind, language: [B] -> [B, 3]."""
        template = self.start[kind, language] + chance.integer(kind.shape[0], high=self.count[kind, language])
        return self.parts[template]


def choose_language(chance: Chance, batch: int) -> Tensor:
    """0 English, 1 Chinese."""
    return chance.chosen(batch, share=CHINESE_SHARE).long()


@dataclass
class Conversation:
    """Fixed parts of the chat template as tokens, for `visual` tokens after `head` (none for text only)."""

    head: Tensor  # [h], up to the question, placeholders included
    tail: Tensor  # from after the question to before the answer
    end: Tensor
    visual_start: int

    def build(self, question: Segments, answer: Segments, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of input ids and labels [B, length] and their used lengths [B] (larger than `length`: cut)."""
        batch = answer[0][0].shape[0]
        before = [self._fixed(self.head, batch), *question, self._fixed(self.tail, batch)]
        ids, used = join([*before, *answer, self._fixed(self.end, batch)], length)
        begin = sum((count for _, count in before), torch.zeros_like(used)).unsqueeze(1)
        position = torch.arange(length, device=ids.device)
        answered = (position >= begin) & (position < used.unsqueeze(1))
        return ids, torch.where(answered, ids, IGNORED), used

    @staticmethod
    def _fixed(tokens: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        count = torch.full((batch,), tokens.shape[0], dtype=torch.int64, device=tokens.device)
        return tokens.expand(batch, -1), count


def conversation(tokenizer: Encoder, device: torch.device, *, num_visual: int, image_ids: bool) -> Conversation:
    """The released template around one group of `num_visual` tokens (0: text only), answered in fast mode."""
    opening = f"{_TURN}user\n"
    if num_visual:
        opening += ("<image_id>0</image_id>" if image_ids else "") + "<image>"
    visual_start = len(tokenizer.encode(opening)) if num_visual else -1
    head = opening + ("<unk>" * num_visual + "</image>\n" if num_visual else "")
    tail = f"{_END}\n{_TURN}assistant\n<think>\n\n</think>\n\n"

    def tokens(text: str) -> Tensor:
        return torch.tensor(tokenizer.encode(text), device=device)

    return Conversation(tokens(head), tokens(tail), tokens(_END), visual_start)
