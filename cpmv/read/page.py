"""One page read: cut as its writing asks, asked about, and put together again as blocks of lines.

Two ways. A model with small slices reads lines, each piece as a picture of its own, and the layout says what is a
heading, a list or a table. A model with full-size slices reads the whole page as Markdown, or bands of it where the
writing would become too small or too much for one look.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ..errors import MessageError
from .boxes import Block, Box, Layout, Line, runs
from .ink import Mask, any_along
from .layout import BOLD, find_layout
from .merge import merge_overlap
from .reader import Asker, Pending
from .straighten import straighten
from .tiles import OVERLAP_EMS, Piece, TileShape, cut_line, draw_piece

if TYPE_CHECKING:
    from PIL import Image

    from ..engine.request import Constraint
    from ..inputs.text import Tokenizer
    from ..model.config import ModelConfig

By = Literal["auto", "lines", "page"]
BY: tuple[By, ...] = ("auto", "lines", "page")

FULL_SIDE = 448  # px of the released model's slices; a model with smaller ones is given lines
LINE_QUESTION = "Read the text."
PAGE_QUESTION = (
    "Convert this page to Markdown. Keep the words exactly, with headings, lists, tables and the reading order. "
    "Answer with the Markdown alone."
)
CHARACTERS_A_TOKEN = 6  # that a visual token can be trusted with; about 100 in the 16 of a small slice
LEAST_LINE_PX = 12  # of a line's height, as the model sees it
OVERLAP_LINES = 3
LONGEST_PAGE = 4096  # tokens of one answer about a page or band
_NARROWEST_LETTER_EMS = 0.24  # "il" and digits; bounds how many characters a piece can hold


@dataclass
class ReadLine:
    """A line as it was read. problem: see `Reading`. doubt: what the text layer has instead, None if not doubted.

    boxes: where it stands on the page, px; empty when only its page is known.
    """

    text: str
    problem: str = ""
    doubt: str | None = None
    boxes: list[Box] = field(default_factory=list)


@dataclass
class ReadBlock:
    """A block as it was read.

    kind: "text", "table", "picture", "markdown" (lines of finished Markdown), or "unread" (only marks, see `check`).
    scale: size of its letters relative to the page's usual. size: (width, height) px.
    """

    kind: str
    lines: list[ReadLine] = field(default_factory=list)
    rows: list[list[ReadLine]] = field(default_factory=list)
    scale: float = 1.0
    bullet: bool = False
    size: tuple[int, int] = (0, 0)

    def all_lines(self) -> list[ReadLine]:
        return [*self.lines, *(cell for row in self.rows for cell in row)]


class PageReader:
    """Reads pages with one model. by: "lines", "page", or "auto" to decide by the size of the model's slices.

    tokenizer: needed only to hold answers to a schema.
    """

    def __init__(self, asker: Asker, config: ModelConfig, by: By = "auto", tokenizer: Tokenizer | None = None) -> None:
        if by not in BY:
            raise MessageError(f"by={by!r} is no way to read a page; choose one of {', '.join(BY)}")
        image = config.image
        self.asker = asker
        self.shape = TileShape(image.scale_resolution, image.patch_size)
        self.by_lines = by == "lines" or (by == "auto" and image.scale_resolution < FULL_SIDE)
        self.max_slice_nums = image.max_slice_nums
        self.num_tokens = image.image_feature_size * (1 + image.max_slice_nums)
        self._vocab_size, self._tokenizer = config.language.vocab_size, tokenizer

    def constraint_for(self, schema: dict[str, Any]) -> Callable[[int], Constraint]:
        """What holds an answer to a JSON Schema, made anew for each try. Raises MessageError for a broken schema."""
        from ..serve.structured import Grammars, json_schema

        if self._tokenizer is None:
            raise MessageError("this reader has no tokenizer to hold answers to a schema with; give it one")
        grammars, form = Grammars(self._tokenizer, self._vocab_size), json_schema(schema)
        grammars.check(form)
        return lambda most: grammars.constraint(form, thinking=False, max_new_tokens=most)

    def start(self, picture: Image.Image) -> PageInHand:
        """Look at a page and hand everything on it in; `finish` waits for the answers."""
        picture, turned = straighten(picture)
        layout = find_layout(picture)
        if not layout.blocks:
            return PageInHand([])
        parts = self._by_lines(picture, layout) if self.by_lines else self._by_bands(picture, layout)
        return PageInHand(parts, has_places=turned == 0)

    # ---- line by line ----

    def _by_lines(self, picture: Image.Image, layout: Layout) -> list[_Part]:
        usual = _Usual.of(layout)
        parts: list[_Part] = []
        for block in layout.blocks:
            read = ReadBlock(block.kind, size=(block.box.width, block.box.height))
            part = _Part(read)
            if block.kind == "text":
                read.scale, read.bullet = usual.scale_of(block), block.lines[0].bullet
                part.lines = [self._line(picture, line, layout.writing) for line in block.lines]
            for row in block.rows:
                part.rows.append([[self._line(picture, line, layout.writing) for line in cell] for cell in row])
            parts.append(part)
        return parts

    def _line(self, picture: Image.Image, line: Line, writing: Mask) -> list[_Asked]:
        asked = []
        for piece in cut_line(line, writing, self.shape):
            most = math.ceil(piece.box.width / (_NARROWEST_LETTER_EMS * piece.em)) + 16
            tile = draw_piece(picture, piece, self.shape)
            pending = self.asker.submit([tile], LINE_QUESTION, max_slice_nums=1, max_new_tokens=most)
            asked.append(_Asked(pending, piece))
        return asked

    # ---- whole pages, or bands of them ----

    def _by_bands(self, picture: Image.Image, layout: Layout) -> list[_Part]:
        part = _Part(ReadBlock("markdown"))
        for box, overlaps in plan_bands(picture, layout, self.shape.side, self.max_slice_nums, self.num_tokens):
            band = picture.crop((box.left, box.top, box.right, box.bottom))
            pending = self.asker.submit(
                [band], PAGE_QUESTION, max_slice_nums=self.max_slice_nums, max_new_tokens=LONGEST_PAGE
            )
            part.bands.append((pending, overlaps))
        return [part]


@dataclass
class _Asked:
    pending: Pending
    piece: Piece


@dataclass
class _Part:
    """A block in the making: its lines, or its cells' lines, as pieces; or bands and whether each overlaps the last."""

    read: ReadBlock
    lines: list[list[_Asked]] = field(default_factory=list)
    rows: list[list[list[list[_Asked]]]] = field(default_factory=list)
    bands: list[tuple[Pending, bool]] = field(default_factory=list)


