"""The model with its two training heads, run over whole batches of one grid.

The forward pass uses the very modules of `cpmv.model`, without ragged bookkeeping, so that blocks compile once and a
step can be captured. Both heads serve training only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CpmvError
from ..model.attention import Segments
from ..model.minicpmv import MiniCPMV
from .answer_weights import answer_weights
from .packed import PackedEncoder

IGNORE = -100
QUERY_WIDTH, QUERY_POINTS, LATTICE = 192, 16, 32


@dataclass
class Pass:
    """Pictures or clips of one grid, ready for tower and resampler: N of them, F frames each.

    patches [N * F, L, C, p, p]; ids int64 [N * F, L] rows of the position table; temporal int64 [N, F] or None for
    pictures; mask bool [N, F * L] or None when every frame is there; space float32 [1, F * L, E].
    """

    patches: Tensor
    ids: Tensor
    temporal: Tensor | None
    mask: Tensor | None
    space: Tensor


@dataclass
class JointBatch:
    """One step's samples: all passes, then one sequence batch in the same order.

    input_ids, targets int64 [B, S]: `targets` are the labels moved one to the left, so position t predicts token t+1.
    Packed, B is 1, `positions` int64 [1, S] count within each sample and `offsets` int32 [n + 1] where each starts.
    rows int64: where the visual tokens go in the flattened [B * S]. dense int64 [patches, 4]; regions int64 [B', Q, K]
    classes of the K drawn points of each query; points int64 [K].
    """

    passes: list[Pass]
    input_ids: Tensor
    targets: Tensor
    rows: Tensor
    dense: Tensor
    regions: Tensor
    points: Tensor
    positions: Tensor | None = None
    offsets: Tensor | None = None
    longest: int = 0  # tokens of a sample at most

    @property
    def segments(self) -> Segments | None:
        return None if self.offsets is None else Segments(self.offsets, self.longest)

    def tensors(self) -> list[Tensor]:
        """Every tensor that changes between steps, in a fixed order."""
        own = [self.input_ids, self.targets, self.rows, self.dense, self.regions, self.points, self.positions]
        own.append(self.offsets)
        for one in self.passes:
            own += [one.patches, one.ids, one.temporal, one.mask]
        return [t for t in own if t is not None]


class QueryHead(nn.Module):
    """Token of a query and point within its cell -> class. The last layer is left to the loss."""

    def __init__(self, embed_dim: int, num_points: int, num_classes: int) -> None:
        super().__init__()
        self.token = nn.Linear(embed_dim, QUERY_WIDTH)
        self.point = nn.Embedding(num_points, QUERY_WIDTH)
        self.classes = nn.Linear(QUERY_WIDTH, num_classes)

    def forward(self, tokens: Tensor, points: Tensor) -> Tensor:
        """tokens [B, Q, E]; points int64 [K]. Returns states [B, Q, K, QUERY_WIDTH], which `classes` reads."""
        return F.gelu(self.token(tokens)[:, :, None] + self.point(points))


class TrainingHeads(nn.Module):
    """What the two auxiliary losses read with; thrown away at the end."""

    def __init__(self, dense: nn.Linear, query: QueryHead) -> None:
        super().__init__()
        self.dense, self.query = dense, query


class JointModel(nn.Module):
    """The model with the two training heads, and its dense forward pass.

    packed: run the pictures of all grids of a batch in one row; otherwise grid by grid, which is quicker on a CPU.
    fused_loss: where blocks are compiled, losses chunk by chunk with a kernel of Triton's (`kernels_loss`).
    length_power: of the language loss, see `answer_weights`.
    """

    def __init__(self, model: MiniCPMV, num_classes: int, seed: int = 0, length_power: float = 0.0) -> None:
        super().__init__()
        self.model, self.num_classes, self.length_power = model, num_classes, length_power
        vision, resampler = model.config.vision, model.config.resampler
        self.cells = math.isqrt(resampler.query_num)
        self.per_cell = LATTICE // self.cells
        if self.cells**2 != resampler.query_num or LATTICE % self.cells:
            raise CpmvError(f"query_num {resampler.query_num} cannot share {LATTICE}x{LATTICE} points; use 16 or 64")
        dense = nn.Linear(vision.hidden_size, 4 * num_classes)
        self.heads = TrainingHeads(dense, QueryHead(resampler.embed_dim, self.per_cell**2, num_classes))
        generator = torch.Generator().manual_seed(seed)
        for param in self.heads.parameters():
            nn.init.normal_(param, std=0.02, generator=generator) if param.ndim > 1 else nn.init.zeros_(param)
        self._dense = _cross_entropy_of
        self._lm = self._query = _cross_entropy_of
        self._resample = model.resampler.resample
        self._row = PackedEncoder(model.vpm, model.resampler)
        self.packed = False
        self.fused_loss = False
        self._omega: Tensor | None = None

    def compile_regions(self, backend: str = "inductor") -> None:
        """Compile each kind of block once: whatever meets patches with free sizes, whatever meets tokens with fixed."""
        torch._dynamo.config.automatic_dynamic_shapes = False
        torch.fx.experimental._config.use_duck_shape = False
        for block in self.model.vpm.encoder.layers:
            block.compile(dynamic=True, backend=backend)
        for layer in self.model.llm.model.layers:
            layer.compile(dynamic=False, backend=backend)
        self._dense = torch.compile(_cross_entropy_of, dynamic=True, backend=backend)
        self._lm = self._query = torch.compile(_cross_entropy_of, dynamic=False, backend=backend)
        self._resample = torch.compile(self.model.resampler.resample, dynamic=True, backend=backend)
        self._row.compile(backend)
        if self.fused_loss:
            from .kernels_loss import cross_entropy_of

            self._dense = self._lm = self._query = cross_entropy_of

    def encode(self, one: Pass) -> tuple[Tensor, Tensor]:
        """Return the tower's features [N * F, L, Dv] and the resampler's tokens [N, Q, E]."""
        vpm, resampler = self.model.vpm, self.model.resampler
        features = vpm.encode(vpm.embeddings(one.patches, one.ids))
        num = one.patches.shape[0] if one.temporal is None else one.temporal.shape[0]
        keys = features.unflatten(0, (num, -1)).flatten(1, 2)  # [N, F * L, Dv]
        if one.temporal is None and one.mask is None:
            return features, self._resample(keys, one.space, None)
        time = None if one.temporal is None else self._times(one.temporal, keys.shape[1])
        return features, resampler.resample(keys, one.space, time, one.mask)

    def _times(self, temporal: Tensor, length: int) -> Tensor:
        """Time embedding of each key [N, F * L, E]."""
        return self._clock(temporal).repeat_interleave(length // temporal.shape[1], dim=1, output_size=length)

    def _clock(self, temporal: Tensor) -> Tensor:
        """Time embeddings [..., E] of ids [...]; the zero vector where there is no time."""
        angles = temporal.clamp(min=0).float()[..., None] * self.omega
        return torch.cat((angles.sin(), angles.cos()), dim=-1) * (temporal >= 0)[..., None]

    @property
    def omega(self) -> Tensor:
        """Frequencies of the temporal table (`model.resampler.sincos`), float32 [E / 2]."""
        device = self.model.resampler.query.device
        if self._omega is None or self._omega.device != device:
            half = self.model.config.resampler.embed_dim // 2
            omega = np.arange(half, dtype=np.float32) / np.float32(half)
            self._omega = torch.from_numpy((1.0 / 10000**omega).astype(np.float32)).to(device)
        return self._omega

    def hidden(
        self,
        input_ids: Tensor,
        tokens: Tensor | None,
        rows: Tensor,
        positions: Tensor | None = None,
        segments: Segments | None = None,
    ) -> Tensor:
        """Return the decoder's final states [B, S, E], visual tokens [B', Q, E] put at the flat positions `rows`."""
        x = self.model.embed_tokens(input_ids)
        if tokens is not None:
            flat = x.flatten(0, 1).index_copy(0, rows, tokens.flatten(0, 1).to(x.dtype))
            x = flat.view_as(x)
        if positions is None:
            positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        return self.model.llm.model(x, positions, segments)

    def encode_all(self, passes: Sequence[Pass]) -> tuple[Tensor, Tensor]:
        """Return the tower's features [T, Dv] of all patches of all passes, and the tokens [B', Q, E]."""
        if self.packed:
            features, tokens = self._row(passes, self._clock)
            return features, tokens
        encoded = [self.encode(one) for one in passes]
        return torch.cat([f.flatten(0, 1) for f, _ in encoded]), torch.cat([t for _, t in encoded])

    def states(self, batch: JointBatch) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """Return features and tokens as `encode_all` does, and the decoder's final states [B, S, E]."""
        features, tokens = self.encode_all(batch.passes) if batch.passes else (None, None)
        hidden = self.hidden(batch.input_ids, tokens, batch.rows, batch.positions, batch.segments)
        return features, tokens, hidden

    def sums(self, batch: JointBatch) -> Tensor:
        """Return the summed losses (LM, dense, query) of a batch, float32 [3].

        The two heads are asked about the first patches and pictures, as many as there are answers for.
        """
        features, tokens, hidden = self.states(batch)
        head = self.model.llm.model.embed_tokens if self.model.config.language.tie_word_embeddings else None
        weight = head.weight if head is not None else self.model.llm.lm_head.weight
        zero = hidden.sum() * 0.0
        targets = batch.targets.flatten()
        shares = answer_weights(targets, self.length_power) if self.length_power else None
        lm = self._lm(hidden.flatten(0, 1), weight, None, targets, shares)
        if features is None or tokens is None or not batch.dense.numel():  # composed samples have no such answers
            return torch.stack((lm, zero, zero))
        dense_head, query_head = self.heads.dense, self.heads.query
        features, tokens = features[: batch.dense.shape[0]], tokens[: batch.regions.shape[0]]
        dense = self._dense(features, dense_head.weight, dense_head.bias, batch.dense)
        states = query_head(tokens, batch.points).flatten(0, 2)
        query = self._query(states, query_head.classes.weight, query_head.classes.bias, batch.regions.flatten())
        return torch.stack((lm, dense, query))


def _cross_entropy_of(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, shares: Tensor | None = None
) -> Tensor:
    """Summed cross-entropy of a linear classifier. x [M, E]; targets int64 [M] or [M, points], one class set each.

    shares: float32 [M], what each target weighs.
    """
    logits = F.linear(x, weight, bias)
    logits = logits.view(targets.numel(), -1)
    if shares is not None:
        each = F.cross_entropy(logits.float(), targets.flatten(), ignore_index=IGNORE, reduction="none")
        return (each * shares).sum()
    return F.cross_entropy(logits.float(), targets.flatten(), ignore_index=IGNORE, reduction="sum")
