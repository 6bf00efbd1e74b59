"""Processes that decode media: they can be killed, so no file holds the server longer, or larger, than allowed.

Each process holds the processor (tokenizer, template, image settings) but no weights. A `Job` goes in and `ModelInputs`
come out as msgpack over a pipe. A job that takes too long, or whose client has left, costs its process, which is
replaced at once; so does a decoder that crashes or asks for more memory than it may have. Clients take turns.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import signal
import tempfile
import threading
import time
from collections import OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..errors import ContextLengthError, CpmvError, MediaError, MessageError
from .errors import ApiError, bad_request, from_cpmv
from .prompts import Job, pack, prepare, unpack
from .settings import MediaLimits

if TYPE_CHECKING:
    from ..inputs.text import Tokenizer
    from ..model.config import ModelConfig, ModelInputs

log = logging.getLogger("cpmv")

POLL_S = 0.05  # how soon a client that left is noticed while its media are decoded
START_TIMEOUT_S = 120
_MISTAKES = {kind.__name__: kind for kind in (MediaError, MessageError, CpmvError)}


class Reply(msgspec.Struct):
    """What a decoding process answers: tensors as bytes with their shapes, a preview, or a mistake of the caller."""

    input_ids: list[int] = []
    image_bounds: list[tuple[int, int]] = []
    patches: bytes = b""
    patches_shape: tuple[int, ...] = ()
    tgt_sizes: list[tuple[int, int]] = []
    temporal_ids: list[list[int]] = []
    text: str = ""
    media_hashes: list[str] = []
    preview: dict[str, Any] | None = None
    error: str | None = None
    error_kind: str = ""
    num_tokens: int = 0
    limit: int = 0


_REPLIES = msgspec.msgpack.Decoder(Reply)  # working a type out is not safe in two threads at a time


class Decoders:
    """A few decoding processes shared by all requests.

    `start` before use, `close` at the end. `run` waits for a free process, giving clients their turns.
    """

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, limits: MediaLimits, num_processes: int) -> None:
        self._limits = limits
        self._folder = tempfile.TemporaryDirectory(prefix="cpmv-serve-")
        tokenizer.save(self._folder.name)
        (Path(self._folder.name) / "model_config.msgpack").write_bytes(msgspec.msgpack.encode(config))
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["cpmv.serve.decoders", "cpmv.inputs.processor", "cpmv.inputs.decode"])
        self._processes = [_Process(self._context, self._folder.name, limits) for _ in range(max(1, num_processes))]
        self._threads = ThreadPoolExecutor(len(self._processes), thread_name_prefix="decode")
        self._turns = Turns(len(self._processes))
        self._free: deque[_Process] = deque(self._processes)

    async def start(self) -> None:
        """Start every process and wait until each has loaded what it needs."""
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(self._threads, one.start) for one in self._processes))

    async def run(self, job: Job, client: str = "") -> Any:
        """Prepare a job's `ModelInputs` (or its preview, a dictionary).

        Raises ApiError: 400 for the caller's mistakes, with the one line that says which. When the waiting task is
        cancelled, the work ends too.
        """
        payload = pack(job)
        await self._turns.acquire(client)
        process, left = self._free.popleft(), threading.Event()
        call = asyncio.get_running_loop().run_in_executor(
            self._threads, process.ask, payload, self._limits.decode_timeout_s, left
        )
        try:
            reply = await asyncio.shield(call)
        except asyncio.CancelledError:
            left.set()
            raise
        finally:
            call.add_done_callback(lambda _: self._give_back(process))
        return await asyncio.to_thread(_open_reply, reply)

    def _give_back(self, process: _Process) -> None:
        self._free.append(process)
        self._turns.release()

    @property
    def num_waiting(self) -> int:
        return self._turns.num_waiting

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._folder.cleanup()


class Turns:
    """A semaphore whose waiters are served client by client, each client's in order."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def num_waiting(self) -> int:
        return sum(len(queue) for queue in self._waiting.values())

    async def acquire(self, client: str) -> None:
        if self._places > 0 and not self._waiting:
            self._places -= 1
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.release()  # it was given just now
            else:
                self._forget(client, place)
            raise

    def release(self) -> None:
        """Pass the place on to the client whose turn it is."""
        while self._waiting:
            client, queue = self._waiting.popitem(last=False)
            place = queue.popleft()
            if queue:
                self._waiting[client] = queue  # to the end of the line
            if not place.done():
                place.set_result(None)
                return
        self._places += 1

    def _forget(self, client: str, place: asyncio.Future[None]) -> None:
        queue = self._waiting.get(client)
        if queue is not None and place in queue:
            queue.remove(place)
            if not queue:
                del self._waiting[client]


