"""Lines of a run as JSON, and as tables for people: plain text in a terminal, Markdown in a file.

A result is {"machine", "model", "command", "rows", "notes", ...}; a row has key, label, milliseconds of a unit
(median, min, max of its repeats), the rate, the limit with the percentage reached, peers, and the bar where one stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .bars import BARS, PEER_BARS, verdict
from .timing import Spread

Row = dict[str, Any]
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


def make_row(
    key: str,
    label: str,
    what: str,
    per_unit: float,
    spread: Spread,
    limit_s: float | None,
    peers: dict[str, Spread],
    **more: Any,
) -> Row:
    """Make a row; `more` are further facts, such as the share of time a GPU was busy."""
    row: Row = {
        "key": key,
        "label": label,
        "ms": _milliseconds(spread),
        "rate": {"per_s": _short(per_unit / spread.median), "of": what},
    }
    if limit_s is not None:
        row |= {"limit_ms": _short(limit_s * 1e3), "percent_of_limit": _short(100 * limit_s / spread.median)}
    if peers:
        row["peers"] = {
            name: {"ms": _milliseconds(peer), "times_ours": _short(peer.median / spread.median)}
            for name, peer in peers.items()
        }
    return row | {name: value for name, value in more.items() if value is not None}


def _milliseconds(spread: Spread) -> dict[str, Any]:
    return {
        "median": _short(spread.median * 1e3),
        "min": _short(spread.least * 1e3),
        "max": _short(spread.most * 1e3),
        "repeats": len(spread.seconds),
    }


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def add_bars(rows: Sequence[Row], format: str) -> None:
    """Put the bars of this format beside the rows they speak of. For runs on an H200 at the real dimensions alone."""
    for row in rows:
        bar = BARS.get(format, {}).get(row["key"])
        if bar is not None:
            row["bar"] = {"ms": _short(bar[0]), "beyond_ms": _short(bar[1]), "is": verdict(row["ms"]["median"], bar)}
        wanted = PEER_BARS.get(row["key"]) if format == "bf16" else None
        theirs = row.get("peers", {}).get("transformers")
        if wanted is not None and theirs is not None:
            times = theirs["times_ours"]
            said = "beyond" if times >= wanted[1] else "met" if times >= wanted[0] else "not met"
            theirs["bar"] = {"times": wanted[0], "beyond_times": wanted[1], "is": said}


def number(value: float) -> str:
    """Three significant digits, thousands separated."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def columns(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the cells of a result's table."""
    rows: list[Row] = result["rows"]
    has_peers = any(row.get("peers") for row in rows)
    has_bars = any(row.get("bar") for row in rows)
    header = ["work", "ms (min to max)", "rate", "limit, ms", "% of it"]
    header += ["peer: ms, times ours"] * has_peers + ["bar, ms"] * has_bars
    return header, [_cells(row, has_peers, has_bars) for row in rows]


def _cells(row: Row, has_peers: bool, has_bars: bool) -> list[str]:
    ms = row["ms"]
    cells = [
        row["label"],
        f"{number(ms['median'])} ({number(ms['min'])} to {number(ms['max'])})",
        f"{number(row['rate']['per_s'])} {row['rate']['of']}/s",
        number(row["limit_ms"]) if "limit_ms" in row else "",
        f"{row['percent_of_limit']:.0f}" if "percent_of_limit" in row else "",
    ]
    if row.get("busy") is not None:
        cells[2] += f", GPU busy {row['busy']:.0%}"
    if "prepared_ms" in row:
        cells[2] += f", prompt complete after {number(row['prepared_ms'])} ms"
    if has_peers:
        peers = row.get("peers", {})
        cells.append(
            "; ".join(f"{n} {number(p['ms']['median'])}, {number(p['times_ours'])}x" for n, p in peers.items())
        )
    if has_bars:
        bar = row.get("bar")
        cells.append("" if bar is None else f"{number(bar['ms'])} {bar['is']}")
    return cells


def one_line(row: Row) -> str:
    """Return a row on one line, as it is told while the run goes on."""
    return "; ".join(cell for cell in _cells(row, has_peers=True, has_bars=False) if cell)


