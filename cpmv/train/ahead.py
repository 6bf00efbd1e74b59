"""Drawing the next step's batch while the present one is trained on.

Drawing is thousands of tiny kernels, each waiting for the one before; training is fewer and larger ones. On two streams
they share the chip. Every key has two graphs: one draws, on a stream and in a memory pool of its own, and copies the
batch into tensors that stay; the other trains on those. All drawings share their pool, so what one leaves there lasts
until the next alone. Random numbers are drawn in the order of the steps, as without it, so nothing changes but the
time; a saved state holds the generator as it was before the drawing that is ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .step import Objective


class Branches:
    """Parts of a captured graph that run side by side: streams that fork from the current one and join it again.

    Outside a capture, and unless `enabled`, the parts run one after the other, on the current stream.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.enabled = device, False
        self._streams: list[torch.cuda.Stream] = []
        self._forked = 0

    @contextmanager
    def branch(self) -> Iterator[None]:
        """What is launched within may run beside other branches until `join`."""
        if not self.enabled or self.device.type != "cuda" or not torch.cuda.is_current_stream_capturing():
            yield
            return
        current = torch.cuda.current_stream(self.device)
        if self._forked == len(self._streams):
            self._streams.append(torch.cuda.Stream(self.device))
        stream = self._streams[self._forked]
        self._forked += 1
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            yield

    def join(self) -> None:
        """Let the current stream wait for all branches."""
        current = torch.cuda.current_stream(self.device) if self._forked else None
        for stream in self._streams[: self._forked]:
            assert current is not None
            current.wait_stream(stream)
        self._forked = 0


class Ahead:
    """Draws batches on a side stream. `generator` must be used by nothing else between `start` and `take`."""

    def __init__(
        self, objective: Objective, device: torch.device, generator: torch.Generator, capture_mode: str = "global"
    ) -> None:
        self.objective, self.device, self.generator = objective, device, generator
        self._mode = capture_mode
        self.stream = torch.cuda.Stream(device)
        self._draw: dict[Any, Callable[[], None]] = {}
        self._drawn: dict[Any, torch.cuda.Event] = {}
        self._used: dict[Any, torch.cuda.Event] = {}
        self._samples: dict[Any, int] = {}
        self._pool: Any = None
        self._ready: tuple[Any, int] | None = None
        self._before: Tensor | None = None

    def __contains__(self, key: Any) -> bool:
        return key in self._draw

    def capture(self, key: Any, held: Sequence[Any]) -> None:
        """Record how the batches of a key are drawn into `held`, earlier batches of the same key."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        with torch.cuda.graph(graph, pool=self._pool, stream=self.stream, capture_error_mode=self._mode):
            for batch, fresh in zip(held, self.objective.load(key, self.generator), strict=True):
                for target, source in zip(batch.tensors(), fresh.tensors(), strict=True):
                    target.copy_(source)
        self._pool = self._pool or graph.pool()
        self._draw[key] = graph.replay
        self._drawn[key], self._used[key] = torch.cuda.Event(), torch.cuda.Event()

    def start(self, key: Any, step: int) -> None:
        """Begin to draw a step's batch, once the last one of this key has been used."""
        self._before = self.generator.get_state()
        with torch.cuda.stream(self.stream):
            self.stream.wait_event(self._used[key])
            self.objective.feed(key, step)
            self._draw[key]()
            self._drawn[key].record(self.stream)
        self._samples[key] = self.objective.samples_per_step
        self._ready = (key, step)

    def take(self, key: Any, step: int) -> int:
        """Let the current stream wait for a step's batch, drawn ahead or now; return its number of samples."""
        if self._ready != (key, step):
            self.start(key, step)
        torch.cuda.current_stream(self.device).wait_event(self._drawn[key])
        self._ready, self._before = None, None
        return self._samples[key]

    def release(self, key: Any) -> None:
        """Say that the work launched so far on the current stream is the last to read the key's batch."""
        self._used[key].record(torch.cuda.current_stream(self.device))

    def resumable(self) -> torch.Generator:
        """The generator as a resumed run needs it: without what has been drawn ahead."""
        if self._before is None:
            return self.generator
        twin = torch.Generator(self.device)
        twin.set_state(self._before)
        return twin
