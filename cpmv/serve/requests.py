"""From a checked request to what the engine takes: media gathered, prompt prepared, sampling parameters, forms.

Media are counted before anything is fetched, fetched before anything is decoded, and decoded in `decoders`. A prompt
without media is prepared in a thread of this process.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Sequence
from typing import Any

from ..engine.sampling import SamplingParams
from ..errors import ContextLengthError, CpmvError
from ..inputs.media import HEAD_BYTES, locate, sniff
from ..inputs.processor import Processor
from ..model.config import ModelInputs
from .decoders import Decoders
from .errors import ApiError, bad_request, from_cpmv
from .fetch import Fetcher
from .local_files import read_local
from .prompts import Job, Media, Turn, prepare
from .protocol import (
    ChatMessage,
    ChatRequest,
    FilePart,
    ImagePart,
    ObjectFormat,
    Part,
    Prompted,
    SchemaFormat,
    StructuredOutputs,
    TextPart,
    VideoPart,
)
from .settings import Settings
from .structured import Form, Grammars, choice, grammar, json_object, json_schema, regex
from .tools import call_form, tools_for_prompt

DEFAULT_TOKENS = 2048  # as the published chat(); four times as many when it thinks first
THINKING_TOKENS = 8192
LEAST_TEMPERATURE = 1e-4  # below, drawing is taking the likeliest, and dividing by it would overflow
MAX_FETCHES = 4  # at once, for one request


class Prompts:
    """Makes messages into `ModelInputs`, or into a preview of what the model will see."""

    def __init__(
        self, settings: Settings, processor: Processor, decoders: Decoders, fetcher: Fetcher, max_prompt_tokens: int
    ) -> None:
        self._settings, self._processor = settings, processor
        self.greedy = processor.config.greedy
        self._decoders, self._fetcher = decoders, fetcher
        self._max_prompt_tokens = max_prompt_tokens
        tokenizer = processor.tokenizer
        self._longest_token = max(len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size))

    async def inputs(
        self, request: Prompted, messages: Sequence[ChatMessage], tools: Any, client: str, *, thinking: bool
    ) -> ModelInputs:
        """Prepare a prompt. Raises ApiError for whatever is wrong with it."""
        job = await self._job(request, messages)
        job.tools, job.thinking = tools_for_prompt(tools), thinking
        job.max_inp_length = self._max_prompt_tokens
        if job.num_text_bytes > self._max_prompt_tokens * self._longest_token:
            least = -(-job.num_text_bytes // self._longest_token)
            raise from_cpmv(ContextLengthError(least, self._max_prompt_tokens, "this server"))
        if job.has_media:
            found = await self._decoders.run(job, client)
            assert isinstance(found, ModelInputs)
            return found
        try:
            return await asyncio.to_thread(prepare, job, self._processor, self._settings.media)
        except CpmvError as error:
            raise from_cpmv(error) from None

    async def preview(self, request: Prompted, content: list[Part], client: str) -> dict[str, Any]:
        job = await self._job(request, [ChatMessage(role="user", content=content)])
        job.task = "preview"
        found = await self._decoders.run(job, client)
        assert isinstance(found, dict)
        return found

    async def _job(self, request: Prompted, messages: Sequence[ChatMessage]) -> Job:
        self._count_media(messages)
        gathering = asyncio.Semaphore(MAX_FETCHES)

        async def one(part: Part) -> str | Media:
            if isinstance(part, TextPart):
                return part.text
            async with gathering:
                return await self._media(part, request)

        turns = []
        kinds: Counter[str] = Counter()
        num_bytes = 0
        for message in messages:
            raw = message.content
            parts: list[str | Media] = [raw] if isinstance(raw, str) else await _all([one(part) for part in raw or []])
            for part in parts:
                if isinstance(part, Media):
                    kinds[_kind(part)] += 1
                    num_bytes += len(part.data)
            self._check(kinds, num_bytes)
            turns.append(_turn(message, parts))
        options = request.mm_processor_kwargs
        return Job(
            turns,
            max_slice_nums=options.max_slice_nums if options else None,
            use_image_id=options.use_image_id if options else None,
            temporal_ids=options.temporal_ids if options else None,
        )

    def _count_media(self, messages: Sequence[ChatMessage]) -> None:
        """Refuse too many media before any is read; a file's kind is known only afterwards."""
        kinds: Counter[str] = Counter()
        for message in messages:
            for part in message.content if isinstance(message.content, list) else []:
                if isinstance(part, (ImagePart, VideoPart)):
                    kinds["image" if isinstance(part, ImagePart) else "video"] += 1
                elif isinstance(part, FilePart):
                    kinds["file"] += 1
        limits = self._settings.media.num_per_kind
        if kinds["file"] > sum(limits.values()):
            raise bad_request(f"{kinds['file']} files were sent; at most {sum(limits.values())} are read", "messages")
        del kinds["file"]
        self._check(kinds, 0)

    def _check(self, kinds: Counter[str], num_bytes: int) -> None:
        limits = self._settings.media
        for kind, count in kinds.items():
            most = limits.num_per_kind.get(kind)
            if most is not None and count > most:
                raise bad_request(f"at most {most} {kind}(s) may be sent in one request; this one has more", "messages")
        if num_bytes > limits.max_bytes:
            raise ApiError(413, f"the request's media have more than {limits.max_bytes} bytes", param="messages")

    async def _media(self, part: Part, request: Prompted) -> Media:
        if isinstance(part, ImagePart):
            image = part.image_url
            url, detail = (image, None) if isinstance(image, str) else (image.url, image.detail)
            return Media("image", await self._read(url), max_slice_nums=1 if detail == "low" else None)
        if isinstance(part, VideoPart):
            return self._video(part, await self._read(_video_url(part)), request)
        assert isinstance(part, FilePart)
        if part.file.file_data is None:
            raise bad_request("a file needs file_data, a data: URI or address; file_id is not supported", "messages")
        video = self._video(None, await self._read(part.file.file_data), request)
        return Media("file", video.data, None, video.fps, video.packing, video.num_frames, part.file.pages)

    def _video(self, part: VideoPart | None, data: bytes, request: Prompted) -> Media:
        """Options of a video: its own, else the request's, else the server's."""
        own = part.video_url if part is not None and not isinstance(part.video_url, str) else None
        given = request.media_io_kwargs.video if request.media_io_kwargs else None
        sources = [source for source in (own, request.mm_processor_kwargs, given) if source is not None]
        fps = next((source.fps for source in sources if source.fps is not None), None)
        packing = next((source.packing for source in sources if source.packing is not None), None)
        return Media(
            "video",
            data,
            fps=fps,
            packing=self._settings.video_packing if packing is None else packing,
            num_frames=given.num_frames if given else None,
        )

    async def _read(self, url: str) -> bytes:
        """The bytes behind a data:, file: or https: address."""
        scheme = url[:8].partition(":")[0].lower()
        limits = self._settings.media
        if scheme == "data":
            try:
                data = await asyncio.to_thread(locate, url)
            except CpmvError as error:
                raise from_cpmv(error) from None
            assert isinstance(data, bytes)
            return data
        if scheme == "file":
            return await asyncio.to_thread(read_local, url, self._settings.media_path, limits.max_bytes)
        if scheme in ("http", "https"):
            return await self._fetcher.get(url)
        raise bad_request("media are given as data:, https: or file: addresses; this is none of them", "messages")


