"""Products of a few rows with a large weight: x [M, K] times weight [N, K], with what surrounds it folded in.

`multiply` is one call for every kind of weight: a dense tensor goes to the Triton kernels of `linear_triton`, anything
else (a quantised `Packed` weight) multiplies itself. `packed.multiply_plain` is the truth they are compared with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from . import launch
from .packed import Norm
from .tuning import card, fastest, measures

MAX_ROWS = 64
_AHEAD_BYTES = 8192  # of a row, where memory would be idle


@dataclass(frozen=True)
class Gemv:
    """How `gemv` is launched: rows a program, columns a step, warps; and of each row of the first `early` programs,
    how many bytes are asked for ahead, besides the first columns."""

    rows: int
    columns: int
    warps: int = 4
    prefetch: int = 0
    early: int = 264


@dataclass(frozen=True)
class Tile:
    """How `tile` is launched: as `Gemv`, and the programs that share a tile's columns, and loads in flight."""

    rows: int
    columns: int
    split: int = 1
    stages: int = 4
    warps: int = 4


def supports(weight: Tensor, num_rows: int) -> bool:
    """Whether the kernels take a dense weight [N, K] with so many rows of x."""
    return (
        weight.ndim == 2
        and weight.stride() == (weight.shape[1], 1)
        and weight.dtype in (torch.bfloat16, torch.float16, torch.float32)
        and 1 <= num_rows <= MAX_ROWS
        and _step(weight.shape[1]) >= 16
        and weight.data_ptr() % 16 == 0
    )


