"""How much memory a model and a request will take, worked out from headers and configuration before loading.

The numbers are upper estimates of the parts that matter, by name, so that `cpmv info` can print them and `load` can
refuse with them. On a CPU, weights that stay in their mapped files are counted apart: the system can drop and reread
their pages, so too little memory for them is slow but not fatal.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import CpmvError, OutOfMemoryError
from ..model.config import ModelConfig

log = logging.getLogger("cpmv")

_CONVERSATION_TOKENS = 2048  # room for text and answer when no context is given
_RUNTIME_BYTES = {"cpu": 400 << 20, "cuda": 500 << 20, "mps": 400 << 20}  # libraries, tokenizer, allocator slack
# How much each part works on at once: packed._CHUNK_ELEMENTS, layers.cast_linear, the resampler, encode_images.
_UNPACK_ELEMENTS = 1 << 24
_CAST_ELEMENTS = 1 << 26
_RESAMPLER_PATCHES = 16 * 1024
_TOWER_BATCHES = 4


@dataclass(frozen=True)
class WeightBytes:
    """resident: bytes that must be in memory; mapped: bytes that stay in files; unpacked: whether weights are
    dequantised or cast as they are used.
    """

    resident: int
    mapped: int = 0
    unpacked: bool = False


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by item, and what the device has free now. `mapped` is the part of the weights that stays in files."""

    device: torch.device
    items: dict[str, int]
    mapped: int
    free: int
    context: int
    num_visual_tokens: int

    @property
    def total(self) -> int:
        return sum(self.items.values())

    @property
    def resident(self) -> int:
        return self.total - self.mapped


def memory_plan(
    config: ModelConfig,
    weights: WeightBytes,
    device: torch.device,
    dtype: torch.dtype,
    *,
    num_images: int = 1,
    num_frames: int = 0,
    packing: int = 1,
    context: int | None = None,
) -> MemoryPlan:
    """Estimate the memory of one conversation.

    num_images are cut into as many slices as the configuration allows; num_frames are one slice each, `packing` of
    them a group. context: tokens in all, by default what the pictures need and 2048 more.
    """
    vision, language, item = config.vision, config.language, dtype.itemsize
    per_image = config.image.max_slice_nums + (config.image.max_slice_nums > 1)
    slices = num_images * per_image + num_frames
    groups = num_images * per_image + -(-num_frames // max(1, packing))
    visual = groups * config.resampler.query_num
    tokens = max(context or 0, visual + (0 if context else _CONVERSATION_TOKENS))
    patches = (config.image.scale_resolution // config.image.patch_size) ** 2  # of one slice
    at_once = min(slices, max(1, vision.batch_size)) * patches
    kept = min(slices, _TOWER_BATCHES * max(1, vision.batch_size)) * patches * vision.hidden_size
    tower = at_once * (8 * vision.hidden_size + 2 * vision.intermediate_size) + kept
    resampler = 6 * min(slices * patches, max(_RESAMPLER_PATCHES, packing * patches)) * config.resampler.embed_dim
    kv_width = language.num_key_value_heads * language.head_dim
    prefill = 6 * language.hidden_size + 2 * language.intermediate_size
    prefill += 2 * (language.num_attention_heads * language.head_dim + 2 * kv_width)
    items = {
        "weights": weights.resident + weights.mapped,
        "KV cache": 2 * language.num_hidden_layers * kv_width * tokens * item,
        "vision": (tower + resampler) * item if slices else 0,
        "prefill": prefill * tokens * item,
        "logits": 3 * language.vocab_size * 4,
        "unpacking": (_UNPACK_ELEMENTS * 8 + _CAST_ELEMENTS * item) if weights.unpacked else 0,
        "runtime": _RUNTIME_BYTES.get(device.type, 0),
    }
    return MemoryPlan(device, items, weights.mapped, free_memory(device), tokens, visual)


def ensure_fits(plan: MemoryPlan, max_memory: int | None = None) -> None:
    """Raise OutOfMemoryError with the numbers if the plan cannot run, before anything is loaded.

    max_memory bounds everything. Otherwise what must be resident has to fit the free memory; mapped weights that do
    not fit as well only bring a warning.
    """
    parts = ", ".join(f"{name} {gigabytes(size)}" for name, size in plan.items.items() if size >= 50_000_000)
    if max_memory is not None and plan.total > max_memory:
        raise OutOfMemoryError(
            f"the model needs about {gigabytes(plan.total)} ({parts}) but max_memory allows {gigabytes(max_memory)}; "
            "raise it, or use an int4 checkpoint, a shorter context or fewer images"
        )
    if plan.resident > plan.free:
        raise OutOfMemoryError(
            f"the model needs about {gigabytes(plan.resident)} on {plan.device} ({parts}) but {gigabytes(plan.free)} "
            "are free; free some, or use an int4 checkpoint, another device or dtype, or a shorter context"
        )
    if plan.total > plan.free:
        log.warning(
            "the weights (%s) stay in their files and do not fit the free memory (%s): they are read from disk again "
            "and again, which is slow; an int4 checkpoint would fit better",
            gigabytes(plan.mapped),
            gigabytes(plan.free),
        )


def gigabytes(num_bytes: int) -> str:
    """Format bytes for people: 17.4 GB, or MB below a tenth of that unit."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"


def parse_memory(limit: int | str | None) -> int | None:
    """Read a limit in bytes, or with a unit such as "8GB" or "7.5GiB". Raises CpmvError for anything else."""
    if limit is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", str(limit).lower())
    if found is None or isinstance(limit, bool) or float(found[1]) <= 0:
        raise CpmvError(f"max_memory {limit!r} is no size; give bytes, or a size such as 8GB or 7.5GiB")
    base = 1024 if found[3] else 1000
    return int(float(found[1]) * base ** " kmgt".index(found[2] or " "))


def free_memory(device: torch.device) -> int:
    """Return the bytes that can still be taken on a device, container limits included."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    limits = [_available_on_host(), *_container_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))]
    return max(0, min(limits))


def _available_on_host(meminfo: Path = Path("/proc/meminfo")) -> int:
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    except OSError:
        pass  # not Linux: the physical memory is the best that the standard library knows
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        log.warning("the free memory of this system cannot be read; no plan can be checked against it")
        return 1 << 62


def _container_limits(membership: Path, root: Path) -> list[int]:
    """What control groups leave: for each limit of this process or its parents, limit - use + page cache."""
    left = []
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        number, _, place = line.partition("::") if "::" in line else line.partition(":memory:")
        if not number or not place:
            continue
        unified = "::" in line
        base = root if unified else root / "memory"
        names = ("memory.max", "memory.current") if unified else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        folder = base / place.lstrip("/")
        while folder == base or base in folder.parents:
            remaining = _remaining(folder, *names)
            left += [] if remaining is None else [remaining]
            folder = folder.parent
    return left


def _remaining(folder: Path, limit_name: str, use_name: str) -> int | None:
    try:
        limit, used = (folder / limit_name).read_text().strip(), int((folder / use_name).read_text())
        if limit == "max" or int(limit) >= 1 << 60:
            return None
        cache = re.search(r"^(?:total_cache|file) (\d+)", (folder / "memory.stat").read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return None
    return int(limit) - used + (int(cache[1]) if cache else 0)
