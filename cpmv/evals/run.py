"""A run: every chosen set asked once, and once more under each control, in batches; one JSON at the end.

Answers are written as they come, one line each, beside the report (`NAME.answers.jsonl`). A run that was interrupted
goes on from them if model, precision and sets are the same; scores are computed from the answers, never stored alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from . import controls as control_module
from .measures import Answer, Numbers, measure
from .prepare import Job, both_processors, prepared, with_answer
from .samples import EvalError, Sample
from .tasks import SETS, Task, load

if TYPE_CHECKING:
    from ..api import Model
    from ..model.config import ModelInputs

FORMAT = 1
_WHOLE_BYTES = 256 << 20  # checkpoints up to this size are hashed whole
_MiB = 1 << 20

Report = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What a run asks and how. batch: prompts at once. workers: processes that prepare pictures ahead."""

    tasks: tuple[Task, ...]
    folder: Path = SETS
    limit: int | None = None
    controls: tuple[str, ...] = ()
    batch: int = 32
    workers: int = 0


@dataclass
class Run:
    """Answers by (task, control), in sample order, and the file they are kept in."""

    answers: dict[tuple[str, str], dict[int, Answer]] = field(default_factory=dict)
    resumed: int = 0

    def add(self, task: str, control: str, answer: Answer) -> None:
        self.answers.setdefault((task, control), {})[answer.index] = answer


def default_workers(device: str) -> int:
    """All cores but two on a machine whose GPU would wait for pictures, else none."""
    cores = os.cpu_count() or 1
    return min(16, cores - 2) if device == "cuda" and cores > 3 else 0


def evaluate(
    model: Model,
    source: str,
    folder: Path | None,
    settings: Settings,
    out: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Ask everything, write `out` and return it.

    source: how the model was named; folder: its files, for the fingerprint. progress(answers so far, answers in all).
    Raises EvalError when `out` holds answers of another model, precision or other sets.
    """
    started = time.perf_counter()
    identity = {
        "format": FORMAT,
        "model": fingerprint(folder) if folder is not None else source,
        "dtype": str(model.dtype).removeprefix("torch."),
        "limit": settings.limit,
        "sets": digest_of(settings.folder, settings.tasks),
    }
    loaded = load_all(settings)
    path = out.with_suffix(".answers.jsonl")
    run = resume(path, identity)
    total = sum(len(samples) for samples in loaded.values())
    jobs = plan(settings, loaded, run)
    done = run.resumed
    with _open_answers(path, identity) as file:
        progress(done, total)
        for job, prompts in prepared(jobs, model.processor, settings.workers):
            for (control, _), answer in zip(job.keys, ask(model, job, prompts), strict=True):
                run.add(job.task.name, control, answer)
                _write_answer(file, job.task, control, answer)
                done += 1
            file.flush()
            progress(done, total)
    report = summarise(settings, loaded, run)
    header = describe_run(model, source, settings, identity)
    report = header | {"seconds": time.perf_counter() - started, "resumed": run.resumed} | report
    out.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return report


def load_all(settings: Settings) -> dict[tuple[str, str], list[tuple[int, Sample]]]:
    """(task, control) -> samples with their places in the set."""
    loaded: dict[tuple[str, str], list[tuple[int, Sample]]] = {}
    for task in settings.tasks:
        samples = load(task, settings.folder, settings.limit)
        for control in ("", *settings.controls):
            kept = control_module.apply(control, samples) if control else list(enumerate(samples))
            if kept:
                loaded[task.name, control] = kept
    return loaded


def plan(settings: Settings, loaded: dict[tuple[str, str], list[tuple[int, Sample]]], run: Run) -> Iterator[Job]:
    """Batches of what has no answer yet; samples of similar length together, so that rows end together.

    The controls of a task share batches, apart from the task itself: an answer to a blank picture may run on and on.
    """
    for task in settings.tasks:
        for controls in (("",), settings.controls):
            todo = [
                ((control, index), sample)
                for control in controls
                for index, sample in loaded.get((task.name, control), [])
                if index not in run.answers.get((task.name, control), {})
            ]
            todo.sort(key=lambda item: (len(item[1].answer), item[0]))
            for start in range(0, len(todo), settings.batch):
                part = todo[start : start + settings.batch]
                yield Job(task, [key for key, _ in part], [sample for _, sample in part])


def ask(model: Model, job: Job, prompts: list[ModelInputs]) -> list[Answer]:
    """Answer a batch greedily."""
    from ..engine.sampling import SamplingParams

    params = SamplingParams(temperature=0.0, max_new_tokens=job.task.max_new_tokens)
    started = time.perf_counter()
    outputs = model.generate(prompts, params, thinking=job.task.thinking)
    ms = (time.perf_counter() - started) * 1000 / len(prompts)
    assert isinstance(outputs, list)
    sure = [None] * len(prompts) if job.task.measure != "hidden" else _probabilities(model, job)
    answers = []
    for (_, index), prompt, output, probability in zip(job.keys, prompts, outputs, sure, strict=True):
        visual = int((prompt.image_bounds[:, 1] - prompt.image_bounds[:, 0]).sum())
        counts = (output.num_prompt_tokens, visual, len(output.token_ids))
        answers.append(Answer(index, output.text, output.thinking, output.finish_reason, *counts, ms, probability))
    return answers


def _probabilities(model: Model, job: Job) -> list[float]:
    """Mean probability of the reference's tokens, each after the true ones before it."""
    both = both_processors(model.processor)
    means = []
    for sample in job.samples:
        inputs = with_answer(both, job.task, sample)
        assert inputs.labels is not None
        positions = (inputs.labels >= 0).nonzero().flatten().to(model.device)
        logits = model.logits(inputs)[positions - 1]
        wanted = inputs.labels.to(model.device)[positions]
        means.append(float(logits.softmax(-1).gather(1, wanted[:, None]).mean()))
    return means


def summarise(settings: Settings, loaded: dict[tuple[str, str], list[tuple[int, Sample]]], run: Run) -> Report:
    """Scores of every task and control from the answers."""
    report: Report = {"sets": {}, "controls": {control: {} for control in settings.controls}}
    tasks = {task.name: task for task in settings.tasks}
    for (name, control), samples in loaded.items():
        answers = [run.answers[name, control][index] for index, _ in samples]
        numbers = measure(tasks[name], [sample for _, sample in samples], answers, control)
        (report["controls"][control] if control else report["sets"])[name] = numbers
    add_gains(report["sets"])
    report["answer_language"] = _language_rates(report["sets"])
    return report


def add_gains(sets: dict[str, Numbers]) -> None:
    """What thinking gains over answering at once, where both were asked."""
    if "think_fast" in sets and "think_deep" in sets:
        sets["think_deep"]["gain"] = sets["think_deep"]["exact"] - sets["think_fast"]["exact"]


def _language_rates(sets: dict[str, Numbers]) -> Report:
    from .scoring import wilson

    totals: dict[str, list[int]] = {}
    for numbers in sets.values():
        for language, (right, n) in numbers.get("answer_language", {}).items():
            before = totals.get(language, [0, 0])
            totals[language] = [before[0] + right, before[1] + n]
    return {
        language: {"n": n, "rate": right / n, "interval": list(wilson(right, n))}
        for language, (right, n) in sorted(totals.items())
    }


def describe_run(model: Model, source: str, settings: Settings, identity: Report) -> Report:
    """Everything needed to repeat the run."""
    import torch

    import cpmv

    device = model.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "format": FORMAT,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "model": {
            "source": source,
            "fingerprint": identity["model"],
            "format": model.format,
            "dtype": identity["dtype"],
            "parameters": sum(parameter.numel() for parameter in model.network.parameters()),
        },
        "device": {"type": device.type, "name": name, "threads": torch.get_num_threads()},
        "versions": {"cpmv": cpmv.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "settings": {
            "sets": identity["sets"],
            "tasks": [task.name for task in settings.tasks],
            "limit": settings.limit,
            "controls": list(settings.controls),
            "batch": settings.batch,
            "workers": settings.workers,
            "decoding": "greedy",
        },
    }


def fingerprint(folder: Path) -> str:
    """A hash of a checkpoint's files: whole up to 256 MiB, beyond that their sizes and first MiB."""
    files = sorted(p for p in ([folder] if folder.is_file() else folder.iterdir()) if p.is_file())
    files = [p for p in files if p.suffix in (".safetensors", ".gguf", ".json")]
    whole = sum(p.stat().st_size for p in files) <= _WHOLE_BYTES
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read() if whole else file.read(_MiB))
    return f"sha256:{digest.hexdigest()[:32]}" + ("" if whole else " (sizes and first MiB of each file)")


