"""What has been said and shown in a terminal conversation: turns, files waiting for the next question, saving.

No model and no terminal in here. Turns are kept as `inputs.messages` takes them; answers without their thinking.
"""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import MediaError, MessageError
from ..inputs.media import MediaKind, media_kind
from ..inputs.messages import Image, Message, Pdf, Text, Video

Media = Image | Video | Pdf
_ARTICLE = {"image": "an image", "video": "a video", "pdf": "a PDF"}


@dataclass
class Conversation:
    """fps, packing: of videos; pages: of PDFs. `waiting` are files shown with the next question."""

    fps: float | None = None
    packing: int | None = None
    pages: str | None = None
    turns: list[Message] = field(default_factory=list)
    waiting: list[Media] = field(default_factory=list)

    def attach(self, path: str, expected: MediaKind | Literal["any"] = "any") -> Media:
        """Add a file to the next question, by its content. Raises MediaError, also if it is not what was expected."""
        file = _find(path)
        kind = media_kind(file)
        if expected not in ("any", kind):
            raise MediaError(f"{file!r} is {_ARTICLE[kind]}, not {_ARTICLE[expected]}; use /{kind} or /file")
        part: Media
        if kind == "video":
            part = Video(file, fps=self.fps, packing=self.packing)
        elif kind == "pdf":
            part = Pdf(file, pages=self.pages)
        else:
            part = Image(file)
        self.waiting.append(part)
        return part

    def check_used(self) -> None:
        """Raise MessageError if an option was given that no waiting file can use."""
        for flag, value, needed in (
            ("--fps", self.fps, Video),
            ("--packing", self.packing, Video),
            ("--pages", self.pages, Pdf),
        ):
            if value is not None and not any(isinstance(part, needed) for part in self.waiting):
                raise MessageError(f"{flag} {value} was given, but no {needed.__name__.lower()} is among the files")

    def asked(self, question: str) -> list[Message]:
        """Return the conversation with a new question and the waiting files; nothing is kept until `answered`."""
        return [*self.turns, Message("user", [*self.waiting, Text(question)])]

    def answered(self, asked: list[Message], answer: str) -> None:
        """Keep a question and its answer."""
        self.turns = [*asked, Message("assistant", [Text(answer)])]
        self.waiting = []

    def clear(self) -> None:
        """Forget everything said and shown."""
        self.turns, self.waiting = [], []

    def save(self, path: str) -> Path:
        """Write the turns as JSON messages, which `Model.chat` reads again. Never overwrites."""
        file = Path(path).expanduser()
        messages = [{"role": turn.role, "content": [_plain(part) for part in turn.content]} for turn in self.turns]
        try:
            with file.open("x", encoding="utf-8") as out:
                json.dump(messages, out, ensure_ascii=False, indent=2)
                out.write("\n")
        except FileExistsError as error:
            raise MessageError(f"{str(file)!r} exists already; choose another name") from error
        except OSError as error:
            raise MessageError(f"{str(file)!r} cannot be written ({error.strerror}); choose another place") from error
        return file


def _find(path: str) -> str:
    """Read a path as typed, or as terminals paste it: quoted, or with backslashes before spaces."""
    if not os.path.exists(os.path.expanduser(path)):
        try:
            words = shlex.split(path)
        except ValueError:  # an apostrophe, say
            words = []
        if len(words) == 1:
            path = words[0]
    return os.path.expanduser(path)


def _plain(part: Any) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    kind = type(part).__name__.lower()
    options = {"video": ("fps", "packing"), "pdf": ("pages",)}.get(kind, ())
    chosen = {name: getattr(part, name) for name in options if getattr(part, name) is not None}
    return {"type": kind, kind: str(Path(part.source).absolute()), **chosen}
