"""How much each learnt token weighs, so that answers of a word are not drowned by answers of a paragraph.

A mean over all answer tokens gives a yes two shares and a page three hundred. With a power of 0.5 an answer of n tokens
counts as the square root of n; 0 is the plain mean, 1 counts every answer alike.
"""

from __future__ import annotations

import torch
from torch import Tensor


def answer_weights(targets: Tensor, power: float, ignore: int = -100) -> Tensor:
    """Weights float32 [M] of `targets` int64 [M], n ** -power for a token of an answer of n tokens, 0 elsewhere.

    An answer is a run of targets that are not `ignore`. The weights are scaled to sum to the number of learnt tokens,
    so that what a sum is divided by stays the same. Operations of fixed shape on the device alone.
    """
    learnt = targets != ignore
    begins = learnt.clone()
    begins[1:] &= ~learnt[:-1]
    answer = begins.long().cumsum(0)  # from 1; what is not learnt may carry the number of the answer before it
    sizes = torch.zeros(targets.shape[0] + 1, device=targets.device).index_add_(0, answer, learnt.float())
    weights = sizes.clamp(min=1)[answer] ** -power * learnt
    return weights * (learnt.sum() / weights.sum().clamp(min=1e-6))
