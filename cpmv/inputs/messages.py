"""Conversations as people write them, made into one form: `Message`s of typed parts.

The first step of the only path from messages to tensors (`processor` is the next). Accepted are the reference's form
(`content` is a string, or a list of strings and images), OpenAI-style dictionaries, our own dataclasses, and a JSON
string of any of these. Nothing is opened here beyond the first bytes that tell an image from a video from a PDF.
A string inside `content` is always text, even when it looks like a path; a file is named by a `pathlib.Path`, an
`Image`, `Video` or `Pdf` part, or a dictionary with a `type`.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import MessageError
from .media import locate, media_kind
from .video import Video as Clip

log = logging.getLogger("cpmv")

ROLES = ("system", "user", "assistant", "tool")
# `name` and `tool_call_id` are what OpenAI clients send with tool results; the prompt format has no place for them.
MESSAGE_KEYS = {"role", "content", "tool_calls", "reasoning_content", "name", "tool_call_id"}


@dataclass
class Text:
    text: str


@dataclass
class Image:
    """A picture: path, bytes, data URI, PIL image or numpy array. `max_slice_nums` overrides the conversation's."""

    source: Any
    max_slice_nums: int | None = None


@dataclass
class Video:
    """A clip: file, bytes, folder of frames, or list of frames. Rates left None take the processor's."""

    source: Any
    fps: float | None = None  # frames a second to choose
    packing: int | None = None  # frames a resampler group, 1-6


@dataclass
class Pdf:
    """A document; every chosen page becomes an image. `pages` as "1-3,7" or numbers from 1; `dpi` of the rendering."""

    source: Any
    pages: str | Sequence[int] | None = None
    dpi: int | None = None


Part = Text | Image | Video | Pdf


@dataclass
class Message:
    """One turn. `reasoning_content` is an assistant's thinking, kept apart from its answer."""

    role: str
    content: list[Part] = field(default_factory=list)
    tool_calls: list[dict[str, Any]] | None = None
    reasoning_content: str | None = None


def parse_messages(msgs: Any, image: Any = None) -> list[Message]:
    """Read one conversation.

    msgs: list of `Message`s or dictionaries, or a JSON string of such a list. image: the reference's `image` argument,
    put before the text of the first message when its content is a string; with any other content the reference ignores
    it, and so does this, with a warning. Raises MessageError.
    """
    if isinstance(msgs, (str, bytes)):
        msgs = _load_json(msgs)
    if not isinstance(msgs, Sequence):
        raise MessageError(f"msgs is a {type(msgs).__name__}; pass a list of messages with role and content")
    if not msgs:
        raise MessageError("msgs is empty; pass at least one user message")
    if any(isinstance(m, (list, tuple)) for m in msgs):
        raise MessageError("msgs is a list of conversations where one conversation is expected; pass them one by one")
    messages = [_message(m, f"msgs[{i}]") for i, m in enumerate(msgs)]
    if image is not None:
        first = 1 if messages[0].role == "system" and len(msgs) > 1 else 0
        content = msgs[first].content if isinstance(msgs[first], Message) else msgs[first].get("content")
        if isinstance(content, str):
            messages[first].content.insert(0, as_media(image))
        else:
            log.warning("the image argument is ignored because the first message's content is already a list of parts")
    _check_order(messages)
    return messages


def as_media(source: Any) -> Image | Video | Pdf:
    """Make a part of a path, bytes, data URI, PIL image or numpy array, deciding by content what it is."""
    if isinstance(source, (Image, Video, Pdf)):
        return source
    if isinstance(source, Clip):
        return Video(source)
    if not _is_pixels(source) and not isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview)):
        raise MessageError(f"a {type(source).__name__} is not an image, video or PDF; pass a path, bytes or pixels")
    kind = media_kind(source)
    if kind == "video" and isinstance(source, str) and source.startswith("data:"):
        source = locate(source)
    return {"image": Image, "video": Video, "pdf": Pdf}[kind](source)


