"""How many wrongly read lines `cpmv read --check` marks, on PDFs whose text is known, read at several resolutions.

    python benchmarks/read_check.py [MODEL]

Coarse pages are read badly on purpose. A line is wrong when its letters differ from what was written, spaces aside.
Each page is checked twice: with the lines' places, and without them, as Markdown of a whole page is. The last line of
output is JSON.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from drawn_pages import SENTENCES

import cpmv
from cpmv.engine.engine import Engine
from cpmv.inputs.pdf import iter_pages
from cpmv.inputs.pdf_text import read_text_layer
from cpmv.read.check import check_page, comparable
from cpmv.read.page import PageReader, ReadBlock, ReadLine
from cpmv.read.reader import Reader

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "read"))
from paper import write_pdf

LINES_A_PAGE = 24
NUM_PAGES = 4
DPIS = (50, 60, 72, 100)


def pages(rng: random.Random) -> list[list[tuple[int, int, int, str]]]:
    pool = [text.strip() for text in SENTENCES if 20 < len(text.strip()) < 60]
    made = []
    for _ in range(NUM_PAGES):
        texts = [f"{text.rstrip('.')} {rng.randint(10, 9999)}." for text in rng.choices(pool, k=LINES_A_PAGE)]
        made.append([(60, 60 + 31 * i, 12, text) for i, text in enumerate(texts)])
    return made


def main() -> None:
    model = cpmv.load(sys.argv[1] if len(sys.argv) > 1 else None)
    engine = Engine(model.network, model.tokenizer, max_batch=32)
    engine.start()
    reader = PageReader(Reader(engine, model.processor), model.config)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        written = pages(random.Random(11))
        path = write_pdf(Path(folder) / "pages.pdf", written)
        for dpi in DPIS:
            for number, picture in enumerate(iter_pages(path, dpi=dpi), 1):
                blocks = reader.start(picture).finish()
                lines = [line for block in blocks for line in block.all_lines()]
                truth = [text for _, _, _, text in written[number - 1]]
                if len(lines) != len(truth):
                    raise RuntimeError(f"{len(lines)} lines were found where {len(truth)} are; the layout is wrong")
                layer = read_text_layer(path, number, dpi)
                placeless = [ReadBlock("markdown", [ReadLine(line.text) for line in lines])]
                check_page(blocks, layer)
                check_page(placeless, layer)
                for read, bare, text in zip(lines, placeless[0].lines, truth, strict=True):
                    wrong = comparable(read.text) != comparable(text)
                    counts["wrong" if wrong else "right"] += 1
                    counts[f"{'wrong' if wrong else 'right'}, marked in place"] += read.doubt is not None
                    counts[f"{'wrong' if wrong else 'right'}, marked anywhere"] += bare.doubt is not None
    engine.close()
    print(json.dumps(dict(counts)))


if __name__ == "__main__":
    main()
