"""Batches of rollouts: prompts in both modes, responses, rewards, the filter, and what makes a resumed run equal.

A batch holds so many prompts in deep and so many in fast mode. Prompts whose responses differ too little are dropped
and replaced by further ones, for at most `rounds` rounds; what is left over begins the next batch, with the
log-probabilities of the policy that wrote it.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ..errors import CheckpointError, CpmvError
from ..model.minicpmv import MiniCPMV
from .reward_mix import Judge
from .rewards import PROBABILITY
from .rl_loss import StdFilter, deviation
from .rl_prompts import Prompts
from .rollouts import Group, Prompt, Rollout, Sampler, lines_of, log_probs_of

log = logging.getLogger("cpmv")
MODES = {False: "fast", True: "deep"}
_LEAST_SHARE = 0.25  # of groups that are expected to stay, when asking for more


@dataclass
class State:
    """What the next batch depends on. next_number: of prompts. kept: share of groups that stay, a moving guess, fast
    and deep. spare: left over from the last batch."""

    filter: StdFilter
    next_number: int = 0
    kept: list[float] = field(default_factory=lambda: [1.0, 1.0])
    spare: list[Group] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """num_fast, num_deep: prompts of a batch on this rank; count: responses to each. filtered: whether the filter drops
    any. stride, offset: this rank takes every stride-th prompt. clip_tokens: of a row that is computed at once."""

    num_fast: int
    num_deep: int
    count: int
    filtered: bool = True
    rounds: int = 4
    seed: int = 0
    stride: int = 1
    offset: int = 0
    row_tokens: int = 4096
    temperature: float = 1.0
    autocast: torch.dtype | None = None

    @property
    def quota(self) -> tuple[int, int]:
        return self.num_fast, self.num_deep


class Batches:
    """Makes batches; `folder` keeps the last ones, so that a run that stops within one goes on with it.

    told: is given each batch's number, what was measured, and all its groups, those that were dropped too.
    """

    def __init__(
        self,
        plan: Plan,
        prompts: Prompts,
        sampler: Sampler,
        judge: Judge,
        model: MiniCPMV,
        state: State,
        folder: Path,
        *,
        told: Callable[[int, dict[str, Any], Sequence[Group]], None] | None = None,
    ) -> None:
        self.plan, self.prompts, self.sampler, self.judge, self.model = plan, prompts, sampler, judge, model
        self.state, self.folder, self.told = state, folder, told

    def make(self, batch: int) -> list[Group]:
        """The groups of a batch, mixed; fewer than planned when the filter leaves too few."""
        plan, state = self.plan, self.state
        started, tokens, sampling = time.perf_counter(), self.sampler.num_tokens, self.sampler.seconds
        torch.manual_seed(((plan.seed * 1_000_003 + batch) * plan.stride + plan.offset) % (1 << 63))
        self.sampler.follow()
        ready, stale = {mode: [g for g in state.spare if g.prompt.deep == mode] for mode in MODES}, len(state.spare)
        made: list[Group] = []
        rounds = 0
        while rounds < plan.rounds and any(len(ready[mode]) < plan.quota[mode] for mode in MODES):
            groups = self._round(ready)
            rounds += 1
            made += groups
            kept = self._kept(groups)
            for group in kept:
                ready[group.prompt.deep].append(group)
        chosen = [group for mode in MODES for group in ready[mode][: plan.quota[mode]]]
        spare = [group for mode in MODES for group in ready[mode][plan.quota[mode] :] if group in made]
        self._score(made, chosen + spare)
        state.spare = spare[: sum(plan.quota)]
        state.filter.update([_deviation(group) for group in made])
        random.Random(plan.seed * 1_000_003 + batch).shuffle(chosen)
        self._save(batch, chosen)
        if self.told is not None:
            seconds = time.perf_counter() - started
            report = self._report(made, chosen, rounds, stale)
            report |= {"seconds": seconds, "sampling_seconds": self.sampler.seconds - sampling}
            report["sampled_tokens_per_s"] = (self.sampler.num_tokens - tokens) / max(1e-9, report["sampling_seconds"])
            self.told(batch, report, made)
        return chosen

    def _round(self, ready: dict[bool, list[Group]]) -> list[Group]:
        """Respond to as many prompts as are missing, and to some more where many are dropped."""
        plan, state = self.plan, self.state
        wanted: list[tuple[int, bool]] = []
        for mode in MODES:
            missing = plan.quota[mode] - len(ready[mode])
            if missing > 0:
                share = max(_LEAST_SHARE, state.kept[mode]) if plan.filtered else 1.0
                for _ in range(min(2 * plan.quota[mode], math.ceil(missing / share))):
                    wanted.append((state.next_number * plan.stride + plan.offset, mode))
                    state.next_number += 1
        prompts = [prompt for prompt in self.prompts.take(wanted) if prompt is not None]
        self._add_baselines(prompts)
        if not prompts:
            raise CpmvError("none of the prompts can be read; see what cpmv data check says of the files")
        answers = self.sampler.respond(prompts, plan.count)
        groups = [Group(prompt, rollouts) for prompt, rollouts in zip(prompts, answers, strict=True)]
        self.judge(groups)
        return groups

    def _add_baselines(self, prompts: Sequence[Prompt]) -> None:
        """r' of drawn prompts, which cannot be read before the run: under the policy as it is now, kept with them."""
        without = [p for p in prompts if p.kind == PROBABILITY and p.baseline is None]
        if not without:
            return
        plain = self.prompts.take([(prompt.number, False) for prompt in without])
        pairs = [(prompt, fast) for prompt, fast in zip(without, plain, strict=True) if fast is not None]
        for (prompt, _), value in zip(pairs, self.judge.baselines([fast for _, fast in pairs]), strict=True):
            prompt.baseline = value

    def _kept(self, groups: Sequence[Group]) -> list[Group]:
        """Those whose rewards differ enough; the guess of how many do follows."""
        if not self.plan.filtered:
            return list(groups)
        least = self.state.filter.threshold()
        kept = [group for group in groups if _deviation(group) >= least]
        for mode in MODES:
            seen = [group for group in groups if group.prompt.deep == mode]
            if seen:
                share = sum(group.prompt.deep == mode for group in kept) / len(seen)
                self.state.kept[mode] += 0.5 * (share - self.state.kept[mode])
        return kept

    def _score(self, made: Sequence[Group], used: Sequence[Group]) -> None:
        """Record the log-probabilities of the policy that responded, of groups that will be learnt from."""
        own = set(map(id, made))
        groups = [group for group in used if id(group) in own]
        plan = self.plan
        found = log_probs_of(
            self.model, lines_of(groups), plan.row_tokens, temperature=plan.temperature, autocast=plan.autocast
        )
        for rollout, log_probs in zip([r for g in groups for r in g.rollouts], found, strict=True):
            rollout.log_probs = log_probs

    def _report(self, made: Sequence[Group], chosen: Sequence[Group], rounds: int, stale: int) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for mode, name in MODES.items():
            rollouts = [r for group in made if group.prompt.deep == mode for r in group.rollouts]
            if rollouts:
                out[name] = {
                    "reward": _mean([r.reward for r in rollouts]),
                    **{part: _mean([r.parts[part] for r in rollouts]) for part in rollouts[0].parts},
                    "tokens": _mean([len(r.ids) for r in rollouts]),
                    "unfinished": _mean([float(not r.finished) for r in rollouts]),
                    "responses": len(rollouts),
                }
        equal = sum(_deviation(group) < 1e-6 for group in made)
        below = sum(_deviation(group) < self.state.filter.threshold() for group in made) if self.plan.filtered else 0
        return out | {
            "deviation": _mean([_deviation(group) for group in made]),
            "equal": equal / max(1, len(made)),
            "filtered": below / max(1, len(made)),
            "groups": len(chosen),
            "rounds": rounds,
            "left_over": stale,
        }

    def _save(self, batch: int, chosen: Sequence[Group]) -> None:
        """Write what training needs of a batch, and what the next one depends on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = self.state
        groups = [*chosen, *state.spare]
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        meta = {
            "groups": [[g.prompt.number, g.prompt.deep, len(g.rollouts)] for g in groups],
            "rollouts": [[len(r.ids), r.finished, r.reward, r.advantage] for r in rollouts],
            "chosen": len(chosen),
            "next_number": state.next_number,
            "kept": state.kept,
            "filter": asdict(state.filter),
        }
        tensors = {
            "ids": torch.tensor([i for r in rollouts for i in r.ids], dtype=torch.int64),
            "log_probs": torch.cat([torch.empty(0), *(r.log_probs for r in rollouts if r.log_probs is not None)]),
        }
        path = self._path(batch)
        part = path.with_suffix(".part")
        save_file(tensors, part, metadata={"batch": json.dumps(meta)})
        os.replace(part, path)

    def _path(self, batch: int) -> Path:
        return self.folder / f"batch-{batch:06d}-{self.plan.offset}.safetensors"

    def prune(self, first: int) -> None:
        """Remove batches before `first`, which no state needs any more."""
        for path in self.folder.glob(f"batch-*-{self.plan.offset}.safetensors"):
            if int(path.name.split("-")[1]) < first:
                path.unlink()

    def restore(self, batch: int) -> list[Group]:
        """Read a batch back, and the state after it. Raises CheckpointError when it is not there."""
        path = self._path(batch)
        if not path.is_file():
            raise CheckpointError(f"{path} is missing, so the run cannot go on exactly; begin anew without --resume")
        with safe_open(path, framework="pt") as file:
            meta = json.loads(file.metadata()["batch"])
            ids, log_probs = file.get_tensor("ids"), file.get_tensor("log_probs")
        lengths = [row[0] for row in meta["rollouts"]]
        rollouts = [
            Rollout(part.tolist(), "", finished, old, reward=reward, advantage=advantage)
            for part, old, (_, finished, reward, advantage) in zip(
                ids.split(lengths), log_probs.split(lengths), meta["rollouts"], strict=True
            )
        ]
        groups, at = [], 0
        prompts = self.prompts.take([(number, deep) for number, deep, _ in meta["groups"]])
        for prompt, (_, _, count) in zip(prompts, meta["groups"], strict=True):
            if prompt is None:
                raise CheckpointError(f"a prompt of {path} can no longer be read; restore its files")
            groups.append(Group(prompt, rollouts[at : at + count]))
            at += count
        chosen = meta["chosen"]
        kept = meta["kept"]
        self.state = State(StdFilter(**meta["filter"]), meta["next_number"], kept, groups[chosen:])
        return groups[:chosen]


def _deviation(group: Group) -> float:
    return deviation([rollout.reward for rollout in group.rollouts])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def show(group: Group, batch: int, limit: int = 4) -> str:
    """A prompt and its first responses as a person reads them."""
    prompt: Prompt = group.prompt
    lines = [f"== batch {batch}, {MODES[prompt.deep]}, {prompt.task or prompt.kind}: {prompt.question}"]
    lines.append(f"   right: {prompt.reference}")
    for rollout in group.rollouts[:limit]:
        parts = "  ".join(f"{name} {value:g}" for name, value in rollout.parts.items())
        end = "" if rollout.finished else " [cut]"
        lines.append(f"-- reward {rollout.reward:g} ({parts})\n{rollout.text}{end}")
    return "\n".join(lines) + "\n"
