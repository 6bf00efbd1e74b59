"""Prefill's element-wise kernels against their truths, interpreted; and merged weights."""

from __future__ import annotations

import pytest
import torch
from interpret import interpreted
from torch import Tensor, nn

from cpmv.kernels import fused
from cpmv.kernels.merge import Snapshot, merge_rows, merged

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


def close(found: Tensor, truth: Tensor, dtype: torch.dtype, ulps: float = 2) -> None:
    """Largest error relative to the largest value, in roundings of the dtype."""
    error = (found.double() - truth.double()).abs().max() / truth.double().abs().max()
    assert error <= ulps * torch.finfo(dtype).eps, f"{dtype}: relative error {error:.2e}"


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos[:, None] + torch.cat((-second, first), dim=-1) * sin[:, None]


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x = x.double()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.double()


@interpreted
def test_rms_norm_is_the_formula() -> None:
    for dtype in DTYPES:
        for rows, size in ((3, 64), (1, 96), (5, 200)):
            x, w = normal(rows, size, seed=size, dtype=dtype, scale=3), normal(size, seed=1, dtype=dtype)
            close(fused.rms_norm(x, w, 1e-6), rms(x, w, 1e-6), dtype)
    strided = normal(4, 128, seed=2)[:, :64]
    close(fused.rms_norm(strided, torch.ones(64), 1e-6), rms(strided, torch.ones(64), 1e-6), torch.float32, 4)


@interpreted
def test_norms_put_infinite_halves_back_in_range() -> None:
    x = normal(2, 64, dtype=torch.float16)
    x[0, 3], x[1, 5] = float("inf"), float("-inf")
    assert fused.rms_norm(x.clone(), torch.ones(64, dtype=torch.float16), 1e-6).isfinite().all()
    y = fused.layer_norm(x, torch.ones(64, dtype=torch.float16), torch.zeros(64, dtype=torch.float16), 1e-6)
    assert y.isfinite().all() and x[0, 3] == 65504 and x[1, 5] == -65504


@interpreted
def test_layer_norm_adds_the_shift_first() -> None:
    for dtype in DTYPES:
        for rows, size in ((3, 64), (5, 72), (1, 130)):
            x, w, b = (normal(n, size, seed=i, dtype=dtype).squeeze(0) for i, n in enumerate((rows, 1, 1)))
            x, shift = x.view(rows, size), normal(size, seed=9)
            truth = torch.nn.functional.layer_norm(x.double() + shift, (size,), w.double(), b.double(), 1e-6)
            close(fused.layer_norm(x, w, b, 1e-6, shift), truth, dtype, 4)
            unshifted = torch.nn.functional.layer_norm(x.double(), (size,), w.double(), b.double(), 1e-6)
            close(fused.layer_norm(x, w, b, 1e-6), unshifted, dtype, 4)