def plain_table(result: dict[str, Any]) -> str:
    """Return the table with aligned columns."""
    header, rows = columns(result)
    widths = [max(len(line[at]) for line in [header, *rows]) for at in range(len(header))]
    lines = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in [header, *rows]]
    return "\n".join("  ".join(line).rstrip() for line in [lines[0], ["-" * width for width in widths], *lines[1:]])


def markdown_table(result: dict[str, Any]) -> str:
    """Return the table as Markdown."""
    header, rows = columns(result)
    lines = [header, ["---"] * len(header), *[[cell or " " for cell in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def memory_line(result: dict[str, Any]) -> str | None:
    memory = result.get("memory")
    if not memory:
        return None
    return "Memory: " + ", ".join(f"{name.replace('_', ' ')} {value / 1e9:.2f} GB" for name, value in memory.items())


def report(result: dict[str, Any]) -> str:
    """Return a whole Markdown page: what ran where, the table, the abilities it is measured by, and notes."""
    machine, model = result["machine"], result["model"]
    abilities = result.get("abilities", {})
    lines = [
        f"# {model['name']}, {machine['device']}, {result['date']}",
        "",
        f"    {result['command']}",
        "",
        f"{model['text']} {machine['text']}",
        "",
        markdown_table(result),
        "",
        "Milliseconds of a step, a pass or a request; median and extremes of its repeats. Limits: bytes or products at "
        "the rates that the same run measured, nothing else counted.",
    ]
    memory = memory_line(result)
    if memory:
        lines += ["", memory + "."]
    if "read_bytes_per_s" in abilities:
        lines += ["", f"Reading memory: {abilities['read_bytes_per_s'] / 1e12:.3g} TB/s."]
    products = [(name, value) for name, value in abilities.items() if name.endswith("_flop_per_s")]
    if products:
        lines += ["", "| product | TFLOP/s |", "| --- | --- |"]
        lines += [f"| {name.removesuffix('_flop_per_s').replace('_', ' ')} | {v / 1e12:.3g} |" for name, v in products]
    for title, table in result.get("kernels", {}).items():
        lines += ["", f"## {title}", "", *table]
    if result.get("notes"):
        lines += ["", *[f"- {note}" for note in result["notes"]]]
    return "\n".join(lines) + "\n"


def speed_table(results: Sequence[dict[str, Any]]) -> str:
    """Return README's table of several results: one column a result, in the order given."""
    labels: dict[str, str] = {row["key"]: row["label"] for result in results for row in result["rows"]}
    header = ["", *(result["model"]["short"] for result in results)]
    lines = [header, ["---"] * len(header)]
    for key, label in labels.items():
        cells = [label]
        for result in results:
            row = next((row for row in result["rows"] if row["key"] == key), None)
            cells.append(" " if row is None else _brief(row))
        lines.append(cells)
    where = sorted({f"{result['machine']['device']}, {result['date']}" for result in results})
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    said = "percent of the limit measured in the same run, speed over transformers' there, and the bar"
    return f"{table}\n\n{'; '.join(where)}. In brackets: {said}."


def _brief(row: Row) -> str:
    rate, ms = row["rate"], row["ms"]["median"]
    text = f"{number(ms)} ms" if not row["key"].startswith("throughput") else ""
    if rate["of"] == "tok" and not row["key"].startswith("prefill"):
        text = ", ".join(filter(None, [f"{number(rate['per_s'])} tok/s", text]))
    inner = [f"{row['percent_of_limit']:.0f} %"] if "percent_of_limit" in row else []
    theirs = row.get("peers", {}).get("transformers")
    if theirs is not None:
        inner.append(f"{number(theirs['times_ours'])}x transformers")
    bar = row.get("bar")
    if bar is not None:
        inner.append(f"**{bar['is']}**" if bar["is"] == "not met" else bar["is"])
    return f"{text} ({', '.join(inner)})" if inner else text


def replace_between(text: str, table: str) -> str:
    """Put a table between the markers of a document. Raises ValueError where they are not."""
    start, end = text.find(BEGIN), text.find(END)
    if start < 0 or end < start:
        raise ValueError(f"the file has no {BEGIN} and {END} to put the table between")
    return f"{text[: start + len(BEGIN)]}\n{table}\n{text[end:]}"
