"""Quantised checkpoints load here, have the released layout, and answer nearly as their source does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import GOLDEN, synthetic_image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import cpmv
from cpmv.cli.main import main
from cpmv.errors import CheckpointError
from cpmv.weights import awq, int8, nf4
from cpmv.weights.awq_search import search
from cpmv.weights.calibration import conversations, drawn_conversations
from cpmv.weights.catalogue import open_catalogue
from cpmv.weights.converting import write_plain
from cpmv.weights.hub import resolve
from cpmv.weights.packed import PackedLinear
from cpmv.weights.quantizing import Folds, recipe, write_quantized

SOURCE = GOLDEN / "tiny_a"
# Relative error of logits over a picture's prompt that each format may have on random weights, where it is largest.
TOLERANCE = {"nf4": 0.25, "awq": 0.28, "int8": 0.025}  # measured: 0.19, 0.22, 0.017


@pytest.fixture(scope="module")
def source() -> cpmv.Model:
    return cpmv.load(SOURCE, dtype="float32")


@pytest.fixture(scope="module")
def prompt(source: cpmv.Model) -> Any:
    return source.processor([{"role": "user", "content": [synthetic_image(300, 200, 3), "What is this?"]}])


def error(model: cpmv.Model, reference: Tensor, prompt: Any) -> float:
    return float((model.network.logits(prompt) - reference).norm() / reference.norm())


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("quantized")
    for format in TOLERANCE:
        assert main(["quantize", str(SOURCE), str(folder / format), "--format", format, "--device", "cpu"]) == 0
    return {format: folder / format for format in TOLERANCE}


@pytest.mark.parametrize("format", TOLERANCE)
def test_it_loads_and_is_close_to_its_source(
    format: str, quantized: dict[str, Path], source: cpmv.Model, prompt: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(quantized[format])]) == 0
    assert f": {format}, " in capsys.readouterr().out
    model = cpmv.load(quantized[format], dtype="float32")
    assert model.format == format
    reference = source.network.logits(prompt)
    assert 0 < error(model, reference, prompt) < TOLERANCE[format]
    assert model.ask(synthetic_image(60, 40, 1), "What?", greedy=True, max_new_tokens=3) is not None


@pytest.mark.parametrize("format", TOLERANCE)
def test_only_the_decoder_is_quantised(format: str, quantized: dict[str, Path]) -> None:
    network = cpmv.load(quantized[format]).network
    packed = {name for name, module in network.named_modules() if isinstance(module, PackedLinear)}
    linears = {
        f"llm.model.layers.{i}.{name}_proj"
        for i in range(3)
        for name in (*(f"self_attn.{x}" for x in "qkvo"), "mlp.gate", "mlp.up", "mlp.down")
    }
    assert packed == linears | ({"llm.lm_head"} if format == "int8" else set())
    before = {k: v for file in SOURCE.glob("*.safetensors") for k, v in load_file(file).items()}
    after = load_file(quantized[format] / "model.safetensors")
    for name, value in before.items():
        if name in after and not name.startswith("llm.model.layers") and after[name].dtype == value.dtype:
            assert torch.equal(value, after[name]), name
    assert {name for name in before if name.startswith(("vpm", "resampler"))} <= set(after)


def test_the_layouts_are_the_released_ones(quantized: dict[str, Path]) -> None:
    for format, golden in (("nf4", "tiny_int4"), ("awq", "tiny_awq")):
        ours, released = (
            load_file(quantized[format] / "model.safetensors"),
            load_file(GOLDEN / golden / "model.safetensors"),
        )
        compared = 0
        for name, value in released.items():
            if name.startswith("llm.model.layers") and "quant_state" not in name:
                assert ours[name].dtype == value.dtype or value.is_floating_point(), name
                assert ours[name].shape == value.shape, name
                compared += 1
        assert compared > 3 * 7
        settings = [
            json.loads((folder / "config.json").read_text())["quantization_config"]
            for folder in (quantized[format], GOLDEN / golden)
        ]
        assert {k: v for k, v in settings[1].items() if not k.startswith("_")}.keys() <= settings[0].keys()


def test_nf4_holds_the_best_codes_of_every_weight(quantized: dict[str, Path], source: cpmv.Model) -> None:
    network = cpmv.load(quantized["nf4"]).network
    for name, module in network.named_modules():
        if isinstance(module, nf4.NF4Linear):
            weight = source.network.get_submodule(name).weight
            assert module.dequantize().dtype == torch.bfloat16
            relative = (module.dequantize(torch.float32) - weight).norm() / weight.norm()
            assert relative < 0.1, name  # 0.07-0.095 is what four bits of a normal distribution cost


def test_int8_rounds_to_half_a_step(quantized: dict[str, Path], source: cpmv.Model) -> None:
    network = cpmv.load(quantized["int8"]).network
    module = network.get_submodule("llm.model.layers.1.mlp.down_proj")
    assert isinstance(module, int8.Int8Linear)
    weight = source.network.get_submodule("llm.model.layers.1.mlp.down_proj").weight.float()
    exact = module.codes.float() * module.scales[:, None]
    assert ((exact - weight).abs() <= module.scales[:, None] * 0.5001).all()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model, which has learnt something, in 16 bits."""
    return write_plain(open_catalogue(resolve(None)), tmp_path_factory.mktemp("plain") / "model")


