"""The script that writes random checkpoints makes files that the loader accepts, of every format."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from cpmv.weights import checkpoint
from cpmv.weights.catalogue import empty_model
from cpmv.weights.hub import Source

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "random_checkpoint.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("random_checkpoint", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["random_checkpoint"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("format_", "label"), [("bf16", "bf16"), ("int4", "nf4"), ("awq", "awq")])
def test_tiny_random_checkpoints_load_and_give_finite_logits(
    script: ModuleType, tmp_path: Path, format_: str, label: str
) -> None:
    script.write(tmp_path / "out", format_, "tiny", seed=0)
    assert checkpoint.check(Source("folder", tmp_path / "out")).ok
    loaded = checkpoint.load(Source("folder", tmp_path / "out"), device="cpu", dtype="float32")
    assert loaded.format == label
    with torch.inference_mode():
        logits = loaded.model(torch.randn(1, 4, 256))
    assert torch.isfinite(logits).all() and logits.std() > 0.01
    packed = {n.removesuffix(".weight.absmax").removesuffix(".qweight") for n in _packed_names(tmp_path / "out")}
    assert len(packed) == {"bf16": 0, "int4": 2 * 7 + 3 * 5, "awq": 2 * 7}[format_]


def _packed_names(folder: Path) -> list[str]:
    from cpmv.weights.shards import open_shards

    return [n for n in open_shards(folder)[0] if n.endswith((".absmax", ".qweight"))]


def test_real_scale_has_the_released_number_of_parameters(script: ModuleType) -> None:
    config = script.from_hf({**script.COMMON, **script.REAL}, script.PREPROCESSOR)
    num = sum(p.numel() for p in empty_model(config).parameters())
    assert num == pytest.approx(8.7e9, rel=0.01)
    names = [w.name for w in script.tensors({**script.COMMON, **script.REAL}, "bf16", 0)]
    assert len(names) == len(set(names)) == len(dict(empty_model(config).named_parameters()))
