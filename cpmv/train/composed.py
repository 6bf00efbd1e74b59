"""Composed samples in training: documents made and tokenised by worker processes, drawn and sliced on the device.

A step has room for so many single pictures, sliced pages, packages of frames and conversations of text alone; worker
processes fill it with documents and lay all their tokens in one row (`ComposedSteps`), as the real processor writes
them. On the device the sheets are drawn, corrupted where that is the task, and cut as the preprocessing cuts pictures
(`Composer`). Everything has a fixed shape for each combination of grids, so a step can be a CUDA graph.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import CpmvError
from ..inputs.image import plan_slices
from ..inputs.processor import Processor
from ..inputs.text import Tokenizer
from ..model.config import ModelConfig
from .config import Combination, ComposedConfig, Shape
from .corrupt_pixels import CorruptionArrays, corrupt
from .draw.atlas import Atlas
from .draw.chance import Chance
from .draw.display import Capacity, CapacityError, Display, Look, SheetBatch, SheetPacker
from .draw.document import WEDGE, Document, Mark, Region, Run, Sheet
from .draw.glyphs import DeviceAtlas
from .joint_model import IGNORE, JointBatch, Pass
from .metrics import forward_flops

if TYPE_CHECKING:
    import PIL.Image

log = logging.getLogger("cpmv")

CORRUPTED = "corrupted"  # the kind whose documents carry a plan of corruption
PACKAGE = 6  # frames of a package at most
LONGEST = 768  # tokens of a document at most
_TRIES = 12  # documents made for one place before it stays empty
_FRAME_SCALE = 2.0  # frames are laid out at half their size
_PAGE_SCALES = (1.0, 1.5, 2.0)  # how much larger than laid out a small kind may be on a page


class Makes(Protocol):
    """What makes documents: `cpmv.train.draw.documents.Maker`, or a stand-in for tests."""

    def make(self, kind: str, rng: np.random.Generator, width: int, height: int) -> Document: ...


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
        area = self.page.refined[0] * self.page.refined[1] / (448 * 448)
        self.capacities = {
            "singles": Capacity.of(singles, 70, 30, 9, 48),
            "pages": Capacity.of(pages, int(200 * max(1.0, area)), 64, 14, 60),
            "frames": Capacity.of(packages * PACKAGE, 12, 12, 8, 16),
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


class _Filler:
    """Fills the room of one step with documents."""

    def __init__(self, steps: ComposedSteps | None, room: Room, rng: np.random.Generator, atlas: Atlas) -> None:
        self._steps, self.room, self.rng = steps, room, rng
        composed = room.composed
        self.packers = {name: SheetPacker(atlas, capacity) for name, capacity in room.capacities.items()}
        corrupted = {"singles": composed.corrupted_singles, "pages": composed.corrupted_pages}
        self.corruption = {name: CorruptionArrays.empty(count) for name, count in corrupted.items() if count}
        self.rows = np.full(room.num_visual, composed.tokens - 1, np.int64)  # the last place is nobody's
        self.temporal = np.full((composed.packages, PACKAGE), -1, np.int64)
        self.present = np.zeros((composed.packages, PACKAGE), bool)
        self.present[:, 0] = True
        self.ids: list[int] = []
        self.labels: list[int] = []
        self.ends: list[int] = []
        self.tasks: list[str] = []
        self.num_packages = 0

    @property
    def steps(self) -> ComposedSteps:
        assert self._steps is not None
        return self._steps

    def fill(self) -> HostBatch:
        composed = self.room.composed
        page, patch = self.room.page, self.steps.patch
        single = (self.room.single[1] * patch, self.room.single[0] * patch)
        # Corrupted sheets come first, so that the others need not be looked at.
        while self.packers["pages"].num_sheets < composed.corrupted_pages and self._place(
            "pages", {CORRUPTED: 1.0}, *page.refined
        ):
            pass
        for _ in range(self.packers["pages"].room):
            self._place("pages", composed.page_kinds, *page.refined)
        while self.packers["singles"].num_sheets < composed.corrupted_singles and self._place(
            "singles", {CORRUPTED: 1.0}, *single
        ):
            pass
        while self.packers["singles"].room and self._place("singles", composed.single_kinds, *single):
            pass
        while self.num_packages < composed.packages and self._place(
            "frames", composed.clip_kinds, self.room.frame[1] * patch, self.room.frame[0] * patch
        ):
            pass
        for _ in range(composed.texts):
            self._place("texts", composed.text_kinds, 224, 224)
        return HostBatch(flatten(self.fields().tensors()), self.tasks, self.ends)

    def _place(self, where: str, kinds: dict[str, float], width: int, height: int) -> bool:
        """Make documents until one fits. Return whether one did."""
        names = list(kinds)
        weights = np.array(list(kinds.values()))
        for _ in range(_TRIES):
            kind = names[self.rng.choice(len(names), p=weights / weights.sum())]
            scale = 1.0
            if where == "frames":
                scale = _FRAME_SCALE
            elif where == "pages" and kind not in self.room.composed.whole_page_kinds:
                scale = float(self.rng.choice(_PAGE_SCALES))
            try:
                document = self.steps.maker.make(kind, self.rng, int(width / scale), int(height / scale))
                self._add(where, document, [enlarged(sheet, scale, width, height) for sheet in document.sheets])
            except ValueError:  # too large for what is left, or nothing of this kind fits the size
                continue
            return True
        return False

    def _add(self, where: str, document: Document, sheets: list[Sheet]) -> None:
        ids, labels, bounds = self.steps.encode(document, self.room, where)
        if len(ids) > LONGEST or len(self.ids) + len(ids) >= self.room.composed.tokens:
            raise CapacityError(f"{len(ids)} tokens have no room")
        first = self._add_sheets(where, document, sheets)
        groups = self._groups_of(where, first, len(bounds))
        start, width = len(self.ids), self.room.query_num
        for group, (begin, end) in zip(groups, bounds, strict=True):
            self.rows[group * width : (group + 1) * width] = np.arange(start + begin, start + end)
        self.ids += ids
        self.labels += labels
        self.ends.append(len(self.ids))
        self.tasks.append(document.task)

    def _add_sheets(self, where: str, document: Document, sheets: list[Sheet]) -> int:
        """Pack a document's sheets; return the number of the first sheet or package."""
        if where == "texts":
            if sheets:
                raise CapacityError("a conversation of text alone has pictures")
            return 0
        if where == "frames":
            return self._add_frames(document, sheets)
        if where == "pages" and len(sheets) != 1:
            raise CapacityError("a page document has one sheet")
        first = self.packers[where].add(sheets)
        if "corrupt" in document.meta:
            self.corruption[where].put(first, document.meta["corrupt"])
        return first

    def _add_frames(self, document: Document, frames: list[Sheet]) -> int:
        groups = document.groups or []
        if self.num_packages + len(groups) > self.room.composed.packages:
            raise CapacityError("no room for more packages")
        padded: list[Sheet] = []
        taken = 0
        blank = Sheet(frames[0].width, frames[0].height)
        for group in groups:
            padded += frames[taken : taken + len(group)] + [blank] * (PACKAGE - len(group))
            taken += len(group)
        self.packers["frames"].add(padded)
        first = self.num_packages
        for row, group in enumerate(groups, first):
            self.temporal[row, : len(group)] = group
            self.present[row, : len(group)] = True
        self.num_packages += len(groups)
        return first

    def _groups_of(self, where: str, first: int, count: int) -> list[int]:
        """Numbers of the resampler's groups behind a document's placeholders, in the order of its prompt."""
        composed, slices = self.room.composed, self.room.page.num_slices
        if where == "singles":
            return list(range(first, first + count))
        if where == "pages":
            start = composed.singles + composed.pages + first * slices
            return [composed.singles + first, *range(start, start + slices)]
        start = composed.singles + composed.pages * (1 + slices) + first
        return list(range(start, start + count))

    def fields(self) -> Fields:
        """What has been placed so far, as tensors."""
        length = self.room.composed.tokens
        targets = np.full(length, IGNORE, np.int64)
        targets[: max(0, len(self.labels) - 1)] = self.labels[1:]
        for end in self.ends:  # the last token of a document predicts nothing
            targets[end - 1] = IGNORE
        ids = np.zeros(length, np.int64)
        ids[: len(self.ids)] = self.ids
        offsets = [0, *self.ends]
        while offsets[-1] < length:
            offsets.append(min(length, offsets[-1] + LONGEST))
        offsets += [length] * (self.room.num_segments + 1 - len(offsets))
        starts = np.array(offsets[:-1])
        owner = np.searchsorted(np.array(offsets[1:]), np.arange(length), side="right")
        positions = np.arange(length) - starts[owner]
        sheets = {name: packer.batch() for name, packer in self.packers.items() if packer.capacity.sheets}
        return Fields(
            ids=torch.from_numpy(ids),
            targets=torch.from_numpy(targets),
            positions=torch.from_numpy(positions),
            offsets=torch.tensor(offsets, dtype=torch.int32),
            rows=torch.from_numpy(self.rows),
            temporal=torch.from_numpy(self.temporal),
            present=torch.from_numpy(self.present),
            sheets=sheets,
            corruption=self.corruption,
        )


