"""Runs as tables: for a terminal, as the Markdown that README and the model's card embed, and two runs side by side.

The Markdown stands between `<!-- eval:begin -->` (or `<!-- eval:begin brief -->`: only what has a demand) and
`<!-- eval:end -->`, and is always made from a run's JSON, so that no number is ever typed by hand.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .samples import EvalError
from .tasks import BARS, MEASURES, TASKS, Bar

BEGIN, BRIEF, END = "<!-- eval:begin -->", "<!-- eval:begin brief -->", "<!-- eval:end -->"
Report = dict[str, Any]

_NAMES = {
    "exact": "exact", "cer": "CER", "cell_f1": "cell F1", "fields": "fields", "chair": "CHAIR", "recall": "recall",
    "format": "right format", "probability": "p(reference)", "unseen_gap": "trained - unseen",
    "lowest_grid": "lowest grid", "opposite": "opposite with times reversed", "gain": "deep - fast",
}  # fmt: skip
_EXTRA = ("unseen_gap", "lowest_grid", "gain")


def read_report(path: Path) -> Report:
    """Read a run's JSON. Raises EvalError for anything else."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(report["sets"], dict):
            raise KeyError("sets")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvalError(f"{path} is not the JSON of an evaluation run ({error}); give what cpmv eval wrote") from None
    assert isinstance(report, dict)
    return report


def percent(value: float, digits: int = 1) -> str:
    return f"{value * 100:.{digits}f} %"


def value_of(report: Report, bar: Bar) -> float | None:
    """What a run measured for a bar, None if it did not."""
    sets = report["controls"].get(bar.control, {}) if bar.control else report["sets"]
    value = sets.get(bar.task, {}).get(bar.metric)
    return None if value is None else float(value)


def bars_of(task: str, report: Report) -> Iterator[tuple[Bar, float]]:
    for bar in BARS:
        value = value_of(report, bar) if bar.task == task else None
        if value is not None:
            yield bar, value


def _headline(numbers: Report, metric: str) -> str:
    text = percent(numbers[metric])
    interval = numbers.get(f"{metric}_interval")
    return f"{text} [{interval[0] * 100:.1f}, {interval[1] * 100:.1f}]" if interval else text


def _others(task: str, numbers: Report) -> str:
    metrics = [m for m in (*MEASURES[TASKS[task].measure], *_EXTRA) if m != "exact" and m in numbers]
    return ", ".join(f"{_NAMES[metric]} {percent(numbers[metric])}" for metric in metrics)


def _verdicts(task: str, report: Report) -> str:
    said = []
    for bar, value in bars_of(task, report):
        name = "" if bar.metric in ("exact", "cer", "chair") else f"{_NAMES[bar.metric]} "
        measured = f" ({percent(value)})" if bar.control else ""
        said.append(f"{name}{bar}{measured} {'met' if bar.met(value) else '**not met**'}")
    return ", ".join(said)


