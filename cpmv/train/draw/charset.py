"""The characters that the drawings may contain, in one fixed order, and the dense classes made from them.

Every character is exactly one token of the bundled tokenizer (`tokenizer.py`), so a drawn line and its answer have the
same length. Index 0 is the space. `han.txt` lists the Han characters by frequency; the first `NUM_DRAWN_HAN` of them
are drawn, the others only have a token.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

NUM_DRAWN_HAN = 1000
ASCII = "".join(chr(code) for code in range(32, 127))
GERMAN = "äöüÄÖÜß"
SPANISH = "áéíóúñÁÉÍÓÚÑ¿¡"
SIGNS = "€£¥°–•"
CJK_SIGNS = "，。、！？：；（）《》￥"
LATIN = ASCII + GERMAN + SPANISH + SIGNS

# What replaces a character that a face does not have; the rest of ASCII is in every face.
_FALLBACK = dict(zip(GERMAN + SPANISH, "aouAOUsaeiounAEIOUN?!", strict=True))
_FALLBACK |= dict(zip(SIGNS, "ELY*-*", strict=True)) | dict(zip(CJK_SIGNS, ",.,!?:;()<>Y", strict=True))


def read_words(name: str) -> list[str]:
    """Words of a text file of this folder, in file order; lines that begin with # are comments."""
    text = (Path(__file__).parent / name).read_text(encoding="utf-8")
    return [word for line in text.splitlines() if not line.startswith("#") for word in line.split()]


@cache
def han_by_frequency() -> str:
    """All listed Han characters, the most frequent first."""
    return "".join(read_words("han.txt"))


@cache
def drawn_characters() -> str:
    """Every character that may be drawn; its index here is the character id used by the atlas and the word bank."""
    return LATIN + CJK_SIGNS + han_by_frequency()[:NUM_DRAWN_HAN]


@cache
def character_ids() -> dict[str, int]:
    return {character: index for index, character in enumerate(drawn_characters())}


def fallback_of(character: str) -> str:
    """The character to write when a face lacks this one: its base letter, a look-alike, or '?' for Han."""
    return _FALLBACK.get(character, "?" if character not in ASCII else character)
