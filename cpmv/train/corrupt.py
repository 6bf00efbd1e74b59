"""Corrupted text regions: reading and inferring in one objective, for drawn sheets and for anyone's pages.

Of a page with known text regions some are chosen, and each draws its own level: mild noise, heavy noise, or covered
whole. The answer is always the original text, so what pixels do not tell must come from the rest of the page. A `Plan`
follows from (seed, sample, epoch) alone: another epoch differs, and any sample can be replayed. `corrupt_pixels.py`
does it to pictures on the device; `corrupt_page` to one page; `pdf_regions` reads the regions of a PDF's own text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MessageError
from ..inputs.media import FileSource
from ..inputs.pdf import DEFAULT_DPI
from ..inputs.pdf_words import Word, page_words
from .corrupt_pixels import (
    BLOT,
    FAMILIES,
    FILLS,
    HIGH,
    LOW,
    MAX_REGIONS,
    MAX_STRENGTH,
    MODERATE,
    CorruptionArrays,
    Noise,
    corrupt,
)
from .draw.document import Box, Region, Turn

if TYPE_CHECKING:
    import PIL.Image

LEVELS = {LOW: 0.5, MODERATE: 0.25, HIGH: 0.25}
SHARE_OF_REGIONS = (0.15, 0.5)
_STRENGTHS = {LOW: (0.0, 0.4), MODERATE: (0.4, MAX_STRENGTH), HIGH: (0.0, 0.0)}
_SECOND_FAMILY = 0.4
_MAX_PAD = 3  # px
_SCALE = 1000  # coordinates in prompts are 0..999
_LONGEST = 240  # characters of an answer
_ENDS = ".,:;!?)]，。：；！？）"

FRAMED = (
    (
        "Read the text in the numbered frames.", "What does each numbered frame say?", "Write the text of every frame.",
        "Give the original text of the numbered regions.", "Some text is damaged. What do the frames say?",
        "Restore the text in the frames.", "Please read the marked regions in order.", "Text of each frame, numbered:",
        "Which words belong in the numbered frames?", "Fill in the framed text, even where it is hidden.",
        "Transcribe the framed regions as a numbered list.", "Frames: what text is or was there?",
    ),
    (
        "请读出编号框中的文字。", "每个框里写的是什么？", "请按编号写出框内的原文。",
        "有些文字看不清，框里原来是什么？", "还原各框中的文字。", "请依次写出标出的文字。", "框内文字：",
        "请写出每个编号框的内容。",
    ),
)  # fmt: skip
BOXED = (
    (
        "Read the text in these boxes:", "What does each of these regions say?", "Give the original text of each box:",
        "Some text is damaged. What belongs in these places?", "Restore the text of these regions:",
        "Please read these boxes in order:", "Text at:", "Transcribe these regions as a numbered list:",
        "Which words stand at these places?", "Write the text of each box, even where it is hidden:",
        "Read these parts of the page:", "What is or was written here?",
    ),
    (
        "请读出这些区域的文字：", "这些位置写的是什么？", "请写出每个区域的原文：",
        "有些文字看不清，这些地方原来写的是什么？", "还原这些区域的文字：", "请依次读出：", "区域文字：",
        "请按编号写出以下位置的内容：",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """One corrupted region. box: shares of the page's width and height; height: of its text, a share of the page's.

    families: one or two of `corrupt_pixels.FAMILIES`, none where covered. offset: where an occluding bar lies, 0..1;
    negative for blots. region: its number in the page's list.
    """

    region: int
    box: Box
    text: str
    level: int
    strength: float
    families: tuple[int, ...]
    fill: int
    height: float
    pad: int
    offset: float
    derivable: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of one page. framed: the regions are shown by numbered frames, else by coordinates in the prompt.
    language: of the prompt, 0 English, 1 Chinese. wording: number in 0..1 that chooses among the wordings."""

    targets: tuple[Target, ...]
    framed: bool
    language: int
    wording: float

    def rows(self) -> dict[str, list[Any]]:
        """Columns for `CorruptionArrays.put`."""
        targets = self.targets
        return {
            "boxes": [list(t.box) for t in targets],
            "level": [t.level for t in targets],
            "strength": [t.strength for t in targets],
            "family": [list((*t.families, -1, -1)[:2]) for t in targets],
            "fill": [t.fill for t in targets],
            "height": [t.height for t in targets],
            "pad": [t.pad for t in targets],
            "offset": [t.offset for t in targets],
        }

    def turn(self, num_sheets: int = 1) -> Turn:
        """The question and its answer: numbered lines in the order of the targets."""
        wordings = (FRAMED if self.framed else BOXED)[self.language]
        question = wordings[int(self.wording * len(wordings))]
        if not self.framed:
            question += "".join(f"\n{n}. {box_text(t.box)}" for n, t in enumerate(self.targets, 1))
        answer = "\n".join(f"{n}. {t.text}" for n, t in enumerate(self.targets, 1))
        return Turn(question, answer, num_sheets)


