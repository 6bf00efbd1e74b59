"""What holds for any picture: slicing covers it, patches are a rearrangement, broken files end in MediaError."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cpmv.errors import MediaError
from cpmv.inputs.image import image_size, open_image, patchify, plan_slices, slice_image
from cpmv.inputs.media import media_kind
from cpmv.inputs.pdf import iter_pages

quick = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
many = settings(deadline=None, max_examples=300)

sides = st.one_of(st.integers(1, 4000), st.integers(1, 60_000))
MAX_FUZZ_PIXELS = 1_000_000  # a flipped size field must not make the decoder allocate more than this


@many
@given(sides, sides, st.integers(1, 40), st.sampled_from([112, 224, 448]), st.sampled_from([14, 16]))
def test_any_plan_tiles_the_refined_picture_and_respects_the_limits(
    width: int, height: int, limit: int, resolution: int, patch: int
) -> None:
    plan = plan_slices((width, height), limit, resolution, patch)
    assert all(side >= patch and side % patch == 0 for size in plan.sizes for side in size)
    assert (plan.grid is None) == (plan.refined is None)
    if limit == 1 or width * height <= resolution**2:
        assert plan.grid is None
    if plan.grid is not None and plan.refined is not None:
        columns, rows = plan.grid
        assert 2 <= columns * rows <= limit
        assert plan.refined[0] % (columns * patch) == plan.refined[1] % (rows * patch) == 0
        assert len(plan.sizes) == columns * rows + 1
        tile = plan.sizes[1]
        assert sum(w * h for w, h in plan.sizes[1:]) == plan.refined[0] * plan.refined[1]
        assert tile == (plan.refined[0] // columns, plan.refined[1] // rows)


@quick
@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 9))
def test_tiles_put_together_are_the_picture_resized_once(width: int, height: int, limit: int) -> None:
    array = (np.indices((height, width)).sum(0)[..., None] * np.array([3, 5, 7]) % 256).astype(np.uint8)
    picture = Image.fromarray(array)
    plan = plan_slices(picture.size, limit, scale_resolution=112)
    overview, *tiles = slice_image(picture, limit, scale_resolution=112)
    assert overview.tobytes() == picture.resize(plan.overview, Image.Resampling.BICUBIC).tobytes()
    if plan.grid is None or plan.refined is None:
        assert not tiles
        return
    columns, rows = plan.grid
    grid = [np.concatenate([np.asarray(t) for t in tiles[r * columns : (r + 1) * columns]], 1) for r in range(rows)]
    whole = picture.resize(plan.refined, Image.Resampling.BICUBIC)
    assert np.array_equal(np.concatenate(grid, 0), np.asarray(whole))


@quick
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), max_size=4), st.integers(1, 16), st.integers(0, 99))
def test_patches_put_back_are_the_slices(grids: list[tuple[int, int]], patch: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    slices = [rng.integers(0, 256, (rows * patch, cols * patch, 3), dtype=np.uint8) for rows, cols in grids]
    patches, tgt_sizes = patchify(slices, patch)
    assert patches.shape[0] == int(tgt_sizes.prod(1).sum())
    start = 0
    for array, (rows, cols) in zip(slices, tgt_sizes.tolist(), strict=True):
        mine = patches[start : start + rows * cols].reshape(rows, cols, 3, patch, patch)
        start += rows * cols
        assert np.array_equal(mine.permute(0, 3, 1, 4, 2).reshape(rows * patch, cols * patch, 3).numpy(), array)


@quick
@given(st.integers(1, 64), st.integers(1, 64), st.sampled_from(["L", "RGB", "RGBA", "P", "1", "CMYK", "LA", "I;16"]))
def test_the_size_read_from_the_header_is_the_size_opened(width: int, height: int, mode: str) -> None:
    format = "TIFF" if mode == "CMYK" else "PNG"
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, format)
    assert image_size(buffer.getvalue()) == open_image(buffer.getvalue()).size == (width, height)


@cache
def sample(format: str) -> bytes:
    rng = np.random.default_rng(3)
    smooth = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((64, 48))
    buffer = io.BytesIO()
    options: dict[str, Any] = {"exif": Image.Exif()} if format in ("JPEG", "PNG", "WEBP") else {}
    if options:
        options["exif"][0x0112] = 6
    smooth.save(buffer, format, **options)
    return buffer.getvalue()


def read_image(data: bytes) -> None:
    image = open_image(data, max_pixels=MAX_FUZZ_PIXELS)
    assert image.mode == "RGB" and image.width * image.height <= MAX_FUZZ_PIXELS


def read_pdf(data: bytes) -> None:
    for page in iter_pages(data, dpi=36, max_pixels=MAX_FUZZ_PIXELS, max_pages=5):
        assert page.mode == "RGB"


READERS = {"PDF": read_pdf}
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "PDF"]


def survives(format: str, data: bytes) -> None:
    """Reading succeeds or raises MediaError on one line; any other exception fails the test."""
    for read in (media_kind, READERS.get(format, read_image)):
        try:
            read(data)
        except MediaError as error:
            assert "\n" not in str(error) and str(error)


@pytest.mark.filterwarnings("ignore")  # Pillow warns about odd metadata; what matters here is the outcome
@pytest.mark.parametrize("format", FORMATS)
@quick
@given(fraction=st.floats(0, 1))
def test_truncated_files_end_in_media_error(format: str, fraction: float) -> None:
    data = sample(format)
    survives(format, data[: int(fraction * len(data))])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", FORMATS)
@quick
@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=12))
def test_bit_flipped_files_end_in_media_error_or_open(format: str, flips: list[tuple[float, int]]) -> None:
    data = bytearray(sample(format))
    for where, bit in flips:
        # Half the flips go to the first 128 bytes, where sizes and types are.
        position = int(where * 2 * min(128, len(data))) if where < 0.5 else int((where - 0.5) * 2 * len(data))
        data[min(position, len(data) - 1)] ^= 1 << bit
    survives(format, bytes(data))


@pytest.mark.filterwarnings("ignore")
@many
@given(st.sampled_from(FORMATS), st.binary(max_size=200))
def test_a_right_beginning_with_noise_behind_ends_in_media_error(format: str, noise: bytes) -> None:
    survives(format, sample(format)[:24] + noise)