def _load_json(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"msgs is a string but not a JSON list of messages ({error}); pass a list") from None


def _message(raw: Any, where: str) -> Message:
    if isinstance(raw, Message):
        raw = {
            "role": raw.role,
            "content": raw.content,
            "tool_calls": raw.tool_calls,
            "reasoning_content": raw.reasoning_content,
        }
    if not isinstance(raw, Mapping):
        raise MessageError(f"{where} is a {type(raw).__name__}; pass a dictionary with role and content")
    unknown = [str(key) for key in raw if key not in MESSAGE_KEYS]
    if unknown:
        allowed = ", ".join(sorted(MESSAGE_KEYS))
        raise MessageError(f"{where} has the unknown field {unknown[0]!r}; allowed are {allowed}")
    role = raw.get("role")
    if role not in ROLES:
        raise MessageError(f"{where} has role {role!r}; allowed are {', '.join(ROLES)}")
    reasoning = raw.get("reasoning_content")
    if reasoning is not None and (role != "assistant" or not isinstance(reasoning, str)):
        raise MessageError(f"{where}.reasoning_content must be a string in an assistant message")
    calls = _tool_calls(raw.get("tool_calls"), role, where)
    content = raw.get("content")
    if content is None and calls:
        content = ""
    parts = _parts(content, f"{where}.content")
    return Message(role, parts, calls, None if reasoning is None else _text(reasoning, f"{where}.reasoning_content"))


def _tool_calls(raw: Any, role: str, where: str) -> list[dict[str, Any]] | None:
    if not raw:
        return None
    if role != "assistant":
        raise MessageError(f"{where} has tool_calls but role {role!r}; only an assistant calls tools")
    if not isinstance(raw, Sequence) or isinstance(raw, str):
        raise MessageError(f"{where}.tool_calls is a {type(raw).__name__}; pass a list")
    for i, call in enumerate(raw):
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise MessageError(f"{where}.tool_calls[{i}] has no function name; give it name and arguments")
        if not isinstance(function.get("arguments"), (str, Mapping)):
            raise MessageError(f"{where}.tool_calls[{i}] needs arguments: an object or its JSON text")
        check_json(call, f"{where}.tool_calls[{i}]")
    return [dict(call) for call in raw]


def _parts(content: Any, where: str) -> list[Part]:
    if isinstance(content, str):
        return [Text(_text(content, where))]
    if isinstance(content, Mapping) or not isinstance(content, Sequence) or isinstance(content, (bytes, bytearray)):
        if content is None or isinstance(content, (int, float)):
            raise MessageError(f"{where} is {content!r}; pass a string or a list of strings and media")
        return [_part(content, where)]
    return [_part(part, f"{where}[{i}]") for i, part in enumerate(content)]


def _part(part: Any, where: str) -> Part:
    if isinstance(part, str):
        return Text(_text(part, where))
    if isinstance(part, Text):
        return Text(_text(part.text, where))
    if isinstance(part, (Image, Video, Pdf)):
        return part
    if isinstance(part, Mapping):
        return _dict_part(part, where)
    if _is_pixels(part) or isinstance(part, (Clip, bytes, bytearray, memoryview, os.PathLike)):
        return as_media(part)
    raise MessageError(
        f"{where} is a {type(part).__name__}; allowed are text, PIL images, numpy arrays, bytes, pathlib paths, "
        "Image, Video and Pdf parts, and dictionaries with a type"
    )


def _dict_part(part: Mapping[str, Any], where: str) -> Part:
    kind = part.get("type")
    if kind == "text":
        _only(part, {"text"}, where)
        return Text(_text(part.get("text"), where))
    if kind == "image":
        _only(part, {"image", "max_slice_nums"}, where)
        return Image(_source(part, "image", where), part.get("max_slice_nums"))
    if kind == "image_url":
        return _image_url(part, where)
    if kind == "video":
        _only(part, {"video", "fps", "packing"}, where)
        return Video(_source(part, "video", where), part.get("fps"), part.get("packing"))
    if kind == "video_url":
        _only(part, {"video_url", "fps", "packing"}, where)
        return Video(locate(_url(part, "video_url", where)), part.get("fps"), part.get("packing"))
    if kind == "pdf":
        _only(part, {"pdf", "pages", "dpi"}, where)
        return Pdf(_source(part, "pdf", where), part.get("pages"), part.get("dpi"))
    if kind == "file":
        _only(part, {"file"}, where)
        return _file(_source(part, "file", where), where)
    raise MessageError(f"{where} has type {kind!r}; allowed are text, image, image_url, video, video_url, pdf and file")


