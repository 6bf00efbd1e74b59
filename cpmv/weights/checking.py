"""Verify a checkpoint tensor by tensor without building the model: files, names, shapes, and a sample of the values."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from .catalogue import compare, empty_model, open_catalogue
from .hub import Source
from .packed import PackedLinear, PackedWeight
from .stored import Stored

_WINDOWS, _WINDOW = 16, 4096  # parts of a tensor whose values are looked at, and elements in each


@dataclass(frozen=True)
class CheckedTensor:
    """One tensor under its released name; `stored_as` is a dtype or a quantised format."""

    name: str
    stored_as: str
    shape: tuple[int, ...]
    nbytes: int
    file: str
    problem: str | None = None


@dataclass
class Report:
    """What `check` found. `problems` holds every line that is wrong, those of tensors included."""

    format: str | None = None
    files: list[Path] = field(default_factory=list)
    tensors: list[CheckedTensor] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors)


def check(source: Source) -> Report:
    """Verify headers, names, shapes, the tokenizer, and that sampled values are finite and not all zero.

    Never raises for what is wrong with the files: that is what the report says.
    """
    report = Report()
    try:
        catalogue = open_catalogue(source)
        problems = compare(catalogue, empty_model(catalogue.config))
    except CheckpointError as error:
        report.problems.append(str(error))
        return report
    report.format, report.files = catalogue.format, catalogue.files
    report.problems += [p.text for p in problems if p.tensor is None]
    of_tensor = {p.tensor: p for p in reversed(problems) if p.tensor is not None}
    for name, stored in catalogue.in_file_order():
        problem = of_tensor.pop(name, None)
        text = problem.text if problem else _look_at(stored)
        kind = stored.format if isinstance(stored, PackedWeight) else str(stored.dtype).removeprefix("torch.")
        file = stored.stored[0].file if isinstance(stored, PackedWeight) else stored.file
        report.tensors.append(CheckedTensor(name, kind, tuple(stored.shape), stored.nbytes, file, text))
        if text:
            report.problems.append(f"{name} {text}")
    readable = all(p.tensor is not None for p in problems)
    # Tensors of an unreadable file are missing because of it; the file has been named.
    report.problems += [f"{p.tensor} {p.text}" for p in of_tensor.values() if readable or p.text != "is missing"]
    try:
        size = catalogue.read_tokenizer().vocab_size
        if size > catalogue.config.language.vocab_size:
            report.problems.append(
                f"the tokenizer has {size} tokens but the model only {catalogue.config.language.vocab_size}"
            )
    except CheckpointError as error:
        report.problems.append(str(error))
    return report


def _look_at(stored: Stored | PackedWeight) -> str | None:
    """Return what is wrong with a sample of the values, or None."""
    if isinstance(stored, PackedWeight):
        layer = stored.build(torch.device("cpu"))
        assert isinstance(layer, PackedLinear)
        step = layer.row_step
        last = (layer.out_features - 1) // step * step
        ends = [(0, min(step, layer.out_features)), (last, layer.out_features)]
        sample = torch.cat([layer.dequantize_rows(i, j).flatten() for i, j in ends])
    else:
        sample = _sample(stored.read().flatten())
    if not torch.isfinite(sample).all():
        return "holds values that are not finite; download the file again"
    if len(stored.shape) > 1 and not sample.any():
        return "is zero wherever it was sampled; the download may be incomplete"
    return None


def _sample(values: Tensor) -> Tensor:
    """Return evenly spaced windows of a flat tensor, both ends included."""
    if len(values) <= _WINDOWS * _WINDOW:
        return values
    starts = torch.linspace(0, len(values) - _WINDOW, _WINDOWS, dtype=torch.float64).long().tolist()
    return torch.cat([values[i : i + _WINDOW] for i in starts])
