"""4-bit normal-float checkpoints, as bitsandbytes serialises them, with and without double quantisation.

A weight of n elements is stored as codes (two a byte, the first in the high nibble) and one scale for every 64
consecutive elements of the *flattened* weight, so blocks cross row ends. With double quantisation the scales are
8-bit codes themselves, with a float32 scale for every 256 of them and one offset. All sizes are read from the JSON
stored beside the weight.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .packed import PackedLinear, PackedWeight, Released, as_stored
from .stored import Problem, Stored

# QLoRA (arXiv 2305.14314), appendix E: quantiles of a normal distribution, scaled to [-1, 1], zero included.
CODE_BOOK = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
_STATE = "quant_state.bitsandbytes__nf4"
_PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_MAX_STATE_BYTES = 1 << 16
_BLOCKS_AT_ONCE = 1 << 16  # while rounding


@dataclass(frozen=True)
class QuantState:
    """What the JSON beside a weight says, checked."""

    shape: tuple[int, int]
    dtype: torch.dtype
    blocksize: int
    nested_blocksize: int = 0  # 0: scales are stored as float32
    nested_offset: float = 0.0

    @property
    def num_elements(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def num_blocks(self) -> int:
        return -(-self.num_elements // self.blocksize)


def parse_state(raw: bytes) -> QuantState:
    """Read the stored JSON. Raises ValueError with a reason, for any text."""
    try:
        fields = json.loads(raw.decode("utf-8"))
        if fields["quant_type"] != "nf4":
            raise ValueError(f"quant_type {fields['quant_type']!r} is not nf4")
        shape, dtype = fields["shape"], _DTYPES.get(str(fields["dtype"]).removeprefix("torch."))
        if dtype is None or len(shape) != 2 or any(type(n) is not int or not 0 < n < 1 << 31 for n in shape):
            raise ValueError(f"dtype {fields['dtype']!r} or shape {shape} is impossible")
        blocksize = fields["blocksize"]
        nested = fields.get("nested_blocksize", 0) if "nested_offset" in fields else 0
        for size in (blocksize, nested or 2):
            if type(size) is not int or not 2 <= size <= 1 << 20 or size % 2:
                raise ValueError(f"block size {size} is impossible")
        offset = float(fields.get("nested_offset", 0.0))
        if not math.isfinite(offset):
            raise ValueError(f"nested_offset {offset} is impossible")
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"its {_STATE} is damaged ({type(error).__name__}: {error})") from error
    return QuantState((shape[0], shape[1]), dtype, blocksize, nested, offset)


class NF4Linear(PackedLinear):
    """codes: uint8 [ceil(n/2)]; absmax: uint8 or float32 [blocks]; nested_*: float32, only with double quantisation."""

    def __init__(self, state: QuantState, state_json: bytes, tensors: dict[str, Tensor]) -> None:
        super().__init__(state.shape[1], state.shape[0], state.dtype)
        self.state, self.state_json = state, state_json
        self.register_buffer("codes", tensors["codes"])
        for name in _PARTS:
            self.register_buffer(name, tensors.get(name))
        # One lookup gives both values of a byte.
        book = self.quant_map
        pairs = torch.stack((book.repeat_interleave(16), book.repeat(16)), dim=1)
        self.register_buffer("pairs", pairs, persistent=False)

    codes: Tensor
    absmax: Tensor
    quant_map: Tensor
    nested_absmax: Tensor | None
    nested_quant_map: Tensor | None
    pairs: Tensor

    @property
    def row_step(self) -> int:
        # Rows after which the flattened blocks begin afresh.
        return self.state.blocksize // math.gcd(self.in_features, self.state.blocksize)

    def scales(self, first: int, last: int) -> Tensor:
        """Return the scales of blocks [first, last), float32."""
        state, absmax = self.state, self.absmax[first:last]
        if self.nested_absmax is None or self.nested_quant_map is None:
            return absmax
        outer = torch.arange(first, last, device=absmax.device) // state.nested_blocksize
        return self.nested_quant_map[absmax.int()] * self.nested_absmax[outer] + state.nested_offset

    def dequantize_rows(self, start: int, stop: int) -> Tensor:
        size, cols = self.state.blocksize, self.in_features
        begin, end = start * cols, stop * cols
        assert begin % size == 0, "rows must start at a block"
        values = self.pairs.index_select(0, self.codes[begin // 2 : (end + 1) // 2].int()).flatten()
        scales = self.scales(begin // size, -(-end // size))
        whole = (end - begin) // size * size  # the last block of the weight may be short
        values[:whole].view(-1, size).mul_(scales[: whole // size, None])
        if whole < end - begin:
            values[whole:].mul_(scales[-1])
        return values[: end - begin].to(self.stored_dtype).view(-1, cols)

    def released(self) -> Released:
        named = {"weight": self.codes.view(-1, 1)}
        named |= {f"weight.{name}": t for name in _PARTS if (t := getattr(self, name)) is not None}
        named[f"weight.{_STATE}"] = torch.frombuffer(bytearray(self.state_json), dtype=torch.uint8)
        return as_stored(named)


def collect(
    tensors: dict[str, Stored], quantization: dict[str, Any] | None
) -> tuple[dict[str, PackedWeight], list[Problem]]:
    """Take the NF4 weights out of `tensors`: a weight is NF4 if and only if its quantisation state is stored.

    `quantization` is the config's own description; everything needed is read from the states instead.
    """
    found: dict[str, PackedWeight] = {}
    problems: list[Problem] = []
    for key in [k for k in tensors if k.endswith("." + _STATE)]:
        name = key.removesuffix("." + _STATE)
        parts: dict[str, Stored] = {"state": tensors.pop(key)}
        for part in _PARTS:
            # Older files put every part under "quant_state.".
            for candidate in (f"{name}.{part}", f"{name}.quant_state.{part}"):
                if candidate in tensors:
                    parts[part] = tensors.pop(candidate)
        if name in tensors:
            parts["codes"] = tensors.pop(name)
        try:
            found[name] = _describe(name, parts)
        except ValueError as error:
            problems.append(Problem(name, parts["state"].file, str(error)))
    for key in tensors:
        if ".quant_state.bitsandbytes__" in key or key.endswith(".SCB"):
            problems.append(Problem(key, tensors[key].file, "is 8-bit or fp4 bitsandbytes; only nf4 is supported"))
    return found, problems


def _describe(name: str, parts: dict[str, Stored]) -> PackedWeight:
    """Check sizes against the state. Raises ValueError with a reason."""
    if parts["state"].nbytes > _MAX_STATE_BYTES or parts["state"].dtype != torch.uint8:
        raise ValueError(f"its {_STATE} is damaged")
    raw = parts["state"].read().numpy().tobytes()
    state = parse_state(raw)
    needed = {"codes": -(-state.num_elements // 2)}
    if state.nested_blocksize:
        outer = -(-state.num_blocks // state.nested_blocksize)
        needed |= {"absmax": state.num_blocks, "nested_absmax": 4 * outer, "nested_quant_map": 4 * 256}
    else:
        needed["absmax"] = state.num_blocks * (parts["absmax"].dtype.itemsize if "absmax" in parts else 4)
    if "quant_map" in parts:  # absent in the oldest files, which mean the standard book
        needed["quant_map"] = 4 * 16
    for part, nbytes in needed.items():
        if part not in parts:
            raise ValueError(f"its {part if part != 'codes' else 'packed weight'} is missing")
        # absmax may be padded to whole outer blocks; nothing else may be longer
        if parts[part].nbytes < nbytes or (parts[part].nbytes > nbytes and "absmax" not in part):
            raise ValueError(f"its {part} has {parts[part].nbytes} bytes, but shape {list(state.shape)} needs {nbytes}")
    for part, want in (("absmax", state.nested_blocksize == 0), ("nested_absmax", True), ("nested_quant_map", True)):
        if part in needed and parts[part].dtype.is_floating_point != want:
            raise ValueError(f"its {part} has dtype {parts[part].dtype}, which its {_STATE} contradicts")

    def build(device: torch.device) -> NF4Linear:
        tensors = {part: parts[part].read().flatten() for part in needed}
        tensors["codes"] = tensors["codes"].view(torch.uint8)  # the storage dtype may be wider
        if state.nested_blocksize == 0:
            tensors["absmax"] = tensors["absmax"].float()
        tensors.setdefault("quant_map", torch.tensor(CODE_BOOK))
        return NF4Linear(state, raw, {part: t.to(device) for part, t in tensors.items()})

    return PackedWeight(name, "nf4", state.shape, [parts["state"], *(parts[p] for p in needed)], build)


def dynamic_map() -> Tensor:
    """Return the 8-bit code book of the scales: signed dynamic-exponent numbers (arXiv 2110.02861), float32 [256].

    For each of 7 decades the mantissas are the midpoints of equal steps in [0.1, 1]; a decade has twice as many as
    the one below. Zero and one complete the set.
    """
    values = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2**exponent + 1)  # float32, so that the book is the released one to the bit
        means = 10.0 ** (exponent - 6) * ((edges[:-1] + edges[1:]) / 2)
        values += [*means.tolist(), *(-means).tolist()]
    return torch.tensor(sorted(values))


def _nearest(values: Tensor, book: Tensor) -> Tensor:
    """Return the index of the nearest entry of a sorted book, uint8, same shape."""
    return torch.bucketize(values, (book[1:] + book[:-1]) / 2).to(torch.uint8)


def quantize(
    weight: Tensor, blocksize: int = 64, double: bool = True, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Quantise a weight [out, in] to the tensors a released file holds, by the name after the module's path.

    dtype: what dequantised values will have; None is the weight's own.
    """
    if weight.ndim != 2:
        raise CheckpointError(f"only matrices can be quantised to nf4, not shape {list(weight.shape)}")
    flat = weight.detach().float().flatten()
    blocks = torch.nn.functional.pad(flat, (0, -len(flat) % blocksize)).view(-1, blocksize)
    absmax = blocks.abs().amax(1)
    book = torch.tensor(CODE_BOOK, device=weight.device)
    codes = torch.empty(blocks.shape, dtype=torch.uint8, device=weight.device)
    for start in range(0, len(blocks), _BLOCKS_AT_ONCE):  # the search works in int64, eight bytes for half a byte
        part = slice(start, start + _BLOCKS_AT_ONCE)
        codes[part] = _nearest(blocks[part] / absmax[part, None].clamp(min=1e-30), book)
    codes = codes.flatten()[: len(flat) + len(flat) % 2]
    state: dict[str, Any] = {
        "quant_type": "nf4",
        "blocksize": blocksize,
        "dtype": str(dtype or weight.dtype).removeprefix("torch."),
        "shape": list(weight.shape),
    }
    out = {"weight": (codes[0::2] << 4 | codes[1::2])[:, None], "weight.quant_map": book}
    if double:
        offset = float(absmax.mean())
        centred = absmax - offset
        outer = torch.nn.functional.pad(centred, (0, -len(centred) % 256)).view(-1, 256)
        nested = outer.abs().amax(1)
        scales = dynamic_map().to(weight.device)
        out["weight.absmax"] = _nearest(outer / nested.clamp(min=1e-30)[:, None], scales).flatten()[: len(centred)]
        out |= {"weight.nested_absmax": nested, "weight.nested_quant_map": scales}
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset}
    else:
        out["weight.absmax"] = absmax
    raw = bytearray(json.dumps(state).encode())
    out[f"weight.{_STATE}"] = torch.frombuffer(raw, dtype=torch.uint8)
    return out
