"""Which tensors a checkpoint must hold, which it may, and what the GGUF converters call them.

The model's own names are the released ones, so the only table is GGUF's. `resampler.attn.{q,k,v}` are three tensors
there and one here, and `resampler.proj` is transposed; `gguf_pair` sees to both.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ..model.config import ModelConfig

_DECODER_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_DECODER = {
    "token_embd": "llm.model.embed_tokens",
    "output_norm": "llm.model.norm",
    "output": "llm.lm_head",
}
_VISION_LAYER = {
    "ln1": "layer_norm1",
    "ln2": "layer_norm2",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_out": "self_attn.out_proj",
    "ffn_up": "mlp.fc1",
    "ffn_down": "mlp.fc2",
}
_VISION = {
    "v.patch_embd": "vpm.embeddings.patch_embedding",
    "v.position_embd": "vpm.embeddings.position_embedding",
    "v.post_ln": "vpm.post_layernorm",
    "resampler.kv": "resampler.kv_proj",
    "resampler.attn.out": "resampler.attn.out_proj",
    "resampler.ln_q": "resampler.ln_q",
    "resampler.ln_kv": "resampler.ln_kv",
    "resampler.ln_post": "resampler.ln_post",
}
# A released position table is computed, never stored; older files and converters carry one all the same.
IGNORED_IN_GGUF = ("resampler.pos_embed_k", "resampler.pos_embed", "rope_freqs.weight")
_LAYER = re.compile(r"(?:(v)\.)?blk\.(\d+)\.(.+)\.(weight|bias)")


def from_gguf(name: str, swapped_mlp: bool = False) -> str | None:
    """Return the released name of a GGUF tensor, or None if it has none of its own.

    swapped_mlp: the legacy vision converter calls fc1 `ffn_down` and fc2 `ffn_up`.
    """
    layer = _LAYER.fullmatch(name)
    if layer is None:
        stem, _, leaf = name.rpartition(".")
        module = {**_DECODER, **_VISION}.get(stem)
        return f"{module}.{leaf}" if module and leaf in ("weight", "bias") else None
    vision, index, stem, leaf = layer.groups()
    if not vision:
        module = _DECODER_LAYER.get(stem)
        return f"llm.model.layers.{index}.{module}.{leaf}" if module else None
    if swapped_mlp:
        stem = {"ffn_up": "ffn_down", "ffn_down": "ffn_up"}.get(stem, stem)
    module = _VISION_LAYER.get(stem)
    return f"vpm.encoder.layers.{index}.{module}.{leaf}" if module else None


_TO_GGUF = {module: stem for table in (_DECODER, _VISION) for stem, module in table.items()}
_TO_GGUF_LAYER = {module: f"blk.{{}}.{stem}" for stem, module in _DECODER_LAYER.items()}
_TO_GGUF_LAYER |= {module: f"v.blk.{{}}.{stem}" for stem, module in _VISION_LAYER.items()}
# Every reader knows the names that the first converter gave these; only newer ones know the natural names.
_TO_GGUF_LAYER |= {"mlp.fc1": "v.blk.{}.ffn_down", "mlp.fc2": "v.blk.{}.ffn_up"}
_SHARED_IN_LAYERS = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
_RELEASED_LAYER = re.compile(r"(llm\.model|vpm\.encoder)\.layers\.(\d+)\.(.+)\.(weight|bias)")


def to_gguf(name: str) -> str:
    """Return the GGUF name of a released tensor: the inverse of `from_gguf`, in the legacy vision converter's words."""
    layer = _RELEASED_LAYER.fullmatch(name)
    if layer is None:
        module, _, leaf = name.rpartition(".")
        return f"{_TO_GGUF[module]}.{leaf}" if module in _TO_GGUF else name
    part, index, module, leaf = layer.groups()
    if module in _SHARED_IN_LAYERS:
        return f"{'v.' if part == 'vpm.encoder' else ''}blk.{index}.{_SHARED_IN_LAYERS[module]}.{leaf}"
    return f"{_TO_GGUF_LAYER[module].format(index)}.{leaf}"


def ignored(config: ModelConfig) -> Callable[[str], bool]:
    """Return a test for tensors that a file may hold although the model has no place for them."""
    dropped = f"vpm.encoder.layers.{config.vision.num_hidden_layers}."
    drops_last = bool(config.hf.get("drop_vision_last_layer", True))
    tied = config.language.tie_word_embeddings

    def is_ignored(name: str) -> bool:
        return (
            name == "resampler.pos_embed"
            or name.endswith(".rotary_emb.inv_freq")
            or (drops_last and name.startswith(dropped))
            or (tied and name == "llm.lm_head.weight")
        )

    return is_ignored
