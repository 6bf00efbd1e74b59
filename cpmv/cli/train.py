"""`cpmv train`: the training commands, as `python -m cpmv.train` has them."""

from __future__ import annotations


def run(argv: list[str]) -> int:
    from ..train.__main__ import main

    return main(argv)
