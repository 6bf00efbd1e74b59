"""The CUDA kernels of packed weights, run thread by thread on the CPU, against the plain product."""

from __future__ import annotations

from typing import Any

import packed_layers
import pytest
import torch
from emulated import emulated  # noqa: F401

from cpmv.kernels.packed import Packed, multiply_plain
from cpmv.kernels.packed_cuda import Choice
from cpmv.weights import kernels

TOLERANCE = {torch.float16: 1.5e-3, torch.bfloat16: 8e-3}
GEMV = Choice("gemv", 4, 2, 1, 1, prefetch=1, sums=True)
TILES = Choice("tiles", 2, 2, 1, row_tiles=2, splits=2)


def packed(name: str, rows: int = 96, inputs: int = 512) -> Packed:
    made, reason = kernels._repacked(packed_layers.layer(name, rows, inputs))
    assert made is not None, reason
    made.counters = torch.zeros(made.tiles, dtype=torch.int32)
    return made


def compare(cuda: Any, weight: Packed, num_rows: int, choice: Choice, dtype: torch.dtype, **more: bool) -> None:
    generator = torch.Generator().manual_seed(num_rows)
    rows, inputs = weight.shape
    x = torch.randn(num_rows, inputs, generator=generator).to(dtype)
    norm = ((torch.rand(inputs, generator=generator) + 0.5).to(dtype), 1e-6) if more.get("norm") else None
    residual = torch.randn(num_rows, rows, generator=generator).to(dtype) if more.get("residual") else None
    bias = torch.randn(rows, generator=generator).to(dtype) if more.get("bias") else None
    gated = more.get("gated", False)
    plain = multiply_plain(
        *(x.float(), weight.dequantize_plain(torch.float32)),
        norm=None if norm is None else (norm[0].float(), norm[1]),
        residual=None if residual is None else residual.float(),
        gated=gated,
        bias=None if bias is None else bias.float(),
    )
    out = cuda.multiply(weight, x, norm, residual, gated, bias, choice).float()
    error = float((out - plain).norm() / plain.norm())
    assert error < TOLERANCE[dtype], (weight.format, num_rows, choice.kernel, more, error)
    assert not bool(weight.counters.any())  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", packed_layers.NAMES)
def test_gemv_equals_the_plain_product(emulated: Any, name: str, dtype: torch.dtype) -> None:  # noqa: F811
    weight = packed(name)
    compare(emulated, weight, 1, GEMV, dtype)
    compare(emulated, weight, 1, GEMV, dtype, norm=True, gated=True)
    compare(emulated, weight, 3, GEMV, dtype, norm=True, bias=True)
    compare(emulated, packed(name, 88, 768), 8, GEMV, dtype, residual=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", packed_layers.NAMES)
def test_tiles_equal_the_plain_product(emulated: Any, name: str, dtype: torch.dtype) -> None:  # noqa: F811
    weight = packed(name)
    compare(emulated, weight, 5, TILES, dtype, norm=True, gated=True)
    compare(emulated, packed(name, 88, 768), 19, TILES, dtype, residual=True, bias=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", packed_layers.NAMES)
def test_dequantised_weights_are_the_plain_ones(emulated: Any, name: str, dtype: torch.dtype) -> None:  # noqa: F811
    weight = packed(name, 88, 768)
    assert torch.equal(emulated.dequantize(weight, dtype), weight.dequantize_plain(dtype))


def test_what_is_chosen_equals_the_plain_product(emulated: Any) -> None:  # noqa: F811
    weight = packed("awq 128", 64, 1024)
    for num_rows in (1, 2, 9, 33):
        chosen = emulated.choose("awq", 128, min(num_rows, 32), weight.tiles, 1024, False, emulated.card(0))
        compare(emulated, weight, num_rows, chosen, torch.bfloat16, norm=True)


def test_kernels_that_are_wrong_are_not_used(
    emulated: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(emulated, "_PROVEN", {})
    weight = packed("Q6_K", 64, 1024)
    assert emulated.proven(weight, torch.bfloat16) and not caplog.records
    right = emulated.multiply
    monkeypatch.setattr(emulated, "multiply", lambda *a: right(*a) * 1.1)
    assert not emulated.proven(weight, torch.float16) and "not used" in caplog.records[0].message
    monkeypatch.setattr(emulated, "multiply", lambda *a: right(*a) * float("nan"))
    assert emulated.proven(weight, torch.bfloat16)  # known already
    assert not emulated.proven(packed("int8"), torch.bfloat16)
