"""What a run of reinforcement learning is: `RLConfig`, and presets as functions, each with its command."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CpmvError
from ..model.lora import LoraConfig
from .finetune import ADAPTER, MODEL
from .finetune_config import PARTS, FinetuneConfig
from .reward_mix import Weights
from .samples import Reading
from .state import find_states


@dataclass(frozen=True)
class RLConfig(FinetuneConfig):
    """As `FinetuneConfig`, and: batch_size is of prompts, over all GPUs; steps counts updates, `parts` a batch.

    drawn: tasks drawn instead of data (`rl_prompts.DRAWN`), pictures from `atlas`; eval_drawn: so many of them, never
    trained on, are asked at intervals. group_size: responses to a prompt. deep_share: of prompts in deep mode. parts:
    updates a batch. max_new_tokens: of a response. clip_low, clip_high: of the ratio. filter_beta: drop prompts whose
    rewards deviate less than so many mean deviations; 0 drops those with equal rewards; None drops none. rounds: at
    most so many times more prompts are tried. rule: judges all answers instead of what each reference looks like;
    task_rules: (expression, rule) of drawn tasks, the first that fits a task's name; without one they are exact.
    dense: quantised weights become plain ones, so that they can learn. rows: responses sampled together. cache_gb: of
    the engine's cache, by default what its rows can use. show: groups of each mode written as text, a batch.
    """

    objective: str = "rl"
    batch_size: int = 128
    lr: float = 1e-6
    schedule: str = "constant"
    warmup: float = 0.0
    log_every: int = 1
    reading: Reading = Reading(max_tokens=2048)
    drawn: tuple[str, ...] = ()
    atlas: str | None = None
    eval_drawn: int = 0
    group_size: int = 8
    deep_share: float = 0.5
    parts: int = 4
    max_new_tokens: int = 8192
    temperature: float = 1.0
    clip_low: float = 0.2
    clip_high: float = 0.27
    filter_beta: float | None = 0.5
    rounds: int = 4
    rule: str | None = None
    task_rules: tuple[tuple[str, str], ...] = ()
    router_tokens: int = 5
    rewards: Weights = Weights()
    reward_model: str | None = None
    dense: bool = False
    rows: int = 64
    cache_gb: float | None = None
    show: int = 1

    def check_data(self) -> None:
        if bool(self.data) == bool(self.drawn):
            raise CpmvError("give either --data FILE or --drawn TASKS, to have prompts and what is right")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("shard", "compile", "augment_video"):
            if getattr(self, name):
                raise CpmvError(f"{name} is not for rl, whose engine samples from the whole, plain model; leave it out")
        for name, least in (("group_size", 2), ("parts", 1), ("max_new_tokens", 1), ("rounds", 1), ("rows", 1)):
            if getattr(self, name) < least:
                raise CpmvError(f"{name} is {getattr(self, name)}; give at least {least}")
        if not 0 <= self.deep_share <= 1:
            raise CpmvError(f"deep_share is {self.deep_share}; give 0 (all fast) to 1 (all deep)")
        if not 0 < self.temperature <= 10:
            raise CpmvError(f"temperature is {self.temperature}; rollouts must draw, so give above 0, such as 1")
        if not (0 < self.clip_low < 1 and self.clip_high > 0):
            raise CpmvError(f"clip {self.clip_low}, {self.clip_high} is no range; give such as 0.2 and 0.27")
        if self.filter_beta is not None and self.filter_beta < 0:
            raise CpmvError(f"filter_beta is {self.filter_beta}; give 0 or more, or leave the filter out")
        if self.batch_size < self.parts:
            raise CpmvError(f"a batch of {self.batch_size} prompts has no {self.parts} parts; lower parts")
        if self.steps is None and not self.data:
            raise CpmvError("drawn tasks have no end; give --steps")

    @property
    def num_deep(self) -> int:
        """Prompts of a batch in deep mode."""
        return round(self.batch_size * self.deep_share)


def check_folder(out: Path, config: RLConfig, resume: bool) -> None:
    """Raise CpmvError when a run would overwrite another, or resume one that was begun otherwise."""
    states, settings = find_states(out / "state"), out / "run.json"
    if not resume:
        if states or (out / ADAPTER).exists() or (out / MODEL).exists():
            raise CpmvError(f"{out} holds a run already; add --resume to go on with it, or give another --out")
        return
    if not states or not settings.is_file():
        raise CpmvError(f"{out} holds no state to resume from; leave --resume out to start anew")
    before, now = json.loads(settings.read_text()), json.loads(json.dumps(config.to_json()))
    ours = {"log_every", "save_every_s", "evaluate_every_s", "tensorboard", "show"}
    changed = [name for name in now if name not in ours and before.get(name) != now[name]]
    if changed:
        raise CpmvError(
            f"{out} was begun with {changed[0]} = {before.get(changed[0])!r}, now it is {now[changed[0]]!r}; "
            "resume with the same settings, or give another --out"
        )


def full() -> dict[str, Any]:
    """As published: 128 prompts, 8 responses of at most 8,192 tokens, half in deep mode, constant rate; all learns.

    Command:  cpmv train rl --data PROMPTS --out DIR
    Take it:  after supervised training with reasoning, on questions with an answer that can be checked.
    """
    return {"trained": PARTS, "lr": 1e-6}


def lora() -> dict[str, Any]:
    """The same with adapters on the language model: the base may be quantised, and one GPU holds the 8.7B model.

    Command:  cpmv train rl --lora --data PROMPTS --out DIR
    Take it:  to begin with; adapters bear a higher rate.
    """
    return {"lora": LoraConfig(rank=16, alpha=32.0), "lr": 1e-5}


def tiny() -> dict[str, Any]:
    """The bundled model, unquantised, on drawn tasks; short responses.

    Command:  cpmv train rl --preset tiny --drawn think --atlas FILE --steps 200 --out DIR
    Take it:  to see the method work; docs/rl.md has measured figures.
    """
    return {
        "trained": PARTS,
        "dense": True,
        "lr": 1.2e-5,
        "max_new_tokens": 192,
        "rows": 256,
        "row_tokens": 16384,
        "reading": Reading(max_tokens=1024),
    }


PRESETS: dict[str, Callable[[], dict[str, Any]]] = {"full": full, "lora": lora, "tiny": tiny}
