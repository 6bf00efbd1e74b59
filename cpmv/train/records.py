"""One training sample as everything after the readers knows it, and how words with media tags become one.

Readers of the formats people bring (`formats`) make `Record`s; the one processor makes tensors of them. Media are
paths beside the file or under a root, bytes from a parquet file, or data URIs; nothing is downloaded and, until a
record is used, nothing is opened but the first frame of clips that come as pictures.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CpmvError
from ..inputs.messages import Image, Message, Part, Text, Video
from ..inputs.video import Video as Clip

TAG = re.compile(r"<image>|<video>")
_ROLES = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}


class BadSample(CpmvError):
    """A sample that cannot be used. The text is the reason; whoever reads the file adds where."""


class MissingMedia(BadSample):
    """A picture or clip that is not where the sample says."""


@dataclass(frozen=True)
class Problem:
    """A sample that was left out: the file, the line it begins in (the row of a parquet file), and why.

    kind: "sample" (not of its format), "missing" (media not there), "media" (media unreadable) or "long" (too many
    tokens).
    """

    file: Path
    line: int
    reason: str
    kind: str = "sample"

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass(frozen=True)
class Record:
    """One sample, whatever its file's format.

    messages: the conversation; it ends with the assistant, or with the user when an answer is to be found.
    rejected: the same conversation with a worse answer, of preference pairs. solution: what is right, for rewards.
    extra: the row's other fields. line: where it begins in its file, from 1.
    """

    messages: list[Message]
    rejected: list[Message] | None = None
    solution: Any = None
    extra: dict[str, Any] = field(default_factory=dict)
    line: int = 0

    @property
    def media(self) -> list[Image | Video]:
        """Pictures and clips of the conversation, in order."""
        return [part for m in self.messages for part in m.content if isinstance(part, (Image, Video))]

    @property
    def thinks(self) -> bool:
        """Whether the last answer begins with reasoning, so that the prompt asks for it."""
        last = self.messages[-1]
        first = last.content[0] if last.content else None
        return last.role == "assistant" and isinstance(first, Text) and first.text.lstrip().startswith("<think>")


class MediaRoot:
    """Turns what a row says of a picture or clip into a part. Relative paths are those of `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def image(self, value: Any) -> Image:
        if isinstance(value, Mapping) and "image" in value:
            return Image(self.source(value["image"]), _integer(value, "max_slice_nums"))
        return Image(self.source(value))

    def video(self, value: Any, fps: Any = None, packing: Any = None) -> Video:
        """value: a file, a folder of frames, a list of frames, or an object {"video": one of these, "fps", "packing",
        "frame_fps", "timestamps"}; the last two say when frames of a list were taken."""
        timing: dict[str, Any] = {}
        if isinstance(value, Mapping):
            fps, packing = value.get("fps", fps), value.get("packing", packing)
            timing = {"fps": value.get("frame_fps"), "timestamps": value.get("timestamps")}
            value = next((value[k] for k in ("video", "path", "frames") if value.get(k) is not None), None)
        fps, packing = _rate(fps), _packing(packing)
        if isinstance(value, (list, tuple)):
            return Video(self._frames([self.source(frame) for frame in value], timing, fps), fps, packing)
        if any(given is not None for given in timing.values()):
            return Video(self._frames(self.source(value), timing, fps), fps, packing)
        return Video(self.source(value), fps, packing)

    def _frames(self, source: Any, timing: dict[str, Any], fps: float | None) -> Clip:
        if all(given is None for given in timing.values()):
            # Frames that come at the rate they are to be seen at: all of them are shown.
            timing = {"fps": fps}
            if fps is None:
                raise BadSample("a video is a list of frames without times; add frame_fps or timestamps to it")
        return Clip(source, **timing)

    def source(self, value: Any) -> Any:
        """Return a path that exists, bytes, or a data URI. Raises BadSample."""
        if isinstance(value, Mapping):  # as parquet files of the datasets library hold pictures
            value = value["bytes"] if value.get("bytes") is not None else value.get("path")
        if isinstance(value, (bytes, bytearray)):
            return bytes(value)
        if not isinstance(value, str) or not value:
            raise BadSample(f"a picture or video is {_short(value)}; give a path")
        if value.startswith("data:"):
            return value
        if re.match(r"[a-z]+://", value) and not value.startswith("file://"):
            raise BadSample(f"media {_short(value)} is an address; download it first and give its path")
        path = self.folder / value.removeprefix("file://")
        if not path.exists():
            raise MissingMedia(f"media {os.fspath(path)} is missing; check the path, or give --media-root")
        return path


def _integer(value: Mapping[str, Any], name: str) -> int | None:
    found = value.get(name)
    if found is not None and (isinstance(found, bool) or not isinstance(found, int)):
        raise BadSample(f"{name} is {_short(found)}; give an integer")
    return found


def _rate(fps: Any) -> float | None:
    if fps is not None and (isinstance(fps, bool) or not isinstance(fps, (int, float)) or not fps > 0):
        raise BadSample(f"fps is {_short(fps)}; give a number above 0")
    return fps


def _packing(packing: Any) -> int | None:
    if packing is not None and packing not in (1, 2, 3, 4, 5, 6):
        raise BadSample(f"packing is {_short(packing)}; give 1 to 6 frames a group")
    return packing


def role_of(name: Any) -> str:
    role = _ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise BadSample(f"a turn has role {_short(name)}; allowed are {', '.join(_ROLES)}")
    return role


class Placer:
    """Puts media where the words have tags, in order; `end` makes sure that as many came as were named."""

    def __init__(self, images: Sequence[Image], videos: Sequence[Video]) -> None:
        self._left: dict[str, Iterator[Image | Video]] = {"<image>": iter(images), "<video>": iter(videos)}
        self._given = {"<image>": len(images), "<video>": len(videos)}
        self.used = {"<image>": 0, "<video>": 0}

    def parts(self, text: Any) -> list[Part]:
        """Split text at its tags. A line end or spaces between a tag and its neighbours are the tag's own: parts
        stand on lines of their own in the prompt, in training as in use."""
        if not isinstance(text, str):
            raise BadSample(f"a turn's content is {_short(text)}; give a string")
        out: list[Part] = []
        end = 0
        for found in TAG.finditer(text):
            _append_text(out, text[end : found.start()], after=end > 0, before=True)
            self.used[found[0]] += 1
            part = next(self._left[found[0]], None)
            if part is None:
                raise BadSample(self._count_error(found[0], text))
            out.append(part)
            end = found.end()
        _append_text(out, text[end:], after=end > 0, before=False)
        return out or [Text("")]

    def end(self) -> None:
        for tag, given in self._given.items():
            if given > self.used[tag]:
                raise BadSample(
                    f"{given} files are listed but the turns have {self.used[tag]} {tag} tags; add the tags"
                )

    def _count_error(self, tag: str, text: str) -> str:
        files = f"the {self._given[tag]} files listed"
        return f"there are more {tag} tags than {files}; the first without one is in {_short(text)}"


def _append_text(out: list[Part], text: str, *, after: bool, before: bool) -> None:
    if after:
        text = re.sub(r"^[ \t]*\n?", "", text)
    if before:
        text = re.sub(r"\n?[ \t]*$", "", text)
    if text:
        out.append(Text(text))


def turns_of(
    value: Any,
    placer: Placer,
    *,
    role_key: str = "role",
    content_key: str = "content",
    roles: Mapping[str, str] = _ROLES,
) -> list[Message]:
    """Read a list of turns. Raises BadSample."""
    if not isinstance(value, (list, tuple)) or not value:
        raise BadSample(f"the conversation is {_short(value)}; give a list of turns")
    out = []
    for turn in value:
        if not isinstance(turn, Mapping) or role_key not in turn or content_key not in turn:
            raise BadSample(f"a turn is {_short(turn)}; give it {role_key} and {content_key}")
        name = turn[role_key]
        role = roles[name] if isinstance(name, str) and name in roles else role_of(name)
        out.append(Message(role, placer.parts(turn[content_key])))
    return out


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
