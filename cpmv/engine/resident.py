"""The decoder as the engine multiplies with it: weights of a small model in the dtype they are used in.

Stored 16-bit or quantised weights are converted at every use, which a large model must bear for its memory's sake. A
small one need not: its converted weights fit beside the stored ones, and decoding becomes several times faster.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from ..model.language import LanguageModel
from ..model.layers import Embedding, Linear
from ..model.lora import LoRALinear
from ..model.minicpmv import MiniCPMV
from ..weights.packed import PackedLinear
from ..weights.plan import free_memory

log = logging.getLogger("cpmv")

# Converted weights larger than this, or than this share of what is free, stay as they are stored.
_MAX_BYTES = 1 << 30
_MAX_SHARE = 0.25


def resident_decoder(network: MiniCPMV) -> LanguageModel:
    """Return a decoder that shares the network's weights where they are ready to use and converts the others once.

    When converted weights would be large the network's own decoder is returned. The log says which.
    """
    own, dtype = network.llm, network.dtype
    needed = sum(weight_bytes(module, dtype) for module in own.modules())
    if needed == 0:
        return own
    if needed > min(_MAX_BYTES, _MAX_SHARE * free_memory(network.device)):
        log.info("decoder weights stay as stored: %.1f GB if they were converted", needed / 1e9)
        return own
    log.info("decoder weights are kept converted to %s: %.0f MB", str(dtype).removeprefix("torch."), needed / 1e6)
    with torch.device("meta"):
        decoder = LanguageModel(network.config.language)
    for name, module in own.named_modules():
        _share(decoder, name, module, dtype)
    return decoder.eval()


def weight_bytes(module: nn.Module, dtype: torch.dtype) -> int:
    """How much memory a module's weight takes when converted to `dtype`; 0 when it is used as it is stored."""
    if isinstance(module, (PackedLinear, LoRALinear)):
        return module.in_features * module.out_features * dtype.itemsize
    if isinstance(module, (Linear, Embedding)) and module.weight.dtype != dtype:
        return module.weight.numel() * dtype.itemsize
    return 0


def _share(decoder: nn.Module, name: str, module: nn.Module, dtype: torch.dtype) -> None:
    """Give the module of that name the weights of `module`; an adapted linear becomes a merged one."""
    if ".base_layer" in name:
        return  # of an adapted linear, which has been shared whole
    target = decoder.get_submodule(name)
    if isinstance(module, (PackedLinear, LoRALinear)):
        assert isinstance(target, (Linear, Embedding))
        whole = module.weight(dtype) if isinstance(module, LoRALinear) else module.dequantize(dtype)
        _set(target, "weight", _laid_out(whole))
        if module.bias is not None:
            target.register_parameter("bias", None)
            _set(target, "bias", module.bias.detach().to(dtype))
        return
    for key, parameter in module.named_parameters(recurse=False):
        converted = parameter.detach().to(dtype)
        is_new_matrix = converted.ndim == 2 and parameter.dtype != dtype
        _set(target, key, _laid_out(converted) if is_new_matrix else converted)


def _laid_out(weight: Tensor) -> Tensor:
    """Lay a weight [out, in] out as one row multiplies fastest with it: by columns when it widens.

    On a CPU, measured with float32 and one thread, [4096, 384] times one row: 295 us instead of 670; 384 from 1024 is
    slower that way. Many rows do not mind.
    """
    return weight.t().contiguous().t() if weight.shape[0] > weight.shape[1] and weight.device.type == "cpu" else weight


def _set(module: nn.Module, key: str, value: Tensor) -> None:
    setattr(module, key, nn.Parameter(value, requires_grad=False))
