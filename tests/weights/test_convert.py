"""To GGUF and back: what a type can hold comes back to the bit, the rest within its rounding; answers stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import GOLDEN, synthetic_image
from safetensors.torch import load_file

import cpmv
from cpmv.cli.main import main
from cpmv.weights.gguf import TYPES, read_gguf
from cpmv.weights.gguf_blocks import dequantize
from cpmv.weights.gguf_writer import BLOCK, encode
from cpmv.weights.names import from_gguf, to_gguf

SOURCE = GOLDEN / "tiny_a"
# Relative error of logits against the bf16 source, which F32 and BF16 hold to the bit.
TOLERANCE = {"F32": 0.0, "BF16": 0.0, "F16": 1e-5, "Q8_0": 0.03, "Q4_0": 0.3}


def prompt_of(model: cpmv.Model) -> Any:
    return model.processor([{"role": "user", "content": [synthetic_image(300, 200, 3), "What is this? 这是什么？"]}])


def convert(*argv: str) -> int:
    return main(["convert", *argv])


@pytest.mark.parametrize("type", TOLERANCE)
def test_a_pair_answers_as_its_source(type: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(str(SOURCE), str(tmp_path / "pair"), "--type", type, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    language, vision = map(Path, report["files"])
    assert language.name == f"ggml-model-{type}.gguf" and vision.name.startswith("mmproj-model-")
    assert main(["check", str(language)]) == 0
    source, pair = cpmv.load(SOURCE, dtype="float32"), cpmv.load(language, dtype="float32")
    ours, theirs = prompt_of(source), prompt_of(pair)
    assert torch.equal(ours.input_ids, theirs.input_ids) and torch.equal(ours.patches, theirs.patches)
    reference = source.network.logits(ours)
    difference = (pair.network.logits(theirs) - reference).norm() / reference.norm()
    assert difference <= TOLERANCE[type]
    assert pair.tokenizer.eos_token_ids == source.tokenizer.eos_token_ids
    assert pair.tokenizer.chat_template == source.tokenizer.chat_template


def test_there_and_back_every_tensor_is_the_same(tmp_path: Path) -> None:
    assert convert(str(SOURCE), str(tmp_path / "pair"), "--type", "BF16") == 0
    language = tmp_path / "pair" / "ggml-model-BF16.gguf"
    assert convert(str(language), str(tmp_path / "back"), "--dtype", "bfloat16") == 0
    before = {k: v for file in SOURCE.glob("*.safetensors") for k, v in load_file(file).items()}
    after = load_file(tmp_path / "back" / "model.safetensors")
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    model, back = cpmv.load(SOURCE), cpmv.load(tmp_path / "back")
    text = "A cat, eine Katze, 一只猫 <image> <|im_end|> \n\t 1234"
    assert back.tokenizer.encode(text) == model.tokenizer.encode(text)
    assert back.config.language == model.config.language and back.config.resampler == model.config.resampler


def test_a_published_pair_becomes_plain_safetensors(tmp_path: Path) -> None:
    pair = GOLDEN / "tiny_gguf" / "ggml-model-Q4_K_M.gguf"
    assert convert(str(pair), str(tmp_path / "plain"), "--dtype", "float32") == 0
    packed, plain = cpmv.load(pair, dtype="float32"), cpmv.load(tmp_path / "plain")
    prompt = prompt_of(packed)
    assert plain.format == "fp32"
    reference = packed.network.logits(prompt)
    assert (plain.network.logits(prompt) - reference).norm() / reference.norm() < 1e-5


@pytest.mark.parametrize("name", ["tiny_int4", "tiny_awq"])
def test_quantised_checkpoints_become_plain(name: str, tmp_path: Path) -> None:
    assert convert(str(GOLDEN / name), str(tmp_path / "plain"), "--to", "safetensors", "--dtype", "float32") == 0
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert "quantization_config" not in config and config["torch_dtype"] == "float32"
    packed, plain = cpmv.load(GOLDEN / name, dtype="float32"), cpmv.load(tmp_path / "plain")
    prompt = prompt_of(packed)
    reference = packed.network.logits(prompt)
    assert (plain.network.logits(prompt) - reference).norm() / reference.norm() < 1e-5


def test_a_model_with_its_own_slices_keeps_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The bundled model: tied embeddings, slices of 224, NF4 weights."""
    folder = Path(cpmv.__file__).parent / "bundled"
    assert convert(str(folder), str(tmp_path / "pair"), "--type", "F16") == 0
    assert "slices pictures in its own way" in capsys.readouterr().err
    pair, source = cpmv.load(tmp_path / "pair" / "ggml-model-F16.gguf", dtype="float32"), cpmv.load(dtype="float32")
    assert pair.config.image == source.config.image
    assert "output.weight" not in read_gguf(tmp_path / "pair" / "ggml-model-F16.gguf").tensors
    picture = synthetic_image(500, 300, 2)
    answers = [m.ask(picture, "Read the text.", greedy=True, max_new_tokens=8) for m in (pair, source)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("type", ["Q8_0", "Q4_0"])
def test_blocks_hold_the_nearest_numbers(type: str) -> None:
    values = torch.randn(64, 4 * BLOCK, generator=torch.Generator().manual_seed(1))
    values[3] = 0
    values[5, :BLOCK] = 1e-9
    stored = next(t for t in TYPES.values() if t.name == type)
    raw = encode(values, type).view(64, -1)
    assert raw.shape[1] == 4 * stored.nbytes
    back = dequantize(raw, type, stored.nbytes)
    blocks, restored = values.view(-1, BLOCK), back.view(-1, BLOCK)
    largest = blocks.abs().amax(1, keepdim=True)
    step = largest / (127 if type == "Q8_0" else 8)
    # Half a step and the scale's own rounding; Q4_0 lacks the last step away from its furthest value.
    assert ((restored - blocks).abs() <= step * (0.57 if type == "Q8_0" else 1.01) + 1e-7).all()
    assert (restored - blocks).norm() / blocks.norm() < (0.006 if type == "Q8_0" else 0.12)
    assert not back[3].any()


def test_names_there_and_back() -> None:
    names = {k for file in SOURCE.glob("*.safetensors") for k in load_file(file)}
    apart = {"resampler.proj", "resampler.attn.in_proj_weight", "resampler.attn.in_proj_bias", "resampler.query"}
    assert apart <= names
    for name in names - apart:
        swapped = ".mlp.fc" in name
        assert from_gguf(to_gguf(name), swapped_mlp=swapped) == name


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["new", "--type", "Q4_K"], "Q4_K"),
        (["new", "--dtype", "float16"], "--dtype float16 is for safetensors"),
        (["new", "--to", "safetensors", "--type", "F16"], "--type F16 is for GGUF"),
        (["full"], "choose another folder"),
    ],
)
def test_mistakes_are_one_line(
    argv: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("mine")
    assert convert(str(SOURCE), *argv) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1, error
    assert not (tmp_path / "new").exists()
