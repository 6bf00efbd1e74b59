"""Learning from feedback on single claims (RLAIF-V, arXiv 2405.17220): rounds of sampling, judging and DPO.

A round (`OUT/round-1`, ...) samples several responses to each prompt from the newest policy (`samples.jsonl`), divides
them into claims (`claims.jsonl`), has each judged (`verdicts.jsonl`), makes pairs of responses whose numbers of
rejected claims differ (`pairs.jsonl`, RLAIF-V's format, which `cpmv train dpo --data` reads too), learns from them with
the round's start as the reference (`dpo/`), and measures both on held-out prompts (`round.json`). The better one starts
the next round. `OUT/report.json` and, with matplotlib, `OUT/report.png` tell of all rounds; `OUT/best.json` names the
best checkpoint.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import CpmvError
from ..weights.merging import merge_adapter
from .feedback_claims import Claim
from .feedback_config import FeedbackConfig
from .feedback_files import Row, continue_lines, read_lines, write_json, write_lines
from .feedback_judges import Verdict
from .feedback_measure import better, measure, plot
from .feedback_pairs import Preference, Response, balance, mean_lengths, pairs_of
from .feedback_policy import Policy, judge_of
from .feedback_prompts import Asked, Prompts, RecordPrompts, ScenePrompts
from .finetune import ADAPTER, MODEL, PROBLEMS, finetune
from .finetune_config import FinetuneConfig
from .formats import Source, read_source
from .state import find_states

log = logging.getLogger("cpmv")
ProgressReport = Callable[[str], Any]  # label -> context manager that is called with (done, total)
_HELD_OUT = "held-out"
_FREE = {"log_every", "save_every_s", "evaluate_every_s", "tensorboard", "rounds"}  # may differ when a run is resumed


@dataclass
class FeedbackResult:
    """best: checkpoint that goes on, None for the one that the run began with. rounds: what each reports; fewer than
    wanted for a run that was stopped."""

    best: str | None
    rounds: list[dict[str, Any]]
    seconds: float
    bad: int


def train_feedback(
    config: FeedbackConfig,
    out: Path,
    *,
    device: str | None = None,
    resume: bool = False,
    progress: ProgressReport | None = None,
) -> FeedbackResult:
    """Run it. Raises CpmvError for settings, files or a model that do not fit together."""
    started = time.perf_counter()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise CpmvError("rlaif runs in one process on one GPU; start it without torchrun")
    check_folder(out, config, resume)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "run.json", config.to_json())
    run = _Run(config, out, device, progress)
    rounds: list[dict[str, Any]] = []
    best, known = config.model, None
    for number in range(1, config.rounds + 1):
        report = run.round(number, best, known)
        if report is None:
            break
        rounds.append(report)
        best, known = report["best"], report["kept"]
        write_json(out / "report.json", {"config": config.to_json(), "rounds": rounds})
        write_json(out / "best.json", {"model": best, "round": number, **report["kept"]})
        if not plot(rounds, out / "report.png"):
            log.info("no report.png: a plot needs matplotlib (pip install 'cpmv[plot]')")
    bad = run.write_problems()
    return FeedbackResult(best, rounds, time.perf_counter() - started, bad)


def check_folder(out: Path, config: FeedbackConfig, resume: bool) -> None:
    """Raise CpmvError when a run would overwrite another, or go on with one that was begun otherwise."""
    settings = out / "run.json"
    if not resume:
        if settings.exists():
            raise CpmvError(f"{out} holds a run already; add --resume to go on with it, or give another --out")
        return
    if not settings.is_file():
        raise CpmvError(f"{out} holds no run to go on with; leave --resume out to start anew")
    before, now = json.loads(settings.read_text()), json.loads(json.dumps(config.to_json()))
    changed = [name for name in now if name not in _FREE and before.get(name) != now[name]]
    if changed:
        raise CpmvError(
            f"{out} was begun with {changed[0]} = {before.get(changed[0])!r}, now it is {now[changed[0]]!r}; "
            "resume with the same settings, or give another --out"
        )


class _Run:
    """The parts that rounds share."""

    def __init__(self, config: FeedbackConfig, out: Path, device: str | None, progress: ProgressReport | None) -> None:
        self.config, self.out, self.device, self._report = config, out, device, progress
        self.sources: list[Source] = []
        self.prompts, self.eval_prompts, self.eval_numbers = self._prompts()

    def _prompts(self) -> tuple[Prompts, Prompts, list[int]]:
        """Prompts of training, those to measure on, and the latter's numbers."""
        config = self.config
        if config.drawn:
            held_out = ScenePrompts(seed=0, held_out=True)
            return ScenePrompts(seed=config.seed), held_out, list(range(config.eval_drawn))
        self.sources = [
            read_source(spec, format=config.format, media_root=config.media_root, strict=config.strict)
            for spec in config.data
        ]
        training, others = RecordPrompts.split(self.sources, config.eval_prompts, seed=config.seed)
        return training, others, list(range(others.size or 0))

    def write_problems(self) -> int:
        problems = [p for source in self.sources for p in source.problems]
        rows = [{"file": str(p.file), "line": p.line, "kind": p.kind, "reason": p.reason} for p in problems]
        write_lines(self.out / PROBLEMS, rows)
        return len(problems)

    def _bar(self, label: str) -> Any:
        return nullcontext() if self._report is None else self._report(label)

    def round(self, number: int, start: str | None, known: dict[str, float] | None) -> dict[str, Any] | None:
        """Run a round, or what of it is missing; None when it was stopped. known: the start's numbers, measured
        already."""
        folder = self.out / f"round-{number}"
        file = folder / "round.json"
        if file.is_file():
            report: dict[str, Any] = json.loads(file.read_text())
            return report
        started = time.perf_counter()
        before = known or self._measured(folder / "before", start)
        config = self.config
        numbers = [(number - 1) * config.prompts + place for place in range(config.prompts)]
        asked = [self.prompts.take(n, folder / "pictures") for n in numbers]
        samples, claims, verdicts = self._judged(folder, start, asked, config.group_size, config.temperature, number)
        report = {"round": number, "start": start, **_counts(samples, claims, verdicts), "before": before}
        pairs = self._pairs(folder, asked, samples, verdicts, number)
        report |= pairs
        ended, after = start, before
        if pairs["pairs"]:
            trained = self._learn(folder, start, pairs["pairs"])
            if trained is None:
                return None
            after, ended = self._measured(folder / "after", trained), trained
        won = ended is not start and better(after, before, config.slack)
        report |= {"after": after, "trained": ended, "won": won, "best": ended if won else start}
        report |= {"kept": after if won else before, "seconds": round(time.perf_counter() - started, 1)}
        write_json(file, report)
        log.info(
            "round %d: %.2f%% of %d claims rejected, %d pairs; CHAIRi %.2f%% before, %.2f%% after; %s goes on",
            number, 100 * report["rejected_share"], report["claims"], report["pairs"], 100 * before["chair"],
            100 * after["chair"], "it" if won else "the round's start",
        )  # fmt: skip
        return report

    def _measured(self, folder: Path, model: str | None) -> dict[str, float]:
        """Greedy answers to the held-out prompts, and their numbers; drawn scenes are judged by what was drawn."""
        pictures = self.out / _HELD_OUT
        asked = [self.eval_prompts.take(n, pictures) for n in self.eval_numbers]
        _, claims, verdicts = self._judged(folder, model, asked, 1, 0.0, 0)
        return measure(asked, [row[0] for row in claims], [row[0] for row in verdicts])

    def _judged(
        self, folder: Path, model: str | None, asked: Sequence[Asked], count: int, temperature: float, number: int
    ) -> tuple[list[Row], list[list[list[Claim]]], list[list[list[Verdict]]]]:
        """Samples, and claims and verdicts of each response of each prompt."""
        config, measuring, total = self.config, temperature == 0, len(asked)
        block = max(1, config.rows // count)
        policy = Policy(config, model, self.device)
        what = "measuring" if measuring else f"round {number}: sampling"
        try:
            with self._bar(what) as told:
                samples = continue_lines(
                    folder / "samples.jsonl", total, block,
                    lambda a, b: policy.sample(asked[a:b], count, temperature, seed=(number, a)), told,
                )  # fmt: skip
            if not measuring and config.other is not None:
                samples = self._mixed(folder, policy, asked, samples, number)
            divider = policy.divider("rules" if measuring and config.divider == "whole" else config.divider)
            with self._bar("dividing") as told:
                divided = continue_lines(
                    folder / "claims.jsonl", total, block,
                    lambda a, b: policy.divide(divider, asked[a:b], samples[a:b]), told,
                )  # fmt: skip
            claims = [[[Claim.from_json(c) for c in response] for response in row["claims"]] for row in divided]
            name = self._judge(measuring)
            with judge_of(name, policy, config, self.device) as judge, self._bar("judging") as told:

                def verdicts_of(first: int, last: int) -> list[Row]:
                    cases = [(asked[i], c) for i in range(first, last) for response in claims[i] for c in response]
                    found = iter(judge.judge(cases))
                    return [
                        {"number": asked[i].number, "verdicts": [[next(found).to_json() for _ in r] for r in claims[i]]}
                        for i in range(first, last)
                    ]

                judged = continue_lines(folder / "verdicts.jsonl", total, block, verdicts_of, told)
        finally:
            policy.close()
            _free()
        verdicts = [[[Verdict(v["yes"], v["no"]) for v in r] for r in row["verdicts"]] for row in judged]
        return samples, claims, verdicts

    def _judge(self, measuring: bool) -> str:
        """Who judges. Measuring has one judge in all rounds: what was drawn, or a model that does not change."""
        config = self.config
        if not measuring:
            return config.judge
        if config.drawn:
            return "truth"
        return (config.model or "bundled") if config.judge == "self" else config.judge

    def _mixed(
        self, folder: Path, policy: Policy, asked: Sequence[Asked], samples: list[Row], number: int
    ) -> list[Row]:
        """Half of the responses of another source: what sampling from one policy alone is compared with."""
        config, count = self.config, max(1, self.config.group_size // 2)
        if config.other == "truth":
            exact = [a.reference or "" for a in asked]
            theirs = [
                {"responses": [{"text": text, "tokens": policy.num_tokens(text), "finished": True}]} for text in exact
            ]
        else:
            other = Policy(config, config.other, self.device)
            try:
                with self._bar("sampling the other model") as told:
                    theirs = continue_lines(
                        folder / "others.jsonl", len(asked), max(1, config.rows // count),
                        lambda a, b: other.sample(asked[a:b], count, config.temperature, seed=(number, a)), told,
                    )  # fmt: skip
            finally:
                other.close()
        for row, more in zip(samples, theirs, strict=True):
            added = [{**response, "source": "other"} for response in more["responses"]]
            row["responses"] = row["responses"][: config.group_size - len(added)] + added
        return samples

    def _pairs(
        self,
        folder: Path,
        asked: Sequence[Asked],
        samples: Sequence[Row],
        verdicts: Sequence[Sequence[Sequence[Verdict]]],
        number: int,
    ) -> dict[str, Any]:
        """Write the pairs; return their counts and lengths."""
        config = self.config
        by_number = {one.number: one for one in asked}
        pairs: list[Preference] = []
        for one, row, judged in zip(asked, samples, verdicts, strict=True):
            responses = [
                Response(r["text"], -float(sum(v.rejected for v in found)), r["tokens"], r.get("source", ""))
                for r, found in zip(row["responses"], judged, strict=True)
                if r["text"].strip() and r["finished"]
            ]
            rng = random.Random((config.seed * 1_000_003 + number) * 1_000_003 + one.number)
            most, across = config.pairs_per_prompt, config.other is not None
            pairs += pairs_of(one.number, responses, rng, most=most, across=across)
        kept, ratio = balance(pairs) if config.balanced else (list(pairs), 0.0)
        write_lines(folder / "pairs.jsonl", [_format_e(by_number[p.number], p, folder) for p in kept])
        return {
            "pairs": len(kept),
            "pairs_before_balance": len(pairs),
            "ratio": ratio,
            "lengths_before_balance": mean_lengths(pairs),
            "lengths": mean_lengths(kept),
        }

    def _learn(self, folder: Path, start: str | None, count: int) -> str | None:
        """DPO on the round's pairs from its start; return the new checkpoint, None when it was stopped."""
        config, dpo, model = self.config, folder / "dpo", folder / MODEL
        whole = dpo / MODEL if config.lora is None else model
        done = dpo / "done.json"
        if not done.is_file():
            resume = bool(find_states(dpo / "state"))
            if not resume and dpo.exists():
                shutil.rmtree(dpo)  # it was stopped before its first state
            mine = {f.name: getattr(config, f.name) for f in fields(FinetuneConfig)}
            pairs = str(folder / "pairs.jsonl")
            settings = mine | {"model": start, "data": (pairs,), "format": "rlaif-v", "media_root": None}
            # The answers that were sampled come on top of the prompts that `reading` is for.
            reading = replace(config.reading, max_tokens=config.reading.max_tokens + config.max_new_tokens)
            row = None if config.row_tokens is None else max(config.row_tokens, reading.max_tokens)
            settings |= {"reading": reading, "row_tokens": row, "batch_size": min(config.batch_size, count)}
            result = finetune(FinetuneConfig(**settings), dpo, device=self.device, resume=resume, progress=self._report)
            if result.folder is None:
                return None
            write_json(done, {"steps": result.steps, "seconds": round(result.seconds, 1), "bad": result.bad})
            _free()
        if config.lora is not None and not (folder / "merged.json").is_file():
            changed = merge_adapter(start, dpo / ADAPTER, model, overwrite=True)
            write_json(folder / "merged.json", {"linears": changed})
        return str(whole)


def _format_e(asked: Asked, pair: Preference, folder: Path) -> Row:
    """A pair in RLAIF-V's format; pictures of the round are named relative to the file."""
    image, folder = asked.image.resolve(), folder.resolve()
    origin = {"prompt": asked.number, "scores": [pair.chosen.score, pair.rejected.score]}
    return {
        "image": str(image.relative_to(folder) if image.is_relative_to(folder) else image),
        "question": asked.question,
        "chosen": pair.chosen.text,
        "rejected": pair.rejected.text,
        "origin": json.dumps(origin),
    }


def _counts(
    samples: Sequence[Row], claims: Sequence[Sequence[Sequence[Claim]]], verdicts: Sequence[Sequence[Sequence[Verdict]]]
) -> dict[str, Any]:
    responses = [response for row in samples for response in row["responses"]]
    made = sum(len(response) for row in claims for response in row)
    rejected = sum(v.rejected for row in verdicts for response in row for v in response)
    return {
        "prompts": len(samples),
        "responses": len(responses),
        "finished": sum(response["finished"] for response in responses),
        "tokens": sum(response["tokens"] for response in responses),
        "claims": made,
        "rejected": rejected,
        "rejected_share": rejected / max(1, made),
        "mean_score": -rejected / max(1, len(responses)),
    }


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def rounds_of(out: Path) -> list[dict[str, Any]]:
    """What the finished rounds of a run report."""
    files = sorted(out.glob("round-*/round.json"), key=lambda file: int(file.parent.name.split("-")[1]))
    return [json.loads(file.read_text()) for file in files]


def samples_of(out: Path, number: int) -> list[Row]:
    """The samples of a round, as far as they are written."""
    return read_lines(out / f"round-{number}" / "samples.jsonl")
