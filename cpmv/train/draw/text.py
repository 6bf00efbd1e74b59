"""Pictures of text: one to several lines in one face, with what they say.

Lines come from the word bank; the size is drawn below the largest that fits, then place, alignment, line gap, tracking,
narrower or slanted glyphs that no face has, a small rotation, paper, colours, blur and noise. The answer is the lines
joined by newlines, one token a character.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .chance import Chance, cumulative
from .glyphs import DeviceAtlas, TextLayout, column_table
from .words import WordBank

MIN_EM, MIN_HAN_EM, MAX_EM = 10.5, 13.5, 52.0  # px
LATIN_ROOM, HAN_ROOM = 8.8, 14.0  # px of width a character needs at least
LINE_ROOM = 14.5  # px of height a line needs at least
MARGIN = 5.0  # px


@dataclass
class FacePools:
    """Face rows to draw from, repeated so that every family is about equally likely."""

    latin: Tensor
    han: Tensor


def face_pools(families: list[str], kinds: list[str], usable: list[bool], device: torch.device) -> FacePools:
    """Pools over the usable faces. A family weighs the square root of its number of faces; old-style figures count
    double."""

    def pool(wanted: list[int]) -> Tensor:
        sizes = {family: sum(families[i] == family for i in wanted) for family in families}
        weights = [(2 if kinds[i] == "oldstyle" else 1) * sizes[families[i]] ** -0.5 for i in wanted]
        rows = [row for row, weight in zip(wanted, weights, strict=True) for _ in range(max(1, round(weight * 12)))]
        return torch.tensor(rows, device=device)

    faces = range(len(kinds))
    han = [i for i in faces if usable[i] and kinds[i] == "han"]
    latin = [i for i in faces if usable[i] and kinds[i] != "han"] or han
    return FacePools(pool(latin), pool(han or latin))


@dataclass(frozen=True)
class TextLimits:
    """How much text a picture of this size takes; `num_lines` and `width` are the fixed shapes."""

    num_lines: int
    latin: int  # characters a line
    han: int
    total: int  # characters of the answer, newlines included

    @property
    def width(self) -> int:
        return max(self.latin, self.han)


def text_limits(height: int, width: int, *, max_lines: int = 6, max_line: int = 24, total: int = 96) -> TextLimits:
    lines = max(1, min(max_lines, int((height - 8) / LINE_ROOM)))
    latin = max(2, min(max_line, int((width - 12) / LATIN_ROOM)))
    return TextLimits(lines, latin, max(2, min(max_line, int((width - 12) / HAN_ROOM))), total)


def line_counts(limits: TextLimits, device: torch.device) -> Tensor:
    """Cumulative distribution of the number of lines: one line 22 %, the others alike."""
    rest = limits.num_lines - 1
    return cumulative([0.22] + [0.78 / rest] * rest if rest else [1.0], device)


def write_lines(
    chance: Chance, bank: WordBank, limits: TextLimits, counts: Tensor, mode: Tensor, num_lines: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Compose the lines of each sample. mode: [B]. Returns characters [B, L, N], lengths [B, L] (0: no line), counts
    [B]."""
    batch, most = mode.shape[0], limits.num_lines
    lines = chance.weighted(batch, cumulative=counts) + 1 if num_lines is None else num_lines
    han = mode >= bank.num_latin
    room = torch.where(han, limits.han, limits.latin)
    room = torch.minimum(room, (limits.total + 1) // lines - 1).clamp(min=1)
    least = torch.minimum(room, torch.full_like(room, 2))
    # Half the lines are filled, the others end anywhere.
    full = chance.chosen(batch, most, share=0.5)
    cut = least.unsqueeze(1) + chance.integer(batch, most, high=(room - least + 1).unsqueeze(1))
    limit = torch.where(full, room.unsqueeze(1), cut)
    characters, length = bank.compose(chance, mode.repeat_interleave(most), limit.flatten(), limits.width)
    rate = torch.where(chance.chosen(batch, share=0.15), 0.5, 0.02).repeat_interleave(most)
    characters = bank.substitute(chance, characters, length, rate, han.repeat_interleave(most))
    used = torch.arange(most, device=mode.device) < lines.unsqueeze(1)
    return characters.view(batch, most, -1), length.view(batch, most) * used, lines


def choose_faces(chance: Chance, pools: FacePools, han: Tensor) -> Tensor:
    """A face for each sample; a tenth of the Latin samples use a Han face. han: bool [B]."""
    batch = han.shape[0]
    latin = pools.latin[chance.integer(batch, high=pools.latin.shape[0])]
    chinese = pools.han[chance.integer(batch, high=pools.han.shape[0])]
    return torch.where(han | chance.chosen(batch, share=0.08), chinese, latin)


def place_lines(
    chance: Chance,
    atlas: DeviceAtlas,
    face: Tensor,
    written: tuple[Tensor, Tensor, Tensor],
    least_em: Tensor,
    height: int,
    width: int,
) -> TextLayout:
    """Draw size, place, alignment, tracking and rotation for lines of one face a sample.

    written: characters [B, L, N], all present in the face, lengths [B, L] and line counts [B]. least_em: [B] px, used
    unless the text would not fit.
    """
    characters, length, lines = written
    batch, most, count = characters.shape
    stretch = 1 + chance.uniform(batch, low=-0.14, high=0.14) * chance.chosen(batch, share=0.3)
    slant = chance.uniform(batch, low=-0.05, high=0.22) * chance.chosen(batch, share=0.15)
    advance = atlas.advance[face.view(-1, 1, 1), characters] * stretch.view(-1, 1, 1)  # em
    used = torch.arange(count, device=face.device) < length.unsqueeze(2)
    tracking = chance.uniform(batch, low=-0.02, high=0.14) * chance.chosen(batch, share=0.15)
    advance = torch.where(used, advance + tracking.view(-1, 1, 1), 0.0)
    line_width = advance.sum(2)  # [B, L], em
    gap = 1.22 + chance.uniform(batch) ** 2 * 0.4
    angle = chance.uniform(batch, low=-0.035, high=0.035) * chance.chosen(batch, share=0.5)
    angle = torch.where(chance.chosen(batch, share=0.04), chance.uniform(batch, low=-0.12, high=0.12), angle)
    cosine, sine = angle.cos(), angle.sin()
    room_x = width - 2 * MARGIN - height * sine.abs() * 0.5 - 30 * slant.abs()
    room_y = height - 2 * MARGIN - width * sine.abs() * 0.5
    fitting = torch.minimum(room_x / line_width.amax(1).clamp(min=0.3), room_y / (gap * lines))
    em = fitting * (1 - 0.55 * chance.uniform(batch) ** 1.3)
    em = torch.minimum(torch.maximum(em, least_em).clamp(max=MAX_EM), fitting)
    # An eighth of the samples mix sizes.
    scale = torch.where(chance.chosen(batch, 1, share=0.12), chance.uniform(batch, most, low=0.65), 1.0)
    scale = torch.maximum(scale, (least_em / em).clamp(max=1).unsqueeze(1))
    pitch, line_em = gap * em, em.unsqueeze(1) * scale
    widths = line_width * line_em
    block_width = widths.amax(1)
    left = MARGIN + (width - 2 * MARGIN - block_width) * chance.uniform(batch)
    top = MARGIN + (height - 2 * MARGIN - pitch * lines) * chance.uniform(batch)
    align = chance.integer(batch, high=4).clamp(min=1).sub(1).unsqueeze(1) * 0.5  # left half of the time
    begin = left.unsqueeze(1) + (block_width.unsqueeze(1) - widths) * align
    ends = (advance * line_em.unsqueeze(2)).cumsum(2)
    start = begin.unsqueeze(2) + torch.cat([torch.zeros_like(ends[:, :, :1]), ends[:, :, :-1]], 2)
    coarse = chance.chosen(batch, share=0.06) & (em > 20)
    return TextLayout(
        characters=characters,
        cell=torch.where(used, atlas.glyph[face.view(-1, 1, 1), characters].clamp(min=0), 0),
        start=torch.where(used, start, start + 1e-3),  # unused places lie after the end
        stop=begin + widths,
        em=line_em,
        top=top,
        pitch=pitch,
        lines=lines,
        cosine=cosine,
        sine=sine,
        block=torch.where(coarse, 1 + chance.uniform(batch) * (em / 13 - 1), 1.0),
        table=column_table(start, width),
        height=height,
        width=width,
        stretch=stretch,
        slant=slant,
    )


def answer_segments(
    characters: Tensor, length: Tensor, lines: Tensor, token_of: Tensor, newline: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Lines as token segments joined by newlines, for `join`. newline: int64 [1, 1]."""
    batch, most, _ = characters.shape
    break_ = newline.expand(batch, 1)
    segments: list[tuple[Tensor, Tensor]] = []
    for line in range(most):
        if line:
            segments.append((break_, (lines > line).long()))
        segments.append((token_of[characters[:, line]], length[:, line]))
    return segments
