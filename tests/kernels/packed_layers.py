"""Small quantised layers of every format with random numbers, for the tests of packed weights."""

from __future__ import annotations

import torch
from torch import Tensor

from cpmv.weights import awq, int8, nf4
from cpmv.weights.gguf import TYPES, GGUFTensor
from cpmv.weights.gguf_blocks import GGUFLinear
from cpmv.weights.packed import PackedLinear

# Where a block keeps its float16 scales.
_SCALES_AT = {"Q4_0": (0,), "Q8_0": (0,), "Q4_K": (0, 2), "Q6_K": (208,), "Q5_0": (0,)}
NAMES = (
    "awq 32",
    "awq 64",
    "awq 128",
    "awq 256",
    "nf4 64",
    "nf4 128",
    "nf4 plain",
    "int8",
    "Q4_0",
    "Q8_0",
    "Q4_K",
    "Q6_K",
)


class _Memory:
    """A mapped file's stand-in."""

    def __init__(self, octets: Tensor) -> None:
        self.octets = octets

    def tensor(self, offset: int, nbytes: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        return self.octets.view(shape)


def gguf_layer(name: str, rows: int, inputs: int, generator: torch.Generator) -> GGUFLinear:
    kind = next(t for t in TYPES.values() if t.name == name)
    blocks = torch.randint(0, 256, (rows * inputs // kind.elements, kind.nbytes), generator=generator).to(torch.uint8)
    for at in _SCALES_AT[name]:
        scales = (torch.rand(len(blocks), 1, generator=generator) + 0.5) * 1e-3
        blocks[:, at : at + 2] = scales.half().view(torch.uint8)
    raw = blocks.view(rows, -1)
    return GGUFLinear(GGUFTensor("t", kind, (rows, inputs), 0, raw.numel(), _Memory(raw)), torch.device("cpu"))  # type: ignore[arg-type]


def layer(name: str, rows: int = 88, inputs: int = 512, seed: int = 0) -> PackedLinear:
    """A layer [rows, inputs]; 88 rows are five tiles and a half."""
    generator = torch.Generator().manual_seed(seed)
    format_, _, detail = name.partition(" ")
    if format_ not in ("awq", "nf4", "int8"):
        return gguf_layer(name, rows, inputs, generator)
    weight = torch.randn(rows, inputs, generator=generator) * 0.05
    if format_ == "awq":
        return awq.AWQLinear(awq.quantize(weight, int(detail)))
    if format_ == "int8":
        made = int8.quantize(weight)
        return int8.Int8Linear(made["weight"], made["weight_scale"], torch.bfloat16)
    made = nf4.quantize(weight, 64 if detail == "plain" else int(detail), detail != "plain", torch.bfloat16)
    state = made.pop("weight.quant_state.bitsandbytes__nf4").numpy().tobytes()
    tensors = {key.removeprefix("weight."): tensor for key, tensor in made.items() if key != "weight"}
    return nf4.NF4Linear(nf4.parse_state(state), state, tensors | {"codes": made["weight"].flatten()})
