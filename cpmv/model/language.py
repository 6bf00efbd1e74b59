"""The Qwen3 decoder (the released `llm.*`): grouped-query attention with per-head norms, rotary positions, SwiGLU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import Paged, Segments, attention, causal_mask
from .cache import KVCache
from .config import LanguageConfig
from .layers import Embedding, GatedMLP, Linear, RMSNorm, clamp_half, rotary_frequencies, rotate


class DecoderAttention(nn.Module):
    def __init__(self, config: LanguageConfig, layer: int) -> None:
        super().__init__()
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
    ) -> Tensor:
        """Return final normed hidden states [B, S, E] of embeddings x [B, S, E].

        attention_mask: bool [B, cached + S], false on padding; or the Segments or Paged groups of one packed row.
        """
        cos, sin = self.rotary(position_ids, x.dtype)
        if isinstance(attention_mask, (Segments, Paged)):
            mask: Tensor | Segments | Paged | None = attention_mask
        else:
            mask = causal_mask(attention_mask, x.shape[1], cache.length if cache else 0, x.device)
        for layer in self.layers:
            x = layer(x, cos, sin, mask, cache)
        if cache is not None:
            cache.advance(x.shape[1])
        return self.norm(x)


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
