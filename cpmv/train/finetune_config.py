"""What a fine-tuning run is: `FinetuneConfig`, and presets as functions, each with its command and when to take it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import CpmvError
from ..model.lora import LoraConfig
from .config import Schedule, TrainConfig
from .samples import Reading
from .sharded_optim import KINDS

PARTS = ("vision", "resampler", "language", "embeddings")
# Where the parts are in the released model; what PEFT calls modules_to_save.
MODULES = {
    "vision": ("vpm",),
    "resampler": ("resampler",),
    "language": ("llm.model.layers", "llm.model.norm"),
    "embeddings": ("llm.model.embed_tokens",),
}


@dataclass(frozen=True)
class FinetuneConfig:
    """Everything that decides a run; it is written beside its results as `run.json`.

    objective: "sft" (the answers' words) or "dpo" (which of two answers). lora: adapters, or None. trained: parts that
    learn whole, of "vision", "resampler", "language", "embeddings"; the others stay bit-identical. full_scale: their
    rate beside adapters, as a share of `lr`. epochs or steps: the length. batch_size: samples of a step, over all
    GPUs. reading.max_tokens: longest sample; row_tokens: of a row that samples share, each row one micro-batch.
    warmup: share of the run. beta: of DPO. augment_video: draw frame rates and packings of clips anew each time.
    compile: blocks, by torch.compile. recompute: activations of blocks. shard: weights, gradients and moments over all
    GPUs. optimizer: "adamw" or, when sharded, "adamw8bit".
    """

    model: str | None = None
    data: tuple[str, ...] = ()
    eval_data: tuple[str, ...] = ()
    format: str | None = None
    media_root: str | None = None
    strict: bool = False
    objective: str = "sft"
    lora: LoraConfig | None = None
    trained: tuple[str, ...] = ()
    full_scale: float = 0.1
    batch_size: int = 8
    reading: Reading = Reading()
    row_tokens: int | None = None
    epochs: float = 3.0
    steps: int | None = None
    lr: float = 2e-4
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    schedule: str = "cosine"
    warmup: float = 0.03
    floor: float = 0.1
    beta: float = 0.1
    augment_video: bool = False
    compile: bool = False
    recompute: bool = False
    shard: bool = False
    optimizer: str = "adamw"
    seed: int = 0
    log_every: int = 10
    save_every_s: float = 300.0
    evaluate_every_s: float = 120.0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if unknown := set(self.trained) - set(PARTS):
            raise CpmvError(f"there is no part {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
        if self.lora is None and not self.trained:
            raise CpmvError("nothing would learn: give --lora, or freeze fewer parts")
        if self.lora is not None and "language" in self.trained:
            raise CpmvError(
                "adapters and the whole language model cannot learn together; freeze language, or drop --lora"
            )
        if self.optimizer not in KINDS:
            raise CpmvError(f"optimizer {self.optimizer!r} is unknown; use {' or '.join(KINDS)}")
        if self.optimizer != "adamw" and not self.shard:
            raise CpmvError(f"--optimizer {self.optimizer} is of sharded runs; add --shard")
        self.check_data()
        for name, least in (("batch_size", 1), ("lr", 0.0), ("epochs", 0.0), ("beta", 0.0)):
            if not getattr(self, name) > 0 or getattr(self, name) < least:
                raise CpmvError(f"{name} is {getattr(self, name)}; give a number above 0")
        if self.row_tokens is not None and self.row_tokens < self.reading.max_tokens:
            raise CpmvError(
                f"a row of {self.row_tokens} tokens cannot hold samples of {self.reading.max_tokens}; "
                "raise --row-tokens or lower --max-tokens"
            )

    def check_data(self) -> None:
        """Raise CpmvError when there is nothing to learn from."""
        if not self.data:
            raise CpmvError("there is no data; give --data FILE")

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def for_loop(self, steps: int, hf: dict[str, Any], preprocessor: dict[str, Any]) -> TrainConfig:
        """The same as the loop takes it."""
        warmup = max(1, round(self.warmup * steps))
        return TrainConfig(
            model=hf,
            preprocessor=preprocessor,
            mix={},
            combinations=(),
            steps=steps,
            peak_lr=self.lr,
            schedule=Schedule(self.schedule, warmup_steps=warmup, decay_fraction=0.2, floor=self.floor),
            trained=self.trained or ("language",),
            seed=self.seed,
            log_every=self.log_every,
            save_every_s=self.save_every_s,
            evaluate_every_s=self.evaluate_every_s,
            alarm_after=0,
            tensorboard=self.tensorboard,
        )


def lora() -> dict[str, Any]:
    """Adapters on every linear of the language model; the base may be quantised.

    Command:  cpmv train sft --lora --data FILE --out DIR
    Take it:  for nearly everything; an adapter has a few MB, and one GPU is enough.
    """
    return {"lora": LoraConfig(rank=16, alpha=32.0), "lr": 2e-4}


def full() -> dict[str, Any]:
    """Everything learns: 16 bytes of memory a parameter.

    Command:  cpmv train sft --data FILE --out DIR
    Take it:  with tens of thousands of samples, or for a small model.
    """
    return {"trained": PARTS, "lr": 1e-5, "weight_decay": 0.1}


def cookbook_full() -> dict[str, Any]:
    """As the CookBook's full script: tower and resampler learn, the language model does not.

    Command:  cpmv train sft --preset cookbook-full --data FILE --out DIR
    Take it:  to continue what was done with that script (tune_vision true, tune_llm false).
    """
    return {
        "trained": ("vision", "resampler"),
        "lr": 1e-6,
        "weight_decay": 0.1,
        "warmup": 0.01,
        "reading": Reading(max_tokens=2048, max_slice_nums=9),
    }


def cookbook_lora() -> dict[str, Any]:
    """As the CookBook's LoRA script: rank 64 on attention; tower, resampler and embeddings learn whole.

    Command:  cpmv train sft --preset cookbook-lora --data FILE --out DIR
    Take it:  to continue what was done with that script (use_lora true).
    """
    return {
        "lora": LoraConfig(rank=64, alpha=64.0, dropout=0.05, targets=("q_proj", "k_proj", "v_proj", "o_proj")),
        "trained": ("vision", "resampler", "embeddings"),
        "full_scale": 1.0,
        "lr": 1e-6,
        "weight_decay": 0.1,
        "warmup": 0.01,
        "reading": Reading(max_tokens=2048, max_slice_nums=9),
    }


def dpo() -> dict[str, Any]:
    """Preference pairs with adapters; the reference is the model without them.

    Command:  cpmv train dpo --lora --data PAIRS --out DIR
    Take it:  after supervised training, with pairs made by the model itself.
    """
    return {"objective": "dpo", "lora": LoraConfig(rank=16, alpha=32.0), "lr": 5e-6, "warmup": 0.05}


def dpo_full() -> dict[str, Any]:
    """Preference pairs, everything learns; the reference is the model as it was at the start.

    Command:  cpmv train dpo --data PAIRS --out DIR
    Take it:  to follow RLAIF-V (rate 5e-7 to 1e-6, weight decay 0.01, warm-up 5 %, cosine, beta 0.1).
    """
    return {"objective": "dpo", "trained": PARTS, "lr": 1e-6, "weight_decay": 0.01, "warmup": 0.05}


PRESETS: dict[str, Callable[[], dict[str, Any]]] = {
    "lora": lora,
    "full": full,
    "cookbook-full": cookbook_full,
    "cookbook-lora": cookbook_lora,
}
DPO_PRESETS: dict[str, Callable[[], dict[str, Any]]] = {"lora": dpo, "full": dpo_full}
