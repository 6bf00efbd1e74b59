"""Write a checkpoint with an adapter merged into it, in the released layout, loadable wherever the base was.

A plain weight keeps its dtype: sums are made in float32 and rounded once. A checkpoint whose base is quantised comes
out unquantised, because adding to a quantised weight would change every block of it: each is dequantised, exactly as
its format defines, and written in 16 bits.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import torch
from torch import nn

from ..model.adapter import load_adapter, read_adapter
from ..model.config import ModelConfig
from ..model.layers import Linear
from ..model.lora import fold
from ..model.minicpmv import MiniCPMV
from .checkpoint import load, open_catalogue
from .hub import resolve
from .packed import PackedLinear
from .saving import save

log = logging.getLogger("cpmv")


def merge_adapter(model: str | Path | None, adapter: str | Path, out: str | Path, *, overwrite: bool = False) -> int:
    """Merge an adapter into a checkpoint and write it to `out`; return how many linears it changed.

    model: what `cpmv.load` takes. Works on the CPU. Raises CheckpointError when they do not fit together.
    """
    read = read_adapter(adapter)  # a wrong folder is told before the model takes its time to load
    catalogue = open_catalogue(resolve(model))
    stored = "float16" if catalogue.format == "gguf" else catalogue.config.torch_dtype
    loaded = load(catalogue, device="cpu", dtype=stored)
    load_adapter(loaded.model, read)
    changed = fold(loaded.model)
    dtype = getattr(torch, stored)
    if dequantised := unpack(loaded.model, dtype):
        log.info("%d quantised linears were written unquantised, in %s", dequantised, stored)
    loaded.model.config = unquantised(loaded.model, stored)
    save(loaded.model, loaded.tokenizer, out, overwrite=overwrite)
    return changed


@torch.no_grad()
def unpack(model: MiniCPMV, dtype: torch.dtype) -> int:
    """Replace every quantised linear by a plain one that holds exactly its values, rounded once; return how many."""
    packed = [(name, module) for name, module in model.named_modules() if isinstance(module, PackedLinear)]
    for name, module in packed:
        layer = Linear(module.in_features, module.out_features, bias=module.bias is not None, device="meta")
        layer.weight = nn.Parameter(module.dequantize(dtype), requires_grad=False)
        layer.register_parameter("bias", module.bias)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer)
    return len(packed)


def unquantised(model: MiniCPMV, stored: str) -> ModelConfig:
    """The model's configuration without what said that it was quantised."""
    hf = {key: value for key, value in model.config.hf.items() if key != "quantization_config"}
    return dataclasses.replace(model.config, quantization=None, torch_dtype=stored, hf={**hf, "torch_dtype": stored})
