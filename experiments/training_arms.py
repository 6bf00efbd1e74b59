"""What experiments on training share: arms that differ in what they learn from alone, trained and asked in one process.

Every arm starts from the same weights and goes through the one training loop with the same configuration, seed, steps
and order of documents; `remake` turns the maker of documents into the arm's own. The first arm decides how many steps
fit its seconds, the others take as many. Arms are then asked by the one evaluation, as checkpoints like the bundled
one (NF4). A report a run (`ARM-SEED/report.json`) is written as soon as it is there; `gather` pools seeds.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpmv.api import Model
    from cpmv.evals.tasks import Task
    from cpmv.train.composed_steps import Makes
    from cpmv.train.config import TrainConfig

START = "start"  # the arm that is not trained
Z = 1.96
Json = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """One row of a report: a task on the sets of a folder, and the controls it is asked under as well."""

    title: str
    task: Task
    folder: Path
    controls: tuple[str, ...] = ()
    limit: int | None = None


@dataclass(frozen=True)
class Experiment:
    """arms: name -> what the arm learns from. config: of a run. asked: what an arm is asked, by its name.

    more: further numbers of an arm from its opened model. script: its file, for messages.
    """

    arms: Mapping[str, Callable[[Makes], Makes]]
    config: Callable[[], TrainConfig]
    asked: Callable[[str, argparse.Namespace], Sequence[Asked]]
    draw: Callable[[Path, int, int], None]
    more: Callable[[Model, argparse.Namespace], Json] | None = None


def train(experiment: Experiment, arm: str, seed: int, steps: int | None, args: argparse.Namespace, out: Path) -> Json:
    """Train one arm; return its checkpoint folder ("model") and what it took. steps: None fits `args.seconds`."""
    from cpmv.train.bundle import bundle
    from cpmv.train.pretrain import Paths, pretrain

    config = replace(
        experiment.config(),
        seed=seed,
        steps=steps,
        seconds=None if steps else args.seconds,
        peak_lr=args.lr,
        evaluate_samples=0,
        save_every_s=0.0,
        keep_stable=False,
        tensorboard=False,
        log_every=args.log_every,
    )
    if args.scale != 1.0:
        config = _smaller(config, args.scale)
    if args.workers is not None and config.composed is not None:
        config = replace(config, composed=replace(config.composed, workers=args.workers))
    started = time.perf_counter()
    paths = Paths(out=out, atlas=args.atlas, tokenizer=args.init, init=args.init)
    weights = pretrain(config, paths, device=args.device, started=started, remake=experiment.arms[arm])
    folder = bundle(weights, out / "run.json", args.init, out / "model")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    laps = [line for line in lines if line.get("kind") == "train"]
    return {
        "model": str(folder),
        "steps": laps[-1]["step"],
        "seconds": time.perf_counter() - started,
        "samples": laps[-1].get("samples"),
        "curve": [[line["step"], line["loss"]] for line in laps if "loss" in line],
        "last": laps[-1],
    }


def _smaller(config: TrainConfig, scale: float) -> TrainConfig:
    """The same run with a share of the places of a step, to see on a CPU that everything works."""
    composed = config.composed
    assert composed is not None
    names = ("singles", "packages", "corrupted_singles")
    places = {name: math.ceil(getattr(composed, name) * scale) for name in names}
    tokens = max(1024, math.ceil(composed.tokens * scale))
    return replace(config, composed=replace(composed, **places, tokens=tokens))


def ask(experiment: Experiment, arm: str, source: str, args: argparse.Namespace, out: Path) -> Json:
    """Open a checkpoint and ask everything: {"rows": {title: numbers}, "controls": {...}}."""
    import torch

    import cpmv
    from cpmv.evals.run import Settings, evaluate

    started = time.perf_counter()
    model = cpmv.load(source, device=args.device, dtype=torch.float32 if args.device == "cpu" else torch.bfloat16)
    rows: Json = {}
    controls: Json = {}
    out.mkdir(parents=True, exist_ok=True)
    for asked in experiment.asked(arm, args):
        settings = Settings(
            (asked.task,), asked.folder, args.limit or asked.limit, asked.controls, batch=args.batch, workers=0
        )
        report = evaluate(model, source, None, settings, out / f"{asked.title.replace(' ', '-')}.json")
        rows[asked.title] = report["sets"][asked.task.name]
        for control, found in report["controls"].items():
            controls.setdefault(control, {})[asked.title] = found[asked.task.name]
    extra = {} if experiment.more is None else experiment.more(model, args)
    model.close()
    del model
    release()
    return {"rows": rows, "controls": controls, "more": extra, "asking_seconds": time.perf_counter() - started}


def release() -> None:
    """Give back what an arm held on the device."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def run(experiment: Experiment, args: argparse.Namespace) -> int:
    """All arms of all seeds, one after the other; an arm that fails is told and left out."""
    folder = Path(args.out)
    failed = 0
    steps: int | None = args.steps
    for seed in args.seeds:
        for arm in args.arms:
            if arm == START and seed != args.seeds[0]:
                continue
            out = folder / f"{arm}-{seed}"
            report: Json = {"arm": arm, "seed": seed, "settings": settings_of(args)}
            try:
                source = str(args.init)
                if arm != START:
                    report["training"] = train(experiment, arm, seed, steps, args, out)
                    steps = report["training"]["steps"]
                    source = report["training"].pop("model")
                    release()
                report |= ask(experiment, arm, source, args, out / "answers")
            except Exception:
                failed += 1
                print(f"{arm} {seed} failed:\n{traceback.format_exc()}", flush=True)
                release()
                continue
            (out / "report.json").write_text(json.dumps(report) + "\n")
            print(line_of(report), flush=True)
    return int(failed > 0)


