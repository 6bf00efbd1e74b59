"""`cpmv serve`: a model behind OpenAI's protocol, and a page to use it in.

Flags -> `Settings`, a loaded model for each GPU, an engine over each, and `serve.run`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ..errors import CpmvError
from .arguments import UsageError, described, number, parse, text
from .progress import Progress

if TYPE_CHECKING:
    from ..api import Model
    from ..engine.engine import Engine
    from ..serve.settings import Settings

KEY_VARIABLE = "CPMV_API_KEY"

# One value a flag, given again for more: a flag that took all that follows would take MODEL as well.
_Names = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


@dataclass
class Serve:
    """Serve a model over HTTP: OpenAI's chat protocol at /v1, a page at /.

    Without further flags it listens to this machine only, fetches nothing and reads no files.
    """

    model: Annotated[
        str | None,
        tyro.conf.Positional,
        text("MODEL"),
        described("folder, .gguf file, Hugging Face id, or modelscope:ID; by default the bundled model"),
    ] = None
    host: Annotated[str, described("address to listen on; 0.0.0.0 for all (default: 127.0.0.1)", metavar="ADDRESS")] = (
        "127.0.0.1"
    )
    port: Annotated[
        int, number(int, "N", 0, 65535), described("port to listen on; 0 chooses a free one (default: 8000)")
    ] = 8000
    api_key: Annotated[
        _Names,
        described(
            "key that clients must send, repeatable; the variable CPMV_API_KEY keeps one out of process lists",
            metavar="KEY",
        ),
    ] = ()
    served_model_name: Annotated[
        _Names,
        described("name by which requests may ask for the model, repeatable (default: MODEL)", metavar="NAME"),
    ] = ()
    mmproj: Annotated[str | None, text("FILE"), described("vision half of a GGUF pair, if not beside it")] = None
    device: Annotated[str | None, text("DEVICE"), described("auto, cpu, cuda, cuda:N or mps (default: auto)")] = None
    dtype: Annotated[str | None, text("DTYPE"), described("auto, bfloat16, float16, float32 (default: auto)")] = None
    max_memory: Annotated[
        str | None, text("SIZE"), described("refuse to load what needs more, such as 8GB (default: what is free)")
    ] = None
    gpus: Annotated[int, number(int, "N", 1, 64), described("GPUs to use, each with the whole model (default: 1)")] = 1
    max_model_len: Annotated[
        int | None, number(int, "N", 2), described("most tokens, prompt and answer (default: what the model can)")
    ] = None
    max_num_seqs: Annotated[
        int, number(int, "N", 1, 4096), described("answers generated at once, on each GPU (default: 32)")
    ] = 32
    max_queue: Annotated[
        int, number(int, "N", 0, 1_000_000), described("requests that may wait; more get a 429 (default: 128)")
    ] = 128
    cache_memory: Annotated[
        str | None, text("SIZE"), described("memory for keys and values (default: a share of what is free)")
    ] = None
    limit_mm_per_prompt: Annotated[
        str | None,
        text("JSON"),
        described('most media in one request, such as \'{"image":5,"video":2,"pdf":1}\' (default: 64, 4, 8)'),
    ] = None
    video_packing: Annotated[
        int | None,
        number(int, "N", 1, 6),
        described("frames in one group where a request does not say (default: by length, up to 6)"),
    ] = None
    allowed_media_domains: Annotated[
        _Names,
        described(
            "host that media may be fetched from, repeatable: example.com, .example.com, http://host:port",
            metavar="DOMAIN",
        ),
    ] = ()
    allowed_media_networks: Annotated[
        _Names,
        described("private network that these hosts may be in, repeatable, such as 10.0.0.0/8", metavar="CIDR"),
    ] = ()
    allowed_local_media_path: Annotated[
        str | None, text("FOLDER"), described("folder that file: addresses may name files in (default: none)")
    ] = None
    allowed_hosts: Annotated[
        _Names,
        described("further host name that clients call this server by, as behind a proxy; repeatable", metavar="HOST"),
    ] = ()
    allowed_origins: Annotated[
        _Names,
        described(
            "other page that may use this server, such as https://chat.example.com; repeatable", metavar="ORIGIN"
        ),
    ] = ()
    max_request_size: Annotated[str, described("largest request body (default: 64MiB)", metavar="SIZE")] = "64MiB"
    decoders: Annotated[
        int | None, number(int, "N", 1, 256), described("processes that decode media (default: half the cores)")
    ] = None
    drain: Annotated[
        float, number(float, "SECONDS", 0, 3600), described("time that answers get when the server ends (default: 30)")
    ] = 30.0

    cluster: Annotated[
        str | None, text("ray|ADDRESS"), described("serve replicas behind Ray Serve: on a cluster found or begun here")
    ] = None
    replicas: Annotated[
        str | None, text("N|MIN-MAX"), described("with --cluster: replicas, or the range to scale in (default: 1)")
    ] = None

    def settings(self) -> Settings:
        """The server's settings. Raises CpmvError for flags that cannot be."""
        from ..serve.settings import MediaLimits, Settings

        keys = tuple(key for key in (*self.api_key, os.environ.get(KEY_VARIABLE, "")) if key)
        path = self.allowed_local_media_path
        if path is not None and not os.path.isdir(path):
            raise UsageError(f"--allowed-local-media-path {path!r} is not a folder")
        limits = MediaLimits()
        if self.limit_mm_per_prompt is not None:
            limits = MediaLimits(num_per_kind={**limits.num_per_kind, **_counts(self.limit_mm_per_prompt)})
        name = os.path.basename(self.model.rstrip("/")) if self.model and os.path.exists(self.model) else self.model
        return Settings(
            served_names=self.served_model_name or (name or "cpmv-tiny",),
            host=self.host,
            port=self.port,
            api_keys=keys,
            max_model_len=self.max_model_len,
            max_num_seqs=self.max_num_seqs * self.gpus,
            max_queue=self.max_queue,
            media=limits,
            media_domains=self.allowed_media_domains,
            media_networks=self.allowed_media_networks,
            media_path=path,
            num_decoders=self.decoders or max(1, (os.cpu_count() or 2) // 2),
            hosts=self.allowed_hosts,
            origins=self.allowed_origins,
            max_request_bytes=_size("max-request-size", self.max_request_size),
            drain_s=self.drain,
            video_packing=self.video_packing,
        )


def _counts(given: str) -> dict[str, int]:
    """Read --limit-mm-per-prompt."""
    try:
        value: Any = json.loads(given)
    except ValueError:
        raise UsageError(f"--limit-mm-per-prompt {given!r} is not JSON; write '{{\"image\": 5}}'") from None
    if not isinstance(value, dict) or not all(type(count) is int and count >= 0 for count in value.values()):
        raise UsageError("--limit-mm-per-prompt must be an object of counts, such as '{\"image\": 5}'")
    return value


def _size(flag: str, given: str) -> int:
    from ..weights.plan import parse_memory

    try:
        size = parse_memory(given)
    except CpmvError:
        raise UsageError(f"--{flag} {given!r} is no size; give bytes, or a size such as 64MiB or 8GB") from None
    assert size is not None
    return size


class _Tracebacks(logging.Handler):
    """Under a line that reports an error of ours, where it came from; a server's log is where it must be found."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            traceback.print_exception(record.exc_info[1])


def run(argv: list[str]) -> int:
    options = parse(Serve, "serve", argv)
    settings = options.settings()
    from ..serve.addresses import Domains, read_networks

    Domains(settings.media_domains)  # a wrong flag is told before the model takes its time to load
    read_networks(settings.media_networks)
    if options.replicas is not None and options.cluster is None:
        raise UsageError("--replicas needs --cluster; use --gpus for several GPUs of this machine")
    if options.cluster is not None:
        return _serve_on_cluster(options, settings)
    models = _load(options)
    from ..serve.app import Service
    from ..serve.run import serve

    log = logging.getLogger("cpmv")
    log.setLevel(logging.INFO)
    log.addHandler(_Tracebacks())
    if not settings.is_local and not settings.api_keys:
        print(
            f"cpmv: warning: listening on {settings.host} without a key: whoever reaches it can use it; see --api-key",
            file=sys.stderr,
        )
    engines = [_engine(options, model) for model in models]
    service = Service(settings, models[0].config, models[0].tokenizer, engines)
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    return serve(service, announce=f"cpmv: serving {settings.served_names[0]} at http://{shown}:{{port}}")


def _serve_on_cluster(options: Serve, settings: Settings) -> int:
    from ..cluster.serve import Served, read_replicas, serve_on_ray

    if options.gpus > 1:
        raise UsageError("--gpus is for this machine; with --cluster give --replicas, each with a GPU of its own")
    size = None if options.cache_memory is None else _size("cache-memory", options.cache_memory)
    served = Served(
        settings,
        options.model,
        {name: getattr(options, name) for name in ("device", "dtype", "mmproj", "max_memory")},
        {"max_batch": options.max_num_seqs, "cache_bytes": size},
    )

    def announce() -> None:
        where = f"http://{settings.host}:{settings.port}"
        print(f"cpmv: serving {settings.served_names[0]} on Ray at {where}", file=sys.stderr, flush=True)

    assert options.cluster is not None
    return serve_on_ray(served, options.cluster, read_replicas(options.replicas or "1"), announce)


def _load(options: Serve) -> list[Model]:
    """Load the model once for each GPU."""
    import cpmv

    devices: list[str | None] = [options.device]
    if options.gpus > 1:
        import torch

        if not torch.cuda.is_available() or torch.cuda.device_count() < options.gpus or options.device is not None:
            found = torch.cuda.device_count() if torch.cuda.is_available() else 0
            raise UsageError(f"--gpus {options.gpus} needs so many CUDA GPUs and no --device; there are {found}")
        devices = [f"cuda:{index}" for index in range(options.gpus)]
    models = []
    for device in devices:
        with Progress("loading weights", "bytes") as progress:
            models.append(
                cpmv.load(
                    options.model,
                    device=device,
                    dtype=options.dtype,
                    mmproj=options.mmproj,
                    max_memory=options.max_memory,
                    progress=progress,
                )
            )
    return models


def _engine(options: Serve, model: Model) -> Engine:
    from ..engine.engine import Engine

    size = None if options.cache_memory is None else _size("cache-memory", options.cache_memory)
    return Engine(model.network, model.tokenizer, max_batch=options.max_num_seqs, cache_bytes=size)
