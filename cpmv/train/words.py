"""Single words on a plain page: the drawer of the CPU preset, with nothing to install and no GPU.

The same seam as `draw.Drawer`, with one kind ("text"), the 26 small letters in the font that comes with Pillow, and a
tokenizer of bytes. Half of the words are English, half are random letters, so reading cannot be replaced by guessing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..inputs.text import Tokenizer
from ..inputs.tokenizer_files import AddedToken
from .draw import Batch, Grid
from .draw.charset import read_words
from .draw.labels import LATTICE
from .draw.phrases import conversation
from .draw.tokenizer import build_vocabulary
from .draw.words import is_held_out

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SIZES = (20, 22, 24)  # px of an em
LONGEST = 5
PATCH = 14
NUM_VISUAL = 16
QUESTION = "Read."
_ADDED = "<unk> <|endoftext|> <|im_start|> <|im_end|> <image> </image> <slice> </slice>".split()
_ADDED += "<image_id> </image_id> <think> </think>".split()


def words_tokenizer() -> Tokenizer:
    """One token a byte, and the added tokens of the released template."""
    vocab, merges = build_vocabulary(257)
    added = [AddedToken(len(vocab) + i, token, "think" not in token) for i, token in enumerate(_ADDED)]
    return Tokenizer.from_parts(vocab, merges, added, None, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"})


@dataclass
class _Glyph:
    cover: Tensor  # float [h, w], how much ink
    top: int  # px below the line's top
    advance: int


def _glyphs(size: int) -> list[_Glyph]:
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size)
    out = []
    for letter in LETTERS:
        left, top, right, bottom = font.getbbox(letter)
        picture = Image.new("L", (int(right - left), int(bottom - top)))
        ImageDraw.Draw(picture).text((-left, -top), letter, fill=255, font=font)
        cover = torch.from_numpy(np.array(picture)).float() / 255
        out.append(_Glyph(cover, int(top), int(np.ceil(font.getlength(letter)))))
    return out


class WordsDrawer:
    """Draws words of 1 to 5 letters anywhere on the page, in random grey or colour, with a little noise."""

    num_classes = 1 + len(LETTERS)

    def __init__(self, tokenizer: Tokenizer, device: str | torch.device = "cpu", *, held_out: bool = False) -> None:
        self.device, self.held_out = torch.device(device), held_out
        words = {w.lower() for w in read_words("words_en.txt") if 1 <= len(w) <= LONGEST}
        self.words = sorted(w for w in words if set(w) <= set(LETTERS) and is_held_out(w) == held_out)
        self.glyphs = {size: _glyphs(size) for size in SIZES}
        self.tokens = torch.tensor([tokenizer.encode(letter)[0] for letter in LETTERS])
        self.chat = conversation(tokenizer, torch.device("cpu"), num_visual=NUM_VISUAL, image_ids=True)
        self.question = torch.tensor(tokenizer.encode(QUESTION))
        fixed = len(self.chat.head) + len(self.question) + len(self.chat.tail) + len(self.chat.end)
        self.sequence_length = fixed + LONGEST

    def draw(self, kind: str, batch: int, grid: Grid, generator: torch.Generator | None = None) -> Batch:
        if kind != "text":
            raise ValueError(f"this drawer knows only 'text', not {kind!r}")
        # One number from the generator seeds everything, so the state that is saved stays one small generator.
        seed = int(torch.randint(2**62, (1,), generator=generator, device=self.device))
        random = np.random.default_rng(seed)
        height, width = grid.rows * PATCH, grid.cols * PATCH
        samples = [self._page(random, height, width) for _ in range(batch)]
        pixels = torch.stack([s[0] for s in samples])[:, None]
        classes = torch.stack([s[1] for s in samples])
        letters = [s[2] for s in samples]
        length = torch.tensor([len(word) for word in letters])
        padded = torch.zeros(batch, LONGEST, dtype=torch.int64)
        for row, word in enumerate(letters):
            padded[row, : len(word)] = self.tokens[word]
        asked = (self.question.expand(batch, -1), torch.full((batch,), len(self.question)))
        ids, labels, used = self.chat.build([asked], [(padded, length)], self.sequence_length)
        at_patches = torch.arange(grid.rows * 2) * 7 + 3, torch.arange(grid.cols * 2) * 7 + 3
        lattice = classes[:, _fractions(height)][:, :, _fractions(width)]
        return Batch(
            pixels=pixels.to(self.device),
            frame_mask=torch.ones(batch, 1, dtype=torch.bool, device=self.device),
            temporal_ids=torch.full((batch, 1), -1, device=self.device),
            input_ids=ids.to(self.device),
            labels=labels.to(self.device),
            dense=classes[:, at_patches[0]][:, :, at_patches[1]][:, None].to(self.device),
            lattice=lattice.to(self.device),
            lattice_last=lattice.to(self.device),
            visual_start=self.chat.visual_start,
            lengths=used.to(self.device),
            task=torch.zeros(batch, dtype=torch.int64, device=self.device),
        )

    def _page(self, random: np.random.Generator, height: int, width: int) -> tuple[Tensor, Tensor, list[int]]:
        """One picture [3, h, w] in -1..1, the class of every pixel [h, w], the letters' indices."""
        size = int(random.choice(SIZES))
        glyphs = self.glyphs[size]
        word = self._word(random, glyphs, width)
        total = sum(glyphs[i].advance for i in word)
        line = max(glyphs[i].top + glyphs[i].cover.shape[0] for i in range(len(LETTERS)))
        x, y = (int(random.integers(0, max(1, room))) for room in (width - total, height - line))
        ink = torch.zeros(height, width)
        classes = torch.zeros(height, width, dtype=torch.int64)
        for i in word:
            glyph = glyphs[i]
            h, w = glyph.cover.shape
            spot = ink[y + glyph.top : y + glyph.top + h, x : x + w]
            spot += glyph.cover[: spot.shape[0], : spot.shape[1]]
            classes[y + glyph.top : y + glyph.top + h, x : x + glyph.advance] = 1 + i
            x += glyph.advance
        dark, light = random.uniform(-1, -0.2, 3), random.uniform(0.2, 1, 3)
        paper, pen = (light, dark) if random.random() < 0.7 else (dark, light)
        noise = torch.from_numpy(random.standard_normal((3, height, width), dtype=np.float32)) * 0.05
        base, colour = (torch.tensor(c, dtype=torch.float32)[:, None, None] for c in (paper, pen))
        page = base + (colour - base) * ink.clamp(max=1) + noise
        return page.clamp(-1, 1), classes, word

    def _word(self, random: np.random.Generator, glyphs: list[_Glyph], width: int) -> list[int]:
        """Letter indices of a word that fits the page."""
        if random.random() < 0.5:
            word = [LETTERS.index(c) for c in self.words[int(random.integers(len(self.words)))]]
        else:
            word = random.integers(0, len(LETTERS), int(random.integers(1, LONGEST + 1))).tolist()
        while sum(glyphs[i].advance for i in word) > width - 2:
            word = word[:-1]
        return word


def _fractions(size: int) -> Tensor:
    """Pixels at 32 equal fractions of an axis."""
    return ((torch.arange(LATTICE) + 0.5) * size / LATTICE).long()
