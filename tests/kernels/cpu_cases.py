"""Quantised layers of every format that the CPU's kernels take, small and random."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cpmv.weights import awq, int8, nf4
from cpmv.weights.awq import AWQLinear
from cpmv.weights.gguf import TYPES, GGUFTensor
from cpmv.weights.gguf_blocks import GGUFLinear
from cpmv.weights.int8 import Int8Linear
from cpmv.weights.nf4 import NF4Linear
from cpmv.weights.packed import PackedLinear

GGUF_SCALES = {"Q4_0": (0,), "IQ4_NL": (0,), "Q8_0": (0,), "Q4_K": (0, 2), "Q6_K": (208,)}


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def awq_layer(rows: int, columns: int, group: int = 64) -> AWQLinear:
    return AWQLinear(awq.quantize(normal(rows, columns, scale=0.02) + 0.004, group))


def nf4_layer(rows: int, columns: int, double: bool = True) -> NF4Linear:
    tensors = nf4.quantize(normal(rows, columns, scale=0.02), double=double, dtype=torch.float32)
    raw = tensors.pop("weight.quant_state.bitsandbytes__nf4").numpy().tobytes()
    named = {name.removeprefix("weight."): t for name, t in tensors.items() if name != "weight"}
    return NF4Linear(nf4.parse_state(raw), raw, named | {"codes": tensors["weight"].flatten()})


def int8_layer(rows: int, columns: int) -> Int8Linear:
    tensors = int8.quantize(normal(rows, columns, scale=0.02))
    return Int8Linear(tensors["weight"], tensors["weight_scale"], torch.float32)


def gguf_layer(type_name: str, rows: int, columns: int) -> GGUFLinear:
    """Uniform bytes with believable scales: every code, sub-scale and minimum occurs."""
    type_ = next(t for t in TYPES.values() if t.name == type_name)
    generator = torch.Generator().manual_seed(rows)
    blocks = torch.randint(0, 256, (rows * columns // type_.elements, type_.nbytes), generator=generator)
    raw = blocks.to(torch.uint8)
    for at in GGUF_SCALES[type_name]:
        scales = (torch.rand(len(raw), 1, generator=generator) - 0.3) * 0.01
        raw[:, at : at + 2] = scales.half().view(torch.uint8)

    class InMemory:
        def tensor(self, offset: int, nbytes: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
            return raw.view(shape)

    tensor = GGUFTensor("random", type_, (rows, columns), 0, raw.numel(), InMemory())  # type: ignore[arg-type]
    return GGUFLinear(tensor, torch.device("cpu"))


LAYERS: dict[str, Callable[[int, int], PackedLinear]] = {
    "AWQ": awq_layer,
    "NF4": nf4_layer,
    "NF4 single": lambda rows, columns: nf4_layer(rows, columns, double=False),
    "int8": int8_layer,
    "Q4_0": lambda rows, columns: gguf_layer("Q4_0", rows, columns),
    "IQ4_NL": lambda rows, columns: gguf_layer("IQ4_NL", rows, columns),
    "Q8_0": lambda rows, columns: gguf_layer("Q8_0", rows, columns),
    "Q4_K": lambda rows, columns: gguf_layer("Q4_K", rows, columns),
    "Q6_K": lambda rows, columns: gguf_layer("Q6_K", rows, columns),
}
# Largest error of a dequantised weight, relative to the largest weight. AWQ's truth rounds to float16, NF4's kernel
# rounds scales to it; the others are exact.
WEIGHT_TOLERANCE = {"AWQ": 5e-4, "NF4": 5e-4, "NF4 single": 5e-4}
# Error of a float32 product, in the norm. NF4's values are bfloat16 where products are; float32 inputs are two
# bfloat16 numbers there.
PRODUCT_TOLERANCE = {"AWQ": 5e-4, "NF4": 3e-3, "NF4 single": 3e-3}


def error(found: Tensor, truth: Tensor) -> float:
    return float((found.double() - truth.double()).norm() / truth.double().norm())
