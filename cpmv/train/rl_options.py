"""The options of `cpmv train rl`, and what they make of a preset."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CpmvError

if TYPE_CHECKING:
    from .rl_config import RLConfig

_RULES = ("exact", "number", "choice", "yes_no", "date", "label", "box", "probability")
_WHAT = "reinforce right answers: groups of responses, sampled in fast and in deep mode, against each other"


def add(commands: Any) -> None:
    """Add the subcommand to the parser's."""
    sub = commands.add_parser("rl", help=_WHAT, description=_WHAT.capitalize() + ".")
    _add_prompts(sub)
    _add_rollouts(sub)
    _add_rewards(sub)
    _add_learning(sub)
    _add_running(sub)


def _add_prompts(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("prompts")
    group.add_argument("--data", nargs="+", default=(), metavar="FILE[:WEIGHT]", help="rows with what is right")
    group.add_argument("--drawn", metavar="TASK,...", help="tasks drawn on the way: think, sums, count, chart, receipt")
    group.add_argument(
        "--atlas", metavar="FILE", help="of glyphs, for drawn pictures (python -m cpmv.train.draw.atlas)"
    )
    group.add_argument("--eval-data", nargs="+", default=(), metavar="FILE", help="what to score on, never learnt")
    group.add_argument("--eval-drawn", type=int, metavar="N", help="so many drawn tasks to score on, never learnt")
    group.add_argument("--format", help="cookbook, llama-factory, ms-swift, rlpr, rlaif-v; by default told by content")
    group.add_argument("--media-root", metavar="DIR", help="folder of relative media paths; by default the file's")
    group.add_argument("--strict", action="store_true", help="stop at the first bad sample")
    group.add_argument("--max-tokens", type=int, metavar="N", help="longest prompt; longer ones are left out and named")
    group.add_argument("--max-slices", type=int, metavar="N", help="most slices of a large image")
    group.add_argument("--fps", type=float, help="frames a second of videos that do not say")
    group.add_argument("--packing", type=int, choices=range(1, 7), help="frames a group of videos that do not say")


def _add_rollouts(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("rollouts")
    group.add_argument("--batch-size", type=int, metavar="N", help="prompts of a batch, over all GPUs (default: 128)")
    group.add_argument("--group", type=int, metavar="N", help="responses to a prompt (default: 8)")
    group.add_argument("--deep-share", type=float, help="of prompts that are answered in deep mode (default: 0.5)")
    group.add_argument("--max-new-tokens", type=int, metavar="N", help="longest response (default: 8192)")
    group.add_argument("--temperature", type=float, help="of the draws (default: 1)")
    group.add_argument(
        "--filter-beta",
        type=float,
        help="drop prompts whose rewards deviate less than so many mean deviations (default: 0.5); 0: only equal ones",
    )
    group.add_argument("--no-filter", action="store_true", help="learn from every prompt")
    group.add_argument("--rounds", type=int, help="tries to fill a batch with prompts that stay (default: 4)")
    group.add_argument("--rows", type=int, help="responses sampled together (default: 64)")
    group.add_argument("--cache-gb", type=float, help="of the engine's cache")


def _add_rewards(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("rewards")
    group.add_argument("--rule", choices=_RULES, help="judge all answers so; by default what is right tells how")
    group.add_argument("--router-tokens", type=int, metavar="N", help="longest answer that a rule judges (default: 5)")
    group.add_argument(
        "--reward-model", metavar="MODULE:FUNCTION", help="scores final answers: (question, answers) -> numbers"
    )
    group.add_argument("--format-weight", type=float, help="of a well-formed response (default: 0.1)")
    group.add_argument("--no-debias", action="store_true", help="probability rewards without their baseline")


def _add_learning(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("learning")
    group.add_argument("--model", "-m", help="checkpoint to start from; by default the bundled one")
    group.add_argument("--preset", help="full, lora or tiny; by default --lora tells")
    group.add_argument("--lora", action="store_true", help="learn adapters beside the frozen weights")
    group.add_argument("--rank", type=int, help="of the adapters (default: 16)")
    group.add_argument("--alpha", type=float, help="of the adapters (default: twice the rank)")
    group.add_argument("--targets", metavar="NAME,...", help="linears with adapters: language, all, or names")
    group.add_argument("--freeze", metavar="PART,...", help="parts that do not learn whole, or none")
    group.add_argument("--dense", action="store_true", help="hold quantised weights as plain ones, so that they learn")
    group.add_argument("--lr", type=float, help="learning rate, constant (default: 1e-6, with adapters 1e-5)")
    group.add_argument("--schedule", choices=("constant", "cosine", "wsd", "linear"))
    group.add_argument("--warmup", type=float, metavar="SHARE", help="of the run (default: 0)")
    group.add_argument("--weight-decay", type=float)
    group.add_argument("--clip-norm", type=float, help="of gradients")
    group.add_argument("--clip-low", type=float, help="of the ratio below 1 (default: 0.2)")
    group.add_argument("--clip-high", type=float, help="of the ratio above 1 (default: 0.27)")
    group.add_argument("--parts", type=int, help="updates a batch (default: 4)")
    group.add_argument("--epochs", type=float, help="of --data (default: 3)")
    group.add_argument("--steps", type=int, help="length in updates instead")
    group.add_argument("--row-tokens", type=int, metavar="N", help="tokens computed at once, a micro-batch")


def _add_running(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("running")
    group.add_argument("--out", type=Path, required=True, help="folder for metrics, rollouts, states and the result")
    group.add_argument("--resume", action="store_true", help="go on with the run in --out, exactly where it stopped")
    group.add_argument("--recompute", action="store_true", help="keep few activations: less memory, a third slower")
    group.add_argument("--device", help="cuda or cpu; by default whatever is there")
    group.add_argument("--gpus", type=int, default=1, help="GPUs of this machine to train on")
    group.add_argument("--seed", type=int)
    group.add_argument("--show", type=int, metavar="N", help="prompts written as text, a mode and batch (default: 1)")
    group.add_argument("--log-every", type=int, metavar="STEPS")
    group.add_argument("--save-every", type=float, metavar="SECONDS", help="states to resume from; 0: none")
    group.add_argument("--eval-every", type=float, metavar="SECONDS", help="default: 120")
    group.add_argument("--tensorboard", action="store_true")
    group.add_argument("--json", action="store_true", help="end with one line of JSON")


_SAME = (
    "model atlas eval_drawn format media_root lr schedule warmup weight_decay clip_norm epochs steps batch_size "
    "row_tokens deep_share max_new_tokens temperature filter_beta rounds rows cache_gb rule router_tokens reward_model "
    "clip_low clip_high parts seed show log_every"
).split()


def configure(args: argparse.Namespace) -> RLConfig:
    """The preset with the command line's changes. Raises CpmvError."""
    from .finetune_options import begin, given
    from .rl_config import PRESETS, RLConfig

    settings = begin(args, PRESETS)
    settings |= given(args, *_SAME, save_every="save_every_s", eval_every="evaluate_every_s", group="group_size")
    if args.no_filter:
        if args.filter_beta is not None:
            raise CpmvError("--no-filter and --filter-beta both given; choose one")
        settings["filter_beta"] = None
    settings["dense"] = args.dense or settings.get("dense", False)
    rewards = replace(RLConfig.rewards, debias=not args.no_debias, **given(args, format_weight="form"))
    reading = settings.get("reading", RLConfig.reading)
    changes = given(args, "max_tokens", "fps", "packing", max_slices="max_slice_nums")
    return RLConfig(
        data=tuple(args.data),
        drawn=tuple(filter(None, (args.drawn or "").split(","))),
        eval_data=tuple(args.eval_data),
        strict=args.strict,
        recompute=args.recompute,
        tensorboard=args.tensorboard,
        rewards=rewards,
        **{**settings, "reading": replace(reading, **changes)},
    )


def run(args: argparse.Namespace, progress: Callable[[str], Any] | None = None) -> int:
    """Run it and say what came of it."""
    config = configure(args)
    from .rl_run import train_rl

    result = train_rl(config, args.out, device=args.device, resume=args.resume, progress=progress)
    if result.folder is None:
        return 0
    if result.before and result.after:
        for mode in ("fast", "deep"):
            a, b = result.before[mode], result.after[mode]
            exact = f"{a['exact']:.1%} before, {b['exact']:.1%} after"
            print(f"{mode}: {exact}; {a['tokens']:.0f} and {b['tokens']:.0f} tokens")
    left_out = f"; {result.bad} bad samples were left out (bad_samples.jsonl)" if result.bad else ""
    print(f"{result.folder}: {result.steps} steps in {result.seconds:.0f} s{left_out}", flush=True)
    if args.json:
        values = {"folder": str(result.folder), "steps": result.steps, "seconds": round(result.seconds, 1)}
        print(json.dumps({**values, "bad": result.bad, "before": result.before, "after": result.after}), flush=True)
    return 0
