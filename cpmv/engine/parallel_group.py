"""The processes of several GPUs: rank 0 starts the others, watches them, and takes them along when it goes.

A rank that dies ends all of them with one line; one whose parent is gone ends by itself, since its standard input
closes. Started in sessions of their own, they see no Ctrl-C.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.distributed as dist

from ..errors import CpmvError, OutOfMemoryError
from ..inputs.text import Tokenizer
from ..model.config import ModelConfig
from ..weights import checkpoint, hub
from ..weights.plan import free_memory, gigabytes
from .parallel import ParallelEngine, follow
from .parallel_link import Link, ParallelError, SplitMiniCPMV
from .parallel_plan import Order
from .parallel_split import split_config, split_into

log = logging.getLogger("cpmv")

_SECONDS_TO_END = 10.0


@dataclass(frozen=True)
class Origin:
    """What every rank loads its part from; the same values as `cpmv.load` takes. device: "cuda" or "cpu"."""

    source: str | None
    mmproj: str | None = None
    revision: str | None = None
    device: str = "cuda"
    dtype: str | None = None


@dataclass(frozen=True)
class Part:
    """A rank's part of a model, in its memory."""

    network: SplitMiniCPMV
    tokenizer: Tokenizer
    config: ModelConfig
    format: str
    nbytes: int


def load_part(origin: Origin, rank: int, size: int) -> Part:
    """Load a rank's part. Raises CpmvError for what cannot be shared out, OutOfMemoryError where it does not fit."""
    from ..device import choose

    device = torch.device(origin.device, rank) if origin.device == "cuda" else torch.device(origin.device)
    found = hub.resolve(origin.source, mmproj=origin.mmproj, revision=origin.revision)
    catalogue = checkpoint.open_catalogue(found)
    dtype = catalogue.config.torch_dtype
    place = choose(device, origin.dtype, stored_dtype=dtype, stored_bytes=catalogue.nbytes)
    # Mapped from its files: in their own dtype nothing is read before it is cut.
    loaded = checkpoint.load(catalogue, device="cpu", dtype=place.dtype)
    with torch.device("meta"):
        network = SplitMiniCPMV(split_config(loaded.config, size))
    free = free_memory(device)
    try:
        split_into(network, loaded.model, rank, size, device, place.dtype)
    except torch.OutOfMemoryError:
        raise OutOfMemoryError(
            f"a {size}th of the weights does not fit the {gigabytes(free)} that are free on {device}"
        ) from None
    tensors = [*network.parameters(), *network.buffers()]
    nbytes = sum({t.data_ptr(): t.nbytes for t in tensors}.values())
    log.info("rank %d of %d on %s: %s of weights", rank, size, device, gigabytes(nbytes))
    return Part(network.eval(), loaded.tokenizer, loaded.config, loaded.format, nbytes)


class Group:
    """Rank 0 and its processes. Make it with `start`."""

    def __init__(self, part: Part, processes: list[subprocess.Popen[str]], link: Link) -> None:
        self.part, self.link = part, link
        self.retired: deque[int] = deque()
        self._processes = processes
        self._failure: str | None = None
        self._closed = False
        self._state = threading.Lock()
        self._talk = threading.RLock()
        part.network.link = link
        for rank, process in enumerate(processes, 1):
            threading.Thread(target=self._watch, args=(rank, process), daemon=True).start()
        atexit.register(self.close)

    @property
    def pids(self) -> list[int]:
        """The other ranks' processes."""
        return [process.pid for process in self._processes]

    @property
    def failure(self) -> str | None:
        return self._failure

    def engine(self, **options: Any) -> ParallelEngine:
        """Make an engine over all ranks."""
        return ParallelEngine(self.part.network, self.part.tokenizer, self, self._talk, **options)

    def fail(self, reason: str) -> str:
        """End the other processes; return the first reason that was given."""
        with self._state:
            if self._failure is None:
                gone = [(rank, p.poll()) for rank, p in enumerate(self._processes, 1) if p.poll() is not None]
                if gone and not self._closed:
                    reason = f"the process of rank {gone[0][0]} ended with code {gone[0][1]}"
                self._failure = f"{reason}; the model of {self.link.size} processes must be loaded again"
                if not self._closed:
                    log.error("%s", self._failure)
        for process in self._processes:
            process.kill()
        return self._failure

    def _watch(self, rank: int, process: subprocess.Popen[str]) -> None:
        code = process.wait()
        if self._closed:
            return
        self.fail(f"the process of rank {rank} ended with code {code}")
        if self.link.device.type == "cuda":
            # A kernel of NCCL that waits for the dead is never done; whoever holds the lock waits for it.
            if self._talk.acquire(timeout=_SECONDS_TO_END):
                self._talk.release()
            else:
                os._exit(1)

    def close(self) -> None:
        """End the other processes; engines cannot be used any more."""
        with self._state:
            if self._closed:
                return
            self._closed = True
        atexit.unregister(self.close)
        if self._failure is None:
            self._failure = "the model was closed"
            with self._talk:
                try:
                    self.link.tell([Order.STOP])
                except RuntimeError as error:
                    log.debug("the other ranks are gone already: %s", error)
        _end_all(self._processes)
        self.link.close()


