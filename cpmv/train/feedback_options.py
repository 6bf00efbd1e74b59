"""The options of `cpmv train rlaif`, and what they make of a preset."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .feedback_config import FeedbackConfig

_WHAT = "learn from feedback on single claims (RLAIF-V): sample, divide, judge, pair, prefer; round after round"
_SAME = (
    "model", "format", "media_root", "eval_drawn", "eval_prompts", "rounds", "prompts", "temperature",
    "max_new_tokens", "divider", "judge", "other", "pairs_per_prompt", "slack", "rows", "lr", "schedule", "warmup",
    "weight_decay", "clip_norm", "beta", "epochs", "steps", "batch_size", "row_tokens", "seed", "log_every",
)  # fmt: skip


def add(commands: Any) -> None:
    """Add the subcommand to the parser's."""
    sub = commands.add_parser("rlaif", help=_WHAT, description=_WHAT.capitalize() + ".")
    sub.set_defaults(gpus=1)
    _add_prompts(sub)
    _add_feedback(sub)
    _add_learning(sub)
    _add_running(sub)


def _add_prompts(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("prompts")
    group.add_argument("--data", nargs="+", default=(), metavar="FILE", help="rows that ask one question of a picture")
    group.add_argument("--drawn", metavar="TASK", help="drawn on the way, with known contents: describe")
    group.add_argument("--format", help="cookbook, llama-factory, ms-swift, rlpr, rlaif-v; by default told by content")
    group.add_argument("--media-root", metavar="DIR", help="folder of relative media paths; by default the file's")
    group.add_argument("--strict", action="store_true", help="stop at the first bad sample")
    group.add_argument("--prompts", type=int, metavar="N", help="of a round (default: 4000)")
    group.add_argument("--eval-drawn", type=int, metavar="N", help="held-out scenes to measure on (default: 200)")
    group.add_argument("--eval-prompts", type=int, metavar="N", help="rows of --data held out instead (default: 100)")
    group.add_argument("--max-tokens", type=int, metavar="N", help="longest prompt")
    group.add_argument("--max-slices", type=int, metavar="N", help="most slices of a large image")


def _add_feedback(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("feedback")
    group.add_argument("--group", type=int, metavar="N", help="responses to a prompt (default: 10)")
    group.add_argument("--temperature", type=float, help="of the draws (default: 0.7)")
    group.add_argument("--max-new-tokens", type=int, metavar="N", help="longest response (default: 512)")
    group.add_argument("--divider", help="into claims: rules, model (the policy), or whole (no division)")
    group.add_argument("--judge", metavar="WHO", help="self, truth (of drawn scenes), or a checkpoint (default: self)")
    group.add_argument(
        "--other", metavar="WHO", help="to compare: half of the responses from a checkpoint, or the truth's one"
    )
    group.add_argument("--pairs-per-prompt", type=int, metavar="N", help="at most (default: 2)")
    group.add_argument("--no-balance", action="store_true", help="keep pairs whatever their lengths")
    group.add_argument("--slack", type=float, help="recall that a better round may lose (default: 0.01)")
    group.add_argument("--rows", type=int, help="responses sampled together (default: 64)")


def _add_learning(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("learning")
    group.add_argument("--model", "-m", help="checkpoint to start from; by default the bundled one")
    group.add_argument("--preset", help="full, lora or tiny; by default --lora tells")
    group.add_argument("--lora", action="store_true", help="learn adapters, merged after every round")
    group.add_argument("--rank", type=int, help="of the adapters (default: 16)")
    group.add_argument("--alpha", type=float, help="of the adapters (default: twice the rank)")
    group.add_argument("--targets", metavar="NAME,...", help="linears with adapters: language, all, or names")
    group.add_argument("--freeze", metavar="PART,...", help="parts that do not learn whole, or none")
    group.add_argument("--rounds", type=int, help="each with the newest policy (default: 4)")
    group.add_argument("--epochs", type=float, help="of a round's pairs (default: 4)")
    group.add_argument("--steps", type=int, help="of a round instead")
    group.add_argument("--batch-size", type=int, metavar="N", help="pairs a step (default: 256)")
    group.add_argument("--beta", type=float, help="of DPO (default: 0.1)")
    group.add_argument("--lr", type=float, help="peak learning rate (default: 1e-6, with adapters 5e-6)")
    group.add_argument("--schedule", choices=("constant", "cosine", "wsd", "linear"))
    group.add_argument("--warmup", type=float, metavar="SHARE", help="of a round (default: 0.05)")
    group.add_argument("--weight-decay", type=float)
    group.add_argument("--clip-norm", type=float, help="of gradients")
    group.add_argument("--row-tokens", type=int, metavar="N", help="tokens computed at once, a micro-batch")


def _add_running(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("running")
    group.add_argument("--out", type=Path, required=True, help="folder for rounds, the report and checkpoints")
    group.add_argument("--resume", action="store_true", help="go on with the run in --out where it stopped")
    group.add_argument("--recompute", action="store_true", help="keep few activations: less memory, a third slower")
    group.add_argument("--device", help="cuda or cpu; by default whatever is there")
    group.add_argument("--seed", type=int)
    group.add_argument("--log-every", type=int, metavar="STEPS")
    group.add_argument("--save-every", type=float, metavar="SECONDS", help="states of a round's learning; 0: none")
    group.add_argument("--tensorboard", action="store_true")
    group.add_argument("--json", action="store_true", help="end with one line of JSON")


def configure(args: argparse.Namespace) -> FeedbackConfig:
    """The preset with the command line's changes. Raises CpmvError."""
    from .feedback_config import PRESETS, FeedbackConfig
    from .finetune_options import begin, given

    settings = begin(args, PRESETS)
    settings |= given(args, *_SAME, group="group_size", save_every="save_every_s")
    reading = settings.get("reading", FeedbackConfig.reading)
    settings["reading"] = replace(reading, **given(args, "max_tokens", max_slices="max_slice_nums"))
    return FeedbackConfig(
        data=tuple(args.data),
        drawn=tuple(filter(None, (args.drawn or "").split(","))),
        strict=args.strict,
        balanced=not args.no_balance,
        recompute=args.recompute,
        tensorboard=args.tensorboard,
        **settings,
    )


def run(args: argparse.Namespace, progress: Callable[[str], Any] | None = None) -> int:
    """Run it and say what came of it."""
    config = configure(args)
    from .feedback import train_feedback

    result = train_feedback(config, args.out, device=args.device, resume=args.resume, progress=progress)
    for row in result.rounds:
        before, after = row["before"], row["after"]
        print(
            f"round {row['round']}: {row['rejected_share']:.1%} of {row['claims']} claims rejected, {row['pairs']} "
            f"pairs; CHAIRi {before['chair']:.1%} before, {after['chair']:.1%} after"
        )
    if len(result.rounds) == config.rounds:
        print(f"best: {result.best or 'the model as it was'} ({result.seconds:.0f} s)", flush=True)
    if args.json:
        values = {"best": result.best, "seconds": round(result.seconds, 1), "bad": result.bad}
        print(json.dumps({**values, "rounds": result.rounds}), flush=True)
    return 0