async def _all(tasks: list[Awaitable[str | Media]]) -> list[str | Media]:
    """Gather, and let nothing go on when one has failed."""
    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(_awaited(task)) for task in tasks]
    except* ApiError as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
    return [task.result() for task in running]


async def _awaited(task: Awaitable[str | Media]) -> str | Media:
    return await task


def _video_url(part: VideoPart) -> str:
    return part.video_url if isinstance(part.video_url, str) else part.video_url.url


def _kind(media: Media) -> str:
    if media.kind != "file":
        return media.kind
    found = sniff(media.data[:HEAD_BYTES])
    return found.kind if found is not None else "pdf"  # the decoder will say what is wrong with it


def _turn(message: ChatMessage, parts: list[str | Media]) -> Turn:
    role = "system" if message.role == "developer" else message.role
    if message.content is None and role != "assistant":
        raise bad_request(f"a {message.role} message has no content; give it a string or parts", "messages")
    calls = None
    if message.tool_calls:
        calls = [
            {"type": "function", "function": {"name": call.function.name, "arguments": _arguments(call.function)}}
            for call in message.tool_calls
        ]
    reasoning = message.reasoning_content if message.reasoning_content is not None else message.reasoning
    if message.refusal and not parts:
        parts = [message.refusal]
    return Turn(role, parts, calls, (reasoning or None) if role == "assistant" else None)