def start(origin: Origin, size: int) -> Group:
    """Load a model over `size` processes of this host, a GPU each; this one is rank 0.

    Raises CpmvError where that cannot be, with the reason of whichever rank has one.
    """
    if size < 2:
        raise CpmvError(f"gpus={size} is nothing to share; leave it out, or give 2 or more")
    if dist.is_initialized():
        raise ParallelError("this process is in a torch.distributed group already; load the model outside of it")
    if origin.device == "cuda" and torch.cuda.device_count() < size:
        available = torch.cuda.device_count()
        raise CpmvError(f"--gpus {size} was asked for, but this machine has {available}; give --gpus at most that")
    found = hub.resolve(origin.source, mmproj=origin.mmproj, revision=origin.revision)  # downloaded once
    mmproj = None if found.mmproj is None else str(found.mmproj)
    origin = replace(origin, source=str(found.path), mmproj=mmproj, revision=None)
    store = dist.TCPStore("127.0.0.1", 0, size, is_master=True, wait_for_workers=False)
    words = json.dumps({"port": store.port, "size": size, "origin": asdict(origin)})
    processes = [_spawn(rank, words) for rank in range(1, size)]
    try:
        part = load_part(origin, 0, size)
        for rank, process in enumerate(processes, 1):
            assert process.stdout is not None
            answer = process.stdout.readline().strip()
            if answer != "ready":
                ended = f"ended with code {process.wait()} before it was ready"
                raise ParallelError(answer.removeprefix("error: ") or f"the process of rank {rank} {ended}")
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        link = Link.connect(store, 0, size, _device_of(part.network))
    except BaseException:
        _end_all(processes, wait_s=0)
        raise
    return Group(part, processes, link)


def _device_of(network: SplitMiniCPMV) -> torch.device:
    return network.device


def _spawn(rank: int, words: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "cpmv.engine.parallel_group", str(rank)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None
    process.stdin.write(words + "\n")
    process.stdin.flush()
    return process


def _end_all(processes: list[subprocess.Popen[str]], wait_s: float = _SECONDS_TO_END) -> None:
    deadline = time.monotonic() + wait_s
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _end_with_parent() -> None:
    """Wait for the end of standard input, which comes with the parent's."""
    while os.read(0, 1):  # not through sys.stdin, whose lock would be held when this process ends
        pass
    os._exit(1)


def main(rank: int) -> int:
    """Be one of the other ranks: load, say so, follow."""
    words = json.loads(sys.stdin.readline())
    size = int(words["size"])
    try:
        part = load_part(Origin(**words["origin"]), rank, size)
    except CpmvError as error:
        print(f"error: {error}", flush=True)
        return 2
    print("ready", flush=True)
    if sys.stdin.readline() != "go\n":
        return 1
    threading.Thread(target=_end_with_parent, daemon=True).start()
    store = dist.TCPStore("127.0.0.1", int(words["port"]), size, is_master=False)
    link = Link.connect(store, rank, size, _device_of(part.network))
    part.network.link = link
    try:
        follow(part.network, link)
    except Exception as error:  # rank 0 notices that this process is gone
        print(f"cpmv: rank {rank}: {str(error).splitlines()[0]}", file=sys.stderr, flush=True)
        os._exit(1)
    link.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
