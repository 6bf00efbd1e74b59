"""How many composed samples a model answers exactly while it trains, by task, on faces and words kept for evaluation.

The right answer is fed in and every next token is compared: all are the likeliest exactly when greedy decoding would
have given the answer, so one forward pass scores a whole step's samples.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch

from .composed import Composer, HostBatch
from .composed_steps import ComposedSteps
from .joint import JointObjective
from .joint_model import IGNORE, JointModel

_FIRST = 1 << 30  # step numbers that no run reaches
_ROWS = 4096  # positions whose logits exist at once


class ComposedProbe:
    """Fixed samples, `rounds` steps' worth of every combination, made once and kept on the host."""

    def __init__(
        self, model: JointModel, composer: Composer, steps: ComposedSteps, autocast: torch.dtype | None, rounds: int = 1
    ) -> None:
        self.model, self.composer, self.autocast = model, composer, autocast
        numbers = range(_FIRST, _FIRST + rounds * len(composer.rooms))
        self.batches: list[tuple[int, HostBatch]] = [(steps.key_of(number), steps[number]) for number in numbers]

    def run(self, objective: JointObjective) -> dict[str, dict[str, float]]:
        """Return {task: {"exact", "n"}} and the mean over all samples as "composed"."""
        hits: dict[str, list[bool]] = defaultdict(list)
        for key, host in self.batches:
            self.composer.feed(key, host)
            for task, right in zip(host.tasks, self._exact(key, host.ends, objective), strict=True):
                hits[task].append(right)
        every = [right for rights in hits.values() for right in rights]
        scores = {task: {"exact": sum(r) / len(r), "n": float(len(r))} for task, r in sorted(hits.items())}
        return {"composed": {"exact": sum(every) / max(1, len(every)), "n": float(len(every))}, **scores}

    def _exact(self, key: int, ends: Sequence[int], objective: JointObjective) -> list[bool]:
        device = self.composer.device
        generator = torch.Generator(device).manual_seed(key + 1)
        batch = self.composer.load(key, objective, generator)
        # Compiled blocks would be compiled once more, for a row of another length.
        with (
            torch.no_grad(),
            torch.compiler.set_stance("force_eager"),
            torch.autocast(device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None),
        ):
            hidden = self.model.states(batch)[2][0]
        wrong = torch.zeros(hidden.shape[0] + 1, dtype=torch.int64, device=device)
        with torch.no_grad():
            asked = (batch.targets[0] != IGNORE).nonzero()[:, 0]
            for part in asked.split(_ROWS):
                with torch.autocast(device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
                    logits = self.model.model.llm.head(hidden[part])
                wrong[part + 1] = (logits.float().argmax(-1) != batch.targets[0, part]).long()
        total = wrong.cumsum(0).tolist()
        starts = [0, *ends[:-1]]
        return [total[end] - total[start] == 0 for start, end in zip(starts, ends, strict=True)]
