"""The application: every route of the server over one model, as ASGI.

`build` puts the parts together; `Service` owns them from start to end. Nothing listens here: `run` does, and tests may
call the application without a socket.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import cpmv

from ..engine.engine import Engine
from ..inputs.processor import Processor
from .addresses import Domains, read_networks
from .admission import Admission
from .chat import Chat, check_model, client_of
from .decoders import Decoders
from .errors import ApiError, bad_request
from .fetch import Fetcher
from .metrics import CONTENT_TYPE, Metrics
from .openapi import document
from .protocol import PreviewRequest, TokenizeRequest, read
from .requests import Prompts
from .settings import Settings
from .static_page import page
from .structured import Grammars
from .transport import Guard, endpoint, error_response, json_response, read_body, while_connected
from .worker import Worker

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from ..inputs.text import Tokenizer
    from ..model.config import ModelConfig

log = logging.getLogger("cpmv")

MAX_TOKENIZED_CHARS = 4_000_000  # of /tokenize; no context is longer


class Service:
    """One served model: engines, decoders, and the routes over them. `start`, then serve, then `stop`."""

    def __init__(
        self, settings: Settings, config: ModelConfig, tokenizer: Tokenizer, engines: Sequence[Engine]
    ) -> None:
        self.settings, self.tokenizer = settings, tokenizer
        self.worker = Worker(engines)
        self.max_model_len = min(settings.max_model_len or self.worker.capacity, self.worker.capacity)
        self.admission = Admission(settings.max_num_seqs, settings.max_queue)
        self.decoders = Decoders(config, tokenizer, settings.media, settings.num_decoders)
        fetcher = Fetcher(
            Domains(settings.media_domains),
            read_networks(settings.media_networks),
            max_bytes=settings.media.max_bytes,
            timeout_s=settings.media.fetch_timeout_s,
        )
        self.prompts = Prompts(
            settings, Processor(config, tokenizer), self.decoders, fetcher, max_prompt_tokens=self.max_model_len - 1
        )
        self.grammars = Grammars(tokenizer, config.language.vocab_size)
        self.metrics = Metrics(
            settings.served_names[0],
            self.worker.stats,
            lambda: self.admission.num_under_way,
            lambda: self.decoders.num_waiting,
        )
        self.chat = Chat(
            settings,
            self.worker,
            self.prompts,
            self.grammars,
            tokenizer,
            self.admission,
            self.metrics,
            self.max_model_len,
        )
        self.created = int(time.time())
        self.is_ready = False

    async def start(self) -> None:
        self.worker.start()
        await self.decoders.start()
        await asyncio.to_thread(self.grammars.prepare)
        self.is_ready = True

    def drain(self) -> None:
        """Take no more requests; those under way go on."""
        self.is_ready = False
        self.admission.is_draining = True

    async def stop(self) -> None:
        self.drain()
        self.chat.abort()
        await asyncio.to_thread(self.worker.close)
        self.decoders.close()

    async def health(self, request: Request) -> Response:
        return json_response({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        if self.is_ready:
            return json_response({"status": "ready"})
        status = "draining" if self.admission.is_draining else "starting"
        raise ApiError(503, f"the server is {status}", code=status, headers={"retry-after": "5"})

    async def version(self, request: Request) -> Response:
        return json_response({"version": cpmv.__version__})

    async def show_metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def models(self, request: Request) -> Response:
        return json_response({"object": "list", "data": [self._model(name) for name in self.settings.served_names]})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        check_model(name, self.settings)
        return json_response(self._model(name))

    def _model(self, name: str) -> dict[str, Any]:
        model = {"id": name, "object": "model", "created": self.created, "owned_by": "cpmv"}
        return model | {"root": self.settings.served_names[0], "max_model_len": self.max_model_len}

    async def openapi(self, request: Request) -> Response:
        return json_response(document(self.settings))

    async def tokenize(self, http: Request) -> Response:
        """Token ids of a text, or of messages with everything the template and the media add."""
        with ExitStack() as held:
            request = await self._read(http, TokenizeRequest, held)
            check_model(request.model, self.settings)
            if isinstance(request.prompt, str) == isinstance(request.messages, list):
                raise bad_request("give either prompt or messages", "prompt")
            with self.admission.enter(client_of(http, None)):
                if isinstance(request.prompt, str):
                    if len(request.prompt) > MAX_TOKENIZED_CHARS:
                        raise bad_request(f"the prompt has more than {MAX_TOKENIZED_CHARS} characters", "prompt")
                    ids = await while_connected(http, asyncio.to_thread(self.tokenizer.encode, request.prompt))
                else:
                    assert isinstance(request.messages, list)
                    preparing = self.prompts.inputs(
                        request, request.messages, request.tools, client_of(http, None), thinking=request.thinking
                    )
                    ids = (await while_connected(http, preparing)).input_ids.tolist()
            found = {"count": len(ids), "max_model_len": self.max_model_len, "tokens": ids, "token_strs": None}
            if request.return_token_strs:
                found["token_strs"] = [self.tokenizer.decode([token]) for token in ids]
            return json_response(found)

    async def preview(self, http: Request) -> Response:
        """What the model will see of pictures, pages and videos, without generating anything."""
        with ExitStack() as held:
            request = await self._read(http, PreviewRequest, held)
            check_model(request.model, self.settings)
            client = client_of(http, None)
            with self.admission.enter(client):
                found = await while_connected(http, self.prompts.preview(request, request.content, client))
            return json_response(found)

    async def _read(self, http: Request, kind: Any, held: ExitStack) -> Any:
        body, taken = await read_body(http, self.settings, self.chat.bodies)
        held.callback(self.chat.bodies.release, taken)
        return read(kind, body)


def build(service: Service) -> ASGIApp:
    """Return the application of a service; its lifespan starts and stops the service."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    table: list[tuple[str, Any, str]] = [
        ("/v1/chat/completions", service.chat, "POST"),
        ("/v1/preview", service.preview, "POST"),
        ("/tokenize", service.tokenize, "POST"),
        ("/v1/models", service.models, "GET"),
        ("/v1/models/{name:path}", service.model, "GET"),
        ("/health", service.health, "GET"),
        ("/ready", service.ready, "GET"),
        ("/version", service.version, "GET"),
        ("/metrics", service.show_metrics, "GET"),
        ("/openapi.json", service.openapi, "GET"),
        ("/", page, "GET"),
        ("/page/{name}", page, "GET"),
    ]
    routes = [Route(path, _counted(path, endpoint(route)), methods=[method]) for path, route, method in table]
    handlers: Any = {HTTPException: _http_error}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return Guard(app, service.settings, service.metrics.count_response)


def _counted(path: str, route: Any) -> Any:
    """Name the route for the metrics, whose labels must be few."""
    return partial(_run_counted, path, route)


async def _run_counted(path: str, route: Any, request: Request) -> Any:
    request.scope["counted_path"] = path
    return await route(request)


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    said = {404: f"there is nothing at {request.url.path[:100]!r}", 405: f"{request.method} is not possible here"}
    headers = dict(error.headers or {})
    return error_response(ApiError(error.status_code, said.get(error.status_code, "refused"), headers=headers))
