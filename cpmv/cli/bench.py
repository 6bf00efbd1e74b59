"""`cpmv bench`: measure a model on this machine, each number beside its limit; `table` and `plot` show results.

The options are those of `python -m cpmv.bench`, which runs where the command line's own libraries are missing.
"""

from __future__ import annotations


def run(argv: list[str]) -> int:
    from ..bench.__main__ import main

    return main(argv)