@interpreted
def test_queries_and_keys_are_normed_turned_and_stored() -> None:
    for dtype in DTYPES:
        for h, k, d, n in ((4, 2, 32, 5), (8, 8, 16, 3), (6, 2, 64, 1)):
            wide = normal(n, (h + 2 * k) * d + 8, seed=n, dtype=dtype)
            qkv = wide[:, :-8]
            qw, kw = normal(d, seed=1, dtype=dtype), normal(d, seed=2, dtype=dtype)
            angles = normal(n, d // 2, seed=3).repeat(1, 2)
            cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
            before = qkv.clone().unflatten(1, (-1, d))
            pools = torch.zeros(4, 4, k, d, dtype=dtype), torch.zeros(4, 4, k, d, dtype=dtype)
            slots = torch.tensor([9, 2, 15, 0, 4])[:n]
            fused.qk_norm_rotate(qkv, h, k, cos, sin, qw, kw, 1e-6, (*pools, slots))
            after = qkv.unflatten(1, (-1, d))
            turn = cos.double(), sin.double()
            close(after[:, :h], rotate(rms(before[:, :h], qw, 1e-6), *turn), dtype, 4)
            close(after[:, h : h + k], rotate(rms(before[:, h : h + k], kw, 1e-6), *turn), dtype, 4)
            assert torch.equal(after[:, h + k :], before[:, h + k :])
            assert torch.equal(pools[0].flatten(0, 1)[slots], after[:, h : h + k])
            assert torch.equal(pools[1].flatten(0, 1)[slots], before[:, h + k :])
            assert pools[0].flatten(0, 1).any(-1).any(-1).sum() == n  # nowhere else


@interpreted
def test_gates_multiply() -> None:
    for dtype in DTYPES:
        x = normal(3, 2 * 40, dtype=dtype, scale=4)
        gate, up = x.double().chunk(2, dim=1)
        close(fused.silu_multiply(x), torch.nn.functional.silu(gate) * up, dtype)


@interpreted
def test_two_attentions_become_one() -> None:
    h, d, s, t = 3, 16, 5, 11
    q, k, v = normal(h, s, d), normal(h, t, d, seed=1), normal(h, t, d, seed=2)
    scores = q @ k.transpose(1, 2)
    truth = scores.softmax(-1) @ v
    parts = []
    for some in (slice(0, 7), slice(7, t)):
        out = scores[..., some].softmax(-1) @ v[:, some]
        parts += [out.transpose(0, 1).contiguous(), scores[..., some].logsumexp(-1)]
    fused.merge_attention(*parts)
    close(parts[0].transpose(0, 1), truth, torch.float32, 8)


def test_without_a_kernel_the_truth_runs() -> None:
    x, w = normal(3, 64), normal(64, seed=1)
    close(fused.rms_norm(x, w, 1e-6), rms(x, w, 1e-6), torch.float32, 4)
    assert not fused.usable(x)


def test_merged_parameters_are_views_and_a_moved_one_is_noticed() -> None:
    linears = [nn.Linear(8, n, bias=False) for n in (16, 4, 4)]
    values, parameters = [x.weight.detach().clone() for x in linears], [x.weight for x in linears]
    whole = merge_rows(linears)
    assert whole is not None and torch.equal(whole, torch.cat(values)) and merged(whole, linears) is whole
    assert all(x.weight is p and torch.equal(p, value) for x, p, value in zip(linears, parameters, values, strict=True))
    again = merge_rows(linears)
    assert again is not None and again.data_ptr() == whole.data_ptr() and again.shape == whole.shape
    with torch.no_grad():
        linears[1].weight.add_(1)
    assert torch.equal(whole[16:20], values[1] + 1)
    linears[2].weight.data = linears[2].weight.data.clone()
    assert merged(whole, linears) is None


def test_merging_under_inference_mode_leaves_parameters_trainable() -> None:
    linears = [nn.Linear(8, 4, bias=False) for _ in range(2)]
    with torch.inference_mode():
        assert merge_rows(linears) is not None
    linears[0](torch.ones(1, 8)).sum().backward()
    assert linears[0].weight.grad is not None


@pytest.mark.parametrize("broken", ["bias", "kind", "dtype"])
def test_what_cannot_be_merged_is_left_alone(broken: str) -> None:
    linears: list[nn.Module] = [nn.Linear(8, 4, bias=False), nn.Linear(8, 4, bias=broken == "bias")]
    if broken == "kind":
        linears[1] = nn.Identity()
    elif broken == "dtype":
        linears[1].half()
    assert merge_rows(linears) is None


def test_a_snapshot_notices_values_parameters_and_modules() -> None:
    def change_value(net: nn.Sequential) -> None:
        with torch.no_grad():
            net[0].weight.mul_(2)

    def change_parameter(net: nn.Sequential) -> None:
        net[0].weight = nn.Parameter(net[0].weight.detach())

    def change_module(net: nn.Sequential) -> None:
        net[1] = nn.Identity()

    for change in (change_value, change_parameter, change_module):
        net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        snapshot = Snapshot(net)
        assert snapshot.holds()
        change(net)
        assert not snapshot.holds()