def box_text(box: Box) -> str:
    """A box in shares of the page as prompts write it, e.g. `<box>120 40 310 62</box>`, each number 0..999."""
    left, top, right, bottom = (min(_SCALE - 1, max(0, int(value * _SCALE))) for value in box)
    return f"<box>{left} {top} {right} {bottom}</box>"


def draw_plan(
    regions: Sequence[Region],
    width: int,
    height: int,
    seed: int,
    sample: int,
    epoch: int,
    *,
    language: int = 0,
    framed: bool | None = None,
    max_regions: int = MAX_REGIONS,
    max_characters: int = _LONGEST,
) -> Plan:
    """Choose regions of a width x height px page and what happens to each.

    framed: None draws it. max_characters: longest answer. Raises MessageError when no region has a text that fits.
    """
    if not 1 <= max_regions <= MAX_REGIONS:
        raise MessageError(f"max_regions is {max_regions}; it must be 1 to {MAX_REGIONS}")
    rng = np.random.default_rng((seed, sample, epoch))
    share = rng.uniform(*SHARE_OF_REGIONS)
    wanted = min(max_regions, max(1, round(share * len(regions))))
    # Regions of several words come first: they say more about the page than a lone word or number.
    order = sorted(range(len(regions)), key=lambda i: rng.random() + (0.0 if _is_phrase(regions[i].text) else 0.6))
    chosen: list[int] = []
    used = 0
    for index in order:
        text = regions[index].text.strip()
        cost = len(text) + 4
        if not text or used + cost > max_characters or any(_touch(regions[index].box, regions[i].box) for i in chosen):
            continue
        chosen.append(index)
        used += cost
        if len(chosen) == wanted:
            break
    if not chosen:
        raise MessageError(f"none of {len(regions)} regions has a text of 1 to {max_characters - 4} characters")
    framed = bool(rng.random() < 0.5) if framed is None else framed
    targets = tuple(_target(rng, i, regions[i], width, height, framed) for i in sorted(chosen))
    return Plan(targets, framed, language, float(rng.random()))


def _is_phrase(text: str) -> bool:
    return len(text.split()) >= 2 or (len(text) >= 3 and not text[0].isascii())


