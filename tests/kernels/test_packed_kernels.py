"""Packed weights: the layout is the one that is described, formats keep their numbers, stored tensors come back."""

from __future__ import annotations

import logging
import random

import packed_layers
import pytest
import torch
from torch import Tensor

from cpmv.kernels import packed_layout as layout
from cpmv.kernels.packed import Packed, multiply_plain
from cpmv.kernels.packed_formats import AWQ, NF4, Q4_0
from cpmv.weights import kernels
from cpmv.weights.packed import PackedLinear


def numbers(low: int, high: int, *shape: int) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(len(shape) + high)).to(torch.uint8)


def place(row: int, k: int, runs: int) -> tuple[int, int, int, int, int, int]:
    """Tile, chunk, lane, product j, register p and member el of a code, from mma.m16n8k16's own definition."""
    tile, in_tile = divmod(row, 16)
    r8, g = divmod(in_tile, 8)
    chunk, at = divmod(k, 64)
    if runs == 8:  # a lane has 8 neighbours of each 32
        h, t, j, e = at // 32, at % 32 // 8, at // 32 * 2 + at % 8 // 4, at % 4
        assert h == j // 2
    else:  # 4 neighbours of each 16
        j, t, e = at // 16, at % 16 // 4, at % 4
    return tile, chunk, g * 4 + t, j, r8 + 2 * (e // 2), e % 2


@pytest.mark.parametrize("runs", [8, 4])
@pytest.mark.parametrize("paired", [False, True])
def test_nibbles_lie_where_the_tensor_cores_want_them(runs: int, paired: bool) -> None:
    codes = numbers(0, 16, 48, 192)
    words = layout.pack_nibbles(codes, runs, paired)
    assert words.shape == (3, 3, 32, 4)
    for _ in range(2000):
        row, k = random.randrange(48), random.randrange(192)
        tile, chunk, lane, j, p, el = place(row, k, runs)
        word = int(words[tile, chunk, lane, j]) & 0xFFFFFFFF
        at = (4 * (2 * p + el) + 7) % 32 if paired else 4 * (p + 4 * el)  # paired words are turned left by 7 bits
        assert (word >> at | word << 32 - at) & 15 == int(codes[row, k])
    assert torch.equal(layout.unpack_nibbles(words, runs, paired), codes)


def test_bytes_and_crumbs_lie_where_the_tensor_cores_want_them() -> None:
    codes = numbers(0, 256, 32, 128)
    octets, crumbs = layout.pack_bytes(codes), layout.pack_crumbs(codes & 3)
    for _ in range(2000):
        row, k = random.randrange(32), random.randrange(128)
        tile, chunk, lane, j, p, el = place(row, k, 8)
        word = int(octets[tile, chunk, j // 2, lane, j % 2 * 2 + p // 2])
        assert word >> 8 * (p % 2 + 2 * el) & 255 == int(codes[row, k])
        tile, chunk, lane, j, p, el = place(row, k, 4)
        word = int(crumbs[tile, chunk, lane, j // 2])
        assert word >> 16 * el + 2 * (j % 2 * 4 + p) & 3 == int(codes[row, k]) & 3
    assert torch.equal(layout.unpack_bytes(octets), codes)
    assert torch.equal(layout.unpack_crumbs(crumbs), codes & 3)


@pytest.mark.parametrize("name", packed_layers.NAMES)
def test_a_packed_weight_is_what_its_layer_dequantises(name: str) -> None:
    layer = packed_layers.layer(name)
    packed, _ = kernels._repacked(layer)
    assert packed is not None and packed.shape == (88, 512)
    own, truth = packed.dequantize_plain(torch.float32), layer.dequantize(torch.float32)
    if name == "int8":  # stored as bfloat16
        own = own.bfloat16().float()
    if name.startswith("nf4"):  # scales in float16 here, a weight in bfloat16 there: 2^-11 and 2^-8 at most
        assert float(((own - truth).abs() / truth.abs().clamp(min=1e-9)).max()) < 2**-8 + 2**-11
        assert float((own - truth).norm() / truth.norm()) < 2e-3
    else:
        assert torch.equal(own, truth)


@pytest.mark.parametrize("name", packed_layers.NAMES)
def test_stored_tensors_come_back_to_the_bit(name: str) -> None:
    layer = packed_layers.layer(name)
    before, released = (
        dict(layer.named_buffers()),
        {k: make() for k, (_, _, make) in layer.released().items()},
    )
    truth = layer.dequantize(torch.float32)
    packed, _ = kernels._repacked(layer)
    assert packed is not None
    layer.give_way(packed, kernels._STORED[type(layer)], lambda: kernels._stored(layer, packed))
    held = sum(t.nbytes for t in layer.buffers()) + packed.nbytes
    assert held < 1.35 * sum(t.nbytes for t in before.values())  # one copy: rows are padded, NF4's scales held twice
    assert torch.equal(layer.dequantize(torch.float32), truth)  # whatever reads the stored tensors still can
    assert all(torch.equal(make(), released[key]) for key, (_, _, make) in layer.released().items())
    layer.take_back()
    after = dict(layer.named_buffers())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) and before[key].dtype == after[key].dtype for key in before)


def test_moving_a_layer_takes_its_stored_tensors_back() -> None:
    layer = packed_layers.layer("awq 128")
    truth = layer.dequantize()
    packed, _ = kernels._repacked(layer)
    assert packed is not None
    layer.give_way(packed, kernels._STORED[type(layer)], lambda: kernels._stored(layer, packed))
    layer.kernel = packed
    assert "qweight" not in dict(layer.named_buffers())
    layer.to(torch.float64)
    assert layer.kernel is None and "qweight" in dict(layer.named_buffers())
    assert torch.equal(layer.dequantize(), truth)


def test_stacked_weights_share_their_memory_with_the_parts() -> None:
    layers = [packed_layers.layer("nf4 64", rows, seed=rows) for rows in (64, 16, 24)]
    parts = [kernels._repacked(layer)[0] for layer in layers]
    assert all(isinstance(part, NF4) for part in parts)
    before = [part.dequantize_plain(torch.float32) for part in parts if part is not None]
    whole = Packed.cat([part for part in parts if part is not None])
    assert whole.shape == (104, 512)
    assert torch.equal(whole.dequantize_plain(torch.float32), torch.cat(before))
    for part, own in zip(parts, before, strict=True):
        assert part is not None and torch.equal(part.dequantize_plain(torch.float32), own)
        codes = part.tensors["codes"]
        assert codes.untyped_storage().data_ptr() == whole.tensors["codes"].untyped_storage().data_ptr()
    assert torch.equal(whole.rows(64, 80).dequantize_plain(torch.float32), before[1])
    with pytest.raises(ValueError, match="multiples of 16"):
        whole.rows(8, 80)


def test_weights_that_differ_cannot_be_stacked() -> None:
    first, second = (kernels._repacked(packed_layers.layer(name, 64))[0] for name in ("awq 128", "awq 64"))
    assert isinstance(first, AWQ) and isinstance(second, AWQ)
    with pytest.raises(ValueError, match="one format"):
        Packed.cat([first, second])


@pytest.mark.parametrize("rows", [1, 80])
def test_multiply_without_kernels_is_the_plain_product(rows: int) -> None:
    layer = packed_layers.layer("Q4_0", 64)
    packed, _ = kernels._repacked(layer)
    assert isinstance(packed, Q4_0) and packed.path(torch.float32) == "plain"
    x, weight = torch.randn(rows, 512), layer.dequantize()
    norm, bias = (torch.rand(512) + 0.5, 1e-6), torch.randn(64)
    out = packed.multiply(x, norm=norm, gated=True, bias=bias)
    torch.testing.assert_close(out, multiply_plain(x, weight, norm=norm, gated=True, bias=bias))
    residual = torch.randn(rows, 64)
    expected = residual + x @ weight.T
    assert packed.multiply(x, residual=residual) is residual
    torch.testing.assert_close(residual, expected)
    grad = torch.randn(2, 3, 64)
    torch.testing.assert_close(packed.input_gradient(grad), grad @ weight)


def test_a_large_weight_is_dequantised_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cpmv.kernels.packed._DEQUANTIZED_ELEMENTS", 32 * 512)
    packed, _ = kernels._repacked(packed_layers.layer("Q8_0"))
    assert packed is not None and [rows.stop - rows.start for rows, _ in packed._parts()] == [32, 32, 24]
    x, weight = torch.randn(70, 512), packed.dequantize_plain(torch.float32)
    torch.testing.assert_close(packed.multiply(x), x @ weight.T)
    torch.testing.assert_close(packed.input_gradient(torch.ones(1, 88)), weight.sum(0, keepdim=True))


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: packed_layers.layer("int8", 16, 96), "no multiple of 64"),
        (lambda: packed_layers.gguf_layer("Q5_0", 16, 64, torch.Generator()), "Q5_0"),
    ],
)
def test_what_has_no_kernel_says_why(layer: object, reason: str) -> None:
    made = layer()  # type: ignore[operator]
    assert isinstance(made, PackedLinear)
    packed, why = kernels._repacked(made)
    assert packed is None and reason in why


def test_plain_path_is_kept_when_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CPMV_KERNELS", "plain")
    monkeypatch.setattr("cpmv.kernels.packed._said", set())
    layer = packed_layers.layer("awq 128")
    with caplog.at_level(logging.INFO, "cpmv"):
        assert kernels.pack(layer) is None and kernels.pack(layer) is None
    assert [r.message for r in caplog.records] == [
        "quantised weights are dequantised at each use, as CPMV_KERNELS asks"
    ]
    x = torch.randn(3, 512)
    torch.testing.assert_close(layer(x), x @ layer.dequantize(torch.float32).T)
