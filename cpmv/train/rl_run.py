"""A run of reinforcement learning from start to finish: prompts, policy and engine, rewards, the one loop, the result.

The result is an adapter (`OUT/adapter`) or a checkpoint (`OUT/model`), as of fine-tuning. `OUT/rollouts.txt` shows what
the policy wrote, `OUT/metrics.jsonl` has a line of kind "rollout" for every batch: rewards, their terms and lengths in
each mode, and how many prompts were filtered.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CpmvError
from ..inputs.processor import Processor
from ..model.adapter import save_adapter
from ..weights import checkpoint
from ..weights.hub import resolve
from .distributed import World, join
from .finetune import ADAPTER, MODEL, PROBLEMS, Result, choose_parts
from .finetune_config import MODULES
from .formats import Source, read_source
from .loop import Loop
from .metrics import Log
from .mixture import Mixture
from .optim import Optimizer
from .reward_mix import Judge, RewardModel, load_reward_model
from .rewards import PROBABILITY, rule_reward, split_response
from .rl import PolicyObjective
from .rl_batch import MODES, Batches, Plan, State, show
from .rl_config import RLConfig, check_folder
from .rl_loss import StdFilter
from .rl_policy import recompute_in_updates, unpack
from .rl_prompts import DrawnPrompts, Prompts, RecordPrompts, drop_unusable, load_atlas
from .rollouts import Group, Prompt, Sampler
from .state import Progress, find_states, load_state
from .step import Step, own_stream

log = logging.getLogger("cpmv")
BASELINES, ROLLOUTS = "baselines.json", "rollouts.txt"
ProgressReport = Callable[[str], Any]  # label -> context manager that is called with (done, total)


def train_rl(
    config: RLConfig,
    out: Path,
    *,
    device: str | None = None,
    resume: bool = False,
    reward_model: RewardModel | None = None,
    progress: ProgressReport | None = None,
) -> Result:
    """Run it. reward_model: scores final answers, instead of the one that the configuration names.

    Raises CpmvError for settings, files or a model that do not fit together.
    """
    started = time.perf_counter()
    from ..device import choose

    if reward_model is None and config.reward_model is not None:
        reward_model = load_reward_model(config.reward_model)
    world, place = join(choose(device).device)
    try:
        result = _Run(config, out, world, place, resume, reward_model, progress).go()
    finally:
        world.close()
    result.seconds = time.perf_counter() - started
    return result


class _Run:
    """One run's parts, in the order they are built."""

    def __init__(
        self,
        config: RLConfig,
        out: Path,
        world: World,
        device: torch.device,
        resume: bool,
        reward_model: RewardModel | None,
        progress: ProgressReport | None,
    ) -> None:
        self.config, self.out, self.world, self.device, self.resume = config, out, world, device, resume
        self._report = progress if world.is_main else None
        if config.batch_size % world.size:
            raise CpmvError(f"{config.batch_size} prompts cannot be split over {world.size} GPUs; give a multiple")
        check_folder(out, config, resume)
        self.sources, self.eval_sources = self._read(config.data), self._read(config.eval_data)
        own_stream(device)
        self.autocast = torch.bfloat16 if device.type == "cuda" else None
        dtype = torch.bfloat16 if self.autocast and not config.dense else torch.float32
        loaded = checkpoint.load(resolve(config.model), device=device, dtype=dtype)
        self.model, self.tokenizer = loaded.model, loaded.tokenizer
        if config.dense:
            unpack(self.model)
        self.processor = Processor(loaded.config, loaded.tokenizer)
        for sources in (self.sources, self.eval_sources):
            drop_unusable(sources, self.processor, config.reading, strict=config.strict)
        self.prompts = self._prompts()
        self.steps = self._num_steps()
        choose_parts(self.model, config)
        self.optimizer = Optimizer(
            self.model.named_parameters(),
            adam_scale=1.0,
            weight_decay=config.weight_decay,
            clip_norm=config.clip_norm,
            muon=False,
            scale_of=self._scale_of if config.lora is not None and config.trained else None,
        )
        self.generator = torch.Generator(device).manual_seed(config.seed * 1_000_003 + world.rank)
        self.progress = self._restore()
        world.broadcast(self.optimizer.params)
        self.judge, self.sampler = self._judge(reward_model), self._sampler()
        self.held_out = self._held_out()
        self.logger = Log(out, quiet=not world.is_main, tensorboard=config.tensorboard, step=self.progress.step)
        self.objective = self._objective()
        if config.recompute:
            recompute_in_updates(self.model)
        self.model.train()

    @property
    def row_tokens(self) -> int:
        return self.config.row_tokens or self.config.reading.max_tokens + self.config.max_new_tokens

    def _read(self, specs: Sequence[str]) -> list[Source]:
        config = self.config
        return [
            read_source(spec, format=config.format, media_root=config.media_root, strict=config.strict)
            for spec in specs
        ]

    def _prompts(self) -> Prompts:
        config = self.config
        if config.drawn:
            return self._drawn(held_out=False)
        mixture = Mixture(
            [len(source.records) for source in self.sources],
            [source.weight for source in self.sources],
            batch_size=config.batch_size,
            seed=config.seed,
        )
        return RecordPrompts(
            self.sources,
            self.processor,
            config.reading,
            mixture,
            rule=config.rule,
            router_tokens=config.router_tokens,
        )

    def _drawn(self, *, held_out: bool) -> DrawnPrompts:
        config = self.config
        return DrawnPrompts(
            config.drawn,
            self.processor,
            config.reading,
            seed=0 if held_out else config.seed,
            atlas=None if config.atlas is None else load_atlas(Path(config.atlas)),
            device=self.device,
            held_out=held_out,
            rules=() if held_out else (*config.task_rules, *([(".*", config.rule)] if config.rule else [])),
        )

    def _num_steps(self) -> int:
        config = self.config
        if config.steps is not None:
            return config.steps
        assert isinstance(self.prompts, RecordPrompts)
        return self.prompts.mixture.num_steps(config.epochs) * config.parts

    def _scale_of(self, name: str) -> float:
        return 1.0 if ".lora_" in name else self.config.full_scale

    def _restore(self) -> Progress:
        if self.resume:
            world = self.world
            return load_state(self.out / "state", self.optimizer, self.generator, world.rank, world.size)
        return Progress()

    def _judge(self, reward_model: RewardModel | None) -> Judge:
        return Judge(
            self.model,
            self.tokenizer,
            weights=self.config.rewards,
            reward_model=reward_model,
            row_tokens=self.row_tokens,
            autocast=self.autocast,
        )

    def _sampler(self) -> Sampler:
        """The engine, after the optimiser, which has moved what learns into its own memory; there it must stay."""
        config = self.config
        sampler = Sampler(
            self.model,
            self.tokenizer,
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            rows=config.rows,
            cache_bytes=None if config.cache_gb is None else int(config.cache_gb * 1e9),
        )
        flat = _storage(self.optimizer.params)
        moved = [n for n, p in self.model.named_parameters() if p.requires_grad and _storage(p) != flat]
        assert not moved, f"the engine moved {len(moved)} parameters away from the optimiser, as {moved[0]}"
        return sampler

    def _held_out(self) -> list[Prompt]:
        """The evaluation prompts, each in both modes."""
        config = self.config
        wanted = [(number, deep) for deep in MODES for number in range(config.eval_drawn)]
        if config.drawn and wanted:
            return [prompt for prompt in self._drawn(held_out=True).take(wanted) if prompt is not None]
        count = sum(len(source.records) for source in self.eval_sources)
        if not count:
            if config.eval_data:
                raise CpmvError("no sample of --eval-data is usable; see what cpmv data check says of it")
            return []
        plain = Mixture([len(s.records) for s in self.eval_sources], batch_size=1, shuffle=False)
        prompts = RecordPrompts(self.eval_sources, self.processor, config.reading, plain, rule=config.rule)
        found = prompts.take([(number, deep) for deep in MODES for number in range(count)])
        return [prompt for prompt in found if prompt is not None]

    def _objective(self) -> PolicyObjective:
        config, world = self.config, self.world
        share = config.batch_size // world.size
        num_deep = round(share * config.deep_share)
        plan = Plan(
            share - num_deep,
            num_deep,
            config.group_size,
            filtered=config.filter_beta is not None,
            rounds=config.rounds if config.filter_beta is not None else 1,
            seed=config.seed,
            stride=world.size,
            offset=world.rank,
            row_tokens=self.row_tokens,
            temperature=config.temperature,
            autocast=self.autocast,
        )
        state = State(StdFilter(config.filter_beta or 0.0))
        self.batches = Batches(
            plan, self.prompts, self.sampler, self.judge, self.model, state, self.out / "rollouts", told=self._told
        )
        self._set_baselines()
        objective = PolicyObjective(
            self.model,
            self.batches,
            parts=config.parts,
            prompts_per_batch=share,
            row_tokens=self.row_tokens,
            clip=(config.clip_low, config.clip_high),
            temperature=config.temperature,
            seed=config.seed,
        )
        objective.resume(self.progress.step)
        return objective

    def _set_baselines(self) -> None:
        """r' of prompts judged by probability, under the policy at the start of the run; kept for a resumed one."""
        if not isinstance(self.prompts, RecordPrompts):
            return
        prompts, file = self.prompts, self.out / BASELINES
        if self.resume and file.is_file():
            prompts.baselines = {int(index): value for index, value in json.loads(file.read_text()).items()}
            return
        indices = prompts.unruled()
        if not indices:
            return
        made = []
        for index in indices:
            try:
                made.append((index, prompts.make(index, False)))
            except CpmvError:
                continue  # it is named and left out when its turn comes
        with nullcontext() if self._report is None else self._report("reading references") as progress:
            values = self.judge.baselines([prompt for _, prompt in made], progress=progress)
        prompts.baselines = {index: value for (index, _), value in zip(made, values, strict=True)}
        if self.world.is_main:
            self.out.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(prompts.baselines))

    def _told(self, batch: int, report: dict[str, Any], groups: Sequence[Group]) -> None:
        """Log a batch, and write some of its responses as text."""
        if not self.world.is_main:
            return
        config = self.config
        self.logger.write("rollout", batch * config.parts, {"batch": batch, **report})
        shown = [
            f"{name} {report[name]['accuracy']:.1%} right, {report[name]['tokens']:.0f} tokens"
            for name in MODES.values()
            if name in report
        ]
        self.logger.line(
            f"batch {batch}: {'; '.join(shown)}; {report['equal']:.0%} of groups equal, {report['groups']} learnt from "
            f"in {report['rounds']} rounds; {report['sampled_tokens_per_s']:,.0f} tokens/s sampled"
        )
        with (self.out / ROLLOUTS).open("a", encoding="utf-8") as file:
            for mode in MODES:
                for group in [group for group in groups if group.prompt.deep == mode][: config.show]:
                    file.write(show(group, batch))
        states = find_states(self.out / "state")
        saved = int(states[-1].name.split("-")[1]) if states else 0
        self.batches.prune(min(batch - 1, max(0, saved - 1) // config.parts))

    def go(self) -> Result:
        config, main = self.config, self.world.is_main
        if main:
            (self.out / "run.json").write_text(json.dumps(config.to_json(), indent=1) + "\n")
        settings = config.for_loop(self.steps, self.model.config.hf, self.model.config.hf_preprocessor)
        step = Step(self.objective, self.optimizer, self.world, self.generator, autocast=self.autocast)
        evaluate = self._evaluate if self.held_out else None
        loop = Loop(step, settings, self.world, self.logger, self.out, progress=self.progress, evaluate=evaluate)
        if main:
            self.logger.line(self._describe(), keep=True)
        try:
            before = loop.measure_quality() if self.progress.step == 0 else {}
            loop.run()
            after = {} if loop.interrupted else loop.measure_quality()
            if not loop.interrupted and config.save_every_s:
                loop.save()
        finally:
            self.sampler.close()
            self.logger.close()
            self._write_problems()
        bad = sum(len(source.problems) for source in (*self.sources, *self.eval_sources))
        folder = None if loop.interrupted else self._export()
        return Result(folder, self.progress.step, 0.0, bad, before, after)

    def _describe(self) -> str:
        config = self.config
        prompts = f"{self.prompts.size} prompts" if self.prompts.size else f"drawn {', '.join(config.drawn)}"
        learning = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        return (
            f"{prompts}; batches of {config.batch_size} ({config.num_deep} deep) with {config.group_size} responses "
            f"each, {config.parts} updates a batch, {self.steps} in all; {learning:,} parameters learn on {self.device}"
        )

    def _evaluate(self) -> dict[str, Any]:
        """Greedy answers to the evaluation prompts, by mode; "held-out" is the mean over the modes."""
        self.sampler.follow()
        answers = self.sampler.answer(self.held_out)
        scores: dict[str, Any] = {}
        for mode, name in MODES.items():
            pairs = [(p, a) for p, a in zip(self.held_out, answers, strict=True) if p.deep == mode]
            right = []
            for prompt, answer in pairs:
                response = split_response(answer.text, deep=mode, finished=answer.finished)
                rule = "label" if prompt.kind == PROBABILITY else prompt.kind
                right.append(rule_reward(rule, response.answer, prompt.reference))
            count = max(1, len(pairs))
            tokens = sum(len(answer.ids) for _, answer in pairs)
            scores[name] = {"exact": sum(right) / count, "tokens": tokens / count, "n": len(pairs)}
        return {"held-out": {"exact": (scores["fast"]["exact"] + scores["deep"]["exact"]) / 2}, **scores}

    def _write_problems(self) -> None:
        if not self.world.is_main:
            return
        lines = [
            json.dumps({"file": str(p.file), "line": p.line, "kind": p.kind, "reason": p.reason}, ensure_ascii=False)
            for source in (*self.sources, *self.eval_sources)
            for p in source.problems
        ]
        (self.out / PROBLEMS).write_text("".join(line + "\n" for line in lines), encoding="utf-8")

    def _export(self) -> Path:
        config = self.config
        folder = self.out / (ADAPTER if config.lora is not None else MODEL)
        if not self.world.is_main:
            return folder
        if config.lora is not None:
            whole = tuple(module for part in config.trained for module in MODULES[part])
            return save_adapter(self.model, folder, base_model=config.model or "", full=whole)
        return checkpoint.save(self.model, self.tokenizer, folder, overwrite=True)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
