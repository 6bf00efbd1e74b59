"""`cpmv convert MODEL OUT`: any checkpoint to plain safetensors, or to a GGUF pair for llama.cpp and its kin."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from .arguments import UsageError, described, parse, text
from .progress import Progress


@dataclass
class Convert:
    """Rewrite a checkpoint: a GGUF pair as plain safetensors, anything else as a GGUF pair, or as --to says."""

    model: Annotated[
        str,
        tyro.conf.Positional,
        described("folder, .gguf file, Hugging Face id, or modelscope:ID", metavar="MODEL"),
    ]
    output: Annotated[str, tyro.conf.Positional, described("folder to write", metavar="OUT")]
    to: Annotated[
        Literal["gguf", "safetensors"] | None, described("what to write (default: gguf, or safetensors from a .gguf)")
    ] = None
    type: Annotated[
        Literal["F32", "F16", "BF16", "Q8_0", "Q4_0"] | None,
        described("of the decoder's matrices in GGUF (default: F16)"),
    ] = None
    dtype: Annotated[
        Literal["bfloat16", "float16", "float32"] | None, described("of safetensors (default: the checkpoint's)")
    ] = None
    mmproj: Annotated[str | None, text("FILE"), described("vision half of a GGUF pair, if not beside it")] = None
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff, described("replace a checkpoint that OUT holds")] = False
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff, described("print one JSON object at the end")] = False


def run(argv: list[str]) -> int:
    options = parse(Convert, "convert", argv)
    from ..weights.catalogue import open_catalogue
    from ..weights.converting import write_plain
    from ..weights.gguf_export import write_pair
    from ..weights.hub import resolve
    from ..weights.saving import check_target

    check_target(options.output, overwrite=options.overwrite)
    source = resolve(options.model, mmproj=options.mmproj)
    to = options.to or ("safetensors" if source.kind == "gguf" else "gguf")
    if options.type is not None and to != "gguf":
        raise UsageError(f"--type {options.type} is for GGUF; for safetensors give --dtype")
    if options.dtype is not None and to != "safetensors":
        raise UsageError(f"--dtype {options.dtype} is for safetensors; for GGUF give --type")
    catalogue = open_catalogue(source)
    with Progress("converting", "bytes") as progress:
        if to == "gguf":
            files = list(
                write_pair(
                    catalogue, options.output, options.type or "F16", overwrite=options.overwrite, progress=progress
                )
            )
        else:
            folder = write_plain(
                catalogue, options.output, options.dtype, overwrite=options.overwrite, progress=progress
            )
            files = sorted(folder.glob("*.safetensors"))
    _tell(options, to, files)
    return 0


def _tell(options: Convert, to: str, files: list[Path]) -> None:
    size = sum(file.stat().st_size for file in files)
    if options.json:
        print(json.dumps({"to": to, "files": [str(file) for file in files], "bytes": size}))
        return
    from ..weights.plan import gigabytes

    names = ", ".join(file.name for file in files) if len(files) < 4 else f"{len(files)} files"
    print(f"cpmv: wrote {gigabytes(size)} to {options.output}: {names}", file=sys.stderr)
