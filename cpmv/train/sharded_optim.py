"""AdamW over sharded parameters, with `optim.Optimizer`'s interface; its state as a distributed checkpoint.

A checkpoint is torch.distributed.checkpoint's in its safetensors form (no pickle): each rank writes its slices, and any
number of ranks reads them again. "adamw8bit" keeps both moments in 8 bits a value (torchao's; blocks of 256 values with
a scale each): 2 bytes a parameter instead of 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CpmvError
from .distributed import World
from .optim import BETA1, BETA2, EPS, decays

KINDS = ("adamw", "adamw8bit")
_MOMENTS = ("exp_avg", "exp_avg_sq")


class HostRate:
    """A learning rate that lives on the host, filled as a device scalar is."""

    def __init__(self) -> None:
        self._value = 0.0

    def fill_(self, value: float) -> None:
        self._value = value

    def __float__(self) -> float:
        return self._value


class ShardedOptimizer:
    """Steps the sharded parameters that learn.

    kind: of `KINDS`. scale_of: a parameter's own factor on the rate, by its name. loss_scale: what a rank's loss must
    be multiplied with so that gradients, which sharding averages over ranks, are sums.
    """

    layout: Mapping[str, tuple[int, torch.Size]] = MappingProxyType({})  # there is no flat buffer

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        world: World,
        *,
        kind: str = "adamw",
        weight_decay: float = 0.0,
        clip_norm: float = 1.0,
        scale_of: Callable[[str], float] | None = None,
    ) -> None:
        self.named = {name: p for name, p in named_parameters if p.requires_grad}
        assert self.named, "nothing to train"
        self.lr: Any = HostRate()
        self.loss_scale = float(world.size)
        self.clip_norm, self.kind = clip_norm, kind
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, param in self.named.items():
            key = (scale_of(name) if scale_of else 1.0, weight_decay if decays(name, param) else 0.0)
            groups.setdefault(key, []).append(param)
        self._groups = [
            {"params": params, "weight_decay": decay, "scale": scale} for (scale, decay), params in groups.items()
        ]
        self._adam = _adam(kind)(self._groups, lr=0.0, betas=(BETA1, BETA2), eps=EPS)

    def zero_grad(self) -> None:
        self._adam.zero_grad(set_to_none=True)

    def add_grads(self, world: World) -> None:
        """Gradients were summed as they came."""

    def share_params(self, world: World) -> None:
        """Every rank read the same file."""

    @torch.no_grad()
    def step(self) -> Tensor:
        """Clip, then update. Return the gradient's norm before clipping, a device scalar."""
        grads = [p.grad for p in self.named.values() if p.grad is not None]
        norm: Tensor = torch.nn.utils.get_total_norm(grads).full_tensor()  # type: ignore[attr-defined]
        factor = (self.clip_norm / (norm + 1e-6)).clamp(max=1.0)
        for grad in grads:
            grad.to_local().mul_(factor)  # type: ignore[attr-defined]
        for group in self._adam.param_groups:
            rate = float(self.lr) * group["scale"]
            _set_rate(group, rate)
        self._adam.step()
        return norm

    def save(self, folder: Path) -> None:
        """Write this rank's part. Every rank must call it."""
        import torch.distributed.checkpoint as dcp

        dcp.save(self._tensors(), storage_writer=_storage("Writer", folder))

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Read what `save` wrote, on this number of ranks or another."""
        import torch.distributed.checkpoint as dcp

        self._make_state()
        tensors = self._tensors()
        dcp.load(tensors, storage_reader=_storage("Reader", folder))
        for param in self.named.values():
            count = self._adam.state[param]["step"]
            count.copy_(tensors["step"][0])

    def _tensors(self) -> dict[str, Tensor]:
        """What a state holds: parameters, moments, steps done."""
        tensors: dict[str, Tensor] = {}
        for name, param in self.named.items():
            tensors[f"params.{name}"] = param.detach()
            for moment in _MOMENTS:
                value = self._adam.state[param][moment]
                for part, tensor in _stored(value).items():
                    tensors[f"{moment}.{name}{part}"] = tensor
        first = next(iter(self.named.values()))
        tensors["step"] = self._adam.state[first]["step"].detach().clone().reshape(1)
        return tensors

    def _make_state(self) -> None:
        """Let the optimiser make its (zero) moments: with a rate of zero and no gradient nothing else moves."""
        before = {p: p.grad for p in self.named.values()}
        decay = [group["weight_decay"] for group in self._adam.param_groups]
        for group in self._adam.param_groups:
            group["weight_decay"] = 0.0
            _set_rate(group, 0.0)
        for param in self.named.values():
            param.grad = torch.zeros_like(param)
        self._adam.step()
        for group, value in zip(self._adam.param_groups, decay, strict=True):
            group["weight_decay"] = value
        for param, grad in before.items():
            param.grad = grad


def _stored(value: Any) -> dict[str, Tensor]:
    """A moment as plain sharded tensors: itself, or the codes and scales of an 8-bit one.

    Blocks are counted within a rank's slice, so scales belong to a rank and are named by it.
    """
    local = value.to_local()
    if not hasattr(local, "codes"):
        return {"": value}
    from torch.distributed.tensor import DTensor

    mesh = value.device_mesh
    codes = DTensor.from_local(
        local.codes, mesh, value.placements, run_check=False, shape=value.shape, stride=value.stride()
    )
    return {".codes": codes, f".scale-{mesh.get_local_rank()}-of-{mesh.size()}": local.scale}


def _set_rate(group: dict[str, Any], rate: float) -> None:
    if isinstance(group["lr"], Tensor):  # torchao's, which must stay the same tensor
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _adam(kind: str) -> Callable[..., torch.optim.Optimizer]:
    if kind == "adamw":
        return torch.optim.AdamW
    if kind != "adamw8bit":
        raise CpmvError(f"optimizer {kind!r} is unknown; use {' or '.join(KINDS)}")
    try:
        from torchao.optim import AdamW8bit
    except ImportError:
        raise CpmvError("adamw8bit needs torchao; install it with: pip install 'cpmv[optim8]'") from None
    adam: Callable[..., torch.optim.Optimizer] = AdamW8bit
    return adam


def _storage(what: str, folder: Path) -> Any:
    """torch's safetensors form of distributed checkpoints (torch 2.8 and newer)."""
    import torch.distributed.checkpoint as dcp

    kind = getattr(dcp, f"HuggingFaceStorage{what}", None)
    if kind is None:
        raise CpmvError(f"saving a sharded run needs torch 2.8 or newer, not {torch.__version__}; give --save-every 0")
    return kind(str(folder), save_distributed=True) if what == "Writer" else kind(str(folder))
