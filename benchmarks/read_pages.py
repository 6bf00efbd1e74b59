"""How well `cpmv read` reads the twenty drawn pages: character error rate and the F1 of table cells.

    python benchmarks/read_pages.py [MODEL]

Text outside tables is compared as one run, spaces and letter case included (no spaces beside Han characters). A cell is
right when its row, its column and every character are. Needs the fonts that `drawn_pages` names. The last line of
output is JSON.
"""

from __future__ import annotations

import json
import platform
import re
import sys
import time
from collections import Counter

import torch
from drawn_pages import Page, draw_pages

import cpmv
from cpmv.engine.engine import Engine
from cpmv.read.markdown import write_page
from cpmv.read.merge import edit_distance
from cpmv.read.page import PageReader, is_han
from cpmv.read.reader import Reader


def as_run(lines: list[str]) -> str:
    """Lines as one text, without spaces beside Han characters."""
    text = " ".join(" ".join(lines).split())
    return "".join(
        c
        for i, c in enumerate(text)
        if c != " " or not (is_han(text[i - 1]) or is_han(text[min(i + 1, len(text) - 1)]))
    )


def parse(markdown: str) -> tuple[list[str], list[list[list[str]]]]:
    """Text lines and tables of what was written."""
    text: list[str] = []
    tables: list[list[list[str]]] = []
    in_table = False
    for line in markdown.splitlines():
        if line.startswith("|"):
            if not in_table:
                tables.append([])
            if not re.fullmatch(r"\|(?:---\|)+", line):
                tables[-1].append([cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif not line.startswith("<!--"):
            text.append(re.sub(r"^(#+ |- )", "", line))
        in_table = line.startswith("|")
    return text, tables


def cells(tables: list[list[list[str]]]) -> Counter[tuple[int, int, int, str]]:
    return Counter(
        (t, r, c, cell) for t, rows in enumerate(tables) for r, row in enumerate(rows) for c, cell in enumerate(row)
    )


def main() -> None:
    model = cpmv.load(sys.argv[1] if len(sys.argv) > 1 else None)
    engine = Engine(model.network, model.tokenizer, max_batch=32)
    engine.start()
    reader = PageReader(Reader(engine, model.processor), model.config)
    groups: dict[str, Counter[str]] = {}
    begun = time.perf_counter()
    for page in draw_pages():
        start = time.perf_counter()
        markdown = write_page(reader.start(page.picture).finish())
        score(page, markdown, time.perf_counter() - start, groups)
    engine.close()
    total: Counter[str] = sum(groups.values(), Counter())
    result = {name: figures(count) for name, count in {**groups, "all": total}.items()}
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(json.dumps({"result": result, "seconds": round(time.perf_counter() - begun, 1), "machine": machine}))


def score(page: Page, markdown: str, seconds: float, groups: dict[str, Counter[str]]) -> None:
    text, tables = parse(markdown)
    truth, read = as_run(page.text), as_run(text)
    wanted, found = cells(page.tables), cells(tables)
    count = Counter(
        pages=1,
        characters=len(truth),
        wrong=edit_distance(truth, read),
        cells=wanted.total(),
        found=found.total(),
        right=(wanted & found).total(),
    )
    groups.setdefault(f"{page.language}, {page.kind}", Counter()).update(count)
    print(f"{page.name} {page.language:8} {page.kind:14} {figures(count)} {seconds:.1f} s", flush=True)


def figures(count: Counter[str]) -> dict[str, float | int]:
    out: dict[str, float | int] = {"pages": count["pages"], "CER": round(count["wrong"] / count["characters"], 4)}
    if count["cells"]:
        out["cell F1"] = round(2 * count["right"] / max(1, count["cells"] + count["found"]), 4)
    return out


if __name__ == "__main__":
    main()
