"""What the tests of several ranks share: a group of two over the tiny checkpoint, on the CPU; run as a script, one rank
of such a group whose decoding steps are recorded, by running them again.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cpmv.engine import parallel, parallel_group
from cpmv.engine.graphs import DecodeGraphs
from cpmv.engine.parallel_fused import fuse_part
from cpmv.engine.parallel_group import Group, Origin
from cpmv.engine.parallel_link import join, leave
from cpmv.engine.resident import resident_decoder

GOLDEN = Path(__file__).parents[1] / "golden"


def origin(name: str = "tiny_a", dtype: str = "float32") -> Origin:
    return Origin(str(GOLDEN / name), device="cpu", dtype=dtype)


@contextlib.contextmanager
def two_ranks(name: str = "tiny_a", dtype: str = "float32") -> Iterator[Group]:
    """A group of two, whose other process is gone afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        group = parallel_group.start(origin(name, dtype), 2)
    try:
        yield group
    finally:
        group.close()
        assert [process.poll() for process in group._processes] != [None]


def record(runner: parallel.ParallelRunner) -> None:
    """In place of `refresh`: what a GPU does, with a recording that runs again and kernels where they are taken."""
    from test_graphs import run_again

    leave(runner._network.llm)
    runner._decoder = resident_decoder(runner._network)
    runner._cpu_step = None
    fused = fuse_part(runner._decoder, runner._pool, runner._link)
    runner.graphs = DecodeGraphs(*(runner._network, runner._decoder, runner._pool, runner._max_batch), run_again, fused)
    join(runner._decoder, runner._link)


def spawn_recording(rank: int, words: str) -> subprocess.Popen[str]:
    """In place of `parallel_group._spawn`: this file is the other rank."""
    command = [sys.executable, __file__, str(rank)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write(words + "\n")
    process.stdin.flush()
    return process


if __name__ == "__main__":
    sys.path[:0] = [str(GOLDEN.parent), str(GOLDEN.parent / "kernels")]
    if os.environ.get("TRITON_INTERPRET") == "1":
        import interpret

        interpret._let_arrays_of_one_be_numbers()
    parallel.ParallelRunner.refresh = record  # type: ignore[method-assign, assignment]
    sys.exit(parallel_group.main(int(sys.argv[1])))
