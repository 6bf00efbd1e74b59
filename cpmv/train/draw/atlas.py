"""The glyph atlas: every character of every face once, as a small coverage picture that the device drawing reads.

Built from installed fonts by `python -m cpmv.train.draw.atlas [OUT]` (about two minutes; it prints the Debian packages
that are missing) and never committed: the fonts have their own licences. A cell is 40 x 40 pixels with the em at 28,
the
pen at (6, 29); glyphs are drawn four times larger without hinting and averaged down, so that they scale well.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .charset import ASCII, CJK_SIGNS, LATIN, drawn_characters
from .faces import Face, installed_faces, missing_files, packages

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

DEFAULT_PATH = Path(".atlas/atlas.npz")
CELL = 40  # pixels
EM = 28  # pixels
PEN_X, PEN_Y = 6, 29  # pen position inside a cell: room for overhang, ascenders and descenders
_OVERSAMPLE = 4
_LEVELS = 15  # coverage is stored in 4 bits


@dataclass
class Atlas:
    """Glyphs of F faces and C characters.

    cells: uint8 [G, 40, 40], coverage 0..255; cell 0 is empty.
    glyph: int32 [F, C], the cell of a character, -1 where the face lacks it. advance: float32 [F, C], in em.
    """

    characters: str
    cells: np.ndarray
    glyph: np.ndarray
    advance: np.ndarray
    names: list[str]
    families: list[str]
    kinds: list[str]
    held_out: np.ndarray

    def save(self, path: str | Path) -> None:
        levels = (self.cells.astype(np.uint16) * _LEVELS + 127) // 255
        flat = levels.reshape(len(levels), -1).astype(np.uint8)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            path,
            characters=np.array(self.characters),
            packed=flat[:, ::2] << 4 | flat[:, 1::2],
            glyph=self.glyph,
            advance=self.advance.astype(np.float16),
            names=np.array(self.names),
            families=np.array(self.families),
            kinds=np.array(self.kinds),
            held_out=self.held_out,
        )

    @staticmethod
    def load(path: str | Path) -> Atlas:
        """Read an atlas file. Raises FileNotFoundError with the command that makes one."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"no glyph atlas at {path}; make one with: python -m cpmv.train.draw.atlas {path}")
        with np.load(path, allow_pickle=False) as file:
            packed = file["packed"]
            flat = np.stack([packed >> 4, packed & 15], -1).reshape(len(packed), CELL, CELL)
            return Atlas(
                characters=str(file["characters"]),
                cells=(flat * (255 // _LEVELS)).astype(np.uint8),
                glyph=file["glyph"],
                advance=file["advance"].astype(np.float32),
                names=[str(name) for name in file["names"]],
                families=[str(name) for name in file["families"]],
                kinds=[str(kind) for kind in file["kinds"]],
                held_out=file["held_out"],
            )


def load_font(face: Face, size: int) -> FreeTypeFont:
    """Open a face at `size` pixels an em, plain layout (no kerning beyond the font's own table)."""
    from PIL import ImageFont

    return ImageFont.truetype(face.path, size, index=face.index, layout_engine=ImageFont.Layout.BASIC)


def draw_face(font: FreeTypeFont, characters: str) -> tuple[list[np.ndarray | None], np.ndarray]:
    """Draw each character once; None where the font has no glyph. font: at 4 x 28 pixels.

    Returns cells (uint8 [40, 40]) and advances in em [C].
    """
    from PIL import Image, ImageDraw

    side, size = CELL * _OVERSAMPLE, EM * _OVERSAMPLE
    missing = {_mask(font, character) for character in ("\U0010fffe", "\uffff")}
    cells: list[np.ndarray | None] = []
    for character in characters:
        if character != " " and _mask(font, character) in missing:
            cells.append(None)
            continue
        canvas = Image.new("L", (side, side))
        pen = (PEN_X * _OVERSAMPLE, PEN_Y * _OVERSAMPLE)
        ImageDraw.Draw(canvas).text(pen, character, fill=255, font=font, anchor="ls")
        cells.append(np.asarray(canvas.reduce(_OVERSAMPLE)))
    return cells, np.array([font.getlength(character) / size for character in characters], np.float32)


def _mask(font: FreeTypeFont, character: str) -> tuple[Any, bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)


def build_atlas(
    faces: Sequence[Face],
    characters: str | None = None,
    *,
    load: Callable[[Face, int], FreeTypeFont] = load_font,
    progress: Callable[[str], None] | None = None,
) -> Atlas:
    """Draw all faces. Han is drawn only by faces of kind 'han'; their missing ASCII comes from the first other face."""
    characters = characters or drawn_characters()
    latin = [index for index, character in enumerate(characters) if character in LATIN]
    cells: list[np.ndarray] = [np.zeros((CELL, CELL), np.uint8)]
    glyph = np.full((len(faces), len(characters)), -1, np.int32)
    advance = np.zeros((len(faces), len(characters)), np.float32)
    for row, face in enumerate(faces):
        wanted = list(range(len(characters))) if face.kind == "han" else latin
        drawn, widths = draw_face(load(face, EM * _OVERSAMPLE), "".join(characters[index] for index in wanted))
        for index, cell, width in zip(wanted, drawn, widths, strict=True):
            if cell is None:
                continue
            advance[row, index] = width
            glyph[row, index] = len(cells) if cell.any() else 0
            if cell.any():
                cells.append(cell)
        if progress:
            progress(f"{row + 1}/{len(faces)} {face.name}: {int((glyph[row] >= 0).sum())} characters")
    _borrow_ascii(characters, faces, glyph, advance)
    return Atlas(
        characters,
        np.stack(cells),
        glyph,
        advance,
        [face.name for face in faces],
        [face.family for face in faces],
        [face.kind for face in faces],
        np.array([face.held_out for face in faces]),
    )


def _borrow_ascii(characters: str, faces: Sequence[Face], glyph: np.ndarray, advance: np.ndarray) -> None:
    """Fill ASCII that a face lacks from the first sans face, as a browser's font stack does."""
    ascii_ids = [index for index, character in enumerate(characters) if character in ASCII]
    lender = next((row for row, face in enumerate(faces) if face.kind == "sans"), None)
    for row in range(len(faces)):
        for index in ascii_ids:
            if glyph[row, index] < 0 and lender is not None:
                glyph[row, index], advance[row, index] = glyph[lender, index], advance[lender, index]


def complete_faces(atlas: Atlas) -> np.ndarray:
    """True for faces that have all of ASCII, and for 'han' faces nearly all Han characters too. [F]"""
    needed = np.array([character in ASCII for character in atlas.characters])
    han = np.array([character not in LATIN + CJK_SIGNS for character in atlas.characters])
    has = atlas.glyph >= 0
    enough_han = has[:, han].mean(1) > 0.98 if han.any() else np.ones(len(has), bool)
    is_han = np.array([kind == "han" for kind in atlas.kinds])
    return has[:, needed].all(1) & (enough_han | ~is_han)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m cpmv.train.draw.atlas", description="Build the glyph atlas.")
    parser.add_argument("out", nargs="?", type=Path, default=DEFAULT_PATH, help=f"default {DEFAULT_PATH}")
    out = parser.parse_args(argv).out
    faces = installed_faces()
    if missing := missing_files():
        print(f"{len(missing)} font files are not installed ({', '.join(missing[:4])}, ...); Debian packages:")
        print("  apt-get install " + " ".join(packages()))
    if not faces:
        return 2
    atlas = build_atlas(faces, progress=lambda line: print(line, file=sys.stderr))
    atlas.save(out)
    print(f"{out}: {len(faces)} faces, {len(atlas.cells)} glyphs, {out.stat().st_size / 2**20:.1f} MiB")
    print("faces without full ASCII: " + (", ".join(np.array(atlas.names)[~complete_faces(atlas)]) or "none"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