class TestActivationAware:
    def test_it_is_better_than_plain_rounding_on_calibration_prompts(self, plain: Path, tmp_path: Path) -> None:
        model = cpmv.load(plain, dtype="float32")
        prompts = [model.processor(one) for one in drawn_conversations()]
        found = search(model.network, prompts, 128)
        assert found.error < 0.8 * found.plain_error  # measured: 0.66
        reference = [model.network.logits(prompt) for prompt in prompts]
        errors = {}
        for name, folds in (("plain", Folds()), ("searched", found.folds)):
            catalogue = open_catalogue(resolve(plain))
            write_quantized(catalogue, tmp_path / name, recipe("awq", catalogue), folds)
            loaded = cpmv.load(tmp_path / name, dtype="float32")
            errors[name] = sum(
                float((loaded.network.logits(prompt) - logits).square().sum())
                for prompt, logits in zip(prompts, reference, strict=True)
            )
        assert errors["searched"] < 0.95 * errors["plain"]  # measured: 0.78

    def test_folds_change_nothing_before_rounding(self, source: cpmv.Model, prompt: Any) -> None:
        prompts = [source.processor([{"role": "user", "content": "What is this? 这是什么？"}]), prompt]
        folds = search(source.network, prompts, 128).folds
        folded = cpmv.load(SOURCE, dtype="float32")
        for name, parameter in folded.network.named_parameters():
            with torch.inference_mode():
                parameter.data = folds.apply(name, parameter.data)
        assert any((factor - 1).abs().max() > 0.1 for factor in folds.columns.values())
        reference = source.network.logits(prompt)
        assert error(folded, reference, prompt) < 1e-4

    @pytest.mark.parametrize("clipped", [False, True])
    def test_rounded_is_what_a_file_gives_back(self, clipped: bool) -> None:
        weight = torch.randn(16, 256, generator=torch.Generator().manual_seed(1))
        clip = torch.full((16, 2), 0.7) if clipped else None
        layer = awq.AWQLinear(awq.quantize(weight, 128, clip))
        assert (awq.rounded(weight, 128, clip) - layer.dequantize(torch.float32)).abs().max() < 2e-3
        assert (layer.scales.float().max() < 0.35) == clipped

    def test_the_users_own_prompts(self, tmp_path: Path, source: cpmv.Model) -> None:
        texts = tmp_path / "texts.txt"
        texts.write_text("First?\n\nSecond?\n")
        synthetic_image(80, 60, 1).save(tmp_path / "a.png")
        found = conversations([texts, tmp_path / "a.png"])
        assert [len(one[0]["content"]) for one in found] == [1, 1, 2]
        assert all(len(source.processor(one)) > 0 for one in found)


def test_a_shard_is_written_a_weight_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the parts of a weight are spread in the file, no more than one quantised weight is held."""
    held: list[int] = []
    catalogue = open_catalogue(resolve(SOURCE))
    how = recipe("nf4", catalogue)
    from cpmv.weights import quantizing

    part = quantizing._LastWeight.part

    def watch(self: Any, *args: Any) -> Tensor:
        out = part(self, *args)
        held.append(sum(value.nbytes for value in self._parts.values()))
        return out

    monkeypatch.setattr(quantizing._LastWeight, "part", watch)
    write_quantized(catalogue, tmp_path / "out", how, max_shard_bytes=400_000)
    assert max(held) < 80_000  # the largest weight, 512 x 256 in half a byte each, and its scales
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2
    assert cpmv.load(tmp_path / "out").format == "nf4"
    with safe_open(sorted((tmp_path / "out").glob("*.safetensors"))[0], "pt") as file:
        assert len(list(file.keys())) > 0


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["{out}", "--format", "nf4"], "choose another folder"),
        (["new", "--format", "int4"], "int4"),
        (["new", "--format", "nf4", "--calibration", "a.png"], "--calibration is for awq"),
        (["new", "--format", "awq", "--group-size", "96"], "groups of 96"),
        (["new", "--format", "awq", "--calibration", "missing.png"], "no such file"),
    ],
)
def test_mistakes_are_one_line(
    argv: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("mine")
    assert main(["quantize", str(SOURCE), *(one.format(out="full") for one in argv)]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1, error
    assert not (tmp_path / "new").exists() and (tmp_path / "full" / "notes").read_text() == "mine"


def test_what_is_quantised_already_is_refused(tmp_path: Path) -> None:
    catalogue = open_catalogue(resolve(GOLDEN / "tiny_int4"))
    with pytest.raises(CheckpointError, match="quantised already"):
        write_quantized(catalogue, tmp_path / "out", recipe("nf4", open_catalogue(resolve(SOURCE))))
    assert not (tmp_path / "out").exists()


def test_int8_files_that_are_wrong_are_named(quantized: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = load_file(quantized["int8"] / "model.safetensors")
    for file in quantized["int8"].glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    name = "llm.model.layers.0.mlp.up_proj"
    for part, value, words in (
        ("weight_scale", tensors[f"{name}.weight_scale"][:-1].clone(), "do not belong together"),
        ("weight_scale", tensors[f"{name}.weight_scale"].half(), "has dtypes"),
        ("weight", None, "has a weight_scale but no weight"),
    ):
        changed = dict(tensors)
        if value is None:
            del changed[f"{name}.{part}"]
        else:
            changed[f"{name}.{part}"] = value
        save_file(changed, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match=words):
            cpmv.load(tmp_path)
