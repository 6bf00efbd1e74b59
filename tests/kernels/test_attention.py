"""Decode attention over a paged pool against its plain truth, and that truth against the model's own attention."""

from __future__ import annotations

import pytest
import torch
from interpret import interpreted
from torch import Tensor

from cpmv.kernels import attention as paged
from cpmv.kernels import launch
from cpmv.kernels.attention import Heads, Paging, Split

TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3}


def case(dtype: torch.dtype, num_heads: int, kv_heads: int, width: int, block: int, positions: list[int]) -> tuple:
    """Random pools, projections, tables that share no block, and everything else `decode_attention` takes."""
    torch.manual_seed(num_heads * block)
    blocks = max(positions) // block + 1
    pools = tuple(torch.randn(blocks * len(positions) + 1, block, kv_heads, width, dtype=dtype) for _ in range(2))
    qkv = torch.randn(len(positions), (num_heads + 2 * kv_heads) * width, dtype=dtype)
    table = torch.randperm(blocks * len(positions))[:, None].view(len(positions), blocks)
    angles = torch.randn(max(positions) + 1, width // 2)
    norms = [torch.rand(width, dtype=dtype) + 0.5 for _ in range(2)]
    heads = Heads(num_heads, kv_heads, width, *norms, 1e-6)
    rotary = angles.cos().to(dtype), angles.sin().to(dtype)
    return qkv, pools, Paging(torch.tensor(positions), table), heads, rotary


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected.double()).abs().max() / expected.double().abs().max()).item()


@interpreted
def test_steps_equal_the_plain_truth_however_they_are_split() -> None:
    for dtype, tolerance in TOLERANCE.items():
        for num_heads, kv_heads, width, block in ((4, 1, 32, 16), (6, 2, 64, 8)):
            qkv, pools, *rest = case(dtype, num_heads, kv_heads, width, block, [0, block - 1, block, 70])
            plain = tuple(pool.clone() for pool in pools)
            expected = paged.decode_attention_plain(qkv, plain, *rest)
            for split in (Split(1, 32), Split(4, 16)):
                written = tuple(pool.clone() for pool in pools)
                found = paged.decode_attention(qkv, written, *rest, split)
                error = relative(found, expected)
                print(f"{dtype}, {num_heads} heads over {kv_heads}, {split}: worst relative error {error:.1e}")
                assert error <= tolerance
                for pool, truth in zip(written, plain, strict=True):
                    assert relative(pool, truth) <= tolerance
                    untouched = pool == truth
                    assert untouched.float().mean() > 0.9 or bool(untouched.all())
    assert int(launch.counters(torch.device("cpu")).abs().sum()) == 0


@interpreted
def test_what_lies_after_a_row_is_never_read() -> None:
    qkv, pools, paging, *rest = case(torch.float32, 4, 2, 32, 8, [5, 19])
    for pool in pools:
        for row, position in enumerate(paging.position.tolist()):
            blocks = paging.table[row]
            pool[blocks[position // 8], position % 8 + 1 :] = float("nan")
            pool[blocks[position // 8 + 1 :]] = float("nan")
    found = paged.decode_attention(qkv, pools, paging, *rest, Split(2, 16))
    assert bool(found.isfinite().all())


@interpreted
def test_a_row_does_not_depend_on_its_neighbours() -> None:
    qkv, pools, paging, *rest = case(torch.float32, 4, 2, 32, 8, [9, 30, 2])
    together = paged.decode_attention(qkv, tuple(p.clone() for p in pools), paging, *rest, Split(2, 16))
    for row in range(3):
        one = Paging(paging.position[row : row + 1], paging.table[row : row + 1].contiguous())
        alone = paged.decode_attention(
            qkv[row : row + 1].clone(), tuple(p.clone() for p in pools), one, *rest, Split(2, 16)
        )
        assert torch.equal(alone[0], together[row])


def test_the_plain_truth_is_the_models_attention() -> None:
    from cpmv.model.attention import attention
    from cpmv.model.layers import RMSNorm, rotate

    qkv, pools, paging, heads, rotary = case(torch.float32, 4, 2, 32, 8, [21])
    expected_pools = tuple(pool.clone() for pool in pools)
    found = paged.decode_attention_plain(qkv, pools, paging, heads, rotary)
    q, k, v = qkv.view(1, -1, 32).split((4, 2, 2), dim=1)
    cos, sin = (torch.cat((part[21], part[21]))[None, None, None] for part in rotary)
    norms = []
    for weight in (heads.q_norm, heads.k_norm):
        norm = RMSNorm(32, heads.eps)
        norm.weight.data = weight
        norms.append(norm)
    q, k = rotate(norms[0](q)[:, :, None], cos, sin), rotate(norms[1](k)[:, :, None], cos, sin)
    held = []
    for pool, new in zip(expected_pools, (k, v[:, :, None]), strict=True):
        past = pool[paging.table[0]].flatten(0, 1)[:21].transpose(0, 1)[None]
        held.append(torch.cat((past, new), dim=2))
    with torch.no_grad():
        expected = attention(q, *held, scale=32**-0.5).flatten()
    assert relative(found[0], expected) < 1e-5


def test_splits_fill_a_card_and_not_more() -> None:
    assert paged.choose_split(1, 8, 2048, 132).parts * 8 in (128, 256)
    for rows in (1, 2, 8, 32, 64):
        for keys in (64, 1024, 16384):
            split = paged.choose_split(rows, 8, keys, 132)
            assert split.parts & (split.parts - 1) == 0 and 1 <= split.parts <= 64
            assert split.parts == 1 or (split.parts * rows * 8 <= 264 and keys // split.parts >= 32)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "width", "block", "takes"),
    [(32, 8, 128, 16, True), (6, 2, 64, 8, True), (40, 2, 64, 16, False), (4, 2, 48, 16, False), (4, 2, 64, 12, False)],
)
def test_which_sizes_are_taken(heads: int, kv_heads: int, width: int, block: int, takes: bool) -> None:
    assert paged.supports(heads, kv_heads, width, block, torch.bfloat16) is takes


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_steps_on_a_card() -> None:
    for dtype, tolerance in ((torch.bfloat16, 1e-2), (torch.float16, 2e-3)):
        qkv, pools, paging, heads, rotary = case(dtype, 32, 8, 128, 16, [0, 15, 700, 1300])
        pools = tuple(pool.cuda() for pool in pools)
        paging = Paging(paging.position.cuda(), paging.table.cuda().contiguous())
        heads = Heads(32, 8, 128, heads.q_norm.cuda(), heads.k_norm.cuda(), heads.eps)
        rotary = tuple(part.cuda() for part in rotary)
        plain = tuple(pool.clone() for pool in pools)
        expected = paged.decode_attention_plain(qkv.cuda(), plain, paging, heads, rotary)
        for split in (Split(1, 64, 4), Split(4, 64, 3), Split(16, 64, 2), Split(8, 32, 4)):
            written = tuple(pool.clone() for pool in pools)
            found = paged.decode_attention(qkv.cuda(), written, paging, heads, rotary, split)
            assert relative(found, expected) <= tolerance, (dtype, split)
