"""A model of your own in ten minutes: draw labelled pictures, check them, train an adapter on a CPU, ask it.

python examples/finetune_lora.py OUT    # dice, whose pips the bundled model cannot count; put in your own pictures
"""

import json
import math
import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

from cpmv.cli.main import main as cpmv

PIPS = {1: "4", 2: "08", 3: "048", 4: "0268", 5: "02468", 6: "023568"}  # places of a 3 x 3 lattice
QUESTION = "How many pips does the die show?"


def draw(number: int, rng: random.Random) -> Image.Image:
    """A die of any colour, size and turn on a plain table."""
    picture = Image.new("RGB", (224, 224), tuple(rng.randrange(150, 256) for _ in range(3)))
    pen, side, turn = ImageDraw.Draw(picture), rng.uniform(80, 150), rng.uniform(-0.6, 0.6)
    left, top = (rng.uniform(side * 0.7, 224 - side * 0.7) for _ in range(2))

    def at(x: float, y: float) -> tuple[float, float]:
        cos, sin = side * math.cos(turn), side * math.sin(turn)
        return left + x * cos - y * sin, top + x * sin + y * cos

    face = tuple(rng.randrange(0, 110) for _ in range(3))
    pen.polygon([at(-0.5, -0.5), at(0.5, -0.5), at(0.5, 0.5), at(-0.5, 0.5)], fill=face)
    for place in map(int, PIPS[number]):
        x, y = at(place % 3 * 0.28 - 0.28, place // 3 * 0.28 - 0.28)
        pen.ellipse((x - side * 0.09, y - side * 0.09, x + side * 0.09, y + side * 0.09), fill="white")
    return picture


def write(folder: Path, name: str, count: int, rng: random.Random) -> str:
    """Draw pictures and write their labels in LLaMA-Factory's layout."""
    rows = []
    for file in (f"{name}-{i:03d}.png" for i in range(count)):
        draw(number := rng.randint(1, 6), rng).save(folder / file)
        turns = [{"role": "user", "content": f"<image>{QUESTION}"}, {"role": "assistant", "content": str(number)}]
        rows.append({"messages": turns, "images": [file]})
    (folder / f"{name}.json").write_text(json.dumps(rows, indent=1))
    return str(folder / f"{name}.json")


if __name__ == "__main__":
    out = Path(sys.argv[1])
    (out / "data").mkdir(parents=True)
    train, test = (
        write(out / "data", "train", 200, random.Random(0)),
        write(out / "data", "test", 100, random.Random(1)),
    )
    assert cpmv(["data", "check", train, test, "--pictures", f"{out}/seen.png"]) == 0
    options = ["--lora", "--targets", "all", "--lr", "1e-3", "--epochs", "8"]
    assert cpmv(["train", "sft", "--data", train, "--eval-data", test, "--out", f"{out}/run", *options]) == 0
    cpmv(["chat", f"{out}/data/test-000.png", "-q", QUESTION, "--greedy", "--adapter", f"{out}/run/adapter"])
