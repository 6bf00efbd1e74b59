"""One optimiser step on the device: load, count, differentiate, update; on a GPU replayed as CUDA graphs.

A step launches thousands of small kernels, drawing included; replayed as a graph it costs one launch. There is one
graph for every key the objective can ask for (a combination of patch grids). The first visit of a key runs eagerly and
compiles, the second captures, later ones replay. With several GPUs the sums across ranks stand between three graphs.
Whatever cannot be captured or compiled is said aloud and run the slower way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .ahead import Ahead
from .distributed import World
from .optim import Optimizer
from .sharded_optim import ShardedOptimizer

log = logging.getLogger("cpmv")
PATCH_EMBEDDING = "vpm.embeddings.patch_embedding.weight"


class Objective(Protocol):
    """What is trained for. A step is a list of micro-batches; each gives sums and counts in the order of `names`.

    The loss is the sum over names of weights · sum / (count over all micro-batches and ranks): independent of how a
    step is split. `capturable`: `load` and `sums` are fixed sequences of device operations for a given key. `feed` may
    bring what `load` reads from the host, and runs outside any graph.
    """

    names: tuple[str, ...]
    weights: Tensor  # float32 [len(names)], on the device
    capturable: bool
    samples_per_step: int  # on this GPU

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]: ...
    def key(self, step: int, seed: int) -> Any: ...
    def feed(self, key: Any, step: int) -> None: ...
    def load(self, key: Any, generator: torch.Generator | None) -> Sequence[Any]: ...
    def counts(self, batch: Any) -> Tensor: ...
    def sums(self, batch: Any) -> Tensor: ...
    def set_progress(self, fade: float) -> None: ...
    def flops(self, key: Any) -> float: ...


def own_stream(device: torch.device) -> None:
    """Make a new side stream the current one: rates, warm-up, capture and replay stay in order on it.

    It comes before others, so that what is drawn ahead fills gaps only.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.set_stream(torch.cuda.Stream(device, priority=-1))


