"""`cpmv check`: verify the files of a checkpoint and every tensor in them; exit code 1 when something is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from .arguments import described, parse, text

if TYPE_CHECKING:
    from ..weights.checkpoint import Report

FOUND_PROBLEMS = 1


@dataclass
class Check:
    """Verify a checkpoint's files: headers, names, shapes, sampled values of every tensor, and the tokenizer."""

    model: Annotated[
        str,
        tyro.conf.Positional,
        described("folder, .gguf file, Hugging Face id, or modelscope:ID (an id is fetched first)", metavar="MODEL"),
    ]
    mmproj: Annotated[str | None, text("FILE"), described("vision half of a GGUF pair, if not beside it")] = None
    tensors: Annotated[bool, tyro.conf.FlagCreatePairsOff, described("list every tensor")] = False
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff, described("print one JSON object")] = False


def run(argv: list[str]) -> int:
    options = parse(Check, "check", argv)
    from ..weights.checkpoint import check
    from ..weights.hub import resolve
    from .screen import print_json

    report = check(resolve(options.model, mmproj=options.mmproj))
    if options.json:
        print_json(_json(report))
    else:
        _print(options, report)
    return 0 if report.ok else FOUND_PROBLEMS


def _print(options: Check, report: Report) -> None:
    from ..weights.plan import gigabytes

    if options.tensors:
        width = max((len(tensor.name) for tensor in report.tensors), default=0)
        for tensor in report.tensors:
            shape = " x ".join(str(size) for size in tensor.shape)
            print(f"{tensor.name:<{width}}  {tensor.stored_as:<9} {shape:<14} {tensor.problem or 'ok'}")
    for problem in report.problems:
        print(f"wrong: {problem}")
    if report.format is not None:
        found = f"{report.format}, {len(report.files)} files, {len(report.tensors)} tensors, {gigabytes(report.nbytes)}"
        print(f"{options.model}: {found}")
    wrong = "1 problem" if len(report.problems) == 1 else f"{len(report.problems)} problems"
    print("all is well" if report.ok else f"{wrong} found")


def _json(report: Report) -> dict[str, Any]:
    return {
        "ok": report.ok,
        "format": report.format,
        "files": [str(file) for file in report.files],
        "bytes": report.nbytes,
        "tensors": [
            {
                "name": tensor.name,
                "stored_as": tensor.stored_as,
                "shape": list(tensor.shape),
                "bytes": tensor.nbytes,
                "file": tensor.file,
                "problem": tensor.problem,
            }
            for tensor in report.tensors
        ],
        "problems": report.problems,
    }
