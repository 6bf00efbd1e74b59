"""The policy's model: quantised linears held as plain ones so that they learn; activations recomputed in updates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..model.layers import Linear
from ..model.minicpmv import MiniCPMV
from ..weights.packed import PackedLinear
from .recompute import blocks_of, recompute_blocks


@torch.no_grad()
def unpack(model: MiniCPMV) -> None:
    """Hold quantised linears as plain float32 ones, in place, so that they learn whole; the configuration says so."""
    for name, module in list(model.named_modules()):
        if isinstance(module, PackedLinear):
            plain = Linear(module.in_features, module.out_features, bias=module.bias is not None, device="meta")
            plain.weight = nn.Parameter(module.dequantize(torch.float32).contiguous())
            plain.register_parameter("bias", module.bias)
            model.set_submodule(name, plain)
    hf = {key: value for key, value in model.config.hf.items() if key != "quantization_config"}
    model.config = replace(model.config, hf=hf, quantization=None)


def recompute_in_updates(model: MiniCPMV) -> None:
    """Let blocks recompute their activations where gradients are wanted. The engine's passes stay as they are: saving
    the state of generators, as recomputing does, cannot be recorded in a CUDA graph."""
    plain = [block.forward for block in blocks_of(model)]
    recompute_blocks(model)
    for block, forward in zip(blocks_of(model), plain, strict=True):
        block.forward = _either(block.forward, forward)


def _either(recomputed: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        return (recomputed if torch.is_grad_enabled() else plain)(*args, **kwargs)

    return forward
