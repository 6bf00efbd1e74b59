"""Pictures of what the model will see of samples: slice grids, frames in their packages, and which words are learnt.

Everything is made from the finished `ModelInputs`, so what is shown is what is trained on. An HTML page with the
pictures inside it, or one PNG sheet.
"""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ..errors import CpmvError
from ..inputs.text import Tokenizer
from ..model.config import ModelInputs
from .records import Record

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

GAP = 4  # px between tiles
_SHEET_WIDTH = 1400
_CAPTION = 16


@dataclass
class Panel:
    """Tiles that belong together: an overview, the rows of its slices, or a package of frames."""

    title: str
    rows: list[list[Picture]] = field(default_factory=list)


@dataclass
class Shown:
    """One sample to be drawn. words: (text, whether it is learnt) in order."""

    title: str
    panels: list[Panel]
    words: list[tuple[str, bool]]


class Gallery:
    """Collects the first samples up to a limit, then writes them."""

    def __init__(self, tokenizer: Tokenizer, limit: int = 24) -> None:
        self.tokenizer, self.limit = tokenizer, limit
        self.shown: list[Shown] = []

    def add(self, record: Record, inputs: ModelInputs, file: str = "") -> None:
        if len(self.shown) < self.limit:
            title = f"{file}:{record.line}" if file else f"line {record.line}"
            self.shown.append(Shown(title, panels_of(inputs, self.tokenizer), words_of(inputs, self.tokenizer)))

    def write(self, path: Path) -> None:
        """Write .html or .png. Raises CpmvError for another ending."""
        if path.suffix.lower() in (".html", ".htm"):
            path.write_text(_page(self.shown), encoding="utf-8")
        elif path.suffix.lower() == ".png":
            _sheet(self.shown).save(path)
        else:
            raise CpmvError(f"pictures cannot be written to {path}; give a name that ends with .html or .png")


def panels_of(inputs: ModelInputs, tokenizer: Tokenizer) -> list[Panel]:
    """Cut patches back into tiles and put those of one picture, or one package, together."""
    bounds = inputs.image_bounds.tolist()
    sizes = [(int(h), int(w)) for h, w in inputs.tgt_sizes.tolist()]
    panels: list[Panel] = []
    tile = patch = pictures = packages = 0
    for group, ids in enumerate(inputs.temporal_ids):
        before = bounds[group - 1][1] if group else 0
        between = tokenizer.decode(inputs.input_ids[before : bounds[group][0]].tolist())
        frames = []
        for _ in ids:
            h, w = sizes[tile]
            frames.append(picture_of(inputs.patches[patch : patch + h * w], h, w))
            tile, patch = tile + 1, patch + h * w
        if max(ids) >= 0:
            packages += 1
            times = ", ".join(f"{i / 10:g}" for i in ids)
            panels.append(Panel(f"package {packages}: {len(ids)} frames at {times} s", [frames]))
        elif between.endswith("<slice>") and panels:
            rows = panels[-1].rows
            if len(rows) == 1 or "\n" in between:
                rows.append([])
            rows[-1] += frames
            panels[-1].title = f"picture {pictures}: overview and {sum(map(len, rows)) - 1} slices"
        else:
            pictures += 1
            panels.append(Panel(f"picture {pictures}: one view", [frames]))
    return panels


def picture_of(patches: Tensor, rows: int, columns: int) -> Picture:
    """Put patches uint8 [rows * columns, 3, p, p] together again."""
    from PIL import Image

    p = patches.shape[-1]
    grid = patches.view(rows, columns, 3, p, p).permute(0, 3, 1, 4, 2)
    return Image.fromarray(grid.reshape(rows * p, columns * p, 3).contiguous().numpy())


