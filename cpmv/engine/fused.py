"""One decoding step of the whole decoder out of five kernels a layer, for the recorded steps of `graphs`.

norm + q, k, v; norms, rotary positions, cache write and attention; output + residual; norm + gate, up and SwiGLU;
down + residual (`cpmv.kernels`). Weights are the decoder's own: q, k, v and gate, up become views of one tensor. Where
something does not fit (a dtype, an adapter, a quantised format without a kernel) there is no `FusedDecoder`, the plain
decoder runs instead, and the log says why.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels import attention as paged
from ..kernels import launch, linear
from ..kernels.merge import merge_decoder
from ..model.cache import PagedPool
from ..model.language import DecoderLayer, LanguageModel
from ..model.layers import Embedding, Linear, RMSNorm, clamp_half
from ..weights.packed import PackedLinear

log = logging.getLogger("cpmv")


class Unsupported(Exception):
    """Why a decoder cannot be fused."""


class Apart:
    """Weights that are multiplied one after the other, because their formats differ."""

    def __init__(self, weights: list[Any]) -> None:
        self._weights = weights

    def multiply(self, x: Tensor, *, norm: Any, residual: Tensor | None, gated: bool, bias: Tensor | None) -> Tensor:
        """As `linear.multiply`; what is done to the whole is done to the whole."""
        out = torch.cat([linear.multiply(x, weight, norm=norm) for weight in self._weights], dim=1)
        if bias is not None:
            out += bias
        if gated:
            gate, up = out.chunk(2, dim=1)
            out = nn.functional.silu(gate) * up
        return out if residual is None else residual.copy_(clamp_half(residual + out))


@dataclass(frozen=True)
class FusedLayer:
    """A layer's weights: dense tensors or packed ones, and norms as (weight, eps)."""

    qkv: Any
    qkv_bias: Tensor | None
    heads: paged.Heads
    output: Any
    output_bias: Tensor | None
    gate_up: Any
    down: Any
    norm: tuple[Tensor, float]
    mlp_norm: tuple[Tensor, float]


class FusedDecoder:
    """A decoder's step over a pool. Raises Unsupported where the kernels do not take it."""

    def __init__(self, decoder: LanguageModel, pool: PagedPool) -> None:
        config = decoder.config
        self.dtype = decoder.model.norm.weight.dtype
        self.device = decoder.model.norm.weight.device
        block_size = pool.keys[0].shape[1]
        kv_heads, width = config.num_key_value_heads, config.head_dim
        if self.dtype is torch.float32 and self.device.type == "cuda":
            raise Unsupported("float32 is exact in torch's own kernels")
        if not paged.supports(config.num_attention_heads, kv_heads, width, block_size, self.dtype):
            raise Unsupported(
                f"{config.num_attention_heads} heads over {kv_heads} of width {width} in blocks of {block_size}"
            )
        self._pool, self._config = pool, config
        self._table = decoder.model.embed_tokens
        self._is_dense = type(self._table) is Embedding and self._table.weight.dtype == self.dtype
        merge_decoder(decoder)
        self._layers = [_fuse(layer, self.dtype) for layer in _layers(decoder)]
        self._norm = _norm(decoder.model.norm)
        head: nn.Module = self._table if config.tie_word_embeddings else decoder.lm_head
        self._decoder = decoder
        try:
            self._head, self._head_bias = _weight(head, self.dtype)
        except Unsupported as reason:
            log.info("the head uses plain torch: %s", reason)
            self._head = None
        self._rotary = _rotary(decoder, self.device, self.dtype)
        self._processors = (
            torch.cuda.get_device_properties(self.device).multi_processor_count if self.device.type == "cuda" else 1
        )

    def step(
        self, ids: Tensor, position: Tensor, table: Tensor, logits: Tensor, likeliest: Tensor, config: Any = None
    ) -> None:
        """Read one token a row: write float32 logits [M, V] and the likeliest tokens int64 [M].

        ids: int64 [M]; one below 0 stands for what `likeliest` holds in its place, the last step's. position: int64
        [M]. table: int64 [M, blocks], the pool's blocks of each row. config: an `attention.Split` to use.
        """
        c = self._config
        paging = paged.Paging(position, table)
        max_keys = table.shape[1] * self._pool.keys[0].shape[1]
        split = config or paged.choose_split(ids.shape[0], c.num_key_value_heads, max_keys, self._processors)
        x = self._embed(ids, likeliest)
        # Layers are alike: to compile for one is to compile for all.
        layers = self._layers[:1] if launch.only_compiles() else self._layers
        for layer, keys, values in zip(layers, self._pool.keys, self._pool.values, strict=False):
            qkv = linear.multiply(x, layer.qkv, norm=layer.norm, bias=layer.qkv_bias)
            attended = paged.decode_attention(qkv, (keys, values), paging, layer.heads, self._rotary, split)
            linear.multiply(attended, layer.output, residual=x, bias=layer.output_bias, idle=True)
            inner = linear.multiply(x, layer.gate_up, norm=layer.mlp_norm, gated=True)
            linear.multiply(inner, layer.down, residual=x)
        if self._head is None:
            logits.copy_(self._decoder.head(self._decoder.model.norm(x)))
        else:
            linear.multiply(x, self._head, norm=self._norm, bias=self._head_bias, out=logits)
        linear.argmax(logits, likeliest)

    def compile(self, num_rows: int, num_blocks: int) -> None:
        """Compile what a step of so many rows and blocks launches, side by side rather than one after the other."""
        empty = torch.zeros(max(num_rows, 2), 2 + num_blocks, dtype=torch.int64, device=self.device)
        ids, table = empty[:num_rows, 0].contiguous(), empty[:num_rows, 2:].contiguous()
        logits = torch.empty(num_rows, self._config.vocab_size, device=self.device)
        try:
            with launch.compiling():
                self.step(ids, torch.zeros_like(ids), table, logits, torch.zeros_like(ids))
        except Exception as error:  # what is wrong with a kernel shows when it is launched
            log.info("kernels are compiled one at a time: %s", error)

    def _embed(self, ids: Tensor, chosen: Tensor) -> Tensor:
        scale = self._config.scale_emb
        if self._is_dense:
            return linear.embed(ids, chosen, self._table.weight, scale)
        x = self._table.rows(torch.where(ids < 0, chosen, ids), self.dtype)
        return x if scale == 1.0 else x * scale


