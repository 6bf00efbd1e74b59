"""A checkpoint of any format as a GGUF pair: the decoder's file and the vision file (mmproj), as llama.cpp has them.

The decoder's matrices are written as F32, F16, BF16, Q8_0 or Q4_0; norms and biases as F32. The vision file is F16 with
F32 vectors (BF16 beside a BF16 decoder, which loses nothing of a bf16 checkpoint). Tensors are read, dequantised where
they are packed, and written one at a time.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..model.config import ImageConfig, ModelConfig
from ..model.resampler import spatial_positions
from .catalogue import Catalogue
from .converting import check_whole, read_weight
from .gguf_pair import OWN_PREPROCESSOR, VISION_VERSION
from .gguf_writer import BLOCK, F32, I32, TYPES_WRITTEN, U32, Entry, write_gguf
from .names import to_gguf
from .packed import PackedWeight
from .saving import write_folder
from .stored import Stored

if TYPE_CHECKING:
    from ..inputs.text import Tokenizer

log = logging.getLogger("cpmv")

_FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "BF16": 32}  # general.file_type
_NORMAL, _CONTROL, _USER, _UNUSED = 1, 3, 4, 5  # tokenizer.ggml.token_type
_QUANTIZATION_VERSION = 2

Progress = Callable[[int, int], None]


def write_pair(
    catalogue: Catalogue, folder: str | Path, type: str, *, overwrite: bool = False, progress: Progress | None = None
) -> tuple[Path, Path]:
    """Write `ggml-model-<type>.gguf` and `mmproj-model-<f16|bf16|f32>.gguf` into a folder; return their paths.

    type: of the decoder's matrices. progress: called with bytes read, and all. Raises CheckpointError for a type that
    is not written, a checkpoint that is not whole, or a model that a pair cannot describe.
    """
    if type not in TYPES_WRITTEN:
        raise CheckpointError(f"type {type!r} is not written; use {', '.join(TYPES_WRITTEN)}")
    check_whole(catalogue)
    config = catalogue.config
    if config.language.scale_emb != 1.0:
        raise CheckpointError("this model scales its embeddings (scale_emb), which a GGUF pair cannot say")
    vision_type = type if type in ("BF16", "F32") else "F16"
    names = f"ggml-model-{type}.gguf", f"mmproj-model-{vision_type.lower()}.gguf"
    reader = _Reader(catalogue, progress)

    def write(temporary: Path) -> None:
        weights = dict(catalogue.in_file_order())
        language = [_language_entry(n, w, type, reader) for n, w in weights.items() if n.startswith("llm.")]
        vision = [e for n, w in weights.items() if not n.startswith("llm.") for e in _vision(n, w, vision_type, reader)]
        vision.append(_position_table(config))
        write_gguf(temporary / names[0], _language_metadata(config, catalogue.read_tokenizer(), type), language)
        write_gguf(temporary / names[1], _vision_metadata(config, vision_type), vision)

    target = write_folder(folder, write, overwrite=overwrite)
    return target / names[0], target / names[1]


class _Reader:
    """Reads weights as numbers and tells how far it is. One that is written in parts is read for each."""

    def __init__(self, catalogue: Catalogue, progress: Progress | None) -> None:
        self._total, self._progress = catalogue.nbytes, progress
        self._done: dict[str, int] = {}

    def __call__(self, name: str, weight: Stored | PackedWeight) -> Tensor:
        value = read_weight(weight)
        self._done[name] = weight.nbytes
        if self._progress is not None:
            self._progress(sum(self._done.values()), self._total)
        return value


def _language_entry(name: str, weight: Stored | PackedWeight, type: str, read: _Reader) -> Entry:
    shape = tuple(weight.shape)
    if len(shape) < 2:
        type = "F32"
    elif type.startswith("Q") and shape[-1] % BLOCK:
        log.warning("%s has rows of %d, which no block type can hold; it is written as F16", name, shape[-1])
        type = "F16"
    elif type == "Q4_0" and name == "llm.lm_head.weight":
        type = "Q8_0"  # the head decides between words; four bits there cost more than they save
    return Entry(to_gguf(name), type, shape, lambda: read(name, weight))


def _vision(name: str, weight: Stored | PackedWeight, type: str, read: _Reader) -> list[Entry]:
    """The tensors that a released one becomes in the vision file: one, or three for joined attention rows."""
    shape = tuple(weight.shape)
    if name == "resampler.proj":
        return [Entry("resampler.proj.weight", type, shape[::-1], lambda: read(name, weight).t().contiguous())]
    if name.startswith("resampler.attn.in_proj_"):
        leaf = name.rpartition("_")[2]
        rows = shape[0] // 3
        kind = type if leaf == "weight" else "F32"
        return [
            Entry(
                f"resampler.attn.{part}.{leaf}",
                kind,
                (rows, *shape[1:]),
                lambda i=i: read(name, weight)[i * rows : (i + 1) * rows],  # type: ignore[misc]
            )
            for i, part in enumerate("qkv")
        ]
    has_type = len(shape) > 1 and name.endswith(".weight")
    return [Entry(to_gguf(name), type if has_type else "F32", shape, lambda: read(name, weight))]


def _position_table(config: ModelConfig) -> Entry:
    """The resampler's 2-D table: computed here, stored there."""
    side, width = config.resampler.grid_side, config.resampler.embed_dim

    def make() -> Tensor:
        return spatial_positions(width, side, side, torch.device("cpu"), torch.float32)

    return Entry("resampler.pos_embed_k", "F32", (side * side, width), make)


