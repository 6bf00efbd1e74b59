"""One rank's part of a network: heads, gate and up by rows, o and down by columns, the vocabulary by rows.

Quantised weights are cut where their groups and blocks end, so every number stays the stored one. Vision tower and
resampler stay whole, on rank 0 alone, which encodes pictures and shares what they became.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, CpmvError
from ..model.config import LanguageConfig, ModelConfig
from ..model.layers import Linear
from ..model.lora import LoRALinear
from ..model.minicpmv import MiniCPMV
from ..weights.awq import AWQLinear
from ..weights.gguf_blocks import GGUFLinear
from ..weights.int8 import Int8Linear
from ..weights.nf4 import NF4Linear
from ..weights.packed import PackedLinear

_BY_ROWS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
_BY_COLUMNS = ("o_proj", "down_proj")
_BY_WORDS = ("embed_tokens", "lm_head")
# Words are shared out in multiples of this, where every format can be cut.
_WORD_STEP = 64

Range = tuple[int, int]


def split_config(config: ModelConfig, size: int) -> ModelConfig:
    """The configuration of one of `size` ranks. Raises CpmvError where heads or widths cannot be shared out evenly."""
    language = config.language
    for what, number in (
        ("attention heads", language.num_attention_heads),
        ("key-value heads", language.num_key_value_heads),
        ("columns of the MLP", language.intermediate_size),
    ):
        if number % size:
            raise CpmvError(f"{number} {what} cannot be shared by {size} GPUs evenly; use a number that divides them")
    return replace(
        config,
        language=replace(
            language,
            num_attention_heads=language.num_attention_heads // size,
            num_key_value_heads=language.num_key_value_heads // size,
            intermediate_size=language.intermediate_size // size,
        ),
    )


def words_of(language: LanguageConfig, rank: int, size: int) -> Range:
    """The half-open range of the vocabulary whose embeddings and scores a rank has; the last may have fewer."""
    share = words_each(language.vocab_size, size)
    return min(rank * share, language.vocab_size), min((rank + 1) * share, language.vocab_size)


def words_each(vocab_size: int, size: int) -> int:
    """How many words a rank has at most."""
    return -(-vocab_size // size // _WORD_STEP) * _WORD_STEP


def split_into(
    network: MiniCPMV, full: MiniCPMV, rank: int, size: int, device: torch.device, dtype: torch.dtype
) -> None:
    """Fill an empty network, made of `split_config`, with a rank's part of `full`, whose tensors are on the CPU.

    Raises CpmvError for adapters, and for quantised weights whose blocks would have to be cut through.
    """
    if rank:  # pictures are rank 0's
        del network.vpm, network.resampler
    for path, module in full.named_modules():
        if isinstance(module, LoRALinear):
            raise CpmvError("an adapter cannot be shared by several GPUs; merge it first with `cpmv merge`")
        if rank and not path.startswith("llm"):
            continue
        rows, columns = _cut(full.config.language, path, module, rank, size)
        if isinstance(module, PackedLinear):
            _replace(network, path, _pack(path, module, rows, columns, device))
            if module.bias is not None and not (columns and rank):
                bias = module.bias if rows is None else module.bias[slice(*rows)]
                network.get_submodule(path).register_parameter("bias", _parameter(bias, device, dtype))
            continue
        for name, value in module.named_parameters(recurse=False):
            if name == "bias" and columns is not None and rank:  # it is added once
                network.get_submodule(path).register_parameter("bias", None)
                continue
            part = value if rows is None else value[slice(*rows)]
            part = part if columns is None or part.ndim < 2 else part[:, slice(*columns)]
            network.get_submodule(path).register_parameter(name, _parameter(part, device, dtype))
    left = [name for name, parameter in network.named_parameters() if parameter.is_meta]
    assert not left, f"parameters without a tensor: {left[:5]}"


def _cut(
    language: LanguageConfig, path: str, module: nn.Module, rank: int, size: int
) -> tuple[Range | None, Range | None]:
    """Which rows and which columns of a module's weight are a rank's; None: all."""
    leaf = path.rpartition(".")[2]
    if not path.startswith("llm."):
        return None, None
    if leaf in _BY_WORDS:
        return words_of(language, rank, size), None
    if leaf not in _BY_ROWS + _BY_COLUMNS:
        return None, None
    assert isinstance(module, (Linear, PackedLinear))
    width = (module.out_features if leaf in _BY_ROWS else module.in_features) // size
    part = rank * width, (rank + 1) * width
    return (part, None) if leaf in _BY_ROWS else (None, part)


def _parameter(value: Tensor, device: torch.device, dtype: torch.dtype) -> nn.Parameter:
    """A copy of its own: a view would keep the whole in memory."""
    out = value.detach().to(device, dtype, copy=True, memory_format=torch.contiguous_format)
    return nn.Parameter(out, requires_grad=False)


def _replace(network: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    network.get_submodule(parent)._modules[leaf] = layer


def _pack(
    path: str, layer: PackedLinear, rows: Range | None, columns: Range | None, device: torch.device
) -> PackedLinear:
    """Cut a quantised layer, its bias left out. Raises CheckpointError where that goes through a block."""
    layer.take_back()
    try:
        shard = copy.copy(layer)
        shard._parameters = {"bias": None}
        shard.out_features = layer.out_features if rows is None else rows[1] - rows[0]
        shard.in_features = layer.in_features if columns is None else columns[1] - columns[0]
        rows, columns = rows or (0, layer.out_features), columns or (0, layer.in_features)
        if isinstance(layer, AWQLinear):
            buffers = _cut_awq(layer, rows, columns)
        elif isinstance(layer, NF4Linear):
            assert isinstance(shard, NF4Linear)
            buffers = _cut_nf4(layer, shard, rows, columns)
        elif isinstance(layer, Int8Linear):
            buffers = {"codes": layer.codes[slice(*rows), slice(*columns)], "scales": layer.scales[slice(*rows)]}
        elif isinstance(layer, GGUFLinear):
            kind = layer.block_type
            _check(columns, kind.elements, f"columns of {kind.name}")
            first, last = (at // kind.elements * kind.nbytes for at in columns)
            buffers = {"raw": layer.raw[slice(*rows), first:last]}
        else:
            raise ValueError(f"is a {type(layer).__name__}, which nobody knows how to cut")
    except ValueError as error:
        raise CheckpointError(f"{path} {error}; use fewer GPUs, or a checkpoint that is not quantised") from None
    shard._buffers = {
        name: None if part is None else part.to(device, copy=True, memory_format=torch.contiguous_format)
        for name, part in buffers.items()
    }
    return shard


def _check(part: Range, step: int, what: str, end: int | None = None) -> None:
    if part[0] % step or (part[1] % step and part[1] != end):
        raise ValueError(f"cannot be cut at {part[0]} and {part[1]}: {what} go together in blocks of {step}")


def _cut_awq(layer: AWQLinear, rows: Range, columns: Range) -> dict[str, Tensor | None]:
    _check(rows, 8, "rows of AWQ")
    _check(columns, layer.group_size, "columns of AWQ")
    words = slice(rows[0] // 8, rows[1] // 8)
    groups = slice(columns[0] // layer.group_size, columns[1] // layer.group_size)
    return {
        "qweight": layer.qweight[slice(*columns), words],
        "qzeros": layer.qzeros[groups, words],
        "scales": layer.scales[groups, slice(*rows)],
    }


def _cut_nf4(layer: NF4Linear, shard: NF4Linear, rows: Range, columns: Range) -> dict[str, Tensor | None]:
    """Blocks cross row ends unless a row is a number of whole ones."""
    state, width = layer.state, layer.in_features
    size, shape = state.blocksize, (rows[1] - rows[0], columns[1] - columns[0])
    buffers = dict(layer._buffers)
    if columns == (0, width):
        _check(rows, size // math.gcd(width, size), "rows of NF4", layer.out_features)
        begin, end = rows[0] * width, rows[1] * width
        first, last = begin // size, -(-end // size)
        buffers["codes"] = layer.codes[begin // 2 : (end + 1) // 2]
        if layer.nested_absmax is not None and first % state.nested_blocksize == 0:
            outer = slice(first // state.nested_blocksize, -(-last // state.nested_blocksize))
            buffers |= {"absmax": layer.absmax[first:last], "nested_absmax": layer.nested_absmax[outer]}
            shard.state = replace(state, shape=shape)
            return buffers
        scales = layer.scales(first, last)
    else:
        _check((0, width), size, "columns of NF4")
        _check(columns, size, "columns of NF4")
        codes = layer.codes.view(layer.out_features, width // 2)[:, columns[0] // 2 : columns[1] // 2]
        buffers["codes"] = codes.flatten()
        scales = layer.scales(0, state.num_blocks).view(layer.out_features, width // size)
        scales = scales[:, columns[0] // size : columns[1] // size].flatten()
    # The same scales as plain float32: their own 8-bit blocks do not end here.
    buffers |= {"absmax": scales, "nested_absmax": None, "nested_quant_map": None}
    shard.state = replace(state, shape=shape, nested_blocksize=0, nested_offset=0.0)
    return buffers
