"""The faces that are drawn: which files, which family, trained on or held out, and where they come from.

All are free fonts that Debian packages; `packages()` names the packages. A family is held out as a whole, so that a
held-out score says something about new faces. Kinds: `sans`, `serif`, `mono`, `hand`, `oldstyle` (a serif whose
figures have ascenders and descenders) and `han`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Family:
    """One type family. `files` are base names; `index` is the face inside a collection (.ttc)."""

    name: str
    kind: str
    package: str
    files: tuple[str, ...]
    held_out: bool = False
    index: int = 0


@dataclass(frozen=True)
class Face:
    """One installed font file of a family."""

    family: str
    kind: str
    path: str
    index: int
    held_out: bool

    @property
    def name(self) -> str:
        return Path(self.path).stem


def _styles(stem: str, *styles: str, end: str = ".ttf") -> tuple[str, ...]:
    return tuple(f"{stem}{style}{end}" for style in styles)


_RBI = ("-Regular", "-Bold", "-Italic", "-BoldItalic")
FAMILIES = (
    Family("DejaVu Sans", "sans", "fonts-dejavu", _styles("DejaVuSans", "", "-Bold", "-Oblique", "-ExtraLight")),
    Family("DejaVu Sans Condensed", "sans", "fonts-dejavu", _styles("DejaVuSansCondensed", "", "-Bold")),
    Family("DejaVu Serif", "serif", "fonts-dejavu", _styles("DejaVuSerif", "", "-Bold", "-Italic")),
    Family("DejaVu Sans Mono", "mono", "fonts-dejavu", _styles("DejaVuSansMono", "", "-Bold", "-Oblique")),
    Family("Liberation Sans", "sans", "fonts-liberation", _styles("LiberationSans", *_RBI)),
    Family("Liberation Sans Narrow", "sans", "fonts-liberation", _styles("LiberationSansNarrow", *_RBI[:2])),
    Family("Liberation Mono", "mono", "fonts-liberation", _styles("LiberationMono", *_RBI[:3])),
    Family("Liberation Serif", "serif", "fonts-liberation", _styles("LiberationSerif", *_RBI), held_out=True),
    Family("FreeSans", "sans", "fonts-freefont-ttf", _styles("FreeSans", "", "Oblique")),
    Family("FreeSerif", "serif", "fonts-freefont-ttf", _styles("FreeSerif", "", "Bold", "Italic", "BoldItalic")),
    Family("FreeMono", "mono", "fonts-freefont-ttf", _styles("FreeMono", "", "Bold", "Oblique")),
    Family("Lato", "sans", "fonts-lato", _styles("Lato", *_RBI, "-Light", "-Black")),
    Family("Open Sans", "sans", "fonts-open-sans", _styles("OpenSans", *_RBI, "-Light", "-CondBold", "-CondLight")),
    Family("Comic Neue", "hand", "fonts-comic-neue", _styles("ComicNeue", *_RBI, end=".otf")),
    Family("Quicksand", "sans", "fonts-quicksand", _styles("Quicksand", "-Regular", "-Bold", "-Light")),
    Family("Inconsolata", "mono", "fonts-inconsolata", ("Inconsolata.otf",)),
    Family("JetBrains Mono", "mono", "fonts-jetbrains-mono", _styles("JetBrainsMono", *_RBI)),
    Family("Hack", "mono", "fonts-hack-ttf", _styles("Hack", *_RBI[:3])),
    Family("Fira Code", "mono", "fonts-firacode", _styles("FiraCode", "-Regular", "-Bold", "-Light")),
    Family("Noto Mono", "mono", "fonts-noto-mono", ("NotoMono-Regular.ttf",)),
    Family("OCR-B", "mono", "fonts-ocr-b", ("OCRB.otf",)),
    Family("League Mono", "mono", "fonts-league-mono", _styles("LeagueMono", "-Regular", "-Bold", end=".otf")),
    Family("Roboto", "sans", "fonts-roboto-unhinted", _styles("Roboto", *_RBI, "-Light", "-Black")),
    Family("Roboto Condensed", "sans", "fonts-roboto-unhinted", _styles("RobotoCondensed", *_RBI[:2])),
    Family(
        "Roboto Slab", "serif", "fonts-roboto-slab", _styles("RobotoSlab", "-Regular", "-Bold", "-Light", end=".otf")
    ),
    Family("Cantarell", "sans", "fonts-cantarell", _styles("Cantarell", "-Regular", "-Bold", "-Light", end=".otf")),
    Family("Carlito", "sans", "fonts-crosextra-carlito", _styles("Carlito", *_RBI)),
    Family("Caladea", "serif", "fonts-crosextra-caladea", _styles("Caladea", *_RBI)),
    Family("Noto Sans", "sans", "fonts-noto-core", _styles("NotoSans", *_RBI)),
    Family("Noto Serif", "serif", "fonts-noto-core", _styles("NotoSerif", *_RBI)),
    Family("Comfortaa", "sans", "fonts-comfortaa", _styles("Comfortaa", "-Regular", "-Bold")),
    Family("Play", "sans", "fonts-play", _styles("Play", "-Regular", "-Bold")),
    Family("Nimbus Sans", "sans", "fonts-urw-base35", _styles("NimbusSans", *_RBI, end=".otf")),
    Family("Nimbus Roman", "serif", "fonts-urw-base35", _styles("NimbusRoman", *_RBI, end=".otf")),
    Family("Nimbus Mono", "mono", "fonts-urw-base35", _styles("NimbusMonoPS", *_RBI[:3], end=".otf")),
    Family("C059", "serif", "fonts-urw-base35", _styles("C059", "-Roman", "-Bold", "-Italic", end=".otf")),
    Family("P052", "serif", "fonts-urw-base35", _styles("P052", "-Roman", "-Bold", "-Italic", end=".otf")),
    Family("URW Bookman", "serif", "fonts-urw-base35", _styles("URWBookman", "-Light", "-Demi", end=".otf")),
    Family("URW Gothic", "sans", "fonts-urw-base35", _styles("URWGothic", "-Book", "-Demi", end=".otf")),
    Family("Linux Libertine", "serif", "fonts-linuxlibertine", _styles("LinLibertine", "_R", "_RB", "_RI", end=".otf")),
    Family("Charis SIL", "serif", "fonts-sil-charis", _styles("CharisSIL", *_RBI)),
    Family("Old Standard", "serif", "fonts-oldstandard", _styles("OldStandard", "-Regular", "-Bold", "-Italic")),
    Family("Gentium", "serif", "fonts-sil-gentium", _styles("Gentium", "-R", "-I"), held_out=True),
    Family("Karla", "sans", "fonts-karla", _styles("Karla", *_RBI, end=".otf"), held_out=True),
    Family(
        "Courier Prime",
        "mono",
        "fonts-courier-prime",
        (
            "Courier Prime.otf",
            "Courier Prime Bold.otf",
            "Courier Prime Italic.otf",
            "Courier Prime Bold Italic.otf",
        ),
        held_out=True,
    ),
    Family("Vollkorn", "oldstyle", "fonts-vollkorn", _styles("Vollkorn", *_RBI)),
    Family("Goudy Bookletter", "oldstyle", "fonts-goudybookletter", ("GoudyBookletter1911.otf",)),
    Family("Fanwood", "oldstyle", "fonts-fanwood", _styles("FanwoodText", "", "-Italic", end=".otf")),
    Family("Linden Hill", "oldstyle", "fonts-lindenhill", _styles("LindenHill", "", "-Italic", end=".otf")),
    Family("Prociono", "oldstyle", "fonts-prociono", ("Prociono.otf",)),
    Family("Cardo", "oldstyle", "fonts-cardo", ("Cardo104s.ttf", "Cardoi99.ttf")),
    Family("Junicode", "oldstyle", "fonts-junicode", _styles("JunicodeTwoBeta", *_RBI[:3], end=".otf")),
    Family(
        "EB Garamond",
        "oldstyle",
        "fonts-ebgaramond",
        (
            "EBGaramond12-Regular.otf",
            "EBGaramond12-Bold.otf",
            "EBGaramond12-Italic.otf",
            "EBGaramond08-Regular.otf",
        ),
        held_out=True,
    ),
    Family("Droid Sans Fallback", "han", "fonts-droid-fallback", ("DroidSansFallbackFull.ttf",)),
    Family("WenQuanYi Zen Hei", "han", "fonts-wqy-zenhei", ("wqy-zenhei.ttc",)),
    Family("WenQuanYi Micro Hei", "han", "fonts-wqy-microhei", ("wqy-microhei.ttc",)),
    Family("Noto Serif CJK", "han", "fonts-noto-cjk", ("NotoSerifCJK-Regular.ttc",), index=2),
    Family("LXGW WenKai", "han", "fonts-lxgw-wenkai", ("LXGWWenKai-Regular.ttf",)),
    Family("AR PL UMing", "han", "fonts-arphic-uming", ("uming.ttc",), held_out=True),
    Family("AR PL UKai", "han", "fonts-arphic-ukai", ("ukai.ttc",), held_out=True),
    Family("Noto Sans CJK", "han", "fonts-noto-cjk", ("NotoSansCJK-Bold.ttc",), held_out=True, index=2),
)


def packages() -> list[str]:
    """Debian packages that hold all families."""
    return sorted({family.package for family in FAMILIES})


@cache
def _installed_files() -> dict[str, str]:
    roots = [Path(root) for root in os.environ.get("CPMV_FONT_PATH", "").split(os.pathsep) if root]
    roots += [Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), Path.home() / ".fonts"]
    roots += [Path.home() / ".local/share/fonts", Path("/Library/Fonts")]
    found: dict[str, str] = {}
    for root in roots:
        for path in sorted(root.rglob("*")) if root.is_dir() else []:
            if path.suffix.lower() in (".ttf", ".otf", ".ttc"):
                found.setdefault(path.name, str(path))
    return found


def installed_faces() -> list[Face]:
    """Faces of FAMILIES found in the usual font folders and in those that CPMV_FONT_PATH lists, in table order."""
    found = _installed_files()
    return [
        Face(family.name, family.kind, found[name], family.index, family.held_out)
        for family in FAMILIES
        for name in family.files
        if name in found
    ]


def missing_files() -> list[str]:
    """Font files of FAMILIES that are not installed."""
    found = _installed_files()
    return [name for family in FAMILIES for name in family.files if name not in found]
