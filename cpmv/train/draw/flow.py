"""Text that flows down a column of a canvas: headings, paragraphs, lists and `key: value` lines, block after block.

`pages.py` composes its sheets from these. A block remembers its lines as drawn, so that what is asked about it can be
answered exactly.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from .canvas import ASCENT, DESCENT, Canvas, Unfit
from .document import Box, Colour

_HAN_PIECE = re.compile(r"[A-Za-z0-9:./#-]+[，。、！？：；）》,.]*|[（《]*.[，。、！？：；）》]*")


def pieces_of(text: str, *, han: bool) -> list[str]:
    """What a line may be broken into: words, or Han characters with the punctuation that follows them."""
    return _HAN_PIECE.findall(text) if han else text.split()


@dataclass(slots=True)
class Block:
    """Lines that belong together. role: heading, section, paragraph, item, value, small. key: of a value line."""

    role: str
    lines: list[str]
    box: Box
    key: str = ""
    value: str = ""

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@dataclass(slots=True)
class Flow:
    """A column from `top` to `bottom` between `left` and `right`, px. pitch: line distance in em; gap: between blocks,
    em.

    framed: index of the block that gets a frame around it, -1 for none.
    """

    canvas: Canvas
    left: float
    right: float
    top: float
    bottom: float
    pitch: float
    gap: float
    framed: int = -1
    y: float = 0.0
    blocks: list[Block] = field(default_factory=list)
    frames: list[Box] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.y = self.top

    @property
    def room(self) -> float:
        return self.right - self.left

    def lines_left(self, em: float | None = None) -> int:
        """How many body lines still fit."""
        em = em or self.canvas.em
        return max(0, int((self.bottom - self.y - em) / (em * self.pitch)) + 1)

    def put(
        self,
        role: str,
        lines: Sequence[str],
        *,
        em: float | None = None,
        face: int | None = None,
        colour: Colour | None = None,
        align: float = 0.0,
        indent: float = 0.0,
        echoes: Sequence[str] = (),
        derivable: bool = False,
        key: str = "",
        value: str = "",
        gap: float | None = None,
    ) -> Block:
        """Write lines and add their block. indent: of the first line, px. Raises Unfit below the column."""
        em = em or self.canvas.em
        if not lines:
            raise Unfit("nothing to write")
        framed = len(self.blocks) == self.framed
        space = (self.gap if gap is None else gap) * self.canvas.em if self.blocks else 0.0
        self.y += max(space, 6.0) if framed and self.blocks else 4.0 if framed else space
        start = self.y
        boxes: list[Box] = []
        for index, line in enumerate(lines):
            baseline = self.y + ASCENT * em
            if baseline + DESCENT * em > self.bottom + 0.5:
                raise Unfit("the column is full")
            x = self.left + align * self.room + (indent if index == 0 else 0.0)
            boxes.append(
                self.canvas.write(
                    line, x, baseline, em=em, face=face, colour=colour, align=align, echoes=echoes, derivable=derivable
                )
            )
            self.y += em * self.pitch
        end = self.y - em * self.pitch + (ASCENT + DESCENT) * em
        self.y = max(end, self.y - em * (self.pitch - 1.0) * 0.5)
        box = (min(b[0] for b in boxes), start, max(b[2] for b in boxes), end)
        if framed:
            self._frame(box)
        block = Block(role, list(lines), box, key, value)
        self.blocks.append(block)
        return block

    def _frame(self, box: Box) -> None:
        pad = self.canvas.uniform(2.0, 3.5)
        frame = (box[0] - pad, box[1] - pad + 0.5, box[2] + pad, box[3] + pad)
        if frame[0] < 0 or frame[1] < 0 or frame[2] > self.canvas.width or frame[3] > self.canvas.height:
            raise Unfit("the frame leaves the sheet")
        colour = self.canvas.look.accent if self.canvas.chance(0.5) else self.canvas.look.ink
        self.canvas.frame(frame, width=self.canvas.uniform(1.0, 2.2), colour=colour)
        self.frames.append(frame)
        self.y = frame[3] + 3.0

    def fill_paragraph(
        self, words: Sequence[str], *, most: int, align: float = 0.0, indent: float = 0.0, echoes: Sequence[str] = ()
    ) -> Block:
        """Write as many lines of the words as fit, at most `most`."""
        canvas = self.canvas
        lines = canvas.wrap(words, canvas.body, canvas.em, self.room - indent)
        if indent:  # only the first line is short: wrap it, then the rest at full width
            first = lines[0]
            used = len(pieces_of(first, han=canvas.han))
            lines = [first, *canvas.wrap(words[used:], canvas.body, canvas.em, self.room)]
        return self.put("paragraph", lines[: min(most, self.lines_left())], align=align, indent=indent, echoes=echoes)
