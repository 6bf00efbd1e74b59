"""Launch the CUDA kernels of cuda/packed.cu: which one, with how many warps, and what they are given.

`gemv` for one row and for up to four of a narrow weight, `tiles` up to 32 rows, `dequantize` for many.
Choices follow measurements on an H200 and an H100 (docs/quantize.md) and the card's number of SMs.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .cuda import nvrtc
from .packed_layout import CHUNK, TILE

if TYPE_CHECKING:
    from .packed import Packed

log = logging.getLogger("cpmv")

MAX_ROWS = 32  # of x in one launch
_FORMATS = {"awq": 0, "nf4": 1, "q4_0": 2, "q8_0": 3, "q4_k": 4, "q6_k": 5, "int8": 6}
_LUT_BYTES = 32 << 10
_SUMS_BYTES = 16 << 10  # of gemv's partial sums, for several tiles at once


class Arguments(ctypes.Structure):
    """`struct Args` of packed.cu."""

    _fields_ = [
        *(
            (name, ctypes.c_void_p)
            for name in (
                "x",
                "codes",
                "scales",
                "extra",
                "high",
                "out",
                "residual",
                "norm",
            )
        ),
        *((name, ctypes.c_void_p) for name in ("bias", "partial", "counter")),
        *((name, ctypes.c_float) for name in ("eps", "scale")),
        *((name, ctypes.c_int) for name in ("M", "N", "K", "tiles", "gated", "splits")),
    ]


@dataclass(frozen=True)
class Choice:
    """kernel: gemv or tiles. depth: weights on their way, in units a warp; blocks: registers allow so many an SM.

    grid: blocks an SM that gemv launches; with fewer than `blocks` the next kernel may begin beside it. prefetch: items
    that gemv asks L2 for before it waits for the kernel ahead.
    """

    kernel: str
    warps: int = 8
    depth: int = 4
    blocks: int = 2
    grid: int = 2
    prefetch: int = 0
    sums: bool = False
    row_tiles: int = 1
    splits: int = 1


@dataclass(frozen=True)
class Card:
    """What the choice depends on."""

    sms: int
    shared: int  # bytes a block may have
    capability: tuple[int, int]


@functools.cache
def card(index: int) -> Card:
    found = torch.cuda.get_device_properties(index)
    shared = getattr(found, "shared_memory_per_block_optin", 48 << 10)
    return Card(found.multi_processor_count, shared, (found.major, found.minor))


@functools.cache
def source() -> str:
    return (Path(__file__).parent / "cuda" / "packed.cu").read_text(encoding="utf-8")


def early_launch(gpu: Card) -> bool:
    """Whether kernels may begin before the one ahead has ended: from sm_90 on, unless CPMV_EARLY_LAUNCH=0."""
    return gpu.capability >= (9, 0) and os.environ.get("CPMV_EARLY_LAUNCH", "1") != "0"


@functools.cache
def _why_not(index: int) -> str:
    """Why these kernels cannot be used on that device; empty when they can."""
    if card(index).capability < (7, 5):
        return "the card has no fitting tensor cores"
    try:
        with torch.cuda.device(index):
            _kernel("rms", "awq", 128, torch.float16, Choice("rms"))
    except nvrtc.CompilerMissingError as error:
        return str(error)
    return ""


def available(device: torch.device) -> bool:
    """Whether the CUDA kernels compile and load here; said once when they do not."""
    index = torch.cuda.current_device() if device.index is None else device.index
    reason = _why_not(index)
    if reason:
        from .packed import say_once

        say_once(
            f"quantised weights use Triton kernels instead of CUDA ones: {reason}",
            logging.WARNING,
        )
    return not reason


_PROVEN: dict[tuple[int, str, int, int, torch.dtype], bool] = {}
_WRONG = 0.02  # relative error that no rounding explains


def proven(weight: Packed, dtype: torch.dtype) -> bool:
    """Whether the kernels give the plain product of a weight's first rows, tried once a format, width and dtype.

    What a compiler or driver breaks is noticed here, not in answers. Within a graph's recording nothing can be tried.
    """
    key = (weight.device.index or 0, weight.format, weight.group, weight.shape[1], dtype)
    if key not in _PROVEN:
        if torch.cuda.is_current_stream_capturing():
            return True
        error = _largest_error(weight, dtype)
        _PROVEN[key] = error < _WRONG
        if not _PROVEN[key]:
            log.warning("%s kernels are off by %.1e here and are not used; please report it", weight.format, error)
    return _PROVEN[key]


def _largest_error(weight: Packed, dtype: torch.dtype) -> float:
    from .packed import multiply_plain

    few = weight.rows(0, min(weight.shape[0], 2 * TILE))
    few.counters = weight.counters
    plain, worst = few.dequantize_plain(torch.float32), 0.0
    generator = torch.Generator(weight.device).manual_seed(0)  # the caller's random numbers stay his
    for rows in (1, 8, MAX_ROWS):
        x = torch.randn(rows, weight.shape[1], device=weight.device, generator=generator).to(dtype)
        gpu = card(weight.device.index or 0)
        choice = choose(weight.format, weight.group, rows, weight.tiles, weight.shape[1], False, gpu)
        truth = multiply_plain(x.float(), plain)
        error = (multiply(few, x, None, None, False, None, choice).float() - truth).norm() / truth.norm()
        worst = max(worst, float(error.nan_to_num(nan=float("inf"))))
    return worst


def macros_of(
    name: str,
    fmt: str,
    group: int,
    dtype: torch.dtype,
    choice: Choice,
    token_tiles: int = 1,
) -> tuple[tuple[str, int], ...]:
    """What a kernel of packed.cu is compiled with."""
    macros = [
        ("FMT", _FORMATS[fmt]),
        ("GROUP", group),
        ("BF16", int(dtype is torch.bfloat16)),
        (name.upper(), 1),
    ]
    if name in ("gemv", "tiles"):
        macros += [
            ("DEPTH", choice.depth),
            ("THREADS", choice.warps * 32),
            ("BLOCKS", choice.blocks),
        ]
    if name == "gemv":
        macros += [
            ("PREFETCH", choice.prefetch),
            ("SUMS", int(choice.sums and fmt == "awq" and group >= 64)),
        ]
    if name == "tiles":
        macros += [("TOKEN_TILES", token_tiles), ("ROW_TILES", choice.row_tiles)]
    return tuple(macros)


def _kernel(
    name: str,
    fmt: str,
    group: int,
    dtype: torch.dtype,
    choice: Choice,
    token_tiles: int = 1,
) -> nvrtc.Kernel:
    return nvrtc.kernel(source(), name, macros_of(name, fmt, group, dtype, choice, token_tiles))


def gemv_shared(
    fmt: str, group: int, rows: int, inputs: int, gated: bool, choice: Choice, items: int = 1 << 20
) -> tuple[int, int]:
    """Shared memory of a block of gemv that has so many items, in bytes, and how many items' sums it holds at once."""
    each = (2 if gated else 1) * choice.warps * 16 * (1 if rows == 1 else 8) * 4  # partial sums of an item
    batch = max(1, min(items, _SUMS_BYTES // each))
    loads = 2 if fmt in ("q8_0", "int8") or group == 128 else 1  # 16-byte loads a lane for a unit
    codes = choice.depth * choice.warps * loads * 512
    row = (inputs + (16 if fmt == "q6_k" else 32)) * 2
    sums = rows * (inputs // CHUNK) * 4 + 8
    return (_LUT_BYTES if fmt == "nf4" else 0) + codes + rows * row + sums + batch * each, batch


def tiles_shared(fmt: str, token_tiles: int, choice: Choice) -> int:
    """Shared memory of a block of tiles, in bytes."""
    row = (128 + (16 if fmt == "q6_k" else 32)) * 2
    codes = choice.warps * choice.row_tiles * (4 if fmt in ("q8_0", "int8") else 2) * 512
    return choice.depth * (8 * token_tiles * row + codes) + (_LUT_BYTES if fmt == "nf4" else 0)


def token_tiles(rows: int) -> int:
    """Groups of 8 rows of x that a kernel is compiled for."""
    return 1 if rows <= 8 else 2 if rows <= 16 else 4


def choose(fmt: str, group: int, rows: int, tiles: int, inputs: int, gated: bool, gpu: Card) -> Choice:
    """Return how to multiply `rows` rows of x with 16 * tiles rows of weights."""
    resident = 2 if rows == 1 else 1  # an SM; x takes much of its shared memory with more rows
    smalls = [Choice("gemv", 16, 4, resident, resident), Choice("gemv", 8, 2, 2, 2, sums=True)]
    if fmt == "nf4" and rows == 1 and gpu.shared >= 3 * _LUT_BYTES + (128 << 10):
        smalls.insert(0, Choice("gemv", 8, 6, 3, 3))  # a step on an H200: 2.59 ms, not 2.63
    for small in smalls:
        fits = gemv_shared(fmt, group, rows, inputs, gated, small)[0] <= gpu.shared
        if fits and (rows == 1 or inputs % 128 or (rows <= 4 and inputs <= 4096 and small.warps == 16)):
            return small
    if inputs % 128:
        raise ValueError(f"{rows} rows of {inputs} inputs do not fit into {gpu.shared} bytes of shared memory")
    return _choose_tiles(fmt, rows, tiles, inputs, gated, gpu)


def _choose_tiles(fmt: str, rows: int, tiles: int, inputs: int, gated: bool, gpu: Card) -> Choice:
    """Weigh warps a block and parts of the inputs by what the busiest SM would take, in cycles or so."""
    items, steps, groups = (tiles // 2 if gated else -(-tiles // 2)), inputs // 128, token_tiles(rows)
    resident = 1 if groups == 4 and fmt in ("q4_k", "q6_k") else 2  # their registers allow one block an SM
    best, least = None, float("inf")
    for warps in (8, 6, 4):
        for splits in (1, 2, 4, 8, 16):
            candidate = Choice("tiles", warps, 3, resident, row_tiles=2, splits=splits)
            if splits > 1 and steps // splits < 3:
                continue
            blocks, share = -(-items // warps) * splits, -(-steps // splits)
            busy = -(-blocks // gpu.sms) * warps * share * (30 + 20 * groups)  # tensor cores and dequantising
            waiting = -(-blocks // (resident * gpu.sms)) * share * 1200  # each step's latency
            cost = max(busy, waiting) + (3000 + 300 * splits if splits > 1 else 0)
            if cost < least and tiles_shared(fmt, groups, candidate) <= gpu.shared:
                best, least = candidate, cost
    return best or Choice("tiles", 2, 2, 1, row_tiles=2)  # a card with little shared memory


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _arguments(weight: Packed, dtype: torch.dtype) -> Arguments:
    tensors = weight.tensors
    table = weight.table(dtype)
    return Arguments(
        codes=tensors["codes"].data_ptr(),
        scales=_pointer(tensors.get("scales")),
        extra=_pointer(tensors.get("extra") if table is None else table),
        high=_pointer(tensors.get("high")),
        counter=_pointer(weight.counters),
        scale=weight.scale,
        N=weight.shape[0],
        K=weight.shape[1],
        tiles=weight.tiles,
        splits=1,
    )


def multiply(
    weight: Packed,
    x: Tensor,
    norm: tuple[Tensor, float] | None,
    residual: Tensor | None,
    gated: bool,
    bias: Tensor | None,
    choice: Choice | None = None,
) -> Tensor:
    """`Packed.multiply` by CUDA kernels; `choice` overrides what would be chosen."""
    rows, width = len(x), weight.shape[0] // (2 if gated else 1)
    out = torch.empty(rows, width, dtype=x.dtype, device=x.device) if residual is None else residual
    if norm is not None:
        norm = (norm[0].to(x.dtype), norm[1])
    bias = None if bias is None else bias.to(x.dtype)
    x = x.contiguous()
    with torch.cuda.device(x.device):
        gpu = card(torch.cuda.current_device())
        at_once = MAX_ROWS if weight.shape[1] % 128 == 0 else 1  # `tiles` walks 128 inputs at a time
        for i in range(0, rows, at_once):
            part = slice(i, i + at_once)
            chosen = choice or choose(
                weight.format,
                weight.group,
                len(x[part]),
                weight.tiles,
                weight.shape[1],
                gated,
                gpu,
            )
            _launch(
                weight,
                x[part],
                norm,
                residual is not None,
                gated,
                bias,
                out[part],
                chosen,
                gpu,
            )
    return out


def _launch(
    weight: Packed,
    x: Tensor,
    norm: tuple[Tensor, float] | None,
    adds: bool,
    gated: bool,
    bias: Tensor | None,
    out: Tensor,
    choice: Choice,
    gpu: Card,
) -> None:
    a = _arguments(weight, x.dtype)
    early = early_launch(gpu)
    if norm is not None and choice.kernel == "tiles":
        x = _normalised(x, norm, early)
        norm = None
    a.x, a.out, a.residual, a.bias = (
        x.data_ptr(),
        out.data_ptr(),
        out.data_ptr() if adds else None,
        _pointer(bias),
    )
    a.norm, a.eps = (norm[0].data_ptr(), norm[1]) if norm is not None else (None, 0.0)
    a.M, a.gated = len(x), int(gated)
    if choice.kernel == "gemv":
        items = weight.tiles // (2 if gated else 1)
        each = -(-items // (gpu.sms * choice.grid))
        shared, a.splits = gemv_shared(weight.format, weight.group, len(x), weight.shape[1], gated, choice, each)
        found = _kernel("gemv", weight.format, weight.group, x.dtype, choice)
        found.launch((-(-items // each), 1), choice.warps * 32, shared, a, early)
        return
    width = token_tiles(len(x))
    items = weight.tiles // 2 if gated else -(-weight.tiles // choice.row_tiles)
    found = _kernel("tiles", weight.format, weight.group, x.dtype, choice, width)
    a.splits = choice.splits
    if choice.splits > 1:
        partial = torch.empty(choice.splits * items * choice.row_tiles * width * 128, device=x.device)
        a.partial = partial.data_ptr()
    grid = (-(-items // choice.warps), choice.splits)
    found.launch(grid, choice.warps * 32, tiles_shared(weight.format, width, choice), a, early)


def _normalised(x: Tensor, norm: tuple[Tensor, float], early: bool) -> Tensor:
    out = torch.empty_like(x)
    a = Arguments(
        x=x.data_ptr(),
        norm=norm[0].data_ptr(),
        out=out.data_ptr(),
        eps=norm[1],
        M=len(x),
        K=x.shape[1],
    )
    _kernel("rms", "awq", 128, x.dtype, Choice("rms")).launch((len(x), 1), 256, 0, a, early)
    return out


def dequantize(weight: Packed, dtype: torch.dtype) -> Tensor:
    """`Packed.dequantize` by a CUDA kernel."""
    out = torch.empty(weight.shape, dtype=dtype, device=weight.device)
    with torch.cuda.device(out.device):
        a = _arguments(weight, dtype)
        a.out = out.data_ptr()
        book = getattr(weight, "book", None)
        if book is not None:
            a.high = book.data_ptr()
        warps = weight.tiles * (weight.shape[1] // CHUNK)
        grid = min(-(-warps // 8), 8 * card(torch.cuda.current_device()).sms)
        _kernel("dequantize", weight.format, weight.group, dtype, Choice("dequantize")).launch((grid, 1), 256, 0, a)
    return out