def _image_url(part: Mapping[str, Any], where: str) -> Image:
    _only(part, {"image_url"}, where)
    url = _url(part, "image_url", where)
    inner = part["image_url"]
    detail = inner.get("detail", "auto") if isinstance(inner, Mapping) else "auto"
    if detail not in ("auto", "low", "high"):
        raise MessageError(f"{where}.image_url has detail {detail!r}; allowed are auto, low (one slice) and high")
    return Image(url, 1 if detail == "low" else None)


def _file(file: Any, where: str) -> Image | Video | Pdf:
    """OpenAI's {"file_data": data URI, "filename": ...}, or a source as elsewhere."""
    if isinstance(file, Mapping):
        unknown = [str(key) for key in file if key not in ("file_data", "filename")]
        if unknown or not isinstance(file.get("file_data"), str):
            raise MessageError(f"{where}.file needs file_data, a data URI; file_id and other fields are not supported")
        file = file["file_data"]
        if not file.startswith("data:"):
            raise MessageError(f"{where}.file.file_data is not a data URI; pass data:<type>;base64,<data>")
    return as_media(file)


def _url(part: Mapping[str, Any], key: str, where: str) -> str:
    inner = part.get(key)
    url = inner.get("url") if isinstance(inner, Mapping) else inner
    if not isinstance(url, str) or not url.startswith("data:"):
        shown = url[:60] if isinstance(url, str) else url
        raise MessageError(f"{where}.{key} is {shown!r}; only data: URIs are read here, download other addresses first")
    return url


def _only(part: Mapping[str, Any], allowed: set[str], where: str) -> None:
    unknown = [str(key) for key in part if key != "type" and key not in allowed]
    if unknown:
        names = ", ".join(sorted(allowed))
        raise MessageError(f"{where} of type {part['type']} has the unknown field {unknown[0]!r}; allowed: {names}")


def _source(part: Mapping[str, Any], key: str, where: str) -> Any:
    if part.get(key) is None:
        raise MessageError(f"{where} of type {part.get('type')} has no {key!r}; add its path, bytes or pixels")
    return part[key]


def _text(text: Any, where: str) -> str:
    if not isinstance(text, str):
        raise MessageError(f"{where} has text of type {type(text).__name__}; pass a string")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise MessageError(f"{where} holds half of a surrogate pair; repair its decoding") from None
    return text


def check_json(value: Any, where: str) -> None:
    """Raise MessageError unless `value` can be written into a prompt as JSON."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise MessageError(f"{where} cannot be written as JSON: {error}") from None


def _is_pixels(source: Any) -> bool:
    """Whether this is a PIL image or a numpy array."""
    import numpy as np
    from PIL import Image as PILImage

    return isinstance(source, (PILImage.Image, np.ndarray))


def _check_order(messages: list[Message]) -> None:
    turns = messages[1:] if messages[0].role == "system" else messages
    if not turns:
        raise MessageError("msgs has only a system message; add a user message")
    if turns[0].role != "user":
        raise MessageError(f"the conversation begins with role {turns[0].role!r}; the first message must be the user's")
    for before, message in zip(turns, turns[1:], strict=False):
        if message.role == "system":
            raise MessageError("a system message stands in the middle; only the first message may be a system message")
        if message.role == "tool" and before.role not in ("assistant", "tool"):
            raise MessageError(f"a tool message follows a {before.role} message; it must follow the assistant's call")
