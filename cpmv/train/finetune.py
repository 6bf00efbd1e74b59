"""A fine-tuning run from start to finish: read the data, drop what is bad, train through the loop, write the result.

The result is an adapter in PEFT's layout (`OUT/adapter`), or a checkpoint in the released layout (`OUT/model`) when
parts learnt whole without adapters. `OUT/bad_samples.jsonl` names every sample that was left out.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import CpmvError
from ..inputs.processor import Processor
from ..model.adapter import save_adapter
from ..model.config import ModelInputs
from ..model.lora import apply_lora, lora_parameters
from ..model.minicpmv import MiniCPMV
from ..weights import checkpoint
from ..weights.hub import resolve
from ..weights.packed import PackedLinear
from .answers import score_answers
from .distributed import World, join
from .finetune_config import MODULES, FinetuneConfig
from .formats import Source, read_source
from .loop import Loop
from .metrics import Log
from .mixture import Mixture
from .optim import Optimizer
from .parts import freeze, part_of
from .preference import Pair, PreferenceObjective, reference_log_probs
from .recompute import compile_blocks, recompute_blocks
from .records import Record
from .samples import problem_of, read_sample, usable
from .sharded_optim import ShardedOptimizer
from .sharding import gather_trained, has_picture, idle_sample, level, shard
from .state import Progress, find_states, load_state
from .step import Objective, Step, own_stream
from .stream import SampleStream, jitter_times, slower, with_drawn_rates
from .supervised import FinetuneObjective

log = logging.getLogger("cpmv")
ADAPTER, MODEL, PROBLEMS = "adapter", "model", "bad_samples.jsonl"
T = TypeVar("T")
ProgressReport = Callable[[str], Any]  # label -> context manager that is called with (done, total)


@dataclass
class Result:
    """folder: of the adapter or checkpoint, None for a run that was stopped. scores: of the evaluation data, at the
    start and at the end. bad: samples that were left out."""

    folder: Path | None
    steps: int
    seconds: float
    bad: int
    before: dict[str, Any]
    after: dict[str, Any]


def finetune(
    config: FinetuneConfig,
    out: Path,
    *,
    device: str | None = None,
    resume: bool = False,
    progress: ProgressReport | None = None,
) -> Result:
    """Run it. Raises CpmvError for settings, files or a model that do not fit together."""
    started = time.perf_counter()
    from ..device import choose

    world, place = join(choose(device).device)
    try:
        result = _Run(config, out, world, place, resume, progress).go()
    finally:
        world.close()
    result.seconds = time.perf_counter() - started
    return result


class _Run:
    """One run's parts, in the order they are built."""

    def __init__(
        self,
        config: FinetuneConfig,
        out: Path,
        world: World,
        device: torch.device,
        resume: bool,
        progress: ProgressReport | None,
    ) -> None:
        self.config, self.out, self.world, self.device, self.resume = config, out, world, device, resume
        self._report = progress if world.is_main else None
        self._check_folder()
        self.sources = self._read(config.data)
        self.eval_sources = self._read(config.eval_data)
        own_stream(device)
        self.autocast = torch.bfloat16 if device.type == "cuda" else None
        loaded = checkpoint.load(
            resolve(config.model), device=device, dtype=torch.bfloat16 if self.autocast else torch.float32
        )
        self.model, self.tokenizer = loaded.model, loaded.tokenizer
        self.processor = Processor(loaded.config, loaded.tokenizer)
        self._drop_bad()
        self.mixture = Mixture(
            [len(source.records) for source in self.sources],
            [source.weight for source in self.sources],
            batch_size=config.batch_size,
            seed=config.seed,
            rank=world.rank,
            world_size=world.size,
        )
        self.steps = config.steps or self.mixture.num_steps(config.epochs)
        choose_parts(self.model, config)
        self.held_out = self._held_out()
        self.stream: SampleStream[Any]
        self.objective = self._objective()
        if config.compile:
            compile_blocks(self.model)
        if config.recompute:
            recompute_blocks(self.model)
        self.optimizer = self._optimizer()
        self.model.train()
        self.generator = torch.Generator(device).manual_seed(config.seed * 1_000_003 + world.rank)
        self.progress = self._restore()
        self.optimizer.share_params(world)

    def _check_folder(self) -> None:
        states, settings = find_states(self.out / "state"), self.out / "run.json"
        done = (self.out / ADAPTER).exists() or (self.out / MODEL).exists()
        if not self.resume:
            if states or done:
                raise CpmvError(f"{self.out} holds a run already; add --resume to go on with it, or give another --out")
            return
        if not states or not settings.is_file():
            raise CpmvError(f"{self.out} holds no state to resume from; leave --resume out to start anew")
        before, now = json.loads(settings.read_text()), json.loads(json.dumps(self.config.to_json()))
        ours = {"log_every", "save_every_s", "evaluate_every_s", "tensorboard"}
        changed = [name for name in now if name not in ours and before.get(name) != now[name]]
        if changed:
            raise CpmvError(
                f"{self.out} was begun with {changed[0]} = {before.get(changed[0])!r}, now it is {now[changed[0]]!r}; "
                "resume with the same settings, or give another --out"
            )

    def _read(self, specs: Sequence[str]) -> list[Source]:
        config = self.config
        return [
            read_source(spec, format=config.format, media_root=config.media_root, strict=config.strict)
            for spec in specs
        ]

    def _drop_bad(self) -> None:
        """Leave out what cannot be trained on, and say so."""
        config, pairs = self.config, self.config.objective == "dpo"
        with _progress(self._report, "reading the data") as progress:
            usable(self.sources, self.processor, config.reading, pairs=pairs, strict=config.strict, progress=progress)
        usable(self.eval_sources, self.processor, config.reading, pairs=pairs, strict=config.strict)
        for source in (*self.sources, *self.eval_sources):
            if self.world.is_main and source.problems:
                first = source.problems[0]
                log.warning(
                    "%s: %d of %d samples are bad and left out; the first: line %d: %s",
                    source.path,
                    len(source.problems),
                    source.num_rows,
                    first.line,
                    first.reason,
                )

    def _read_one(self, index: int, record: Record, rng: random.Random) -> ModelInputs:
        if not self.config.augment_video:
            return read_sample(self.processor, record, self.config.reading)
        messages = with_drawn_rates(record.messages, rng)
        while True:
            try:
                sample = read_sample(self.processor, record, self.config.reading, messages)
                break
            except CpmvError:
                # Too many frames for this sample's room, most likely; an error that is not shows again below.
                fewer = slower(messages)
                if fewer is None:
                    raise
                messages = fewer
        jitter_times(sample, rng)
        return sample

    def _read_pair(self, index: int, record: Record, rng: random.Random | None = None) -> Pair:
        assert record.rejected is not None
        reading = self.config.reading
        better = read_sample(self.processor, record, reading)
        return Pair(better, read_sample(self.processor, record, reading, record.rejected), index)

    def _held_out(self) -> list[ModelInputs]:
        """The evaluation data's samples; of pairs, the better answers."""
        out = []
        for source in self.eval_sources:
            for record in source.records:
                try:
                    out.append(read_sample(self.processor, record, self.config.reading))
                except CpmvError as error:
                    source.problems.append(problem_of(source, record, error))
        if self.config.eval_data and not out:
            raise CpmvError("no sample of --eval-data is usable; see what cpmv data check says of it")
        return out

    @property
    def row_tokens(self) -> int:
        return self.config.row_tokens or self.config.reading.max_tokens

    def _objective(self) -> Objective:
        config, share = self.config, self.config.batch_size // self.world.size
        idle = idle_sample(self.model)
        if config.objective == "sft":
            self.stream = SampleStream(self.sources, self.mixture, self._read_one, strict=config.strict)
            return FinetuneObjective(
                self.model, self.stream, self.row_tokens, share, config.seed, self._level(idle, has_picture)
            )
        self.stream = SampleStream(self.sources, self.mixture, self._read_pair, strict=config.strict)
        return PreferenceObjective(
            self.model,
            self.stream,
            self._reference(),
            beta=config.beta,
            # The two answers of a pair stand in one row.
            max_tokens=max(self.row_tokens, 2 * config.reading.max_tokens),
            samples_per_step=share,
            seed=config.seed,
            level=self._level(Pair(idle, idle, -1), lambda pair: has_picture(pair.better)),
        )

    def _level(self, idle: T, pictured: Callable[[T], bool]) -> Callable[[list[list[T]]], None] | None:
        if not self.config.shard:
            return None
        return partial(level, idle=idle, has_picture=pictured, device=self.device)

    def _reference(self) -> Tensor:
        """The reference's log-probabilities: of this run's start, so a resumed run reads them again."""
        file = self.out / "reference.safetensors"
        if self.resume and file.exists():
            return load_file(file)["log_probs"]
        items = self.stream.items

        def read(index: int) -> Pair | None:
            try:
                return self._read_pair(index, items[index][1])
            except CpmvError:
                return None  # the stream names it when its turn comes

        with _progress(self._report, "asking the reference") as progress:
            table = reference_log_probs(
                self.model, read, len(items), self.world, autocast=self.autocast, progress=progress
            )
        if self.world.is_main:
            self.out.mkdir(parents=True, exist_ok=True)
            save_file({"log_probs": table.cpu()}, file)
        return table

    def _optimizer(self) -> Optimizer | ShardedOptimizer:
        """Let the optimiser take over what learns; a sharded one after the model has been cut up."""
        config = self.config
        scale_of = self._scale_of if config.lora is not None and config.trained else None
        decay, clip = config.weight_decay, config.clip_norm
        if not config.shard:
            named = self.objective.named_parameters()
            return Optimizer(named, adam_scale=1.0, weight_decay=decay, clip_norm=clip, muon=False, scale_of=scale_of)
        shard(self.model, self.world, self.device)
        self.autocast = None  # units compute in bfloat16 by themselves
        return ShardedOptimizer(
            self.objective.named_parameters(),
            self.world,
            kind=config.optimizer,
            weight_decay=decay,
            clip_norm=clip,
            scale_of=scale_of,
        )

    def _scale_of(self, name: str) -> float:
        return 1.0 if ".lora_" in name else self.config.full_scale

    def _restore(self) -> Progress:
        if self.resume:
            world = self.world
            return load_state(self.out / "state", self.optimizer, self.generator, world.rank, world.size)
        return Progress()

    def go(self) -> Result:
        config, main = self.config, self.world.is_main
        logger = Log(self.out, quiet=not main, tensorboard=config.tensorboard, step=self.progress.step)
        if main:
            (self.out / "run.json").write_text(json.dumps(config.to_json(), indent=1) + "\n")
        settings = config.for_loop(self.steps, self.model.config.hf, self.model.config.hf_preprocessor)
        step = Step(self.objective, self.optimizer, self.world, self.generator, autocast=self.autocast)
        loop = Loop(
            step,
            settings,
            self.world,
            logger,
            self.out,
            progress=self.progress,
            evaluate=self._evaluate if config.eval_data else None,
            evaluate_together=config.shard,
        )
        if main:
            logger.line(self._describe(), keep=True)
        try:
            before = loop.measure_quality() if self.progress.step == 0 else {}
            loop.run()
            after = {} if loop.interrupted else loop.measure_quality()
            if not loop.interrupted and config.save_every_s:
                loop.save()
        finally:
            self.stream.close()
            logger.close()
            self._write_problems()
        bad = sum(len(source.problems) for source in (*self.sources, *self.eval_sources))
        folder = None if loop.interrupted else self._export()
        return Result(folder, self.progress.step, 0.0, bad, before, after)

    def _describe(self) -> str:
        samples = sum(len(source.records) for source in self.sources)
        learning = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        total = sum(p.numel() for p in self.model.parameters())
        total += sum(m.in_features * m.out_features for m in self.model.modules() if isinstance(m, PackedLinear))
        return (
            f"{samples} samples, {self.mixture.epoch_size} an epoch, {self.steps} steps of {self.config.batch_size}; "
            f"{learning:,} of {total:,} parameters learn on {self.device}"
        )

    def _evaluate(self) -> dict[str, Any]:
        return {"held-out": score_answers(self.model, self.held_out, self.row_tokens, self.autocast)}

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
        """Write what was learnt."""
        config = self.config
        folder = self.out / (ADAPTER if config.lora is not None else MODEL)
        if config.shard:
            self.model = self._whole_model()
        if not self.world.is_main:
            return folder
        if config.lora is not None:
            whole = tuple(module for part in config.trained for module in MODULES[part])
            if "embeddings" in config.trained and not self.model.config.language.tie_word_embeddings:
                whole += ("llm.lm_head",)
            return save_adapter(self.model, folder, base_model=config.model or "", full=whole)
        return checkpoint.save(self.model, self.tokenizer, folder, overwrite=True)

    def _whole_model(self) -> MiniCPMV:
        """The model in one piece on the CPU: read again, with what was learnt put in."""
        trained = gather_trained(self.model)
        if not self.world.is_main:
            return self.model
        whole = checkpoint.load(resolve(self.config.model), device="cpu").model
        choose_parts(whole, self.config)
        for name, parameter in whole.named_parameters():
            if name in trained:
                parameter.data = trained[name]
        return whole


def choose_parts(model: MiniCPMV, config: FinetuneConfig) -> None:
    """Let the adapters and the parts in `config.trained` learn; everything else is frozen.

    Raises CpmvError for a part that cannot learn whole because its weights are quantised.
    """
    packed = {part_of(name) for name, module in model.named_modules() if isinstance(module, PackedLinear)}
    if stuck := packed & set(config.trained):
        raise CpmvError(
            f"{', '.join(sorted(stuck))} is quantised in this checkpoint and cannot learn whole; give --lora, "
            "freeze it, or start from the unquantised checkpoint"
        )
    adapted: set[str] = set()
    if config.lora is not None:
        adapted = {part_of(name) for name in apply_lora(model, config.lora, config.seed)}
    if both := adapted & set(config.trained):
        raise CpmvError(
            f"{', '.join(sorted(both))} has adapters and would learn whole too; freeze it or change --targets"
        )
    freeze(model, config.trained)
    for parameter in lora_parameters(model):
        parameter.requires_grad_(True)


class _Silent:
    """No progress to show."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *ended: object) -> None:
        return None


def _progress(report: ProgressReport | None, label: str) -> Any:
    return _Silent() if report is None else report(label)
