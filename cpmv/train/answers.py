"""How a model does on answers that are given: their log-probabilities, their loss, and whether it would give them.

Shared by preference training and by evaluation. An answer is exact when the likeliest token is the right one at every
learnt place, the end marker included: then, and only then, greedy decoding after the same turns gives it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model.config import ModelInputs
from ..model.minicpmv import MiniCPMV
from .sft import HEAD_ROWS, IGNORE, pack, packed_hidden, targets_of


def answer_log_probs(model: MiniCPMV, samples: Sequence[ModelInputs], head_rows: int = HEAD_ROWS) -> Tensor:
    """Return the sum of log-probabilities of each sample's learnt tokens, float32 [len(samples)], with gradients.

    The samples share one row. head_rows: places whose logits exist at once.
    """
    hidden = packed_hidden(model, samples)
    targets = torch.cat([targets_of(s) for s in samples]).to(hidden.device)
    owner = torch.repeat_interleave(torch.arange(len(samples)), torch.tensor([len(s) for s in samples]))
    chosen = targets != IGNORE
    hidden, targets, owner = hidden[chosen], targets[chosen], owner.to(hidden.device)[chosen]
    parts = [
        -F.cross_entropy(model.llm.head(states).float(), wanted, reduction="none")
        for states, wanted in zip(hidden.split(head_rows), targets.split(head_rows), strict=True)
    ]
    out = torch.zeros(len(samples), device=hidden.device)
    return out.index_add(0, owner, torch.cat(parts))


@torch.no_grad()
def score_answers(
    model: MiniCPMV, samples: Sequence[ModelInputs], max_tokens: int, autocast: torch.dtype | None = None
) -> dict[str, float]:
    """Return "loss" (a token), "exact" (share of samples) and "tokens" (share of tokens that are the likeliest)."""
    was_training = model.training
    model.eval()
    loss = torch.zeros((), dtype=torch.float64)
    right = learnt = exact = 0
    for row in pack([len(s) for s in samples], max_tokens):
        batch = [samples[i] for i in row]
        with torch.autocast(model.device.type, autocast or torch.bfloat16, enabled=autocast is not None):
            hidden = packed_hidden(model, batch)
            start = 0
            for sample in batch:
                targets = targets_of(sample).to(hidden.device)
                chosen = targets != IGNORE
                logits = model.llm.head(hidden[start : start + len(sample)][chosen]).float()
                hits = logits.argmax(-1) == targets[chosen]
                loss += F.cross_entropy(logits, targets[chosen], reduction="sum").double().cpu()
                right, learnt, exact = right + int(hits.sum()), learnt + len(hits), exact + bool(hits.all())
                start += len(sample)
    model.train(was_training)
    return {
        "loss": float(loss) / max(1, learnt),
        "exact": exact / max(1, len(samples)),
        "tokens": right / max(1, learnt),
    }
