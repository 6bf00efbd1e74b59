"""How kernels are launched: whether Triton is there and wanted, what the card can do, and the counters they share."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..errors import CpmvError

log = logging.getLogger("cpmv")

PATHS = ("auto", "triton", "plain")
# Programs that share a result count their arrivals here; a kernel leaves zeros. More than any launch has.
_NUM_COUNTERS = 1 << 14
_COMPILERS = 8  # threads; ptxas is a process of its own
_only_compiling: ContextVar[bool] = ContextVar("only_compiling", default=False)


def chosen_path() -> str:
    """Return what CPMV_KERNELS asks for: "auto" where it is unset. Raises ValueError for a word it does not know."""
    path = os.environ.get("CPMV_KERNELS", "auto").strip().lower() or "auto"
    if path not in PATHS:
        raise ValueError(f"CPMV_KERNELS={path!r} is unknown; use one of {', '.join(PATHS)}")
    return path


def interpreting() -> bool:
    """Whether Triton's kernels run as Python on the CPU (TRITON_INTERPRET=1), as tests do."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@lru_cache
def _triton_problem() -> str | None:
    try:
        import triton  # noqa: F401
    except Exception as error:  # a broken installation is as good as none
        return f"Triton cannot be imported ({error})"
    return None


def available(device: torch.device) -> bool:
    """Whether kernels are to be used on a device; the reason is logged, once a device and path.

    Raises CpmvError where CPMV_KERNELS=triton asks for what cannot be.
    """
    return _available(device, chosen_path())


@lru_cache
def _available(device: torch.device, path: str) -> bool:
    if path == "plain":
        log.info("kernels: plain torch, as CPMV_KERNELS asks")
        return False
    if device.type != "cuda":
        return interpreting() and _triton_problem() is None
    problem = _triton_problem()
    if problem is None and capability(device) < (7, 5):
        problem = f"{torch.cuda.get_device_name(device)} is older than Triton's kernels support (7.5)"
    if problem is not None and path == "triton":
        raise CpmvError(f"CPMV_KERNELS=triton was asked for, but {problem}; unset it to use plain torch")
    if problem is not None:
        log.warning("kernels: plain torch, slower: %s", problem)
        return False
    log.info("kernels: Triton on %s", torch.cuda.get_device_name(device))
    return True


@lru_cache
def capability(device: torch.device) -> tuple[int, int]:
    """The card's compute capability; (0, 0) for what is no card."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


@lru_cache
def has_dependent_launch(device: torch.device) -> bool:
    """Whether a kernel may be launched while the one before it ends (sm_90 and newer). CPMV_PDL=0 forbids it."""
    return capability(device) >= (9, 0) and os.environ.get("CPMV_PDL", "1") != "0"


def options(num_warps: int, dependent: bool) -> dict[str, Any]:
    """Launch options for Triton."""
    return {"num_warps": num_warps, **({"launch_pdl": True} if dependent else {})}


@lru_cache
def counters(device: torch.device) -> Tensor:
    """The card's counters, int32 zeros. Launches that use them must follow each other on one stream."""
    return torch.zeros(_NUM_COUNTERS, dtype=torch.int32, device=device)


def run(kernel: Any, grid: tuple[int, ...], /, *args: Any, **options: Any) -> None:
    """Launch a Triton kernel; within `compiling`, only have it compiled."""
    if _only_compiling.get():
        kernel.warmup(*args, grid=grid, **options)
    else:
        kernel[grid](*args, **options)


def only_compiles() -> bool:
    """Whether launches have no effect just now."""
    return _only_compiling.get()


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Within, what would be launched is compiled instead, side by side; all of it is ready at the end.

    Raises ImportError with a Triton that has no such mode (before 3.5).
    """
    from triton.runtime import _async_compile

    token = _only_compiling.set(True)
    try:
        with ThreadPoolExecutor(_COMPILERS) as executor, _async_compile.AsyncCompileMode(executor):
            yield
    finally:
        _only_compiling.reset(token)
