"""A request as the engine takes it: checked, prompted and answered by the very code of the server.

A line's body goes through `serve.protocol`, its media come from local files or data URIs instead of the network, and
its answer is the server's reply. `Call` is what a source gives, `Ask` what is to be prepared and generated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import msgspec

from ..engine.request import Constraint
from ..engine.sampling import SamplingParams
from ..errors import MediaError
from ..inputs.image import DEFAULT_MAX_PIXELS
from ..inputs.media import locate, media_kind
from ..inputs.processor import Processor
from ..inputs.video import MAX_DURATION_S, MAX_FRAME_PIXELS, MAX_FRAMES
from ..model.config import ModelInputs
from ..serve.answers import Choice, Reply
from ..serve.errors import bad_request
from ..serve.prompts import Job, Media, Turn, prepare
from ..serve.protocol import ChatMessage, ChatRequest, FilePart, ImagePart, Part, TextPart, Tool, VideoPart, read
from ..serve.requests import requested_form, sampling_params
from ..serve.settings import MediaLimits
from ..serve.structured import Form, Grammars
from ..serve.tools import offered, tools_for_prompt

# A job's files are its owner's: the bounds are those of the decoders themselves, not a server's.
LIMITS = MediaLimits(
    max_image_pixels=DEFAULT_MAX_PIXELS,
    max_frame_pixels=MAX_FRAME_PIXELS,
    max_video_duration_s=MAX_DURATION_S,
    max_video_frames=MAX_FRAMES,
    max_frame_rate=10_000,
)


@dataclass(frozen=True)
class Call:
    """One request as its source has it. body: OpenAI's fields. parts: instead of the body's messages, media and text of
    one user message, with `system` before it. folder: where relative file names begin.
    """

    body: dict[str, Any]
    folder: Path
    parts: list[str | Media] | None = None
    system: str = ""


@dataclass(frozen=True)
class Defaults:
    """Fields of a body, and of its objects, that apply where it says nothing."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    template: Mapping[str, Any] = field(default_factory=dict)  # chat_template_kwargs
    media: Mapping[str, Any] = field(default_factory=dict)  # mm_processor_kwargs

    def under(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the body with what it leaves open filled in."""
        fields = dict(self.fields)
        if body.get("max_tokens") is not None:
            fields.pop("max_completion_tokens", None)
        merged = fields | {name: value for name, value in body.items() if value is not None}
        template = {} if body.get("reasoning_effort") is not None else self.template
        for name, defaults in (("chat_template_kwargs", template), ("mm_processor_kwargs", self.media)):
            given = merged.get(name, {})
            if defaults and isinstance(given, Mapping):
                merged[name] = {**defaults, **{key: value for key, value in given.items() if value is not None}}
        return merged


@dataclass(frozen=True)
class Ask:
    """One request, checked."""

    request: ChatRequest
    job: Job
    tools: list[Tool]
    form: Form | None

    def prepare(self, processor: Processor) -> ModelInputs:
        """Decode its media and make its prompt. Raises CpmvError."""
        return prepare(self.job, processor, LIMITS)

    def params(self, room: int, greedy: bool = False) -> list[SamplingParams]:
        """Parameters of each answer; `room` tokens are left by the prompt. Raises ApiError."""
        return sampling_params(self.request, room, greedy)

    def constraints(self, grammars: Grammars, params: Sequence[SamplingParams]) -> list[Constraint | None]:
        """What keeps each answer in the form asked for. Raises CpmvError for a form that cannot be."""
        form, thinking = self.form, self.request.thinking
        if form is None:
            return [None] * len(params)
        return [grammars.constraint(form, thinking=thinking, max_new_tokens=one.max_new_tokens) for one in params]

    def reply(self, id: str, model: str, inputs: ModelInputs) -> Reply:
        return Reply(f"chatcmpl-{id.removeprefix('batch_req_')}", model, inputs)

    def choices(self, processor: Processor) -> list[Choice]:
        names = [tool.function.name for tool in self.tools] if self.tools else None
        num_top = (self.request.top_logprobs or 0) if self.request.logprobs else None
        return [Choice(index, processor.tokenizer, names, num_top) for index in range(self.request.num_choices)]


def read_call(call: Call, defaults: Defaults) -> Ask:
    """Check one request. Raises ApiError naming the field, or CpmvError, for what cannot be asked."""
    body = defaults.under(call.body)
    if call.parts is not None:
        body["messages"] = [{"role": "user", "content": ""}]  # the real one follows; its media are no JSON
    try:
        data = msgspec.json.encode(body)
    except (msgspec.EncodeError, UnicodeEncodeError, TypeError, RecursionError) as error:
        raise bad_request(f"the body cannot be read ({error})") from None
    request = read(ChatRequest, data)
    if request.stream:
        raise bad_request("stream has no place in a batch; leave it out", "stream")
    tools = offered(request)
    options = request.mm_processor_kwargs
    job = Job(
        _turns(call, request),
        thinking=request.thinking,
        tools=tools_for_prompt(tools),
        max_slice_nums=options.max_slice_nums if options else None,
        use_image_id=options.use_image_id if options else None,
        temporal_ids=options.temporal_ids if options else None,
    )
    return Ask(request, job, tools, requested_form(request, tools))


def make_ready() -> None:
    """Call once before `read_call` is used from several threads.

    msgspec works out a type when it first decodes one, and crashes the process when two threads do so at once.
    """
    read(ChatRequest, b'{"messages":[{"role":"user","content":""}]}')


def _turns(call: Call, request: ChatRequest) -> list[Turn]:
    if call.parts is None:
        return [_turn(message, request, call.folder) for message in request.messages]
    parts = [_with_options(part, request) if isinstance(part, Media) else part for part in call.parts]
    system = [Turn("system", [call.system])] if call.system else []
    return [*system, Turn("user", parts)]


def _with_options(found: Media, request: ChatRequest) -> Media:
    """A file of a folder or a row: pages chosen for PDFs are nothing to the pictures beside them."""
    if found.pages is not None and media_kind(found.data) != "pdf":
        found = msgspec.structs.replace(found, pages=None)
    return _with_rates(found, None, request)


def _turn(message: ChatMessage, request: ChatRequest, folder: Path) -> Turn:
    content = [message.content] if isinstance(message.content, str) else message.content or []
    parts = [part if isinstance(part, str) else _part(part, request, folder) for part in content]
    calls = [
        {"type": "function", "function": {"name": call.function.name, "arguments": _arguments(call.function.arguments)}}
        for call in message.tool_calls or []
    ]
    reasoning = message.reasoning_content or message.reasoning
    role = "system" if message.role == "developer" else message.role
    return Turn(role, parts, calls or None, (reasoning or None) if role == "assistant" else None)


def _arguments(text: str) -> Any:
    """The object that arguments spell, so that the template prints them in its own way; else the text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def _part(part: Part, request: ChatRequest, folder: Path) -> str | Media:
    if isinstance(part, TextPart):
        return part.text
    if isinstance(part, ImagePart):
        image = part.image_url
        url, detail = (image, None) if isinstance(image, str) else (image.url, image.detail)
        return media("image", local_source(url, folder), max_slice_nums=1 if detail == "low" else None)
    if isinstance(part, VideoPart):
        video = part.video_url
        url = video if isinstance(video, str) else video.url
        return _with_rates(media("video", local_source(url, folder)), video, request)
    assert isinstance(part, FilePart)
    if part.file.file_data is None:
        raise bad_request("a file needs file_data, a data: URI or a local file; file_id is not supported", "messages")
    found = media("file", local_source(part.file.file_data, folder), pages=part.file.pages)
    return _with_rates(found, None, request)


def media(kind: str, source: bytes | Path, **options: Any) -> Media:
    """A file to be decoded where it lies, or from its bytes; "file" is told apart by content."""
    # Everything that opens a `Media` takes a path as well as bytes; a film need not be held in memory.
    return Media(cast(Any, kind), cast(bytes, source), **options)


def _with_rates(found: Media, own: Any, request: ChatRequest) -> Media:
    """A video's own rates come first, then the request's."""
    if found.kind == "image":
        return found
    given = request.media_io_kwargs.video if request.media_io_kwargs else None
    sources = [one for one in (own, request.mm_processor_kwargs, given) if one is not None and not isinstance(one, str)]
    fps = next((source.fps for source in sources if source.fps is not None), None)
    packing = next((source.packing for source in sources if source.packing is not None), None)
    frames = given.num_frames if given else None
    return msgspec.structs.replace(found, fps=fps, packing=packing, num_frames=frames)


def local_source(address: str, folder: Path) -> bytes | Path:
    """Return what a data URI carries, or the file that a `file:` address or a path names. Raises CpmvError."""
    if address.startswith("data:"):
        found = locate(address)
        assert isinstance(found, bytes)
        return found
    if address.startswith("file://"):
        parts = urlsplit(address)
        if parts.netloc not in ("", "localhost"):
            raise MediaError(f"{address[:80]!r} names another machine; nothing is downloaded, give a local file")
        address = unquote(parts.path)
    elif "://" in address[:10]:
        raise MediaError(f"{address[:80]!r} is not downloaded; fetch it first and name the file, or give a data URI")
    return folder / Path(address).expanduser()
