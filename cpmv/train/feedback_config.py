"""What a run of learning from feedback is: `FeedbackConfig`, and presets as functions, each with its command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import CpmvError
from ..model.lora import LoraConfig
from .feedback_prompts import DRAWN
from .finetune_config import PARTS, FinetuneConfig
from .samples import Reading

DIVIDERS = ("rules", "model", "whole")
JUDGES = ("self", "truth")


@dataclass(frozen=True)
class FeedbackConfig(FinetuneConfig):
    """As `FinetuneConfig` of DPO, whose epochs and batches are those of a round; and:

    drawn: "describe", scenes drawn instead of data. eval_drawn: held-out scenes that rounds are measured on; with data
    of one's own, `eval_prompts` of its rows are left out of training for that. rounds; prompts: of a round. group_size:
    responses to a prompt. divider: one of DIVIDERS. judge: "self", "truth", or another checkpoint. other: half of the
    responses come from this checkpoint, or "truth": one is the exact answer; pairs are then of different sources.
    pairs_per_prompt; balanced: whether lengths are. slack: of recall, that a better round may lose. rows: responses
    sampled together.
    """

    objective: str = "dpo"
    lr: float = 1e-6
    weight_decay: float = 0.01
    warmup: float = 0.05
    epochs: float = 4.0
    batch_size: int = 256
    log_every: int = 1
    reading: Reading = Reading(max_tokens=2048)
    drawn: tuple[str, ...] = ()
    eval_drawn: int = 200
    eval_prompts: int = 100
    rounds: int = 4
    prompts: int = 4000
    group_size: int = 10
    temperature: float = 0.7
    max_new_tokens: int = 512
    divider: str = "rules"
    judge: str = "self"
    other: str | None = None
    pairs_per_prompt: int = 2
    balanced: bool = True
    slack: float = 0.01
    rows: int = 64

    def check_data(self) -> None:
        if bool(self.data) == bool(self.drawn):
            raise CpmvError("give either --data FILE or --drawn describe, to have pictures to ask about")
        if unknown := set(self.drawn) - set(DRAWN):
            raise CpmvError(f"--drawn {', '.join(sorted(unknown))} is unknown; use {', '.join(DRAWN)}")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("shard", "compile", "augment_video"):
            if getattr(self, name):
                raise CpmvError(f"{name} is not for rlaif, whose engine samples from the whole, plain model; drop it")
        if self.eval_data:
            raise CpmvError("rlaif measures rounds on held-out prompts of its own; drop --eval-data")
        if self.divider not in DIVIDERS:
            raise CpmvError(f"divider {self.divider!r} is unknown; use {', '.join(DIVIDERS)}")
        least = {"rounds": 1, "prompts": 1, "group_size": 2, "max_new_tokens": 1, "pairs_per_prompt": 1, "rows": 1}
        for name, number in least.items():
            if getattr(self, name) < number:
                raise CpmvError(f"{name} is {getattr(self, name)}; give at least {number}")
        if not 0 < self.temperature <= 10:
            raise CpmvError(f"temperature is {self.temperature}; responses must differ, so give above 0, such as 0.7")
        if "truth" in (self.judge, self.other) and not self.drawn:
            raise CpmvError("truth is known of drawn scenes alone; give --drawn describe, or another judge")


def full() -> dict[str, Any]:
    """As published: 4 rounds of about 4,000 prompts, 10 responses each, rate 1e-6, beta 0.1; everything learns.

    Command:  cpmv train rlaif --data PROMPTS --out DIR
    Take it:  with an unquantised checkpoint and memory for 16 bytes a parameter.
    """
    return {"trained": PARTS}


def lora() -> dict[str, Any]:
    """The same with adapters, merged after every round; the base may be quantised.

    Command:  cpmv train rlaif --lora --data PROMPTS --out DIR
    Take it:  to begin with; adapters bear a higher rate.
    """
    return {"lora": LoraConfig(rank=16, alpha=32.0), "lr": 5e-6}


def tiny() -> dict[str, Any]:
    """The bundled model, with adapters, on drawn scenes.

    Command:  cpmv train rlaif --preset tiny --drawn describe --judge truth --out DIR
    Take it:  to see the method work.
    """
    return {
        "lora": LoraConfig(rank=16, alpha=32.0),
        "lr": 5e-5,
        "batch_size": 32,
        "max_new_tokens": 192,
        "rows": 256,
        "reading": Reading(max_tokens=1024, max_slice_nums=1),
        "row_tokens": 8192,
    }


PRESETS: dict[str, Callable[[], dict[str, Any]]] = {"full": full, "lora": lora, "tiny": tiny}
