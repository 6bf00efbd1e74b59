"""Cross-entropy of a linear classifier with its gradients, in one pass over the logits; Triton for the softmax.

The plain form (`joint_model._cross_entropy_of`) keeps every logit for the backward pass and reads them several times.
Here a chunk of rows is multiplied, turned into losses and gradients in place, and multiplied back, so that logits exist
a chunk at a time. Nothing of it has to be compiled at a start but the one kernel.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

IGNORE = -100
_CHUNK = 1 << 26  # logits that exist at once


@triton.jit(do_not_specialize=["classes"])
def _softmax(
    logits, targets, shares, losses, classes, IGNORED: tl.constexpr, SHARED: tl.constexpr, BLOCK: tl.constexpr
):
    """One row: its loss, and in place of its logits their gradient."""
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + row)
    column = tl.arange(0, BLOCK)
    there = column < classes
    start = logits + row * classes + column
    if target == IGNORED:
        tl.store(losses + row, 0.0)
        tl.store(start, tl.zeros([BLOCK], tl.float32).to(logits.dtype.element_ty), mask=there)
    else:
        x = tl.load(start, mask=there, other=float("-inf")).to(tl.float32)
        most = tl.max(x, 0)
        grown = tl.exp(x - most)
        total = tl.sum(grown, 0)
        hit = column == target
        right = tl.sum(tl.where(hit, x, 0.0), 0)
        share = 1.0
        if SHARED:
            share = tl.load(shares + row)
        tl.store(losses + row, (tl.log(total) + most - right) * share)
        gradient = (grown / total - tl.where(hit, 1.0, 0.0)) * share
        tl.store(start, gradient.to(logits.dtype.element_ty), mask=there)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, shares: Tensor | None
    ) -> Tensor:
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        points = targets.numel() // x.shape[0]
        classes = weight.shape[0] // points
        targets = targets.flatten()
        losses = torch.empty(targets.shape, device=x.device)
        dx = torch.empty(x.shape, dtype=dtype, device=x.device)
        dw = torch.zeros(weight.shape, device=x.device)
        db = None if bias is None else torch.zeros(bias.shape, device=x.device)
        rows = max(1, _CHUNK // weight.shape[0])
        with torch.autocast(kind, enabled=False):
            w, b = weight.to(dtype), None if bias is None else bias.to(dtype)
            for first in range(0, x.shape[0], rows):
                own = x[first : first + rows].to(dtype)
                logits = F.linear(own, w, b)
                span = slice(first * points, (first + own.shape[0]) * points)
                _softmax[(own.shape[0] * points,)](
                    logits,
                    targets[span],
                    targets if shares is None else shares[span],
                    losses[span],
                    classes,
                    IGNORED=IGNORE,
                    SHARED=shares is not None,
                    BLOCK=triton.next_power_of_2(classes),
                    num_warps=8,
                )
                torch.mm(logits, w, out=dx[first : first + rows])
                dw += logits.mT @ own
                if db is not None:
                    db += logits.sum(0, dtype=torch.float32)
        ctx.save_for_backward(dx, dw, db)
        ctx.dtypes = x.dtype, weight.dtype
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        dx, dw, db = ctx.saved_tensors
        of_x, of_weight = ctx.dtypes
        return (dx * grad).to(of_x), (dw * grad).to(of_weight), None if db is None else db * grad, None, None


def cross_entropy_of(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, shares: Tensor | None = None
) -> Tensor:
    """Summed cross-entropy of a linear classifier. x [M, E]; targets int64 [M] or [M, points], one class set each.

    shares: float32 [M], what each target weighs.
    """
    loss: Tensor = _LinearCrossEntropy.apply(x, weight, bias, targets, shares)
    return loss
