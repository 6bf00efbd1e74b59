"""Synthetic pictures, clips and conversations, drawn on the device, each with its exact answer.

`sample.Drawer` is the entry for training; `atlas` builds the glyph atlas it reads. Evaluation draws with Pillow
instead,
in `cpmv/evals/draw`. Names are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .sample import Batch, Drawer, Grid

__all__ = ["Batch", "Drawer", "Grid"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(".sample", __name__), name)
    raise AttributeError(name)
