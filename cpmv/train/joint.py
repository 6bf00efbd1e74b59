"""The joint start: pictures, scenes and clips drawn on the device, three losses, fixed shapes.

    loss = LM loss on the answer + aux · (D + Q)
    D: the tower's output says what each patch shows at 2x2 points ("dense")
    Q: the resampler's output says what its part of the picture shows at points drawn anew each step ("query")

D and Q make the language model look at the picture, which the LM loss alone does not achieve in reasonable time
(docs/tiny-model.md). Here samples are drawn and laid out; `joint_model` holds the forward pass.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CpmvError
from ..model.resampler import spatial_positions
from ..model.vision import position_buckets
from .ahead import Branches
from .config import Combination, Shape
from .joint_model import IGNORE, QUERY_POINTS, JointBatch, JointModel, Pass
from .metrics import step_flops

if TYPE_CHECKING:
    from .composed import Composer, HostBatch
    from .draw import Batch, Grid

log = logging.getLogger("cpmv")
GROUP = 4  # pictures that share a phase shift of their position ids


class Draws(Protocol):
    """What makes batches: `cpmv.train.draw.Drawer`, or a stand-in for tests and the CPU preset."""

    num_classes: int

    def draw(self, kind: str, batch: int, grid: Grid, generator: torch.Generator | None = None) -> Batch: ...


class JointObjective:
    """Draws the batches of a step and turns them into sums and counts (see `loop.Objective`).

    mix: samples of each kind on this GPU. `weights` are device scalars in the order of `names`. packed_tokens: length
    of the one row that all samples of a step share, None: a padded row each. What does not fit the row is cut.
    aux_weight: 0 leaves both auxiliary losses out. composer, host_batches: add composed samples as a second
    micro-batch; host_batches(step) yields those of that step and the following ones.
    """

    names: tuple[str, ...] = ("lm", "dense", "query")
    capturable = True

    def __init__(
        self,
        model: JointModel,
        drawer: Draws,
        mix: dict[str, int],
        combinations: Sequence[Combination],
        *,
        aux_weight: float = 0.5,
        shift: bool = True,
        packed_tokens: int | None = None,
        composer: Composer | None = None,
        host_batches: Callable[[int], Iterator[HostBatch]] | None = None,
    ) -> None:
        self.composer, self._host_batches = composer, host_batches
        self._hosts: Iterator[HostBatch] | None = None
        self._next_host = -1
        self.model, self.drawer, self.mix, self.combinations = model, drawer, dict(mix), tuple(combinations)
        self.shift, self.packed_tokens = shift, packed_tokens
        self.device = model.model.device
        self.branches = Branches(self.device)
        self.aux_weight = aux_weight
        self.weights = torch.tensor([1.0, aux_weight, aux_weight], device=self.device)
        self._constants: dict[Any, Tensor] = {}
        self._parts = {key: self._plan(combination) for key, combination in enumerate(self.combinations)}
        self.samples_per_step = sum(self.mix.values())
        self._looks_left = 4 * len(self.combinations)
        self._shape = (0, 0)  # sequence length and frames a clip, known once a batch has been drawn

    def _plan(self, combination: Combination) -> list[tuple[Shape | None, list[tuple[str, int]]]]:
        """What is drawn on each grid: [(grid, [(kind, count)])], pictures first, then clips, then text alone."""
        plan: list[tuple[Shape | None, list[tuple[str, int]]]] = []
        num = len(combination.pictures)
        for kind in ("text", "scene"):
            if self.mix.get(kind, 0) % num:
                raise CpmvError(f"{self.mix[kind]} {kind} samples a GPU do not split over {num} grids; change the mix")
        for grid in combination.pictures:
            kinds = [(kind, self.mix.get(kind, 0) // num) for kind in ("text", "scene")]
            plan.append((grid, [(kind, count) for kind, count in kinds if count]))
        plan.append((combination.clips, [("clip", self.mix.get("clip", 0))]))
        plan.append((None, [("textonly", self.mix.get("textonly", 0))]))
        return [(grid, kinds) for grid, kinds in plan if sum(count for _, count in kinds)]

    def key(self, step: int, seed: int) -> int:
        return combination_of(step, seed, len(self.combinations))

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """The model's parameters by their released names, then the heads'."""
        yield from self.model.model.named_parameters()
        yield from self.model.heads.named_parameters(prefix="heads")

    def set_progress(self, fade: float) -> None:
        """Set the auxiliary losses' weight to `fade` times the configured one."""
        self.weights[1:].fill_(self.aux_weight * fade)

    def flops(self, key: int) -> float:
        """Operations of one step on this GPU, counted."""
        length, frames = self._shape
        samples = sum(self.mix.values())
        tokens = self.packed_tokens or samples * length
        config, combination, classes = self.model.model.config, self.combinations[key], self.model.num_classes
        total = 0.0 if self.composer is None else self.composer.flops(key, classes)
        if sum(self.mix.values()):
            total += step_flops(config, combination, self.mix, tokens, tokens // samples, frames, classes)
        return total

    def feed(self, key: int, step: int) -> None:
        """Bring the composed samples of a step to the device, before `load`."""
        if self.composer is None:
            return
        assert self._host_batches is not None
        if self._hosts is None or step != self._next_host:
            self._hosts = self._host_batches(step)
        self._next_host = step + 1
        batch = next(self._hosts)
        self.samples_per_step = sum(self.mix.values()) + len(batch.ends)
        self.composer.feed(key, batch)

    def load(self, key: int, generator: torch.Generator | None) -> list[JointBatch]:
        """Draw one step's micro-batches: those of `mix`, then the composed ones; one where both are rows."""
        parts: list[tuple[Shape | None, list[Batch]]] = []
        for shape, kinds in self._parts[key]:
            batches: list[Batch] = []
            for kind, count in kinds:
                with self.branches.branch():
                    batches.append(self.draw(kind, count, shape, generator))
            parts.append((shape, batches))
        composed: list[Pass] = []
        if self.composer is not None:
            composed = self.composer.draw(key, self, generator)
        self.branches.join()
        out = [self.assemble(parts, generator)] if parts else []
        if self.composer is not None:
            out.append(self.composer.batch(key, composed))
        if len(out) == 2 and out[0].offsets is not None:
            return [join_rows(*out)]
        return out

    def draw(self, kind: str, count: int, shape: Shape | None, generator: torch.Generator | None) -> Batch:
        from .draw import Grid

        rows, columns = shape or self.combinations[0].pictures[0]
        return self.drawer.draw(kind, count, Grid(rows, columns), generator)

    def assemble(
        self, parts: Sequence[tuple[Shape | None, Sequence[Batch]]], generator: torch.Generator | None
    ) -> JointBatch:
        """Join drawn batches: those of one grid share a pass, all share the sequence batch. Grid None: text alone."""
        passes, dense, lattices = [], [], []
        for shape, batches in parts:
            if shape is None:
                continue
            passes.append(self._pass(shape, batches, generator))
            dense += [_dense_targets(b.dense, b.frame_mask, shape) for b in batches]
            lattices += [b.lattice for b in batches]
        everything = [(b, shape is not None) for shape, batches in parts for b in batches]
        length = max(b.input_ids.shape[1] for b, _ in everything)
        self._shape = (length, max(b.pixels.shape[1] for b, _ in everything))
        ids = torch.cat([F.pad(b.input_ids, (0, length - b.input_ids.shape[1])) for b, _ in everything])
        labels = torch.cat([F.pad(b.labels, (0, length - b.labels.shape[1]), value=IGNORE) for b, _ in everything])
        targets = F.pad(labels[:, 1:], (0, 1), value=IGNORE)
        starts = [(b.input_ids.shape[0], b.visual_start if seen else None) for b, seen in everything]
        rows = self._rows(starts, length)
        packed: dict[str, Any] = {}
        if self.packed_tokens is not None:
            used = torch.cat([b.lengths for b, _ in everything]).clamp(max=length)
            ids, targets, rows, packed = pack_row(ids, targets, rows, used, self.packed_tokens)
            self._warn_when_full(used)
        points = torch.rand(self.model.per_cell**2, generator=generator, device=self.device).argsort()[:QUERY_POINTS]
        empty = ids.new_zeros(0)
        return JointBatch(
            passes=passes,
            input_ids=ids,
            targets=targets,
            rows=rows,
            dense=torch.cat(dense) if dense and self.aux_weight else empty,
            regions=self._regions(torch.cat(lattices), points) if lattices and self.aux_weight else empty,
            points=points,
            **packed,
        )

    def _warn_when_full(self, used: Tensor) -> None:
        """Say when samples lose their ends; looked at in the first steps alone, as it waits for the device."""
        capturing = self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        if capturing or not self._looks_left:
            return
        self._looks_left -= 1
        total = int(used.sum())
        if self.packed_tokens is not None and total > self.packed_tokens:
            log.warning("a step has %d tokens but its row holds %d; raise tokens_per_sample", total, self.packed_tokens)

    def counts(self, batch: JointBatch) -> Tensor:
        """What each sum is divided by, float32 [3]: answer tokens, dense points, query points."""
        return torch.stack([(t != IGNORE).sum() for t in (batch.targets, batch.dense, batch.regions)]).float()

    def sums(self, batch: JointBatch) -> Tensor:
        return self.model.sums(batch)

    def _pass(self, shape: Shape, batches: Sequence[Batch], generator: torch.Generator | None) -> Pass:
        pixels = torch.cat([b.pixels for b in batches])
        if pixels.shape[1] == 1:
            return self.picture_pass(shape, pixels, generator)
        temporal, present = (torch.cat([getattr(b, n) for b in batches]) for n in ("temporal_ids", "frame_mask"))
        return self.picture_pass(shape, pixels, generator, temporal, present)

    def picture_pass(
        self,
        shape: Shape,
        pixels: Tensor,
        generator: torch.Generator | None,
        temporal: Tensor | None = None,
        present: Tensor | None = None,
    ) -> Pass:
        """What the tower and the resampler take. pixels [N, F, C, H, W] in -1..1; temporal, present [N, F] of clips."""
        num, frames = pixels.shape[:2]
        patches = _unfold(pixels, shape, self.model.model.config.vision.patch_size)
        ids = self._position_ids(shape, num, generator).repeat_interleave(frames, dim=0, output_size=num * frames)
        mask = None
        if present is not None:
            length = shape[0] * shape[1]
            mask = present.repeat_interleave(length, dim=1, output_size=frames * length)
        return Pass(patches=patches, ids=ids, temporal=temporal, mask=mask, space=self._space(shape, frames))

    def _space(self, shape: Shape, frames: int) -> Tensor:
        key = ("space", shape, frames)
        if key not in self._constants:
            dim = self.model.model.config.resampler.embed_dim
            table = spatial_positions(dim, *shape, self.device, torch.float32)
            self._constants[key] = table.repeat(frames, 1)[None]
        return self._constants[key]

    def _axis(self, num_patches: int, side: int) -> Tensor:
        key = ("axis", num_patches)
        if key not in self._constants:
            self._constants[key] = position_buckets(num_patches, side).to(self.device)
        return self._constants[key]

    def _position_ids(self, shape: Shape, num: int, generator: torch.Generator | None) -> Tensor:
        """Rows of the position table for `num` pictures, int64 [num, L], phase-shifted in training.

        Along an axis of n patches the ids are those of inference plus one random number of 0 .. 70 / n, capped at the
        last row and drawn for every group of four pictures. Spacing and extent stay the true grid's, yet every row of
        the table trains; without it a grid that was never trained reads nothing.
        """
        side = self.model.model.config.vision.grid_side
        groups = -(-num // GROUP)
        axes = []
        for n in shape:
            ids = self._axis(n, side)[None].expand(groups, -1)
            if self.shift:
                delta = torch.randint(side // n + 1, (groups, 1), generator=generator, device=self.device)
                ids = (ids + delta).clamp(max=side - 1)
            axes.append(ids)
        grid = (axes[0][:, :, None] * side + axes[1][:, None, :]).flatten(1)  # [groups, L]
        return grid.repeat_interleave(GROUP, dim=0, output_size=groups * GROUP)[:num]

    def _rows(self, parts: list[tuple[int, int | None]], length: int) -> Tensor:
        """Flat positions of all visual tokens. parts: (samples, first visual position or None) of each batch."""
        key = ("rows", tuple(parts), length)
        if key not in self._constants:
            width = self.model.model.config.resampler.query_num
            rows, first = [], 0
            for count, start in parts:
                if start is not None:
                    sample = torch.arange(first, first + count)[:, None] * length
                    rows.append((sample + start + torch.arange(width)).flatten())
                first += count
            flat = torch.cat(rows) if rows else torch.zeros(0, dtype=torch.int64)
            self._constants[key] = flat.to(self.device)
        return self._constants[key]

    def _regions(self, lattice: Tensor, points: Tensor) -> Tensor:
        """Classes at the drawn points of each query's cell: [B, 32, 32] -> [B, Q, K]."""
        cells, per = self.model.cells, self.model.per_cell
        split = lattice.unflatten(1, (cells, per)).unflatten(3, (cells, per)).transpose(2, 3)
        return split.flatten(3).flatten(1, 2)[:, :, points]


def combination_of(step: int, seed: int, num: int) -> int:
    """Which combination step `step` uses: every one once a round, the order of a round drawn from the seed."""
    return int(np.random.default_rng((seed, step // num)).permutation(num)[step % num])


def pack_row(
    ids: Tensor, targets: Tensor, rows: Tensor, used: Tensor, length: int
) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    """Lay samples [B, S] one behind the other in a row of fixed length, without their padding.

    used: int64 [B], tokens of each; rows: flat positions in [B * S] to be followed. Returns ids and targets
    [1, length], the positions' new places, and the fields `positions`, `offsets`, `longest` of a JointBatch. The rest
    of the row becomes empty segments of at most S tokens. Only device operations of fixed shape.
    """
    num, width = ids.shape
    ends = used.cumsum(0)
    padding = ends[-1] + width * torch.arange(1, -(-length // width) + 1, device=ids.device)
    offsets = torch.cat((ends.new_zeros(1), ends, padding)).clamp(max=length)
    place = torch.arange(length, device=ids.device)
    owner = torch.searchsorted(offsets[1:], place, right=True)
    column = place - offsets[owner]
    real = owner < num
    source = torch.where(real, owner.clamp(max=num - 1) * width + column, 0)
    new_ids = torch.where(real, ids.flatten()[source], 0)
    new_targets = torch.where(real, targets.flatten()[source], IGNORE)
    moved = (offsets[rows // width] + rows % width).clamp(max=length - 1)
    fields = {"positions": column[None], "offsets": offsets.int(), "longest": width}
    return new_ids[None], new_targets[None], moved, fields


def join_rows(first: JointBatch, second: JointBatch) -> JointBatch:
    """Two packed batches as one, the second behind the first. Dense and query answers are the first's alone."""
    assert first.offsets is not None and second.offsets is not None
    assert first.positions is not None and second.positions is not None
    length = first.input_ids.shape[1]
    return JointBatch(
        passes=[*first.passes, *second.passes],
        input_ids=torch.cat((first.input_ids, second.input_ids), dim=1),
        targets=torch.cat((first.targets, second.targets), dim=1),
        rows=torch.cat((first.rows, second.rows + length)),
        dense=first.dense,
        regions=first.regions,
        points=first.points,
        positions=torch.cat((first.positions, second.positions), dim=1),
        offsets=torch.cat((first.offsets[:-1], second.offsets + length)),
        longest=max(first.longest, second.longest),
    )


def _unfold(pixels: Tensor, shape: Shape, patch: int) -> Tensor:
    """[N, F, C, rows * p, columns * p] -> [N * F, L, C, p, p], patches row-major."""
    rows, columns = shape
    split = pixels.flatten(0, 1).unflatten(2, (rows, patch)).unflatten(4, (columns, patch))
    return split.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)


def _dense_targets(dense: Tensor, frame_mask: Tensor, shape: Shape) -> Tensor:
    """[N, F, rows * 2, columns * 2] -> [N * F * L, 4]; nothing is asked of frames that are padding."""
    rows, columns = shape
    split = dense.flatten(0, 1).unflatten(1, (rows, 2)).unflatten(3, (columns, 2)).transpose(2, 3)  # [NF, r, c, 2, 2]
    split = split.masked_fill(~frame_mask.flatten()[:, None, None, None, None], IGNORE)
    return split.flatten(3).flatten(0, 2)
