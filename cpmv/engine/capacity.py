"""How large the cache is: as much as the rows that run together can use, within a share of what is free.

And what it looks like when memory runs out all the same.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from ..errors import OutOfMemoryError
from ..model.minicpmv import MiniCPMV
from ..weights.plan import free_memory, gigabytes

log = logging.getLogger("cpmv")

# Tokens a row is given room for when nothing else is said: a picture or two and a long answer.
_TOKENS_PER_ROW = 2048
# Of the free memory. On a CPU it is everyone's; on a GPU the rest is for activations and pictures.
_SHARE = {"cpu": 0.3, "cuda": 0.8}


@dataclass(frozen=True)
class CachePlan:
    num_blocks: int
    block_size: int
    num_bytes: int


def plan_cache(network: MiniCPMV, block_size: int, cache_bytes: int | None, max_batch: int) -> CachePlan:
    """Decide the number of blocks. Raises OutOfMemoryError when not even one row's first block fits."""
    block_bytes = network.cache_spec().bytes_per_token * block_size
    context = network.config.language.max_position_embeddings
    if cache_bytes is None:
        wanted = max(context, max_batch * min(context, _TOKENS_PER_ROW)) * block_bytes // block_size
        free = free_memory(network.device)
        cache_bytes = min(wanted, int(_SHARE.get(network.device.type, 0.5) * free))
    num_blocks = cache_bytes // block_bytes
    if num_blocks < 2:
        raise OutOfMemoryError(
            f"the key-value cache may take {gigabytes(cache_bytes)}, but {block_size} tokens take "
            f"{gigabytes(block_bytes)}; free memory or pass a larger cache_bytes"
        )
    plan = CachePlan(num_blocks, block_size, num_blocks * block_bytes)
    log.info(
        "key-value cache: %d blocks of %d tokens, %s (context %d)",
        *(plan.num_blocks, block_size, gigabytes(plan.num_bytes), context),
    )
    return plan


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocator refused: torch's on a GPU or a CPU, Python's, or cuBLAS's for its workspace."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    named = "DefaultCPUAllocator" in str(error) or "ALLOC_FAILED" in str(error)
    return isinstance(error, RuntimeError) and named
