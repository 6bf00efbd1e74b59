"""Steps of few rows on a CPU, as one call a layer: between the products of a quantised model torch's small operators
would take a fifth of the time.

For a packed row over the paged pool, up to `MOST_ROWS` tokens: rows that decode, drafts that are checked. Everything
else, and every network whose weights have no CPU kernel, takes the plain decoder, which says the same.
"""

from __future__ import annotations

import logging
from typing import cast

import torch
from torch import Tensor, nn

from ..kernels.cpu_build import library
from ..kernels.cpu_decoder import DecoderLayer as FastLayer
from ..kernels.cpu_decoder import Rows, Shape, fits
from ..kernels.cpu_packed import CPUPacked
from ..model.attention import PagedGroup
from ..model.cache import PagedPool
from ..model.language import DecoderLayer, LanguageModel
from ..model.layers import Linear, RMSNorm
from ..weights.kernels import pack
from ..weights.packed import PackedLinear

log = logging.getLogger("cpmv")

MOST_ROWS = 16
_LEAST_WIDTH = 1024  # narrower models are kept converted (`resident`), and their products are short
_NAMES = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


class CPUStep:
    """The layers of a decoder over a pool. Made by `of`."""

    def __init__(self, decoder: LanguageModel, pool: PagedPool, layers: list[FastLayer]) -> None:
        self._decoder, self._pool, self._layers = decoder, pool, layers

    @classmethod
    @torch.inference_mode()
    def of(cls, decoder: LanguageModel, pool: PagedPool) -> CPUStep | None:
        """Repack a decoder's weights for the CPU; None where they are not quantised, or one has no kernel."""
        c = decoder.config
        first = cast(DecoderLayer, decoder.model.layers[0])
        norms = first.input_layernorm, first.self_attn.q_norm
        shape = Shape(
            c.hidden_size, c.num_attention_heads, c.num_key_value_heads, c.head_dim, norms[0].eps, norms[1].eps
        )
        dtype = decoder.model.norm.weight.dtype
        if dtype not in (torch.bfloat16, torch.float32) or not shape.is_supported() or c.hidden_size < _LEAST_WIDTH:
            return None
        if not any(isinstance(m, PackedLinear) for m in decoder.model.layers.modules()) or library() is None:
            return None
        layers: list[FastLayer] = []
        for layer in decoder.model.layers:
            weights = _weights(cast(DecoderLayer, layer))
            if weights is None:
                log.info("decoding on the CPU goes operator by operator: a weight has no kernel")
                return None
            layers.append(FastLayer(shape, weights, _norms(cast(DecoderLayer, layer))))
        log.info("decoding on the CPU goes layer by layer for up to %d rows", MOST_ROWS)
        return cls(decoder, pool, layers)

    def run(self, x: Tensor, positions: Tensor, groups: tuple[PagedGroup, ...], slots: Tensor) -> Tensor:
        """Return final normed hidden states [M, E] of embeddings x [M, E]; arguments as the decoder's pass has them."""
        model = self._decoder.model
        cosines, sines = (turn[0, 0].float().contiguous() for turn in model.rotary(positions[None], x.dtype))
        rows = Rows(*_visible(groups), slots, cosines, sines)
        wide = x.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        for layer, keys, values in zip(self._layers, self._pool.keys, self._pool.values, strict=True):
            layer.run(wide, rows, keys, values)
        return model.norm(wide.to(x.dtype))


def _visible(groups: tuple[PagedGroup, ...]) -> tuple[Tensor, Tensor]:
    """The blocks of every row int64 [M, n], and how many keys it sees, int64 [M]."""
    most = max(len(group.blocks) // group.num_rows for group in groups)
    blocks, lengths = [], []
    for group in groups:
        table = group.blocks.view(group.num_rows, -1)
        table = nn.functional.pad(table, (0, most - table.shape[1]))
        blocks.append(table.repeat_interleave(group.num_queries, dim=0))
        if group.mask is not None:  # keys are seen from the first to one's own
            lengths.append(group.mask.sum(-1).flatten())
        elif group.num_queries == 1:
            lengths.append(torch.full((group.num_rows,), group.num_keys))
        else:
            lengths.append(torch.arange(1, group.num_queries + 1))
    return torch.cat(blocks).contiguous(), torch.cat(lengths).to(torch.int64).contiguous()


def _weights(layer: DecoderLayer) -> dict[str, tuple[CPUPacked | Tensor, Tensor | None]] | None:
    found: dict[str, tuple[CPUPacked | Tensor, Tensor | None]] = {}
    for name, path in _NAMES.items():
        module = layer.get_submodule(path)
        weight: object = None
        if isinstance(module, PackedLinear):
            weight = pack(module)
        elif type(module) is Linear:
            weight = module.weight.detach()
        if not fits(weight):
            return None
        bias = cast("Tensor | None", module.bias)
        found[name] = (cast("CPUPacked | Tensor", weight), None if bias is None else bias.detach())
    return found


def _norms(layer: DecoderLayer) -> dict[str, Tensor]:
    modules: dict[str, RMSNorm] = {
        "norm": layer.input_layernorm,
        "mlp_norm": layer.post_attention_layernorm,
        "query_norm": layer.self_attn.q_norm,
        "key_norm": layer.self_attn.k_norm,
    }
    return {name: module.weight for name, module in modules.items()}
