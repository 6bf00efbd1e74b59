"""A decoder layer for a few rows on a CPU as one call: `cpu/decoder.cpp`, seen from Python.

Between products it works in float32 and rounds where the plain layer does; the truth is `model.language.DecoderLayer`.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from .cpu_build import library
from .cpu_dense import matrix_of, takes
from .cpu_packed import CPUPacked, Matrix

MATRICES = ("query", "key", "value", "output", "gate", "up", "down")
NORMS = ("norm", "mlp_norm", "query_norm", "key_norm")


class _Layer(ctypes.Structure):
    """`Layer` of cpu/decoder.cpp."""

    _fields_ = (*((name, Matrix) for name in MATRICES), *((name, ctypes.c_void_p) for name in NORMS))


class _Step(ctypes.Structure):
    """`Step` of cpu/decoder.cpp."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in ("count", "width", "heads", "key_heads", "head_dim", "block_size", "blocks_per_row")
        ),
        *((name, ctypes.c_void_p) for name in ("blocks", "lengths", "slots", "cosines", "sines")),
        *((name, ctypes.c_double) for name in ("eps", "head_eps")),
        ("is_bf16", ctypes.c_int64),
    )


@dataclass(frozen=True)
class Shape:
    """What all layers share. eps: of the norms over E; head_eps: of those over a head."""

    width: int
    heads: int
    key_heads: int
    head_dim: int
    eps: float
    head_eps: float

    def is_supported(self) -> bool:
        return self.width % 16 == 0 and self.head_dim % 32 == 0 and self.heads % self.key_heads == 0


@dataclass(frozen=True)
class Rows:
    """The rows of a step. blocks int64 [M, n], lengths int64 [M] (keys that a row sees, its own included), slots int64
    [M]; cosines and sines [M, D].
    """

    blocks: Tensor
    lengths: Tensor
    slots: Tensor
    cosines: Tensor
    sines: Tensor


class DecoderLayer:
    """Weights of a layer: each packed or of 16 bits, with an optional bias; norms as tensors. `fits` says which."""

    def __init__(
        self, shape: Shape, weights: dict[str, tuple[CPUPacked | Tensor, Tensor | None]], norms: dict[str, Tensor]
    ) -> None:
        found = library()
        assert found is not None and set(weights) == set(MATRICES) and set(norms) == set(NORMS)
        self._library, self._shape = found, shape
        # Everything that the structure points to.
        self._held: list[object] = [weights]
        self._layer = _Layer()
        for name, (weight, bias) in weights.items():
            wide = None if bias is None else bias.detach().float().contiguous()
            self._held.append(wide)
            made = weight.matrix(wide) if isinstance(weight, CPUPacked) else matrix_of(weight, wide)
            setattr(self._layer, name, made)
        for name, norm in norms.items():
            wide = norm.detach().float().contiguous()
            self._held.append(wide)
            setattr(self._layer, name, wide.data_ptr())
        self._address = ctypes.addressof(self._layer)

    def run(self, x: Tensor, rows: Rows, keys: Tensor, values: Tensor) -> None:
        """Turn x float32 [M, E] into the layer's output, where it lies; write keys and values of its rows.

        keys, values: the layer's pools [blocks, block size, K, D], bfloat16 or float32; with bfloat16 ones x holds
        bfloat16 numbers.
        """
        s = self._shape
        step = _Step(x.shape[0], s.width, s.heads, s.key_heads, s.head_dim, keys.shape[1], rows.blocks.shape[1])
        for name in ("blocks", "lengths", "slots", "cosines", "sines"):
            tensor = getattr(rows, name)
            assert tensor.is_contiguous()
            setattr(step, name, tensor.data_ptr())
        step.eps, step.head_eps, step.is_bf16 = s.eps, s.head_eps, keys.dtype is torch.bfloat16
        self._library.cpmv_decoder_layer(
            self._address,
            ctypes.addressof(step),
            x.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            torch.get_num_threads(),
        )


def fits(weight: object) -> bool:
    """Whether a layer may have such a weight: packed for the CPU, or of 16 bits."""
    return isinstance(weight, CPUPacked) or (isinstance(weight, Tensor) and takes(weight))