def line_of(report: Json) -> str:
    """One run in a line."""
    trained = report.get("training")
    took = f"{trained['steps']} steps {trained['seconds']:.0f} s, " if trained else ""
    rows = "  ".join(f"{title} {100 * row['exact']:.1f}" for title, row in report["rows"].items())
    return f"{report['arm']} {report['seed']}: {took}asked {report['asking_seconds']:.0f} s  {rows}  {report['more']}"


def settings_of(args: argparse.Namespace) -> Json:
    keep = ("seconds", "steps", "lr", "scale", "limit", "batch", "seeds")
    return {name: getattr(args, name) for name in keep}


def gather(folder: Path) -> Json:
    """Every arm's rows, hits pooled over seeds with Wilson's interval, each seed's own score beside them."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*/report.json"))]
    arms: Json = {}
    for arm in dict.fromkeys(report["arm"] for report in found):
        runs = [report for report in found if report["arm"] == arm]
        rows = {title: _pooled([r["rows"][title] for r in runs]) for title in runs[0]["rows"]}
        controls = {
            control: {title: _pooled([r["controls"][control][title] for r in runs]) for title in named}
            for control, named in runs[0]["controls"].items()
        }
        trained = [r["training"] for r in runs if "training" in r]
        arms[arm] = {
            "seeds": [r["seed"] for r in runs],
            "rows": rows,
            "controls": controls,
            "more": [r["more"] for r in runs],
            "steps": [t["steps"] for t in trained],
            "samples": [t["samples"] for t in trained],
            "seconds": [round(t["seconds"], 1) for t in trained],
            "curves": [t["curve"] for t in trained],
        }
    return {"settings": found[0]["settings"] if found else {}, "arms": arms}


def _pooled(rows: Sequence[Json]) -> Json:
    n = sum(row["n"] for row in rows)
    hits = sum(row["hits"].count("1") for row in rows)
    out: Json = {"n": n, "exact": hits / n, "interval": wilson(hits, n), "by_seed": [row["exact"] for row in rows]}
    for name in ("cer", "probability", "visual_tokens", "constant_guess"):
        if all(name in row for row in rows):
            out[name] = sum(row[name] for row in rows) / len(rows)
    kinds = {kind for row in rows for kind in row.get("kinds", {})}
    if kinds:
        out["kinds"] = {
            kind: sum(row["kinds"][kind]["exact"] for row in rows) / len(rows)
            for kind in sorted(kinds)
            if all(kind in row["kinds"] for row in rows)
        }
    languages = [row["answer_language"] for row in rows if "answer_language" in row]
    if languages:
        out["answer_language"] = {
            name: [sum(one.get(name, [0, 0])[i] for one in languages) for i in (0, 1)]
            for name in sorted({name for one in languages for name in one})
        }
    return out


def wilson(hits: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval."""
    p, scale = hits / n, 1 + Z * Z / n
    middle, half = (p + Z * Z / (2 * n)) / scale, Z / scale * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return round(max(0.0, middle - half), 4), round(min(1.0, middle + half), 4)


