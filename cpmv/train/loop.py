"""THE training loop, for every objective: rates, steps, log, alarm, evaluation, saving.

Lengths are in steps. A run bounded by seconds measures its speed over its first steps and turns what time is left into
steps, and does so again at every report, so that the decay begins in proportion and ends on time.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from ..errors import CpmvError
from .config import TrainConfig
from .distributed import World
from .metrics import Log, Stopwatch, peak_flops, peak_memory_bytes
from .optim import Horizon, fade, lr_factor
from .state import Progress, save_state
from .step import Step

log = logging.getLogger("cpmv")
_UNKNOWN = Horizon(1 << 40, 1 << 40)  # until the speed has been measured: warm-up, then constant
_COLLAPSED_GRAD = 0.02  # healthy runs stay at 0.1 to 1.3
_LEARNT_LOSS = 0.5  # below it small gradients mean success


class TrainingStopped(CpmvError):
    """The run cannot go on: the loss is not a number, or the model ignores the picture."""


@dataclass
class Clock:
    """Wall-clock budget of a run. deadline None: bounded by steps. reserve_s: kept for what follows the last step."""

    deadline: float | None = None
    reserve_s: float = 0.0

    def left(self) -> float:
        assert self.deadline is not None
        return self.deadline - self.reserve_s - time.perf_counter()


class Loop:
    """Trains until the horizon. Give `evaluate` a function that returns scores, `on_decay` one called once when a
    "wsd" decay is about to begin (to keep the stable weights)."""

    def __init__(
        self,
        step: Step,
        config: TrainConfig,
        world: World,
        log_: Log,
        out: Path,
        *,
        progress: Progress | None = None,
        clock: Clock | None = None,
        num_keys: int = 1,
        evaluate: Callable[[], dict[str, Any]] | None = None,
        evaluate_together: bool = False,
        on_decay: Callable[[], None] | None = None,
    ) -> None:
        self.step, self.config, self.world, self.log, self.out = step, config, world, log_, out
        self.progress = progress or Progress()
        self.clock = clock or Clock()
        self.evaluate, self.on_decay = evaluate, on_decay
        self.evaluate_together = evaluate_together
        self._evaluation_s = 5.0 if evaluate is not None else 0.0  # a guess until the first
        self._step_s = 0.0
        self._reported = self.progress.step
        self._stopped_by: int | None = None
        self._watch = Stopwatch()
        self._flops = 0.0
        self._lap_samples = 0
        self._counted_tokens = 0
        self._peak = peak_flops(step.device, config.peak_tflops)
        # Every key is visited eagerly and captured before the speed is measured.
        self._measure = (3 * num_keys, 3 * num_keys + max(20, 4 * num_keys))
        self._measure_start = 0.0
        if self.clock.deadline is None and self.progress.horizon is None:
            assert config.steps is not None
            self.progress.horizon = Horizon.of(config.steps, config.schedule)

    def run(self, until: int | None = None) -> Progress:
        """Train to the horizon, or to step `until`. On SIGINT or SIGTERM save and return early."""
        self._saved = self._evaluated = time.perf_counter()
        self._watch.lap()
        with self._signals():
            while not self._done(until):
                self._one()
                if self.progress.step % self.config.log_every == 0 or self._done(until):
                    self._report()
                    self._housekeeping()
                # Ranks of one run must stop at the same step, so several look up only when they report together.
                elif self.world.size > 1:
                    continue
                if self.world.agree(self._stopped_by is not None, self.step.device):
                    self._stopped_by = self._stopped_by or signal.SIGTERM
                    self.save()
                    self.log.line(f"stopped at step {self.progress.step}; go on with --resume", keep=True)
                    break
        return self.progress

    @property
    def interrupted(self) -> bool:
        return self._stopped_by is not None

    def _done(self, until: int | None) -> bool:
        horizon = self.progress.horizon
        end = horizon.total if horizon else _UNKNOWN.total
        return self.progress.step >= min(end, until if until is not None else end)

    def _housekeeping(self) -> None:
        """Evaluate and save when it is time; fit the end of the run to what is left of its budget."""
        now, device = time.perf_counter(), self.step.device
        config, progress = self.config, self.progress
        if progress.horizon is None:  # while the speed is being measured, nothing else may take time
            return
        if self.evaluate is not None and self.world.agree(now - self._evaluated > config.evaluate_every_s, device):
            self.measure_quality()
            self._evaluated = time.perf_counter()
        if config.save_every_s and self.world.agree(now - self._saved > config.save_every_s, device):
            self.save()
            self._saved = time.perf_counter()
        horizon = progress.horizon
        if self.clock.deadline is not None and horizon is not None and progress.step < horizon.total:
            progress.horizon = self._fit(horizon)

    def _one(self) -> None:
        """Set the rates for this step, do it, count it; measure the speed at its times."""
        progress, config = self.progress, self.config
        horizon = progress.horizon or _UNKNOWN
        if horizon.decay_start == progress.step and config.schedule.kind == "wsd":
            horizon = self._begin_decay(horizon)
        self.step.optimizer.lr.fill_(config.peak_lr * lr_factor(config.schedule, progress.step, horizon))
        self.step.objective.set_progress(fade(progress.step / horizon.total, *config.aux_fade))
        key = self.step.objective.key(progress.step, config.seed)
        following = self.step.objective.key(progress.step + 1, config.seed)
        with self._profiled(progress.step):
            self.step.run(key, progress.step, following)
        progress.step += 1
        samples = self.step.num_samples * self.world.size
        progress.samples += samples
        self._lap_samples += samples
        self._flops += self.step.objective.flops(key) * self.world.size
        if self.clock.deadline is not None and progress.horizon is None:
            self._measure_speed()

    @contextmanager
    def _profiled(self, step: int) -> Iterator[None]:
        """Record one step when it is the one to profile; the table of its kernels goes to `profile.txt`."""
        if step != self.config.profile_step or not self.world.is_main:
            yield
            return
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.step.device.type == "cuda":
            activities = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profiler:
            yield
            self._synchronise()
        sort = "self_cuda_time_total" if self.step.device.type == "cuda" else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=sort, row_limit=60, max_name_column_width=90)
        (self.out / "profile.txt").write_text(table)

    def _measure_speed(self) -> None:
        """Turn the time that is left into steps, once the first steps have shown how long one takes."""
        first, last = self._measure
        if self.progress.step == first:
            self._synchronise()
            self._measure_start = time.perf_counter()
        elif self.progress.step >= last:
            self._synchronise()
            seconds = (time.perf_counter() - self._measure_start) / (self.progress.step - first)
            self._step_s = seconds
            self.progress.horizon = self._fit(_UNKNOWN)
            self._note(
                f"{seconds * 1e3:.1f} ms a step: {self.progress.horizon.total:,} steps fit the time that is left"
            )

    def _fit(self, horizon: Horizon) -> Horizon:
        """Let the run end when its time ends; machines are not steady, so this is asked at every report.

        A decay that has begun keeps its beginning, and the line towards the new end.
        """
        total = self.progress.step + self._steps_left(self._step_s)
        if self.progress.step > horizon.decay_start:
            return replace(horizon, total=total)
        fresh = Horizon.of(total, self.config.schedule)
        return replace(fresh, decay_start=max(self.progress.step, fresh.decay_start))

    def _begin_decay(self, horizon: Horizon) -> Horizon:
        """Keep the stable weights, and fit the decay to the time that is left."""
        if self.on_decay is not None:
            started = time.perf_counter()
            self.on_decay()
            self._watch.skip(time.perf_counter() - started)
        if self.clock.deadline is None:
            return horizon
        self._synchronise()
        left = self._steps_left(self._step_s)
        self.progress.horizon = replace(horizon, total=self.progress.step + left)
        self._note(f"decay begins: {left:,} steps")
        return self.progress.horizon

    def _steps_left(self, step_s: float) -> int:
        """Steps until the deadline, evaluations at their intervals and one at the end taken off."""
        left = self.clock.left() - self._evaluation_s
        share = self._evaluation_s / self.config.evaluate_every_s if self.evaluate else 0.0
        steps = max(1, int(left / (1 + share) / step_s))
        return int(self.world.agree(steps, self.step.device))

    def _report(self) -> None:
        values = self.step.read()
        seconds = self._watch.lap()
        progress = self.progress
        self._step_s = seconds / max(1, progress.step - self._reported)
        self._reported = progress.step
        memory = peak_memory_bytes(self.step.device)
        speed = {"samples_per_s": self._lap_samples / seconds, "memory_gb": memory / 1e9}
        # Objectives whose samples differ in length count their tokens.
        tokens = getattr(self.step.objective, "num_tokens", 0)
        if tokens:
            speed["tokens_per_s"] = (tokens - self._counted_tokens) * self.world.size / seconds
            self._counted_tokens = tokens
        if self._peak is not None:
            speed["mfu"] = self._flops / seconds / (self._peak * self.world.size)
        self._lap_samples, self._flops = 0, 0.0
        elapsed = time.perf_counter() - self._watch.start
        rate = float(self.step.optimizer.lr)
        self.log.write(
            "train",
            progress.step,
            {**values, "lr": rate, "samples": progress.samples, "seconds": round(elapsed, 3), **speed},
        )
        total = f"{progress.horizon.total}" if progress.horizon else "?"
        losses = "  ".join(f"{name} {values[name]:.3f}" for name in self.step.objective.names)
        mfu = f"  MFU {speed['mfu']:.1%}" if "mfu" in speed else ""
        pace = f"{speed['samples_per_s']:,.0f} samples/s"
        if tokens:
            pace = f"{speed['samples_per_s']:,.1f} samples/s  {speed['tokens_per_s']:,.0f} tokens/s"
        self.log.line(
            f"{elapsed:6.0f} s  step {progress.step}/{total}  {losses}  lr {rate:.1e}  grad {values['grad_norm']:.2f}"
            f"/{values['patch_grad']:.2f}  {pace}{mfu}  {memory / 1e9:.1f} GB"
        )
        self._check(values)

    def _check(self, values: dict[str, float]) -> None:
        main = values[self.step.objective.names[0]]
        if not all(math.isfinite(v) for v in values.values()):
            raise TrainingStopped(
                f"the loss or its gradient is not finite at step {self.progress.step}; lower --lr, or resume before it"
            )
        after = self.config.alarm_after
        watched = after and "vision" in self.config.trained and self.progress.step >= after
        if watched and values["patch_grad"] < _COLLAPSED_GRAD and main > _LEARNT_LOSS:
            raise TrainingStopped(
                f"collapsed: at step {self.progress.step} the patch embedding's gradient norm is "
                f"{values['patch_grad']:.4f} (healthy: 0.1 to 1.3), so the model ignores the picture; "
                "start again with another --seed, or keep both auxiliary losses and Muon"
            )

    def measure_quality(self) -> dict[str, Any]:
        """Evaluate now, on rank 0 (on all when a sharded model needs all), and record the scores."""
        if self.evaluate is None:
            return {}
        started = time.perf_counter()
        scores: dict[str, Any] = {}
        if self.world.is_main or self.evaluate_together:
            self._synchronise()
            scores = self.evaluate()
        if self.world.is_main:
            self.log.write("eval", self.progress.step, {"seconds": started - self._watch.start, "scores": scores})
            shown = [n for n in ("trained", "unseen", "held-out", "scene", "clip", "composed", "blank") if n in scores]
            text = "  ".join(f"{n} {scores[n]['exact']:.1%}{_cer(scores[n])}" for n in shown)
            self.log.line(f"step {self.progress.step}: exact {text}", keep=True)
        took = time.perf_counter() - started
        self._evaluation_s = self.world.agree(took, self.step.device)
        self._watch.skip(took)
        return scores

    def save(self) -> None:
        """Write a state that a resumed run continues from exactly."""
        started = time.perf_counter()
        self._synchronise()
        step, world = self.step, self.world
        generator = step.resumable_generator
        save_state(self.out / "state", step.optimizer, generator, self.progress, world.rank, world.size)
        self._watch.skip(time.perf_counter() - started)

    def _note(self, text: str) -> None:
        self.log.write("note", self.progress.step, {"text": text})
        self.log.line(text, keep=True)

    def _synchronise(self) -> None:
        if self.step.device.type == "cuda":
            torch.cuda.synchronize(self.step.device)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Turn SIGINT and SIGTERM into a clean stop after the running step."""

        def remember(number: int, frame: FrameType | None) -> None:
            self._stopped_by = number

        try:
            previous = {s: signal.signal(s, remember) for s in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: nobody sends it signals
            yield
            return
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _cer(score: dict[str, float]) -> str:
    return f" (CER {score['cer']:.1%})" if "cer" in score else ""