def _arguments(function: Any) -> Any:
    """Arguments as the object they spell, so that the template prints them in its own way; else as they came."""
    try:
        value = json.loads(function.arguments)
    except (ValueError, RecursionError):
        return function.arguments
    return value if isinstance(value, dict) else function.arguments


def sampling_params(request: ChatRequest, room: int, greedy: bool = False) -> list[SamplingParams]:
    """Parameters of each choice. room: tokens that the prompt leaves. greedy: whether the checkpoint asks for the
    likeliest token where the request does not say. Raises ApiError for what cannot be."""
    given = request.max_completion_tokens or request.max_tokens
    if request.max_completion_tokens and request.max_tokens and request.max_completion_tokens != request.max_tokens:
        raise bad_request("max_tokens and max_completion_tokens differ; give one of them", "max_tokens")
    if request.top_logprobs is not None and not request.logprobs:
        raise bad_request("top_logprobs needs logprobs: true", "top_logprobs")
    longest = min(room, given or (THINKING_TOKENS if request.thinking else DEFAULT_TOKENS))
    changes: dict[str, Any] = {"max_new_tokens": longest, "stop": request.stops}
    changes["min_new_tokens"] = min(request.min_tokens or 0, longest)
    changes["logprobs"] = (request.top_logprobs or 0) if request.logprobs else None
    if request.temperature is not None:
        changes["temperature"] = request.temperature if request.temperature >= LEAST_TEMPERATURE else 0.0
    for name in ("top_p", "min_p", "repetition_penalty"):
        value = getattr(request, name)
        if value is not None:
            changes[name] = value
    if request.top_k is not None:
        changes["top_k"] = max(request.top_k, 0)  # -1 is "all" in the field's habit
    try:
        base = SamplingParams.default(greedy).replace(**changes)
        seeds = [None if request.seed is None else request.seed + i for i in range(request.num_choices)]
        return [base.replace(seed=seed) for seed in seeds]
    except CpmvError as error:
        raise from_cpmv(error, None) from None


def requested_form(request: ChatRequest, tools: list[Any]) -> Form | None:
    """The form an answer must have, by response_format, structured_outputs or tool_choice; at most one may ask."""
    forms: list[Form] = []
    try:
        if isinstance(request.response_format, SchemaFormat):
            forms.append(json_schema(request.response_format.json_schema.schema))
        elif isinstance(request.response_format, ObjectFormat):
            forms.append(json_object())
        if request.structured_outputs is not None:
            forms.append(_structured(request.structured_outputs))
        called = call_form(request, tools) if tools else None
        if called is not None:
            forms.append(called)
    except CpmvError as error:
        raise from_cpmv(error, "response_format") from None
    if len(forms) > 1:
        raise bad_request(
            "more than one of response_format, structured_outputs and tools with a forced or strict call shape the "
            "answer; keep one",
            "response_format",
        )
    return forms[0] if forms else None


def _structured(given: StructuredOutputs) -> Form:
    named = {
        "json": given.json,
        "regex": given.regex,
        "choice": given.choice,
        "grammar": given.grammar,
        "json_object": given.json_object or None,
    }
    chosen = [name for name, value in named.items() if value is not None]
    if len(chosen) != 1:
        raise bad_request(
            f"structured_outputs takes one of {', '.join(named)}; {len(chosen)} given", "structured_outputs"
        )
    if given.json is not None:
        return json_schema(_schema(given.json))
    if given.regex is not None:
        return regex(given.regex)
    if given.choice is not None:
        return choice(given.choice)
    return grammar(given.grammar) if given.grammar is not None else json_object()


def _schema(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise bad_request("structured_outputs.json is text but no JSON", "structured_outputs") from None


async def constraints(
    form: Form | None, grammars: Grammars, count: int, *, thinking: bool, max_new_tokens: int
) -> list[Any]:
    """A constraint for each choice, compiled in a thread."""
    if form is None:
        return [None] * count

    def build() -> list[Any]:
        return [grammars.constraint(form, thinking=thinking, max_new_tokens=max_new_tokens) for _ in range(count)]

    try:
        return await asyncio.to_thread(build)
    except CpmvError as error:
        raise from_cpmv(error, "response_format") from None
