"""Keep how a run went: a small JSON of its curve and final scores, and a plot.

    python -m cpmv.train.curves docs/results/tiny-s2.json runs/j2 runs/s2 --plot docs/results/tiny-s2.png

Runs follow one another (each began where the last one ended), so samples add up along the plot. Every `--every`th
record of training is kept and each evaluation's summary. The plot needs matplotlib (`pip install 'cpmv[plot]'`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import CpmvError

_KEPT = ("step", "samples", "seconds", "lm", "dense", "query", "lr", "samples_per_s", "mfu")
_SUMMARY = ("trained", "unseen", "held-out", "scene", "clip", "textonly", "composed", "blank")


def read_run(folder: Path, every: int) -> dict[str, Any]:
    """One run's kept records. Raises CpmvError for a folder without `metrics.jsonl`."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise CpmvError(f"{folder} has no metrics.jsonl; give the --out folder of a training run")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    train = [row for row in rows if row["kind"] == "train"]
    if not train:
        raise CpmvError(f"{path} holds no training record yet")
    kept = train[:: max(1, every)]
    if kept[-1] is not train[-1]:
        kept.append(train[-1])
    curve = [{k: _short(row[k]) for k in _KEPT if row.get(k)} for row in kept]
    scores = [{"step": row["step"], "scores": _rounded(row["scores"])} for row in rows if row["kind"] == "eval"]
    for score in scores[:-1]:  # of earlier evaluations the summary is enough
        score["scores"] = {name: value for name, value in score["scores"].items() if name in _SUMMARY}
    return {"name": folder.name, "train": curve, "eval": scores}


def _short(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.4g}")


def _rounded(scores: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {name: {k: round(v, 4) for k, v in score.items()} for name, score in scores.items()}


def plot(runs: Sequence[dict[str, Any]], out: Path) -> None:
    """Draw the language loss over samples, run after run, with exact match of the evaluations below."""
    try:
        import matplotlib
    except ImportError:
        raise CpmvError("a plot needs matplotlib; pip install 'cpmv[plot]', or leave --plot out") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (upper, lower) = pyplot.subplots(2, 1, figsize=(8, 7), sharex=True, layout="constrained")
    start = 0.0
    colours = {name: f"C{i}" for i, name in enumerate(_SUMMARY)}
    seen: set[str] = set()
    for run in runs:
        samples = [(start + row["samples"]) / 1e6 for row in run["train"]]
        upper.plot(samples, [row["lm"] for row in run["train"]], label=run["name"])
        by_step = {row["step"]: row["samples"] for row in run["train"]}
        for score in run["eval"]:
            nearest = min(by_step, key=lambda step: abs(step - score["step"]))
            x = (start + by_step[nearest]) / 1e6
            for name in (n for n in _SUMMARY if n in score["scores"]):
                label = None if name in seen else name
                seen.add(name)
                lower.plot([x], [100 * score["scores"][name]["exact"]], "o", color=colours[name], label=label)
        start += run["train"][-1]["samples"]
    upper.set(ylabel="language loss", yscale="log")
    upper.legend()
    upper.grid(alpha=0.3)
    lower.set(ylabel="exact match, %", xlabel="million samples", ylim=(-3, 103))
    lower.legend(ncols=4, fontsize="small")
    lower.grid(alpha=0.3)
    figure.savefig(out, dpi=90)
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code (2 for a mistake, said in one line)."""
    parser = argparse.ArgumentParser(prog="python -m cpmv.train.curves", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("out", type=Path, help="the JSON to write")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs, in the order they were trained")
    parser.add_argument("--plot", type=Path, help="also draw them, PNG")
    parser.add_argument("--every", type=int, default=4, help="keep every so many records (default 4)")
    parser.add_argument("--what", default="training curves", help="one line that says what this is")
    options = parser.parse_args(argv)
    try:
        runs = [read_run(folder, options.every) for folder in options.runs]
        if options.plot is not None:
            plot(runs, options.plot)
    except CpmvError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    options.out.write_text(json.dumps({"what": options.what, "runs": runs}, separators=(",", ":")) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
