"""Saving gives back the released files: same names, same bytes, loadable again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cpmv.errors import CheckpointError
from cpmv.weights import checkpoint
from cpmv.weights.checkpoint import Loaded
from cpmv.weights.gguf_blocks import GGUFLinear
from cpmv.weights.hub import Source, resolve

GOLDEN = Path(__file__).parents[1] / "golden"


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for f in sorted(folder.glob("*.safetensors")) for k, v in load_file(f).items()}


def load(name: str, dtype: str = "float32") -> Loaded:
    return checkpoint.load(resolve(GOLDEN / name), device="cpu", dtype=dtype)


@pytest.mark.parametrize("name", ["tiny_a", "tiny_int4", "tiny_awq"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_saved_tensors_are_the_released_ones(tmp_path: Path, name: str, dtype: str) -> None:
    if name != "tiny_a" and dtype == "bfloat16":
        dtype = "float16"  # a narrower compute dtype than the file's would round
    loaded = load(name, dtype)
    out = checkpoint.save(loaded.model, loaded.tokenizer, tmp_path / "out", max_shard_bytes=2_000_000)
    before, after = tensors_of(GOLDEN / name), tensors_of(out)
    assert set(before) == set(after)
    for key, tensor in before.items():
        assert tensor.dtype == after[key].dtype and torch.equal(tensor, after[key]), key
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(before) and len(list(out.glob("*.safetensors"))) > 1
    assert json.loads((out / "config.json").read_text()) == json.loads((GOLDEN / name / "config.json").read_text())
    assert checkpoint.check(Source("folder", out)).ok
    again = checkpoint.load(Source("folder", out), device="cpu", dtype=dtype)
    text = "<|im_start|>user\nHello 你好<|im_end|>"
    assert again.tokenizer.encode(text) == loaded.tokenizer.encode(text)
    assert again.tokenizer.chat_template == loaded.tokenizer.chat_template
    assert again.config == loaded.config and again.format == loaded.format


def test_a_gguf_pair_is_saved_dequantised_in_float16(tmp_path: Path) -> None:
    loaded = load("tiny_gguf")
    out = checkpoint.save(loaded.model, loaded.tokenizer, tmp_path / "out")
    again = checkpoint.load(Source("folder", out), device="cpu", dtype="float32")
    assert again.format == "fp16" and set(tensors_of(out)) == set(tensors_of(GOLDEN / "tiny_awq")) - {
        k for k in tensors_of(GOLDEN / "tiny_awq") if k.endswith(("qweight", "qzeros", "scales"))
    } | {k.replace("qweight", "weight") for k in tensors_of(GOLDEN / "tiny_awq") if k.endswith("qweight")}
    layer = loaded.model.get_submodule("llm.model.layers.0.mlp.down_proj")
    assert isinstance(layer, GGUFLinear)
    saved = again.model.get_parameter("llm.model.layers.0.mlp.down_proj.weight")
    assert torch.equal(saved, layer.dequantize().half().float())


def test_a_folder_with_anything_in_it_is_left_alone_unless_told(tmp_path: Path) -> None:
    loaded = load("tiny_a")
    target = tmp_path / "out"
    checkpoint.save(loaded.model, loaded.tokenizer, target, max_shard_bytes=3_000_000)
    before = sorted(p.name for p in target.iterdir())
    with pytest.raises(CheckpointError, match="overwrite=True"):
        checkpoint.save(loaded.model, loaded.tokenizer, target)
    assert sorted(p.name for p in target.iterdir()) == before
    (target / "notes.txt").write_text("mine")
    checkpoint.save(loaded.model, loaded.tokenizer, target, overwrite=True)
    names = {p.name for p in target.iterdir()}
    assert "model.safetensors" in names and "notes.txt" in names
    assert not any("-of-" in name or name.endswith("index.json") for name in names)
    checkpoint.load(Source("folder", target))


def test_a_model_can_be_saved_over_the_files_it_is_mapped_from(tmp_path: Path) -> None:
    loaded = load("tiny_a", "bfloat16")
    target = checkpoint.save(loaded.model, loaded.tokenizer, tmp_path / "out")
    mapped = checkpoint.load(Source("folder", target), device="cpu", dtype="bfloat16")
    checkpoint.save(mapped.model, mapped.tokenizer, target, overwrite=True)
    before, after = tensors_of(GOLDEN / "tiny_a"), tensors_of(target)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_a_save_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load("tiny_a")

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cpmv.weights.saving.write_shards", fail)
    with pytest.raises(CheckpointError, match="No space left"):
        checkpoint.save(loaded.model, loaded.tokenizer, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_generation_config_is_kept(tmp_path: Path) -> None:
    loaded = load("tiny_a")
    generation = json.loads((GOLDEN / "tiny_a" / "generation_config.json").read_text())
    out = checkpoint.save(loaded.model, loaded.tokenizer, tmp_path / "out", generation_config=generation)
    assert json.loads((out / "generation_config.json").read_text()) == generation
