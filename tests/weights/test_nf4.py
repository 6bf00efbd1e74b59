"""NF4: the reference data's weights to the bit, blocks that cross rows, every stored field honoured or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from cpmv.weights import nf4
from cpmv.weights.packed import PackedWeight
from cpmv.weights.shards import open_shards
from cpmv.weights.stored import Problem, Stored

GOLDEN = Path(__file__).parents[1] / "golden"
STATE = "quant_state.bitsandbytes__nf4"


def as_stored(tensors: dict[str, Tensor], module: str = "m") -> dict[str, Stored]:
    return {
        f"{module}.{name}": Stored(f"{module}.{name}", t.dtype, tuple(t.shape), t.nbytes, "f", i, lambda t=t: t)  # type: ignore[misc]
        for i, (name, t) in enumerate(tensors.items())
    }


def collect(tensors: dict[str, Tensor]) -> tuple[dict[str, PackedWeight], list[Problem]]:
    return nf4.collect(as_stored(tensors), None)


def layer_of(tensors: dict[str, Tensor]) -> nf4.NF4Linear:
    found, problems = collect(tensors)
    assert not problems
    layer = found["m.weight"].build(torch.device("cpu"))
    assert isinstance(layer, nf4.NF4Linear)
    return layer


def by_formula(tensors: dict[str, Tensor]) -> Tensor:
    """The format's definition, one element at a time over the flattened weight."""
    state = json.loads(bytes(tensors[f"weight.{STATE}"].tolist()))
    codes = tensors["weight"].flatten().tolist()
    scales = tensors["weight.absmax"]
    if "nested_offset" in state:
        block = torch.arange(len(scales)) // state["nested_blocksize"]
        scales = tensors["weight.nested_quant_map"][scales.int()] * tensors["weight.nested_absmax"][block]
        scales = scales + state["nested_offset"]
    rows, cols = state["shape"]
    flat = torch.empty(rows * cols)
    for i in range(rows * cols):
        code = codes[i // 2] >> 4 if i % 2 == 0 else codes[i // 2] & 15
        flat[i] = tensors["weight.quant_map"][code] * scales[i // state["blocksize"]]
    return flat.to(getattr(torch, state["dtype"])).view(rows, cols)


def test_reference_weights_dequantise_exactly() -> None:
    tensors, _, _ = open_shards(GOLDEN / "tiny_int4")
    found, problems = nf4.collect(tensors, None)
    assert not problems
    assert sorted(found) == sorted(json.loads((GOLDEN / "int4.json").read_text())["quantised"])
    expected = {k.removeprefix("dequant."): v for k, v in load_file(GOLDEN / "int4.safetensors").items() if "deq" in k}
    assert len(expected) == 5
    for name, weight in expected.items():
        layer = found[name].build(torch.device("cpu"))
        assert isinstance(layer, nf4.NF4Linear)
        assert torch.equal(layer.dequantize(), weight)


def test_code_book_of_the_scales_is_the_released_one() -> None:
    stored = load_file(GOLDEN / "tiny_int4" / "model.safetensors")
    name = next(n for n in stored if n.endswith("nested_quant_map"))
    assert torch.equal(nf4.dynamic_map(), stored[name])


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 40),
    cols=st.integers(1, 70),
    double=st.booleans(),
    blocksize=st.sampled_from([16, 64, 128]),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
)
def test_any_shape_follows_the_definition(
    rows: int, cols: int, double: bool, blocksize: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(rows * 71 + cols)
    weight = torch.randn(rows, cols).to(dtype)
    tensors = nf4.quantize(weight, blocksize, double)
    assert tensors["weight"].shape == (-(-rows * cols // 2), 1)
    layer = layer_of(tensors)
    assert torch.equal(layer.dequantize(), by_formula(tensors))
    # Four bits of a normal weight leave an error of about a tenth of its deviation.
    error = (layer.dequantize().float() - weight.float()).abs().max()
    assert error <= 0.2 * weight.float().abs().max() + 1e-6


def test_quantising_what_was_quantised_changes_nothing() -> None:
    weight = torch.randn(32, 100)
    once = layer_of(nf4.quantize(weight, double=False)).dequantize()
    assert torch.allclose(layer_of(nf4.quantize(once, double=False)).dequantize(), once, atol=1e-6)


def test_row_chunks_equal_the_whole_and_the_gradient_is_that_of_the_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpmv.weights.packed._CHUNK_ELEMENTS", 3000)
    monkeypatch.setattr("cpmv.weights.packed._CACHE_ELEMENTS", 900)
    layer = layer_of(nf4.quantize(torch.randn(200, 28)))  # blocks of 64 begin at every 16th row
    layer.bias = torch.nn.Parameter(torch.randn(200))
    weight = layer.dequantize()
    x = torch.randn(3, 28, requires_grad=True)
    with torch.no_grad():
        assert torch.allclose(layer(x), torch.nn.functional.linear(x, weight, layer.bias), atol=1e-5)
    upstream = torch.randn(3, 200)
    (grad,) = torch.autograd.grad(layer(x), x, upstream)
    assert torch.allclose(grad, upstream @ weight, atol=1e-4)


def test_moving_to_another_dtype_leaves_the_stored_scales_exact() -> None:
    layer = layer_of(nf4.quantize(torch.randn(16, 64)))
    before = layer.dequantize()
    assert torch.equal(layer.to(torch.bfloat16).dequantize(), before)


def test_older_names_wider_storage_and_padded_scales_are_understood() -> None:
    tensors = nf4.quantize(torch.randn(8, 64))
    expected = layer_of(tensors).dequantize()
    older = {k.replace("weight.", "weight.quant_state.") if k.endswith("absmax") else k: v for k, v in tensors.items()}
    assert torch.equal(layer_of(older).dequantize(), expected)
    wide = {**tensors, "weight": tensors["weight"].view(-1).view(torch.bfloat16)[:, None]}
    assert torch.equal(layer_of(wide).dequantize(), expected)
    padded = {**tensors, "weight.absmax": torch.nn.functional.pad(tensors["weight.absmax"], (0, 5))}
    assert torch.equal(layer_of(padded).dequantize(), expected)
    no_book = {k: v for k, v in tensors.items() if k != "weight.quant_map"}
    assert torch.equal(layer_of(no_book).dequantize(), expected)


def with_state(change: dict[str, object]) -> dict[str, Tensor]:
    tensors = nf4.quantize(torch.randn(8, 64))
    state = json.loads(bytes(tensors[f"weight.{STATE}"].tolist())) | change
    return {**tensors, f"weight.{STATE}": torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)}


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [8]},
        {"shape": [8, -64]},
        {"shape": [9, 64]},
        {"shape": "ab"},
        {"shape": [1 << 40, 64]},
        {"dtype": "int3"},
        {"blocksize": 0},
        {"blocksize": 63},
        {"nested_blocksize": "x"},
        {"nested_offset": float("nan")},
        {"quant_type": "fp4"},
    ],
)
def test_an_impossible_state_is_a_named_problem(change: dict[str, object]) -> None:
    found, problems = collect(with_state(change))
    assert not found
    assert [p.tensor for p in problems] == ["m.weight"]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_as_state_end_in_a_reason(raw: bytes) -> None:
    with pytest.raises(ValueError):
        nf4.parse_state(raw)


@pytest.mark.parametrize("part", ["weight", "weight.absmax", "weight.nested_absmax", "weight.nested_quant_map"])
def test_a_missing_or_short_part_is_a_named_problem(part: str) -> None:
    tensors = nf4.quantize(torch.randn(8, 64))
    assert "missing" in collect({k: v for k, v in tensors.items() if k != part})[1][0].text
    short = {**tensors, part: tensors[part][:-1]}
    assert "needs" in collect(short)[1][0].text


def test_other_bitsandbytes_formats_are_refused() -> None:
    _, problems = collect({"weight.SCB": torch.ones(4), "weight": torch.ones(4, 4)})
    assert "only nf4" in problems[0].text