def _touch(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _target(rng: np.random.Generator, index: int, region: Region, width: int, height: int, framed: bool) -> Target:
    level = int(rng.choice(list(LEVELS), p=list(LEVELS.values())))
    count = 0 if level == HIGH else 2 if rng.random() < _SECOND_FAMILY else 1
    families = tuple(int(family) for family in rng.permutation(len(FAMILIES))[:count])
    left, top, right, bottom = region.box
    box = (max(0.0, left / width), max(0.0, top / height), min(1.0, right / width), min(1.0, bottom / height))
    bar = BLOT in families and rng.random() < 0.5
    return Target(
        region=index,
        box=box,
        text=region.text.strip(),
        level=level,
        strength=float(rng.uniform(*_STRENGTHS[level])),
        families=families,
        fill=int(rng.integers(len(FILLS))),
        height=(bottom - top) / height,
        pad=int(rng.integers(2 if framed else _MAX_PAD + 1)),  # a frame stands two pixels outside its box
        offset=float(rng.random()) if bar else -1.0,
        derivable=region.derivable,
    )


def corrupt_page(
    image: PIL.Image.Image, regions: Sequence[Region], seed: int, sample: int, epoch: int, *, language: int = 0
) -> tuple[PIL.Image.Image, Turn]:
    """Corrupt a page and ask for the original text of what was corrupted.

    image: the page, any mode; regions: its text with boxes in its pixels, in reading order. Returns the RGB page
    and the turn; the same numbers give the same page. Raises MessageError when no region has a text.
    """
    import torch
    from PIL import Image

    from .draw.chance import Chance

    page = image.convert("RGB")
    plan = draw_plan(regions, page.width, page.height, seed, sample, epoch, language=language)
    arrays = CorruptionArrays.empty(1)
    arrays.put(0, plan)
    pixels = torch.from_numpy(np.array(page)).permute(2, 0, 1)[None].float() / 255
    digest = np.random.SeedSequence((seed, sample, epoch)).generate_state(2)
    generator = torch.Generator().manual_seed(int(digest[0]) << 31 | int(digest[1]) >> 1)
    out = corrupt(pixels, arrays, Chance(pixels.device, generator))
    result = Image.fromarray((out[0].permute(1, 2, 0) * 255).round().byte().numpy())
    if plan.framed:
        draw_frames(result, plan)
    return result, plan.turn()


def draw_frames(page: PIL.Image.Image, plan: Plan) -> None:
    """Draw a numbered frame around every target, two pixels outside its box."""
    from PIL import ImageDraw

    pen = ImageDraw.Draw(page)
    colour = (200, 30, 30)
    for number, target in enumerate(plan.targets, 1):
        left, top, right, bottom = (v * (page.width, page.height)[i % 2] for i, v in enumerate(target.box))
        frame = (left - 3, top - 3, right + 2, bottom + 2)
        pen.rectangle(frame, outline=colour)
        size = max(10.0, min(24.0, (bottom - top) * 0.7))
        width = pen.textlength(str(number), font_size=size)
        x = frame[0] - width - 2 if frame[0] >= width + 3 else min(page.width - width - 1, frame[2] + 2)
        pen.text((x, (top + bottom) / 2), str(number), fill=colour, font_size=size, anchor="lm")


def pdf_regions(source: FileSource, page: int, dpi: float = DEFAULT_DPI) -> list[Region]:
    """Text regions of a PDF page from its own text layer: phrases of one to four words, in the layer's order.

    page: counted from 1. Boxes are pixels of the page as `iter_pages` renders it at `dpi`. A scanned page has none.
    Raises MessageError for a page that is not there, MediaError for an unreadable document.
    """
    regions: list[Region] = []
    phrase: list[Word] = []
    for word in page_words(source, page, dpi):
        if phrase and not _continues(phrase, word):
            regions.append(_region(phrase))
            phrase = []
        phrase.append(word)
    return regions + ([_region(phrase)] if phrase else [])


def _continues(phrase: list[Word], word: Word) -> bool:
    """Whether a word follows on the same line, close by, within one clause."""
    last, height = phrase[-1], phrase[-1].box[3] - phrase[-1].box[1]
    same_line = abs((last.box[1] + last.box[3]) - (word.box[1] + word.box[3])) < height
    gap = word.box[0] - last.box[2]
    ended = last.text[-1] in _ENDS
    return same_line and -0.2 * height < gap < 1.2 * height and len(phrase) < 4 and not ended


def _region(phrase: list[Word]) -> Region:
    boxes = [word.box for word in phrase]
    box = (min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes))
    return Region(box, " ".join(word.text for word in phrase))


__all__ = [
    "BOXED",
    "FRAMED",
    "MAX_REGIONS",
    "CorruptionArrays",
    "Noise",
    "Plan",
    "Target",
    "box_text",
    "corrupt",
    "corrupt_page",
    "draw_frames",
    "draw_plan",
    "pdf_regions",
]
