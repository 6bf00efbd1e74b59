"""The vision tower against the reference, and its packing."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from cpmv.model.minicpmv import MiniCPMV
from cpmv.model.vision import equal_chunks, position_buckets, position_ids

VISION = load_file(GOLDEN / "vision.safetensors")
SETS = sorted({key.split(".")[1] for key in VISION})


def patches_of(name: str) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """Stored strips [42, 14 * sum(L)] as patches [P, 3, 14, 14], with their grids."""
    sizes = [(h, w) for h, w in VISION[f"vision.{name}.tgt_sizes"].tolist()]
    strips = VISION[f"vision.{name}.strips"].float()
    return strips.view(3, 14, sum(h * w for h, w in sizes), 14).permute(2, 0, 1, 3), sizes


def test_position_buckets_equal_the_reference_table() -> None:
    table = json.loads((GOLDEN / "position_buckets.json").read_text())
    wrong = [n for n, buckets in table.items() if position_buckets(int(n)).tolist() != buckets]
    assert len(table) > 100 and not wrong


@pytest.mark.parametrize("n", [1, 70, 71, 400, 2143])
@pytest.mark.parametrize("side", [10, 16, 70])
def test_position_buckets_stay_on_the_table_for_any_grid(n: int, side: int) -> None:
    buckets = position_buckets(n, side)
    assert buckets.shape == (n,) and buckets.min() == 0 and buckets.max() < side
    assert torch.equal(buckets, buckets.sort().values)


def test_position_ids_are_row_major() -> None:
    ids = position_ids(2, 3, 70)
    assert ids.tolist() == [0, 23, 46, 35 * 70, 35 * 70 + 23, 35 * 70 + 46]


@pytest.mark.parametrize("name", SETS)
def test_tower_and_resampler_equal_the_reference(tiny_network: MiniCPMV, name: str) -> None:
    patches, sizes = patches_of(name)
    with torch.inference_mode():
        out = tiny_network.vpm(patches, sizes)
        tokens = tiny_network.resampler(out, sizes, [[-1]] * len(sizes))
    for i, part in enumerate(out.split([h * w for h, w in sizes])):
        torch.testing.assert_close(part, VISION[f"vision.{name}.out.{i}"], atol=1e-4, rtol=0)
    torch.testing.assert_close(tokens[:, ::8], VISION[f"vision.{name}.resampled_q8"], atol=1e-4, rtol=0)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=6), st.integers(0, 99))
def test_packed_slices_equal_slices_alone(sizes: list[tuple[int, int]], seed: int) -> None:
    network = _network()
    generator = torch.Generator().manual_seed(seed)
    counts = [h * w for h, w in sizes]
    patches = torch.randint(0, 256, (sum(counts), 3, 14, 14), dtype=torch.uint8, generator=generator)
    with torch.inference_mode():
        packed = network.encode_images(patches, torch.tensor(sizes), [[-1]] * len(sizes))
        alone = [network.encode_images(p, [size], [[-1]]) for p, size in zip(patches.split(counts), sizes, strict=True)]
    torch.testing.assert_close(packed, torch.cat(alone), atol=2e-5, rtol=0)


def _network() -> MiniCPMV:
    """Hypothesis may not use function fixtures; the session's network is kept here once made."""
    if not hasattr(_network, "made"):
        from conftest import read_config

        with torch.device("meta"):
            network = MiniCPMV(read_config("tiny_a"))
        files = sorted((GOLDEN / "tiny_a").glob("*.safetensors"))
        network.load_state_dict({k: v.float() for f in files for k, v in load_file(f).items()}, assign=True)
        _network.made = network.eval()  # type: ignore[attr-defined]
    return _network.made  # type: ignore[attr-defined, no-any-return]


def test_pixels_are_normalised_in_the_released_order(tiny_network: MiniCPMV) -> None:
    levels = torch.arange(256, dtype=torch.uint8)[:, None, None, None].expand(256, 3, 14, 14)
    expected = (levels.float() / 255 - 0.5) / 0.5
    assert torch.equal(tiny_network.vpm.normalise(levels), expected)


def test_equal_chunks_cover_every_index_once_and_never_mix_lengths() -> None:
    lengths = [4, 9, 4, 4, 9, 1, 4, 4]
    chunks = equal_chunks(lengths, 2)
    assert sorted(i for chunk in chunks for i in chunk) == list(range(len(lengths)))
    assert all(len({lengths[i] for i in chunk}) == 1 and len(chunk) <= 2 for chunk in chunks)
