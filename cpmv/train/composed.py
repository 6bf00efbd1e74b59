"""Composed samples in training: documents made and tokenised by worker processes, drawn and sliced on the device.

A step has room for so many single pictures, sliced pages, packages of frames and conversations of text alone (`Room`);
worker processes fill it with documents and lay all their tokens in one row (`composed_steps`), as the real processor
writes them. On the device the sheets are drawn, corrupted where that is the task, and cut as the preprocessing cuts
pictures (`Composer`). Everything has a fixed shape for each combination of grids, so a step can be a CUDA graph.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import CpmvError
from ..inputs.image import plan_slices
from ..model.config import ModelConfig
from .config import Combination, ComposedConfig, Shape
from .corrupt_pixels import CorruptionArrays, corrupt
from .draw.atlas import Atlas
from .draw.chance import Chance
from .draw.display import Capacity, Display, Look, SheetBatch, SheetPacker
from .draw.glyphs import DeviceAtlas
from .joint_model import IGNORE, JointBatch, Pass
from .metrics import forward_flops

if TYPE_CHECKING:
    pass

log = logging.getLogger("cpmv")

PACKAGE = 6  # frames of a package at most
LONGEST = 768  # tokens of a document at most


@dataclass(frozen=True)
class PagePlan:
    """How a page of `source` px is cut: its drawn size, the overview's and a slice's patch grids, columns and rows."""

    source: tuple[int, int]
    refined: tuple[int, int]
    overview: Shape
    slice: Shape
    grid: tuple[int, int]

    @classmethod
    def of(cls, source: tuple[int, int], config: ModelConfig) -> PagePlan:
        image = config.image
        patch = image.patch_size
        plan = plan_slices(source, image.max_slice_nums, image.scale_resolution, patch, image.slice_mode)
        if plan.grid is None or plan.refined is None:
            raise CpmvError(f"a page of {source[0]} x {source[1]} px is not sliced; give a larger one")
        columns, rows = plan.grid
        width, height = plan.refined
        return cls(
            source,
            plan.refined,
            (plan.overview[1] // patch, plan.overview[0] // patch),
            (height // rows // patch, width // columns // patch),
            plan.grid,
        )

    @property
    def num_slices(self) -> int:
        return self.grid[0] * self.grid[1]


@dataclass
class Fields:
    """One step's composed samples as tensors, before drawing.

    ids, targets, positions: int64 [L]; offsets: int32 [D + 1]; rows: int64 [V], places of the visual tokens: singles,
    overviews, slices, packages. temporal int64 and present bool [packages, 6]. sheets: of singles, pages and frames,
    where there is room for any. corruption: of the first singles and pages.
    """

    ids: Tensor
    targets: Tensor
    positions: Tensor
    offsets: Tensor
    rows: Tensor
    temporal: Tensor
    present: Tensor
    sheets: dict[str, SheetBatch]
    corruption: dict[str, CorruptionArrays]

    def tensors(self) -> list[Tensor]:
        """Every tensor, in a fixed order."""
        own = [self.ids, self.targets, self.positions, self.offsets, self.rows, self.temporal, self.present]
        for name in sorted(self.sheets):
            own += self.sheets[name].tensors()
        for name in sorted(self.corruption):
            own += self.corruption[name].tensors()
        return own

    def over(self, flat: Tensor) -> Fields:
        """The same fields as views of a flat buffer, as `flatten` writes it."""
        views = iter(_views(flat, self.tensors()))
        names = ("ids", "targets", "positions", "offsets", "rows", "temporal", "present")
        own = {name: next(views) for name in names}
        sheets = {name: SheetBatch(*(next(views) for _ in b.tensors())) for name, b in sorted(self.sheets.items())}
        corruption = {
            name: CorruptionArrays(*(next(views) for _ in c.tensors())) for name, c in sorted(self.corruption.items())
        }
        return Fields(**own, sheets=sheets, corruption=corruption)


@dataclass
class HostBatch:
    """`Fields` as one flat buffer, uint8, so that it crosses processes and to the device in one piece.

    tasks, ends: of each document, its task and where its tokens end (for evaluation and counting).
    """

    flat: Tensor
    tasks: list[str]
    ends: list[int]


_ALIGN = 16  # bytes


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """Lay tensors one behind the other as bytes, each on a 16-byte boundary."""
    parts: list[Tensor] = []
    for tensor in tensors:
        if not tensor.numel():  # has no bytes to view
            continue
        raw = tensor.contiguous().view(-1).view(torch.uint8)
        parts += [raw, raw.new_zeros(-raw.numel() % _ALIGN)]
    return torch.cat(parts)


def _views(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    out, start = [], 0
    for tensor in like:
        size = tensor.numel() * tensor.element_size()
        part = flat[start : start + size].view(tensor.dtype) if size else flat.new_zeros(0, dtype=tensor.dtype)
        out.append(part.view(tensor.shape))
        start += size + -size % _ALIGN
    return out


class Room:
    """What one step on one combination of grids can hold; shapes and capacities follow from it alone."""

    def __init__(self, combination: Combination, composed: ComposedConfig, config: ModelConfig) -> None:
        if combination.single is None or combination.page is None or combination.frame is None:
            raise CpmvError("this combination of grids has no room for composed samples; give single, page and frame")
        self.single, self.frame = combination.single, combination.frame
        self.page = PagePlan.of(combination.page, config)
        self.composed = composed
        self.query_num = config.resampler.query_num
        singles, pages, packages = composed.singles, composed.pages, composed.packages
        self.capacities = {
            "singles": Capacity.of(singles, *composed.single_glyphs, 48),
            "pages": Capacity.of(pages, *composed.page_glyphs, 60),
            "frames": Capacity.of(packages * PACKAGE, *composed.frame_glyphs, 16),
        }
        self.num_visual = (singles + pages * (1 + self.page.num_slices) + packages) * self.query_num
        self.num_documents = singles + pages + packages + composed.texts
        self.num_segments = self.num_documents + -(-composed.tokens // LONGEST) + 1

    @property
    def num_patches(self) -> list[tuple[int, int]]:
        """[(pictures, patches of each)] of one step."""
        composed, page = self.composed, self.page
        return [
            (composed.singles, math.prod(self.single)),
            (composed.pages, math.prod(page.overview)),
            (composed.pages * page.num_slices, math.prod(page.slice)),
            (composed.packages * PACKAGE, math.prod(self.frame)),
        ]


def blank_fields(room: Room, atlas: Atlas) -> Fields:
    """Fields of the right shapes with nothing in them."""
    composed = room.composed
    corrupted = {"singles": composed.corrupted_singles, "pages": composed.corrupted_pages}
    return Fields(
        ids=torch.zeros(composed.tokens, dtype=torch.int64),
        targets=torch.full((composed.tokens,), IGNORE),
        positions=torch.zeros(composed.tokens, dtype=torch.int64),
        offsets=torch.zeros(room.num_segments + 1, dtype=torch.int32),
        rows=torch.full((room.num_visual,), composed.tokens - 1),
        temporal=torch.full((composed.packages, PACKAGE), -1),
        present=torch.zeros(composed.packages, PACKAGE, dtype=torch.bool),
        sheets={n: SheetPacker(atlas, c).batch() for n, c in room.capacities.items() if c.sheets},
        corruption={name: CorruptionArrays.empty(count) for name, count in corrupted.items() if count},
    )


class _Staging:
    """Two pinned buffers in turn, made before any capture: pinning memory on another thread would break one."""

    def __init__(self, like: Tensor) -> None:
        self._buffers = [torch.empty_like(like).pin_memory() for _ in range(2)]
        self._copied = [torch.cuda.Event() for _ in self._buffers]
        self._turn = 0

    def send(self, source: Tensor, target: Tensor) -> None:
        self._turn = 1 - self._turn
        self._copied[self._turn].synchronize()  # the buffer's last content has left
        self._buffers[self._turn].copy_(source)
        target.copy_(self._buffers[self._turn], non_blocking=True)
        self._copied[self._turn].record()


class Composer:
    """The device's side: takes host batches in order, draws them, and gives the objective its `JointBatch`."""

    def __init__(
        self,
        rooms: Sequence[Room],
        atlas: Atlas,
        config: ModelConfig,
        device: torch.device,
        *,
        look: Look | None = None,
        compiled: bool = False,
    ) -> None:
        self.rooms, self.config, self.device, self.atlas = list(rooms), config, device, atlas
        self._flat: dict[int, Tensor] = {}
        self._fields: dict[int, Fields] = {}
        self._staging: dict[int, _Staging | None] = {}
        self.dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        patch = config.image.patch_size
        look = look or Look()
        glyphs = DeviceAtlas(atlas, device)
        self._displays: list[dict[str, Display]] = []
        for room in self.rooms:
            sizes = {
                "singles": (room.single[0] * patch, room.single[1] * patch),
                "pages": (room.page.refined[1], room.page.refined[0]),
                "frames": (room.frame[0] * patch, room.frame[1] * patch),
            }
            looks = {"singles": look, "pages": Look(blur=0.25, grain=look.grain, texture=look.texture, turned=0.0)}
            looks["frames"] = Look(blur=0.3, grain=look.grain, texture=look.texture, turned=0.0, coarse=0.5)
            self._displays.append(
                {
                    name: Display(glyphs, room.capacities[name], *size, looks[name], compiled=compiled)
                    for name, size in sizes.items()
                }
            )

    def feed(self, key: int, batch: HostBatch) -> None:
        """Put a host batch where `load` reads it. On a GPU the copy runs in order with the steps, off the host."""
        if key not in self._flat:
            self._flat[key] = torch.empty_like(batch.flat, device=self.device)
            self._fields[key] = blank_fields(self.rooms[key], self.atlas).over(self._flat[key])
            self._staging[key] = _Staging(batch.flat) if self.device.type == "cuda" else None
        staging = self._staging[key]
        if staging is None:
            self._flat[key].copy_(batch.flat)
        else:
            staging.send(batch.flat, self._flat[key])

    def load(self, key: int, objective: Any, generator: torch.Generator | None) -> JointBatch:
        """Draw the batch of a key. objective: for position ids and spatial tables."""
        passes = self.draw(key, objective, generator)
        objective.branches.join()
        return self.batch(key, passes)

    def draw(self, key: int, objective: Any, generator: torch.Generator | None) -> list[Pass]:
        """Draw the pictures of a key, in branches of `objective.branches` that the caller joins."""
        host, room, displays = self._fields[key], self.rooms[key], self._displays[key]
        sheets, corruption = host.sheets, host.corruption
        chance = Chance(self.device, generator)
        passes: list[Pass] = []
        if "singles" in sheets:
            with objective.branches.branch():
                damage = partial(_corrupted, arrays=corruption.get("singles"), chance=chance)
                pictures = displays["singles"].draw(sheets["singles"], chance, damage=damage)
                pixels = displays["singles"].finish(pictures, chance, self.dtype)
                passes.append(objective.picture_pass(room.single, pixels[:, None], generator))
        if "pages" in sheets:
            with objective.branches.branch():
                passes += self._pages(host, room, displays["pages"], chance, objective, generator)
        if "frames" in sheets:
            with objective.branches.branch():
                pictures = displays["frames"].draw(sheets["frames"], chance, frames_of=PACKAGE)
                pixels = displays["frames"].finish(pictures, chance, self.dtype).unflatten(0, (-1, PACKAGE))
                temporal = host.temporal.clone()
                passes.append(objective.picture_pass(room.frame, pixels, generator, temporal, host.present))
        return passes

    def batch(self, key: int, passes: list[Pass]) -> JointBatch:
        """The batch of drawn passes. Nothing in it shares memory with what `feed` overwrites."""
        host = self._fields[key]
        empty = host.ids.new_zeros(0)
        return JointBatch(
            passes=passes,
            input_ids=host.ids.clone()[None],
            targets=host.targets.clone()[None],
            rows=host.rows.clone(),
            dense=empty,
            regions=empty,
            points=empty,
            positions=host.positions.clone()[None],
            offsets=host.offsets.clone(),
            longest=LONGEST,
        )

    def _pages(
        self,
        host: Fields,
        room: Room,
        display: Display,
        chance: Chance,
        objective: Any,
        generator: torch.Generator | None,
    ) -> list[Pass]:
        """Draw pages, then make the overview and the slices as the preprocessing does."""
        damage = partial(_corrupted, arrays=host.corruption.get("pages"), chance=chance)
        pictures = display.draw(host.sheets["pages"], chance, damage=damage)
        whole = display.finish(pictures, chance, torch.float32)
        rows, columns = room.page.overview
        patch = self.config.image.patch_size
        size = (rows * patch, columns * patch)
        small = F.interpolate(whole, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
        across, down = room.page.grid
        tiles = whole.unflatten(2, (down, -1)).unflatten(4, (across, -1))  # [N, 3, down, h, across, w]
        tiles = tiles.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
        return [
            objective.picture_pass(room.page.overview, small.to(self.dtype)[:, None], generator),
            objective.picture_pass(room.page.slice, tiles.to(self.dtype)[:, None], generator),
        ]

    def flops(self, key: int, num_classes: int) -> float:
        """Operations of one step's composed part, counted."""
        room = self.rooms[key]
        cost = forward_flops(self.config, LONGEST // 4, num_classes)
        total = room.composed.tokens * cost["token"]
        for count, patches in room.num_patches:
            total += count * patches * (cost["patch"] + patches * cost["patch_pair"])
        return 3.0 * total


def _corrupted(pictures: Tensor, arrays: CorruptionArrays | None, chance: Chance) -> Tensor:
    """Corrupt the first pictures, as many as `arrays` describes."""
    if arrays is None:
        return pictures
    count = arrays.level.shape[0]
    return torch.cat((corrupt(pictures[:count], arrays, chance), pictures[count:]))