class _Process:
    """One decoding process and its pipe; used by one thread at a time."""

    def __init__(self, context: Any, folder: str, limits: MediaLimits) -> None:
        self._context, self._folder, self._limits = context, folder, limits
        self._process: Any = None
        self._pipe: Connection | None = None
        self._closed = False

    def start(self) -> None:
        ours, theirs = self._context.Pipe()
        self._process = self._context.Process(
            target=_serve, args=(theirs, self._folder, self._limits.max_decode_memory_bytes), daemon=True
        )
        self._process.start()
        theirs.close()
        self._pipe = ours
        if not ours.poll(START_TIMEOUT_S):
            self.kill()
            raise CpmvError("a decoding process did not start; is the machine out of memory?")
        ours.recv_bytes()
        ours.send_bytes(msgspec.msgpack.encode(self._limits))

    def kill(self) -> None:
        self._closed = True
        self._stop()

    def _stop(self) -> None:
        process, pipe = self._process, self._pipe
        if process is not None and process.is_alive():
            process.kill()
            process.join(5)
        if pipe is not None:
            pipe.close()
        self._process = self._pipe = None

    def ask(self, payload: bytes, timeout_s: float, left: threading.Event) -> Reply:
        """Send a job, wait for its reply. The process does not outlive a job that fails to end."""
        if self._pipe is None:
            if self._closed:
                raise ApiError(503, "the server is shutting down")
            self.start()
        assert self._pipe is not None
        deadline = time.monotonic() + timeout_s
        try:
            self._pipe.send_bytes(payload)
            while not self._pipe.poll(POLL_S):
                if left.is_set():
                    self._stop()
                    raise bad_request("the client has left")
                if time.monotonic() > deadline:
                    self._stop()
                    raise bad_request(f"the media took more than {timeout_s:g} s to decode; send less, or smaller")
            return _REPLIES.decode(self._pipe.recv_bytes())
        except (OSError, EOFError):
            self._stop()
            if self._closed:
                raise ApiError(503, "the server is shutting down") from None
            log.warning("a decoding process ended over a file; it is replaced")
            raise bad_request(
                "the media could not be decoded within the memory allowed for it, or the decoder failed on it"
            ) from None


def _open_reply(reply: Reply) -> ModelInputs | dict[str, Any]:
    if reply.error is not None:
        if reply.error_kind == ContextLengthError.__name__:
            error = bad_request(reply.error, "messages", "context_length_exceeded")
        else:
            error = from_cpmv(_MISTAKES[reply.error_kind](reply.error))
        raise error
    if reply.preview is not None:
        return reply.preview
    import torch

    from ..model.config import ModelInputs

    # A bytearray, because torch warns about tensors over memory that may not be written.
    flat = torch.frombuffer(bytearray(reply.patches), dtype=torch.uint8) if reply.patches else torch.empty(0)
    return ModelInputs(
        input_ids=torch.tensor(reply.input_ids, dtype=torch.int64),
        image_bounds=torch.tensor(reply.image_bounds, dtype=torch.int64).reshape(-1, 2),
        patches=flat.to(torch.uint8).reshape(reply.patches_shape),
        tgt_sizes=torch.tensor(reply.tgt_sizes, dtype=torch.int64).reshape(-1, 2),
        temporal_ids=reply.temporal_ids,
        text=reply.text,
        media_hashes=reply.media_hashes,
    )


def _serve(pipe: Connection, folder: str, max_memory_bytes: int) -> None:
    """The decoding process: load the processor, then answer jobs until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the server decides
    import torch

    from ..inputs.processor import Processor
    from ..inputs.text import Tokenizer
    from ..model.config import ModelConfig

    torch.set_num_threads(1)
    config = msgspec.msgpack.decode((Path(folder) / "model_config.msgpack").read_bytes(), type=ModelConfig)
    processor = Processor(config, Tokenizer.from_folder(folder))
    _limit_memory(max_memory_bytes)
    try:
        pipe.send_bytes(b"ready")
        limits = msgspec.msgpack.decode(pipe.recv_bytes(), type=MediaLimits)
        while True:
            job = unpack(pipe.recv_bytes())
            pipe.send_bytes(msgspec.msgpack.encode(_answer(job, processor, limits)))
    except (EOFError, OSError):
        return


def _answer(job: Job, processor: Any, limits: MediaLimits) -> Reply:
    from .preview import preview

    try:
        if job.task == "preview":
            return Reply(preview=preview(job, processor, limits))
        inputs = prepare(job, processor, limits)
    except ContextLengthError as error:
        return Reply(error=str(error), error_kind="ContextLengthError")
    except CpmvError as error:
        kind = type(error).__name__
        return Reply(error=str(error), error_kind=kind if kind in _MISTAKES else "CpmvError")
    except MemoryError:
        return Reply(error="the media need more memory to decode than is allowed; send less", error_kind="MediaError")
    return Reply(
        input_ids=inputs.input_ids.tolist(),
        image_bounds=[(int(a), int(b)) for a, b in inputs.image_bounds.tolist()],
        patches=inputs.patches.contiguous().numpy().tobytes(),
        patches_shape=tuple(inputs.patches.shape),
        tgt_sizes=[(int(a), int(b)) for a, b in inputs.tgt_sizes.tolist()],
        temporal_ids=inputs.temporal_ids,
        text=inputs.text,
        media_hashes=inputs.media_hashes,
    )


def _limit_memory(max_bytes: int) -> None:
    """Bound what this process may allocate beyond what it holds now. Linux counts it; elsewhere the limit is moot."""
    import resource

    try:
        held = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    except (OSError, IndexError, ValueError):
        return
    resource.setrlimit(resource.RLIMIT_DATA, (held + max_bytes, resource.RLIM_INFINITY))
