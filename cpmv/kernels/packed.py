"""Quantised weights that stay packed on the GPU and are multiplied from there.

`Packed` holds one weight [N, K] in the streaming layout of packed_layout.py, whatever format it came in; a subclass a
format (packed_formats.py) knows its numbers. `multiply` takes up to 64 rows through the CUDA kernels (packed_cuda.py)
or, where those cannot be had, Triton's (packed_triton.py); more rows are for `dequantize` and a plain product. The
plain truth of every kernel is `multiply_plain` with the weight from `dequantize_plain`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from . import launch, packed_cuda
from .packed_layout import CHUNK, TILE

log = logging.getLogger("cpmv")

MAX_ROWS = 64  # of x that `multiply` reads the packed weight for
_PLAIN_ELEMENTS = 1 << 22  # of a weight that exist dequantised at once in `dequantize_plain`
_DEQUANTIZED_ELEMENTS = 1 << 26  # of a weight that exist at once for a product of many rows: 128 MiB
_said: set[str] = set()
Norm = tuple[Tensor, float]
P = TypeVar("P", bound="Packed")


def say_once(message: str, level: int = logging.INFO) -> None:
    if message not in _said:
        _said.add(message)
        log.log(level, message)


def normalised_plain(x: Tensor, norm: Norm | None) -> Tensor:
    """The model's RMSNorm: in float32, rounded, times the weight."""
    if norm is None:
        return x
    y = x.float()
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + norm[1])
    return y.to(x.dtype) * norm[0].to(x.dtype)


def finish_plain(out: Tensor, residual: Tensor | None, gated: bool) -> Tensor:
    """What becomes of a product [M, N]."""
    if gated:
        gate, up = out.chunk(2, dim=-1)
        out = F.silu(gate) * up
    if residual is None:
        return out
    residual.add_(out)
    return residual.clamp_(-65504, 65504) if residual.dtype is torch.float16 else residual


def multiply_plain(
    x: Tensor,
    weight: Tensor,
    *,
    norm: Norm | None = None,
    residual: Tensor | None = None,
    gated: bool = False,
    bias: Tensor | None = None,
) -> Tensor:
    """The truth of every `multiply`: x [M, K] (normalised first), times weight [N, K], gated, plus residual."""
    out = F.linear(normalised_plain(x, norm), weight, None if bias is None else bias.to(x.dtype))
    return finish_plain(out, residual, gated)