class PageInHand:
    """A page whose parts have been handed in. has_places: lines stand where the page as it was given has them."""

    def __init__(self, parts: list[_Part], *, has_places: bool = True) -> None:
        self._parts, self._has_places = parts, has_places

    def finish(self) -> list[ReadBlock]:
        """Wait for everything and return the blocks in reading order."""
        blocks = []
        for part in self._parts:
            part.read.lines = [_join_pieces(line) for line in part.lines]
            for row in part.rows:
                part.read.rows.append([_join_cell([_join_pieces(line) for line in cell]) for cell in row])
            if part.bands:
                part.read.lines = _join_bands(part.bands)
            if not self._has_places:
                for line in part.read.all_lines():
                    line.boxes.clear()
            blocks.append(part.read)
        return blocks


def _join_pieces(asked: Sequence[_Asked]) -> ReadLine:
    line = ReadLine("", boxes=[one.piece.box for one in asked])
    glue = "end"
    for one in asked:
        reading = one.pending.result()
        text = " ".join(reading.text.split())
        line.problem = line.problem or reading.problem
        if glue == "overlap":
            line.text = merge_overlap(line.text, text, round(OVERLAP_EMS / _NARROWEST_LETTER_EMS))
        elif glue == "space" and line.text and text and not (is_han(line.text[-1]) or is_han(text[0])):
            line.text = f"{line.text} {text}"
        else:
            line.text += text
        glue = one.piece.glue
    return line


def _join_cell(lines: list[ReadLine]) -> ReadLine:
    problem = next((line.problem for line in lines if line.problem), "")
    return ReadLine(join_lines([line.text for line in lines]), problem, boxes=[b for line in lines for b in line.boxes])


def _join_bands(bands: list[tuple[Pending, bool]]) -> list[ReadLine]:
    lines: list[ReadLine] = []
    for pending, overlaps in bands:
        reading = pending.result()
        new = _without_fence(reading.text).split("\n")
        if overlaps:
            new = new[num_lines_shared([line.text for line in lines], new) :]
        lines += [ReadLine(text) for text in new]
        if reading.problem and lines:
            lines[-1].problem = reading.problem
    return lines


def _without_fence(text: str) -> str:
    match = re.fullmatch(r"\s*```(?:markdown|md)?\s*\n(.*?)\n?```\s*", text, re.DOTALL)
    return match[1] if match else text.strip("\n")


