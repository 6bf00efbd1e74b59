"""`cpmv eval`: score a model on the frozen sets, draw other sets, compare runs, and write the tables of the documents.

`cpmv eval tiny` asks the bundled model (or another) everything in `cpmv/evals/sets`; the other verbs are `draw`,
`table` and `compare`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..errors import CpmvError
from .arguments import UsageError, described, number, parse, text
from .progress import Progress

_Flag = tyro.conf.FlagCreatePairsOff
_Names = Annotated[
    tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help="only these sets or groups", help_behavior_hint="")
]

HELP = """usage: cpmv eval VERB [OPTIONS]

Score a model on pictures, clips and questions with known answers.

  tiny      ask everything in the frozen sets; greedy, through the real processor; one JSON
  draw      draw sets anew, with any seed and size, from installed fonts
  table     write a run's table into README.md and other documents
  compare   two runs side by side (also: cpmv eval --compare A.json B.json)

  cpmv eval VERB --help     list a verb's options
"""


@dataclass
class Tiny:
    """Score a model on the frozen sets (or on drawn ones) and write one JSON.

    Answers are kept beside the JSON as they come; the same command goes on after an interrupt.
    """

    model: Annotated[
        str | None, text("MODEL"), described("folder, .gguf file or id (default: the bundled tiny model)")
    ] = None
    out: Annotated[str, described("where the JSON goes", metavar="FILE")] = "eval-tiny.json"
    sets: _Names = ()
    folder: Annotated[str | None, text("FOLDER"), described("sets of cpmv eval draw, instead of the frozen ones")] = (
        None
    )
    limit: Annotated[int | None, number(int, "N", 1), described("only the first N samples of each set")] = None
    controls: Annotated[
        bool, _Flag, described("ask all again with blank and shuffled pictures, and clips with times reversed")
    ] = False
    blank: Annotated[bool, _Flag, described("only the control with blank pictures")] = False
    shuffled: Annotated[bool, _Flag, described("only the control with shuffled pictures")] = False
    reversed: Annotated[bool, _Flag, described("only the control with times reversed")] = False
    batch: Annotated[
        int | None, number(int, "N", 1, 1024), described("prompts at once (default: 256 on a GPU, 32 elsewhere)")
    ] = None
    workers: Annotated[
        int | None, number(int, "N", 0, 256), described("processes that prepare pictures (default: by cores)")
    ] = None
    device: Annotated[str | None, text("DEVICE"), described("auto, cpu, cuda, cuda:N or mps (default: auto)")] = None
    dtype: Annotated[str | None, text("DTYPE"), described("auto, bfloat16, float16, float32 (default: auto)")] = None
    json: Annotated[bool, _Flag, described("print the JSON instead of the table")] = False


@dataclass
class Draw:
    """Draw sets with the independent renderer. The same seed and the same fonts give the same files."""

    out: Annotated[str, tyro.conf.Positional, described("folder for the sets", metavar="FOLDER")]
    seed: Annotated[int, number(int, "N", 0), described("of the drawing (default: 1)")] = 1
    per_set: Annotated[
        int | None, number(int, "N", 1), described("samples of each set (default: as many as are frozen)")
    ] = None
    sets: _Names = ()


@dataclass
class Table:
    """Write a run's table between the markers of Markdown files, or print it."""

    run: Annotated[str, tyro.conf.Positional, described("JSON of a run", metavar="RUN.json")]
    into: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="FILE ...", help="files to change", help_behavior_hint="")
    ] = ()


@dataclass
class Compare:
    """Two runs side by side, set by set."""

    first: Annotated[str, tyro.conf.Positional, described("JSON of a run", metavar="A.json")]
    second: Annotated[str, tyro.conf.Positional, described("JSON of another run", metavar="B.json")]


def run(argv: list[str]) -> int:
    verbs = {"tiny": _tiny, "draw": _draw, "table": _table, "compare": _compare, "--compare": _compare}
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0 if argv else 2
    if argv[0] not in verbs:
        raise UsageError(f"there is no {argv[0]!r} to evaluate; allowed: {', '.join(list(verbs)[:4])}")
    return verbs[argv[0]](argv[1:])


def _tiny(argv: list[str]) -> int:
    options = parse(Tiny, "eval tiny", argv)
    from ..evals import report as reports
    from ..evals.run import Settings, default_workers, evaluate
    from ..evals.tasks import SETS, choose
    from .screen import print_json

    folder = Path(options.folder) if options.folder is not None else SETS
    tasks = choose(options.sets)
    model, files = _load(options)
    kind = model.device.type
    settings = Settings(
        tasks=tuple(tasks),
        folder=folder,
        limit=options.limit,
        controls=_controls(options),
        batch=options.batch or (256 if kind == "cuda" else 32),
        workers=default_workers(kind) if options.workers is None else options.workers,
    )
    with Progress("evaluating", "answers") as progress:
        report = evaluate(model, options.model or "bundled", files, settings, Path(options.out), progress)
    if options.json:
        print_json(report)
    else:
        print(reports.terminal(report))
    return 0


def _controls(options: Tiny) -> tuple[str, ...]:
    chosen = ("blank", "shuffled", "reversed")
    return tuple(name for name in chosen if options.controls or getattr(options, name))


def _load(options: Tiny) -> tuple[Any, Path]:
    import cpmv

    from ..weights.hub import resolve

    source = resolve(options.model)
    with Progress("loading", "bytes") as progress:
        model = cpmv.load(options.model, device=options.device, dtype=options.dtype, progress=progress)
    return model, source.path


def _draw(argv: list[str]) -> int:
    options = parse(Draw, "eval draw", argv)
    from ..evals.draw.sets import write_sets

    folder = Path(options.out)
    with Progress("drawing", "sets") as progress:
        sizes = write_sets(folder, options.seed, options.per_set, options.sets, progress)
    for name, size in sizes.items():
        print(f"{name:<24} {size / 1024:8.1f} KiB")
    print(f"{folder}: {len(sizes)} sets, {sum(sizes.values()) / 2**20:.2f} MiB")
    return 0


def _table(argv: list[str]) -> int:
    options = parse(Table, "eval table", argv)
    from ..evals import report as reports

    found = reports.read_report(Path(options.run))
    if not options.into:
        print(reports.markdown(found))
    for name in options.into:
        path = Path(name)
        if not path.is_file():
            raise CpmvError(f"there is no file {name}; give Markdown files with the two markers")
        print(f"{name}: {'changed' if reports.embed(path, found) else 'as it was'}")
    return 0


def _compare(argv: list[str]) -> int:
    options = parse(Compare, "eval compare", argv)
    from ..evals import report as reports

    print(reports.compare(*(reports.read_report(Path(name)) for name in (options.first, options.second))))
    return 0
