"""Which part of the model a parameter belongs to, and letting some parts learn."""

from __future__ import annotations

from collections.abc import Iterable

from ..model.minicpmv import MiniCPMV


def part_of(name: str) -> str:
    """Name the part of a released parameter: "vision", "resampler", "language" or "embeddings"."""
    if "embed_tokens" in name or "lm_head" in name:
        return "embeddings"
    return {"vpm": "vision", "resampler": "resampler", "llm": "language"}[name.split(".", 1)[0]]


def freeze(model: MiniCPMV, trained: Iterable[str]) -> None:
    """Leave only the parts named in `trained` with gradients; the rest stays bit-identical and has no moments."""
    chosen = set(trained)
    for name, param in model.named_parameters():
        param.requires_grad_(part_of(name) in chosen)
