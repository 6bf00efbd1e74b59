"""What clients may send: OpenAI's request shapes as typed structs, checked once here and trusted afterwards.

`read` turns the bytes of a body into one of these structs or an `ApiError` that names the field. The structs are also
the source of `/openapi.json`. Nothing is ignored in silence: an unknown field, or a known one that asks for something
the model cannot do, is a 400; fields that change no answer (`user`, `metadata`, ...) are accepted and listed as such.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from .errors import ApiError, bad_request

MAX_DEPTH = 64  # of free-form JSON: schemas, tool parameters, arguments
MAX_CHOICES = 16
MAX_MESSAGES = 4096

Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
FunctionName = Annotated[str, Meta(min_length=1, max_length=64, pattern="^[a-zA-Z0-9_.-]+$")]
StopString = Annotated[str, Meta(min_length=1, max_length=256)]
StopList = Annotated[list[StopString], Meta(max_length=16)]


class Strict(Struct, forbid_unknown_fields=True):
    """A shape with no fields but its own."""


class TextPart(Strict, tag_field="type", tag="text"):
    text: str


class ImageUrl(Strict):
    """detail "low" is one slice; "auto" and "high" follow max_slice_nums."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Strict, tag_field="type", tag="image_url"):
    image_url: ImageUrl | str


class VideoUrl(Strict):
    """fps: frames to look at each second; packing: frames in 64 tokens, 1 to 6."""

    url: str
    fps: Annotated[float, Meta(gt=0, le=1000)] | None = None
    packing: Annotated[int, Meta(ge=1, le=6)] | None = None


class VideoPart(Strict, tag_field="type", tag="video_url"):
    video_url: VideoUrl | str


class File(Strict):
    """A PDF (or picture, or video, told by content). pages: such as "1-3,7"."""

    file_data: str | None = None
    filename: str | None = None
    file_id: str | None = None
    pages: Annotated[str, Meta(min_length=1, max_length=1000)] | None = None


class FilePart(Strict, tag_field="type", tag="file"):
    file: File


Part = TextPart | ImagePart | VideoPart | FilePart


class FunctionCall(Strict):
    name: FunctionName
    arguments: str


class ToolCall(Strict):
    function: FunctionCall
    id: str | None = None
    type: Literal["function"] = "function"
    index: int | None = None


class ChatMessage(Strict):
    """One turn. Fields that our own replies carry may come back as they are."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None


class Function(Strict):
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    function: Function
    type: Literal["function"] = "function"


class ChosenFunction(Strict):
    name: FunctionName


class ChosenTool(Strict):
    function: ChosenFunction
    type: Literal["function"] = "function"


class JsonSchema(Strict):
    schema: dict[str, Any] | bool | None = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class TextFormat(Strict, tag_field="type", tag="text"):
    pass


class ObjectFormat(Strict, tag_field="type", tag="json_object"):
    pass


class SchemaFormat(Strict, tag_field="type", tag="json_schema"):
    json_schema: JsonSchema


class StructuredOutputs(Strict):
    """Exactly one of these. grammar: Lark or GBNF. json: a schema, or its text."""

    json: dict[str, Any] | str | None = None
    regex: Annotated[str, Meta(min_length=1, max_length=10_000)] | None = None
    choice: Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1, max_length=10_000)] | None = None
    grammar: Annotated[str, Meta(min_length=1, max_length=100_000)] | None = None
    json_object: bool | None = None


class StreamOptions(Strict):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None  # changes no answer


class TemplateOptions(Strict):
    enable_thinking: bool | None = None


class ProcessorOptions(Strict):
    """Of all media of the request. temporal_ids: groups over its images, in units of 0.1 s, that make them frames."""

    max_slice_nums: Annotated[int, Meta(ge=1, le=100)] | None = None
    fps: Annotated[float, Meta(gt=0, le=1000)] | None = None
    packing: Annotated[int, Meta(ge=1, le=6)] | None = None
    use_image_id: bool | None = None
    temporal_ids: list[list[int]] | None = None


class VideoOptions(Strict):
    """num_frames: most frames of each video."""

    fps: Annotated[float, Meta(gt=0, le=1000)] | None = None
    packing: Annotated[int, Meta(ge=1, le=6)] | None = None
    num_frames: Positive | None = None


class MediaOptions(Strict):
    video: VideoOptions | None = None


class Prompted(Strict):
    """What makes a prompt; shared by chat, tokenize and preview."""

    chat_template_kwargs: TemplateOptions | None = None
    mm_processor_kwargs: ProcessorOptions | None = None
    media_io_kwargs: MediaOptions | None = None

    @property
    def thinking(self) -> bool:
        return bool(self.chat_template_kwargs and self.chat_template_kwargs.enable_thinking)


class ChatRequest(Prompted, kw_only=True):
    """A request to /v1/chat/completions. Numbers left out take the model's published defaults."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    model: Name | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**62)] | None = None
    stop: StopString | StopList | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Fraction | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=10)] | None = None
    max_completion_tokens: Positive | None = None
    max_tokens: Positive | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: TextFormat | ObjectFormat | SchemaFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    tools: Annotated[list[Tool], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    # Asked for by some clients; only the value that means "nothing" is possible here.
    frequency_penalty: Annotated[float, Meta(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Meta(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, Any], Meta(max_length=0)] | None = None
    modalities: list[Literal["text"]] | None = None
    # These change no answer.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    verbosity: str | None = None

    @property
    def num_choices(self) -> int:
        return self.n or 1

    @property
    def thinking(self) -> bool:
        """The template's switch, or else whether some effort of reasoning is asked for."""
        options = self.chat_template_kwargs
        if options is not None and options.enable_thinking is not None:
            return options.enable_thinking
        return self.reasoning_effort not in (None, "none", "minimal")

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])


