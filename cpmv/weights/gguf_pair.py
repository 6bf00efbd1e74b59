"""A GGUF pair as a MiniCPM-V checkpoint: the decoder's file and the vision file (mmproj) become configuration, tensors
under their released names, and a tokenizer.

The converters leave traces that are healed here: fc1 and fc2 of the vision tower may be swapped, `resampler.proj` is
transposed, the query, key and value rows are three tensors, and the stored mean and std may be those of another model.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .gguf import GGUFFile, GGUFTensor, read_gguf
from .gguf_blocks import packed_weight, plain_tensor
from .names import IGNORED_IN_GGUF, from_gguf
from .packed import PackedWeight
from .stored import Problem, Stored

if TYPE_CHECKING:
    from ..inputs.text import Tokenizer

log = logging.getLogger("cpmv")

OWN_PREPROCESSOR = "cpmv.preprocessor"  # preprocessor_config.json, as text
VISION_VERSION = 6  # clip.minicpmv_version of MiniCPM-V 4.5
_OTHER_VERSIONS = {2: "MiniCPM-V 2.5", 3: "MiniCPM-V 2.6", 4: "MiniCPM-o 2.6", 5: "MiniCPM-V 4.0"}
_CONTROL_TOKENS = (2, 3)  # "unknown" and "control" of tokenizer.ggml.token_type: special tokens here
_USER_TOKEN = 4  # added, but ordinary text when decoding
_PACKABLE = ("_proj.weight", ".fc1.weight", ".fc2.weight", "lm_head.weight", "embed_tokens.weight")


@dataclass
class GGUFPair:
    """config and preprocessor: as the released JSON files would say it; tensors under released names."""

    config: dict[str, Any]
    preprocessor: dict[str, Any]
    plain: dict[str, Stored]
    packed: dict[str, PackedWeight]
    problems: list[Problem]
    language: GGUFFile


def is_vision_file(file: GGUFFile) -> bool:
    return file.architecture == "clip"


def read_pair(language_path: Path, vision_path: Path) -> GGUFPair:
    """Read both files. Raises CheckpointError when either is damaged, of another model, or of another version."""
    language, vision = read_gguf(language_path), read_gguf(vision_path)
    _check_kinds(language, vision)
    config = _config(language, vision)
    names = _name_tensors(language, vision, config)
    pair = GGUFPair(config, _preprocessor(vision, config), {}, {}, [], language)
    for name, tensor in names.items():
        if tensor.type.dtype is None and len(tensor.shape) == 2 and name.endswith(_PACKABLE):
            pair.packed[name] = packed_weight(tensor, name, embedding=name.endswith("embed_tokens.weight"))
        else:
            pair.plain[name] = replace(plain_tensor(tensor), name=name)
    _join_attention(pair)
    _transpose_projection(pair)
    return pair


def _check_kinds(language: GGUFFile, vision: GGUFFile) -> None:
    if is_vision_file(language):
        raise CheckpointError(f"{language.path} is the vision half (mmproj) of a pair; give the language model's file")
    if language.architecture != "qwen3":
        raise CheckpointError(f"{language.path} has architecture {language.architecture!r}; MiniCPM-V 4.5 has 'qwen3'")
    if _meta(language, "split.count", 0, int) > 1:
        raise CheckpointError(f"{language.path} is one part of a split file; merge the parts first")
    if not is_vision_file(vision):
        raise CheckpointError(f"{vision.path} has architecture {vision.architecture!r}; a mmproj file has 'clip'")
    version = vision.metadata.get("clip.minicpmv_version")
    if version != VISION_VERSION:
        other = f" ({_OTHER_VERSIONS[version]})" if version in _OTHER_VERSIONS else ""
        raise CheckpointError(
            f"{vision.path} has clip.minicpmv_version {version}{other}; MiniCPM-V 4.5 has {VISION_VERSION}"
        )


_REQUIRED = object()


def _meta(file: GGUFFile, key: str, default: Any = _REQUIRED, kind: type[Any] = int) -> Any:
    """Read one metadata value of a given kind. Raises CheckpointError if it is absent without default, or no `kind`."""
    value = file.metadata.get(key)
    if value is None:
        if default is _REQUIRED:
            raise CheckpointError(f"{file.path} has no metadata {key}; the file is incomplete")
        return default
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(float(value))):
        raise CheckpointError(f"{file.path} has metadata {key} = {str(value)[:80]}, which is no {kind.__name__}")
    # A float32 such as 9.99999997e-07 was written as 1e-06.
    return float(f"{value:.7g}") if kind is float else value


def _tensor(file: GGUFFile, name: str, num_dims: int) -> GGUFTensor:
    tensor = file.tensors.get(name)
    if tensor is None:
        raise CheckpointError(f"{file.path} has no tensor {name}; the file is incomplete or of another model")
    if len(tensor.shape) != num_dims:
        raise CheckpointError(f"{file.path}: tensor {name} has shape {list(tensor.shape)}, not {num_dims} dimensions")
    return tensor


def _config(language: GGUFFile, vision: GGUFFile) -> dict[str, Any]:
    """Say in the released configuration's words what the metadata of both files says."""

    def lm(key: str, default: Any = _REQUIRED, kind: type = int) -> Any:
        return _meta(language, f"qwen3.{key}", default, kind)

    heads = lm("attention.head_count")
    head_dim = lm("attention.key_length", 128)
    if lm("attention.value_length", head_dim) != head_dim:
        raise CheckpointError(f"{language.path} has keys and values of different width; Qwen3 has none such")
    vocab_size, width = _tensor(language, "token_embd.weight", 2).shape
    return {
        "architectures": ["MiniCPMV"],
        "model_type": "minicpmv",
        "version": 4.5,
        "torch_dtype": "bfloat16",
        "vocab_size": vocab_size,
        "hidden_size": width,
        "intermediate_size": lm("feed_forward_length"),
        "num_hidden_layers": lm("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": lm("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": lm("attention.layer_norm_rms_epsilon", kind=float),
        "rope_theta": lm("rope.freq_base", 1e6, float),
        "rope_scaling": _rope_scaling(language),
        "max_position_embeddings": lm("context_length"),
        "attention_bias": "blk.0.attn_q.bias" in language.tensors,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "tie_word_embeddings": "output.weight" not in language.tensors,
        "bos_token_id": _meta(language, "tokenizer.ggml.bos_token_id", None),
        "eos_token_id": _meta(language, "tokenizer.ggml.eos_token_id", None),
        "image_size": _meta(vision, "clip.vision.image_size", 448),
        "drop_vision_last_layer": False,
        "use_image_id": True,
        "slice_mode": True,
        **_vision_config(vision),
    }


def _vision_config(vision: GGUFFile) -> dict[str, Any]:
    if vision.metadata.get("clip.use_silu"):
        raise CheckpointError(f"{vision.path} sets clip.use_silu; the vision tower of MiniCPM-V 4.5 uses gelu")
    rows, width = _tensor(vision, "v.position_embd.weight", 2).shape
    side = math.isqrt(rows)
    if side * side != rows:
        raise CheckpointError(f"{vision.path}: v.position_embd.weight has {rows} rows, which is no square grid")
    patch_size = _meta(vision, "clip.vision.patch_size")
    blocks = {name.split(".")[2] for name in vision.tensors if name.startswith("v.blk.")}
    said = _meta(vision, "clip.vision.block_count", len(blocks))
    if said != len(blocks):
        log.warning(
            "%s says it has %d vision blocks but holds %d; using those it holds", vision.path, said, len(blocks)
        )
    query_num = _tensor(vision, "resampler.query", 2).shape[0]
    return {
        "patch_size": patch_size,
        "query_num": query_num,
        "slice_config": {
            "max_slice_nums": 9,
            "model_type": "minicpmv",
            "patch_size": patch_size,
            "scale_resolution": 448,
            **{k: v for k, v in _own_preprocessor(vision).items() if k in ("max_slice_nums", "scale_resolution")},
        },
        "vision_config": {
            "model_type": "siglip",
            "hidden_size": width,
            "intermediate_size": _meta(vision, "clip.vision.feed_forward_length"),
            "num_hidden_layers": len(blocks),
            "num_attention_heads": _meta(vision, "clip.vision.attention.head_count"),
            "image_size": side * patch_size,
            "patch_size": patch_size,
            "layer_norm_eps": _meta(vision, "clip.vision.attention.layer_norm_epsilon", 1e-6, float),
        },
    }


def _rope_scaling(language: GGUFFile) -> dict[str, Any] | None:
    kind = _meta(language, "qwen3.rope.scaling.type", "none", str)
    if kind == "none":
        return None
    scaling = {"rope_type": kind, "factor": _meta(language, "qwen3.rope.scaling.factor", kind=float)}
    original = _meta(language, "qwen3.rope.scaling.original_context_length", None)
    return scaling if original is None else {**scaling, "original_max_position_embeddings": original}


def _preprocessor(vision: GGUFFile, config: dict[str, Any]) -> dict[str, Any]:
    """A pair says nothing of slices, and its mean and std are often the converter's default: the model needs 0.5."""
    for key in ("clip.vision.image_mean", "clip.vision.image_std"):
        stored = vision.metadata.get(key)
        if stored is not None and stored != [0.5] * 3:
            log.warning("%s has %s %s; MiniCPM-V 4.5 was trained with 0.5, which is used", vision.path, key, stored)
    said = {
        **config["slice_config"],
        "image_feature_size": config["query_num"],
        "use_image_id": True,
        "slice_mode": True,
        "norm_mean": [0.5] * 3,
        "norm_std": [0.5] * 3,
        "version": 4.5,
        "image_processor_type": "MiniCPMVImageProcessor",
        "processor_class": "MiniCPMVProcessor",
    }
    return said | _own_preprocessor(vision)


def _own_preprocessor(vision: GGUFFile) -> dict[str, Any]:
    """What our own converter adds for a model whose preprocessing is not the released one."""
    text = _meta(vision, OWN_PREPROCESSOR, None, str)
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{vision.path} has metadata {OWN_PREPROCESSOR} that is no JSON ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{vision.path} has metadata {OWN_PREPROCESSOR} that is no JSON object")
    return value


def _name_tensors(language: GGUFFile, vision: GGUFFile, config: dict[str, Any]) -> dict[str, GGUFTensor]:
    """Give every tensor its released name; one that has none keeps its own, to be reported as unexpected."""
    out: dict[str, GGUFTensor] = {}
    swapped = {
        index: _is_swapped(vision, index, config) for index in range(config["vision_config"]["num_hidden_layers"])
    }
    for file in (language, vision):
        for name, tensor in file.tensors.items():
            if name in IGNORED_IN_GGUF:
                continue
            parts = name.split(".")
            index = int(parts[2]) if name.startswith("v.blk.") and len(parts) > 2 and parts[2].isdigit() else -1
            out[from_gguf(name, swapped.get(index, False)) or name] = tensor
    return out


def _is_swapped(vision: GGUFFile, index: int, config: dict[str, Any]) -> bool:
    """Whether this block's `ffn_up` is fc2: decided by its shape, and by the converter's habit if that is square."""
    up = vision.tensors.get(f"v.blk.{index}.ffn_up.weight")
    wide, width = config["vision_config"]["intermediate_size"], config["vision_config"]["hidden_size"]
    return up is None or wide == width or up.shape != (wide, width)


def _join_attention(pair: GGUFPair) -> None:
    """Make `in_proj_weight` and `in_proj_bias` of the query, key and value tensors."""
    for leaf in ("weight", "bias"):
        names = [f"resampler.attn.{part}.{leaf}" for part in "qkv"]
        parts = [pair.plain.pop(name) for name in names if name in pair.plain]
        if len(parts) != 3 or len({p.shape for p in parts}) != 1:
            pair.problems.append(Problem(f"resampler.attn.q|k|v.{leaf}", None, "missing, or of different shapes"))
            continue
        name, first = f"resampler.attn.in_proj_{leaf}", parts[0]

        def read(parts: Sequence[Stored] = parts) -> Tensor:
            return torch.cat([part.read().to(parts[0].dtype) for part in parts])

        shape = (3 * first.shape[0], *first.shape[1:])
        pair.plain[name] = replace(first, name=name, shape=shape, nbytes=sum(p.nbytes for p in parts), read=read)


def _transpose_projection(pair: GGUFPair) -> None:
    """The file holds the transpose of `resampler.proj`."""
    stored = pair.plain.pop("resampler.proj.weight", None)
    if stored is not None and len(stored.shape) == 2:
        read = stored.read
        pair.plain["resampler.proj"] = replace(
            stored, name="resampler.proj", shape=stored.shape[::-1], read=lambda: read().t().contiguous()
        )


def read_tokenizer(language: GGUFFile) -> Tokenizer:
    """Build the tokenizer that the file carries. Raises CheckpointError if it is not the Qwen2 byte-level BPE."""
    from ..inputs.text import AddedToken, Tokenizer

    def words(key: str) -> list[str]:
        value = _meta(language, f"tokenizer.ggml.{key}", kind=list)
        if not all(isinstance(word, str) for word in value):
            raise CheckpointError(f"{language.path} has tokenizer.ggml.{key} that are no texts; the file is damaged")
        return list(value)

    if _meta(language, "tokenizer.ggml.model", kind=str) != "gpt2":
        raise CheckpointError(f"{language.path} has no byte-level BPE tokenizer; MiniCPM-V 4.5 has one")
    pre = _meta(language, "tokenizer.ggml.pre", "qwen2", str)
    if pre != "qwen2":
        log.warning("%s names the pre-tokenizer %r; 'qwen2' is used", language.path, pre)
    tokens, merges = words("tokens"), words("merges")
    kinds = _meta(language, "tokenizer.ggml.token_type", [1] * len(tokens), list)
    if len(kinds) != len(tokens) or len(set(tokens)) != len(tokens) or any(m.count(" ") != 1 for m in merges):
        raise CheckpointError(f"{language.path} has a damaged tokenizer: tokens, types or merges disagree")
    added = [
        AddedToken(i, token, kind in _CONTROL_TOKENS)
        for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (*_CONTROL_TOKENS, _USER_TOKEN)
    ]
    config: dict[str, Any] = {"add_bos_token": False, "add_prefix_space": False, "errors": "replace"}
    for key, name in (("bos", "bos_token"), ("eos", "eos_token"), ("padding", "pad_token"), ("unknown", "unk_token")):
        token_id = _meta(language, f"tokenizer.ggml.{key}_token_id", None)
        if token_id is not None and 0 <= token_id < len(tokens):
            config[name] = tokens[token_id]
    # Ids outside the base vocabulary belong to added tokens alone, except those that sit inside it, such as <unk>.
    last_plain = max((i for i, kind in enumerate(kinds) if kind not in (*_CONTROL_TOKENS, _USER_TOKEN)), default=-1)
    vocab = {token: i for i, token in enumerate(tokens) if i <= last_plain}
    pairs = [(left, right) for left, right in (m.split(" ") for m in merges)]
    template = _meta(language, "tokenizer.chat_template", None, str)
    return Tokenizer.from_parts(vocab, pairs, added, template, config)
