"""A3: what reinforcement learning in fast, in deep and in both modes does to each mode, at equal numbers of updates.

    cpmv eval draw sets --seed 77 --per-set 500 --sets thinking
    python experiments/a3_hybrid.py run --sets sets --atlas atlas.npz --out runs/a3 --together 9
    python experiments/a3_hybrid.py report runs/a3 docs/results/a3-hybrid.json --plot docs/results/a3-hybrid.png

Arms: none (the bundled model as it is), fast (all prompts in fast mode), deep, hybrid (half and half), three seeds
each, on drawn thinking tasks. Every arm is then asked, greedily, 500 thinking questions of the independent renderer in
both modes, the frozen ones, and frozen sets of other abilities. Expected (TR table 3): hybrid at least as good as each
single mode in its own mode, with fewer generated tokens than deep alone; other abilities within a point. What came
out, and what it took, is in docs/rl.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

# Changes to the configuration; None: the model as it is.
Arms = dict[str, dict[str, Any] | None]
ARMS: Arms = {
    "none": None,
    "fast": {"deep_share": 0.0},
    "hybrid": {"deep_share": 0.5},
    "deep": {"deep_share": 1.0},
}
OTHERS = ("scene_count", "scene_colour", "chart_value", "receipt_total", "line", "talk")
Z = 1.96


def train(changes: dict[str, Any], seed: int, args: argparse.Namespace, out: Path) -> dict[str, Any]:
    """One arm and seed; return what it took."""
    from cpmv.train.rl_config import RLConfig, tiny
    from cpmv.train.rl_run import train_rl

    settings = tiny() | {
        "model": args.model,
        "drawn": ("think",),
        "atlas": args.atlas,
        "steps": args.steps,
        "batch_size": args.batch_size,
        "group_size": args.group,
        "lr": args.lr,
        "rows": args.rows,
        "rounds": args.rounds,
        "seed": seed,
        "save_every_s": 0.0,
        "log_every": 4,
        **changes,
    }
    result = train_rl(RLConfig(**settings), out, device=args.device)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    batches = [line for line in lines if line["kind"] == "rollout"]
    curve = [{mode: batch[mode] for mode in ("fast", "deep") if mode in batch} for batch in batches]
    tokens = sum(mode["tokens"] * mode["responses"] for point in curve for mode in point.values())
    return {
        "seconds": result.seconds,
        "steps": result.steps,
        "sampled_tokens": tokens,
        "sampling_seconds": sum(batch["sampling_seconds"] for batch in batches),
        "making_seconds": sum(batch["seconds"] for batch in batches),
        "filtered": _mean([batch["filtered"] for batch in batches]),
        "curve": curve,
    }


def evaluate(model: str | None, sets: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Greedy answers to every set: {"drawn fast": {"hits", "n", "tokens"}, ...}."""
    import torch

    from cpmv.device import choose
    from cpmv.evals.prepare import both_processors, prepare
    from cpmv.evals.samples import read_set
    from cpmv.evals.scoring import exact
    from cpmv.evals.tasks import SETS, TASKS
    from cpmv.inputs.processor import Processor
    from cpmv.train.rl_policy import unpack
    from cpmv.train.rollouts import Prompt, Sampler
    from cpmv.weights import checkpoint, hub

    place = choose(args.device).device
    loaded = checkpoint.load(hub.resolve(model), device=place, dtype=torch.float32)
    unpack(loaded.model)
    processors = both_processors(Processor(loaded.config, loaded.tokenizer))
    sampler = Sampler(loaded.model, loaded.tokenizer, max_new_tokens=320, rows=args.rows)
    asked = [("drawn fast", "think_fast", sets), ("drawn deep", "think_deep", sets)]
    asked += [("frozen fast", "think_fast", SETS), ("frozen deep", "think_deep", SETS)]
    asked += [(name, name, SETS) for name in OTHERS]
    scores: dict[str, Any] = {}
    for title, name, folder in asked:
        task = replace(TASKS[name], native=False)
        samples = read_set(folder / f"{task.stored_as}.zip", args.limit)
        prompts = [
            Prompt(i, task.thinking, prepare(processors, task, sample), sample.answer, "exact")
            for i, sample in enumerate(samples)
        ]
        answers = sampler.answer(prompts)
        said = [answer.text.rpartition("</think>")[2] for answer in answers]
        hits = [exact(text, sample.answer) for text, sample in zip(said, samples, strict=True)]
        kinds = sorted({str(sample.meta.get("kind")) for sample in samples}) if "thinking" in task.stored_as else []
        by_kind = {
            kind: [sum(h for h, s in zip(hits, samples, strict=True) if s.meta.get("kind") == kind),
                   sum(s.meta.get("kind") == kind for s in samples)]
            for kind in kinds
        }  # fmt: skip
        tokens = sum(len(answer.ids) for answer in answers)
        scores[title] = {"hits": sum(hits), "n": len(hits), "tokens": tokens / len(hits), "kinds": by_kind}
    sampler.close()
    return scores


