"""Samples to `ModelInputs` through the real processor, in worker processes ahead of the model.

With no workers everything happens where it is asked for. A batch is prepared in pieces so that all workers share it,
and a few batches are always under way; tensors cross between processes as plain arrays.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from ..inputs.processor import Processor
from ..model.config import ModelInputs
from .samples import Sample
from .tasks import Task

_AHEAD = 3  # batches under way
_PIECE = 8  # samples a worker takes at once
_TENSORS = ("input_ids", "image_bounds", "patches", "tgt_sizes")


@dataclass
class Job:
    """A batch of one task: samples, with what each is an answer to: its control ("" for none) and place in the set."""

    task: Task
    keys: list[tuple[str, int]]
    samples: list[Sample]


def conversation(sample: Sample) -> list[dict[str, Any]]:
    """The messages of a sample, without the last answer."""
    messages: list[dict[str, Any]] = []
    for place, turn in enumerate(sample.turns):
        messages.append({"role": "user", "content": [*turn.images, turn.text]})
        if place < len(sample.turns) - 1:
            messages.append({"role": "assistant", "content": [turn.answer]})
    return messages


def options_of(sample: Sample, task: Task) -> dict[str, Any]:
    """How the processor is to take a sample: frames have times and no ids, pictures the model's own."""
    options: dict[str, Any] = {"max_slice_nums": task.slices, "enable_thinking": task.thinking}
    if sample.groups is not None:
        options |= {"temporal_ids": sample.groups, "use_image_id": False}
    return options


def prepare(processors: tuple[Processor, Processor], task: Task, sample: Sample) -> ModelInputs:
    """One prompt. processors: the model's own, and the one that leaves pictures at their size."""
    return processors[task.native](conversation(sample), **options_of(sample, task))


def with_answer(processors: tuple[Processor, Processor], task: Task, sample: Sample) -> ModelInputs:
    """The prompt and its reference answer, with labels on the answer."""
    messages = [*conversation(sample), {"role": "assistant", "content": [sample.answer]}]
    return processors[task.native](messages, supervised=True, **options_of(sample, task))


def both_processors(processor: Processor) -> tuple[Processor, Processor]:
    """The model's processor, and the same without slicing or resizing (for grids that it would never choose)."""
    image = replace(processor.config.image, slice_mode=False)
    return processor, Processor(replace(processor.config, image=image), processor.tokenizer)


_worker: tuple[Processor, Processor] | None = None  # of a worker process


def _start_worker(processor: Processor) -> None:
    global _worker
    import torch

    torch.set_num_threads(1)
    _worker = both_processors(processor)


def _work(task: Task, samples: list[Sample]) -> list[dict[str, Any]]:
    assert _worker is not None
    return [_as_arrays(prepare(_worker, task, sample)) for sample in samples]


def _as_arrays(inputs: ModelInputs) -> dict[str, Any]:
    fields = {name: getattr(inputs, name).numpy() for name in _TENSORS}
    return fields | {"temporal_ids": inputs.temporal_ids, "text": inputs.text, "media_hashes": inputs.media_hashes}


def _from_arrays(fields: dict[str, Any]) -> ModelInputs:
    import torch

    tensors: dict[str, Any] = {name: torch.from_numpy(fields[name]) for name in _TENSORS}
    return ModelInputs(**(fields | tensors))


def prepared(jobs: Iterable[Job], processor: Processor, workers: int) -> Iterator[tuple[Job, list[ModelInputs]]]:
    """Each job with its prompts, in order. workers: processes that prepare ahead; 0 prepares in this one."""
    if workers == 0:
        both = both_processors(processor)
        for job in jobs:
            yield job, [prepare(both, job.task, sample) for sample in job.samples]
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process that holds a GPU is not usable
    with ProcessPoolExecutor(workers, context, _start_worker, (processor,)) as pool:
        waiting: deque[tuple[Job, list[Future[list[dict[str, Any]]]]]] = deque()

        def finish() -> tuple[Job, list[ModelInputs]]:
            job, parts = waiting.popleft()
            return job, [_from_arrays(fields) for part in parts for fields in part.result()]

        for job in jobs:
            starts = range(0, len(job.samples), _PIECE)
            parts = [pool.submit(_work, job.task, job.samples[start : start + _PIECE]) for start in starts]
            waiting.append((job, parts))
            if len(waiting) > _AHEAD:
                yield finish()
        while waiting:
            yield finish()
