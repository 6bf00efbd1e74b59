"""The base of every layer whose weight stays quantised in memory: dequantise some rows, multiply, forget them.

This is the plain truth that faster kernels are compared with. A format supplies `dequantize_rows`; chunking, casting
and the gradient with respect to the input are here. Where a kernel fits (`weights/kernels.py`) products go to it; on a
GPU its layout of the weight then stands for the stored tensors, which are made anew for whoever asks for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .stored import Stored

# Most weight elements that exist dequantised at once: 64 MiB in float32, small beside the files.
_CHUNK_ELEMENTS = 1 << 24
# On a CPU they are made in pieces that stay in cache from the first lookup to the last cast: 8x faster, measured.
_CACHE_ELEMENTS = 1 << 20

# Tensors of a released file by the name after the module's path: dtype, shape, and how to make them.
Released = dict[str, tuple[torch.dtype, tuple[int, ...], Callable[[], Tensor]]]


def as_stored(tensors: dict[str, Tensor]) -> Released:
    """Describe tensors that are written as they are."""
    return {name: (t.dtype, tuple(t.shape), lambda t=t: t) for name, t in tensors.items()}  # type: ignore[misc]


class PackedKernel(Protocol):
    """A weight [N, K] laid out for a kernel."""

    shape: tuple[int, int]

    @property
    def device(self) -> torch.device: ...

    @property
    def nbytes(self) -> int: ...

    def multiply(
        self,
        x: Tensor,
        *,
        norm: tuple[Tensor, float] | None = None,
        residual: Tensor | None = None,
        gated: bool = False,
        bias: Tensor | None = None,
    ) -> Tensor: ...

    def dequantize(self, dtype: torch.dtype) -> Tensor: ...


class PackedLinear(nn.Module):
    """A linear map over a quantised weight [out, in].

    Subclasses register their tensors as buffers; these keep their dtypes whatever `.to(dtype)` is asked for, because
    the stored scales are exact only as stored.
    """

    bias: nn.Parameter | None

    def __init__(self, in_features: int, out_features: int, stored_dtype: torch.dtype) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.stored_dtype = stored_dtype
        self.register_parameter("bias", None)
        self.kernel: PackedKernel | None = None
        self.kernel_refused = False  # none fits; not to be asked again
        self._gone: tuple[str, ...] = ()
        self._remake: Callable[[], dict[str, Tensor]] | None = None

    @property
    def place(self) -> torch.device:
        """The device of the weight."""
        return next(self.buffers()).device

    def give_way(self, kernel: PackedKernel, names: tuple[str, ...], remake: Callable[[], dict[str, Tensor]]) -> None:
        """Forget the buffers `names`: `kernel` holds their numbers, and `remake` returns them as they were."""
        self.register_buffer("marker", torch.empty(0, device=kernel.device), persistent=False)  # knows the device
        self._gone, self._remake = names, remake
        for name in names:
            del self._buffers[name]

    def take_back(self) -> None:
        """Undo `give_way`, and let go of any kernel."""
        if self._remake is not None:
            tensors, self._gone = self._remake(), ()
            for name, tensor in tensors.items():
                self.register_buffer(name, tensor)
            del self._buffers["marker"]
        self.kernel, self.kernel_refused, self._gone, self._remake = None, False, (), None

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("_gone", ()):
            remake = self.__dict__["_remake"]
            return remake()[name]
        return super().__getattr__(name)

    @property
    def row_step(self) -> int:
        """Rows are dequantised from multiples of this."""
        return 1

    def dequantize_rows(self, start: int, stop: int) -> Tensor:
        """Return rows [stop - start, in] in `stored_dtype`; start is a multiple of `row_step`."""
        raise AssertionError(f"{type(self).__name__} does not dequantise")

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the weight [out, in], exactly as the format defines it, in `stored_dtype` or cast to `dtype`."""
        return self._rows(0, self.out_features, dtype or self.stored_dtype)

    def released(self) -> Released:
        """Describe the tensors that a released file holds for this weight, by the name after the module's path."""
        raise AssertionError(f"{type(self).__name__} has no released form")

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            out: Tensor = _InputGradient.apply(x, self)
            return out if self.bias is None else out + self.bias.to(x.dtype)
        return self._multiply(x, self.bias)

    def _chunks(self, start: int, stop: int, elements: int) -> list[tuple[int, int]]:
        """Split rows into ranges of about `elements`, each starting at a multiple of `row_step`."""
        rows = max(1, elements // self.in_features // self.row_step) * self.row_step
        return [(i, min(i + rows, stop)) for i in range(start, stop, rows)]

    def _rows(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        device = self.place
        if device.type != "cpu":
            return self.dequantize_rows(start, stop).to(dtype)
        out = torch.empty(stop - start, self.in_features, dtype=dtype)
        for i, j in self._chunks(start, stop, _CACHE_ELEMENTS):
            # Cast first: only a copy within one dtype transposes fast, and some formats come transposed.
            out[i - start : j - start] = self.dequantize_rows(i, j).to(dtype)
        return out

    def _kernel_for(self, x: Tensor) -> PackedKernel | None:
        if x.device.type == "cuda" and x.dtype not in (torch.float16, torch.bfloat16):
            return None
        if self.kernel is None and not self.kernel_refused:
            from .kernels import pack

            return pack(self)
        return self.kernel

    def _multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        kernel = self._kernel_for(x)
        if kernel is not None:
            rows = x.reshape(-1, self.in_features).contiguous()
            return kernel.multiply(rows, bias=bias).view(*x.shape[:-1], self.out_features)
        bias = None if bias is None else bias.to(x.dtype)
        parts = [
            F.linear(x, self._rows(i, j, x.dtype), None if bias is None else bias[i:j])
            for i, j in self._chunks(0, self.out_features, _CHUNK_ELEMENTS)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PackedLinear:
        self.take_back()  # a kernel's layout is for one device
        dtypes = {name: buffer.dtype for name, buffer in self._buffers.items() if buffer is not None}
        originals = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, dtype in dtypes.items():
            moved, original = self._buffers[name], originals[name]
            if moved is not None and original is not None and moved.dtype != dtype:
                self._buffers[name] = original.to(moved.device)
        return self

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class _InputGradient(torch.autograd.Function):
    """The product and its gradient for x alone; the weight is dequantised again rather than kept for backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: PackedLinear) -> Tensor:
        ctx.layer = layer
        return layer._multiply(x, None)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        layer: PackedLinear = ctx.layer
        kernel = layer._kernel_for(grad)
        if kernel is not None and hasattr(kernel, "input_gradient"):
            return kernel.input_gradient(grad), None
        out = None
        for i, j in layer._chunks(0, layer.out_features, _CHUNK_ELEMENTS):
            part = grad[..., i:j] @ layer._rows(i, j, grad.dtype)
            out = part if out is None else out + part
        assert out is not None
        return out, None


@dataclass(frozen=True)
class PackedWeight:
    """A quantised weight found in a checkpoint. `build(device)` makes its layer, without a bias."""

    name: str  # of the weight it stands for: "<module>.weight"
    format: str
    shape: tuple[int, int]  # [out, in]
    stored: list[Stored]
    build: Callable[[torch.device], nn.Module]
    embedding: bool = field(default=False)  # whether it can stand for an embedding table

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.stored)

    @property
    def place(self) -> tuple[str, int]:
        return min(t.place for t in self.stored)
