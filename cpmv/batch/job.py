"""One batch from its options to OUT: what is to be done, what an earlier run did, and how the rest is run.

`Job.open` lists the inputs and opens the journal; `Job.run_here` answers what is left on this machine; `Job.finish`
writes OUT and removes the journal. Killed between any two instructions, the same call goes on from there.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .bodies import Defaults
from .journal import BatchError, Journal
from .results import check_out, read_output, write_output
from .run import Tally, Worker, run
from .sources import Item, Question, Source, open_source

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from ..inputs.processor import Processor


@dataclass
class Job:
    """A batch under way. journal: None when OUT already holds all its results."""

    out: Path
    source: Source
    items: list[Item]
    journal: Journal | None
    tally: Tally

    @classmethod
    def open(
        cls, given: str, out: Path, question: Question, shape: Mapping[str, Any], *, overwrite: bool = False
    ) -> Job:
        """Begin a job or take up one that was broken off.

        shape: what else decides the answers (model, sampling, ...), as JSON; a resumed job must have the same.
        overwrite: throw away what OUT and its journal hold. Raises BatchError.
        """
        check_out(out)
        path = out.with_name(f"{out.name}.part")
        temporary = out.with_name(f"{out.name}.tmp")
        described = {**shape, "question": question.text, "system": question.system, "pages": question.pages}
        source = open_source(given, question, described, (out, path, temporary))
        items = source.items()
        if not items:
            raise BatchError(f"{given} holds no input; give a folder of files, or at least one line or row")
        if overwrite:
            path.unlink(missing_ok=True)
        elif out.exists() and not path.exists():
            results = read_output(out)
            if results is not None and [result["id"] for result in results] == [item.id for item in items]:
                job = cls(out, source, items, None, Tally(len(items)))
                for result in results:
                    job.tally.count(result)
                return job
            raise BatchError(f"{out} exists and is not the output of this job; name another OUT, or pass --overwrite")
        journal = Journal(path, described)
        job = cls(out, source, items, journal, Tally(len(items)))
        try:
            job._check_known()
        except BaseException:
            journal.close()
            raise
        return job

    def _check_known(self) -> None:
        """Refuse to go on when the inputs that have results are no longer among the inputs; count those that have."""
        assert self.journal is not None
        left = len(self.journal)
        for item in self.items:
            if item.id in self.journal:
                left -= 1
                if self.journal.is_final(item.id):
                    self.tally.count(self.journal.read(item.id))
        self.tally.tokens = 0
        if left:
            raise BatchError(
                f"{self.journal.path} holds {left} results whose inputs have changed or are gone since it was begun; "
                "restore them, or pass --overwrite to begin anew"
            )

    @property
    def pending(self) -> list[Item]:
        """The inputs that still need work, in order."""
        return [] if self.journal is None else [item for item in self.items if not self.journal.is_final(item.id)]

    def record(self, results: Sequence[dict[str, Any]]) -> None:
        """Make results safe, then count them. One that is already final is not taken again."""
        assert self.journal is not None
        new = [result for result in results if not self.journal.is_final(result["id"])]
        self.journal.append(new)
        for result in new:
            self.tally.count(result)

    def run_here(
        self,
        processor: Processor,
        engine: Engine,
        defaults: Defaults,
        model: str,
        *,
        window: int,
        workers: int,
        on_progress: Callable[[Tally], None],
    ) -> None:
        """Answer all that is pending with this process's engine, which must have been started."""
        results: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        worker = Worker(self.source, processor, engine, defaults, model, results.put)

        def record(arrived: Sequence[dict[str, Any]]) -> None:
            self.record(arrived)
            on_progress(self.tally)

        try:
            run(self.pending, worker.submit, results, record, window=window, workers=workers)
        finally:
            worker.stop()

    def finish(self) -> None:
        """Write OUT whole and remove the journal."""
        assert self.journal is not None
        write_output(self.out, self.items, self.journal)
        self.journal.remove()

    def close(self) -> None:
        if self.journal is not None:
            self.journal.close()
