"""Pictures of a conversation: first how much text each becomes, then their patches.

`Visuals.add` takes the media parts in the order of the conversation and plans placeholders from sizes alone, so that
a prompt too long is refused before a pixel is decoded. `Visuals.load` then opens one picture or frame at a time, cuts
it and keeps only its patches. A bundle is the pictures of one entry of `temporal_ids`: one picture, or up to six video
frames that share the resampler groups they become, one group for each slice.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import operator
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import ContextLengthError, MediaError, MessageError
from ..model.config import ImageConfig
from .image import check_max_slice_nums, image_size, open_image, patchify, plan_slices, slice_image
from .messages import Image, Pdf, Video
from .pdf import DEFAULT_DPI, iter_pages
from .video import sample_video

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

DEFAULT_FPS = 3.0  # the guide's choose_fps
MAX_TEMPORAL_ID = 48 * 3600 * 10  # 48 hours in units of 0.1 s
BLOCK_BYTES = 64 << 20  # patches are gathered in blocks of this size


@dataclass(frozen=True)
class Block:
    """What one picture writes into the prompt: an overview and a grid (columns, rows) of tiles, or nothing at all."""

    grid: tuple[int, int] | None = None
    image_id: int | None = None
    is_absorbed: bool = False  # a later frame of a group

    @property
    def num_groups(self) -> int:
        columns, rows = self.grid or (0, 0)
        return 0 if self.is_absorbed else 1 + columns * rows


@dataclass(frozen=True)
class Group:
    """What the resampler takes together: patches uint8 [P, 3, p, p] of slices of `sizes` [n, 2], a time for each."""

    patches: Tensor
    sizes: Tensor
    temporal_ids: list[int]
    digest: str


@dataclass
class Bundle:
    """Pictures shown together. `frames` opens and slices each of them, when its turn comes; or `groups` yields what
    was made of them ahead of time."""

    temporal_ids: list[int]
    num_slices: int
    frames: list[Callable[[], list[Picture]]] = field(default_factory=list)
    groups: Generator[Group, None, None] | None = None


@dataclass(frozen=True)
class Loaded:
    """Patches and groups as `ModelInputs` holds them."""

    patches: Tensor
    tgt_sizes: Tensor
    temporal_ids: list[list[int]]
    media_hashes: list[str]


class Visuals:
    """The pictures of one conversation.

    temporal_ids: the caller's groups, or None when every image stands alone. limit: most tokens and whose limit that
    is, to give up while pages of a document are still being rendered. fps, packing: for videos that do not say.
    `blocks` are in text order.
    """

    def __init__(
        self,
        config: ImageConfig,
        *,
        max_slice_nums: int | None = None,
        use_image_id: bool | None = None,
        temporal_ids: list[list[int]] | None = None,
        limit: tuple[int, str],
        fps: float | None = None,
        packing: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._config = config
        self._max_slice_nums = check_max_slice_nums(config.max_slice_nums if max_slice_nums is None else max_slice_nums)
        self._use_image_id = config.use_image_id if use_image_id is None else bool(use_image_id)
        self._groups: Iterator[list[int]] | None = None if temporal_ids is None else iter(temporal_ids)
        self._limit = limit
        self._fps, self._packing, self._progress = fps, packing, progress
        self._num_images = 0
        self._num_tokens = 0
        self._num_patches = 0  # as planned from sizes
        self.blocks: list[Block] = []
        self.bundles: list[Bundle] = []

    def add(self, part: Image | Video | Pdf) -> list[int]:
        """Plan one part; return the numbers of its blocks."""
        first = len(self.blocks)
        if isinstance(part, Image):
            self._add_image(part)
        elif isinstance(part, Pdf):
            self._add_pages(part)
        else:
            self._add_video(part)
        return list(range(first, len(self.blocks)))

    def _add_image(self, part: Image) -> None:
        chosen = self._max_slice_nums if part.max_slice_nums is None else check_max_slice_nums(part.max_slice_nums)
        self._plan(image_size(part.source), chosen, lambda: self._cut(open_image(part.source), chosen))

    def _add_pages(self, part: Pdf) -> None:
        for page in iter_pages(part.source, part.pages, DEFAULT_DPI if part.dpi is None else part.dpi):
            slices = self._cut(page, self._max_slice_nums)
            self._plan(page.size, self._max_slice_nums, lambda slices=slices: slices)  # type: ignore[misc]
            if self._num_tokens > self._limit[0]:
                raise ContextLengthError(self._num_tokens, *self._limit)

    def _plan(self, size: tuple[int, int], max_slice_nums: int, load: Callable[[], list[Picture]]) -> None:
        """Give a picture its place: a block of its own, or a share of the group that is being filled."""
        config = self._config
        plan = plan_slices(size, max_slice_nums, config.scale_resolution, config.patch_size, config.slice_mode)
        num_slices = len(plan.sizes)
        self._num_patches += _count_patches(plan.sizes, config.patch_size)
        bundle = self.bundles[-1] if self.bundles else None
        if bundle is None or bundle.groups is not None or len(bundle.frames) == len(bundle.temporal_ids):
            bundle = Bundle([-1] if self._groups is None else next(self._groups), num_slices)
            self.bundles.append(bundle)
            self._append(Block(plan.grid, self._num_images if self._use_image_id else None))
        elif num_slices != bundle.num_slices:
            raise MessageError(
                f"image {self._num_images} of {size[0]} x {size[1]} becomes {num_slices} slices but the first of its "
                f"temporal group has {bundle.num_slices}; group frames of one size, or set max_slice_nums=1"
            )
        else:
            self._append(Block(is_absorbed=True))
        bundle.frames.append(load)
        self._num_images += 1

    def _add_video(self, part: Video) -> None:
        """Frames are never sliced and carry no image ids; each group is a block, its frames decoded later."""
        fps = next((value for value in (part.fps, self._fps) if value is not None), DEFAULT_FPS)
        packing = self._packing if part.packing is None else part.packing
        if isinstance(fps, bool) or not isinstance(fps, Real) or not 0 < fps < math.inf:
            raise MessageError(f"fps is {fps!r}; give the frames to choose each second, a number above 0")
        if packing is not None and (isinstance(packing, bool) or not isinstance(packing, Integral)):
            raise MessageError(f"packing is {packing!r}; give the frames of a group as an integer, or None")
        sampled = sample_video(part.source, choose_fps=fps, force_packing=packing, progress=self._progress)
        config = self._config
        plan = plan_slices(sampled.size, 1, config.scale_resolution, config.patch_size, config.slice_mode)
        self._num_patches += len(sampled) * _count_patches(plan.sizes, config.patch_size)
        made = sampled.map_groups(self._group)
        for ids in sampled.temporal_ids:
            self._append(Block())
            self.bundles.append(Bundle([int(i) for i in ids], 1, groups=made))

    def _append(self, block: Block) -> None:
        self.blocks.append(block)
        self._num_tokens += block.num_groups * (self._config.image_feature_size + 2)

    def _cut(self, picture: Picture, max_slice_nums: int) -> list[Picture]:
        config = self._config
        return slice_image(picture, max_slice_nums, config.scale_resolution, config.patch_size, config.slice_mode)

    def _group(self, frames: Iterable[Picture], temporal_ids: Sequence[int]) -> Group:
        """Make a group of video frames; called in threads."""
        return _as_group([self._cut(frame, 1)[0] for frame in frames], temporal_ids, self._config.patch_size)

    def _groups_of(self, bundle: Bundle) -> Iterator[Group]:
        if bundle.groups is not None:
            yield next(bundle.groups)
            return
        frames = [load() for load in bundle.frames]
        bundle.frames.clear()
        if any(len(slices) != bundle.num_slices for slices in frames):
            raise MediaError("an image changed between reading its size and reading its pixels; send it again")
        for same_slice in zip(*frames, strict=True):
            yield _as_group(same_slice, bundle.temporal_ids, self._config.patch_size)

    def load(self, on_group: Callable[[Group], None] | None = None) -> Loaded:
        """Open every picture and return all patches. Frees what it has used; call it once.

        on_group: called with each group when its pixels are there, while later frames are still being decoded, so that
        they can be encoded meanwhile.
        """
        gathered = PatchBuffer(self._config.patch_size, self._num_patches)
        tgt_sizes: list[Tensor] = []
        temporal_ids: list[list[int]] = []
        hashes: list[str] = []
        try:
            for group in itertools.chain.from_iterable(map(self._groups_of, self.bundles)):
                gathered.append(group.patches)
                tgt_sizes.append(group.sizes)
                temporal_ids.append(group.temporal_ids)
                hashes.append(group.digest)
                if on_group is not None:
                    on_group(group)
        finally:
            for bundle in self.bundles:
                if bundle.groups is not None:
                    bundle.groups.close()  # threads of a clip that was not taken to its end
        sizes = torch.cat(tgt_sizes) if tgt_sizes else torch.empty(0, 2, dtype=torch.int64)
        return Loaded(gathered.finish(), sizes, temporal_ids, hashes)


def _count_patches(sizes: Sequence[tuple[int, int]], patch_size: int) -> int:
    return sum((width // patch_size) * (height // patch_size) for width, height in sizes)


class PatchBuffer:
    """Gather patches without ever holding them twice, so that a long video needs little more than its own patches.

    expected: how many will come; when it is right, they are copied once.
    """

    def __init__(self, patch_size: int, expected: int = 0) -> None:
        self._shape = (3, patch_size, patch_size)
        self._rows = max(1, BLOCK_BYTES // (3 * patch_size * patch_size))
        self._blocks = [torch.empty(expected, *self._shape, dtype=torch.uint8)] if expected else []
        self._used = 0  # rows of the last block that are taken

    def append(self, patches: Tensor) -> None:
        """Copy patches uint8 [P, 3, p, p]."""
        while len(patches):
            if not self._blocks or self._used == len(self._blocks[-1]):
                self._blocks.append(torch.empty(self._rows, *self._shape, dtype=torch.uint8))
                self._used = 0
            taken = min(len(patches), len(self._blocks[-1]) - self._used)
            self._blocks[-1][self._used : self._used + taken] = patches[:taken]
            self._used += taken
            patches = patches[taken:]

    def finish(self) -> Tensor:
        """Return everything as one tensor, giving back each block as soon as it is copied."""
        if len(self._blocks) == 1 and self._used == len(self._blocks[0]):
            return self._blocks.pop()
        total = sum(map(len, self._blocks[:-1])) + self._used
        out = torch.empty(total, *self._shape, dtype=torch.uint8)
        self._blocks.reverse()
        start = 0
        while self._blocks:
            block = self._blocks.pop()[: total - start]
            out[start : start + len(block)] = block
            start += len(block)
        return out


def read_temporal_ids(value: Any, num_images: int) -> list[list[int]]:
    """Check the caller's groups against the number of images and return them as lists of ints.

    value: one list of ids (or array) for each group, or a list holding one such list of groups. Raises MessageError.
    """
    groups = [_as_list(group) for group in _as_list(value)]
    if groups and all(_is_nested(group) for group in groups):
        if len(groups) != 1:
            raise MessageError(f"temporal_ids has groups for {len(groups)} conversations; this is one conversation")
        groups = [_as_list(group) for group in groups[0]]
    ids = [[_temporal_id(i) for i in group] for group in groups]
    if any(not group for group in ids):
        raise MessageError("temporal_ids has an empty group; every group names at least one frame")
    total = sum(map(len, ids))
    if total != num_images:
        raise MessageError(f"temporal_ids has {total} ids but the conversation has {num_images} images; give each one")
    return ids


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise MessageError(f"temporal_ids holds {value!r} where a list is expected; give groups such as [[0, 3], [6]]")
    try:
        return list(value)
    except TypeError:  # an array without dimensions
        raise MessageError("temporal_ids holds a bare number; give groups such as [[0, 3], [6]]") from None


def _is_nested(group: list[Any]) -> bool:
    return bool(group) and all(isinstance(x, Iterable) and getattr(x, "ndim", 1) > 0 for x in group)


def _temporal_id(value: Any) -> int:
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not -1 <= number <= MAX_TEMPORAL_ID:
        shown = " ".join(repr(value).split())[:60]
        raise MessageError(
            f"temporal_ids holds {shown}; an id is an integer from 0 to {MAX_TEMPORAL_ID} in 0.1 s, or -1 for no time"
        )
    return number


def _as_group(slices: Sequence[Picture], temporal_ids: Sequence[int], patch_size: int) -> Group:
    patches, sizes = patchify(slices, patch_size)
    ids = [int(i) for i in temporal_ids]
    return Group(patches, sizes, ids, _digest(patches, sizes, ids))


def _digest(patches: Tensor, sizes: Tensor, temporal_ids: list[int]) -> str:
    digest = hashlib.sha256(repr((tuple(patches.shape), sizes.tolist(), temporal_ids)).encode())
    digest.update(patches.contiguous().numpy().data)
    return digest.hexdigest()
