"""Supervised conversations of any shape: the objective for data that people bring, and for instruction tuning.

Samples are `ModelInputs` with labels, as the one processor makes them. Several share one row, attention and positions
kept apart ("packing"), so that short samples waste nothing. The loss is the cross-entropy of supervised tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CpmvError
from ..model.attention import Segments
from ..model.config import ModelInputs
from ..model.minicpmv import MiniCPMV

IGNORE = -100
HEAD_ROWS = 1024  # supervised positions whose logits exist at once
ALL_ROWS = 1 << 30


def pack(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Group samples into rows of at most `max_tokens`, longest first into the first row with room.

    Returns lists of indices into `lengths`. Raises CpmvError for a sample that no row can hold.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[i]
        if length > max_tokens:
            raise CpmvError(f"a sample has {length} tokens but a row holds {max_tokens}; raise max_tokens or cut it")
        fits = next((row for row, free in enumerate(room) if free >= length), None)
        if fits is None:
            rows.append([])
            room.append(max_tokens)
            fits = len(rows) - 1
        rows[fits].append(i)
        room[fits] -= length
    return rows


class SupervisedObjective:
    """Cross-entropy of labelled tokens (see `step.Objective`).

    samples: gives the samples of a step, from its number: the same number, the same samples, so a run can resume.
    max_tokens: length of a packed row; each row is one micro-batch. The model runs in its parameters' dtype.
    head_rows: supervised positions whose logits exist at once.
    """

    names: tuple[str, ...] = ("lm",)
    capturable = False
    head_rows = HEAD_ROWS

    def __init__(
        self, model: MiniCPMV, samples: Callable[[int], Sequence[ModelInputs]], max_tokens: int, samples_per_step: int
    ) -> None:
        self.model, self.samples, self.max_tokens = model, samples, max_tokens
        self.samples_per_step = samples_per_step
        self.weights = torch.ones(1, device=model.device)

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        return self.model.named_parameters()

    def key(self, step: int, seed: int) -> int:
        return step

    def feed(self, key: int, step: int) -> None:
        """Nothing waits on the host."""

    def set_progress(self, fade: float) -> None:
        """Nothing fades here."""

    def flops(self, key: int) -> float:
        """Unknown before the samples are there: no utilisation is claimed."""
        return 0.0

    def load(self, key: int, generator: torch.Generator | None) -> list[list[ModelInputs]]:
        """Return the step's micro-batches, each a packed row."""
        samples = self.samples(key)
        return [[samples[i] for i in row] for row in pack([len(s) for s in samples], self.max_tokens)]

    def counts(self, batch: Sequence[ModelInputs]) -> Tensor:
        return torch.tensor([float(sum(num_supervised(s) for s in batch))], device=self.model.device)

    def sums(self, batch: Sequence[ModelInputs]) -> Tensor:
        hidden = packed_hidden(self.model, batch)
        targets = torch.cat([targets_of(s) for s in batch]).to(hidden.device)
        chosen = targets != IGNORE
        hidden, targets = hidden[chosen], targets[chosen]
        total = hidden.new_zeros((), dtype=torch.float32)
        for states, wanted in zip(hidden.split(self.head_rows), targets.split(self.head_rows), strict=True):
            total = total + F.cross_entropy(self.model.llm.head(states).float(), wanted, reduction="sum")
        return total[None]


def num_supervised(sample: ModelInputs) -> int:
    return int((targets_of(sample) != IGNORE).sum())


def targets_of(sample: ModelInputs) -> Tensor:
    """The label of the next position, int64 [S]; the last position has none."""
    if sample.labels is None:
        raise CpmvError("a training sample has no labels; only samples with an assistant's answer can be trained on")
    return F.pad(sample.labels[1:], (0, 1), value=IGNORE)


def packed_hidden(model: MiniCPMV, samples: Sequence[ModelInputs]) -> Tensor:
    """Return the decoder's final states [sum of lengths, E] of samples in one row that do not see each other."""
    x = row_embeddings(model, samples)[None]
    positions = torch.cat([torch.arange(len(s)) for s in samples]).to(x.device)[None]
    if len(samples) == 1:
        return model.llm.model(x, positions)[0]
    lengths = torch.tensor([0, *(len(s) for s in samples)])
    offsets = lengths.cumsum(0, dtype=torch.int32).to(x.device)
    return model.llm.model(x, positions, Segments(offsets, int(lengths.max())))[0]


def row_embeddings(model: MiniCPMV, samples: Sequence[ModelInputs]) -> Tensor:
    """Return the embeddings [sum of lengths, E] of samples in one row; their pictures are encoded together."""
    x = model.embed_tokens(torch.cat([s.input_ids for s in samples]).to(model.device))
    places: list[int] = []
    start = 0
    for sample in samples:
        for first, last in sample.image_bounds.tolist():
            places += range(start + first, start + last)
        start += len(sample)
    seen = [s for s in samples if s.temporal_ids]
    if not seen:
        return x
    features = model.encode_images(
        torch.cat([s.patches for s in seen]),
        torch.cat([s.tgt_sizes for s in seen]),
        [ids for s in seen for ids in s.temporal_ids],
    )
    # Out of place, so that both sides can be differentiated.
    return x.index_copy(0, torch.tensor(places, device=x.device), features.flatten(0, 1).to(x.dtype))
