"""The pieces of work that are timed, through the seams everyone uses: `Engine` and `encode_images`.

Each workload warms itself up in `prepare`, which returns what does it once and tells the seconds of one unit (a step, a
pass, a request). Prompts and pictures are new every time, so that no cache has them.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ..engine.engine import Engine
from ..engine.request import Request
from ..engine.sampling import SamplingParams
from ..inputs.processor import Processor
from ..model.config import ModelConfig, ModelInputs
from ..model.minicpmv import MiniCPMV
from . import limits
from .machine import Machine
from .timing import Work, timed, warm_up


@dataclass
class Bench:
    """What workloads share. weight_bytes: read by one decoding step."""

    network: MiniCPMV
    engine: Engine
    machine: Machine
    weight_bytes: int
    generator: torch.Generator
    processor: Processor
    _names: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def config(self) -> ModelConfig:
        return self.network.config

    def prompt(self, length: int) -> ModelInputs:
        """Return a prompt of random words that nobody has seen."""
        high = self.config.language.vocab_size
        return text_inputs(torch.randint(high, (length,), generator=self.generator), self.config.vision.patch_size)

    def slices(self, count: int) -> tuple[Tensor, Tensor]:
        """Return random pixels of `count` full slices: patches uint8 [count * L, 3, p, p], sizes [count, 2]."""
        side = self.slice_side
        size = (count * side * side, 3, self.config.vision.patch_size, self.config.vision.patch_size)
        pixels = torch.randint(256, size, dtype=torch.uint8, generator=self.generator)
        return pixels, torch.tensor([[side, side]] * count)

    @property
    def slice_side(self) -> int:
        """Patches along a side of a full slice."""
        return self.config.image.scale_resolution // self.config.vision.patch_size

    def pictures(self, num_groups: int, group: int = 1, video: bool = False) -> ModelInputs:
        """Return a prompt with `num_groups` groups of `group` slices, 8 words before and 24 after."""
        count, queries = num_groups * group, self.config.resampler.query_num
        patches, sizes = self.slices(count)
        words = self.prompt(32).input_ids
        places, bounds, at = [words[:8]], [], 8  # too few to fill a block that could be shared
        for _ in range(num_groups):
            places.append(torch.zeros(queries + 2, dtype=torch.int64))
            bounds.append([at + 1, at + 1 + queries])
            at += queries + 2
        times = [[3 * (i * group + j) if video else -1 for j in range(group)] for i in range(num_groups)]
        return ModelInputs(
            torch.cat([*places, words[8:]]), torch.tensor(bounds), patches, sizes, times, "", self.names(num_groups)
        )

    def names(self, count: int) -> list[str]:
        """Return names of contents that nobody has used, in place of digests."""
        return [f"bench-{next(self._names)}" for _ in range(count)]

    def unseen(self, inputs: ModelInputs) -> ModelInputs:
        """Return the same prompt as if its pictures were others."""
        return dataclasses.replace(inputs, media_hashes=self.names(len(inputs.media_hashes)))


def text_inputs(ids: Tensor, patch_size: int) -> ModelInputs:
    """Return a prompt of words alone."""
    none = torch.empty(0, 2, dtype=torch.int64)
    return ModelInputs(ids, none, torch.empty(0, 3, patch_size, patch_size, dtype=torch.uint8), none, [], "")


def greedy(count: int) -> SamplingParams:
    return SamplingParams(temperature=0, max_new_tokens=count)


class Workload(Protocol):
    """A line of the table.

    key: names it in JSON and for peers. per_unit: of `what` in one unit ("tok", "frames").
    """

    key: str
    label: str
    what: str
    per_unit: float

    def prepare(self) -> Work: ...
    def limit_s(self) -> float | None: ...
    def finish(self) -> None: ...


class Decode:
    """One step of `rows` sequences, from `context` tokens on."""

    what = "tok"

    def __init__(self, bench: Bench, rows: int, context: int, steps: int) -> None:
        self.key, self.label = f"decode-b{rows}-c{context}", f"decode, {rows} x context {context:,}"
        self.per_unit = float(rows)
        self._bench, self._rows, self._context, self._steps = bench, rows, context, steps
        self._requests: list[Request] = []

    def prepare(self) -> Work:
        engine = self._bench.engine
        params = greedy(4096)
        self._requests = [engine.add(self._bench.prompt(self._context), params) for _ in range(self._rows)]
        while any(request.num_generated < 3 for request in self._requests):
            engine.step()
        return self._repeat

    def _repeat(self) -> float:
        engine = self._bench.engine

        def run() -> None:
            for _ in range(self._steps):
                engine.step()

        before = self._generated()
        seconds = timed(self._bench.device, run)
        made = self._generated() - before
        assert made, "no token came; the requests have ended"
        return seconds * self._rows / made

    def _generated(self) -> int:
        return sum(request.num_generated for request in self._requests)

    def limit_s(self) -> float:
        b = self._bench
        return limits.decode_s(b.machine, b.config.language, b.weight_bytes, self._rows, self._context)

    def finish(self) -> None:
        for request in self._requests:
            self._bench.engine.cancel(request)
        self._bench.engine.step()


class Prefill:
    """A prompt of words, to its first token."""

    what = "tok"

    def __init__(self, bench: Bench, length: int) -> None:
        self.key, self.label, self.per_unit = f"prefill-{length}", f"prefill, {length:,} tokens", float(length)
        self._bench, self._length = bench, length

    def prepare(self) -> Work:
        return warm_up(self._repeat)

    def _repeat(self) -> float:
        return to_first_token(self._bench, self._bench.prompt(self._length))

    def limit_s(self) -> float:
        return limits.prefill_s(self._bench.machine, self._bench.config.language, self._length)

    def finish(self) -> None:
        return None


def to_first_token(bench: Bench, inputs: ModelInputs | Callable[[], ModelInputs]) -> float:
    """Return the seconds from handing in a prompt (or from beginning to prepare one) to its first token."""

    def run() -> None:
        made = inputs() if callable(inputs) else inputs
        bench.engine.wait(bench.engine.add(made, greedy(1)))

    return timed(bench.device, run)


class Vision:
    """Tower and resampler over slices whose pixels are in host memory. packed: slices that share a group."""

    def __init__(self, bench: Bench, count: int, packed: int = 1) -> None:
        kind = "slices" if packed == 1 else "frames"
        self.key, self.label = f"vision-{kind}-{count}", f"vision + resampler, {count} {kind}"
        if count == 1:
            self.label = self.label.removesuffix("s")
        self.what, self.per_unit = kind, float(count)
        self._bench, self._count, self._packed = bench, count, packed

    def prepare(self) -> Work:
        patches, sizes = self._bench.slices(self._count)
        groups = [
            [3 * j if self._packed > 1 else -1 for j in range(i, i + self._packed)]
            for i in range(0, self._count, self._packed)
        ]

        @torch.inference_mode()
        def encode() -> Tensor:
            return self._bench.network.encode_images(patches, sizes, groups)

        return warm_up(lambda: timed(self._bench.device, encode))

    def limit_s(self) -> float:
        b = self._bench
        return limits.vision_s(b.machine, b.config, self._count, b.slice_side**2, self._count // self._packed)

    def finish(self) -> None:
        return None


class FirstToken:
    """A prompt with pictures to its first token, pixels in memory."""

    def __init__(self, bench: Bench, num_groups: int, group: int = 1) -> None:
        self._groups, self._group, self._bench = num_groups, group, bench
        count = num_groups * group
        video = group > 1
        self.what = "frames" if video else "slices"
        self.key = f"first-token-{self.what}-{count}"
        self.label = f"{count} {self.what} in memory to first token"
        self.per_unit = float(count)
        self._length = 0

    def prepare(self) -> Work:
        inputs = self._bench.pictures(self._groups, self._group, video=self._group > 1)
        self._length = len(inputs)
        return warm_up(lambda: to_first_token(self._bench, self._bench.unseen(inputs)))

    def limit_s(self) -> float:
        b, count = self._bench, self._groups * self._group
        vision = limits.vision_s(b.machine, b.config, count, b.slice_side**2, self._groups)
        return vision + limits.prefill_s(b.machine, b.config.language, self._length)

    def finish(self) -> None:
        return None


class Throughput:
    """So many requests in flight, each of one picture and an answer of fixed length; another joins when one ends.

    A unit is a generated token; a repeat is twice as many requests as are in flight.
    """

    what, per_unit = "tok", 1.0

    def __init__(self, bench: Bench, in_flight: int, answer: int) -> None:
        self.key = f"throughput-{in_flight}"
        self.label = f"{in_flight} requests in flight, 1 picture + {answer} tokens each"
        self._bench, self._in_flight, self._answer = bench, in_flight, answer
        self._length = 0

    def prepare(self) -> Work:
        inputs = self._bench.pictures(1)
        self._length = len(inputs)
        self._run(inputs, self._in_flight, 4)
        return lambda: self._run(inputs, 2 * self._in_flight, self._answer)

    def _run(self, inputs: ModelInputs, count: int, answer: int) -> float:
        engine, running, left = self._bench.engine, set[Request](), count

        def run() -> None:
            nonlocal left
            while left or running:
                while left and len(running) < self._in_flight:
                    running.add(engine.add(self._bench.unseen(inputs), greedy(answer)))
                    left -= 1
                engine.step()
                running.difference_update([request for request in running if request.output is not None])

        return timed(self._bench.device, run) / (count * answer)

    def limit_s(self) -> float:
        b, n = self._bench, self._in_flight
        config = b.config.language
        seconds = limits.vision_s(b.machine, b.config, n, b.slice_side**2, n)
        seconds += limits.prefill_s(b.machine, config, self._length, n)
        seconds += self._answer * limits.decode_s(
            b.machine, config, b.weight_bytes, n, self._length + self._answer // 2
        )
        return seconds / (n * self._answer)

    def finish(self) -> None:
        return None
