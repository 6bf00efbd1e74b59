"""`/v1/chat/completions`: from a body to an answer, whole or streamed, with everything it holds given back at the end.

The order is the order of cost: read, check, admit, fetch, decode, compile the form, generate. Up to the last step every
mistake is a status; once a stream has begun it is an event with the error, and the stream ends without [DONE].
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from ..engine.output import Output
from ..errors import ContextLengthError
from ..inputs.text import Tokenizer
from .admission import Admission, ByteBudget
from .answers import DONE, Choice, Reply, event
from .errors import ApiError, bad_request, from_cpmv
from .metrics import Metrics
from .protocol import ChatRequest, read
from .requests import Prompts, constraints, requested_form, sampling_params
from .settings import Settings
from .structured import Grammars
from .tools import offered
from .transport import EventStream, json_response, read_body, while_connected
from .worker import Generation, Worker

KEEP_ALIVE_S = 15.0
KEEP_ALIVE = b": waiting\n\n"  # a comment, which clients skip and proxies count as life


@dataclass
class Prepared:
    """A request that is being answered."""

    request: ChatRequest
    reply: Reply
    generation: Generation
    choices: list[Choice]


class Chat:
    """Answers chat requests. `abort` ends every answer that is under way."""

    def __init__(
        self,
        settings: Settings,
        worker: Worker,
        prompts: Prompts,
        grammars: Grammars,
        tokenizer: Tokenizer,
        admission: Admission,
        metrics: Metrics,
        max_model_len: int,
    ) -> None:
        self._settings, self._worker, self._prompts = settings, worker, prompts
        self._grammars, self._tokenizer = grammars, tokenizer
        self._admission, self._metrics = admission, metrics
        self._max_model_len = max_model_len
        self.bodies = ByteBudget(settings.max_buffered_bytes)
        self._prepared = ByteBudget(settings.max_buffered_bytes * 2)
        self._live: set[Generation] = set()

    async def __call__(self, http: HttpRequest) -> Response:
        async with AsyncExitStack() as stack:
            with ExitStack() as until_prepared:
                body, taken = await read_body(http, self._settings, self.bodies)
                until_prepared.callback(self.bodies.release, taken)
                request = read(ChatRequest, body)
                del body
                check_model(request.model, self._settings)
                stack.enter_context(self._admission.enter(client_of(http, request.user), request.num_choices))
                prepared = await while_connected(http, self._prepare(http, request, stack))
                request.messages.clear()  # megabytes of base64 that nobody needs any more
            if request.stream:
                events = self._events(prepared)
                return EventStream(events, self._settings.write_timeout_s, stack.pop_all())
            return await while_connected(http, self._whole(prepared))

    def abort(self) -> None:
        for generation in list(self._live):
            generation.cancel()

    async def _prepare(self, http: HttpRequest, request: ChatRequest, stack: AsyncExitStack) -> Prepared:
        tools = offered(request)
        form = requested_form(request, tools)
        if request.stream_options is not None and not request.stream:
            raise bad_request("stream_options needs stream: true", "stream_options")
        client = client_of(http, request.user)
        inputs = await self._prompts.inputs(request, request.messages, tools, client, thinking=request.thinking)
        room = self._max_model_len - len(inputs)
        if room < 1:
            raise from_cpmv(ContextLengthError(len(inputs), self._max_model_len - 1, "this server"))
        params = sampling_params(request, room, self._prompts.greedy)
        limits = await constraints(
            form, self._grammars, len(params), thinking=request.thinking, max_new_tokens=params[0].max_new_tokens
        )
        held = inputs.patches.nbytes
        await self._prepared.wait(held)
        stack.push_async_callback(self._prepared.give_back, held)
        reply = Reply(f"chatcmpl-{secrets.token_hex(16)}", request.model or self._settings.served_names[0], inputs)
        generation = self._worker.submit(
            inputs,
            params,
            limits,
            thinking=request.thinking,
            client=client,
            on_end=lambda ended: self._metrics.observe(ended, reply.num_visual_tokens),
        )
        self._live.add(generation)
        stack.callback(self._end, generation)
        names = [tool.function.name for tool in tools] if tools else None
        num_top = (request.top_logprobs or 0) if request.logprobs else None
        choices = [Choice(index, self._tokenizer, names, num_top) for index in range(len(params))]
        return Prepared(request, reply, generation, choices)

    def _end(self, generation: Generation) -> None:
        generation.cancel()
        self._live.discard(generation)

    async def _whole(self, prepared: Prepared) -> Response:
        async for found in prepared.generation.pieces():
            assert found is not None
            index, piece = found
            choice = prepared.choices[index]
            choice.finish(piece) if isinstance(piece, Output) else choice.take(piece)
        return json_response(prepared.reply.whole(prepared.choices, prepared.generation.num_cached_tokens))

    async def _events(self, prepared: Prepared) -> AsyncGenerator[bytes, None]:
        try:
            async for chunk in self._chunks(prepared):
                yield chunk
        except ApiError as error:
            yield event(error.body())

    async def _chunks(self, prepared: Prepared) -> AsyncGenerator[bytes, None]:
        reply, generation, choices = prepared.reply, prepared.generation, prepared.choices
        options = prepared.request.stream_options
        wants_usage = bool(options and options.include_usage)
        always = bool(options and options.continuous_usage_stats)

        def chunk(
            index: int, delta: dict[str, Any], finish_reason: str | None = None, logprobs: dict[str, Any] | None = None
        ) -> bytes:
            choice = {"index": index, "delta": delta, "finish_reason": finish_reason, "logprobs": logprobs}
            usage = reply.usage(choices, generation.num_cached_tokens) if always else None
            return reply.chunk([choice], **({"usage": usage} if wants_usage or always else {}))

        for choice in choices:
            yield chunk(choice.index, {"role": "assistant", "content": ""})
        async for found in generation.pieces(KEEP_ALIVE_S):
            if found is None:
                yield KEEP_ALIVE
                continue
            index, piece = found
            choice = choices[index]
            deltas = choice.finish(piece) if isinstance(piece, Output) else choice.take(piece)
            for one in deltas:
                yield chunk(index, one["delta"], None, one.get("logprobs"))
            if isinstance(piece, Output):
                yield chunk(index, {}, choice.finish_reason)
        if wants_usage:
            yield reply.chunk([], usage=reply.usage(choices, generation.num_cached_tokens))
        yield DONE


def check_model(name: str | None, settings: Settings) -> None:
    """Refuse a model that is not served; no name means the one there is."""
    if name is not None and name not in settings.served_names:
        served = ", ".join(settings.served_names)
        raise ApiError(404, f"there is no model {name[:100]!r}; this server has {served}", param="model",
                       code="model_not_found")  # fmt: skip


def client_of(http: HttpRequest, user: str | None) -> str:
    """Whom to be fair to: the key, else the address; and the user that an application names."""
    who = http.headers.get("authorization") or (http.client.host if http.client else "")
    return hashlib.sha256(f"{who}\n{user or ''}".encode()).hexdigest()[:16]
