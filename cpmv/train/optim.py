"""From gradients to a step: Muon for the matrices of the blocks, AdamW for the rest, and the learning-rate schedules.

All trained parameters live in one flat float32 buffer, their gradients in another, so that clipping, AdamW and a
data-parallel sum are single operations, and matrices of one shape lie together as a batch [n, rows, columns]. Every
number that changes between steps is a device scalar: a step can be captured in a CUDA graph.
Muon: momentum, Nesterov, and five Newton-Schulz steps that pull all singular values of the update towards one
(K. Jordan 2024, https://kellerjordan.github.io/posts/muon), scaled to AdamW's typical update (arXiv 2502.16982).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .config import Schedule
from .distributed import World

MOMENTUM = 0.95
BETA1, BETA2, EPS = 0.9, 0.95, 1e-8
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic whose iteration sends (0, 1] to about (0.7, 1.2)
_ALIGN = 64  # elements; every parameter starts on a 256-byte boundary


@dataclass(frozen=True)
class Horizon:
    """How long a run is, in steps, and where its decay begins (used by "wsd" alone)."""

    total: int
    decay_start: int

    @classmethod
    def of(cls, total: int, schedule: Schedule) -> Horizon:
        return cls(total, min(total - 1, round(total * (1 - schedule.decay_fraction))))


def lr_factor(schedule: Schedule, step: int, horizon: Horizon) -> float:
    """Return the share of the peak rate at `step` (0-based).

    Warm-up is linear and at most a quarter of the run; a decay reaches the floor exactly at the last step.
    """
    warmup = max(1, min(schedule.warmup_steps, horizon.total // 4))
    if step < warmup:
        return (step + 1) / warmup
    if schedule.kind == "constant":
        return 1.0
    first = max(warmup, horizon.decay_start) if schedule.kind == "wsd" else warmup
    done = min(1.0, max(0.0, (step + 1 - first) / max(1, horizon.total - first)))
    shape = 0.5 * (1 + math.cos(math.pi * done)) if schedule.kind == "cosine" else 1 - done
    return schedule.floor + (1 - schedule.floor) * shape


def fade(progress: float, start: float, end: float, floor: float = 0.02) -> float:
    """Return 1 up to `start`, then a straight line to `floor` at `end`; the auxiliary losses' weight over a run."""
    done = min(1.0, max(0.0, (progress - start) / max(1e-9, end - start)))
    return 1.0 - (1.0 - floor) * done


def uses_muon(name: str, param: Tensor) -> bool:
    """Whether Muon steps this parameter: a matrix inside a block or the resampler, by its released name."""
    in_block = ".layers." in name or name.startswith("resampler.")
    return param.ndim == 2 and in_block and name != "resampler.query"


def decays(name: str, param: Tensor) -> bool:
    """Whether weight decay applies: matrices, but neither positions nor queries."""
    return param.ndim >= 2 and "position_embedding" not in name and name != "resampler.query"


@dataclass(frozen=True)
class _Matrices:
    """A batch of equally shaped matrices within the flat buffer: [count, rows, columns] from `start`."""

    start: int
    count: int
    rows: int
    columns: int

    def view(self, flat: Tensor) -> Tensor:
        end = self.start + self.count * self.rows * self.columns
        return flat[self.start : end].view(self.count, self.rows, self.columns)