class Packed:
    """A weight [N, K] in the streaming layout. K is a multiple of 64.

    codes, scales, extra, high: as the format says, each with tiles of 16 rows first, so that rows are slices.
    """

    format: ClassVar[str]
    unit: ClassVar[int] = CHUNK  # inputs that scales come for

    def __init__(
        self, shape: tuple[int, int], tensors: dict[str, Tensor], *, group: int = 0, scale: float = 1.0
    ) -> None:
        self.shape = shape
        self.tensors = tensors
        self.group, self.scale = group, scale
        on_gpu = tensors["codes"].device.type == "cuda"
        # Blocks that share rows count themselves here; always zero between products.
        self.counters = torch.zeros(self.tiles, dtype=torch.int32, device=self.device) if on_gpu else None
        self._tables: dict[torch.dtype, Tensor] = {}

    @property
    def device(self) -> torch.device:
        return self.tensors["codes"].device

    @property
    def nbytes(self) -> int:
        """Bytes of memory, which are the bytes that one product reads."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())

    @property
    def tiles(self) -> int:
        return -(-self.shape[0] // TILE)

    def values(self, first: int, last: int) -> Tensor:
        """Return the numbers of tiles [first, last), float32 [rows, K], as the format defines them."""
        raise AssertionError(f"{type(self).__name__} has no numbers")

    def table(self, dtype: torch.dtype) -> Tensor | None:
        """What the codes stand for, in the dtype of x; None where codes are numbers."""
        return None

    def like(self: P, shape: tuple[int, int], tensors: dict[str, Tensor]) -> P:
        """The same format with other rows."""
        return type(self)(shape, tensors, group=self.group, scale=self.scale)

    def rows(self: P, start: int, stop: int) -> P:
        """A view of rows [start, stop): multiples of 16, or the last row. It shares this weight's memory."""
        if start % TILE or (stop % TILE and stop != self.shape[0]):
            raise ValueError(f"rows {start} to {stop} of {self.shape[0]} do not begin and end at multiples of {TILE}")
        part = slice(start // TILE, -(-stop // TILE))
        return self.like((stop - start, self.shape[1]), {name: t[part] for name, t in self.tensors.items()})

    def alike(self, other: Packed) -> bool:
        """Whether rows of `other` can follow these."""
        return (
            type(self) is type(other)
            and (self.shape[1], self.group, self.scale) == (other.shape[1], other.group, other.scale)
            and self.device == other.device
            and self.shape[0] % TILE == 0
        )

    @staticmethod
    def cat(parts: Sequence[P]) -> P:
        """Stack rows: q, k, v; gate, up. The parts become views of the result, so that memory holds one copy.

        Raises ValueError where formats or widths differ.
        """
        first = parts[0]
        if not all(a.alike(b) for a, b in zip(parts, parts[1:], strict=False)):
            raise ValueError("only weights of one format, width and group size, in rows of 16, can be stacked")
        shape = (sum(p.shape[0] for p in parts), first.shape[1])
        whole = first.like(shape, {name: torch.cat([p.tensors[name] for p in parts]) for name in first.tensors})
        at = 0
        for part in parts:
            part.tensors = {name: t[at : at + part.tiles] for name, t in whole.tensors.items()}
            at += part.tiles
        return whole

    def dequantize_plain(self, dtype: torch.dtype) -> Tensor:
        """The truth: the weight [N, K], every number rounded from float32 once more to dtype."""
        out = torch.empty(self.shape, dtype=dtype, device=self.device)
        at_once = max(1, _PLAIN_ELEMENTS // (TILE * self.shape[1]))
        for i in range(0, self.tiles, at_once):
            part = out[i * TILE : (i + at_once) * TILE]
            part.copy_(self.values(i, min(i + at_once, self.tiles))[: len(part)])
        return out

    def path(self, dtype: torch.dtype) -> str:
        """Which kernels serve this weight for x of that dtype: cuda, triton or plain."""
        from . import packed_triton

        wanted = launch.chosen_path()
        if wanted == "plain" or dtype not in (torch.float16, torch.bfloat16):
            return "plain"
        if self.device.type == "cuda" and wanted != "triton" and packed_cuda.available(self.device):
            if packed_cuda.proven(self, dtype):
                return "cuda"
        return "triton" if packed_triton.available(self.device) else "plain"

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """Return the weight [N, K] in dtype: as `dequantize_plain`, fast."""
        from . import packed_triton

        path = self.path(dtype)
        if path == "cuda":
            return packed_cuda.dequantize(self, dtype)
        return packed_triton.dequantize(self, dtype) if path == "triton" else self.dequantize_plain(dtype)

    def multiply(
        self,
        x: Tensor,
        *,
        norm: Norm | None = None,
        residual: Tensor | None = None,
        gated: bool = False,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Multiply x [M, K], 16-bit and contiguous, M up to 64 here and any number at a dequantised weight's cost.

        norm: (weight [K], eps), an RMS norm of x first. residual [M, N]: added to and returned. gated: rows are gate
        then up, the result is silu(gate) * up [M, N / 2]. bias [N]. Sums are float32, rounded once at the end.
        """
        from . import packed_triton

        assert x.ndim == 2 and x.shape[1] == self.shape[1], f"x is {list(x.shape)}, the weight {list(self.shape)}"
        assert not (gated and residual is not None), "a gated product takes no residual"
        path = self.path(x.dtype)
        tileable = not gated or self.shape[0] % (2 * TILE) == 0
        if path != "plain" and len(x) <= MAX_ROWS and tileable:
            kernels = packed_cuda if path == "cuda" else packed_triton
            return kernels.multiply(self, x, norm, residual, gated, bias)
        out = self._product(normalised_plain(x, norm))
        if bias is not None:
            out += bias.to(out.dtype)
        return finish_plain(out, residual, gated)

    def _parts(self: P) -> list[tuple[slice, P]]:
        """Rows of a bounded number of elements; one part for all but a head."""
        step = max(1, _DEQUANTIZED_ELEMENTS // (TILE * self.shape[1])) * TILE
        ends = [(i, min(i + step, self.shape[0])) for i in range(0, self.shape[0], step)]
        return [(slice(i, j), self if len(ends) == 1 else self.rows(i, j)) for i, j in ends]

    def _product(self, x: Tensor) -> Tensor:
        """x [M, K] times the weight, dequantised once, however many rows."""
        parts = self._parts()
        if len(parts) == 1:
            return F.linear(x, self.dequantize(x.dtype))
        out = torch.empty(len(x), self.shape[0], dtype=x.dtype, device=x.device)
        for rows, part in parts:
            out[:, rows] = F.linear(x, part.dequantize(x.dtype))
        return out

    def input_gradient(self, grad: Tensor) -> Tensor:
        """The gradient [.., K] for x of a product whose own is grad [.., N]."""
        pieces = [grad[..., rows] @ part.dequantize(grad.dtype) for rows, part in self._parts()]
        return pieces[0] if len(pieces) == 1 else torch.stack(pieces).sum(0)
