"""What an engine counts, and the snapshot of it that anyone may ask for."""

from __future__ import annotations

from dataclasses import dataclass

from .blocks import BlockPool
from .image_cache import ImageCache
from .scheduler import Scheduler


@dataclass
class Counters:
    """What an engine has done so far."""

    generated: int = 0
    finished: int = 0
    steps: int = 0
    drafted: int = 0
    accepted: int = 0


@dataclass(frozen=True)
class EngineStats:
    """What an engine holds now, and what it has done so far.

    cached_blocks: of the free ones, still holding content that can be shared. prefix_hit_tokens of prompt_tokens were
    taken from other requests' blocks. drafted, accepted: tokens guessed by prompt lookup, and those that were right.
    """

    running: int
    waiting: int
    used_blocks: int
    free_blocks: int
    total_blocks: int
    cached_blocks: int
    block_size: int
    prompt_tokens: int
    prefix_hit_tokens: int
    image_hits: int
    image_misses: int
    image_bytes: int
    generated_tokens: int
    finished: int
    preemptions: int
    drafted: int
    accepted: int
    steps: int


def snapshot(
    pool: BlockPool, scheduler: Scheduler, images: ImageCache, counters: Counters, num_incoming: int
) -> EngineStats:
    """Read everything once. Between two steps the figures agree; during one they may be a step apart."""
    return EngineStats(
        running=len(scheduler.running),
        waiting=scheduler.num_waiting + num_incoming,
        used_blocks=pool.num_used,
        free_blocks=pool.num_free,
        total_blocks=pool.num_blocks,
        cached_blocks=pool.num_cached,
        block_size=pool.block_size,
        prompt_tokens=scheduler.num_prompt_tokens,
        prefix_hit_tokens=scheduler.num_cached_tokens,
        image_hits=images.hits,
        image_misses=images.misses,
        image_bytes=images.num_bytes,
        generated_tokens=counters.generated,
        finished=counters.finished,
        preemptions=scheduler.num_preemptions,
        drafted=counters.drafted,
        accepted=counters.accepted,
        steps=counters.steps,
    )