def fuse(decoder: LanguageModel, pool: PagedPool) -> FusedDecoder | None:
    """Return a fused decoder where the device and the weights allow one, else None; the log says why not."""
    device = decoder.model.norm.weight.device
    if not launch.available(device):
        return None
    try:
        fused = FusedDecoder(decoder, pool)
    except Unsupported as reason:
        log.warning("decoding uses plain torch, slower: %s", reason)
        return None
    log.info("decoding steps use the fused kernels")
    return fused


def _layers(decoder: LanguageModel) -> list[DecoderLayer]:
    return list(decoder.model.layers)  # type: ignore[arg-type]


def _fuse(layer: DecoderLayer, dtype: torch.dtype) -> FusedLayer:
    attention, mlp = layer.self_attn, layer.mlp
    heads = paged.Heads(
        attention.q_proj.out_features // attention.head_dim,
        attention.k_proj.out_features // attention.head_dim,
        attention.head_dim,
        *(_norm(attention.q_norm)[0], _norm(attention.k_norm)[0], attention.q_norm.eps),
    )
    qkv, qkv_bias = _joined([attention.q_proj, attention.k_proj, attention.v_proj], attention.qkv_weight, dtype)
    output, output_bias = _weight(attention.o_proj, dtype)
    gate_up, _ = _joined([mlp.gate_proj, mlp.up_proj], mlp.gate_up_weight, dtype)
    down, _ = _weight(mlp.down_proj, dtype)
    return FusedLayer(
        *(qkv, qkv_bias, heads, output, output_bias, gate_up, down),
        *(_norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)),
    )


def _norm(norm: RMSNorm) -> tuple[Tensor, float]:
    return norm.weight.detach(), norm.eps


def _weight(module: nn.Module, dtype: torch.dtype) -> tuple[Any, Tensor | None]:
    """Return what `linear.multiply` takes for a layer, and its bias. Raises Unsupported."""
    bias = getattr(module, "bias", None)
    bias = None if bias is None else bias.detach().to(dtype)
    if isinstance(module, (Linear, Embedding)) and type(module) in (Linear, Embedding):
        weight = module.weight.detach()
        if weight.dtype != dtype or not linear.supports(weight, 1):
            raise Unsupported(f"a weight {tuple(weight.shape)} in {weight.dtype} beside {dtype}")
        return weight, bias
    if isinstance(module, PackedLinear):
        from ..weights.kernels import pack

        packed = pack(module)
        if packed is not None:
            return packed, bias
    raise Unsupported(f"no kernel for {type(module).__name__}")


def _joined(modules: list[Any], whole: Tensor | None, dtype: torch.dtype) -> tuple[Any, Tensor | None]:
    """The same for layers multiplied as one; `whole` is their merged weight, where they are dense."""
    parts = [_weight(module, dtype) for module in modules]
    biases = [bias for _, bias in parts]
    bias = None
    if any(part is not None for part in biases):
        if any(part is None for part in biases):
            raise Unsupported("some of q, k, v have a bias and some have none")
        bias = torch.cat([part for part in biases if part is not None])
    if whole is not None:
        return whole, bias
    weights = [weight for weight, _ in parts]
    if all(isinstance(weight, Tensor) for weight in weights):
        return torch.cat(weights), bias  # they have biases, which keeps them from being views of one
    if any(isinstance(weight, Tensor) or type(weight) is not type(weights[0]) for weight in weights):
        return Apart(weights), bias
    return type(weights[0]).cat(weights), bias


def _rotary(decoder: LanguageModel, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin of every position, [positions, D / 2]: the plain path's own numbers, computed once."""
    positions = torch.arange(decoder.config.max_position_embeddings, device=device)[None]
    half = decoder.config.head_dim // 2
    cos, sin = decoder.model.rotary(positions, dtype)
    return cos[0, 0, :, :half].contiguous(), sin[0, 0, :, :half].contiguous()