def report(args: argparse.Namespace) -> int:
    """Gather the runs of a folder into one JSON and a plot."""
    gathered = gather(Path(args.out))
    if not gathered["arms"]:
        print(f"{args.out} holds no report.json")
        return 2
    Path(args.target).write_text(json.dumps(gathered, indent=1) + "\n")
    for arm, values in gathered["arms"].items():
        cells = "  ".join(f"{title} {100 * row['exact']:.1f}" for title, row in values["rows"].items())
        print(f"{arm:8} {cells}")
    if args.plot:
        plot(gathered, Path(args.plot))
    return 0


def plot(gathered: Json, out: Path) -> None:
    """Exact match of every row as bars with intervals, one colour an arm."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    arms = gathered["arms"]
    titles = list(dict.fromkeys(title for values in arms.values() for title in values["rows"]))
    figure, axis = pyplot.subplots(figsize=(max(7.0, 1.3 * len(titles)), 4.2), layout="constrained")
    width = 0.8 / len(arms)
    for place, (arm, values) in enumerate(arms.items()):
        for at, title in enumerate(titles):
            row = values["rows"].get(title)
            if row is None:
                continue
            x = at + (place - (len(arms) - 1) / 2) * width
            low, high = row["interval"]
            label = arm if title == next(iter(values["rows"])) else None
            axis.bar(x, 100 * row["exact"], width * 0.92, color=f"C{place}", label=label)
            axis.vlines(x, 100 * low, 100 * high, color="black", linewidth=0.8)
    axis.set_xticks(range(len(titles)), [title.replace(" ", "\n", 1) for title in titles], fontsize=8)
    axis.set(ylabel="exact, % (95 % interval)", ylim=(0, 100))
    axis.legend(fontsize=8)
    figure.savefig(out, dpi=110)


def main(experiment: Experiment, argv: Sequence[str] | None = None, doc: str | None = None) -> int:
    """The command line of an experiment: draw, run, report."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n", 1)[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("draw", help="the evaluation sets, by the independent renderer; needs fonts")
    verb.add_argument("sets", type=Path)
    verb.add_argument("--seed", type=int, default=77)
    verb.add_argument("--per-set", type=int, default=500)
    verb = verbs.add_parser("run", help="train the arms and ask them")
    verb.add_argument("--sets", type=Path, required=True)
    verb.add_argument("--atlas", type=Path, required=True)
    verb.add_argument("--out", required=True)
    verb.add_argument("--init", type=Path, default=Path("cpmv/bundled"), help="checkpoint all arms start from")
    verb.add_argument("--device")
    verb.add_argument("--seconds", type=float, default=60.0, help="of the first arm; the others take as many steps")
    verb.add_argument("--steps", type=int, help="of every arm, instead of --seconds")
    verb.add_argument("--lr", type=float, default=5e-4)
    verb.add_argument("--arms", nargs="+", choices=[START, *experiment.arms], default=[START, *experiment.arms])
    verb.add_argument("--seeds", nargs="+", type=int, default=[0])
    verb.add_argument("--limit", type=int, help="questions a set, to see that everything works")
    verb.add_argument("--batch", type=int, default=256, help="prompts at once")
    verb.add_argument("--scale", type=float, default=1.0, help="share of a step's places")
    verb.add_argument("--workers", type=int, help="processes that make documents")
    verb.add_argument("--log-every", type=int, default=25)
    verb = verbs.add_parser("report", help="one JSON and a plot of the runs in a folder")
    verb.add_argument("out")
    verb.add_argument("target")
    verb.add_argument("--plot")
    args = parser.parse_args(argv)
    if args.verb == "draw":
        experiment.draw(args.sets, args.seed, args.per_set)
        return 0
    return run(experiment, args) if args.verb == "run" else report(args)
