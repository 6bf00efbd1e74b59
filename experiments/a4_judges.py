"""A4: who judges, what is judged, and who responded: four ways to make preference pairs, at equal numbers of prompts.

    cpmv eval draw sets --seed 78 --per-set 500 --sets describe
    python experiments/a4_judges.py run --out runs/a4 --device cuda
    python experiments/a4_judges.py report runs/a4 docs/results/a4-judges.json --plot docs/results/a4-judges.png

Arms, on drawn scenes that the bundled model describes, three seeds each:

    truth       claims, judged by what was drawn
    self        claims, judged by the policy itself
    whole       whole answers, judged by the policy itself: no claims
    confounded  claims, judged by what was drawn, but one response of a prompt is the exact answer instead of the
                policy's, and pairs are of different sources

Expected (RLAIF-V): CHAIRi falls with truth and self at equal recall, less with whole answers and with confounded pairs.
`run` measures each round on held-out scenes; every checkpoint's folder is named in its `best.json`, for `cpmv eval`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ARMS: dict[str, dict[str, Any]] = {
    "truth": {"judge": "truth"},
    "self": {"judge": "self"},
    "whole": {"judge": "self", "divider": "whole"},
    "confounded": {"judge": "truth", "other": "truth"},
}
Z = 1.96


def run(args: argparse.Namespace) -> int:
    """Train every arm and seed that is not there yet; one that was stopped goes on."""
    from cpmv.train.feedback import train_feedback
    from cpmv.train.feedback_config import FeedbackConfig, tiny

    for seed in range(args.seeds):
        for arm in args.arms.split(","):
            settings = tiny() | {
                "model": args.model,
                "drawn": ("describe",),
                "eval_drawn": args.eval_drawn,
                "prompts": args.prompts,
                "rounds": args.rounds,
                "temperature": args.temperature,
                "lr": args.lr,
                "seed": seed,
                **ARMS[arm],
            }
            out = args.out / f"{arm}-{seed}"
            resume = (out / "run.json").exists()
            result = train_feedback(FeedbackConfig(**settings), out, device=args.device, resume=resume)
            last = result.rounds[-1]["after"] if result.rounds else {}
            print(f"{arm} {seed}: {json.dumps(last)} in {result.seconds:.0f} s", flush=True)
    return 0


def interval(share: float, count: float) -> list[float]:
    """Wilson's interval of a share, 95 %."""
    if not count:
        return [0.0, 1.0]
    middle = share + Z * Z / (2 * count)
    half = Z * math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    return [max(0.0, (middle - half) / (1 + Z * Z / count)), min(1.0, (middle + half) / (1 + Z * Z / count))]


def summary(folders: Sequence[Path]) -> dict[str, Any]:
    """The seeds of an arm together: held-out numbers at the start and of what was kept at the end."""
    runs = [json.loads((folder / "report.json").read_text())["rounds"] for folder in folders]
    out: dict[str, Any] = {"seeds": len(runs), "rounds": runs}
    for name, scores in (("start", [r[0]["before"] for r in runs]), ("end", [r[-1]["kept"] for r in runs])):
        claims = sum(s["claims"] for s in scores)
        wrong = sum(s["chair"] * s["claims"] for s in scores)
        # Seeds share the held-out scenes, so the interval is that of one seed's claims.
        chair = wrong / max(1, claims)
        out[name] = {
            "chair": chair,
            "chair_interval": interval(chair, claims / len(scores)),
            "recall": sum(s["recall"] for s in scores) / len(scores),
            "claims": claims,
        }
    start, end = out["start"]["chair"], out["end"]["chair"]
    out["chair_change"] = (end - start) / start if start else 0.0
    return out


def report(args: argparse.Namespace) -> int:
    """Write the arms' summaries, and a plot."""
    arms = {}
    for arm in ARMS:
        folders = sorted(f for f in args.runs.glob(f"{arm}-*") if (f / "report.json").is_file())
        if folders:
            arms[arm] = summary(folders)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(arms, indent=1) + "\n")
    for arm, row in arms.items():
        print(
            f"{arm}: CHAIRi {row['start']['chair']:.2%} to {row['end']['chair']:.2%}, "
            f"recall {row['start']['recall']:.2%} to {row['end']['recall']:.2%} ({row['seeds']} seeds)"
        )
    if args.plot and arms:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, axis = pyplot.subplots(figsize=(6, 3.5))
        names = ["start", *arms]
        rows = [next(iter(arms.values()))["start"], *(row["end"] for row in arms.values())]
        shares = [100 * row["chair"] for row in rows]
        ends = [[100 * end for end in row["chair_interval"]] for row in rows]
        low = [share - end[0] for share, end in zip(shares, ends, strict=True)]
        high = [end[1] - share for share, end in zip(shares, ends, strict=True)]
        axis.bar(names, shares, yerr=[low, high], capsize=4)
        axis.set_ylabel("CHAIRi, %, held-out scenes")
        figure.tight_layout()
        figure.savefig(args.plot, dpi=110)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    sub = commands.add_parser("run")
    sub.add_argument("--out", type=Path, required=True)
    sub.add_argument("--model", help="by default the bundled one")
    sub.add_argument("--arms", default=",".join(ARMS))
    sub.add_argument("--seeds", type=int, default=3)
    sub.add_argument("--prompts", type=int, default=1000)
    sub.add_argument("--rounds", type=int, default=2)
    sub.add_argument("--eval-drawn", type=int, default=500)
    sub.add_argument("--temperature", type=float, default=1.2)
    sub.add_argument("--lr", type=float, default=5e-5)
    sub.add_argument("--device")
    sub = commands.add_parser("report")
    sub.add_argument("runs", type=Path)
    sub.add_argument("json", type=Path)
    sub.add_argument("--plot", type=Path)
    args = parser.parse_args(argv)
    if args.command == "run" and (unknown := set(args.arms.split(",")) - set(ARMS)):
        parser.error(f"no arm {', '.join(sorted(unknown))}; of {', '.join(ARMS)}")
    return run(args) if args.command == "run" else report(args)


if __name__ == "__main__":
    raise SystemExit(main())