def blank_fields(room: Room, atlas: Atlas) -> Fields:
    """Fields of the right shapes with nothing in them."""
    return _Filler(None, room, np.random.default_rng(0), atlas).fields()


def enlarged(sheet: Sheet, scale: float, width: int, height: int) -> Sheet:
    """The sheet drawn `scale` times larger, on width x height px."""
    out = Sheet(width, height, sheet.paper, [], [], sheet.regions)
    if scale == 1.0:
        out.marks, out.runs = sheet.marks, sheet.runs
        return out
    for mark in sheet.marks:
        lengths = 3 if mark.kind == WEDGE else len(mark.places)  # a wedge ends with two angles
        places = (*(p * scale for p in mark.places[:lengths]), *mark.places[lengths:])
        out.marks.append(Mark(mark.kind, places, mark.colour))
    out.runs = [Run(r.text, r.x * scale, r.y * scale, r.em * scale, r.face, r.colour) for r in sheet.runs]
    out.regions = [
        Region(tuple(v * scale for v in r.box), r.text, r.derivable)  # type: ignore[arg-type]
        for r in sheet.regions
    ]
    return out


class ComposedSteps(torch.utils.data.Dataset[HostBatch]):
    """Step number -> the step's samples, the same for the same seed, rank and number. Lives in worker processes.

    keys: which combination a step uses, as `JointObjective.key` says.
    """

    def __init__(
        self,
        rooms: Sequence[Room],
        key_of: Any,
        atlas: Atlas,
        tokenizer: Tokenizer,
        config: ModelConfig,
        maker: Makes,
        seed: tuple[int, ...],
    ) -> None:
        self.rooms, self.key_of, self.atlas, self.maker, self.seed = list(rooms), key_of, atlas, maker, seed
        self.processor = Processor(config, tokenizer)
        self.patch = config.image.patch_size
        self._stand_ins: dict[tuple[int, int], PIL.Image.Image] = {}

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, step: int) -> HostBatch:
        rng = np.random.default_rng((*self.seed, step))
        return _Filler(self, self.rooms[self.key_of(step)], rng, self.atlas).fill()

    def encode(self, document: Document, room: Room, where: str) -> tuple[list[int], list[int], list[tuple[int, int]]]:
        """Ids, labels and picture bounds of a document, as the processor writes them."""
        size = {
            "singles": (room.single[1] * self.patch, room.single[0] * self.patch),
            "pages": room.page.source,
            "frames": (room.frame[1] * self.patch, room.frame[0] * self.patch),
        }.get(where, (0, 0))
        messages: list[dict[str, Any]] = []
        thinking = any(turn.thinking for turn in document.turns)
        for turn in document.turns:
            content: list[Any] = [self._stand_in(size) for _ in range(turn.num_sheets)]
            messages.append({"role": "user", "content": [*content, turn.question]})
            answer: dict[str, Any] = {"role": "assistant", "content": turn.answer}
            if turn.thinking:
                answer["reasoning_content"] = turn.thinking
            messages.append(answer)
        media: dict[str, Any] = {}
        if where == "singles":
            media = {"max_slice_nums": 1}
        elif where == "frames":
            media = {"max_slice_nums": 1, "use_image_id": False}
        groups = document.groups if where == "frames" else None
        return self.processor.encode(messages, enable_thinking=thinking, temporal_ids=groups, **media)

    def _stand_in(self, size: tuple[int, int]) -> PIL.Image.Image:
        if size not in self._stand_ins:
            import PIL.Image

            self._stand_ins[size] = PIL.Image.new("1", size)
        return self._stand_ins[size]


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
        host, room, displays = self._fields[key], self.rooms[key], self._displays[key]
        sheets, corruption = host.sheets, host.corruption
        chance = Chance(self.device, generator)
        passes: list[Pass] = []
        if "singles" in sheets:
            damage = partial(_corrupted, arrays=corruption.get("singles"), chance=chance)
            pictures = displays["singles"].draw(sheets["singles"], chance, damage=damage)
            pixels = displays["singles"].finish(pictures, chance, self.dtype)
            passes.append(objective.picture_pass(room.single, pixels[:, None], generator))
        if "pages" in sheets:
            passes += self._pages(host, room, displays["pages"], chance, objective, generator)
        if "frames" in sheets:
            pictures = displays["frames"].draw(sheets["frames"], chance, frames_of=PACKAGE)
            pixels = displays["frames"].finish(pictures, chance, self.dtype).unflatten(0, (-1, PACKAGE))
            passes.append(objective.picture_pass(room.frame, pixels, generator, host.temporal, host.present))
        empty = host.ids.new_zeros(0)
        return JointBatch(
            passes=passes,
            input_ids=host.ids[None],
            targets=host.targets[None],
            rows=host.rows,
            dense=empty,
            regions=empty,
            points=empty,
            positions=host.positions[None],
            offsets=host.offsets,
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


class _From(torch.utils.data.Sampler[int]):
    """Step numbers from `first` on."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __iter__(self) -> Iterator[int]:
        step = self.first
        while True:
            yield step
            step += 1


def stream_steps(steps: ComposedSteps, first: int, workers: int) -> Iterator[HostBatch]:
    """Host batches of steps `first`, `first` + 1, ... made by `workers` processes ahead of need (0: in this one)."""
    loader: Any = torch.utils.data.DataLoader(
        steps,
        batch_size=None,
        sampler=_From(first),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="fork" if workers else None,
        worker_init_fn=_one_thread if workers else None,
    )
    return iter(loader)


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
