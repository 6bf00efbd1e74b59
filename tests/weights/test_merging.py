"""A merged checkpoint answers as base and adapter do, and opens like any other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cpmv.cli.main import main
from cpmv.model.adapter import load_adapter, save_adapter
from cpmv.model.lora import LoraConfig, apply_lora, lora_parameters
from cpmv.model.minicpmv import MiniCPMV
from cpmv.weights import checkpoint, hub
from cpmv.weights.packed import PackedLinear

GOLDEN = Path(__file__).parents[1] / "golden"


def opened(folder: Path) -> MiniCPMV:
    return checkpoint.load(hub.resolve(folder), device="cpu", dtype="float32").model


def logits(model: MiniCPMV) -> torch.Tensor:
    with torch.no_grad():
        return model(model.embed_tokens(torch.arange(5, 21))[None])[0].float()


@pytest.mark.parametrize(("base", "atol"), [("tiny_a", 0.1), ("tiny_int4", 0.02)])
def test_a_merged_checkpoint_is_base_and_adapter(
    base: str, atol: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = opened(GOLDEN / base)
    before = logits(model)
    names = apply_lora(model, LoraConfig(rank=4, targets=("q_proj", "down_proj")))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in lora_parameters(model):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.08)
        model.resampler.query.add_(0.5)
    save_adapter(model, tmp_path / "adapter", full=("resampler",))
    out = tmp_path / "merged"
    assert main(["merge", str(GOLDEN / base), str(tmp_path / "adapter"), str(out)]) == 0
    assert f"{len(names)} linears changed" in capsys.readouterr().out
    merged = opened(out)
    assert not any(isinstance(module, PackedLinear) for module in merged.modules())
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    change = (logits(model) - before).abs().max()
    # Written in 16 bits (bfloat16 or float16): far closer to base and adapter than the adapter moved it.
    assert (logits(merged) - logits(model)).abs().max() < min(atol, float(change) / 10)
    torch.testing.assert_close(merged.resampler.query, model.resampler.query, rtol=1e-2, atol=1e-2)
    again = opened(GOLDEN / base)
    load_adapter(again, tmp_path / "adapter")
    torch.testing.assert_close(logits(again), logits(model), rtol=1e-5, atol=1e-5)


def test_mistakes_are_told_before_anything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", "bundled", str(tmp_path / "none"), str(tmp_path / "out")]) == 2
    assert "is no folder; give the folder that holds adapter_config.json" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
