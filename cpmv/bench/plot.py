"""Decoding speed against batch and context, beside the limit, as a picture. Needs matplotlib (`cpmv[plot]`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import CpmvError


def points(result: dict[str, Any]) -> list[tuple[int, int, float, float]]:
    """Return (rows, context, tokens a second, the limit's tokens a second) of every decoding line of a result."""
    found = []
    for row in result["rows"]:
        kind, *rest = row["key"].split("-")
        if kind == "decode" and "limit_ms" in row:
            rows, context = int(rest[0][1:]), int(rest[1][1:])
            found.append((rows, context, row["rate"]["per_s"], 1e3 * rows / row["limit_ms"]))
    return sorted(found)


def plot(results: Sequence[dict[str, Any]], out: str | Path) -> None:
    """Draw tokens a second over batch size (left) and over context at batch 1 (right), a colour for each result.

    Raises CpmvError where matplotlib is missing or no result has a decoding line.
    """
    try:
        import matplotlib
    except ImportError:
        raise CpmvError("a plot needs matplotlib; pip install 'cpmv[plot]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = [(result, points(result)) for result in results]
    if not any(found for _, found in drawn):
        raise CpmvError("none of these results has decoding lines to draw; run with --only decode")
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for number, (result, found) in enumerate(drawn):
        if not found:
            continue
        colour, name = f"C{number}", result["model"]["short"]
        common = min(context for _, context, _, _ in found)
        _lines(
            left,
            [(rows, speed, most) for rows, context, speed, most in found if context == common],
            colour,
            f"{name}, context {common:,}",
        )
        _lines(
            right,
            [(context, speed, most) for rows, context, speed, most in found if rows == 1],
            colour,
            f"{name}, batch 1",
        )
    left.set(xscale="log", yscale="log", xlabel="sequences at once", ylabel="tokens a second")
    right.set(xscale="log", xlabel="context, tokens", ylabel="tokens a second", ylim=(0, None))
    for axes, at in ((left, 0), (right, 1)):
        shown = sorted({point[at] for _, found in drawn for point in found})
        axes.set_xticks(shown, [f"{x:,}" for x in shown])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(f"Decoding, {drawn[0][0]['machine']['device']}; dashed: the limit measured in the same run")
    figure.savefig(out, dpi=120)
    pyplot.close(figure)


def _lines(axes: Any, found: list[tuple[int, float, float]], colour: str, label: str) -> None:
    if not found:
        return
    xs = [x for x, _, _ in found]
    axes.plot(xs, [speed for _, speed, _ in found], marker="o", color=colour, label=label)
    axes.plot(xs, [limit for _, _, limit in found], linestyle="--", marker=".", alpha=0.6, color=colour)
