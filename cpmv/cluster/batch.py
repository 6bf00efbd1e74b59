"""A batch on Ray Data: the same inputs, journal and output as on one machine, with a model in each of many actors.

The driver lists the inputs and keeps the journal; actors read the inputs themselves, so IN and the media it names must
be found under the same path on every machine (a shared file system), and cpmv must be installed there. Ray hands out
work, restarts actors that die, and repeats what they had; the journal takes each result once.
"""

from __future__ import annotations

import dataclasses
import json
import queue
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..batch.bodies import Defaults
from ..batch.run import Tally, Worker, run
from ..batch.sources import Item, Source
from .ray_session import ClusterError, connected, count_gpus, one_line

if TYPE_CHECKING:
    from ..batch.job import Job

BATCHES_A_TASK = 4  # engine batches in a task: few enough to spread, enough to keep the engine full


@dataclass(frozen=True)
class Replica:
    """What an actor needs to answer: inputs, defaults, the model and how to load it, and its sizes."""

    source: Source
    defaults: Defaults
    load: dict[str, Any]
    model: str | None
    max_batch: int
    workers: int


class _Actor:
    """One model on one machine, called by Ray Data with a batch of items as columns."""

    def __init__(self, replica: Replica) -> None:
        from ..api import load
        from ..engine.engine import Engine

        self._replica = replica
        self._model = load(replica.model, **replica.load)
        self._engine = Engine(self._model.network, self._model.tokenizer, max_batch=replica.max_batch)
        self._engine.start()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        replica = self._replica
        results: list[dict[str, Any]] = []
        arrived: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        name = replica.model or "bundled"
        worker = Worker(replica.source, self._model.processor, self._engine, replica.defaults, name, arrived.put)
        run(
            [_item(text) for text in batch["item"]],
            worker.submit,
            arrived,
            results.extend,
            window=2 * replica.max_batch + replica.workers,
            workers=replica.workers,
        )
        return {"result": [json.dumps(result) for result in results]}


def _row(item: Item) -> dict[str, str]:
    return {"item": json.dumps(dataclasses.asdict(item))}


def _item(text: str) -> Item:
    fields = json.loads(text)
    for name in ("place", "problem"):
        if isinstance(fields[name], list):
            fields[name] = tuple(fields[name])
    return Item(**fields)


def run_on_ray(
    job: Job, replica: Replica, address: str, replicas: int | None, on_progress: Callable[[Tally], None]
) -> None:
    """Answer all that is pending with `replicas` actors, by default one a GPU, or one where there is none.

    Raises ClusterError when Ray is missing, cannot be reached, or the actors cannot load the model.
    """
    items = job.pending
    size = BATCHES_A_TASK * replica.max_batch
    with connected(address) as ray:
        ray.data.DataContext.get_current().enable_progress_bars = False
        gpus = count_gpus(ray)
        count = replicas or max(1, gpus)
        size = max(1, min(size, -(-len(items) // count)))  # a short job is spread, too
        rows = ray.data.from_items([_row(item) for item in items], override_num_blocks=-(-len(items) // size))
        answers = rows.map_batches(
            _Actor,
            fn_constructor_args=(replica,),
            batch_size=size,
            compute=ray.data.ActorPoolStrategy(size=count),
            num_gpus=1 if gpus else None,
        )
        try:
            for batch in answers.iter_batches(batch_size=None, prefetch_batches=0):
                job.record(_results(batch["result"]))
                on_progress(job.tally)
        except ray.exceptions.RayError as error:
            raise ClusterError(
                f"the batch stopped on Ray ({one_line(error)}); run the same command to go on"
            ) from error


def _results(texts: Sequence[str]) -> list[dict[str, Any]]:
    return [json.loads(text) for text in texts]