class Optimizer:
    """Owns the trained parameters' storage. `lr` is the Muon rate, a device scalar; AdamW uses `adam_scale` times it.

    params, grads: the flat buffers; first: momentum (Muon) or first moment (AdamW); second: AdamW's second moment;
    count: steps done, float32, as the bias correction needs it on the device. With muon=False AdamW steps everything,
    at `adam_scale` times `lr`; scale_of then gives a parameter's own factor on that, by its name.
    """

    loss_scale = 1.0  # what a loss is multiplied with so that added gradients are those of the whole step

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        adam_scale: float = 0.6,
        weight_decay: float = 0.05,
        clip_norm: float = 1.0,
        muon: bool = True,
        scale_of: Callable[[str], float] | None = None,
    ) -> None:
        assert scale_of is None or not muon, "only AdamW has rates by parameter"
        self.muon = muon
        trained = [(n, p) for n, p in named_parameters if p.requires_grad]
        assert trained, "nothing to train"
        self.adam_scale, self.weight_decay, self.clip_norm = adam_scale, weight_decay, clip_norm
        self.layout: dict[str, tuple[int, torch.Size]] = {}
        self._matrices: list[_Matrices] = []
        size = self._lay_out(trained)
        device = trained[0][1].device
        self.params = torch.zeros(size, device=device)
        self.grads, self.first = torch.zeros_like(self.params), torch.zeros_like(self.params)
        self.second = torch.zeros(self._adam_end, device=device)
        self.count = torch.zeros((), device=device)
        self.lr = torch.zeros((), device=device)
        self._scales = None if scale_of is None else torch.ones(size, device=device)
        for name, param in trained:
            start, shape = self.layout[name]
            room = self.params[start : start + param.numel()].view(shape)
            room.copy_(param.detach())
            param.data = room
            param.grad = self.grads[start : start + param.numel()].view(shape)
            if scale_of is not None and self._scales is not None:
                self._scales[start : start + param.numel()] = scale_of(name)

    def _lay_out(self, trained: list[tuple[str, nn.Parameter]]) -> int:
        """Place AdamW's decayed parameters, its others, then Muon's by shape; return the buffer's length."""
        muon: dict[tuple[int, int], list[tuple[str, nn.Parameter]]] = {}
        for name, param in trained:
            if self.muon and uses_muon(name, param):
                # The query, key and value rows of one packed weight are three matrices.
                parts = 3 if name.endswith("in_proj_weight") else 1
                muon.setdefault((param.shape[0] // parts, param.shape[1]), []).append((name, param))
        end = 0

        def place(members: list[tuple[str, nn.Parameter]], align: int) -> None:
            nonlocal end
            for name, param in members:
                self.layout[name] = (end, param.shape)
                end += param.numel() + (-param.numel()) % align
            end += (-end) % _ALIGN

        adam = [(n, p) for n, p in trained if not (self.muon and uses_muon(n, p))]
        place([item for item in adam if decays(*item)], _ALIGN)
        self._decayed_end = end
        place([item for item in adam if not decays(*item)], _ALIGN)
        self._adam_end = end
        for (rows, columns), members in muon.items():
            start, elements = end, sum(param.numel() for _, param in members)
            place(members, 1)
            self._matrices.append(_Matrices(start, elements // (rows * columns), rows, columns))
        return end

    def zero_grad(self) -> None:
        self.grads.zero_()

    def add_grads(self, world: World) -> None:
        """Sum gradients over ranks."""
        world.add(self.grads)

    def share_params(self, world: World) -> None:
        """Give every rank rank 0's parameters."""
        world.broadcast(self.params)

    @torch.no_grad()
    def step(self) -> Tensor:
        """Clip, then update the parameters in place. Return the gradient's norm before clipping, a device scalar."""
        norm = self.grads.norm()
        self.grads.mul_((self.clip_norm / (norm + 1e-6)).clamp(max=1.0))
        self.count += 1
        self._adam()
        for group in self._matrices:
            self._muon(group)
        return norm

    def _adam(self) -> None:
        end, lr = self._adam_end, self.lr * self.adam_scale
        decayed = lr
        if self._scales is not None:
            lr = lr * self._scales
            decayed = lr[: self._decayed_end]
        params, grads, first = self.params[:end], self.grads[:end], self.first[:end]
        first.lerp_(grads, 1 - BETA1)
        self.second.mul_(BETA2).addcmul_(grads, grads, value=1 - BETA2)
        denominator = (self.second / (1 - BETA2**self.count)).sqrt_().add_(EPS)
        params[: self._decayed_end].mul_(1 - decayed * self.weight_decay)
        params.sub_(first / denominator * (lr / (1 - BETA1**self.count)))

    def _muon(self, group: _Matrices) -> None:
        params, grads, momentum = (group.view(flat) for flat in (self.params, self.grads, self.first))
        momentum.lerp_(grads, 1 - MOMENTUM)
        update = orthogonalise(torch.lerp(grads, momentum, MOMENTUM))
        params.mul_(1 - self.lr * self.weight_decay)
        params.sub_(update.float() * (self.lr * (0.2 * math.sqrt(max(group.rows, group.columns)))))

    def state(self) -> dict[str, Tensor]:
        """The tensors that make a resumed run equal to an unbroken one."""
        return {"params": self.params, "first": self.first, "second": self.second, "count": self.count}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self.state().items():
            tensor.copy_(state[name].view_as(tensor))


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Return the nearly orthogonal factor of each matrix [n, rows, columns]; bf16 on a GPU, float32 on a CPU."""
    a, b, c = _NEWTON_SCHULZ
    x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if tall else x
