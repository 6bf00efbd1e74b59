"""How blocks run while a model learns: compiled, or with their activations computed twice instead of kept.

Recomputing costs a third more work for a fraction of the memory; the numbers do not change, dropout included.
Compiling fuses what lies between matrix products; the first step takes a minute longer.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..model.minicpmv import MiniCPMV


def blocks_of(model: MiniCPMV) -> list[nn.Module]:
    """Every block of the tower and the decoder."""
    return [*model.vpm.encoder.layers, *model.llm.model.layers]


def recompute_blocks(model: MiniCPMV) -> None:
    """Let every block recompute its activations in the backward pass, from now on. After `compile_blocks`."""
    for block in blocks_of(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def compile_blocks(model: MiniCPMV, backend: str = "inductor") -> None:
    """Let blocks run compiled, for rows of any length, from now on. Blocks of one kind share what was compiled."""
    for block in blocks_of(model):
        block.forward = torch.compile(block.forward, dynamic=True, backend=backend)
