"""What stands where on a page: headings, paragraphs and tables, in reading order, as boxes of their lines.

From the ink of a page (`ink`) alone, before any model looks: rows of writing are found by their gaps; consecutive rows
that leave the same upright gap free are columns of text or a table; the rest is running text. `tiles` cuts the lines
for the model; `page` puts what it read together again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .boxes import Block, Box, Layout, Line, joined, runs
from .ink import Ink, Mask, any_along, find_ink

if TYPE_CHECKING:
    from PIL import Image

GAP_LINES = 1.15  # an upright gap between columns, in line heights
COLUMN_LINES = 11.0  # a column of running text is at least so wide
COLUMN_FILL = 0.62  # and its lines fill at least this share of it, in the median
BREAK_LINES = 0.85  # a gap between rows above this times the usual one begins a paragraph
MOST_LINES_TALL = 4.0  # writing taller than this is a drawing
MAX_DEPTH = 6
LEAST_DOTS = 5  # in a row: a leader in a table of contents; fewer are an ellipsis
BOLD = 1.35  # strokes so much wider than usual belong to larger or bolder letters
BULLET_FILL = 0.68  # of its box that a bullet's ink covers; a disc covers 0.79, the letter "a" half


def find_layout(picture: Image.Image) -> Layout:
    """Analyse a page, RGB or grey. Pages are expected upright (`straighten`)."""
    ink = find_ink(picture)
    height = _line_height(ink.writing)
    if height == 0:
        return Layout(picture.size, 0.0, [], ink.writing)
    page = Box(0, 0, picture.width, picture.height)
    finder = _Finder(ink, height)
    finder.drop_leaders(page)
    blocks = finder.blocks(page, 0)
    return Layout(picture.size, height, blocks, ink.writing)


def _line_height(writing: Mask) -> float:
    """The median height of rows of writing, looked for in narrow strips so that columns do not hide one another."""
    heights: list[int] = []
    strips = max(1, writing.shape[1] // 80)
    for strip in np.array_split(writing, strips, axis=1):
        heights += [b - a for a, b in joined(runs(any_along(strip, 1)), 2) if b - a >= 5]
    if not heights:
        return 0.0
    usual = [height for height in heights if height <= 3 * float(np.median(heights))]
    return float(np.median(usual))


class _Finder:
    """Finds the blocks of one page."""

    def __init__(self, ink: Ink, line_height: float) -> None:
        self.ink, self.writing = ink, ink.writing
        self.h = line_height

    def drop_leaders(self, region: Box) -> None:
        """Take rows of dots between words and page numbers out of the writing: they say nothing, and models stumble."""
        for row in self._rows(region):
            part = self.writing[row.top : row.bottom, row.left : row.right]
            marks = runs(any_along(part, 0))
            is_dot = [b - a <= 0.3 * self.h and _extent(part[:, a:b]) <= 0.3 * self.h for a, b in marks]
            for first, last in runs(np.array(is_dot, bool)):
                if last - first >= LEAST_DOTS and marks[last - 1][1] - marks[first][0] < 2.2 * self.h * (last - first):
                    part[:, marks[first][0] : marks[last - 1][1]] = False

    def blocks(self, region: Box, depth: int) -> list[Block]:
        """Blocks of a region, in reading order."""
        out: list[Block] = []
        rows = self._rows(region)
        at = 0
        text: list[Box] = []
        while at < len(rows):
            grid = self._ruled_table(region, rows[at])
            if grid is not None:
                out += self._text(text, region)
                text = []
                out.append(grid)
                at = next((i for i in range(at, len(rows)) if rows[i].top >= grid.box.bottom - 2), len(rows))
                continue
            end, gaps = self._group(rows, at, region) if depth < MAX_DEPTH else (at, [])
            is_table = bool(gaps) and self._is_table(rows[at:end], gaps)
            if is_table:  # rows on one side of every gap, before or after it, are text beside nothing
                across = [i for i in range(at, end) if _spans(rows[i], gaps)]
                if len(across) < 2 or across[0] > at:
                    stop = across[0] if len(across) >= 2 else at + 1
                    text += rows[at:stop]
                    at = stop
                    continue
                end = across[-1] + 1
            if not gaps:
                text.append(rows[at])
                at += 1
                continue
            out += self._text(text, region)
            text = []
            if is_table:
                out.append(self._table(rows[at:end], gaps))
            else:
                top, bottom = rows[at].top, rows[end - 1].bottom
                cuts = [region.left, *((a + b) // 2 for a, b in gaps), region.right]
                for left, right in zip(cuts, cuts[1:], strict=False):
                    out += self.blocks(Box(left, top, right, bottom), depth + 1)
            at = end
        return out + self._text(text, region)

    # ---- rows ----

    def _rows(self, region: Box) -> list[Box]:
        """Rows of writing from top to bottom, each cut to its ink; touching lines are parted."""
        part = self.writing[region.top : region.bottom, region.left : region.right]
        profile = part.sum(axis=1)
        found = _attach_marks(joined(runs(profile > 0), max(1, round(0.06 * self.h))), self.h)
        rows: list[Box] = []
        for a, b in found:
            for top, bottom in self._part(profile, a, b):
                box = self._trim(Box(region.left, region.top + top, region.right, region.top + bottom))
                if box is not None and box.height >= 3:
                    rows.append(box)
        return rows

    def _part(self, profile: np.ndarray[Any, Any], a: int, b: int) -> list[tuple[int, int]]:
        """Part lines that touch: at the emptiest row near where a line should end."""
        count = round((b - a) / (1.25 * self.h))
        if b - a <= 1.7 * self.h or count < 2 or count > 60:
            return [(a, b)]
        cuts = [a]
        for i in range(1, count):
            middle = a + (b - a) * i // count
            reach = max(1, round(0.45 * self.h))
            low, high = max(cuts[-1] + 2, middle - reach), min(b - 2, middle + reach)
            if low < high:
                cuts.append(low + int(np.argmin(profile[low:high])))
        parts = list(zip(cuts, [*cuts[1:], b], strict=True))
        heights = [bottom - top for top, bottom in parts]
        lows = [profile[cut] for cut in cuts[1:]]
        if not lows or max(lows) > 0.12 * float(np.median(profile[a:b])) or min(heights) < 0.5 * max(heights):
            return [(a, b)]  # large letters, or a drawing
        return parts

    def _trim(self, box: Box) -> Box | None:
        part = self.writing[box.top : box.bottom, box.left : box.right]
        ys, xs = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
        if not len(ys):
            return None
        left, top = box.left + int(xs[0]), box.top + int(ys[0])
        return Box(left, top, box.left + int(xs[-1]) + 1, box.top + int(ys[-1]) + 1)

    # ---- columns and tables ----

    def _columns_of(self, row: Box, region: Box) -> Mask:
        return any_along(self.writing[row.top : row.bottom, region.left : region.right], 0)

    def _group(self, rows: list[Box], start: int, region: Box) -> tuple[int, list[tuple[int, int]]]:
        """The longest run of rows from `start` that leave an upright gap free: (its end, gaps in page pixels)."""
        taken = np.zeros(region.width, bool)
        best: tuple[int, list[tuple[int, int]]] = (start, [])
        for end in range(start, len(rows)):
            if best[1] and rows[end].top - rows[end - 1].bottom > 4 * self.h:
                break
            taken |= self._columns_of(rows[end], region)
            inner = [(region.left + a, region.left + b) for a, b in _inner_gaps(taken, GAP_LINES * self.h)]
            gaps = [gap for gap in inner if self._is_gap(gap, rows[start : end + 1])]
            if len(gaps) == 1 and gaps[0][0] - region.left - int(np.flatnonzero(taken)[0]) < 1.7 * self.h:
                gaps = []  # bullets, or numbers of a list
            if gaps and (end > start or rows[end].height > 2.5 * self.h):
                best = (end + 1, gaps)
            used = np.flatnonzero(taken)
            is_full = region.width - used[-1] < 3 * self.h and used[0] < 3 * self.h
            if not gaps and (best[1] or is_full or end > start + 2):
                break
        return best

    def _is_gap(self, gap: tuple[int, int], rows: list[Box]) -> bool:
        """Whether a gap is wider than the spaces between words of the rows that it parts."""
        tall = 2.5 * self.h  # lines of both sides that run into one another
        heights = [row.height if row.height <= tall else self.h for row in rows if _spans(row, [gap])]
        return gap[1] - gap[0] >= 0.8 * min(heights, default=0)

    def _is_table(self, rows: list[Box], gaps: list[tuple[int, int]]) -> bool:
        """Whether rows with gaps are a table rather than columns of running text, whose lines fill their width."""
        left, right = min(row.left for row in rows), max(row.right for row in rows)
        cuts = [left, *((a + b) // 2 for a, b in gaps), right]
        for a, b in zip(cuts, cuts[1:], strict=False):
            widths = [row.width for row in self._rows(Box(a, rows[0].top, b, rows[-1].bottom))]
            if len(widths) < 3 or max(widths) < COLUMN_LINES * self.h:
                return True
            if float(np.median(widths)) < COLUMN_FILL * max(widths):
                return True
        return False

    def _table(self, rows: list[Box], gaps: list[tuple[int, int]]) -> Block:
        left, right = min(row.left for row in rows), max(row.right for row in rows)
        cuts = [left, *((a + b) // 2 for a, b in gaps), right]
        table = Block("table", Box(left, rows[0].top, right, rows[-1].bottom))
        for row in rows:
            cells: list[list[Line]] = []
            for a, b in zip(cuts, cuts[1:], strict=False):
                box = self._trim(Box(a, row.top, b, row.bottom))
                cells.append([] if box is None else [Line(box)])
            table.rows.append(cells)
        _join_continued(table.rows)
        return table

    def _ruled_table(self, region: Box, row: Box) -> Block | None:
        """A table drawn with lines, around a row: the frame that holds it, and cells between its lines."""
        frame = self._frame(region, row)
        if frame is None:
            return None
        ys = self._lines_at(self.ink.across[frame.top : frame.bottom, frame.left : frame.right], 1, frame.top)
        xs = self._lines_at(self.ink.down[frame.top : frame.bottom, frame.left : frame.right], 0, frame.left)
        if len(ys) < 2 or len(xs) < 3:
            return None
        table = Block("table", frame)
        for top, bottom in zip(ys, ys[1:], strict=False):
            cells = [self._cell(Box(a, top, b, bottom)) for a, b in zip(xs, xs[1:], strict=False)]
            if any(cells):
                table.rows.append(cells)
        return table if table.rows else None

    def _frame(self, region: Box, row: Box) -> Box | None:
        """The extent of the upright ruled lines beside a row, if there are at least three."""
        down = self.ink.down[:, region.left : region.right]
        middle = (row.top + row.bottom) // 2
        beside = runs(any_along(down[max(0, middle - 2) : middle + 3], 0))
        if len(beside) < 3:
            return None
        tops, bottoms = [], []
        for a, b in beside:
            spans = [s for s in joined(runs(any_along(down[:, a:b], 1)), 4) if s[0] <= middle < s[1]]
            if spans:
                tops.append(spans[0][0])
                bottoms.append(spans[0][1])
        if len(tops) < 3:
            return None
        return Box(region.left + beside[0][0], min(tops), region.left + beside[-1][1], max(bottoms))

    @staticmethod
    def _lines_at(mask: Mask, axis: int, offset: int) -> list[int]:
        """Middles of ruled lines that run over at least half of a frame."""
        share = mask.sum(axis=axis) / mask.shape[axis]
        return [offset + (a + b) // 2 for a, b in joined(runs(share > 0.5), 4)]

    def _cell(self, box: Box) -> list[Line]:
        inner = Box(box.left + 3, box.top + 2, box.right - 2, box.bottom - 1)
        return [Line(row) for row in self._rows(inner)] if inner.width > 2 and inner.height > 2 else []

    # ---- running text ----

    def _text(self, rows: list[Box], region: Box) -> list[Block]:
        """Paragraphs and headings of rows one under another."""
        blocks: list[Block] = []
        pitch = _usual_gap(rows)
        for i, row in enumerate(rows):
            if row.height > MOST_LINES_TALL * self.h and row.height > 0.12 * self.writing.shape[0]:
                blocks.append(Block("picture", row))
                continue
            line = self._line(row)
            before = blocks[-1] if blocks and blocks[-1].kind == "text" else None
            if before is None or self._begins(rows[i - 1], row, line, before, pitch, region):
                blocks.append(Block("text", row, [line]))
            else:
                before.lines.append(line)
                box = before.box
                before.box = Box(min(box.left, row.left), box.top, max(box.right, row.right), row.bottom)
        return blocks

    def _begins(self, above: Box, row: Box, line: Line, block: Block, pitch: float, region: Box) -> bool:
        """Whether a row begins a new block, seen from the one above it."""
        gap = row.top - above.bottom
        if line.bullet or gap > pitch + BREAK_LINES * self.h * 0.75:
            return True
        last = block.lines[-1]
        small, large = sorted((line, last), key=lambda one: one.core)
        if _is_larger(large, small):
            return True
        hanging = block.lines[0].bullet
        if not hanging and row.left - block.box.left > 0.9 * self.h and row.left - above.left > 0.9 * self.h:
            return True  # an indented first line
        return hanging and above.left - row.left > 0.6 * self.h  # back from under a list item

    def _line(self, row: Box) -> Line:
        """Cut a bullet off: a small mark alone at the left with a gap after it."""
        part = self.writing[row.top : row.bottom, row.left : row.right]
        core, weight = _letters(part)
        plain = Line(row, core=core, weight=weight)
        marks = runs(any_along(part, 0))
        if len(marks) < 2 or marks[0][1] > 0.8 * self.h or marks[1][0] - marks[0][1] < 0.28 * self.h:
            return plain
        mark = self._trim(Box(row.left, row.top, row.left + marks[0][1], row.bottom))
        if mark is None or mark.height > 0.8 * self.h:
            return plain
        if self.writing[mark.top : mark.bottom, mark.left : mark.right].mean() < BULLET_FILL:
            return plain  # a letter
        middle = ((mark.top + mark.bottom) / 2 - row.top) / row.height
        if not 0.25 < middle < 0.75:
            return plain  # a full stop or a quotation mark
        rest = self._trim(Box(row.left + marks[1][0], row.top, row.right, row.bottom))
        return plain if rest is None else Line(rest, bullet=True, core=core, weight=weight)


def _spans(row: Box, gaps: list[tuple[int, int]]) -> bool:
    """Whether a row has writing on both sides of a gap."""
    return any(row.left < a and row.right > b for a, b in gaps)


def _inner_gaps(taken: Mask, least: float) -> list[tuple[int, int]]:
    """Free intervals of at least `least` pixels that have writing on both sides."""
    used = np.flatnonzero(taken)
    if not len(used):
        return []
    first, last = int(used[0]), int(used[-1])
    return [(first + a, first + b) for a, b in runs(~taken[first : last + 1]) if b - a >= least]


def _extent(part: Mask) -> int:
    """Rows from the first to the last with ink."""
    rows = np.flatnonzero(part.any(axis=1))
    return int(rows[-1] - rows[0] + 1) if len(rows) else 0


def _attach_marks(rows: list[tuple[int, int]], h: float) -> list[tuple[int, int]]:
    """Give rows that are only accents, dots or commas to the line they stand at."""
    out: list[tuple[int, int]] = []
    for i, (a, b) in enumerate(rows):
        low = b - a < 0.45 * h
        if low and i + 1 < len(rows) and rows[i + 1][0] - b <= 0.22 * h:
            rows[i + 1] = (a, rows[i + 1][1])
        elif low and out and a - out[-1][1] <= 0.22 * h:
            out[-1] = (out[-1][0], b)
        else:
            out.append((a, b))
    return out


def _join_continued(rows: list[list[list[Line]]]) -> None:
    """Give a row whose first cell is empty to the row above, when it stands close under it: cells of two lines."""
    at = 1
    while at < len(rows):
        above, row = rows[at - 1], rows[at]
        filled = [i for i, cell in enumerate(row) if cell]
        if row[0] or not filled or len(filled) == len(row) or not all(above[i] for i in filled):
            at += 1
            continue
        gap = min(row[i][0].box.top - above[i][-1].box.bottom for i in filled)
        if gap > 0.6 * row[filled[0]][0].box.height:
            at += 1
            continue
        for i in filled:
            above[i] += row[i]
        del rows[at]


def _usual_gap(rows: list[Box]) -> float:
    """The gap between lines of one paragraph: a low quartile, for paragraphs may be short."""
    gaps = [b.top - a.bottom for a, b in zip(rows, rows[1:], strict=False)]
    return float(np.quantile(gaps, 0.25)) if gaps else 0.0


def _is_larger(one: Line, other: Line) -> bool:
    """Whether a line is written in larger letters: small letters and all of it are taller, or they are bold besides."""
    core, height = one.core / max(1.0, other.core), one.box.height / max(1, other.box.height)
    weight = one.weight / max(0.5, other.weight)
    return (core > 1.25 and height > 1.15) or (core > 1.1 and height > 1.32) or (core > 1.1 and weight > BOLD)


def _letters(part: Mask) -> tuple[float, float]:
    """The height of the zone that most strokes of a line cross, small letters without their stems, and their width.

    Strokes are counted, not their ink: bold capitals and dark serifs would weigh too much.
    """
    before = np.zeros_like(part)
    before[:, 1:] = part[:, :-1]
    strokes = (part & ~before).sum(axis=1)
    crossed = np.flatnonzero(strokes >= 0.6 * np.quantile(strokes, 0.9))
    core = slice(int(crossed[0]), int(crossed[-1]) + 1)
    return float(core.stop - core.start), float(part[core].sum() / max(1, strokes[core].sum()))
