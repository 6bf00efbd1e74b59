"""Making composed samples on the CPU: documents until a step's room is full, all their tokens in one row.

A step's samples follow from its number, the seed and the rank alone, so a run resumes exactly. Worker processes make
steps ahead of need; `composed.Composer` draws them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from ..inputs.processor import Processor
from ..inputs.text import Tokenizer
from ..model.config import ModelConfig
from .composed import LONGEST, PACKAGE, Fields, HostBatch, Room, flatten
from .corrupt_pixels import CorruptionArrays
from .draw.atlas import Atlas
from .draw.display import CapacityError, SheetPacker
from .draw.document import WEDGE, Document, Mark, Region, Run, Sheet
from .joint_model import IGNORE

if TYPE_CHECKING:
    import PIL.Image

CORRUPTED = "corrupted"  # the kind whose documents carry a plan of corruption
_TRIES = 12  # documents made for one place before it stays empty
_FRAME_SCALE = 2.0  # frames are laid out at half their size
_PAGE_SCALES = (1.0, 1.5, 2.0)  # how much larger than laid out a small kind may be on a page


class Makes(Protocol):
    """What makes documents: `cpmv.train.draw.documents.Maker`, or a stand-in for tests."""

    def make(self, kind: str, rng: np.random.Generator, width: int, height: int) -> Document: ...


class _Filler:
    """Fills the room of one step with documents."""

    def __init__(self, steps: ComposedSteps, room: Room, rng: np.random.Generator) -> None:
        self.steps, self.room, self.rng = steps, room, rng
        composed = room.composed
        self.packers = {name: SheetPacker(steps.atlas, capacity) for name, capacity in room.capacities.items()}
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


def unlearnt(labels: list[int], learn: list[bool]) -> list[int]:
    """The labels without those of the answers that are not to be learnt; answers are runs of labels, in order."""
    if all(learn):
        return labels
    out, answer = list(labels), -1
    for place, label in enumerate(labels):
        if label == IGNORE:
            continue
        answer += place == 0 or labels[place - 1] == IGNORE
        if not learn[answer]:
            out[place] = IGNORE
    return out


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


class _Writer(Processor):
    """The processor, asking the template only once what stands before an answer: a fifth of its time a document."""

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer) -> None:
        super().__init__(config, tokenizer)
        self._headers: dict[bool | None, tuple[str, str]] = {}

    def _answer_header(self, tools: Any, enable_thinking: bool | None) -> tuple[str, str]:
        if tools:
            return super()._answer_header(tools, enable_thinking)
        if enable_thinking not in self._headers:
            self._headers[enable_thinking] = super()._answer_header(tools, enable_thinking)
        return self._headers[enable_thinking]


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
        self.processor = _Writer(config, tokenizer)
        self.patch = config.image.patch_size
        self._stand_ins: dict[tuple[int, int], PIL.Image.Image] = {}

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, step: int) -> HostBatch:
        rng = np.random.default_rng((*self.seed, step))
        return _Filler(self, self.rooms[self.key_of(step)], rng).fill()

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
        ids, labels, bounds = self.processor.encode(messages, enable_thinking=thinking, temporal_ids=groups, **media)
        return ids, unlearnt(labels, [turn.learn for turn in document.turns]), bounds

    def _stand_in(self, size: tuple[int, int]) -> PIL.Image.Image:
        if size not in self._stand_ins:
            import PIL.Image

            self._stand_ins[size] = PIL.Image.new("1", size)
        return self._stand_ins[size]


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
