"""What the machine can do, measured in the run whose numbers stand beside it.

Reading memory (the limit of decoding), matrix products of the model's own shapes and attention of its own lengths (the
limit of prefill and vision). Each is the best of a few calls to what torch offers, in the model's dtype.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..weights.plan import free_memory
from .timing import best_of

log = logging.getLogger("cpmv")

_PROBE_BYTES = {"cuda": 8 << 30, "cpu": 512 << 20}  # far above any cache
_CUDA_BACKENDS = (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)


class Machine:
    """Measured abilities of a device in one dtype; each is measured when it is first asked for, and kept.

    budget_s: for one measurement, warm-up aside.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, budget_s: float = 0.05) -> None:
        self.device, self.dtype = device, dtype
        self._budget_s = budget_s if device.type == "cuda" else max(budget_s, 0.2)
        self._seconds: dict[tuple[Any, ...], float] = {}

    @cached_property
    def read_bytes_per_s(self) -> float:
        """Bytes read a second: the best of a matrix-vector product and two reductions over more than any cache."""
        rows = self._probe_bytes // (4096 * self.dtype.itemsize)
        matrix = self._empty(rows, 4096).zero_()
        vector = self._empty(4096).zero_()
        words = matrix.view(-1).view(torch.int32)
        probes: list[Callable[[], object]] = [
            lambda: torch.mv(matrix, vector),
            lambda: words.max(),
            lambda: torch.sum(matrix, dtype=torch.float32),
        ]
        return matrix.nbytes / min(self._best(probe) for probe in probes)

    @cached_property
    def copy_bytes_per_s(self) -> float:
        """Bytes read and written a second by a copy."""
        source = torch.zeros(self._probe_bytes // 2, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        return 2 * source.nbytes / self._best(lambda: target.copy_(source))

    @property
    def _probe_bytes(self) -> int:
        return min(_PROBE_BYTES.get(self.device.type, 1 << 30), int(0.2 * free_memory(self.device))) // 8192 * 8192

    def gemm_s(self, rows: int, inputs: int, outputs: int) -> float:
        """Seconds of [rows, inputs] times [inputs, outputs]; beyond 32,768 rows in proportion."""
        if rows > 1 << 15:
            return self.gemm_s(1 << 15, inputs, outputs) * rows / (1 << 15)
        return self._kept(("gemm", rows, inputs, outputs), lambda: self._gemm(rows, inputs, outputs))

    def causal_s(self, length: int, num_heads: int, num_kv_heads: int, head_dim: int) -> float:
        """Seconds of causal self-attention of one sequence, by the fastest backend."""
        key = ("causal", length, num_heads, num_kv_heads, head_dim)
        return self._kept(key, lambda: self._attention(1, length, num_heads, num_kv_heads, head_dim, True))

    def attention_s(self, batch: int, length: int, num_heads: int, head_dim: int) -> float:
        """Seconds of attention within each of `batch` sequences; beyond 36 in proportion."""
        if batch > 36:
            return self.attention_s(36, length, num_heads, head_dim) * batch / 36
        key = ("full", batch, length, num_heads, head_dim)
        return self._kept(key, lambda: self._attention(batch, length, num_heads, num_heads, head_dim, False))

    def _kept(self, key: tuple[Any, ...], measure: Callable[[], float]) -> float:
        if key not in self._seconds:
            self._seconds[key] = measure()
        return self._seconds[key]

    @torch.inference_mode()
    def _gemm(self, rows: int, inputs: int, outputs: int) -> float:
        x, weight = self._random(rows, inputs), self._random(outputs, inputs)
        return self._best(lambda: F.linear(x, weight))

    @torch.inference_mode()
    def _attention(
        self, batch: int, length: int, num_heads: int, num_kv_heads: int, head_dim: int, causal: bool
    ) -> float:
        def run() -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=num_heads != num_kv_heads)

        q = self._random(batch, num_heads, length, head_dim)
        k, v = (self._random(batch, num_kv_heads, length, head_dim) for _ in range(2))
        if self.device.type != "cuda":
            return self._best(run)
        found = []
        for backend in _CUDA_BACKENDS:
            try:
                with sdpa_kernel(backend), warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # it warns at length before it raises
                    found.append(self._best(run))
            except RuntimeError as error:  # not for this card, dtype or head width
                log.debug("%s is not available here: %s", backend, error)
        return min(found) if found else self._best(run)

    def _best(self, run: Callable[[], object]) -> float:
        return best_of(self.device, run, budget_s=self._budget_s)

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def _random(self, *shape: int) -> Tensor:
        # Of uniform spread: zeros would draw less power, and a card clocks by what it draws.
        return torch.rand(shape, dtype=self.dtype, device=self.device).sub_(0.5)

    def measured(self) -> dict[str, float]:
        """Everything measured so far: bytes a second, and FLOP a second of each product."""
        found: dict[str, float] = {}
        for name in ("read_bytes_per_s", "copy_bytes_per_s"):
            if name in self.__dict__:
                found[name] = self.__dict__[name]
        for key, seconds in self._seconds.items():
            name = "x".join(map(str, key[1:]))
            found[f"{key[0]}_{name}_flop_per_s"] = _flop(key) / seconds
        return found


def _flop(key: tuple[Any, ...]) -> float:
    if key[0] == "gemm":
        return 2.0 * key[1] * key[2] * key[3]
    if key[0] == "causal":
        return 2.0 * key[1] ** 2 * key[2] * key[4]  # two products over half the square
    return 4.0 * key[1] * key[2] ** 2 * key[3] * key[4]
