"""What a run measures: sizes that fit the model's context and end in reasonable time on the machine.

A GPU, or a CPU with a small model, gets the whole table; a large model on a CPU a short one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import CpmvError
from ..model.minicpmv import MiniCPMV

SECTIONS = ("decode", "prefill", "vision", "first-token", "throughput", "file", "memory")
PEERS = ("transformers", "llama.cpp", "vllm")
# Parameters above which a CPU is asked for little: a step of them takes longer than a tenth of a second.
_LARGE = 500_000_000


@dataclass(frozen=True)
class Options:
    """What the caller wants; see `python -m cpmv.bench --help`. limit_s: instead of the plan's."""

    model: str | None = None
    random: str | None = None
    format: str = "bf16"
    device: str | None = None
    dtype: str | None = None
    only: tuple[str, ...] = SECTIONS
    quick: bool = False
    peers: tuple[str, ...] = ()
    clip: str | None = None
    seed: int = 0
    limit_s: float | None = None
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """decode: (rows, context) pairs. prefill: prompt lengths. vision: numbers of slices. frames: of the video.
    requests: in flight for throughput, each of one picture; answer: their tokens. budget_s: for one line's repeats.
    limit_s: after which no more lines are begun.
    """

    decode: tuple[tuple[int, int], ...]
    decode_steps: int
    prefill: tuple[int, ...]
    vision: tuple[int, ...]
    frames: int
    requests: int
    answer: int
    budget_s: float
    least: int
    most: int
    limit_s: float | None = None


_WHOLE = Plan(
    decode=((1, 1024), (1, 8192), (8, 1024), (32, 1024)),
    decode_steps=32,
    prefill=(1024, 4096, 12288),
    vision=(1, 10, 180),
    frames=540,
    requests=64,
    answer=200,
    budget_s=4.0,
    least=3,
    most=9,
)
_SMALL_CPU = replace(
    _WHOLE, decode=((1, 1024), (8, 256), (32, 256)), decode_steps=4, prefill=(1024, 2048), vision=(1, 10),
    frames=36, requests=8, answer=32, budget_s=4.0, least=2, most=5, limit_s=100.0,
)  # fmt: skip
_LARGE_CPU = replace(
    _SMALL_CPU, decode=((1, 64),), decode_steps=2, prefill=(512,), vision=(1,), frames=3, requests=1, answer=4,
    budget_s=1.0, least=1, most=3,
)  # fmt: skip


def check_options(options: Options) -> None:
    """Raise CpmvError for an unknown section or peer, before anything is loaded."""
    for name, given, known in (("--only", options.only, SECTIONS), ("--peer", options.peers, PEERS)):
        for value in given:
            if value not in known:
                raise CpmvError(f"{name} does not know {value!r}; give some of {','.join(known)}")


def choose_plan(options: Options, network: MiniCPMV) -> Plan:
    """Choose sizes for a model where it is."""
    plan = _WHOLE
    if network.device.type == "cpu":
        parameters = sum(p.numel() for p in network.parameters()) + sum(b.numel() for b in network.buffers())
        plan = _LARGE_CPU if parameters > _LARGE else _SMALL_CPU
    if options.quick:
        plan = replace(plan, budget_s=plan.budget_s / 8, least=min(plan.least, 2), most=3)
    if options.limit_s is not None:
        plan = replace(plan, limit_s=options.limit_s)
    plan = replace(plan, **_asked_sizes(options.sizes))
    context = network.config.language.max_position_embeddings
    return replace(
        plan,
        decode=tuple(pair for pair in plan.decode if pair[1] + 256 <= context),
        prefill=tuple(length for length in plan.prefill if length < context),
    )


def _asked_sizes(sizes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Turn the caller's sizes into fields of a plan."""
    found: dict[str, Any] = {}
    for name, values in sizes.items():
        if name == "decode":
            found[name] = tuple(zip(values[::2], values[1::2], strict=True))
        else:
            found[name] = values if name in ("prefill", "vision") else values[0]
    return found


def needed_tokens(plan: Plan, config_tokens: int) -> int:
    """Return the tokens of cache that the largest workload takes. config_tokens: of one picture or group."""
    decode = max((rows * (context + 512) for rows, context in plan.decode), default=0)
    prefill = max(plan.prefill, default=0)
    video = -(-plan.frames // 3) * (config_tokens + 2) + 256
    flight = plan.requests * (2 * config_tokens + plan.answer + 128)
    return max(decode, prefill, video, flight) + 1024
