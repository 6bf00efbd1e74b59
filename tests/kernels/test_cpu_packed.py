"""Quantised weights on a CPU: every format, row count and odd shape against its own dequantised numbers."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cpu_cases import LAYERS, PRODUCT_TOLERANCE, WEIGHT_TOLERANCE, error, gguf_layer, int8_layer, nf4_layer, normal

from cpmv.kernels import cpu_build
from cpmv.kernels.cpu_packed import CPUPacked
from cpmv.weights import cpu
from cpmv.weights.int8 import Int8Linear
from cpmv.weights.kernels import pack
from cpmv.weights.packed import PackedLinear
from cpmv.weights.stored import MappedFile

pytestmark = pytest.mark.skipif(cpu_build.library() is None, reason="there is no C++ compiler")
SHAPES = ((64, 512), (200, 256), (24, 1280), (16, 4608))  # rows past a tile, more columns than a strip


def packed(layer: PackedLinear) -> CPUPacked:
    found = cpu._pack(layer)
    assert found is not None
    return found


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_weights_are_those_of_the_format(name: str, shape: tuple[int, int]) -> None:
    layer = LAYERS[name](*shape)
    truth = layer.dequantize(torch.float32)
    found = packed(layer).dequantize(torch.float32)
    worst = float((found - truth).abs().max() / truth.abs().max())
    assert worst <= WEIGHT_TOLERANCE.get(name, 0), f"{name}: {worst:.2e}"


@pytest.mark.parametrize("name", LAYERS)
def test_products_equal_those_with_dequantised_weights(name: str, threads: int) -> None:
    for shape in SHAPES[:3]:
        layer = LAYERS[name](*shape)
        kernel, weight = packed(layer), layer.dequantize(torch.float32)
        bias = normal(shape[0], seed=3)
        for rows in (1, 2, 3, 5, 8, 9, 17, 100):
            for dtype, tolerance in ((torch.float32, PRODUCT_TOLERANCE.get(name, 2e-5)), (torch.bfloat16, 4e-3)):
                x = normal(rows, shape[1], seed=rows).to(dtype)
                found = kernel.multiply(x, bias=bias)
                assert found.dtype is dtype and found.shape == (rows, shape[0])
                worst = error(found, x.float() @ weight.t() + bias)
                assert worst <= tolerance, f"{name} {shape} {rows} rows {dtype}: {worst:.2e}"


def test_rows_of_a_product_do_not_depend_on_their_number() -> None:
    kernel = packed(LAYERS["AWQ"](64, 512))
    x = normal(24, 512).bfloat16()
    whole = kernel.multiply(x)
    assert torch.equal(whole[:8], kernel.multiply(x[:8]))
    assert error(kernel.multiply(x[3:4]), whole[3:4]) < 4e-3


def test_half_precision_inputs_and_strided_rows_are_taken() -> None:
    layer = int8_layer(32, 256)
    x = normal(4, 512).half()[:, ::2]
    found = packed(layer).multiply(x)
    assert found.dtype is torch.float16
    assert error(found, x.float() @ layer.dequantize(torch.float32).t()) < 2e-3


def test_norm_gate_and_residual_are_those_of_the_seam() -> None:
    layer = gguf_layer("Q4_0", 64, 256)
    weight = layer.dequantize(torch.float32)
    x, scale, residual = normal(3, 256, seed=1), normal(256, seed=2), normal(3, 32, seed=3)
    wanted = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * scale
    gate, up = (wanted @ weight.t()).chunk(2, dim=-1)
    truth = residual + torch.nn.functional.silu(gate) * up
    found = packed(layer).multiply(x, norm=(scale, 1e-6), residual=residual, gated=True)
    assert found is residual
    assert error(found, truth) < 1e-4


def test_repacked_weights_take_about_the_stored_bytes() -> None:
    for name, most in (("AWQ", 1.02), ("NF4", 1.06), ("Q4_0", 1.0), ("Q8_0", 1.0), ("Q4_K", 1.03), ("Q6_K", 1.0)):
        layer = LAYERS[name](256, 2048)
        stored = sum(t.nbytes for key, t in layer.named_buffers() if key not in ("pairs", "quant_map"))
        assert packed(layer).nbytes <= most * stored + 4096, name


def test_a_layer_uses_its_kernel_and_keeps_what_was_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_LEAST_ELEMENTS", 1)
    layer = nf4_layer(64, 512)
    before = {name: t.clone() for name, t in layer.named_buffers()}
    x = normal(2, 512).bfloat16()
    found = layer(x)
    assert isinstance(layer.kernel, CPUPacked)
    assert error(found, x.float() @ layer.dequantize(torch.float32).t()) < 4e-3
    assert all(torch.equal(before[name], t) for name, t in layer.named_buffers())
    twin = copy.deepcopy(layer)
    assert torch.equal(twin(x), found)
    assert layer(x[:0]).shape == (0, 64)


def test_pages_of_a_mapped_file_are_given_back_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_LEAST_ELEMENTS", 1)
    plain = int8_layer(64, 1024)
    path = tmp_path / "weights"
    path.write_bytes(bytes(64) + plain.codes.numpy().tobytes())
    mapped = MappedFile(path).tensor(64, plain.codes.nbytes, torch.int8, (64, 1024))
    layer, x = Int8Linear(mapped, plain.scales, torch.float32), normal(2, 1024)
    truth = plain(x)
    assert isinstance(pack(layer), CPUPacked)
    assert torch.equal(layer(x), truth) and torch.equal(layer.codes, plain.codes)


def test_small_matrices_and_odd_blocks_stay_plain() -> None:
    assert pack(int8_layer(64, 512)) is None  # below 2^20 elements
    assert cpu._pack(nf4_layer(64, 96)) is None  # blocks cross rows


def test_short_memory_leaves_weights_in_their_files(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cpu, "_LEAST_ELEMENTS", 1)
    monkeypatch.setattr(cpu, "free_memory", lambda device: 1 << 20)
    cpu._warn_no_room.cache_clear()
    layer = int8_layer(64, 512)
    with caplog.at_level(logging.WARNING, "cpmv"):
        assert cpu.pack_on_cpu(layer) is None
        assert cpu.pack_on_cpu(int8_layer(32, 512)) is None
    assert [r.message.startswith("memory is short") for r in caplog.records] == [True]
