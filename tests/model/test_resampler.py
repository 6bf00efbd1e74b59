"""The 3D-Resampler against the reference; what a group means."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from safetensors.torch import load_file

from cpmv.model.minicpmv import MiniCPMV
from cpmv.model.resampler import spatial_positions, temporal_positions

DATA = load_file(GOLDEN / "resampler.safetensors")
CASES = json.loads((GOLDEN / "resampler.json").read_text())
CPU = torch.device("cpu")


def unpadded(x: torch.Tensor, sizes: list[list[int]]) -> torch.Tensor:
    return torch.cat([x[i, : h * w] for i, (h, w) in enumerate(sizes)])


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
def test_resampler_equals_the_reference(tiny_network: MiniCPMV, case: dict) -> None:
    sizes = case["tgt_sizes"]
    ids = case["temporal_ids"] or [[-1]] * len(sizes)
    with torch.inference_mode():
        out = tiny_network.resampler(unpadded(DATA[f"{case['name']}.x"].float(), sizes), sizes, ids)
    assert list(out.shape) == case["tokens"]
    torch.testing.assert_close(out[:, ::4], DATA[f"{case['name']}.out_q4"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("suffix", ["", "4096"])
def test_position_tables_equal_the_reference_to_the_bit(suffix: str) -> None:
    tables = np.load(GOLDEN / "position_tables.npz")
    under = f"_{suffix}" if suffix else ""
    expected = tables[f"pos2d{under}"]
    for (y, x), row in zip(tables[f"pos2d{under}_yx"], expected, strict=True):
        ours = spatial_positions(expected.shape[1], y + 1, x + 1, CPU, torch.float32)[-1]
        np.testing.assert_array_equal(ours.numpy(), row)
    times = tables[f"temporal{suffix}"]
    ours = temporal_positions(times.shape[1], tables[f"t{suffix}"].tolist(), CPU, torch.float32)
    np.testing.assert_array_equal(ours.numpy(), times)


def test_spatial_positions_do_not_change_when_the_table_grows() -> None:
    small = spatial_positions(64, 3, 4, CPU, torch.float32)
    large = spatial_positions(64, 90, 80, CPU, torch.float32).view(90, 80, 64)[:3, :4].reshape(12, 64)
    assert torch.equal(small, large)


def test_a_picture_has_no_time_and_a_late_frame_has_one() -> None:
    rows = temporal_positions(64, [-1, 0, 90_000], CPU, torch.float32)
    assert rows[0].abs().sum() == 0 and rows[1, 32:].eq(1).all() and rows[2].abs().sum() > 0


def test_six_frames_become_as_many_tokens_as_one_picture(tiny_network: MiniCPMV) -> None:
    x = torch.randn(6 * 12, 96, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        out = tiny_network.resampler(x, [(3, 4)] * 6, [[0, 1, 2, 3, 4, 5]])
    assert out.shape == (1, tiny_network.config.resampler.query_num, 256)


def test_a_group_of_one_without_time_is_the_picture_path_bit_for_bit(tiny_network: MiniCPMV) -> None:
    x = torch.randn(12, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        picture = tiny_network.resampler(x, [(3, 4)], [[-1]])
        # In one call with a timed frame of the same size the picture shares its batch and gets a zero time.
        both = tiny_network.resampler(torch.cat([x, x]), [(3, 4), (3, 4)], [[-1], [7]])
    assert torch.equal(picture[0], both[0]) and not torch.allclose(both[0], both[1])


def test_order_of_times_matters_but_the_shared_frames_do_not_move(tiny_network: MiniCPMV) -> None:
    x = torch.randn(24, 96, generator=torch.Generator().manual_seed(1))
    sizes = [(3, 4), (3, 4)]
    with torch.inference_mode():
        forward = tiny_network.resampler(x, sizes, [[0, 9]])
        backward = tiny_network.resampler(x, sizes, [[9, 0]])
        swapped = tiny_network.resampler(torch.cat([x[12:], x[:12]]), sizes, [[9, 0]])
    assert not torch.allclose(forward, backward, atol=1e-3)
    torch.testing.assert_close(forward, swapped, atol=1e-5, rtol=0)  # attention does not care for the order of keys
