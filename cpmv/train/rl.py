"""The objective of reinforcement learning with groups of responses (GRPO), in fast and deep mode at once.

Every `parts` steps a batch of rollouts is made with the policy as it is then (`rl_batch`), and each of these steps
learns from a share of it, once. The loss is the mean over all response tokens of the step, over all GPUs: a long
response weighs as much as its tokens. Prompt tokens are read, never learnt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ..model.lora import lora_layers
from ..model.minicpmv import MiniCPMV
from .metrics import forward_flops
from .rl_batch import Batches
from .rl_loss import clipped_surrogate
from .rollouts import Group, Line, Rollout, rows_of, token_log_probs


class Micro:
    """Responses that are computed together, their advantages and old log-probabilities a token.

    silent: tokens of responses without an advantage: they have no gradient, but count in the mean.
    """

    def __init__(self, lines: Sequence[Line], rollouts: Sequence[Rollout], silent: int = 0) -> None:
        self.lines, self.silent = list(lines), silent
        assert all(r.log_probs is not None for r in rollouts)
        none = torch.empty(0)
        self.old = torch.cat([none, *(r.log_probs for r in rollouts if r.log_probs is not None)])
        self.advantages = torch.cat([none, *(torch.full((len(r.ids),), r.advantage) for r in rollouts)])

    @property
    def num_tokens(self) -> int:
        """Response tokens that the mean is over."""
        return len(self.old) + self.silent


class PolicyObjective:
    """The clipped surrogate over a batch's responses (see `step.Objective`); the others are watched, not learnt.

    clipped: share of tokens whose loss the clipping decided. drift: mean divergence from the policy that responded.
    parts: steps a batch. row_tokens: computed at once, a micro-batch. num_tokens: of all sequences so far.
    """

    names: tuple[str, ...] = ("policy", "clipped", "drift")
    capturable = False

    def __init__(
        self,
        model: MiniCPMV,
        batches: Batches,
        *,
        parts: int,
        prompts_per_batch: int,
        row_tokens: int,
        clip: tuple[float, float] = (0.2, 0.27),
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.model, self.batches, self.parts, self.row_tokens = model, batches, parts, row_tokens
        self.clip, self.temperature, self.seed = clip, temperature, seed
        self.samples_per_step = max(1, prompts_per_batch * batches.plan.count // parts)
        self.weights = torch.tensor([1.0, 0.0, 0.0], device=model.device)
        self.num_tokens = 0
        self._batch = -1
        self._groups: list[Group] = []
        self._flops = 0.0
        self._adapts_only = bool(lora_layers(model))

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        return self.model.named_parameters()

    def key(self, step: int, seed: int) -> int:
        return step

    def resume(self, step: int) -> None:
        """Go on before `step` with the batch that it, or the step before it, learns from."""
        if step > 0:
            self._batch = (step - 1) // self.parts
            self._groups = self.batches.restore(self._batch)

    def feed(self, key: int, step: int) -> None:
        """Make a batch when one begins; let what dropout drops follow from the step."""
        batch = step // self.parts
        if batch != self._batch:
            self._groups = self.batches.make(batch)
            self._batch = batch
        torch.manual_seed(self.seed * 1_000_003 + step)

    def set_progress(self, fade: float) -> None:
        """Nothing fades here."""

    def load(self, key: int, generator: torch.Generator | None) -> list[Micro]:
        """This step's share of the batch, in rows."""
        groups = self._groups[key % self.parts :: self.parts]
        pairs = [(Line(g.prompt.inputs, r.ids), r) for g in groups for r in g.rollouts if r.advantage != 0]
        silent = sum(len(r.ids) for g in groups for r in g.rollouts if r.advantage == 0)
        lines = [line for line, _ in pairs]
        self.num_tokens += sum(map(len, lines))
        self._flops = sum(self._cost(line) for line in lines)
        rows = rows_of(lines, self.row_tokens) or [[]]
        micro = [Micro([lines[i] for i in row], [pairs[i][1] for i in row]) for row in rows]
        micro[0].silent = silent
        return micro

    def counts(self, batch: Micro) -> Tensor:
        return torch.full((3,), float(batch.num_tokens), device=self.model.device)

    def sums(self, batch: Micro) -> Tensor:
        if not batch.lines:
            # Nothing to learn in this step: a gradient of zero, so that every rank does the same work.
            anchor = next(p for p in self.model.parameters() if p.requires_grad)
            return 0.0 * anchor.flatten()[:1].float().expand(3)
        new = token_log_probs(self.model, batch.lines, self.temperature)
        old, advantages = batch.old.to(new.device), batch.advantages.to(new.device)
        return torch.stack([part.sum() for part in clipped_surrogate(new, old, advantages, *self.clip)])

    def flops(self, key: int) -> float:
        """Operations of the update that was loaded last; sampling is not counted."""
        return self._flops

    def _cost(self, line: Line) -> float:
        config = self.model.config
        cost = forward_flops(config, len(line), 0)
        head = 2.0 * config.language.hidden_size * config.language.vocab_size
        words = len(line) * (cost["token"] - head) + len(line.ids) * head
        return words * (2.0 if self._adapts_only else 3.0)