def words_of(inputs: ModelInputs, tokenizer: Tokenizer) -> list[tuple[str, bool]]:
    """The prompt's words in runs, learnt or not; a picture's tokens are told as their number."""
    assert inputs.labels is not None
    ids, labels = inputs.input_ids.tolist(), inputs.labels.tolist()
    covered = {i: end - start for start, end in inputs.image_bounds.tolist() for i in range(start, end)}
    starts = {start: end for start, end in inputs.image_bounds.tolist()}
    out: list[tuple[str, bool]] = []
    run: list[int] = []
    learnt = False

    def close() -> None:
        if run:
            out.append((tokenizer.decode(run), learnt))
            run.clear()

    for i, token in enumerate(ids):
        if i in covered:
            close()
            if i in starts:
                out.append((f"[{covered[i]} visual tokens]", False))
            continue
        if (labels[i] >= 0) != learnt:
            close()
            learnt = labels[i] >= 0
        run.append(token)
    close()
    return out


def _page(shown: list[Shown]) -> str:
    sections = []
    for sample in shown:
        panels = "".join(_panel_html(panel) for panel in sample.panels)
        words = "".join(
            f"<mark>{html.escape(text)}</mark>" if learnt else html.escape(text) for text, learnt in sample.words
        )
        sections.append(f"<section><h2>{html.escape(sample.title)}</h2>{panels}<pre>{words}</pre></section>")
    style = (
        "body{font:14px/1.5 system-ui,sans-serif;margin:2em;max-width:1100px}img{margin:2px;border:1px solid #ccc}"
        "pre{white-space:pre-wrap;background:#f6f6f6;padding:1em}mark{background:#bdf0c4}h2{font-size:1em}"
        "figure{display:inline-block;margin:0 1em 1em 0;vertical-align:top}"
    )
    note = "What the model will see; learnt words are marked."
    return f"<!doctype html><meta charset=utf-8><title>samples</title><style>{style}</style><p>{note}</p>" + "\n".join(
        sections
    )


def _panel_html(panel: Panel) -> str:
    rows = "<br>".join("".join(_image_html(tile) for tile in row) for row in panel.rows)
    return f"<figure><figcaption>{html.escape(panel.title)}</figcaption>{rows}</figure>"


def _image_html(picture: Picture) -> str:
    data = io.BytesIO()
    picture.save(data, "PNG")
    width, height = picture.size
    return f'<img width={width // 2} height={height // 2} src="data:image/png;base64,{_encoded(data)}">'


def _encoded(data: io.BytesIO) -> str:
    return base64.b64encode(data.getvalue()).decode()


def _sheet(shown: list[Shown]) -> Picture:
    """All panels at half size, one under another, each with a line of words."""
    from PIL import Image, ImageDraw

    blocks = []
    for sample in shown:
        for panel in sample.panels or [Panel("no picture")]:
            words = " ".join(text for text, learnt in sample.words if learnt)
            blocks.append(_block(f"{sample.title}  {panel.title}  learnt: {' '.join(words.split())[:120]}", panel))
    height = sum(block.height + GAP for block in blocks) + GAP
    sheet = Image.new("RGB", (_SHEET_WIDTH, max(height, 1)), "white")
    top = GAP
    for block in blocks:
        sheet.paste(block, (GAP, top))
        top += block.height + GAP
    if not blocks:
        ImageDraw.Draw(sheet).text((GAP, 0), "no samples", "black")
    return sheet


def _block(caption: str, panel: Panel) -> Picture:
    from PIL import Image, ImageDraw

    rows = [[tile.reduce(2) for tile in row] for row in panel.rows]
    heights = [max(tile.height for tile in row) + GAP for row in rows]
    block = Image.new("RGB", (_SHEET_WIDTH - 2 * GAP, _CAPTION + sum(heights)), "white")
    ascii_caption = caption.encode("ascii", "replace").decode()  # Pillow's own font has no others
    ImageDraw.Draw(block).text((0, 0), ascii_caption, "black")
    top = _CAPTION
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for tile in row:
            block.paste(tile, (left, top))
            left += tile.width + GAP
        top += height
    return block
