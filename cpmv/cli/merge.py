"""`cpmv merge`: write a checkpoint with an adapter merged into it, in the released layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from .arguments import described, parse


@dataclass
class Merge:
    """Merge an adapter into its base and write a whole checkpoint; a quantised base comes out in 16 bits."""

    model: Annotated[
        str,
        tyro.conf.Positional,
        described('the base: folder, .gguf file, Hugging Face id, modelscope:ID, or "bundled"', metavar="MODEL"),
    ]
    adapter: Annotated[str, tyro.conf.Positional, described("folder with adapter_config.json", metavar="ADAPTER")]
    out: Annotated[str, tyro.conf.Positional, described("folder to write, new or empty", metavar="OUT")]
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff, described("replace a checkpoint that is in OUT")] = False


def run(argv: list[str]) -> int:
    options = parse(Merge, "merge", argv)
    from ..weights.merging import merge_adapter

    model = None if options.model == "bundled" else options.model
    changed = merge_adapter(model, options.adapter, options.out, overwrite=options.overwrite)
    print(f"{options.out}: {changed} linears changed")
    return 0