def num_lines_shared(above: Sequence[str], below: Sequence[str], most: int = 2 * OVERLAP_LINES) -> int:
    """How many of the first lines of `below` say again what the last ones of `above` said.

    The very first line may be a cut half of one that `above` has whole.
    """
    tail = [line for line in above if line.strip()][-most:]
    for count in range(min(most, len(below)), 0, -1):
        head = [line for line in below[:count] if line.strip()]
        if not below[count - 1].strip() or len(head) > len(tail):
            continue
        if all(_is_like(a, b) for a, b in zip(tail[-len(head) :], head, strict=True)):
            return count
        whole = head[1:]
        if whole and all(_is_like(a, b) for a, b in zip(tail[-len(whole) :], whole, strict=True)):
            return count
    return 0


def _is_like(a: str, b: str) -> bool:
    return difflib.SequenceMatcher(None, a, b, autojunk=False).ratio() >= 0.75


def join_lines(texts: Sequence[str]) -> str:
    """Make running text of lines: a space between words, none between Han, and a word broken by a hyphen whole."""
    out = ""
    for text in (one for one in texts if one):
        if not out or is_han(out[-1]) or is_han(text[0]):
            out += text
        elif re.search(r"[a-z]-$", out) and text[0].islower():
            out = out[:-1] + text
        else:
            out = f"{out} {text}"
    return out


def is_han(character: str) -> bool:
    """Whether a character is written without spaces around it: Han, kana, full-width signs."""
    return "\u2e80" <= character <= "\u9fff" or "\uf900" <= character <= "\ufaff" or "\uff00" <= character <= "\uffef"


def plan_bands(
    picture: Image.Image, layout: Layout, side: int, max_slice_nums: int, num_tokens: int
) -> list[tuple[Box, bool]]:
    """Cut a page into bands that the model can read in one look: (band, whether it repeats the end of the last).

    One band, the whole page, if its lines stay LEAST_LINE_PX high within all slices and its characters are few enough
    for the visual tokens. Cuts go through empty rows; where there are none near, bands overlap by OVERLAP_LINES.
    """
    width, height = picture.size
    scale = min(1.0, math.sqrt(max_slice_nums * side * side / (width * height)))
    needed = max(
        1.0,
        (LEAST_LINE_PX / max(1e-6, layout.line_height * scale)) ** 2,
        layout.num_characters() / (CHARACTERS_A_TOKEN * num_tokens),
    )
    top = max(0, min(block.box.top for block in layout.blocks) - round(layout.line_height))
    bottom = min(height, max(block.box.bottom for block in layout.blocks) + round(layout.line_height))
    count = min(math.ceil(needed - 0.05), max(1, round((bottom - top) / (4 * layout.line_height))))
    if count == 1:
        return [(Box(0, 0, width, height), False)]
    empty = runs(~any_along(layout.writing[top:bottom], 1))
    bands: list[tuple[Box, bool]] = []
    start, overlaps = top, False
    reach = 0.3 * (bottom - top) / count
    for i in range(1, count):
        ideal = top + (bottom - top) * i / count
        near = [(b - a, top + (a + b) // 2) for a, b in empty if abs(top + (a + b) / 2 - ideal) <= reach]
        if near:
            end = max(near)[1]
            following, repeats = end, False
        else:
            end = round(ideal)
            following, repeats = end - round(OVERLAP_LINES * 1.6 * layout.line_height), True
        bands.append((Box(0, start, width, end), overlaps))
        start, overlaps = max(start + 1, following), repeats
    bands.append((Box(0, start, width, bottom), overlaps))
    return bands


@dataclass(frozen=True)
class _Usual:
    """Most running text of a page, by length: heights of small letters and of lines, width of strokes, px."""

    core: float
    height: float
    weight: float

    @staticmethod
    def of(layout: Layout) -> _Usual:
        lines = [line for block in layout.blocks if block.kind == "text" for line in block.lines]
        return _Usual(
            _weighted_median([(line.core, line.box.width) for line in lines]),
            _weighted_median([(line.box.height, line.box.width) for line in lines]),
            _weighted_median([(line.weight, line.box.width) for line in lines]),
        )

    def scale_of(self, block: Block) -> float:
        """How much larger a block's letters are; 1 unless small letters are larger and whole lines, or strokes, too.

        A line in capitals has tall "small letters", one with brackets is a tall line; neither is a heading.
        """
        if self.core <= 0:
            return 1.0
        core = min(line.core for line in block.lines) / self.core
        height = min(line.box.height for line in block.lines) / self.height
        weight = min(line.weight for line in block.lines) / max(0.5, self.weight)
        if height <= 1.04 and weight < BOLD:
            return min(core, 1.0)
        return max(core, min(height, 1.2 * core))


def _weighted_median(values: list[tuple[float, int]]) -> float:
    half, passed = sum(weight for _, weight in values) / 2, 0
    for value, weight in sorted(values):
        passed += weight
        if passed >= half:
            return value
    return 0.0