def markdown(report: Report, *, brief: bool = False) -> str:
    """The table of a run: what was asked, scores with intervals, controls, and the demands, met or not.

    brief: only sets with a demand, without controls and costs.
    """
    controls = [name for name in report["controls"] if name != "reversed" and report["controls"][name]]
    head = ["set", "n", "exact", "other metrics", *([] if brief else [*controls, "tokens", "ms"]), "demand"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, numbers in report["sets"].items():
        if name not in TASKS:
            continue
        verdict = _verdicts(name, report)
        cells = [TASKS[name].title, str(numbers["n"]), _headline(numbers, "exact"), _others(name, numbers)]
        if brief and not verdict:
            continue
        if not brief:
            found = [report["controls"][control].get(name) for control in controls]
            cells += ["" if one is None else percent(one["exact"]) for one in found]
            cells += [
                f"{round(numbers['visual_tokens'])} + {round(numbers['generated_tokens'])}",
                f"{numbers['ms']:.0f}",
            ]
        lines.append("| " + " | ".join([*cells, verdict]) + " |")
    return "\n".join([*lines, "", *_notes(report)])


def _notes(report: Report) -> Iterator[str]:
    model, device, versions = report["model"], report["device"], report["versions"]
    yield (
        f"{report['date']}, {model['format']} in {model['dtype']} on {device['name']}, torch {versions['torch']}, "
        f"batches of {report['settings']['batch']}, greedy. Intervals: Wilson, 95 %. Tokens: of pictures + generated, "
        "ms: a sample in its batch; means. Fingerprint "
        f"`{model['fingerprint'].removeprefix('sha256:')[:16]}`."
    )
    for language, found in report.get("answer_language", {}).items():
        name = {"en": "English", "zh": "Chinese"}[language]
        yield f"Questions in {name} answered in {name}: {percent(found['rate'])} of {found['n']}."
    chance = choice_control(report)
    if chance:
        yield chance
    met = [bar.met(value) for bar in BARS if (value := value_of(report, bar)) is not None]
    yield f"Demands met: {sum(met)} of {len(met)} measured ({len(BARS)} in all)."


def choice_control(report: Report) -> str:
    """Whether blank and shuffled pictures leave choice tasks near the best constant guess, and reading near nothing."""
    above, read = [], []
    for control in ("blank", "shuffled"):
        for name, numbers in report["controls"].get(control, {}).items():
            if "constant_guess" in numbers:
                above.append((numbers["exact"] - numbers["constant_guess"], name, control))
            elif TASKS[name].measure == "read":
                read.append((numbers["exact"], name, control))
    said = []
    if read:
        worst = max(read)
        verdict = "met" if worst[0] <= 0.005 else "**not met**"
        said.append(f"reading at most {percent(worst[0])} exact (demand ≤ 0.5 %: {verdict})")
    if above:
        gap, name, control = max(above)
        verdict = "met" if gap <= 0.05 else "**not met**"
        said.append(
            f"choice tasks at most {gap * 100:+.1f} points over the best constant guess "
            f"({TASKS[name].title}, {control}; demand ≤ 5: {verdict})"
        )
    return f"Without the right picture: {'; '.join(said)}." if said else ""


def terminal(report: Report) -> str:
    """The table of a run in columns."""
    rows = [("set", "n", "exact", "more", "demand")]
    for name, numbers in report["sets"].items():
        verdict = _verdicts(name, report).replace("**", "")
        rows.append((name, str(numbers["n"]), _headline(numbers, "exact"), _others(name, numbers), verdict))
    for control, sets in report["controls"].items():
        for name, numbers in sets.items():
            more = f"opposite {percent(numbers['opposite'])}" if "opposite" in numbers else ""
            if "constant_guess" in numbers:
                more = ", ".join(filter(None, [more, f"constant guess {percent(numbers['constant_guess'])}"]))
            rows.append((f"{name} ({control})", str(numbers["n"]), _headline(numbers, "exact"), more, ""))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", *(note.replace("**", "") for note in _notes(report))])


def embed(path: Path, report: Report) -> bool:
    """Put the table between the markers of a Markdown file; return whether it changed.

    Raises EvalError where the markers are missing.
    """
    text = path.read_text(encoding="utf-8")
    marker = BRIEF if BRIEF in text else BEGIN
    begin, end = text.find(marker), text.find(END)
    if begin < 0 or end < begin:
        raise EvalError(f"{path} has no {BEGIN} ... {END}; add the two lines where the table belongs")
    table = markdown(report, brief=marker == BRIEF)
    new = f"{text[: begin + len(marker)]}\n{table}\n{text[end:]}"
    if new != text:
        path.write_text(new, encoding="utf-8")
    return new != text


def compare(first: Report, second: Report) -> str:
    """Two runs side by side: exact match of the sets both asked, the difference, and whether it is more than chance.

    Where both asked the same samples the differences are counted sample by sample (sign test at 95 %).
    """
    rows = [("set", "n", "first", "second", "difference", "")]
    for name, a in first["sets"].items():
        b = second["sets"].get(name)
        if b is None:
            continue
        gap = b["exact"] - a["exact"]
        same = a["n"] == b["n"] and _same_set(first, second, name)
        verdict = _sign_test(a["hits"], b["hits"]) if same else _apart(a, b)
        n = str(a["n"]) if a["n"] == b["n"] else f"{a['n']}/{b['n']}"
        rows.append((name, n, percent(a["exact"]), percent(b["exact"]), f"{gap * 100:+.1f}", verdict))
    if len(rows) == 1:
        raise EvalError("the two runs have no set in common; run both with the same --sets")
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _same_set(first: Report, second: Report, name: str) -> bool:
    stored = TASKS[name].stored_as if name in TASKS else name
    digests = [report["settings"]["sets"].get(stored) for report in (first, second)]
    return digests[0] is not None and digests[0] == digests[1]


def _sign_test(a: str, b: str) -> str:
    """Two-sided binomial test on the samples where the runs differ."""
    lost = sum(x == "1" and y == "0" for x, y in zip(a, b, strict=True))
    won = sum(x == "0" and y == "1" for x, y in zip(a, b, strict=True))
    n, k = lost + won, min(lost, won)
    p = min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n) if n else 1.0
    return f"{'differs' if p < 0.05 else 'no difference shown'} (+{won} -{lost}, p={p:.3f})"


def _apart(a: Report, b: Report) -> str:
    low, high = a["exact_interval"], b["exact_interval"]
    apart = low[1] < high[0] or high[1] < low[0]
    return f"{'differs' if apart else 'no difference shown'} (other samples: intervals)"
