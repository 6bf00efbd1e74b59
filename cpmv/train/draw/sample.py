"""The seam to the training loop: `Drawer.draw(kind, batch, grid)` gives pictures, prompts, answers and dense labels.

Everything a draw needs is on the device beforehand (atlas, word bank, prompts, per-grid tables), and a draw is a fixed
sequence of tensor operations: after one warm-up call per kind and grid it can be captured in a CUDA graph.
A new kind is one method `_draw_<kind>` and one entry in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from . import clip as clip_module
from . import glyphs, scene, shapes, talk
from .atlas import Atlas
from .chance import Chance
from .charset import drawn_characters
from .display import triton_kernels
from .labels import LATTICE, lattice_points, patch_points
from .paper import Paper, composite, contrasting_colour, draw_grain, draw_paper, soften
from .phrases import IGNORED, Conversation, Encoder, PhraseBank, Segments, Wordings, choose_language, conversation
from .prompts import READ
from .text import (
    MIN_EM,
    MIN_HAN_EM,
    TextLimits,
    answer_segments,
    choose_faces,
    face_pools,
    line_counts,
    place_lines,
    text_limits,
    write_lines,
)
from .words import WordBank

PATCH = 14  # px
NUM_VISUAL = 16  # placeholders a group of slices or frames
HAN_SHARE = 0.28  # of text pictures
MAX_CHARACTERS = 96  # of a read answer, newlines included
AROUND_ANSWER = 80  # tokens of the template, the placeholders and the longest reading prompt


@dataclass(frozen=True)
class Grid:
    """Size of a picture in patches of 14 x 14 px."""

    rows: int
    cols: int

    @property
    def height(self) -> int:
        return self.rows * PATCH

    @property
    def width(self) -> int:
        return self.cols * PATCH


@dataclass
class Batch:
    """B drawn samples. F frames: 1 for pictures, 6 for clips, 0 for text only.

    pixels: [B, F, 3, rows * 14, cols * 14] in -1..1. frame_mask: bool [B, F]. temporal_ids: int64 [B, F], tenths of a
    second, -1 for pictures. input_ids, labels: int64 [B, S], labels -100 outside the answer and its end marker.
    dense: int64 [B, F, rows * 2, cols * 2], class at 2 x 2 points a patch, -100 in masked frames. lattice: int64
    [B, 32, 32], class at equal fractions of the first frame; lattice_last: the same in a clip's last frame (pictures:
    the
    same tensor). visual_start: position of the first of the 16 visual tokens, -1 for text only.
    lengths: int64 [B], tokens used; at most S by construction. task: int64 [B], the question kind within the draw kind.
    """

    pixels: Tensor
    frame_mask: Tensor
    temporal_ids: Tensor
    input_ids: Tensor
    labels: Tensor
    dense: Tensor
    lattice: Tensor
    lattice_last: Tensor
    visual_start: int
    lengths: Tensor
    task: Tensor


@dataclass
class _GridTables:
    limits: TextLimits
    counts: Tensor
    layouts: scene.Layouts
    patch: tuple[Tensor, Tensor]
    lattice: tuple[Tensor, Tensor]
    pixel: tuple[Tensor, Tensor]


class Drawer:
    """Draws samples on `device`. Holds the atlas, the word bank and the prompts.

    atlas: a path or an `Atlas`. tokenizer: anything with `encode(text) -> list[int]`, one token a drawn character.
    held_out: use the faces, words, colour-shape pairs kept for evaluation (`held_out_faces` alone for the faces).
    Class order of the dense labels: 0 blank, then characters, then colour x shape.
    """

    FUSED = {"_ink": "ink", "_render": "render", "_composite": "composite", "_soften": "soften", "_owner": "owner_of"}

    def __init__(
        self,
        atlas: str | Path | Atlas,
        tokenizer: Encoder,
        device: str | torch.device = "cpu",
        *,
        seed: int = 0,
        held_out: bool = False,
        held_out_faces: bool | None = None,
        sequence_length: int = 176,
        max_lines: int = 6,
        han_share: float = HAN_SHARE,
        most_shapes: int = 9,
        dtype: torch.dtype | None = None,
        compile_drawing: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self.dtype = dtype or (torch.float16 if self.device.type == "cuda" else torch.float32)
        self.sequence_length, self.max_lines, self.han_share = sequence_length, max_lines, han_share
        atlas = atlas if isinstance(atlas, Atlas) else Atlas.load(atlas)
        if atlas.characters != drawn_characters():
            raise ValueError("the atlas was made for another set of characters; build it again")
        self._load_faces(atlas, held_out if held_out_faces is None else held_out_faces)
        self.words = WordBank(self.device, held_out=held_out, seed=seed)
        tokens = [tokenizer.encode(character) for character in atlas.characters]
        if any(len(token) != 1 for token in tokens):
            raise ValueError("the tokenizer splits drawn characters; use the one that cpmv.train.draw.tokenizer writes")
        self.token_of = torch.tensor([token[0] for token in tokens], device=self.device)
        self.newline = torch.tensor([tokenizer.encode("\n")], device=self.device)
        self._load_prompts(tokenizer)
        self.palette = shapes.palette(self.device)
        barred = shapes.held_out_pairs(self.device)
        self.barred = torch.zeros_like(barred) if held_out else barred
        self.shape_counts = scene.count_distribution(most_shapes, self.device)
        self.first_shape_class = 1 + len(atlas.characters)
        self.num_classes = self.first_shape_class + shapes.NUM_COLOURS * shapes.NUM_SHAPES
        self._grids: dict[Grid, _GridTables] = {}
        # The functions that touch every pixel; fused, they are most of the speed. One compile each serves all grids
        # when duck shaping is off (torch.fx.experimental._config.use_duck_shape).
        self._ink: Callable[..., Tensor] = glyphs.ink
        self._render: Callable[..., tuple[Tensor, Tensor]] = shapes.render
        self._composite: Callable[..., Tensor] = composite
        self._soften: Callable[..., Tensor] = soften
        self._owner: Callable[..., Tensor] = clip_module.owner_of
        if compile_drawing:
            self._fuse()

    def _fuse(self) -> None:
        """Take Triton's kernels for what touches every pixel, or compile it where Triton is missing."""
        kernels = triton_kernels("kernels_joint") if self.device.type == "cuda" else None
        for name, kernel in self.FUSED.items():
            plain = getattr(self, name)
            setattr(self, name, getattr(kernels, kernel) if kernels else torch.compile(plain, dynamic=True))

    def _load_faces(self, atlas: Atlas, held_out: bool) -> None:
        self.atlas = glyphs.DeviceAtlas(atlas, self.device)
        usable = [
            bool(ok) and bool(held) == held_out for ok, held in zip(self.atlas.complete, atlas.held_out, strict=True)
        ]
        if not any(usable):
            raise ValueError(f"the atlas has no {'held-out' if held_out else 'training'} face")
        self.pools = face_pools(atlas.families, atlas.kinds, usable, self.device)

    def _load_prompts(self, tokenizer: Encoder) -> None:
        self.bank = PhraseBank(tokenizer, self.device)
        self.read_wordings = Wordings(self.bank, {"read": READ})
        self.scene_words = scene.SceneWords(self.bank)
        self.clip_words = clip_module.ClipWords(self.bank)
        self.talk_words = talk.TalkWords(self.bank)
        self.bank.freeze()
        self.scene_weights = torch.tensor(self.scene_words.kind_weights, device=self.device)
        self.clip_weights = torch.tensor(self.clip_words.kind_weights, device=self.device)
        self.chats: dict[str, Conversation] = {
            "picture": conversation(tokenizer, self.device, num_visual=NUM_VISUAL, image_ids=True),
            "clip": conversation(tokenizer, self.device, num_visual=NUM_VISUAL, image_ids=False),
            "text": conversation(tokenizer, self.device, num_visual=0, image_ids=False),
        }

    def tables(self, grid: Grid) -> _GridTables:
        """Constants of a grid, made at its first use (before any capture)."""
        if grid not in self._grids:
            height, width = grid.height, grid.width
            total = min(MAX_CHARACTERS, self.sequence_length - AROUND_ANSWER)
            limits = text_limits(height, width, max_lines=self.max_lines, total=total)
            pixel = torch.arange(height * width, device=self.device)
            self._grids[grid] = _GridTables(
                limits,
                line_counts(limits, self.device),
                scene.layouts_for(height, width, self.device),
                patch_points(height, width, self.device),
                lattice_points(height, width, self.device),
                ((pixel % width).float() + 0.5, (pixel // width).float() + 0.5),
            )
        return self._grids[grid]

    @torch.no_grad()
    def draw(self, kind: str, batch: int, grid: Grid, generator: torch.Generator | None = None) -> Batch:
        """Draw `batch` samples of one kind: one of KINDS. Same generator state, same samples."""
        if kind not in KINDS:
            raise ValueError(f"unknown kind {kind!r}; one of {', '.join(KINDS)}")
        return KINDS[kind](self, Chance(self.device, generator), batch, grid)

    def _draw_text(self, chance: Chance, batch: int, grid: Grid) -> Batch:
        tables, height, width = self.tables(grid), grid.height, grid.width
        mode = self.words.choose_modes(chance, chance.chosen(batch, share=self.han_share))
        han = mode >= self.words.num_latin
        characters, length, lines = write_lines(chance, self.words, tables.limits, tables.counts, mode)
        face = choose_faces(chance, self.pools, han)
        characters = self.atlas.present(face, characters.flatten(1)).view_as(characters)
        least = torch.where(han, MIN_HAN_EM, MIN_EM)
        layout = place_lines(chance, self.atlas, face, (characters, length, lines), least, height, width)
        cover = self._ink(layout, self.atlas)
        # Strokes thinner or heavier than the face's: there are few Han faces to learn from.
        power = torch.where(han, chance.uniform(batch, low=0.5, high=2.0), chance.uniform(batch, low=0.7, high=1.35))
        cover = cover ** power.view(batch, 1, 1)
        blur = (
            chance.uniform(batch) * 0.3 * chance.chosen(batch, share=0.3) * ((layout.em[:, 0] - 9) / 12).clamp(0.2, 1)
        )
        paper = draw_paper(chance, batch)
        colour = contrasting_colour(chance, paper.base).view(batch, 3, 1, 1)
        picture = self._compose(chance, paper, self._soften(cover, blur), colour)
        # Questions in Chinese mostly go with Chinese text.
        ask_chinese = torch.where(han, chance.chosen(batch, share=0.6), chance.chosen(batch, share=0.12)).long()
        parts = self.read_wordings.ask(chance, torch.zeros_like(ask_chinese), ask_chinese)
        question = [self.bank.segment(parts[:, 0])]
        answer = answer_segments(characters, length, lines, self.token_of, self.newline)
        dense = glyphs.classes_at(layout, *tables.patch)
        lattice = glyphs.classes_at(layout, *tables.lattice)
        return self._picture_batch(picture, question, answer, dense, lattice, mode, grid)

    def _draw_scene(self, chance: Chance, batch: int, grid: Grid) -> Batch:
        tables, height, width = self.tables(grid), grid.height, grid.width
        paper = draw_paper(chance, batch)
        drawn = scene.draw_scene(
            chance, paper.base, tables.layouts, self.palette, self.barred, self.shape_counts, height, width
        )
        owner = scene.owner_of(drawn, *tables.pixel, height, width)
        cover, colour = self._render(drawn.shapes, owner, height, width)
        cover = self._soften(cover, chance.uniform(batch) * 0.33 * chance.chosen(batch, share=0.3))
        picture = self._compose(chance, paper, cover, colour)
        language = choose_language(chance, batch)
        question, answer, task = scene.ask(
            chance, drawn, self.scene_words, self.bank, self.scene_weights, language, self.barred, height, width
        )

        def classes(x: Tensor, y: Tensor) -> Tensor:
            found = shapes.classes_at(drawn.shapes, scene.owner_of(drawn, x, y, height, width), x, y)
            return torch.where(found > 0, found - 1 + self.first_shape_class, 0)

        return self._picture_batch(
            picture, question, answer, classes(*tables.patch), classes(*tables.lattice), task, grid
        )

    def _compose(self, chance: Chance, paper: Paper, cover: Tensor, colour: Tensor, frames: int = 1) -> Tensor:
        """The finished pictures in `dtype`: [N, 3, H, W] in -1..1."""
        count, height, width = cover.shape
        grain = draw_grain(chance, count // frames, height, width, frames=frames, dtype=self.dtype)
        return self._composite(paper, cover, colour, grain, frames).to(self.dtype)

    def _picture_batch(self, picture: Tensor, question: Segments, answer: Segments, dense: Tensor,
                       lattice: Tensor, task: Tensor, grid: Grid) -> Batch:  # fmt: skip
        batch = picture.shape[0]
        chat = self.chats["picture"]
        ids, labels, used = chat.build(question, answer, self.sequence_length)
        lattice = lattice.view(batch, LATTICE, LATTICE)
        return Batch(
            pixels=picture.unsqueeze(1),
            frame_mask=torch.ones(batch, 1, dtype=torch.bool, device=self.device),
            temporal_ids=torch.full((batch, 1), -1, device=self.device),
            input_ids=ids,
            labels=labels,
            dense=dense.view(batch, 1, grid.rows * 2, grid.cols * 2),
            lattice=lattice,
            lattice_last=lattice,
            visual_start=chat.visual_start,
            lengths=used,
            task=task,
        )

    def _draw_clip(self, chance: Chance, batch: int, grid: Grid) -> Batch:
        tables, height, width, frames = self.tables(grid), grid.height, grid.width, clip_module.MAX_FRAMES
        paper = draw_paper(chance, batch)
        drawn = clip_module.draw_clip(chance, paper.base, self.palette, self.barred, height, width)
        owner = self._owner(drawn.shapes, *tables.pixel)
        cover, colour = self._render(drawn.shapes, owner, height, width)
        cover = self._soften(
            cover, (chance.uniform(batch) * 0.33 * chance.chosen(batch, share=0.3)).repeat_interleave(frames)
        )
        picture = self._compose(chance, paper, cover, colour, frames)
        language = choose_language(chance, batch)
        question, answer, task = clip_module.ask(chance, drawn, self.clip_words, self.bank, self.clip_weights, language)
        chat = self.chats["clip"]
        ids, labels, used = chat.build(question, answer, self.sequence_length)
        mask = drawn.frame_mask

        def classes(x: Tensor, y: Tensor) -> Tensor:
            found = shapes.classes_at(drawn.shapes, clip_module.owner_of(drawn.shapes, x, y), x, y)
            return torch.where(found > 0, found - 1 + self.first_shape_class, 0).view(batch, frames, -1)

        lattice = classes(*tables.lattice).view(batch, frames, LATTICE, LATTICE)
        last = (mask.sum(1) - 1).view(-1, 1, 1, 1).expand(-1, 1, LATTICE, LATTICE)
        dense = classes(*tables.patch).view(batch, frames, grid.rows * 2, grid.cols * 2)
        pixels = picture.view(batch, frames, 3, height, width)
        return Batch(
            pixels=pixels * mask.view(batch, frames, 1, 1, 1),
            frame_mask=mask,
            temporal_ids=torch.where(mask, drawn.temporal_ids, -1),
            input_ids=ids,
            labels=labels,
            dense=torch.where(mask.view(batch, frames, 1, 1), dense, IGNORED),
            lattice=lattice[:, 0],
            lattice_last=lattice.gather(1, last)[:, 0],
            visual_start=chat.visual_start,
            lengths=used,
            task=task,
        )

    def _draw_textonly(self, chance: Chance, batch: int, grid: Grid) -> Batch:
        language = choose_language(chance, batch)
        question, answer, task = talk.ask(
            chance, batch, self.talk_words, self.bank, self.words, self.token_of, language
        )
        ids, labels, used = self.chats["text"].build(question, answer, self.sequence_length)
        empty = torch.empty(batch, 0, dtype=torch.int64, device=self.device)
        lattice = torch.full((batch, LATTICE, LATTICE), IGNORED, device=self.device)
        return Batch(
            pixels=torch.empty(batch, 0, 3, grid.height, grid.width, dtype=self.dtype, device=self.device),
            frame_mask=empty.bool(),
            temporal_ids=empty,
            input_ids=ids,
            labels=labels,
            dense=torch.empty(batch, 0, grid.rows * 2, grid.cols * 2, dtype=torch.int64, device=self.device),
            lattice=lattice,
            lattice_last=lattice,
            visual_start=-1,
            lengths=used,
            task=task,
        )


KINDS: dict[str, Callable[[Drawer, Chance, int, Grid], Batch]] = {
    "text": Drawer._draw_text,
    "scene": Drawer._draw_scene,
    "clip": Drawer._draw_clip,
    "textonly": Drawer._draw_textonly,
}
