"""The fast paths of prefill and vision equal the plain modules: their algebra, followed on a CPU in float32."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cpmv.kernels import fused
from cpmv.kernels.merge import merge_decoder, merge_rows, merged
from cpmv.model import layers, packed_attention
from cpmv.model.attention import Paged, PagedGroup, PagedRows, _paged_group
from cpmv.model.cache import PagedCache, PagedPool
from cpmv.model.encoding import ImageEncoder
from cpmv.model.lora import LoraConfig, apply_lora
from cpmv.model.minicpmv import MiniCPMV

TOLERANCE = {"atol": 2e-5, "rtol": 0}


@pytest.fixture
def network(tiny_network: MiniCPMV) -> MiniCPMV:
    """A copy of its own: merging moves parameters."""
    return copy.deepcopy(tiny_network)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Tensor]], tuple[Tensor, Tensor]]:
    """Compute something by the plain path and by the fast one."""

    def both(compute: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        results = []
        for usable in (False, True):
            monkeypatch.setattr(fused, "usable", lambda x, usable=usable: usable)
            with torch.inference_mode():
                results.append(compute())
        return results[0], results[1]

    return both


PICTURES = [
    ([(4, 6)], [[-1]]),
    ([(4, 6), (3, 3), (6, 4), (4, 6), (3, 3)], [[-1]] * 5),
    ([(4, 6)] * 6, [[0, 5, 9], [12, 13, 14]]),
    ([(4, 6), (3, 3), (80, 2), (3, 3), (4, 6)], [[-1, 4], [7], [-1], [3]]),
]


@pytest.mark.parametrize("sizes, times", PICTURES)
@pytest.mark.parametrize("at_once", [30, 10_000])
def test_pictures_become_the_same_tokens(
    network: MiniCPMV, sizes: list[tuple[int, int]], times: list[list[int]], at_once: int
) -> None:
    side = network.config.vision.patch_size
    shape = (sum(h * w for h, w in sizes), 3, side, side)
    patches = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.inference_mode():
        plain = network.encode_images(patches, sizes, times)
        encoder = ImageEncoder.of(network.vpm, network.resampler)
        assert encoder is not None
        encoder.patches_at_once = at_once
        torch.testing.assert_close(encoder.encode(patches, sizes, times), plain, **TOLERANCE)
        pixels = network.vpm.normalise(patches)
        torch.testing.assert_close(encoder.encode(pixels, sizes, times), plain, **TOLERANCE)


def test_folded_pictures_follow_their_weights(network: MiniCPMV) -> None:
    encoder = ImageEncoder.of(network.vpm, network.resampler)
    assert encoder is not None and encoder.current()
    with torch.no_grad():
        network.vpm.encoder.layers[0].mlp.fc2.bias.add_(1)  # type: ignore[union-attr]
    assert not encoder.current()
    assert copy.deepcopy(encoder) is None  # a copied network makes its own


def test_an_adapted_tower_is_not_folded(network: MiniCPMV) -> None:
    apply_lora(network, LoraConfig(rank=2, targets=("vision",)))
    assert ImageEncoder.of(network.vpm, network.resampler) is None


def test_a_dense_batch_with_padding_and_a_cache(network: MiniCPMV, fast: Callable) -> None:
    width = network.config.language.hidden_size
    x = torch.randn(2, 9, width, generator=torch.Generator().manual_seed(0)) * 0.1
    positions = torch.arange(9).expand(2, -1)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, :3] = False

    def cached() -> Tensor:
        cache = network.new_cache(2, 16)
        first = network.llm.model(x[:, :5], positions[:, :5], mask[:, :5], cache)
        return torch.cat([first, network.llm.model(x[:, 5:], positions[:, 5:], mask, cache)], dim=1)

    rows = torch.tensor([8, 2])
    for compute in (
        lambda: network.llm.model(x, positions),
        lambda: network.llm.model(x, positions, mask),
        lambda: network.llm.model(x, positions, mask, None, rows),
        cached,
    ):
        plain, quick = fast(compute)
        torch.testing.assert_close(quick, plain, **TOLERANCE)
    some, every = (
        fast(lambda: network.llm.model(x, positions, rows=rows)),
        fast(lambda: network.llm.model(x, positions)),
    )
    assert torch.equal(some[0], every[0][:, rows])


def test_a_packed_row_of_chunks_and_decoding_rows(network: MiniCPMV, fast: Callable) -> None:
    blocks, size = [[0, 3, 5], [1, 2, 6, 7], [4, 8]], 4
    row = torch.randn(1, 24, network.config.language.hidden_size, generator=torch.Generator().manual_seed(3)) * 0.1

    def group(first: int, sequence: int, num_queries: int, num_keys: int) -> PagedGroup:
        held = torch.tensor(blocks[sequence][: -(-num_keys // size)])
        return PagedGroup(first, 1, num_queries, held, num_keys, None)

    def run(pool: PagedPool, x: Tensor, spans: list[tuple[int, int, int]], rows: Tensor | None = None) -> Tensor:
        places = [(s, p) for s, start, stop in spans for p in range(start, stop)]
        slots = torch.tensor([blocks[s][p // size] * size + p % size for s, p in places])
        groups, first = [], 0
        for sequence, start, stop in spans:
            groups.append(group(first, sequence, stop - start, stop))
            first += stop - start
        positions = torch.tensor([[p for _, p in places]])
        return network.llm.model(x, positions, Paged(tuple(groups)), PagedCache(pool, slots), rows)

    def compute() -> Tensor:
        pool = PagedPool(network.cache_spec(), 12, size, "cpu")
        begun = run(pool, row[:, :13], [(0, 0, 6), (1, 0, 7)])
        mixed = run(pool, row[:, 13:], [(0, 6, 7), (1, 7, 14), (2, 0, 3)], torch.tensor([10, 7, 0]))
        alone = run(pool, row[:, 3:8], [(2, 3, 8)], torch.tensor([4, 1]))
        return torch.cat([begun, mixed, alone], dim=1)

    plain, quick = fast(compute)
    torch.testing.assert_close(quick, plain, **TOLERANCE)


def test_sequences_told_by_tensors(network: MiniCPMV, fast: Callable) -> None:
    row = torch.randn(1, 12, network.config.language.hidden_size, generator=torch.Generator().manual_seed(5)) * 0.1
    slots = torch.tensor([4, 5, 6, 7, 12, 0, 1, 2, 20, 21, 22, 23])

    def compute() -> Tensor:
        found = []
        positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 0, 0, 0, 0]])
        told = [[0, 5, 8, 8], [0, 8, 12, 12], [5, 3, 0]]  # the last four rows are nobody's
        queries, keys, counts = (torch.tensor(one, dtype=torch.int32) for one in told)
        rows = PagedRows(queries, torch.tensor([1, 3, 0, 5]), keys, counts, 12)
        groups = tuple(
            PagedGroup(first, 1, count, torch.tensor(blocks), count, None)
            for first, count, blocks in ((0, 5, [1, 3]), (5, 3, [0]), (8, 4, [5]))
        )
        for paged in (Paged((), rows), Paged(groups)):
            cache = PagedCache(PagedPool(network.cache_spec(), 6, 4, "cpu"), slots)
            found.append(network.llm.model(row, positions, paged, cache, torch.tensor([4, 7])))
        torch.testing.assert_close(found[0], found[1], **TOLERANCE)
        return found[0]

    plain, quick = fast(compute)
    torch.testing.assert_close(quick, plain, **TOLERANCE)


def test_wide_rows_of_an_mlp_exist_for_some_tokens_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [layers._rows_together(n) for n in (1, 700, 4096, 6143, 8192, 11912, 12288)] == [
        *(256, 768, 4096, 6144, 4096, 4096, 4096),
    ]
    mlp = layers.GatedMLP(32, 48)
    x = torch.randn(600, 32, generator=torch.Generator().manual_seed(0))
    merge_rows([mlp.gate_proj, mlp.up_proj])
    mlp.gate_up_weight = merge_rows([mlp.gate_proj, mlp.up_proj])
    monkeypatch.setattr(layers, "_MLP_ROWS", 256)
    with torch.inference_mode():
        out = torch.ones(600, 32)
        mlp.add_to(out, x)
        assert torch.allclose(out, 1 + mlp(x), **TOLERANCE)


def test_nothing_wanted_of_a_chunk_still_fills_the_cache(network: MiniCPMV, fast: Callable) -> None:
    x = torch.randn(1, 8, network.config.language.hidden_size, generator=torch.Generator().manual_seed(4)) * 0.1
    slots = torch.arange(8)

    def compute() -> Tensor:
        pool = PagedPool(network.cache_spec(), 2, 4, "cpu")
        groups = Paged((PagedGroup(0, 1, 8, torch.tensor([0, 1]), 8, None),))
        none = torch.empty(0, dtype=torch.int64)
        out = network.llm.model(x, slots[None], groups, PagedCache(pool, slots), none)
        assert out.shape == (1, 0, x.shape[2])
        return torch.stack([*pool.keys, *pool.values])

    plain, quick = fast(compute)
    torch.testing.assert_close(quick, plain, **TOLERANCE)


@pytest.mark.parametrize("num_rows, num_queries, num_keys", [(1, 1, 9), (3, 1, 13), (2, 3, 11)])
def test_rows_that_decode_beside_a_chunk(num_rows: int, num_queries: int, num_keys: int) -> None:
    generator = torch.Generator().manual_seed(num_keys)
    pools = torch.randn(20, 4, 2, 16, generator=generator), torch.randn(20, 4, 2, 16, generator=generator)
    blocks = torch.randint(20, (num_rows * -(-num_keys // 4),), generator=generator)
    mask = None
    if num_rows > 1:
        past = torch.tensor([num_keys, num_keys - 2, num_keys - 5][:num_rows]) - num_queries
        mask = (torch.arange(num_keys) <= (past[:, None] + torch.arange(num_queries))[..., None])[:, None]
    group = PagedGroup(2, num_rows, num_queries, blocks, num_keys, mask)
    q = torch.randn(30, 12, 16, generator=generator)[:, :8]  # as it lies beside keys and values
    plain = _paged_group(q.transpose(0, 1)[None], *pools, 0.3, group)[0].transpose(0, 1)
    torch.testing.assert_close(packed_attention._decoding(q, pools, 0.3, group), plain, **TOLERANCE)


def test_merged_weights_move_with_their_network(network: MiniCPMV) -> None:
    assert merge_decoder(network.llm)
    attention = network.llm.model.layers[0].self_attn
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    assert merged(attention.qkv_weight, parts) is not None
    values = {name: value.clone() for name, value in network.state_dict().items()}
    network.double()
    assert attention.qkv_weight is None and merge_decoder(network.llm)
    for name, value in network.state_dict().items():
        assert torch.equal(value.float(), values[name])
