"""Run tests of Triton kernels on the CPU: each function again in a process where Triton interprets its kernels.

Triton decides at import whether it compiles or interprets, and other tests of this process may want the former; so a
decorated test runs in a child with TRITON_INTERPRET=1 set. What it prints comes along when it fails.
"""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_CHILD = "import sys; sys.path.insert(0, sys.argv[1]); import interpret; interpret.run(sys.argv[2], sys.argv[3])"


def interpreted(test: Callable[[], None]) -> Callable[[], None]:
    """Decorate a test without parameters: it runs in a child process, interpreted; skipped where Triton is not."""

    @functools.wraps(test)
    def in_child() -> None:
        pytest.importorskip("triton")
        environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "CPMV_KERNELS": "auto"}
        module = Path(sys.modules[test.__module__].__file__ or "")
        command = [sys.executable, "-c", _CHILD, str(_HERE), str(module), test.__name__]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=_HERE.parents[1])
        if done.returncode:
            pytest.fail(f"{done.stdout}\n{done.stderr}", pytrace=False)
        print(done.stdout, end="")

    in_child.original = test  # type: ignore[attr-defined]
    return in_child


def run(path: str, name: str) -> None:
    """Run one decorated test's own function here."""
    import torch

    assert os.environ["TRITON_INTERPRET"] == "1"
    _let_arrays_of_one_be_numbers()
    torch.set_num_threads(1)
    file = Path(path)
    for folder in (_HERE.parents[1], _HERE.parent, _HERE.parent / "engine", file.parent):
        sys.path.insert(0, str(folder))
    getattr(importlib.import_module(file.stem), name).original()


def _let_arrays_of_one_be_numbers() -> None:
    """Triton 3.6's interpreter holds scalars as arrays of one element, which numpy 2.4 no longer takes as indices."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patched(tensor: type, *rest: object) -> None:
        patch(tensor, *rest)
        setattr(tensor, "__index__", lambda self: int(self.handle.data.item()))  # noqa: B010

    interpreter._patch_lang_tensor = patched
