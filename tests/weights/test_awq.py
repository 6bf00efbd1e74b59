"""AWQ: the reference data's weights to the bit, packing order, any group size, other layouts refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from cpmv.errors import CheckpointError
from cpmv.weights import awq
from cpmv.weights.quantize import collect_packed
from cpmv.weights.shards import open_shards
from cpmv.weights.stored import Stored

GOLDEN = Path(__file__).parents[1] / "golden"
SETTINGS = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}


def as_stored(tensors: dict[str, Tensor]) -> dict[str, Stored]:
    return {
        f"m.{name}": Stored(f"m.{name}", t.dtype, tuple(t.shape), t.nbytes, "f", i, lambda t=t: t)  # type: ignore[misc]
        for i, (name, t) in enumerate(tensors.items())
    }


def layer_of(tensors: dict[str, Tensor], settings_: dict[str, object] | None = None) -> awq.AWQLinear:
    found, problems = awq.collect(as_stored(tensors), settings_)
    assert not problems
    layer = found["m.weight"].build(torch.device("cpu"))
    assert isinstance(layer, awq.AWQLinear)
    return layer


def test_reference_weights_dequantise_exactly() -> None:
    tensors, _, _ = open_shards(GOLDEN / "tiny_awq")
    config = json.loads((GOLDEN / "tiny_awq" / "config.json").read_text())
    found, problems = collect_packed(tensors, config["quantization_config"])
    assert not problems
    assert sorted(found) == sorted(json.loads((GOLDEN / "awq.json").read_text())["quantised"])
    assert "vpm.encoder.layers.0.mlp.fc2.weight" in tensors  # 200 inputs, no multiple of the group size
    expected = {k.removeprefix("dequant."): v for k, v in load_file(GOLDEN / "awq.safetensors").items() if "deq" in k}
    assert len(expected) == 2
    for name, weight in expected.items():
        layer = found[name].build(torch.device("cpu"))
        assert isinstance(layer, awq.AWQLinear)
        assert torch.equal(layer.dequantize(), weight)


def test_nibbles_hold_columns_in_the_released_order() -> None:
    word = sum(value << (4 * nibble) for nibble, value in enumerate([0, 2, 4, 6, 1, 3, 5, 7]))
    assert awq.unpack(torch.tensor([[word]], dtype=torch.int32)).tolist() == [list(range(8))]


@settings(max_examples=25, deadline=None)
@given(groups=st.integers(1, 4), size=st.sampled_from([32, 64, 128]), words=st.integers(1, 6), seed=st.integers(0, 99))
def test_any_shape_follows_the_definition(groups: int, size: int, words: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 16, (groups * size, words * 8), generator=generator)
    zeros = torch.randint(0, 16, (groups, words * 8), generator=generator)
    scales = torch.rand(groups, words * 8, generator=generator).half()
    assert torch.equal(awq.unpack(awq.pack(codes)).long(), codes)
    layer = layer_of({"qweight": awq.pack(codes), "qzeros": awq.pack(zeros), "scales": scales}, {"group_size": size})
    group = torch.arange(groups * size) // size
    expected = (codes - zeros[group]).half() * scales[group]
    assert torch.equal(layer.dequantize(), expected.t())
    x = torch.randn(2, groups * size, generator=generator)
    assert torch.allclose(layer(x), x @ expected.float(), atol=1e-3)


def test_rounding_a_weight_stays_within_half_a_step() -> None:
    weight = torch.randn(24, 128)
    layer = layer_of(awq.quantize(weight, 32))
    steps = layer.scales.float().repeat_interleave(32, 0).t()
    assert ((layer.dequantize().float() - weight).abs() <= 1.01 * steps).all()


def test_row_chunks_equal_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = layer_of(awq.quantize(torch.randn(56, 64), 64))
    whole = layer.dequantize()
    monkeypatch.setattr("cpmv.weights.packed._CACHE_ELEMENTS", 600)
    monkeypatch.setattr("cpmv.weights.packed._CHUNK_ELEMENTS", 1100)
    assert torch.equal(layer.dequantize(), whole)
    x = torch.randn(2, 64)
    assert torch.allclose(layer(x), x @ whole.float().t(), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"bits": 8}, "bits"),
        ({"version": "gemv"}, "gemv"),
        ({"zero_point": False}, "zero_point"),
        ({"quant_method": "gptq"}, "gptq"),
    ],
)
def test_other_layouts_are_refused_by_name(change: dict[str, object], word: str) -> None:
    with pytest.raises(CheckpointError, match=word):
        collect_packed(as_stored(awq.quantize(torch.randn(8, 128))), SETTINGS | change)


def test_a_group_size_that_contradicts_the_config_is_a_named_problem() -> None:
    found, problems = awq.collect(as_stored(awq.quantize(torch.randn(8, 128), 32)), SETTINGS)
    assert not found and "groups of 32" in problems[0].text and problems[0].tensor == "m.weight"


@pytest.mark.parametrize("part", ["qzeros", "scales"])
def test_missing_or_misshapen_parts_are_named_problems(part: str) -> None:
    tensors = awq.quantize(torch.randn(16, 128), 64)
    less = {k: v for k, v in tensors.items() if k != part}
    assert f"no {part}" in awq.collect(as_stored(less), None)[1][0].text
    cut = {**tensors, part: tensors[part][:1]}
    assert "belong together" in awq.collect(as_stored(cut), None)[1][0].text
    swapped = {**tensors, part: tensors[part].double().long()}
    assert "dtypes" in awq.collect(as_stored(swapped), None)[1][0].text


def test_a_config_that_promises_quantised_weights_needs_them() -> None:
    plain = as_stored({"weight": torch.ones(8, 8)})
    with pytest.raises(CheckpointError, match="no tensor quantised"):
        collect_packed(plain, SETTINGS)
    with pytest.raises(CheckpointError, match="fp8"):
        collect_packed(plain, {"quant_method": "fp8"})