def _language_metadata(config: ModelConfig, tokenizer: Tokenizer, type: str) -> dict[str, Any]:
    c = config.language
    out: dict[str, Any] = {
        "general.architecture": "qwen3",
        "general.type": "model",
        "general.name": "MiniCPM-V 4.5",
        "general.file_type": U32(_FILE_TYPES[type]),
        "general.quantization_version": U32(_QUANTIZATION_VERSION),
        "qwen3.block_count": U32(c.num_hidden_layers),
        "qwen3.context_length": U32(c.max_position_embeddings),
        "qwen3.embedding_length": U32(c.hidden_size),
        "qwen3.feed_forward_length": U32(c.intermediate_size),
        "qwen3.attention.head_count": U32(c.num_attention_heads),
        "qwen3.attention.head_count_kv": U32(c.num_key_value_heads),
        "qwen3.attention.key_length": U32(c.head_dim),
        "qwen3.attention.value_length": U32(c.head_dim),
        "qwen3.attention.layer_norm_rms_epsilon": F32(c.rms_norm_eps),
        "qwen3.rope.freq_base": F32(c.rope_theta),
    }
    if c.rope_scaling:
        scaling = c.rope_scaling
        out["qwen3.rope.scaling.type"] = str(scaling.get("rope_type", scaling.get("type")))
        out["qwen3.rope.scaling.factor"] = F32(float(scaling["factor"]))
        if scaling.get("original_max_position_embeddings"):
            out["qwen3.rope.scaling.original_context_length"] = U32(int(scaling["original_max_position_embeddings"]))
    return out | _tokenizer_metadata(tokenizer, c.vocab_size)


def _tokenizer_metadata(tokenizer: Tokenizer, vocab_size: int) -> dict[str, Any]:
    vocabulary, merges = tokenizer.base_vocabulary()
    tokens = {number: (token, _NORMAL) for token, number in vocabulary.items()}
    tokens |= {t.id: (t.content, _CONTROL if t.special else _USER) for t in tokenizer.added_tokens}
    listed = [tokens.get(number, (f"[PAD{number}]", _UNUSED)) for number in range(vocab_size)]
    out: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": [token for token, _ in listed],
        "tokenizer.ggml.token_type": [I32(kind) for _, kind in listed],
        "tokenizer.ggml.add_bos_token": False,
    }
    if merges:
        out["tokenizer.ggml.merges"] = [f"{left} {right}" for left, right in merges]
    named = ("bos", tokenizer.bos_token_id), ("eos", tokenizer.eos_token_id), ("padding", tokenizer.pad_token_id)
    for name, number in (*named, ("unknown", tokenizer.unk_token_id)):
        if number is not None:
            out[f"tokenizer.ggml.{name}_token_id"] = U32(number)
    if tokenizer.chat_template is not None:
        out["tokenizer.chat_template"] = tokenizer.chat_template
    return out


def _vision_metadata(config: ModelConfig, type: str) -> dict[str, Any]:
    v, image = config.vision, config.image
    out: dict[str, Any] = {
        "general.architecture": "clip",
        "general.type": "mmproj",
        "general.name": "MiniCPM-V 4.5 vision",
        "general.file_type": U32(_FILE_TYPES[type]),
        "clip.has_text_encoder": False,
        "clip.has_vision_encoder": True,
        "clip.has_minicpmv_projector": True,
        "clip.projector_type": "resampler",
        "clip.minicpmv_version": I32(VISION_VERSION),
        "clip.minicpmv_query_num": U32(config.resampler.query_num),
        "clip.minicpmv_projection_dim": I32(config.resampler.embed_dim),
        "clip.use_gelu": True,
        "clip.vision.image_size": U32(image.scale_resolution),
        "clip.vision.patch_size": U32(v.patch_size),
        "clip.vision.embedding_length": U32(v.hidden_size),
        "clip.vision.feed_forward_length": U32(v.intermediate_size),
        "clip.vision.projection_dim": U32(0),
        "clip.vision.block_count": U32(v.num_hidden_layers),
        "clip.vision.attention.head_count": U32(v.num_attention_heads),
        "clip.vision.attention.layer_norm_epsilon": F32(v.layer_norm_eps),
        "clip.vision.image_mean": [F32(x) for x in image.norm_mean],
        "clip.vision.image_std": [F32(x) for x in image.norm_std],
    }
    if image != ImageConfig(patch_size=image.patch_size, image_feature_size=image.image_feature_size):
        log.warning(
            "this model slices pictures in its own way (%d pixels, %d slices), which other programs cannot read from a "
            "GGUF pair",
            *(image.scale_resolution, image.max_slice_nums),
        )
        out[OWN_PREPROCESSOR] = json.dumps(config.hf_preprocessor)
    return out
