"""Score a model on pictures of the independent renderer, through the real processor, greedily.

    python -m cpmv.train.draw.independent SET --seed 11 --per-set 64
    python benchmarks/tiny_model.py SET [--model MODEL] [--control blank|shuffled]

Prints exact match with its Wilson 95% interval and the character error rate for each set; the last line is JSON.
The drawing needs the fonts that `python -m cpmv.train.draw.atlas` lists. `blank` shows grey pictures instead, and
`shuffled` the next sample's: a model that reads cannot score on either.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path

import PIL.Image

import cpmv


def distance(a: str, b: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    p, scale = hits / n, 1 + z * z / n
    middle, half = (p + z * z / (2 * n)) / scale, z / scale * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--control", choices=("blank", "shuffled"))
    parser.add_argument("--batch", type=int, default=32)
    args = parser.parse_args()
    model = cpmv.load(args.model)
    rows = [json.loads(line) for file in sorted(args.folder.glob("*.jsonl")) for line in file.open(encoding="utf-8")]
    by_set: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        by_set[row["set"]].append(row)
    report = {}
    for name, samples in by_set.items():
        hits = errors = letters = 0
        for start in range(0, len(samples), args.batch):
            batch = samples[start : start + args.batch]
            shown = samples[start + 1 : start + 1 + len(batch)] + samples[:1] if args.control == "shuffled" else batch
            inputs = [prepare(model, args, row, other) for row, other in zip(batch, shown, strict=False)]
            outputs = model.generate(inputs, cpmv.SamplingParams(temperature=0.0, max_new_tokens=120))
            for row, output in zip(batch, outputs, strict=True):
                hits += output.text == row["answer"]
                errors += distance(output.text, row["answer"])
                letters += len(row["answer"])
        low, high = wilson(hits, len(samples))
        report[name] = {
            "n": len(samples),
            "exact": hits / len(samples),
            "interval": [low, high],
            "cer": errors / letters,
        }
        exact, cer = hits / len(samples), errors / letters
        print(f"{name:24} n={len(samples):4} exact {exact:6.1%} [{low:.1%}, {high:.1%}]  CER {cer:6.1%}")
    print(json.dumps({"model": args.model or "bundled", "control": args.control, "sets": report}))


def prepare(model: cpmv.Model, args: argparse.Namespace, row: dict, shown: dict) -> object:
    pictures = [PIL.Image.open(args.folder / path).convert("RGB") for path in shown["images"]]
    if args.control == "blank":
        pictures = [PIL.Image.new("RGB", picture.size, (128, 128, 128)) for picture in pictures]
    clip = {"temporal_ids": [shown["temporal_ids"]], "use_image_id": False} if shown["temporal_ids"] else {}
    content = [*pictures, row["prompt"]]
    return model.processor([{"role": "user", "content": content}], max_slice_nums=1, **clip)


if __name__ == "__main__":
    main()