def multiply(
    x: Tensor,
    weight: Any,
    *,
    norm: Norm | None = None,
    residual: Tensor | None = None,
    gated: bool = False,
    bias: Tensor | None = None,
    out: Tensor | None = None,
    idle: bool = False,
    config: Gemv | Tile | None = None,
) -> Tensor:
    """Multiply x [M, K] (M from 1 to 64, contiguous) by a weight [N, K]; return [M, N] in x's dtype.

    norm: (weight [K], eps) of an RMS norm over x before the product. bias: [N]. gated: the weight's rows are a gate
    then as many of what it gates, and the result is silu(gate) * up, [M, N / 2]. residual: [M, N]; the product is
    added to it, in place, and it is returned; float16 saturates. out: where to write instead, of any float dtype
    (values are rounded to x's dtype first); only for dense weights. idle: the launch before this one leaves memory
    idle, so more of the weight is asked for ahead. config: a launch to use instead of the chosen one.
    The norm's factor is applied after the product, so its output is not rounded to 16 bits in between.
    """
    if not isinstance(weight, Tensor):
        if launch.only_compiles():
            return x.new_empty(x.shape[0], weight.shape[0] // (2 if gated else 1)) if residual is None else residual
        product: Tensor = weight.multiply(x, norm=norm, residual=residual, gated=gated, bias=bias)
        return product if out is None else out.copy_(product)
    rows = weight.shape[0] // 2 if gated else weight.shape[0]
    if residual is not None:
        out = residual
    elif out is None:
        out = torch.empty(x.shape[0], rows, dtype=x.dtype, device=x.device)
    if config is None:
        config = _choose(x, weight, norm, residual is not None, gated, bias, out)
        if idle and isinstance(config, Gemv):
            config = replace(config, prefetch=_AHEAD_BYTES)
    _run(config, x, weight, norm, residual is not None, gated, bias, out)
    return out


def _run(
    config: Gemv | Tile,
    x: Tensor,
    weight: Tensor,
    norm: Norm | None,
    residual: bool,
    gated: bool,
    bias: Tensor | None,
    out: Tensor,
) -> None:
    from . import linear_triton as kernels

    num_rows, width = x.shape
    rows = out.shape[1]
    threads = 32 * config.warps
    pdl = launch.has_dependent_launch(x.device)
    options = launch.options(config.warps, pdl)
    tiles = -(-rows // config.rows)
    gain, eps = norm if norm is not None else (x, 0.0)
    shared: dict[str, Any] = dict(K=width, GATED=gated, RESIDUAL=residual, BIAS=bias is not None, PDL=pdl)
    shared.update(BN=config.rows, BK=config.columns)
    offset = bias if bias is not None else x
    if isinstance(config, Gemv):
        assert num_rows == 1, "a gemv is for one row"
        ahead = _prefetched(config, threads, width * x.element_size())
        launch.run(
            *(kernels.gemv, (tiles,), x, weight, out, gain, offset, rows, eps),
            **dict(NORM=norm is not None, PREFETCH=ahead, EARLY=config.early, THREADS=threads),
            **shared,
            **options,
        )
        return
    padded = max(16, 1 << (num_rows - 1).bit_length())
    # float16 cannot hold what has not been normed yet.
    how = 0 if norm is None else 2 if x.dtype is torch.float16 else 1
    split = 1 if gated else config.split
    part = out
    if split > 1:
        part = torch.empty(tiles * split * padded * (config.rows + 1), dtype=torch.float32, device=x.device)
    launch.run(
        *(
            kernels.tile,
            (tiles, split),
            x,
            weight,
            out,
            gain,
            offset,
            part,
            launch.counters(x.device),
            num_rows,
            rows,
            eps,
        ),
        **dict(NORM=how, BM=padded, SPLIT=split, STAGES=config.stages),
        **shared,
        **options,
    )


def _prefetched(config: Gemv, threads: int, row_bytes: int) -> int:
    """Bytes of each row to ask for ahead: pieces of 16 bytes at least, one a thread."""
    if config.prefetch == 0 or threads % config.rows:
        return 0
    least = 16 * (threads // config.rows)
    return min(config.prefetch, row_bytes) // least * least


def _step(width: int) -> int:
    """The largest power of two that divides a width, at most 2048: what a program can take at once."""
    return min(width & -width, 2048)


@lru_cache(maxsize=512)
def _table(num_rows: int, rows: int, width: int, gated: bool, wide: bool) -> list[Gemv | Tile]:
    """Candidates for a shape, the likeliest first."""
    step = _step(width)
    if num_rows == 1:
        columns = min(step, 1024)
        if gated:
            return [Gemv(8, columns), Gemv(4, min(step, 2048)), Gemv(8, min(step, 512)), Gemv(4, columns)]
        wide_rows = width > 8192 and step == 2048
        first = Gemv(4, step, 8) if wide_rows else Gemv(4 if rows > 65536 else 8, columns)
        return [first, Gemv(8, columns), Gemv(16, min(step, 512)), Gemv(4, min(step, 2048)), Gemv(4, columns)]
    columns = min(step, 64 if wide else 128)
    if gated:
        narrow = min(columns, 64)
        few: list[Gemv | Tile] = [Tile(64, narrow, 1, 4), Tile(64, columns, 1, 3), Tile(32, columns, 1, 5)]
        many: list[Gemv | Tile] = [Tile(64, narrow, 1, 4), Tile(64, columns, 1, 3), Tile(128, narrow, 1, 3, 8)]
        return few if num_rows <= 16 else many
    splits = [split for split in (1, 2, 4, 8) if width % (split * columns) == 0]
    found: list[Gemv | Tile] = []
    if 4608 <= rows <= 8192 and 4 in splits:
        found.append(Tile(64, columns, 4, 3))  # between one program a processor and two, four to a tile even out
    for tile_rows, stages in ((64, 4), (32, 5), (128, 4)):
        # As few programs to a tile as keep every processor busy.
        fitting = [split for split in splits if -(-rows // tile_rows) * split >= 120] or splits[-1:]
        found += [Tile(tile_rows, columns, split, stages) for split in fitting[:2]]
    return found


def _choose(
    x: Tensor, weight: Tensor, norm: Norm | None, residual: bool, gated: bool, bias: Tensor | None, out: Tensor
) -> Gemv | Tile:
    rows, width = out.shape[1], x.shape[1]
    place = 0 if x.shape[0] == 1 else 1 if x.shape[0] <= 16 else 2 if x.shape[0] <= 32 else 3
    if not x.is_cuda:  # the interpreter, whose time goes by programs, not by work
        return Gemv(512, min(_step(width), 256)) if place == 0 else Tile(512, min(_step(width), 256))
    candidates = _table(x.shape[0], rows, width, gated, x.element_size() == 4)
    if launch.only_compiles() or not measures(launch.capability(x.device)):
        return candidates[0]
    bucket = (1, 16, 32, 64)[place]
    kind = f"{'gated ' if gated else ''}{'norm ' if norm else ''}{str(x.dtype).removeprefix('torch.')}"
    key = f"{card(x.device.index or 0)}: multiply {bucket} x {width} by {rows} {kind}"
    # A measurement must not change what it adds to.
    target = torch.empty_like(out) if residual else out
    return fastest(key, candidates, lambda config: _run(config, x, weight, norm, residual, gated, bias, target))


def embed(ids: Tensor, chosen: Tensor, table: Tensor, scale: float = 1.0) -> Tensor:
    """Look up rows [M, K] of a table [V, K] for int64 ids [M]; an id below 0 stands for `chosen` in its place."""
    from . import linear_triton as kernels

    width = table.shape[1]
    out = torch.empty(ids.shape[0], width, dtype=table.dtype, device=table.device)
    block = 1 << (width - 1).bit_length()
    launch.run(
        kernels.embed, (ids.shape[0],), ids, chosen, table, out, scale, K=width, BLOCK=block, SCALED=scale != 1.0
    )
    return out


def argmax(scores: Tensor, out: Tensor) -> Tensor:
    """Write the place of each row's first maximum of float32 scores [M, V] into out, int64 [M]; return it."""
    from . import linear_triton as kernels

    num_rows, width = scores.shape
    chunks = max(1, min(64, 1 << (width // 2048).bit_length(), (1 << 12) // num_rows))
    chunks = 1 << (chunks.bit_length() - 1)
    chunk = -(-width // chunks)
    values = torch.empty(num_rows, chunks, dtype=torch.float32, device=scores.device)
    places = torch.empty(num_rows, chunks, dtype=torch.int32, device=scores.device)
    pdl = launch.has_dependent_launch(scores.device)
    launch.run(
        *(kernels.argmax, (chunks, num_rows), scores, out, values, places, launch.counters(scores.device), width),
        **dict(CHUNK=chunk, BLOCK=min(2048, 1 << (chunk - 1).bit_length()), CHUNKS=chunks, PDL=pdl),
        **launch.options(4, pdl),
    )
    return out
