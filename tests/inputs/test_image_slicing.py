"""Slicing, resampling and patch layout against the reference's recorded results."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cpmv.errors import MediaError, MessageError
from cpmv.inputs.image import patchify, plan_slices, slice_image

GOLDEN = Path(__file__).parents[1] / "golden"
PATCH = 14
SLICING = json.loads((GOLDEN / "slicing.json").read_text())["cases"]
PIXELS = json.loads((GOLDEN / "pixels.json").read_text())["cases"]


def synthetic(width: int, height: int, seed: int) -> Image.Image:
    """The picture the golden data is made from, by its formula in golden/README.md."""
    x = np.arange(width, dtype=np.int64)[None, :, None]
    y = np.arange(height, dtype=np.int64)[:, None, None]
    c = np.arange(3, dtype=np.int64)[None, None, :]
    v = x * (3 + 2 * c + seed % 5) + y * (5 + c + seed % 7) + (x * y) // (7 + seed % 11) + 31 * seed + 17 * c
    v %= 512
    return Image.fromarray(np.where(v < 256, v, 511 - v).astype(np.uint8))


def strip(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Normalise a slice [h, w, 3] and lay it out as the reference's patch strip float32 [3, p, P * p]."""
    patches, _ = patchify([array], PATCH)  # [P, 3, p, p]
    columns = patches.numpy().transpose(1, 2, 0, 3).reshape(3, PATCH, -1)
    half = np.float32(0.5)
    return (columns.astype(np.float32) / np.float32(255) - half) / half