class Step:
    """Runs steps and accumulates what they measured. `generator` feeds everything random in a step.

    graphs: "whole" (drawing inside the graph), "step" (drawing outside), "off". autocast: bfloat16 or None. With
    graphs everything must run on one stream that is not the default one: see `own_stream`. ahead: with "whole", draw
    the next step's batch while this one is trained on (not yet run to an end on a GPU). num_samples: of the last step.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: Optimizer | ShardedOptimizer,
        world: World,
        generator: torch.Generator,
        *,
        autocast: torch.dtype | None = None,
        graphs: str = "off",
        ahead: bool = False,
    ) -> None:
        self.objective, self.optimizer, self.world, self.generator = objective, optimizer, world, generator
        self.autocast = autocast
        self.device = generator.device
        self.graphs = graphs if objective.capturable and self.device.type == "cuda" else "off"
        self._ahead: Ahead | None = None
        self._draws_ahead = ahead and self.graphs == "whole"
        self.num_samples = 0
        num = len(objective.names)
        self._counts = torch.zeros(num, device=self.device)
        self._sums = torch.zeros(num, device=self.device)
        # losses (this rank's share), gradient norm, patch-embedding gradient norm
        self._seen = torch.zeros(num + 2, device=self.device)
        self._num_seen = 0
        self._patch_grad = self._view_of(PATCH_EMBEDDING)
        self._batches: dict[Any, Sequence[Any]] = {}
        self._static: dict[Any, Sequence[Any]] = {}
        self._held: dict[Any, Sequence[Any]] = {}  # batches that drawing ahead fills
        self._captured: dict[Any, list[Callable[[], Any]]] = {}
        self._visited: set[Any] = set()
        self._pool: Any = None
        # What to give up, in this order, when a first step fails: (name, what it does).
        self.fallbacks: list[tuple[str, Callable[[], None]]] = []

    def _view_of(self, name: str) -> Tensor | None:
        if name not in self.optimizer.layout:
            return None
        assert isinstance(self.optimizer, Optimizer)
        start, shape = self.optimizer.layout[name]
        return self.optimizer.grads[start : start + shape.numel()]

    def run(self, key: Any, step: int, following: Any = None) -> None:
        """Do one step, the run's `step`th. `optimizer.lr` and the objective's weights hold the rates to use.

        following: the next step's key, if it is known, to draw for it ahead.
        """
        self._num_seen += 1
        if self._draws_ahead and key in self._visited and (key in self._captured or self._try_capture(key)):
            if self._ahead is not None:
                self._replay_ahead(self._ahead, key, step, following)
                return
        self.objective.feed(key, step)
        self.num_samples = self.objective.samples_per_step
        if self.graphs != "off" and key in self._visited:
            if key in self._captured or self._try_capture(key):
                for part in self._captured[key]:
                    part()
                return
        self._eager(key)
        self._visited.add(key)

    def _replay_ahead(self, ahead: Ahead, key: Any, step: int, following: Any) -> None:
        self.num_samples = ahead.take(key, step)
        for part in self._captured[key]:
            part()
        ahead.release(key)
        if following in ahead and following != key:
            ahead.start(following, step + 1)

    @property
    def resumable_generator(self) -> torch.Generator:
        """The generator to save: as it stood after the last step, whatever has been drawn ahead."""
        return self.generator if self._ahead is None else self._ahead.resumable()

    def release(self) -> None:
        """Give the graphs' memory back, at the end of a run or before something large; they are recorded anew."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.generator = self.resumable_generator
        self._ahead = None
        for held in (self._captured, self._batches, self._held, self._static, self._visited):
            held.clear()
        self._pool = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _eager(self, key: Any) -> None:
        before = self.generator.get_state()
        try:
            self._load(key)
            self._add_counts()
            self._differentiate(key)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if not self.fallbacks or key in self._visited:
                raise
            name, give_up = self.fallbacks.pop(0)
            log.warning("a step failed (%s); going on without %s, slower", _one_line(error), name)
            give_up()
            self.generator.set_state(before)
            self._eager(key)
            return
        self._add_grads()
        self._update()
        if self._draws_ahead:
            self._held[key] = self._batches.pop(key)
        self._batches.clear()

    def _load(self, key: Any) -> None:
        batches = self.objective.load(key, self.generator)
        self._batches[key] = batches
        self._count(batches)

    def _count(self, batches: Sequence[Any]) -> None:
        self._counts.zero_()
        for batch in batches:
            self._counts += self.objective.counts(batch)

    def _add_counts(self) -> None:
        self.world.add(self._counts)

    def _differentiate(self, key: Any) -> None:
        self.optimizer.zero_grad()
        self._sums.zero_()
        scale = self.objective.weights * self.optimizer.loss_scale / self._counts.clamp(min=1)
        for batch in self._batches[key]:
            dtype = self.autocast or torch.bfloat16
            with torch.autocast(self.device.type, dtype, enabled=self.autocast is not None):
                sums = self.objective.sums(batch)
            (sums * scale).sum().backward()
            self._sums += sums.detach()

    def _add_grads(self) -> None:
        self.optimizer.add_grads(self.world)

    @torch.no_grad()
    def _update(self) -> None:
        num = len(self._sums)
        self._seen[:num] += self._sums / self._counts.clamp(min=1)
        if self._patch_grad is not None:
            self._seen[num + 1] += self._patch_grad.norm()
        self._seen[num] += self.optimizer.step()

    def _try_capture(self, key: Any) -> bool:
        """Record the graphs of a key; on failure step down one level and say so."""
        before = self.generator.get_state()
        while self.graphs != "off":
            try:
                self._captured[key] = self._capture(key)
                return True
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                if self._draws_ahead:
                    log.warning("drawing ahead failed (%s); going on with one graph a step", _one_line(error))
                    self._draws_ahead, self._ahead = False, None
                    self._held.clear()
                else:
                    lower = {"whole": "step", "step": "off"}[self.graphs]
                    cost = "drawing outside the graph" if lower == "step" else "no CUDA graphs, several times slower"
                    log.warning("CUDA graph %r failed (%s); going on with %s", self.graphs, _one_line(error), cost)
                    self.graphs = lower
                self._captured.clear()
                self._batches.clear()
                torch.cuda.synchronize(self.device)
                # A failed capture leaves a generator unusable; a twin in the same state goes on.
                self.generator = torch.Generator(self.device)
                self.generator.set_state(before)
        return False

    def _capture(self, key: Any) -> list[Callable[[], Any]]:
        if self._draws_ahead:
            return self._capture_ahead(key)
        load: list[Callable[[], Any]]
        if self.graphs == "whole":
            load, parts = [], [[lambda: self._load(key)], [lambda: self._differentiate(key)], [self._update]]
        else:
            self._static[key] = self.objective.load(key, self.generator)
            load, parts = [lambda: self._refill(key)], [[lambda: self._differentiate(key)], [self._update]]
            self._batches[key] = self._static[key]
        between = [self._add_counts, self._add_grads]
        if load:
            load.append(between.pop(0))
        program: list[Callable[[], Any]] = [*load]
        if self.world.size == 1:  # nothing to add: one graph
            return [*program, self._record([part for group in parts for part in group])]
        for i, group in enumerate(parts):
            program.append(self._record(group))
            program += between[i : i + 1]
        return program

    def _capture_ahead(self, key: Any) -> list[Callable[[], Any]]:
        """Record drawing on its own stream, and the rest of the step here."""
        self._ahead = self._ahead or Ahead(self.objective, self.device, self.generator, self._capture_mode)
        self._batches[key] = batches = self._held[key]
        self._ahead.capture(key, batches)
        groups = [lambda: self._count(batches), lambda: self._differentiate(key), self._update]
        if self.world.size == 1:
            return [self._record(groups, random=False)]
        count, differentiate, update = (self._record([part], random=False) for part in groups)
        return [count, self._add_counts, differentiate, self._add_grads, update]

    @property
    def _capture_mode(self) -> str:
        """Other threads (a collective's watchdog) may touch the device meanwhile when there are several GPUs."""
        return "global" if self.world.size == 1 else "thread_local"

    def _record(self, parts: Sequence[Callable[[], Any]], *, random: bool = True) -> Callable[[], Any]:
        graph = torch.cuda.CUDAGraph()
        if random:  # a replay writes the generator's offset, which a drawing on another stream may be reading
            graph.register_generator_state(self.generator)
        stream = torch.cuda.current_stream(self.device)
        with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode=self._capture_mode):
            for part in parts:
                part()
        self._pool = self._pool or graph.pool()
        return graph.replay

    def _refill(self, key: Any) -> None:
        """Draw eagerly into the tensors the graph reads."""
        fresh = self.objective.load(key, self.generator)
        for held, new in zip(self._static[key], fresh, strict=True):
            for target, source in zip(held.tensors(), new.tensors(), strict=True):
                target.copy_(source)
        self._count(self._static[key])

    def read(self) -> dict[str, float]:
        """Return means since the last reading: the losses, "grad_norm" and "patch_grad". Waits for the device."""
        num = len(self._sums)
        seen = self._seen.clone()
        losses = seen[:num].contiguous()
        self.world.add(losses)
        values = torch.cat((losses, seen[num:])).div_(max(1, self._num_seen)).tolist()
        self._seen.zero_()
        self._num_seen = 0
        names = (*self.objective.names, "grad_norm", "patch_grad")
        return dict(zip(names, values, strict=True))


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
