"""Pictures: open them as RGB, plan and cut the slices that the vision tower sees, lay out their patches.

Sits between `media` (whose bytes are these?) and `processor`. Slicing follows the released preprocessing to the bit,
Pillow's bicubic resampling included, so a picture handed over as PIL is converted exactly as `Image.convert("RGB")`
does unless it has transparency. Pixels stay uint8 here; the model normalises them.
"""

from __future__ import annotations

import importlib
import logging
import math
import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np
from PIL import ExifTags, Image

from ..errors import MediaError, MessageError
from .media import ImageSource, as_media_error, describe, one_line, open_source, sniff_file

if TYPE_CHECKING:
    from torch import Tensor

Size: TypeAlias = "tuple[int, int]"  # (width, height) in pixels
Array: TypeAlias = "np.ndarray[Any, Any]"

DEFAULT_MAX_PIXELS = 180_000_000  # about 720 MB once decoded; a 13400 x 13400 scan

# Module and registry name of Pillow's reader per format. Readers are called directly: `Image.open` would apply Pillow's
# process-wide pixel limit, which is not ours to change, and would warn below ours.
_READERS = {
    "JPEG": ("JpegImagePlugin", "JpegImageFile"),
    "PNG": ("PngImagePlugin", "PngImageFile"),
    "WEBP": ("WebPImagePlugin", "WebPImageFile"),
    "GIF": ("GifImagePlugin", "GifImageFile"),
    "BMP": ("BmpImagePlugin", "BmpImageFile"),
    "TIFF": ("TiffImagePlugin", "TiffImageFile"),
    "AVIF": ("AvifImagePlugin", "AvifImageFile"),
    "JPEG2000": ("Jpeg2KImagePlugin", "Jpeg2KImageFile"),
}
_ALPHA_MODES = {"RGBA", "LA", "PA", "La", "RGBa"}
_WIDE_MODES = {"I", "F", "I;16", "I;16L", "I;16B", "I;16N"}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation -> what makes the picture upright


