"""What `cpmv data check` finds out: every sample of some files read as training would read it, without a model.

Only a checkpoint's configuration and tokenizer are needed. A `FileReport` counts roles, media and tokens, and lists
what is wrong with its line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ContextLengthError, CpmvError
from ..inputs.messages import Image, Video
from ..inputs.processor import Processor
from ..model.config import ModelInputs
from .formats import Source
from .records import Problem, Record
from .samples import Reading, answered, measure, problem_of, read_sample


@dataclass
class FileReport:
    """lengths: tokens of every sample that could be read, also of those too long. learnt: tokens with a label, of the
    usable ones. slices, frames, packages: what the media become."""

    source: Source
    usable: int = 0
    roles: Counter[str] = field(default_factory=Counter)
    media: Counter[str] = field(default_factory=Counter)
    lengths: list[int] = field(default_factory=list)
    learnt: int = 0
    pairs: int = 0
    prompts: int = 0

    @property
    def problems(self) -> list[Problem]:
        return self.source.problems

    @property
    def kinds(self) -> Counter[str]:
        return Counter(problem.kind for problem in self.problems)

    def to_json(self) -> dict[str, Any]:
        first = self.problems[0] if self.problems else None
        return {
            "file": str(self.source.path),
            "format": self.source.format,
            "weight": self.source.weight,
            "samples": self.source.num_rows,
            "usable": self.usable,
            "bad": len(self.problems),
            "too_long": self.kinds["long"],
            "missing_media": self.kinds["missing"],
            "unreadable_media": self.kinds["media"],
            "roles": dict(self.roles),
            "media": dict(self.media),
            "pairs": self.pairs,
            "prompts": self.prompts,
            "tokens": summary(self.lengths),
            "learnt_tokens": self.learnt,
            "first_bad": None if first is None else {"line": first.line, "reason": first.reason},
        }


def summary(lengths: Sequence[int]) -> dict[str, float]:
    """Smallest, middle, largest and sum of some lengths."""
    if not lengths:
        return {}
    ordered = sorted(lengths)
    places = {"min": 0.0, "median": 0.5, "p95": 0.95, "max": 1.0}
    found: dict[str, float] = {k: ordered[min(len(ordered) - 1, int(p * len(ordered)))] for k, p in places.items()}
    return found | {"mean": round(sum(ordered) / len(ordered), 1), "total": sum(ordered)}


def histogram(lengths: Sequence[int], bins: int = 10) -> list[tuple[int, int, int]]:
    """Count lengths in at most `bins` equal ranges: (first, last, how many)."""
    if not lengths:
        return []
    low, high = min(lengths), max(lengths)
    width = max(1, -(-(high - low + 1) // bins))
    counts = Counter((length - low) // width for length in lengths)
    return [(low + i * width, low + (i + 1) * width - 1, counts[i]) for i in range((high - low) // width + 1)]


def check_source(
    source: Source,
    processor: Processor,
    reading: Reading,
    *,
    quick: bool = False,
    show: Callable[[Record, ModelInputs], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FileReport:
    """Read every sample. quick: sizes of media alone, no pixels. show: called with what each usable sample becomes."""
    report = FileReport(source)
    kept = []
    for number, record in enumerate(source.records, 1):
        _count(report, record)
        try:
            _check(report, record, processor, reading, quick, show)
        except CpmvError as error:
            if isinstance(error, ContextLengthError):
                report.lengths.append(error.num_tokens)
            report.problems.append(problem_of(source, record, error))
        else:
            kept.append(record)
        if progress is not None:
            progress(number, len(source.records))
    source.records = kept
    report.usable = len(kept)
    source.problems.sort(key=lambda problem: problem.line)
    return report


def _count(report: FileReport, record: Record) -> None:
    report.roles.update(message.role for message in record.messages)
    report.media["images"] += sum(isinstance(part, Image) for part in record.media)
    report.media["videos"] += sum(isinstance(part, Video) for part in record.media)
    report.pairs += record.rejected is not None
    report.prompts += record.messages[-1].role != "assistant"


def _check(
    report: FileReport,
    record: Record,
    processor: Processor,
    reading: Reading,
    quick: bool,
    show: Callable[[Record, ModelInputs], None] | None,
) -> None:
    tokens, learnt = measure(processor, answered(record), record.thinks, reading)
    if record.rejected is not None:
        measure(processor, record.rejected, record.thinks, reading)
    if not quick:
        inputs = read_sample(processor, record, reading, answered(record))
        frames = [ids for ids in inputs.temporal_ids if max(ids) >= 0]
        report.media["slices"] += len(inputs.temporal_ids) - len(frames)
        report.media["packages"] += len(frames)
        report.media["frames"] += sum(map(len, frames))
        if show is not None:
            show(record, inputs)
    report.lengths.append(tokens)
    report.learnt += learnt
