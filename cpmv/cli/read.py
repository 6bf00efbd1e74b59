"""`cpmv read`: PDFs and pictures into Markdown, or into JSON that fits a schema; killed, the same command goes on.

Exit codes: 0 everything read, 1 read but some lines are marked doubtful, 2 a mistake, or a file that cannot be read
(the others are), 130 stopped by Ctrl-C with finished pages kept.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from .arguments import UsageError, described, number, parse, text
from .progress import Progress

if TYPE_CHECKING:
    from ..api import Model
    from ..engine.engine import Engine
    from ..read.job import Job, Options, Outcome, Source
    from ..read.page import PageReader

_Flag = tyro.conf.FlagCreatePairsOff

DOUBTFUL = 1
FAILED = 2


@dataclass
class Read:
    """Read PDFs and pictures into Markdown, page by page.

    OUT is a folder, or for a single file a name that ends in .md (.json with --schema). Run the same command again to
    go on after a stop; outputs that are there already are left alone.
    """

    files: Annotated[
        tuple[str, ...], tyro.conf.Positional, described("PDFs, pictures, or folders of them", metavar="FILE ...")
    ]
    output: Annotated[str | None, text("OUT"), described("where the text goes: a folder, or one file", "-o")] = None
    model: Annotated[
        str | None,
        text("MODEL"),
        described("folder, .gguf file, Hugging Face id, or modelscope:ID; by default the bundled model", "-m"),
    ] = None
    mmproj: Annotated[str | None, text("FILE"), described("vision half of a GGUF pair, if not beside it")] = None
    device: Annotated[str | None, text("DEVICE"), described("auto, cpu, cuda, cuda:N or mps (default: auto)")] = None
    dtype: Annotated[str | None, text("DTYPE"), described("auto, bfloat16, float16, float32 (default: auto)")] = None
    max_memory: Annotated[
        str | None, text("SIZE"), described("refuse to load what needs more, such as 8GB (default: what is free)")
    ] = None
    pages: Annotated[str | None, text("RANGE"), described("pages of PDFs, such as 1-3,7 (default: all)")] = None
    dpi: Annotated[int | None, number(int, "N", 50, 600), described("of rendered pages (default: 200)")] = None
    by: Annotated[
        str | None,
        text("auto|lines|page"),
        described("give the model lines or whole pages (default: by the size of its slices)"),
    ] = None
    schema: Annotated[
        str | None, text("FILE"), described("a JSON Schema; write JSON that fits it instead of Markdown")
    ] = None
    check: Annotated[bool, _Flag, described("compare with the PDF's own text and mark lines that differ")] = False
    max_batch: Annotated[int | None, number(int, "N", 1, 1024), described("pictures read at once (default: 32)")] = None
    overwrite: Annotated[bool, _Flag, described("read again what has been read")] = False
    json: Annotated[bool, _Flag, described("print one JSON object at the end")] = False


def run(argv: list[str]) -> int:
    options = parse(Read, "read", argv)
    chosen = _options(options)
    from ..read.job import Job, plan

    start = time.perf_counter()
    assert options.output is not None
    sources, outcome = plan(options.files, options.output, chosen)
    total = sum(len(source.numbers) for source in sources)
    opened = _Opened(options)
    with Progress("reading", "pages") as progress:
        job = Job(
            chosen, {"model": options.model, "by": options.by}, opened.reader, outcome, lambda d: progress(d, total)
        )
        try:
            _run(job, sources, opened)
        except KeyboardInterrupt:
            print("cpmv: finished pages are kept; run the same command again to go on", file=sys.stderr)
            raise
    return _report(options, outcome, time.perf_counter() - start)


def _run(job: Job, sources: list[Source], opened: _Opened) -> None:
    try:
        job.run(sources)
    finally:
        opened.close()


def _options(options: Read) -> Options:
    from ..read.document import load_schema
    from ..read.job import DEFAULT_DPI, Options
    from ..read.page import BY

    if options.output is None:
        raise UsageError("there is no -o OUT; name a folder, or a .md file for one input")
    if options.by is not None and options.by not in BY:
        raise UsageError(f"--by {options.by} is not allowed; choose one of {', '.join(BY)}")
    schema: dict[str, Any] | None = None
    if options.schema is not None:
        if options.check:
            raise UsageError("--check compares Markdown with a text layer; it does not go with --schema")
        try:
            schema = load_schema(Path(options.schema).expanduser().read_text(encoding="utf-8"), options.schema)
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--schema {options.schema} cannot be read: {error}") from None
    return Options(options.dpi or DEFAULT_DPI, options.pages, options.check, schema, options.overwrite)


class _Opened:
    """The model and its engine, loaded when the first page needs them."""

    def __init__(self, options: Read) -> None:
        self._options = options
        self._engine: Engine | None = None

    def reader(self) -> PageReader:
        import cpmv

        from ..engine.engine import Engine
        from ..read.page import PageReader
        from ..read.reader import Reader

        options = self._options
        with Progress("loading", "bytes") as loading:
            model: Model = cpmv.load(
                options.model,
                device=options.device,
                dtype=options.dtype,
                mmproj=options.mmproj,
                max_memory=options.max_memory,
                progress=loading,
            )
        self._engine = Engine(model.network, model.tokenizer, max_batch=options.max_batch or 32)
        self._engine.start()
        by: Any = options.by or "auto"
        return PageReader(Reader(self._engine, model.processor), model.config, by, model.tokenizer)

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()


def _report(options: Read, outcome: Outcome, seconds: float) -> int:
    """Say what came of it on stderr, or as one JSON object on stdout."""
    if options.json:
        from .screen import print_json

        print_json(
            {
                "read": [str(path) for path in outcome.read],
                "already_there": [str(path) for path in outcome.already],
                "failed": [{"file": str(path), "error": error} for path, error in outcome.failed],
                "pages": outcome.num_pages,
                "pages_resumed": outcome.num_resumed,
                "doubtful_lines": outcome.doubtful,
                "pages_without_text_layer": outcome.unchecked,
                "seconds": round(seconds, 3),
            }
        )
    else:
        for line in _summary(options, outcome, seconds):
            print(f"cpmv: {line}", file=sys.stderr)
    if outcome.failed:
        return FAILED
    return DOUBTFUL if outcome.doubtful else 0


def _summary(options: Read, outcome: Outcome, seconds: float) -> list[str]:
    lines = [" ".join(error.split()) for _, error in outcome.failed]
    if outcome.already:
        named = ", ".join(str(path) for path in outcome.already[:3]) + (", ..." if len(outcome.already) > 3 else "")
        lines.append(f"{named} already there and left alone; --overwrite reads again")
    if outcome.doubtful:
        many = "1 line is" if outcome.doubtful == 1 else f"{outcome.doubtful} lines are"
        lines.append(f'{many} marked "doubtful" in the output')
    if outcome.unchecked:
        many = "1 page has" if outcome.unchecked == 1 else f"{outcome.unchecked} pages have"
        lines.append(f"{many} no text layer and could not be checked")
    if sys.stderr.isatty():
        pages = "1 page" if outcome.num_pages == 1 else f"{outcome.num_pages} pages"
        lines.append(f"{pages} in {seconds:.0f} s")
    return lines
