"""GGUF: every block type exact, pairs mapped onto the model, converters' traces healed, damage named."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf_writer import Entry, rewrite, write_gguf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from cpmv.errors import CheckpointError
from cpmv.model.config import from_hf
from cpmv.weights import checkpoint
from cpmv.weights.gguf import TYPES, read_gguf
from cpmv.weights.gguf_blocks import DEQUANTIZERS, GGUFEmbedding, GGUFLinear, dequantize, packed_weight
from cpmv.weights.gguf_pair import read_pair, read_tokenizer
from cpmv.weights.hub import Source

TESTS = Path(__file__).parents[1]
PAIR = TESTS / "golden" / "tiny_gguf"
LANGUAGE, VISION = PAIR / "ggml-model-Q4_K_M.gguf", PAIR / "mmproj-model-f16.gguf"
Tensors = dict[str, Entry]


@pytest.mark.parametrize("name", DEQUANTIZERS)
def test_blocks_equal_the_format_s_own_dequantiser(name: str) -> None:
    with np.load(TESTS / "golden_own" / "gguf_blocks.npz") as data:
        raw, values = data[f"{name}.raw"], data[f"{name}.values"]
    type_ = next(t for t in TYPES.values() if t.name == name)
    assert raw.shape[1] == type_.nbytes and values.shape[1] == type_.elements
    got = dequantize(torch.from_numpy(raw), name, type_.nbytes)
    assert torch.equal(got, torch.from_numpy(values))


def half(x: float) -> bytes:
    return np.float16(x).tobytes()


def test_simple_blocks_encoded_by_hand_come_back() -> None:
    q = np.arange(32) % 16
    nibbles = bytes(q[i] | q[i + 16] << 4 for i in range(16))
    five = np.arange(32)
    fifth = sum(int(v >> 4) << i for i, v in enumerate(five)).to_bytes(4, "little")
    low = bytes((five[i] & 15) | (five[i + 16] & 15) << 4 for i in range(16))
    signed = np.arange(-16, 16, dtype=np.int8)
    cases = {
        "Q4_0": (half(0.5) + nibbles, 0.5 * (q - 8)),
        "Q4_1": (half(0.5) + half(3) + nibbles, 0.5 * q + 3),
        "Q5_0": (half(0.25) + fifth + low, 0.25 * (five - 16)),
        "Q5_1": (half(0.25) + half(-1) + fifth + low, 0.25 * five - 1),
        "Q8_0": (half(2) + signed.tobytes(), 2.0 * signed),
    }
    for name, (raw, expected) in cases.items():
        block = torch.frombuffer(bytearray(raw), dtype=torch.uint8)[None]
        assert dequantize(block, name, len(raw))[0].tolist() == expected.tolist(), name


def test_reference_pair_loads_with_the_reference_s_weights_and_configuration() -> None:
    loaded = checkpoint.load(Source("gguf", LANGUAGE, VISION), device="cpu", dtype="float32")
    expected = {k.removeprefix("dequant."): v for k, v in load_file(TESTS / "golden/gguf.safetensors").items()}
    weights = {k: v for k, v in expected.items() if k.startswith("llm.")}
    assert len(weights) == 3
    for name, weight in weights.items():
        layer = loaded.model.get_submodule(name.removesuffix(".weight"))
        assert isinstance(layer, GGUFLinear)
        assert torch.allclose(layer.dequantize(), weight, atol=1e-6, rtol=0)
    want = from_hf(json.loads((TESTS / "golden/gguf.json").read_text())["config"], loaded.config.hf_preprocessor)
    assert loaded.config.language == want.language
    assert loaded.config.image == want.image
    assert {**vars(loaded.config.vision), "batch_size": 4} == vars(want.vision)
    assert loaded.format == "gguf"


def test_the_embedding_s_rows_are_those_of_the_whole_table() -> None:
    tensor = read_gguf(LANGUAGE).tensors["token_embd.weight"]
    table = packed_weight(tensor, "x.weight", embedding=True).build(torch.device("cpu"))
    assert isinstance(table, GGUFEmbedding)
    ids = torch.tensor([[0, 5], [1104, 5]])
    whole = table.dequantize()
    assert torch.equal(table.rows(ids, torch.float32), whole[ids])
    x = torch.randn(2, 256)
    assert torch.allclose(table.project(x), x @ whole.t(), atol=1e-3)


def test_the_tokenizer_in_the_file_is_the_checkpoint_s() -> None:
    from cpmv.inputs.text import Tokenizer

    ours, folder = read_tokenizer(read_gguf(LANGUAGE)), Tokenizer.from_folder(TESTS / "golden" / "tiny_int4")
    text = "<|im_start|>user\nWhat is 中文 <think>\n\n</think> <unk></image>!<|im_end|>"
    assert ours.encode(text) == folder.encode(text)
    assert ours.decode(ours.encode(text)) == text
    assert ours.vocab_size == folder.vocab_size and ours.chat_template == folder.chat_template
    assert set(ours.eos_token_ids) == set(folder.eos_token_ids)
    ids = folder.encode("<image>a<think>")
    assert ours.decode(ids, skip_special_tokens=True) == folder.decode(ids, skip_special_tokens=True)


def vision_with(tmp_path: Path, change: Any) -> Path:
    return rewrite(VISION, tmp_path / "mmproj.gguf", change)


def test_natural_names_of_the_vision_mlp_load_like_the_swapped_ones(tmp_path: Path) -> None:
    def natural(metadata: dict[str, Any], tensors: Tensors) -> None:
        for i in range(3):
            for leaf in ("weight", "bias"):
                up, down = f"v.blk.{i}.ffn_up.{leaf}", f"v.blk.{i}.ffn_down.{leaf}"
                tensors[up], tensors[down] = tensors[down], tensors[up]

    swapped, ours = read_pair(LANGUAGE, VISION), read_pair(LANGUAGE, vision_with(tmp_path, natural))
    for name in ("mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias"):
        a, b = (pair.plain[f"vpm.encoder.layers.1.{name}"].read() for pair in (swapped, ours))
        assert torch.equal(a, b)
    assert ours.plain["vpm.encoder.layers.1.mlp.fc1.weight"].shape == (200, 96)


def test_projection_is_transposed_and_attention_rows_are_joined() -> None:
    pair, file = read_pair(LANGUAGE, VISION), read_gguf(VISION)

    def stored(name: str) -> torch.Tensor:
        tensor = file.tensors[name]
        dtype = tensor.type.dtype
        assert dtype is not None
        return tensor.raw().view(-1).view(dtype).view(tensor.shape)

    assert torch.equal(pair.plain["resampler.proj"].read(), stored("resampler.proj.weight").t())
    rows = torch.cat([stored(f"resampler.attn.{part}.weight") for part in "qkv"])
    assert torch.equal(pair.plain["resampler.attn.in_proj_weight"].read(), rows)


def test_foreign_mean_and_std_are_healed_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def clip(metadata: dict[str, Any], tensors: Tensors) -> None:
        metadata["clip.vision.image_mean"] = [0.48, 0.46, 0.41]

    with caplog.at_level(logging.WARNING, logger="cpmv"):
        pair = read_pair(LANGUAGE, vision_with(tmp_path, clip))
    assert pair.preprocessor["norm_mean"] == [0.5] * 3
    assert "image_mean" in caplog.text and "0.5" in caplog.text


def test_a_stored_position_table_is_ignored_and_a_foreign_tensor_is_not(tmp_path: Path) -> None:
    def add(metadata: dict[str, Any], tensors: Tensors) -> None:
        tensors["resampler.pos_embed_k"] = ((4, 256), "F32", bytes(4 * 256 * 4))

    path = vision_with(tmp_path, add)
    checkpoint.load(Source("gguf", LANGUAGE, path), device="cpu")

    def foreign(metadata: dict[str, Any], tensors: Tensors) -> None:
        tensors["v.class_embd"] = ((96,), "F32", bytes(96 * 4))

    path = vision_with(tmp_path, foreign)
    with pytest.raises(CheckpointError, match="1 tensor unexpected: v.class_embd"):
        checkpoint.load(Source("gguf", LANGUAGE, path), device="cpu")


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("clip.minicpmv_version", 3, "MiniCPM-V 2.6"),
        ("clip.minicpmv_version", None, "clip.minicpmv_version None"),
        ("clip.vision.patch_size", None, "patch_size"),
        ("clip.vision.patch_size", "14", "no int"),
        ("general.architecture", "llama", "clip"),
        ("clip.use_silu", True, "gelu"),
    ],
)
def test_another_vision_file_is_refused(tmp_path: Path, key: str, value: Any, word: str) -> None:
    def change(metadata: dict[str, Any], tensors: Tensors) -> None:
        metadata.pop(key, None)
        if value is not None:
            metadata[key] = value

    with pytest.raises(CheckpointError, match=word):
        read_pair(LANGUAGE, vision_with(tmp_path, change))


def test_halves_in_the_wrong_places_are_named() -> None:
    with pytest.raises(CheckpointError, match="vision half"):
        read_pair(VISION, VISION)
    with pytest.raises(CheckpointError, match="mmproj file has 'clip'"):
        read_pair(LANGUAGE, LANGUAGE)


def test_a_type_that_is_not_supported_is_refused_by_name(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", {}, {"a": ((32,), "Q8_0", bytes(34))})
    raw = bytearray(path.read_bytes())
    at = raw.index(b"a", 24) + 1 + 4 + 8  # name, dimensions, one size
    raw[at] = 23
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match="tensor a has type IQ4_XS; supported are F32"):
        read_gguf(path)


def test_every_kind_of_metadata_is_read(tmp_path: Path) -> None:
    metadata = {"a": 7, "b": -7, "c": 1.5, "d": True, "e": "中", "f": [1, 2], "g": ["x", "yz"], "h": [[1], [2, 3]]}
    file = read_gguf(write_gguf(tmp_path / "x.gguf", metadata, {}, version=2))
    assert file.metadata == metadata


def test_truncation_anywhere_in_the_header_is_an_error(tmp_path: Path) -> None:
    raw, path = LANGUAGE.read_bytes(), tmp_path / "x.gguf"
    for size in [*range(0, 64), 100, 1000, 20_000, len(raw) - 1]:
        path.write_bytes(raw[:size])
        with pytest.raises(CheckpointError):
            read_gguf(path)


SMALL = {"general.architecture": "qwen3", "qwen3.block_count": 2, "list": ["a", "bc"], "numbers": [1, 2, 3]}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_header_bits_end_in_our_error_or_a_sane_file(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "x.gguf"
    tensors: Tensors = {"t": ((2, 32), "Q8_0", bytes(68)), "u": ((3,), "F32", bytes(12))}
    raw = bytearray(write_gguf(path, SMALL, tensors).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        bit = data.draw(st.integers(0, len(raw) * 8 - 1))
        raw[bit // 8] ^= 1 << bit % 8
    path.write_bytes(raw)
    try:
        file = read_gguf(path)
    except CheckpointError:
        return
    for tensor in file.tensors.values():
        assert tensor.offset + tensor.nbytes <= len(raw)
        tensor.raw()


def test_absurd_counts_are_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    huge = (1 << 63).to_bytes(8, "little")
    one, none = (1).to_bytes(8, "little"), bytes(8)
    head = b"GGUF" + (3).to_bytes(4, "little")
    key = one + b"k"
    texts = [
        head + huge + none,
        head + none + huge,
        head + none + one + huge,
        head + none + one + key + (8).to_bytes(4, "little") + huge,
        head + none + one + key + (9).to_bytes(4, "little") + (8).to_bytes(4, "little") + huge,
        head + none + one + key + ((9).to_bytes(4, "little")) * 9 + huge,
    ]
    for text in texts:
        path.write_bytes(text + bytes(64))
        with pytest.raises(CheckpointError):
            read_gguf(path)
