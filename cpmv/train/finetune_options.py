"""The options of `cpmv train sft` and `cpmv train dpo`, and what they make of a preset."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CpmvError

if TYPE_CHECKING:
    from .finetune_config import FinetuneConfig

_WHAT = {
    "sft": "train on conversations of your own: adapters (--lora) or the weights themselves",
    "dpo": "train on preferences: of two answers, make the better one likelier",
}


def add(commands: Any) -> None:
    """Add both subcommands to the parser's."""
    for objective, what in _WHAT.items():
        sub = commands.add_parser(objective, help=what, description=what.capitalize() + ".")
        _add_data(sub)
        _add_learning(sub, objective)
        _add_running(sub)


def _add_data(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("data")
    group.add_argument(
        "--data",
        nargs="+",
        required=True,
        metavar="FILE[:WEIGHT]",
        help="what to learn from; a weight says how often an epoch shows it",
    )
    group.add_argument("--eval-data", nargs="+", default=(), metavar="FILE", help="what to score on, never learnt")
    group.add_argument("--format", help="cookbook, llama-factory, ms-swift, rlpr, rlaif-v; by default told by content")
    group.add_argument("--media-root", metavar="DIR", help="folder of relative media paths; by default the file's")
    group.add_argument("--strict", action="store_true", help="stop at the first bad sample")
    group.add_argument(
        "--max-tokens", type=int, metavar="N", help="longest sample, longer ones are left out and named (default: 4096)"
    )
    group.add_argument("--max-slices", type=int, metavar="N", help="most slices of a large image")
    group.add_argument("--fps", type=float, help="frames a second of videos that do not say")
    group.add_argument("--packing", type=int, choices=range(1, 7), help="frames a group of videos that do not say")


def _add_learning(sub: argparse.ArgumentParser, objective: str) -> None:
    group = sub.add_argument_group("learning")
    group.add_argument("--model", "-m", help="checkpoint to start from; by default the bundled one")
    group.add_argument(
        "--preset", help="lora or full, and for sft cookbook-full, cookbook-lora; by default --lora tells"
    )
    group.add_argument("--lora", action="store_true", help="learn adapters beside the frozen weights")
    group.add_argument("--rank", type=int, help="of the adapters (default: 16)")
    group.add_argument("--alpha", type=float, help="of the adapters (default: twice the rank)")
    group.add_argument("--dropout", type=float, help="of the adapters (default: 0)")
    group.add_argument(
        "--targets",
        metavar="NAME,...",
        help="linears with adapters: language, vision, resampler, all, or names as q_proj,v_proj",
    )
    group.add_argument(
        "--freeze",
        metavar="PART,...",
        help="parts that do not learn whole, of vision, resampler, language, embeddings, or none "
        "(default: all four with --lora, else none)",
    )
    group.add_argument("--lr", type=float, help="peak learning rate")
    group.add_argument(
        "--full-scale",
        type=float,
        metavar="SHARE",
        help="rate of parts that learn whole beside adapters, as a share of --lr (default: 0.1)",
    )
    group.add_argument("--schedule", choices=("cosine", "wsd", "linear", "constant"), help="default: cosine")
    group.add_argument("--warmup", type=float, metavar="SHARE", help="of the run (default: 0.03)")
    group.add_argument("--weight-decay", type=float)
    group.add_argument("--clip-norm", type=float)
    group.add_argument("--epochs", type=float, help="default: 3")
    group.add_argument("--steps", type=int, help="length in steps instead of epochs")
    group.add_argument("--batch-size", type=int, metavar="N", help="samples of a step, over all GPUs (default: 8)")
    group.add_argument(
        "--row-tokens",
        type=int,
        metavar="N",
        help="tokens computed at once, a micro-batch; a step accumulates as many as it needs",
    )
    if objective == "sft":
        group.add_argument(
            "--augment-video", action="store_true", help="draw frame rate, packing and times of clips anew each time"
        )
    else:
        group.add_argument("--beta", type=float, help="how far from the reference to go: small is far (default: 0.1)")


def _add_running(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("running")
    group.add_argument("--out", type=Path, required=True, help="folder for metrics, states and the result")
    group.add_argument("--resume", action="store_true", help="go on with the run in --out, exactly where it stopped")
    group.add_argument("--compile", action="store_true", help="torch.compile blocks: a slow first step, then faster")
    group.add_argument("--recompute", action="store_true", help="keep few activations: less memory, a third slower")
    group.add_argument(
        "--shard", action="store_true", help="cut weights, gradients and moments up over all GPUs (--gpus, torchrun)"
    )
    group.add_argument("--optimizer", help="adamw, or with --shard adamw8bit: moments of a byte each (default: adamw)")
    group.add_argument("--device", help="cuda or cpu; by default whatever is there")
    group.add_argument("--gpus", type=int, default=1, help="GPUs of this machine to train on")
    group.add_argument("--seed", type=int)
    group.add_argument("--log-every", type=int, metavar="STEPS")
    group.add_argument(
        "--save-every", type=float, metavar="SECONDS", help="states to resume from; 0: none (default: 300)"
    )
    group.add_argument("--eval-every", type=float, metavar="SECONDS", help="default: 120")
    group.add_argument("--tensorboard", action="store_true")
    group.add_argument("--json", action="store_true", help="end with one line of JSON")


def configure(args: argparse.Namespace) -> FinetuneConfig:
    """The preset with the command line's changes. Raises CpmvError."""
    from .finetune_config import DPO_PRESETS, PRESETS, FinetuneConfig

    settings = begin(args, DPO_PRESETS if args.command == "dpo" else PRESETS)
    settings |= given(
        args,
        "model",
        "format",
        "media_root",
        "lr",
        "full_scale",
        "schedule",
        "warmup",
        "weight_decay",
        "clip_norm",
        "epochs",
        "steps",
        "batch_size",
        "row_tokens",
        "beta",
        "seed",
        "log_every",
        "optimizer",
    )
    settings |= given(args, save_every="save_every_s", eval_every="evaluate_every_s")
    reading = settings.get("reading", FinetuneConfig.reading)
    changes = given(args, "max_tokens", "fps", "packing", max_slices="max_slice_nums")
    return FinetuneConfig(
        data=tuple(args.data),
        eval_data=tuple(args.eval_data),
        strict=args.strict,
        augment_video=getattr(args, "augment_video", False),
        compile=args.compile,
        recompute=args.recompute,
        shard=args.shard,
        tensorboard=args.tensorboard,
        **{**settings, "reading": replace(reading, **changes)},
    )


def begin(args: argparse.Namespace, presets: dict[str, Callable[[], dict[str, Any]]]) -> dict[str, Any]:
    """The preset that was chosen, with the parts and adapters that the command line asks for. Raises CpmvError."""
    from .finetune_config import PARTS

    name = args.preset or ("lora" if args.lora else "full")
    if name not in presets:
        raise CpmvError(f"there is no preset {name!r}; the presets of {args.command} are {', '.join(presets)}")
    settings = presets[name]()
    if args.lora and settings.get("lora") is None:
        raise CpmvError(f"preset {name} has no adapters; drop --lora or the preset")
    if args.epochs is not None and args.steps is not None:
        raise CpmvError("--epochs and --steps both given; a run has one length")
    if args.freeze is not None:
        frozen = set(filter(None, args.freeze.split(","))) - {"none"}
        if unknown := frozen - set(PARTS):
            raise CpmvError(
                f"--freeze {', '.join(sorted(unknown))}: there is no such part; of {', '.join(PARTS)}, or none"
            )
        settings["trained"] = tuple(part for part in PARTS if part not in frozen)
    settings["lora"] = _adapters(args, settings.get("lora"))
    return settings


def given(args: argparse.Namespace, *names: str, **renamed: str) -> dict[str, Any]:
    """Options that were given, by their field's name."""
    fields = {name: name for name in names} | renamed
    return {field: getattr(args, name) for name, field in fields.items() if getattr(args, name, None) is not None}


def _adapters(args: argparse.Namespace, preset: Any) -> Any:
    changes = given(args, "rank", "alpha", "dropout")
    if args.targets is not None:
        changes["targets"] = tuple(filter(None, args.targets.split(",")))
    if preset is None:
        if changes:
            raise CpmvError(f"--{next(iter(changes))} is of adapters, but there are none; add --lora")
        return None
    if "rank" in changes:
        changes.setdefault("alpha", 2.0 * changes["rank"])
    return replace(preset, **changes)


def run(args: argparse.Namespace, progress: Callable[[str], Any] | None = None) -> int:
    """Run one of the two and say what came of it."""
    config = configure(args)
    from .finetune import finetune

    result = finetune(config, args.out, device=args.device, resume=args.resume, progress=progress)
    if result.folder is None:
        return 0
    scores = [s["held-out"] for s in (result.before, result.after) if s]
    if len(scores) == 2:
        print(f"exact answers on --eval-data: {scores[0]['exact']:.1%} before, {scores[1]['exact']:.1%} after")
    left_out = f"; {result.bad} bad samples were left out (bad_samples.jsonl)" if result.bad else ""
    print(f"{result.folder}: {result.steps} steps in {result.seconds:.0f} s{left_out}", flush=True)
    if args.json:
        values = {"folder": str(result.folder), "steps": result.steps, "seconds": round(result.seconds, 1)}
        print(json.dumps({**values, "bad": result.bad, "before": result.before, "after": result.after}), flush=True)
    return 0
