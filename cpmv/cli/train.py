"""`cpmv train`: the training commands, as `python -m cpmv.train` has them, with progress bars."""

from __future__ import annotations


def run(argv: list[str]) -> int:
    from ..train.__main__ import main
    from .progress import Progress

    return main(argv, lambda label: Progress(label, "samples"))
