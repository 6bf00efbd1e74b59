"""`cpmv data check`: read training files as training would, without a GPU or a model; exit code 1 for bad samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from .arguments import UsageError, described, number, parse, text
from .progress import Progress

if TYPE_CHECKING:
    from ..train.data_check import FileReport
    from ..train.records import Record

BAD_SAMPLES = 1
_BAR = 40  # characters
_Flag = tyro.conf.FlagCreatePairsOff

HELP = """usage: cpmv data check FILE... [OPTIONS]

  check    read training files as training would, and tell what they hold and what is wrong

  cpmv data check --help     list its options
"""


@dataclass
class Check:
    """Read training files as training would: counts, token lengths, and every bad sample by line and reason."""

    files: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        described("data files, FILE or FILE:WEIGHT, or a dataset_info.json#NAME", metavar="FILE [FILE ...]"),
    ]
    model: Annotated[
        str | None,
        text("MODEL"),
        described("whose tokenizer and image settings count (default: the bundled one)", "-m"),
    ] = None
    format: Annotated[
        str | None,
        text("FORMAT"),
        described("cookbook, llama-factory, ms-swift, rlpr or rlaif-v (default: told by content)"),
    ] = None
    media_root: Annotated[
        str | None, text("DIR"), described("folder of relative media paths (default: the file's own)")
    ] = None
    max_tokens: Annotated[
        int, number(int, "N", 16), described("longest sample, as training would allow it (default: 4096)")
    ] = 4096
    max_slices: Annotated[int | None, number(int, "N", 1), described("most slices of a large image")] = None
    fps: Annotated[float | None, number(float, "RATE", 0.01, 1000), described("for videos that do not say")] = None
    packing: Annotated[int | None, number(int, "N", 1, 6), described("for videos that do not say")] = None
    pictures: Annotated[
        str | None, text("OUT"), described("write what the model will see of the first samples: OUT.html or OUT.png")
    ] = None
    show: Annotated[int, number(int, "N", 1, 1000), described("samples in --pictures (default: 24)")] = 24
    list: Annotated[int, number(int, "N", 0), described("bad samples to name for each file (default: 10)")] = 10
    quick: Annotated[bool, _Flag, described("read the sizes of media, not their pixels")] = False
    json: Annotated[bool, _Flag, described("end with one line of JSON")] = False


def run(argv: list[str]) -> int:
    if argv[:1] in ([], ["-h"], ["--help"]):
        print(HELP, end="")
        return 0 if argv else 2
    if argv[0] != "check":
        raise UsageError(f"there is no cpmv data {argv[0]!r}; there is cpmv data check")
    return check(parse(Check, "data check", argv[1:]))


def check(options: Check) -> int:
    if not options.files:
        raise UsageError("no file was given; name the files to check")
    picture_file = None if options.pictures is None else Path(options.pictures)
    if picture_file is not None and picture_file.suffix.lower() not in (".html", ".htm", ".png"):
        raise UsageError(f"--pictures {picture_file} must end with .html or .png")
    if picture_file is not None and options.quick:
        raise UsageError("--pictures needs pixels, which --quick leaves out; drop one of the two")
    from ..inputs.processor import Processor
    from ..model.config import ModelInputs
    from ..train.data_check import check_source
    from ..train.data_pictures import Gallery
    from ..train.formats import read_source
    from ..train.samples import Reading
    from ..weights.catalogue import open_catalogue
    from ..weights.hub import resolve

    catalogue = open_catalogue(resolve(options.model))
    tokenizer = catalogue.read_tokenizer()
    processor = Processor(catalogue.config, tokenizer)
    reading = Reading(options.max_tokens, options.max_slices, options.fps, options.packing)
    gallery = Gallery(tokenizer, options.show)
    reports = []
    for spec in options.files:
        source = read_source(spec, format=options.format, media_root=options.media_root)

        def show(record: Record, inputs: ModelInputs, file: str = source.path.name) -> None:
            gallery.add(record, inputs, file)

        with Progress(f"checking {source.path.name}", "samples") as progress:
            report = check_source(
                source,
                processor,
                reading,
                quick=options.quick,
                show=show if picture_file is not None else None,
                progress=progress,
            )
        reports.append(report)
        _print(report, options)
    if picture_file is not None:
        gallery.write(picture_file)
        print(f"pictures of {len(gallery.shown)} samples: {picture_file}")
    bad = sum(len(report.problems) for report in reports)
    total = sum(report.source.num_rows for report in reports)
    print(f"all {total} samples are usable" if not bad else f"{bad} of {total} samples are bad and would be left out")
    if options.json:
        from .screen import print_json

        print_json({"ok": not bad, "samples": total, "bad": bad, "files": [report.to_json() for report in reports]})
    return BAD_SAMPLES if bad else 0


def _print(report: FileReport, options: Check) -> None:
    from ..train.data_check import histogram, summary

    source = report.source
    weight = f", weight {source.weight:g}" if source.weight != 1 else ""
    print(f"{source.path}: {source.format}, {source.num_rows} samples, {report.usable} usable{weight}")
    print(f"  turns    {_counts(report.roles) or 'none'}")
    print(f"  media    {_counts(report.media) or 'none'}")
    if report.pairs or report.prompts:
        print(f"  kinds    {report.pairs} preference pairs, {report.prompts} prompts without an answer")
    if report.lengths:
        found = summary(report.lengths)
        span = f"{found['min']:.0f} to {found['max']:.0f}, median {found['median']:.0f}, 95 % within {found['p95']:.0f}"
        print(f"  tokens   {span}; {found['total']:,.0f} in all, {report.learnt:,} learnt")
        most = max(count for *_, count in histogram(report.lengths))
        for first, last, count in histogram(report.lengths):
            over = "  over --max-tokens" if first > options.max_tokens else ""
            bar = "#" * -(-_BAR * count // most)
            print(f"  {first:>7} - {last:<7} {bar:<{_BAR}} {count}{over}")
    kinds = report.kinds
    if kinds["long"]:
        print(f"  too long {kinds['long']} over --max-tokens {options.max_tokens}; left out whole, never cut")
    if kinds["missing"]:
        print(f"  missing  {kinds['missing']} samples name media that are not there")
    if kinds["media"]:
        print(f"  damaged  {kinds['media']} samples have media that cannot be read")
    if report.problems:
        first_bad = report.problems[0]
        print(f"  first bad sample: line {first_bad.line}: {first_bad.reason}")
        for problem in report.problems[1 : options.list]:
            print(f"            also: line {problem.line}: {problem.reason}")
        if len(report.problems) > max(1, options.list):
            print(f"            and {len(report.problems) - max(1, options.list)} more (--list N)")


def _counts(counter: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counter.items() if count)
