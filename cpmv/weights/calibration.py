"""Prompts on which AWQ measures activations: what the user gives, or a small set of drawn pictures and written texts.

They need not be many: averages over some thousand tokens of the kind of work the model will do are enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import MessageError
from ..inputs.media import media_kind
from ..inputs.messages import as_media

Conversation = list[dict[str, Any]]

QUESTIONS = (
    "Describe the picture.",
    "Read the text.",
    "请读出图中的文字。",
    "What is shown, and what could it be for?",
)
TEXTS = (
    "Explain in a few sentences why the sky is blue at noon and red in the evening.",
    "用三句话介绍一下长城的历史。",
    "Write a Python function that returns the n-th Fibonacci number, and say how fast it is.",
    "A train leaves at 9:40 and arrives at 13:05. How long does it travel? Show the steps.",
    "Übersetze ins Englische: Der Zug nach Leipzig fährt heute von Gleis sieben ab.",
    "把下面的句子改写得更正式：这个方案挺好的，咱们就这么办吧。",
    "List the planets of the solar system in order, with one fact about each, as a Markdown table.",
    'Return JSON with the fields name, price and currency for: "Two apples, 1.20 euros".',
)
_PAGES = (
    ("Invoice 2041", "Paper, 500 sheets     12.40", "Ink, black            31.90", "Total                 44.30 EUR"),
    ("Opening hours", "Mon-Fri  09:00-18:30", "Sat      10:00-14:00", "closed on holidays"),
    ("Chapter 3", "The harbour lay quiet. Two boats", "rocked beside the old pier, and", "nobody was in sight."),
)


def conversations(paths: Sequence[Path]) -> list[Conversation]:
    """Return prompts for the user's files: every line of a .txt file, and questions in turn about every medium.

    Raises MessageError when they hold none, MediaError for a file that is neither.
    """
    out: list[Conversation] = []
    for number, path in enumerate(paths):
        if path.suffix == ".txt":
            out += [_asks(line.strip()) for line in _read(path).splitlines() if line.strip()]
        else:
            media_kind(path)
            out.append(_asks(as_media(path), QUESTIONS[number % len(QUESTIONS)]))
    if not out:
        raise MessageError("the calibration files hold no prompt; give pictures, or texts with a prompt a line")
    return out


def drawn_conversations() -> list[Conversation]:
    """Return prompts that need no files: pages of text, shapes, and questions without a picture."""
    pictures = [_page(lines) for lines in _PAGES] + [_shapes()]
    asked = [_asks(as_media(picture), question) for picture in pictures for question in QUESTIONS[:2]]
    return [*asked, *(_asks(text) for text in TEXTS)]


def _asks(*content: Any) -> Conversation:
    return [{"role": "user", "content": list(content)}]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MessageError(f"{path} cannot be read as UTF-8 text ({error})") from None


def _page(lines: Sequence[str]) -> Any:
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (448, 448), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(24)
    for row, line in enumerate(lines):
        draw.text((20, 40 + 60 * row), line, fill="black", font=font)
    return picture


def _shapes() -> Any:
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (672, 448), (235, 240, 245))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((40, 60, 200, 220), fill=(200, 40, 40))
    draw.rectangle((260, 180, 420, 340), fill=(40, 70, 190))
    draw.polygon([(470, 380), (550, 200), (640, 380)], fill=(40, 150, 70))
    return picture
