"""A pre-training run from start to finish: build, train, evaluate, export, and a short table at the end."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..device import choose
from ..errors import CpmvError
from ..model.attention import Segments, attention, segment_mask
from ..model.config import LanguageConfig, from_hf
from .composed import Composer, HostBatch, Room
from .composed_probe import ComposedProbe
from .composed_steps import ComposedSteps, Makes, stream_steps
from .config import Schedule, TrainConfig
from .distributed import World, join
from .init import build
from .joint import Draws, JointObjective, combination_of
from .joint_model import JointModel
from .loop import Clock, Loop
from .metrics import Log
from .optim import Optimizer
from .parts import freeze
from .probe import Probe, summary_rows
from .state import Progress, dense_weights, export, find_states, load_state, load_weights, read_export
from .step import Step, own_stream

if TYPE_CHECKING:
    from ..inputs.text import Tokenizer

log = logging.getLogger("cpmv")
_RESERVE_S = 8.0  # after the last evaluation: export, picture sheet, table


@dataclass(frozen=True)
class Paths:
    """Where a run reads and writes. init: weights to start from; decay_from: the same, and only decay from there."""

    out: Path
    atlas: Path | None = None
    tokenizer: Path | None = None
    init: Path | None = None
    decay_from: Path | None = None
    resume: bool = False


def smoke(config: TrainConfig) -> TrainConfig:
    """Every stage of a run, short: 120 steps after compiling, two evaluations of 8 samples, export."""
    return replace(
        config,
        seconds=None,
        steps=120,
        schedule=replace(config.schedule, warmup_steps=20),
        log_every=10,
        evaluate_every_s=3.0,
        evaluate_samples=8,
        save_every_s=0.0,
    )


def pretrain(
    config: TrainConfig,
    paths: Paths,
    *,
    device: str | None = None,
    started: float | None = None,
    remake: Callable[[Makes], Makes] | None = None,
) -> Path:
    """Run one preset. Return the folder of the exported weights.

    started: `time.perf_counter()` when the process began; the budget of seconds counts from there. remake: turns the
    maker of composed documents into another, for experiments on what is learnt from.
    Raises CpmvError for settings or files that do not fit together, and when training collapses.
    """
    started = time.perf_counter() if started is None else started
    world, place = join(choose(device).device)
    folder = _Run(config, paths, world, place, started, remake).go()
    world.close()
    return folder


class _Run:
    """One run's parts, in the order they are built."""

    def __init__(
        self,
        config: TrainConfig,
        paths: Paths,
        world: World,
        device: torch.device,
        started: float,
        remake: Callable[[Makes], Makes] | None = None,
    ) -> None:
        self._remake = remake
        if paths.decay_from is not None:
            # Only the decay: a straight line down from the peak, auxiliary losses at the end of their fade. Weights
            # without moments need a warm-up first.
            warmup = 1 if (paths.decay_from / "state").is_dir() else config.schedule.warmup_steps
            schedule = Schedule("linear", warmup, floor=config.schedule.floor)
            config = replace(config, schedule=schedule, aux_fade=(-1.0, 0.0))
        self.config, self.paths, self.world, self.device, self.started = config, paths, world, device, started
        self.stages: list[tuple[str, float]] = []
        self._mark = time.perf_counter()
        own_stream(device)
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        self.autocast = _precision(config.precision, device)
        self.tokenizer, self.drawer, self.unseen = self._drawers()
        model = build(from_hf(config.model, config.preprocessor), device, config.seed)
        network = JointModel(model, self.drawer.num_classes, config.seed, config.length_power)
        self.model = network.to(device).train()
        freeze(model, config.trained)
        self._load_start()
        mix = share_of(config.mix, world.size)
        self.composer: Composer | None = None
        self.steps: ComposedSteps | None = None
        self.unseen_steps: ComposedSteps | None = None
        if config.composed is not None:
            self.composer, self.steps, self.unseen_steps = self._composed()
        packed_tokens = self._packed_tokens(sum(mix.values()))
        self.model.packed = packed_tokens is not None
        self.objective = JointObjective(
            self.model,
            self.drawer,
            mix,
            config.combinations,
            aux_weight=config.aux_weight,
            packed_tokens=packed_tokens,
            composer=self.composer,
            host_batches=self._host_batches,
        )
        self.objective.branches.enabled = config.draw_ahead
        self.optimizer = Optimizer(
            self.objective.named_parameters(),
            adam_scale=config.adam_scale,
            weight_decay=config.weight_decay,
            clip_norm=config.clip_norm,
        )
        self.generator = torch.Generator(device).manual_seed(config.seed * 1_000_003 + world.rank)
        self.progress = self._restore()
        world.broadcast(self.optimizer.params)
        self._stage("build")

    def _stage(self, name: str) -> None:
        now = time.perf_counter()
        self.stages.append((name, now - self._mark))
        self._mark = now

    def _drawers(self) -> tuple[Tokenizer, Draws, Draws | None]:
        from ..inputs.text import Tokenizer

        config, paths, device = self.config, self.paths, self.device
        if config.drawer == "words":
            from .words import WordsDrawer, words_tokenizer

            tokenizer = words_tokenizer()
            return tokenizer, WordsDrawer(tokenizer, device), WordsDrawer(tokenizer, device, held_out=True)
        from .draw import Drawer

        if paths.atlas is None or paths.tokenizer is None:
            raise CpmvError("this preset draws from a glyph atlas; give --atlas FILE and --tokenizer FOLDER")
        tokenizer = Tokenizer.from_folder(paths.tokenizer)
        vocab_size = int(config.model["vocab_size"])
        if len(tokenizer) > vocab_size:
            raise CpmvError(f"{paths.tokenizer} has {len(tokenizer)} ids but the preset's model only {vocab_size}")
        compiled = _compiles(config.compile, device)

        def drawer(held_out: bool) -> Draws:
            return Drawer(
                paths.atlas,  # type: ignore[arg-type]
                tokenizer,
                device,
                seed=config.seed,
                held_out=held_out,
                sequence_length=config.sequence_length,
                compile_drawing=compiled == "inductor",
            )

        unseen = self.world.is_main and config.evaluate_samples > 0
        return tokenizer, drawer(False), drawer(True) if unseen else None

    def _composed(self) -> tuple[Composer, ComposedSteps, ComposedSteps]:
        """What draws composed samples here, what makes them in the workers, and the same for evaluation."""
        from .draw.atlas import Atlas
        from .draw.document import Metrics
        from .draw.documents import KINDS, Maker

        config, composed = self.config, self.config.composed
        assert composed is not None
        wanted = {*composed.single_kinds, *composed.page_kinds, *composed.clip_kinds, *composed.text_kinds}
        if unknown := wanted - set(KINDS):
            raise CpmvError(f"unknown kinds of documents: {', '.join(sorted(unknown))}; known: {', '.join(KINDS)}")
        if self.paths.atlas is None:
            raise CpmvError("composed samples are drawn from a glyph atlas; give --atlas FILE")
        atlas = Atlas.load(self.paths.atlas)
        model = from_hf(config.model, config.preprocessor)
        rooms = [Room(combination, composed, model) for combination in config.combinations]
        compiled = _compiles(config.compile, self.device) == "inductor"
        composer = Composer(rooms, atlas, model, self.device, compiled=compiled)
        key_of = partial(combination_of, seed=config.seed, num=len(rooms))

        def steps(held_out: bool) -> ComposedSteps:
            maker: Makes = Maker(Metrics(atlas, held_out=held_out), held_out=held_out)
            if self._remake is not None:
                maker = self._remake(maker)
            seed = (config.seed, self.world.rank, int(held_out))
            return ComposedSteps(rooms, key_of, atlas, self.tokenizer, model, maker, seed)

        return composer, steps(False), steps(True)

    def _host_batches(self, first: int) -> Iterator[HostBatch]:
        assert self.steps is not None and self.config.composed is not None
        return stream_steps(self.steps, first, self.config.composed.workers)

    def _load_start(self) -> None:
        start = self.paths.init or self.paths.decay_from
        if start is None or (start / "state").is_dir():
            return
        tensors = dense_weights(start) if (start / "config.json").is_file() else read_export(start)[1]
        load_weights(tensors, self.model.model, self.model.heads)

    def _packed_tokens(self, samples: int) -> int | None:
        """Length of the row that a step's samples share, or None: a padded row each."""
        wanted = self.config.tokens_per_sample
        if wanted is None or self.autocast is None or self.device.type != "cuda":
            return None
        problem = packing_problem(from_hf(self.config.model).language, self.device)
        if problem is not None:
            log.warning("packing does not work here (%s); samples are padded, about a quarter slower", problem)
            return None
        return -(-wanted * samples // 256) * 256

    def _restore(self) -> Progress:
        """Continue a run of our own, or take weights and moments (not the counters) of another's state."""
        paths, rank, size = self.paths, self.world.rank, self.world.size
        if paths.resume:
            return load_state(paths.out / "state", self.optimizer, self.generator, rank, size)
        if find_states(paths.out / "state"):
            raise CpmvError(f"{paths.out} holds a run already; add --resume to go on with it, or give another --out")
        start = paths.init or paths.decay_from
        if start is not None and (start / "state").is_dir():
            load_state(start / "state", self.optimizer, None, rank, size)
        return Progress()

    def go(self) -> Path:
        config, out = self.config, self.paths.out
        main = self.world.is_main
        logger = Log(out, quiet=not main, tensorboard=config.tensorboard, step=self.progress.step)
        if main:
            (out / "run.json").write_text(json.dumps(config.to_json(), indent=1) + "\n")
        step = Step(
            self.objective,
            self.optimizer,
            self.world,
            self.generator,
            autocast=self.autocast,
            graphs=("whole" if config.graphs == "auto" else config.graphs),
            ahead=config.draw_ahead,
        )
        backend = _compiles(config.compile, self.device)
        if backend is not None:
            self.model.compile_regions(backend)
            step.fallbacks.append(("compiled blocks", lambda: torch.compiler.set_stance("force_eager")))
        if self.objective.packed_tokens is not None:
            step.fallbacks.insert(0, ("packing", self._stop_packing))
        deadline = self.started + config.seconds if config.seconds and not self.paths.resume else None
        asked = main and config.evaluate_samples > 0
        probe = Probe(self.model, self.drawer, self.unseen, config, self.tokenizer, self.autocast) if asked else None
        composed_probe = None
        if asked and self.composer is not None and self.unseen_steps is not None:
            composed_probe = ComposedProbe(self.model, self.composer, self.unseen_steps, self.autocast)

        def evaluate() -> dict[str, Any]:
            scores = probe.run(sheet) if probe is not None else {}
            return scores | (composed_probe.run(self.objective) if composed_probe is not None else {})

        self._stage("draw evaluation sets")
        sheet = out / "samples.png"
        loop = Loop(
            step,
            config,
            self.world,
            logger,
            out,
            progress=self.progress,
            clock=Clock(deadline, _RESERVE_S),
            num_keys=len(config.combinations),
            evaluate=evaluate if config.evaluate_samples else None,
            on_decay=self._export_stable if config.keep_stable else None,
        )
        loop.run()
        self._stage("compile and train")
        if loop.interrupted:
            logger.close()
            return out
        step.release()
        folder = self._export("final")  # before anything that may fail
        if config.save_every_s:
            loop.save()
        self._stage("export")
        scores = loop.measure_quality()
        self._stage("evaluate")
        if main:
            self._table(loop, scores)
        logger.close()
        return folder

    def _stop_packing(self) -> None:
        self.objective.packed_tokens = None
        self.model.packed = False

    def _export_stable(self) -> None:
        self._export("stable")

    def _export(self, name: str) -> Path:
        """Write the weights, the training heads with them, so that a later block can go on."""
        folder = self.paths.out / name
        if self.world.is_main:
            meta = {
                "config": self.config.model,
                "preprocessor": self.config.preprocessor,
                "step": self.progress.step,
                "samples": self.progress.samples,
            }
            modules: list[tuple[str, torch.nn.Module]] = [("", self.model.model), ("heads.", self.model.heads)]
            export(folder, modules, meta, self.config.export_dtype)
        return folder

    def _table(self, loop: Loop, scores: dict[str, Any]) -> None:
        lines = summary_rows(scores) if scores else []
        seconds = time.perf_counter() - self.started
        lines.append(f"{self.progress.step:,} steps, {self.progress.samples:,} samples, {seconds:.0f} s in all")
        lines += [f"  {name:<22}{took:7.1f} s" for name, took in self.stages]
        print("\n".join(lines), flush=True)


def packing_problem(config: LanguageConfig, device: torch.device) -> str | None:
    """Try attention over packed segments, forwards and backwards, against a mask; return what is wrong, or None."""
    generator = torch.Generator(device).manual_seed(0)

    def drawn(heads: int) -> torch.Tensor:
        shape = (1, heads, 200, config.head_dim)
        return torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16).requires_grad_()

    q, k, v = (drawn(n) for n in (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads))
    offsets = torch.tensor([0, 64, 65, 65, 200], device=device, dtype=torch.int32)
    segments, scale = Segments(offsets, 135), config.head_dim**-0.5
    try:
        packed = attention(q, k, v, scale=scale, mask=segments)
        grads = torch.autograd.grad(packed.float().square().sum(), (q, k, v))
    except (RuntimeError, TypeError, NotImplementedError) as error:
        return str(error).splitlines()[0]
    exact = [x.detach().float().requires_grad_() for x in (q, k, v)]
    masked = attention(exact[0], exact[1], exact[2], scale=scale, mask=segment_mask(segments, 200))
    expected = torch.autograd.grad(masked.square().sum(), exact)
    for mine, theirs in zip((packed, *grads), (masked, *expected), strict=True):
        apart = float((mine.detach().float() - theirs.detach()).norm() / theirs.detach().norm())
        if not apart < 0.02:  # bf16 operands: a few thousandths
            return f"differs from the masked result by {apart:.3f}"
    return None


def _precision(name: str, device: torch.device) -> torch.dtype | None:
    if name not in ("auto", "bf16", "fp32"):
        raise CpmvError(f"precision {name!r} is unknown; use auto, bf16 or fp32")
    return torch.bfloat16 if name == "bf16" or (name == "auto" and device.type == "cuda") else None


def _compiles(name: str, device: torch.device) -> str | None:
    """The backend to compile blocks with, or None."""
    if name == "aot":
        return "aot_eager"
    return "inductor" if name == "on" or (name == "auto" and device.type == "cuda") else None


def share_of(mix: dict[str, int], size: int) -> dict[str, int]:
    uneven = [f"{kind} {count}" for kind, count in mix.items() if count % size]
    if uneven:
        raise CpmvError(f"{', '.join(uneven)} samples a step cannot be split over {size} GPUs; change the mix")
    return {kind: count // size for kind, count in mix.items()}