class TokenizeRequest(Prompted, kw_only=True):
    """A prompt as text, whose special tokens are recognised, or messages, which go through the chat template."""

    prompt: str | UnsetType = UNSET
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MAX_MESSAGES)] | UnsetType = UNSET
    model: Name | None = None
    tools: Annotated[list[Tool], Meta(max_length=128)] | None = None
    return_token_strs: bool | None = None


class PreviewRequest(Prompted, kw_only=True):
    """Content parts of one user message, to be told what the model will see of them."""

    content: Annotated[list[Part], Meta(min_length=1, max_length=256)]
    model: Name | None = None


Body = TypeVar("Body", ChatRequest, TokenizeRequest, PreviewRequest)

# Made here, once: working a type out is not safe in two threads at a time.
_DECODERS: dict[type, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind) for kind in (ChatRequest, TokenizeRequest, PreviewRequest)
}

_AT = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_UNKNOWN = re.compile(r"unknown field `(?P<field>[^`]*)`")


def read(kind: type[Body], data: bytes | bytearray) -> Body:
    """Decode and check a request body. Raises ApiError 400 for anything that is not one, naming the field."""
    try:
        request: Body = _DECODERS[kind].decode(data)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise bad_request(f"the body is not JSON in UTF-8: {' '.join(str(error).split())[:200]}") from None
    except RecursionError:
        raise bad_request(f"the body is nested too deeply; at most {MAX_DEPTH} levels are read") from None
    for name, value in _free_form(request):
        if depth_exceeds(value, MAX_DEPTH):
            raise bad_request(f"{name} is nested more than {MAX_DEPTH} levels deep; flatten it", name)
    return request


def _free_form(request: Any) -> list[tuple[str, Any]]:
    """Fields whose JSON is not typed, where depth must be bounded before anything walks through them."""
    found: list[tuple[str, Any]] = [(name, getattr(request, name, None)) for name in ("metadata", "logit_bias")]
    found += [("tools", tool.function.parameters) for tool in getattr(request, "tools", None) or []]
    messages = getattr(request, "messages", None)
    found += [("messages", message.annotations) for message in (messages if isinstance(messages, list) else [])]
    form = getattr(request, "response_format", None)
    if isinstance(form, SchemaFormat):
        found.append(("response_format", form.json_schema.schema))
    structured = getattr(request, "structured_outputs", None)
    if structured is not None:
        found.append(("structured_outputs", structured.json))
    return found


def depth_exceeds(value: Any, limit: int) -> bool:
    """Whether JSON is nested deeper than `limit`, told without recursion."""
    level = [value]
    for _ in range(limit + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def _invalid(text: str) -> ApiError:
    """msgspec's message in OpenAI's form, with the field as `param`."""
    match = _AT.search(text)
    path = "" if match is None else match["path"]
    said = text[: match.start()] if match is not None else text
    unknown = _UNKNOWN.search(text)
    if unknown is not None:
        field = f"{path}.{unknown['field']}".lstrip(".")
        return bad_request(f"there is no field {field!r} here; leave it out", field, "unknown_field")
    where = path or None
    return bad_request(f"{path or 'the body'} is not as it should be: {_plain(said)}", where, "invalid_value")


def _plain(said: str) -> str:
    said = " ".join(said.split())
    return (said[:1].lower() + said[1:])[:300]
