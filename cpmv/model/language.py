"""The Qwen3 decoder (the released `llm.*`): grouped-query attention with per-head norms, rotary positions, SwiGLU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..kernels import fused
from ..kernels.merge import merge_layers, merged
from .attention import Paged, Segments, attention, causal_mask
from .cache import KVCache, PagedCache
from .config import LanguageConfig
from .layers import Embedding, GatedMLP, Linear, RMSNorm, add_product, clamp_half, rotary_frequencies, rotate
from .packed_attention import PackedPlan, attend_some, room_for

_FEW = 16  # rows whose attention is computed apart from the others'


class DecoderAttention(nn.Module):
    """qkv_weight: the weights of q, k and v as one tensor, where `kernels.merge` has made them so."""

    def __init__(self, config: LanguageConfig, layer: int) -> None:
        super().__init__()
        self.qkv_weight: Tensor | None = None
        d, bias = config.head_dim, config.attention_bias
        self.layer, self.head_dim = layer, d
        self.q_proj = Linear(config.hidden_size, config.num_attention_heads * d, bias=bias)
        self.k_proj = Linear(config.hidden_size, config.num_key_value_heads * d, bias=bias)
        self.v_proj = Linear(config.hidden_size, config.num_key_value_heads * d, bias=bias)
        self.o_proj = Linear(config.num_attention_heads * d, config.hidden_size, bias=bias)
        self.q_norm = RMSNorm(d, config.rms_norm_eps)
        self.k_norm = RMSNorm(d, config.rms_norm_eps)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | Segments | Paged | None, cache: KVCache | None
    ) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (-1, self.head_dim)) for p in (self.q_proj, self.k_proj, self.v_proj))
        q = rotate(self.q_norm(q).transpose(1, 2), cos, sin)  # [B, H, S, D]
        k = rotate(self.k_norm(k).transpose(1, 2), cos, sin)  # [B, K, S, D]
        v = v.transpose(1, 2)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)
        causal = mask is None and k.shape[2] == q.shape[2]
        out = attention(q, k, v, scale=self.head_dim**-0.5, causal=causal, mask=mask)
        return self.o_proj(out.transpose(1, 2).flatten(2))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DecoderAttention:
        self.qkv_weight = None  # the parameters move away from it
        super()._apply(fn, recurse)
        return self

    def attend(self, x: Tensor, run: _FastPass, wanted: Tensor | None) -> Tensor:
        """The same of normalised rows x [N, E] in few kernels, before the output projection: [N, H * D].

        wanted: rows int64 [R] whose results are asked for: [R, H * D].
        """
        h, k, d = run.heads
        qkv = run.qkv
        parts = (self.q_proj, self.k_proj, self.v_proj)
        weight = merged(self.qkv_weight, parts)
        group = run.plan.only if run.plan is not None and wanted is not None and len(wanted) <= _FEW else None
        if weight is None or weight.dtype != x.dtype:
            group = None
        if group is not None and weight is not None and wanted is not None:
            torch.mm(x, weight[h * d :].t(), out=qkv[: run.num_rows, h * d :])
            qkv[: run.num_rows, : h * d].index_copy_(0, wanted, x[wanted] @ weight[: h * d].t())
        elif weight is not None and weight.dtype == x.dtype:
            torch.mm(x, weight.t(), out=qkv[: run.num_rows])
        else:
            for part, columns in zip(parts, qkv[: run.num_rows].split([h * d, k * d, k * d], dim=1), strict=True):
                columns.copy_(part(x))
        store = run.cache.place(self.layer) if isinstance(run.cache, PagedCache) else None
        weights = self.q_norm.weight, self.k_norm.weight
        fused.qk_norm_rotate(qkv[: run.num_rows], h, k, run.cos, run.sin, *weights, self.q_norm.eps, store)
        if group is not None and store is not None and wanted is not None:
            if not len(wanted):
                return x.new_empty(0, h * d)
            return attend_some(qkv[wanted, : h * d].unflatten(1, (h, d)), store[:2], group, wanted, d**-0.5)
        if store is not None and run.plan is not None:
            out = run.plan.attend(qkv, run.num_rows, run.heads, store[:2], d**-0.5)
            return out if wanted is None else out[wanted]
        rows = qkv[: run.num_rows].view(run.batch, -1, h + 2 * k, d).transpose(1, 2)  # [B, H + 2 K, S, D]
        query, key, value = rows.split([h, k, k], dim=1)
        if run.cache is not None:
            key, value = run.cache.append(self.layer, key, value)
        causal = run.mask is None and key.shape[2] == query.shape[2]
        out = attention(query, key, value, scale=d**-0.5, causal=causal, mask=run.mask)
        out = out.transpose(1, 2).reshape(run.num_rows, h * d)
        return out if wanted is None else out[wanted]


@dataclass
class _FastPass:
    """What the layers of one pass over rows [N, E] = [B S, E] share.

    qkv [N or more, (H + 2 K) D]: their buffer, zeros behind the rows. plan: for a packed row over pools.
    """

    batch: int
    num_rows: int
    heads: tuple[int, int, int]
    qkv: Tensor
    cos: Tensor
    sin: Tensor
    mask: Tensor | Segments | Paged | None
    cache: KVCache | None
    plan: PackedPlan | None


class DecoderLayer(nn.Module):
    """Pre-norm block. x [B, S, E]; cos, sin [B, 1, S, D]; mask as `attention` takes it."""

    def __init__(self, config: LanguageConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = DecoderAttention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | Segments | Paged | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        x = clamp_half(x + self.self_attn(self.input_layernorm(x), cos, sin, mask, cache))
        return clamp_half(x + self.mlp(self.post_attention_layernorm(x)))

    def run(self, x: Tensor, fast: _FastPass, rows: Tensor | None = None) -> Tensor:
        """The same of rows x [N, E], which are overwritten; rows: those that are wanted, int64 [R], by default all.

        Sums that leave float16's range stay infinite until the next norm.
        """
        attn = self.self_attn
        out = attn.attend(fused.rms_norm(x, self.input_layernorm.weight, self.input_layernorm.eps), fast, rows)
        x = x if rows is None else x[rows]
        add_product(x, out, attn.o_proj)
        norm = self.post_attention_layernorm
        self.mlp.add_to(x, fused.rms_norm(x, norm.weight, norm.eps))
        return x


class Decoder(nn.Module):
    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def rotary(self, position_ids: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos and sin of each position, [B, 1, S, D]: angles in float32, cast once."""
        inv_freq, factor = rotary_frequencies(self.config, position_ids.device)
        angles = position_ids[:, None, :, None].float() * inv_freq
        angles = torch.cat((angles, angles), dim=-1)
        return (angles.cos() * factor).to(dtype), (angles.sin() * factor).to(dtype)

    def forward(
        self,
        x: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor | Segments | Paged | None = None,
        cache: KVCache | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Return final normed hidden states [B, S, E] of embeddings x [B, S, E].

        attention_mask: bool [B, cached + S], false on padding; or the Segments or Paged groups of one packed row.
        rows: int64 [R], the positions whose states are wanted, by default all: [B, R, E].
        """
        cos, sin = self.rotary(position_ids, x.dtype)
        if isinstance(attention_mask, (Segments, Paged)):
            mask: Tensor | Segments | Paged | None = attention_mask
        else:
            mask = causal_mask(attention_mask, x.shape[1], cache.length if cache else 0, x.device)
        num_new = x.shape[1]
        if num_new > 1 and self._takes(x):
            x = self._run_fast(x, cos, sin, mask, cache, rows)
        else:
            for layer in self.layers:
                x = layer(x, cos, sin, mask, cache)
            x = x if rows is None else x[:, rows]
        if cache is not None:
            cache.advance(num_new)
        return self.norm(x)

    def _takes(self, x: Tensor) -> bool:
        c = self.config
        plain_heads = fused.takes(c.num_attention_heads, c.num_key_value_heads, c.head_dim) and not c.attention_bias
        return plain_heads and fused.usable(x)

    def _merge(self, x: Tensor) -> None:
        """Merge weights that are multiplied together, unless someone did, they cannot be, or a graph is recorded."""
        first = cast(DecoderLayer, self.layers[0]).self_attn
        parts = (first.q_proj, first.k_proj, first.v_proj)
        recording = x.is_cuda and torch.cuda.is_current_stream_capturing()
        if isinstance(first.q_proj, Linear) and merged(first.qkv_weight, parts) is None and not recording:
            merge_layers(self.layers)

    def _run_fast(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | Segments | Paged | None,
        cache: KVCache | None,
        rows: Tensor | None,
    ) -> Tensor:
        """The layers in few kernels, for many rows at once; of the last, only what is wanted. [B, R, E]."""
        c = self.config
        batch, length, width = x.shape
        num_rows = batch * length
        heads = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        self._merge(x)
        plan, spare = None, 0
        if isinstance(mask, Paged) and isinstance(cache, PagedCache):
            plan, spare = PackedPlan(mask, x.device), room_for(mask.groups)
        qkv = x.new_empty(num_rows + spare, (heads[0] + 2 * heads[1]) * heads[2])
        qkv[num_rows:].zero_()
        cos, sin = (turn.expand(batch, 1, length, -1).reshape(num_rows, -1) for turn in (cos, sin))
        fast = _FastPass(batch, num_rows, heads, qkv, cos, sin, mask, cache, plan)
        wanted = None
        if rows is not None:
            wanted = (torch.arange(batch, device=x.device)[:, None] * length + rows).flatten()
        last = len(self.layers) - 1
        x = x.reshape(num_rows, width).clone()
        for index, layer in enumerate(self.layers):
            x = cast(DecoderLayer, layer).run(x, fast, wanted if index == last else None)
        return clamp_half(x).view(batch, -1, width)


class LanguageModel(nn.Module):
    """Decoder and head. With tied embeddings the head is the embedding table itself."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., E]."""
        if self.config.tie_word_embeddings:
            return self.model.embed_tokens.project(hidden)
        return self.lm_head(hidden)


def positions_of(attention_mask: Tensor) -> Tensor:
    """Number attended tokens 0, 1, 2 ... within each row; an unattended one gets 1. int64 [B, S] from bool [B, S]."""
    ids = attention_mask.long().cumsum(-1) - 1
    return ids.masked_fill(~attention_mask, 1)