def one(args: argparse.Namespace, arms: Arms) -> int:
    """One arm and seed, in a process of its own."""
    out = Path(args.out) / f"{args.arm}-{args.seed}"
    started = time.perf_counter()
    report: dict[str, Any] = {"arm": args.arm, "seed": args.seed, "settings": _settings(args)}
    model = args.model
    changes = arms[args.arm]
    if changes is not None:
        report["training"] = train(changes, args.seed, args, out)
        model = str(out / "model")
    report["scores"] = evaluate(model, Path(args.sets), args)
    report["seconds"] = time.perf_counter() - started
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(report) + "\n")
    print(f"{args.arm} {args.seed}: {report['seconds']:.0f} s", flush=True)
    return 0


def run(args: argparse.Namespace, arms: Arms, script: str) -> int:
    """All arms and seeds, so many processes at once: a small model leaves a GPU idle most of the time."""
    waiting = [
        (arm, seed) for seed in args.seeds for arm in args.arms if arms[arm] is not None or seed == args.seeds[0]
    ]
    running: list[subprocess.Popen[bytes]] = []
    failed = 0
    options = ["--out", args.out, "--sets", args.sets, "--steps", str(args.steps), "--batch-size", str(args.batch_size)]
    options += ["--group", str(args.group), "--lr", str(args.lr), "--rows", str(args.rows)]
    options += ["--rounds", str(args.rounds), "--atlas", args.atlas]
    options += ["--limit", str(args.limit)] if args.limit else []
    options += ["--model", args.model] if args.model else []
    options += ["--device", args.device] if args.device else []
    threads = str(max(1, (os.cpu_count() or 1) // args.together))
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    while waiting or running:
        while waiting and len(running) < args.together:
            arm, seed = waiting.pop(0)
            command = [sys.executable, script, "one", *options, "--arm", arm, "--seed", str(seed)]
            folder = Path(args.out) / "logs"
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / f"{arm}-{seed}.log").open("wb") as log:
                running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
        time.sleep(0.2)
        failed += sum(process.poll() not in (None, 0) for process in running)
        running = [process for process in running if process.poll() is None]
    if failed:
        print(f"{failed} runs failed; their logs are in {args.out}/logs", file=sys.stderr)
    return int(failed > 0)


def report(args: argparse.Namespace, order: Arms) -> int:
    """Gather the runs' reports: scores pooled over seeds with Wilson's interval, and each seed's own."""
    found = [json.loads(path.read_text()) for path in sorted(Path(args.out).glob("*/report.json"))]
    if not found:
        print(f"{args.out} holds no report.json", file=sys.stderr)
        return 2
    arms: dict[str, Any] = {}
    for arm in order:
        runs = [r for r in found if r["arm"] == arm]
        if not runs:
            continue
        sets = {}
        for title in runs[0]["scores"]:
            scores = [r["scores"][title] for r in runs]
            hits, n = sum(s["hits"] for s in scores), sum(s["n"] for s in scores)
            sets[title] = {
                "exact": hits / n,
                "interval": _wilson(hits, n),
                "n": n,
                "by_seed": [s["hits"] / s["n"] for s in scores],
                "tokens": _mean([s["tokens"] for s in scores]),
            }
        trained = [r["training"] for r in runs if "training" in r]
        arms[arm] = {
            "seeds": len(runs),
            "sets": sets,
            "sampled_tokens": _mean([t["sampled_tokens"] for t in trained]) if trained else 0,
            "curves": [t["curve"] for t in trained],
            "seconds": _mean([r["seconds"] for r in runs]),
        }
    out = {"settings": found[0]["settings"], "arms": arms}
    Path(args.target).write_text(json.dumps(out, indent=1) + "\n")
    for arm, values in arms.items():
        row = "  ".join(f"{name} {100 * s['exact']:.1f}" for name, s in values["sets"].items())
        print(f"{arm:7} tokens {values['sampled_tokens'] / 1e6:.2f}M  {row}")
    if args.plot:
        plot(arms, Path(args.plot))
    return 0


def plot(arms: dict[str, Any], out: Path) -> None:
    """Share of right responses over batches, by mode; one line an arm, the mean of its seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharex=True, layout="constrained")
    for axis, mode in zip(axes, ("fast", "deep"), strict=True):
        for arm, values in arms.items():
            curves = [[point[mode]["accuracy"] for point in c if mode in point] for c in values["curves"]]
            if curves and curves[0]:
                axis.plot([_mean(points) for points in zip(*curves, strict=False)], label=arm)
        axis.set(title=f"{mode} mode", xlabel="batch", ylabel="right responses (temperature 1)")
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    figure.savefig(out, dpi=110)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    return {k: v for k, v in vars(args).items() if k not in ("arm", "seed", "verb", "out", "atlas", "sets")}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _wilson(hits: float, n: int) -> tuple[float, float]:
    p, scale = hits / n, 1 + Z * Z / n
    middle, half = (p + Z * Z / (2 * n)) / scale, Z / scale * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return round(middle - half, 4), round(middle + half, 4)


def main(argv: Sequence[str] | None = None, arms: Arms = ARMS, script: str = __file__) -> int:
    """The command line; another experiment gives its own arms and script."""
    parser = argparse.ArgumentParser(description="train and ask the arms of an experiment")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name in ("run", "one"):
        verb = verbs.add_parser(name)
        verb.add_argument("--out", required=True)
        verb.add_argument("--sets", required=True, help="folder with thinking.zip, drawn with another seed")
        verb.add_argument("--atlas", required=True)
        verb.add_argument("--model", help="by default the bundled one")
        verb.add_argument("--device")
        verb.add_argument("--steps", type=int, default=160, help="updates, four a batch")
        verb.add_argument("--batch-size", type=int, default=64, help="prompts")
        verb.add_argument("--group", type=int, default=8)
        verb.add_argument("--lr", type=float, default=3e-5)
        verb.add_argument("--rows", type=int, default=256)
        verb.add_argument("--rounds", type=int, default=3)
        verb.add_argument("--limit", type=int, help="questions a set, to see that everything works")
        if name == "run":
            verb.add_argument("--arms", nargs="+", choices=list(arms), default=list(arms))
            verb.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
            verb.add_argument("--together", type=int, default=9)
        else:
            verb.add_argument("--arm", choices=list(arms), required=True)
            verb.add_argument("--seed", type=int, default=0)
    verb = verbs.add_parser("report")
    verb.add_argument("out", help="folder of the runs")
    verb.add_argument("target", help="JSON to write")
    verb.add_argument("--plot")
    args = parser.parse_args(argv)
    if args.verb == "run":
        return run(args, arms, script)
    return one(args, arms) if args.verb == "one" else report(args, arms)


if __name__ == "__main__":
    raise SystemExit(main())
