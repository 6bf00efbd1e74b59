"""`cpmv quantize MODEL OUT`: a 16-bit checkpoint made smaller, in a format that loads here and, nf4 and awq, elsewhere.

Tensors are read from mapped files, rounded and written one at a time. For awq the model first looks at calibration
prompts: pictures and texts that the user gives, or those of `calibration`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from .arguments import UsageError, described, number, parse, text
from .progress import Progress

if TYPE_CHECKING:
    from ..model.config import ModelInputs
    from ..weights.catalogue import Catalogue
    from ..weights.quantizing import Folds


@dataclass
class Quantize:
    """Write a quantised checkpoint: the decoder's linears in 4 or 8 bits, the vision tower and resampler untouched."""

    model: Annotated[
        str, tyro.conf.Positional, described("16-bit checkpoint: folder, id, or modelscope:ID", metavar="MODEL")
    ]
    output: Annotated[str, tyro.conf.Positional, described("folder to write", metavar="OUT")]
    format: Annotated[Literal["nf4", "awq", "int8"], described("nf4 (bitsandbytes), awq (gemm), or int8 a row")]
    calibration: Annotated[
        tuple[str, ...],
        described("awq: pictures, videos, PDFs, and .txt files with a prompt a line (default: drawn ones)"),
    ] = ()
    group_size: Annotated[
        int, number(int, "N", 8, 1024), described("awq: inputs that share a scale (default: 128)")
    ] = 128
    device: Annotated[
        str | None, text("DEVICE"), described("where to work: auto, cpu, cuda, cuda:N (default: auto)")
    ] = None
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff, described("replace a checkpoint that OUT holds")] = False
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff, described("print one JSON object at the end")] = False


def run(argv: list[str]) -> int:
    options = parse(Quantize, "quantize", argv)
    if options.calibration and options.format != "awq":
        raise UsageError(f"--calibration is for awq; {options.format} looks at the weights alone")
    from ..device import choose
    from ..weights.catalogue import open_catalogue
    from ..weights.converting import check_whole
    from ..weights.hub import resolve
    from ..weights.quantizing import check_source, recipe, write_quantized
    from ..weights.saving import check_target

    check_target(options.output, overwrite=options.overwrite)
    catalogue = open_catalogue(resolve(options.model))
    check_source(catalogue)
    check_whole(catalogue)
    how = recipe(options.format, catalogue, options.group_size)
    report: dict[str, object] = {"format": options.format, "source_bytes": catalogue.nbytes}
    folds = None
    if options.format == "awq":
        folds, errors = _search(options, catalogue)
        report |= errors
    device = choose(options.device, None).device
    with Progress("quantising", "bytes") as progress:
        folder = write_quantized(
            catalogue, options.output, how, folds, overwrite=options.overwrite, progress=progress, device=device
        )
    report |= {"bytes": sum(file.stat().st_size for file in folder.glob("*.safetensors")), "output": str(folder)}
    _tell(options, report)
    return 0


def _search(options: Quantize, catalogue: Catalogue) -> tuple[Folds, dict[str, object]]:
    """Load the model, show it the calibration prompts, and find AWQ's scales."""
    import cpmv

    from ..weights.awq_search import search

    with Progress("loading weights", "bytes") as progress:
        model = cpmv.load(options.model, device=options.device, progress=progress)
    prompts = _prompts(options, model.processor)
    with Progress("calibrating", "layers") as layers:
        found = search(model.network, prompts, options.group_size, progress=layers)
    errors: dict[str, object] = {
        "plain_error": found.plain_error,
        "error": found.error,
        "prompts": len(prompts),
    }
    return found.folds, errors


def _prompts(options: Quantize, processor: object) -> list[ModelInputs]:
    from ..weights.calibration import conversations, drawn_conversations

    found = (
        conversations([Path(path) for path in options.calibration]) if options.calibration else drawn_conversations()
    )
    return [processor(conversation) for conversation in found]  # type: ignore[operator]


def _tell(options: Quantize, report: dict[str, object]) -> None:
    if options.json:
        from .screen import print_json

        print_json(dict(report))
        return
    from ..weights.plan import gigabytes

    sizes = f"{gigabytes(int(str(report['source_bytes'])))} became {gigabytes(int(str(report['bytes'])))}"
    print(f"cpmv: {sizes} of {options.format} in {report['output']}", file=sys.stderr)
    if "plain_error" in report:
        less = 1 - float(str(report["error"])) / max(float(str(report["plain_error"])), 1e-30)
        prompts = f"on {report['prompts']} prompts"
        print(f"cpmv: scales and clips take {less:.0%} off plain rounding's squared error {prompts}", file=sys.stderr)