def sha256(array: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@cache
def archive(name: str) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(GOLDEN / name) as file:
        return {key: file[key] for key in file.files}


def test_grids_and_sizes_equal_the_reference_for_every_golden_size() -> None:
    wrong = []
    for case in SLICING:
        plan = plan_slices(tuple(case["size"]), case["max_slice_nums"], case["scale_resolution"], PATCH)
        got = {
            "grid": list(plan.grid) if plan.grid else None,
            "source_size": list(plan.overview),
            "refine_size": list(plan.refined) if plan.refined else None,
            "tgt_sizes": [[height // PATCH, width // PATCH] for width, height in plan.sizes],
        }
        wrong += [(case["size"], case["max_slice_nums"], key) for key in got if got[key] != case[key]]
    assert SLICING and wrong == []


def test_the_synthetic_picture_follows_its_formula() -> None:
    assert np.array_equal(np.asarray(synthetic(9, 6, 3)), archive("pixels_full.npz")["synth_9x6_s3"])


@pytest.mark.parametrize("case", PIXELS, ids=lambda c: f"{c['mode']}-{c['size'][0]}x{c['size'][1]}")
def test_slices_and_strips_equal_the_reference_bit_for_bit(case: dict[str, Any]) -> None:
    (width, height), seed = case["size"], case["seed"]
    limit, resolution = case["max_slice_nums"], case["scale_resolution"]
    picture = synthetic(width, height, seed)
    if case["mode"] != "RGB":
        picture = picture.convert(case["mode"])
    slices = slice_image(picture, limit, resolution, PATCH)
    assert [one.mode for one in slices] == ["RGB"] * len(case["slices"])
    for index, (one, expected) in enumerate(zip(slices, case["slices"], strict=True)):
        pixels = np.asarray(one)
        assert list(one.size) == expected["size"]
        assert sha256(pixels) == expected["sha256_uint8_hwc"]
        values = strip(pixels)
        assert list(values.shape) == expected["shape"]
        assert sha256(values) == expected["sha256_float32"]
        assert values.reshape(-1)[:6].tolist() == expected["first"]
        stored = archive("pixels_full.npz").get(f"{width}x{height}_s{seed}_m{limit}_r{resolution}_{index}")
        assert (stored is not None) == (resolution == 112)
        assert stored is None or np.array_equal(pixels, stored)


def test_the_example_strip_equals_the_reference() -> None:
    example = archive("strip_example.npz")
    assert np.array_equal(strip(example["image"]), example["strip"])


@pytest.mark.parametrize("size", [(5000, 1), (1, 5000), (100_000, 1), (3, 20_000), (1, 1), (2, 1)])
def test_extreme_shapes_are_sliced_as_planned(size: tuple[int, int]) -> None:
    plan = plan_slices(size, 9)
    slices = slice_image(Image.new("RGB", size, (9, 8, 7)), 9)
    assert [one.size for one in slices] == plan.sizes
    _, tgt_sizes = patchify(slices, PATCH)
    assert tgt_sizes.tolist() == [[height // PATCH, width // PATCH] for width, height in plan.sizes]


def test_a_very_wide_picture_has_more_than_70_patches_on_one_axis() -> None:
    assert plan_slices((5000, 1), 9).sizes == [(2143 * PATCH, PATCH)]


def test_patchify_keeps_slice_order_and_row_major_patches() -> None:
    first = np.arange(28 * 14 * 3, dtype=np.uint32).reshape(28, 14, 3).astype(np.uint8)
    second = first.transpose(1, 0, 2) + np.uint8(1)
    patches, tgt_sizes = patchify([Image.fromarray(first), np.ascontiguousarray(second)], PATCH)
    assert tgt_sizes.tolist() == [[2, 1], [1, 2]]
    assert patches.shape == (4, 3, PATCH, PATCH) and str(patches.dtype) == "torch.uint8"
    assert np.array_equal(patches[1].numpy(), first[14:].transpose(2, 0, 1))
    assert np.array_equal(patches[3].numpy(), second[:, 14:].transpose(2, 0, 1))


def test_patchify_of_nothing_is_empty_and_well_shaped() -> None:
    patches, tgt_sizes = patchify([], PATCH)
    assert patches.shape == (0, 3, PATCH, PATCH) and tgt_sizes.shape == (0, 2)


@pytest.mark.parametrize("shape", [(15, 14, 3), (14, 13, 3), (14, 14), (14, 14, 4), (0, 14, 3)])
def test_patchify_refuses_what_is_no_whole_number_of_rgb_patches(shape: tuple[int, ...]) -> None:
    with pytest.raises(MediaError):
        patchify([np.zeros(shape, dtype=np.uint8)], PATCH)


def test_slice_mode_off_passes_a_divisible_picture_through() -> None:
    picture = synthetic(42, 28, 1)
    plan = plan_slices(picture.size, 9, slice_mode=False)
    assert (plan.grid, plan.overview, plan.refined, plan.sizes) == (None, (42, 28), None, [(42, 28)])
    (only,) = slice_image(picture, 9, slice_mode=False)
    assert np.array_equal(np.asarray(only), np.asarray(picture))


def test_slice_mode_off_refuses_a_picture_that_is_no_multiple_of_the_patch() -> None:
    with pytest.raises(MediaError, match=r"100 x 28 pixels and slice_mode is off.*multiples of 14"):
        plan_slices((100, 28), 9, slice_mode=False)


@pytest.mark.parametrize("value", [0, -1, 2.0, "9", None, True])
def test_max_slice_nums_must_be_a_positive_integer(value: Any) -> None:
    with pytest.raises(MessageError, match="max_slice_nums"):
        plan_slices((600, 600), value)


def test_max_slice_nums_may_be_a_numpy_integer() -> None:
    assert plan_slices((1000, 1000), np.int64(4)) == plan_slices((1000, 1000), 4)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-3, 4)])
def test_an_empty_size_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(MediaError, match="at least 1 x 1"):
        plan_slices(size, 9)


def test_other_resolutions_and_patch_sizes_are_taken_from_the_arguments() -> None:
    plan = plan_slices((600, 400), 6, scale_resolution=224, patch_size=16)
    assert plan.grid == (3, 2)  # 4.78 -> 5 tiles; the best of 4, 5, 6
    assert all(side % 16 == 0 for size in plan.sizes for side in size)
    assert all(abs(width * height - 224**2) < 0.2 * 224**2 for width, height in plan.sizes)