def digest_of(folder: Path, tasks: Sequence[Task]) -> dict[str, str]:
    """A short hash of every set asked."""
    names = sorted({task.stored_as for task in tasks})
    found = {}
    for name in names:
        path = folder / f"{name}.zip"
        if path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return found


def resume(path: Path, identity: Report) -> Run:
    """Answers of an earlier, interrupted run; none when there is no file. Raises EvalError if it was another run."""
    run = Run()
    if not path.is_file():
        return run
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        header = json.loads(lines[0]) if lines else identity
        rows = [json.loads(line) for line in lines[1:] if line.endswith("}")]  # the last one may be half a line
    except ValueError as error:
        raise EvalError(f"{path} cannot be read ({error}); remove it or give another --out") from None
    for key in ("format", "model", "dtype", "limit"):
        if header.get(key) != identity[key]:
            raise EvalError(
                f"{path} holds answers of another {key} ({header.get(key)}); remove it or give another --out"
            )
    changed = [name for name, digest in identity["sets"].items() if header["sets"].get(name, digest) != digest]
    if changed:
        raise EvalError(f"{path} holds answers to other samples of {changed[0]}; remove it or give another --out")
    for row in rows:
        task, control = row.pop("task"), row.pop("control")
        run.add(task, control, Answer(**row))
    run.resumed = len(rows)
    return run


def _open_answers(path: Path, identity: Report) -> TextIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    known = path.read_text(encoding="utf-8") if path.is_file() else ""
    if known and not known.endswith("\n"):  # cut off in the middle of a line
        known = known[: known.rfind("\n") + 1]
        path.write_text(known, encoding="utf-8")
    file = path.open("a", encoding="utf-8")
    if not known:
        file.write(json.dumps(identity) + "\n")
    return file


def _write_answer(file: TextIO, task: Task, control: str, answer: Answer) -> None:
    row = {"task": task.name, "control": control, **asdict(answer)}
    file.write(json.dumps(row, ensure_ascii=False) + "\n")
