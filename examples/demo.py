"""What the bundled model does with the pictures of this folder: `make demo`.

21M parameters, trained from scratch on pictures that this repository draws (docs/tiny-model.md); greedy answers.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from PIL import Image

import cpmv

PICTURES = Path(__file__).parent / "pictures"
DATES = [("package1", "2023.08.04"), ("package2", "2007.04.24")]  # examples with their answers
WHEN, SUM = "What is the production date?", "What is 37 + 48 + 25?"


def user(question: str, *names: str) -> dict[str, Any]:
    return {"role": "user", "content": [*(Image.open(PICTURES / f"{name}.png") for name in names), question]}


def main() -> int:
    model = cpmv.load()
    print(f"The pictures are in {PICTURES}")
    slowest = 0.0

    def tell(title: str, seen: str, msgs: list[Any], **options: Any) -> None:
        nonlocal slowest
        started = time.perf_counter()
        pieces = list(model.stream(msgs, greedy=True, max_new_tokens=120, **options))
        slowest = max(slowest, time.perf_counter() - started)
        said = {kind: "".join(p.text for p in pieces if p.kind == kind).strip() for kind in ("thinking", "answer")}
        print(f"\n{title}\n  {seen}  {msgs[-1]['content'][-1]}")
        for line in said["thinking"].splitlines():
            print(f"    (thinks) {line}")
        print("\n".join(f"    {line}" for line in said["answer"].splitlines()), flush=True)

    tell("It reads a label", "label.png", [user("Read the text.", "label")])
    tell("and finds the total of a receipt", "receipt.png", [user("What is the total?", "receipt")])
    tell("It answers about a chart", "chart.png", [user("What is the value of Thu?", "chart")])
    tell("and about shapes, in Chinese too", "shapes.png", [user("三角形是什么颜色？", "shapes")])
    tell("It compares two pictures", "shapes.png changed.png", [user("What changed?", "shapes", "changed")])
    shown = [m for n, a in DATES for m in (user(WHEN, n), {"role": "assistant", "content": a})]
    tell("Two examples say how a date is wanted", "package1, 2 -> package3.png", [*shown, user(WHEN, "package3")])
    clip = cpmv.Video(PICTURES / "moving.gif", packing=6)  # six frames in 16 tokens
    moving = {"role": "user", "content": [clip, "Which way does the blue circle move?"]}
    tell("It sees which way things move", "moving.gif", [moving])
    tell("A sum in fast mode", "", [user(SUM)])
    tell("and in deep mode", "", [user(SUM)], enable_thinking=True)
    print(f"\nThe slowest answer took {slowest:.1f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
