"""`python -m cpmv.train pretrain|sft|dpo|rl|rlaif ...`: argparse alone, so that it runs where only torch is."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import CpmvError
from . import feedback_options, finetune_options, rl_options
from .config import PRESETS, TrainConfig


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(prog="cpmv train", description="Train MiniCPM-V models from scratch or further.")
    commands = main.add_subparsers(dest="command", required=True)
    sub = commands.add_parser("pretrain", help="train on pictures drawn on the way", description="\n".join(_listing()),
                              formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    sub.add_argument("--preset", choices=sorted(PRESETS), required=True)
    sub.add_argument("--out", type=Path, required=True, help="folder for metrics, samples, states and weights")
    sub.add_argument("--seconds", type=float, help="wall-clock budget of everything; the schedule is fitted to it")
    sub.add_argument("--steps", type=int, help="length in steps instead")
    sub.add_argument("--atlas", type=Path, help="glyph atlas, as python -m cpmv.train.draw.atlas writes it")
    sub.add_argument("--tokenizer", type=Path, help="folder with tokenizer.json")
    sub.add_argument("--init", type=Path, help="start from this run (with its moments), export, or checkpoint folder")
    sub.add_argument("--decay-from", type=Path, help="as --init, and only decay the learning rate from there")
    sub.add_argument("--resume", action="store_true", help="go on with the run in --out, exactly where it stopped")
    sub.add_argument("--lr", type=float, help="peak learning rate (Muon's; AdamW uses 0.6 of it)")
    sub.add_argument("--seed", type=int)
    sub.add_argument("--gpus", type=int, default=1, help="GPUs of this machine to train on")
    sub.add_argument("--device", help="cuda or cpu; by default whatever is there")
    sub.add_argument("--export", choices=("float16", "bfloat16", "float32"), help="dtype of the exported weights")
    sub.add_argument("--save-every", type=float, metavar="SECONDS", help="states to resume from; 0: none")
    sub.add_argument("--compile", choices=("auto", "on", "off"))
    sub.add_argument("--graphs", choices=("auto", "whole", "step", "off"), help="what goes into CUDA graphs")
    sub.add_argument("--peak-tflops", type=float, help="peak of the device, for MFU")
    sub.add_argument("--profile-step", type=int, metavar="STEP", help="write where the time goes, profile.txt in --out")
    sub.add_argument("--no-tensorboard", action="store_true")
    sub.add_argument("--smoke", action="store_true", help="all stages in 120 steps, to see that everything works")
    finetune_options.add(commands)
    rl_options.add(commands)
    feedback_options.add(commands)
    return main


def _listing() -> list[str]:
    """Every preset's own first lines: what it trains, command, time, expected result."""
    lines = []
    for name, preset in sorted(PRESETS.items()):
        text = (preset.__doc__ or "").strip().splitlines()
        lines += [f"{name}: {text[0]}", *(f"  {line.strip()}" for line in text[2:]), ""]
    return lines


def configure(args: argparse.Namespace) -> TrainConfig:
    """The preset with the command line's changes."""
    from .pretrain import smoke

    config = PRESETS[args.preset]()
    changes = {
        "peak_lr": args.lr,
        "seed": args.seed,
        "export_dtype": args.export,
        "save_every_s": args.save_every,
        "compile": args.compile,
        "graphs": args.graphs,
        "peak_tflops": args.peak_tflops,
        "profile_step": args.profile_step,
    }
    config = replace(config, **{name: value for name, value in changes.items() if value is not None})
    if args.no_tensorboard:
        config = replace(config, tensorboard=False)
    if args.steps is not None and args.seconds is not None:
        raise CpmvError("--steps and --seconds both given; a run has one length")
    if args.steps is not None:
        config = replace(config, steps=args.steps, seconds=None)
    if args.seconds is not None:
        config = replace(config, seconds=args.seconds, steps=None)
    return smoke(config) if args.smoke else config


def main(argv: Sequence[str] | None = None, progress: Callable[[str], Any] | None = None) -> int:
    """Run the command; return the exit code (2 for a mistake, said in one line).

    progress: makes, of a label, a context manager that is told (done, total) of what takes long before training.
    """
    started = time.perf_counter()
    arguments = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(format="%(levelname)s %(message)s")
    args = parser().parse_args(arguments)
    try:
        if args.gpus > 1 and "WORLD_SIZE" not in os.environ:
            from .distributed import relaunch

            return relaunch(args.gpus, arguments)
        if args.command == "rl":
            return rl_options.run(args, progress)
        if args.command == "rlaif":
            return feedback_options.run(args, progress)
        if args.command != "pretrain":
            return finetune_options.run(args, progress)
        config = configure(args)
        from .pretrain import Paths, pretrain

        paths = Paths(args.out, args.atlas, args.tokenizer, args.init, args.decay_from, args.resume)
        pretrain(config, paths, device=args.device, started=started)
    except CpmvError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