def open_image(source: ImageSource, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Open a picture as an upright 8-bit RGB image.

    source: a path, the bytes of a file, a `data:...;base64,` URI, a PIL image, or a numpy array [h, w], [h, w, 1],
    [h, w, 3] or [h, w, 4] of uint8, uint16, bool, or floats in 0..1.
    Files are turned upright by their EXIF orientation and give their first frame. A PIL image is taken as its pixels
    stand, as the reference does. Transparent pixels lie over white. Values wider than 8 bits are scaled from 16 bits
    (or from their maximum if that is larger), unless all of them fit 8 bits already; a float PIL image whose values all
    lie in 0..1 is scaled from that.
    max_pixels: width x height above which nothing is decoded; the header is enough to refuse.
    Raises MediaError for anything missing, unsupported, corrupt, truncated or too large.
    """
    what = describe(source)
    if isinstance(source, np.ndarray):
        return to_rgb(_from_array(source, max_pixels))
    if isinstance(source, Image.Image):
        _check_size(source.size, max_pixels, what)
        with as_media_error(what):
            return to_rgb(source)
    _check_source_type(source)
    with open_source(source) as file, as_media_error(what):
        image, orientation = _read_header(file, source, max_pixels)
        image.load()
        if image.has_transparency_data and image.mode not in _WIDE_MODES:  # one colour may stand for "transparent"
            image = image.convert("RGBA")
        image = to_rgb(image)
        if orientation in _TURNS:
            image = image.transpose(_TURNS[orientation])
        image.info = {}  # the orientation is applied; nobody downstream may apply it twice
        return image


def image_size(source: ImageSource, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Size:
    """Read the (width, height) that `open_image` will give, from the header alone.

    With `plan_slices` this tells how many slices, hence tokens, a picture takes before any pixel is decoded.
    """
    if isinstance(source, np.ndarray):
        image = _from_array(source, max_pixels)
        return image.size
    if isinstance(source, Image.Image):
        _check_size(source.size, max_pixels, describe(source))
        return source.size
    _check_source_type(source)
    with open_source(source) as file, as_media_error(describe(source)):
        image, orientation = _read_header(file, source, max_pixels)
        width, height = image.size
        return (height, width) if orientation >= 5 else (width, height)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any PIL image to RGB, transparency over white; an RGB image is returned as it is.

    Equals `image.convert("RGB")` for every mode without alpha whose values fit 8 bits.
    """
    if image.mode == "RGB":
        image.load()
        return image
    if image.mode in _WIDE_MODES:
        return _wide_to_rgb(image)
    if image.mode in _ALPHA_MODES or (image.mode == "P" and image.has_transparency_data):
        layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


@dataclass(frozen=True)
class SlicePlan:
    """How a picture of one size is cut. Sizes are (width, height) in pixels.

    grid: (columns, rows), or None when the overview is all there is.
    overview: size of the whole picture as one slice.
    refined: size the picture is resized to before the grid cuts it into equal tiles; None without a grid.
    """

    grid: Size | None
    overview: Size
    refined: Size | None

    @property
    def sizes(self) -> list[Size]:
        """Size of every slice: the overview, then the tiles row by row. Each becomes `query_num` tokens."""
        if self.grid is None or self.refined is None:
            return [self.overview]
        columns, rows = self.grid
        tile = (self.refined[0] // columns, self.refined[1] // rows)
        return [self.overview] + [tile] * (columns * rows)


def plan_slices(
    size: Size,
    max_slice_nums: int,
    scale_resolution: int = 448,
    patch_size: int = 14,
    slice_mode: bool = True,
) -> SlicePlan:
    """Decide how a picture of `size` (width, height) is sliced, by the released rule.

    scale_resolution: a slice has about this number squared pixels. patch_size: every side is a multiple of it.
    slice_mode false passes the picture through at its own size.
    Raises MessageError unless `max_slice_nums` is an integer >= 1, MediaError for a size that cannot be used.
    """
    max_slice_nums = check_max_slice_nums(max_slice_nums)
    width, height = size
    if width < 1 or height < 1:
        raise MediaError(f"the image is {width} x {height} pixels; it must be at least 1 x 1")
    if not slice_mode:
        if width % patch_size or height % patch_size:
            raise MediaError(
                f"the image is {width} x {height} pixels and slice_mode is off; both sides must then be multiples of "
                f"{patch_size}; resize it or turn slice_mode on"
            )
        return SlicePlan(None, (width, height), None)
    grid = _choose_grid(width, height, max_slice_nums, scale_resolution)
    overview = _best_size(width, height, scale_resolution, patch_size, enlarge=grid is None)
    if grid is None:
        return SlicePlan(None, overview, None)
    columns, rows = grid
    tile = _best_size(
        _round_to_multiple(width, columns) / columns,
        _round_to_multiple(height, rows) / rows,
        scale_resolution,
        patch_size,
        enlarge=True,
    )
    return SlicePlan(grid, overview, (tile[0] * columns, tile[1] * rows))


def slice_image(
    image: Image.Image,
    max_slice_nums: int,
    scale_resolution: int = 448,
    patch_size: int = 14,
    slice_mode: bool = True,
) -> list[Image.Image]:
    """Cut a picture into the slices the vision tower sees: the overview, then the tiles row by row, all RGB.

    Bit-exact with the reference: Pillow's bicubic on 8-bit RGB, tiles cut from the picture resized once. Arguments and
    errors are those of `plan_slices`.
    """
    image = open_image(image, max_pixels=image.width * image.height)  # whoever opened it has set the limit
    plan = plan_slices(image.size, max_slice_nums, scale_resolution, patch_size, slice_mode)
    slices = [_resize(image, plan.overview)]
    if plan.grid is None or plan.refined is None:
        return slices
    refined = _resize(image, plan.refined)
    width, height = plan.sizes[1]
    for top in range(0, refined.height, height):
        for left in range(0, refined.width, width):
            slices.append(refined.crop((left, top, left + width, top + height)))
    return slices


def patchify(slices: Sequence[Image.Image | Array], patch_size: int) -> tuple[Tensor, Tensor]:
    """Cut slices into patches for the vision tower.

    slices: RGB images or uint8 arrays [h, w, 3] whose sides are multiples of `patch_size`.
    Returns patches uint8 [P, 3, p, p], slice after slice and row-major within a slice, and tgt_sizes int64 [N, 2], the
    (rows, columns) of patches of each slice. Raises MediaError for a side that is no multiple of `patch_size`.
    """
    import torch

    arrays = [np.asarray(one) for one in slices]
    sizes: list[tuple[int, int]] = []
    for array in arrays:
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise MediaError(f"a slice is {array.dtype} of shape {array.shape}; it must be uint8 [h, w, 3]")
        height, width, _ = array.shape
        if height % patch_size or width % patch_size or not height or not width:
            raise MediaError(f"a slice is {width} x {height} pixels; both sides must be multiples of {patch_size}")
        sizes.append((height // patch_size, width // patch_size))
    patches = np.empty((sum(rows * cols for rows, cols in sizes), 3, patch_size, patch_size), dtype=np.uint8)
    start = 0
    for array, (rows, cols) in zip(arrays, sizes, strict=True):
        blocks = array.reshape(rows, patch_size, cols, patch_size, 3).transpose(0, 2, 4, 1, 3)
        out = patches[start : start + rows * cols].reshape(rows, cols, 3, patch_size, patch_size)
        out[...] = blocks  # [rows, cols, C, p, p]
        start += rows * cols
    return torch.from_numpy(patches), torch.tensor(sizes, dtype=torch.int64).reshape(len(sizes), 2)


def check_max_slice_nums(value: object) -> int:
    """Return `max_slice_nums` as an int; raise MessageError unless it is an integer >= 1."""
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = 0
    if number < 1:
        raise MessageError(f"max_slice_nums is {value!r}; it must be an integer >= 1 (1 keeps only the overview)")
    return number


def _round_to_multiple(length: float, unit: int) -> int:
    return max(round(length / unit) * unit, unit)  # Python's round: half to even


def _best_size(width: float, height: float, scale_resolution: int, patch_size: int, enlarge: bool) -> Size:
    """Scale a size to about `scale_resolution` squared pixels, unless it is smaller and need not be enlarged."""
    if enlarge or width * height > scale_resolution * scale_resolution:
        ratio = width / height
        height = int(scale_resolution / math.sqrt(ratio))
        width = int(height * ratio)  # from the truncated height, as released
    return _round_to_multiple(width, patch_size), _round_to_multiple(height, patch_size)


def _choose_grid(width: int, height: int, max_slice_nums: int, scale_resolution: int) -> Size | None:
    """Pick (columns, rows) nearest in aspect ratio among grids of about as many tiles as the area asks for."""
    wanted = min(math.ceil(width * height / (scale_resolution * scale_resolution)), max_slice_nums)
    if wanted <= 1:
        return None
    log_ratio = math.log(width / height)
    best, best_error = (1, 1), math.inf
    for num_tiles in (wanted - 1, wanted, wanted + 1):
        if num_tiles == 1 or num_tiles > max_slice_nums:
            continue
        for columns in range(1, num_tiles + 1):
            if num_tiles % columns == 0:
                rows = num_tiles // columns
                error = abs(log_ratio - math.log(columns / rows))
                if error < best_error:
                    best, best_error = (columns, rows), error
    return best


def _resize(image: Image.Image, size: Size) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def _read_header(file: BinaryIO, source: object, max_pixels: int) -> tuple[Image.Image, int]:
    """Read size, mode and EXIF orientation (1 when there is nothing left to turn); decode no pixels."""
    what = describe(source)
    found = sniff_file(file, source)
    if found.kind != "image":
        raise MediaError(f"{what} is a {found.kind} ({found.name}), not an image; send it as a {found.kind}")
    if found.name in _READERS:
        module, reader = _READERS[found.name]
        image: Image.Image = getattr(importlib.import_module(f"PIL.{module}"), reader)(file)
    elif found.name in Image.OPEN:  # HEIF, once the user has registered pillow-heif
        image = Image.OPEN[found.name][0](file, "")
    else:
        raise MediaError(
            f"{what} is a HEIC/HEIF image, which Pillow cannot read alone; convert it to JPEG, or install pillow-heif "
            "and call pillow_heif.register_heif_opener()"
        )
    _check_size(image.size, max_pixels, what)
    return image, 1 if found.name == "TIFF" else _orientation(image, what)  # Pillow turns TIFF itself


def _orientation(image: Image.Image, what: str) -> int:
    try:
        # The base class's method, because PNG's own decodes the whole picture to look for late chunks.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception as error:  # struct.error, KeyError, SyntaxError and more on broken metadata
        logging.getLogger("cpmv").warning("%s has unreadable EXIF data (%s); not rotated", what, one_line(error))
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def _from_array(array: Array, max_pixels: int) -> Image.Image:
    shape = array.shape
    if array.ndim == 3 and shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (3, 4)):
        raise MediaError(f"the array has shape {shape}; an image is [h, w], [h, w, 1], [h, w, 3] or [h, w, 4]")
    _check_size((shape[1], shape[0]), max_pixels, describe(array))
    if array.dtype == np.uint16:
        array = _narrow(array)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    elif np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):  # also catches NaN
            raise MediaError(f"the array holds floats from {low:g} to {high:g}; floats must lie in 0..1")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise MediaError(f"the array is {array.dtype}; an image is uint8, uint16, bool, or float in 0..1")
    return Image.fromarray(np.ascontiguousarray(array))


def _wide_to_rgb(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "F":
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
        if 0 < float(values.max()) <= 1:
            values = np.rint(values * 255)
    grey = _narrow(values)
    transparent = image.info.get("transparency")  # the one value that means "transparent" in a 16-bit PNG
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _narrow(values: Array) -> Array:
    """Scale values of a 16-bit or wider image to uint8. Values that all fit 8 bits are 8-bit already."""
    top = float(values.max())
    if top <= 255:
        return np.clip(values, 0, 255).astype(np.uint8)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        levels = (np.arange(65536, dtype=np.uint32) * 255 + 32767) // 65535
        return levels.astype(np.uint8)[values]
    return np.rint(np.clip(values, 0, None) * (255.0 / max(top, 65535.0))).astype(np.uint8)


def _check_size(size: Size, max_pixels: int, what: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise MediaError(f"{what} is {width} x {height} pixels; it must be at least 1 x 1")
    if width * height > max_pixels:
        raise MediaError(
            f"{what} has {width} x {height} = {width * height} pixels; at most {max_pixels} are decoded; "
            "shrink it, or raise max_pixels"
        )


def _check_source_type(source: object) -> None:
    if not isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview)):
        raise MediaError(
            f"an image cannot be made of a {type(source).__name__}; give a path, bytes, a data URI, a PIL image or a "
            "numpy array"
        )
