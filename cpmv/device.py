"""Device, dtype and threads, chosen once and explained in a log line."""

from __future__ import annotations

import logging
import math
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from .errors import CpmvError

log = logging.getLogger("cpmv")

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_ALIASES = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32", "float": "float32"}
# Below this a model runs in float32 on a CPU: exact, and 16-bit arithmetic would win nothing.
_SMALL_MODEL_BYTES = 1 << 30


@dataclass(frozen=True)
class Placement:
    """Where a model runs and in what precision, with the reason in words."""

    device: torch.device
    dtype: torch.dtype
    reason: str


def choose(
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    *,
    stored_dtype: str = "bfloat16",
    stored_bytes: int = 0,
) -> Placement:
    """Decide device and dtype for a checkpoint of `stored_bytes` in `stored_dtype`; None or "auto" means choose.

    Raises CpmvError for an unknown or absent device, or a dtype the device cannot run.
    """
    place, why_device = _choose_device(device)
    wanted = parse_dtype(dtype)
    if wanted is not None:
        chosen, why_dtype = wanted, "asked for"
        if chosen is torch.bfloat16 and place.type == "cuda" and not _cuda_has_bf16(place):
            raise CpmvError(
                f"dtype bfloat16 was asked for, but {torch.cuda.get_device_name(place)} lacks it; use dtype='float16'"
            )
    else:
        chosen, why_dtype = _choose_dtype(place, stored_dtype, stored_bytes)
    placement = Placement(place, chosen, f"{place} ({why_device}), {str(chosen).removeprefix('torch.')} ({why_dtype})")
    log.info("running on %s", placement.reason)
    if place.type == "cpu":
        use_physical_cores()
    return placement


def parse_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """Read a dtype given as torch.dtype, a name or an alias; None and "auto" give None."""
    if dtype is None or dtype == "auto":
        return None
    if isinstance(dtype, torch.dtype):
        name = str(dtype).removeprefix("torch.")
    else:
        name = str(dtype).removeprefix("torch.").lower()
    name = _ALIASES.get(name, name)
    if name not in DTYPES:
        raise CpmvError(f"dtype {dtype} is unknown; use one of auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def _choose_device(device: str | torch.device | None) -> tuple[torch.device, str]:
    if device is None or device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device()), torch.cuda.get_device_name()
        if torch.backends.mps.is_available():
            return torch.device("mps"), "Apple GPU"
        return torch.device("cpu"), "no GPU found"
    try:
        place = torch.device(device)
    except RuntimeError:
        place = torch.device("meta")
    if place.type not in ("cpu", "cuda", "mps"):
        raise CpmvError(f"device {device!r} is unknown; use auto, cpu, cuda, cuda:N or mps")
    if place.type == "cuda":
        if not torch.cuda.is_available():
            raise CpmvError(f"device {device!r} was asked for, but torch {torch.__version__} sees no CUDA GPU; use cpu")
        index = torch.cuda.current_device() if place.index is None else place.index
        if index >= torch.cuda.device_count():
            raise CpmvError(f"device {device!r} was asked for, but there are {torch.cuda.device_count()} GPUs")
        return torch.device("cuda", index), torch.cuda.get_device_name(index)
    if place.type == "mps" and not torch.backends.mps.is_available():
        raise CpmvError(f"device {device!r} was asked for, but this machine has no Apple GPU; use cpu")
    return place, "asked for"


def _choose_dtype(place: torch.device, stored: str, stored_bytes: int) -> tuple[torch.dtype, str]:
    if place.type == "cuda":
        if not _cuda_has_bf16(place):
            return torch.float16, "this card has no bfloat16"
        if stored == "float32":
            return torch.float32, "the file's own"
        return torch.bfloat16, "the model was trained in it"
    if place.type == "mps":
        return torch.float16, "Apple GPUs are fastest in it"
    if stored_bytes < _SMALL_MODEL_BYTES:
        return torch.float32, "small model"
    if cpu_has_bf16():
        return torch.bfloat16, "this CPU multiplies it natively"
    return torch.float32, "this CPU has no native bfloat16; weights stay 16-bit in memory"


def _cuda_has_bf16(place: torch.device) -> bool:
    return torch.cuda.get_device_capability(place) >= (8, 0)


def cpu_has_bf16() -> bool:
    """Whether the CPU has bfloat16 dot products (AVX-512 BF16, AMX, or Arm's)."""
    capabilities = torch.backends.cpu.get_cpu_capability()
    if platform.machine().lower() in ("arm64", "aarch64"):
        return "SVE" in capabilities or platform.system() == "Darwin"
    for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        supported = getattr(torch.cpu, probe, None)
        if supported is not None and supported():
            return True
    return False


def use_physical_cores() -> int:
    """Let torch use one thread for each physical core that this process may run on; return how many it uses now.

    Two threads on one core share its multipliers and its way to memory: they only wait for each other. What
    OMP_NUM_THREADS or torch.set_num_threads has said stays.
    """
    current = torch.get_num_threads()
    allowed = _allowed_cpus()
    if os.environ.get("OMP_NUM_THREADS") or current != len(allowed):
        log.info("%d CPU threads, as set", current)
        return current
    cores = _physical_cores(allowed)
    if cores < current:
        torch.set_num_threads(cores)
    log.info("%d CPU threads for %d logical CPUs", cores, len(allowed))
    return cores


def _allowed_cpus() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _physical_cores(cpus: set[int], root: Path = Path("/sys/devices/system/cpu"), group: Path | None = None) -> int:
    """Count the cores behind logical CPUs, and no more than a container may use; all of them where nothing is told.

    group: the control group's folder, by default the one that containers see.
    """
    cores: set[str] = set()
    for cpu in cpus:
        try:
            cores.add((root / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip())
        except OSError:
            return len(cpus)
    try:
        quota, period = ((group or Path("/sys/fs/cgroup")) / "cpu.max").read_text().split()
        limit = math.ceil(int(quota) / int(period)) if quota != "max" else len(cores)
    except (OSError, ValueError):
        limit = len(cores)
    return max(1, min(len(cores), limit))
