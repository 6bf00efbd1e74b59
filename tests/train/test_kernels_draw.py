"""The kernels that draw sheets give the pictures of their plain forms; run in a process with Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

_PROGRAM = """
import math
import numpy as np
import torch
from test_draw_samples import synthetic_atlas
from cpmv.train import kernels_draw
from cpmv.train.draw.chance import Chance
from cpmv.train.draw.display import Capacity, Display, Look, SheetPacker
from cpmv.train.draw.document import Mark, Run, Sheet
from cpmv.train.draw.glyphs import DeviceAtlas
from cpmv.train.draw.paper import draw_grain, draw_paper, render_paper, soften

atlas, (height, width), rng = synthetic_atlas(), (37, 70), np.random.default_rng(0)

def mark(kind):
    x, y = np.sort(rng.uniform(-4, width, 2)), np.sort(rng.uniform(-4, height, 2))
    colour = tuple(rng.random(3))
    if kind == 2:
        return Mark(kind, (*rng.uniform(0, 60, 4), rng.uniform(0.8, 5)), colour)
    if kind == 3:
        return Mark(kind, tuple(rng.uniform(0, 60, 6)), colour)
    if kind == 4:
        start, end = np.sort(rng.uniform(0, 2 * math.pi, 2))
        return Mark(kind, (*rng.uniform(10, 40, 2), rng.uniform(5, 25), start, end), colour)
    places = (x[0], y[0], x[1], y[1])
    return Mark(kind, (*places, 1.5) if kind == 5 else places, colour)

sheets = [Sheet(width, height, tuple(rng.random(3)), [mark(int(k)) for k in rng.integers(0, 6, n)]) for n in (0, 3, 7)]
sheets[1].runs = [Run("ab", 4, 20, 13, 0, (0.9, 0.1, 0.2)), Run("a", 40, 34, 30, 0), Run("b", 60, 10, 22, 0)]
capacity = Capacity(4, (4, 3, 2), 8)
packer = SheetPacker(atlas, capacity)
packer.add(sheets)
batch, device = packer.batch(), torch.device("cpu")
chance = Chance(device, torch.Generator().manual_seed(1))
paper = draw_paper(chance, 4)
paper.base = batch.paper
glyphs = DeviceAtlas(atlas, device)
display = Display(glyphs, capacity, height, width)
plain = display.clean(batch, render_paper(paper, height, width))
drawn = kernels_draw.draw_clean(batch, paper, glyphs, capacity, height, width)
apart = (plain - drawn).abs()
assert plain.std() > 0.1 and (batch.glyph_sheet == 1).sum() == 4
# A mark's outline may fall on the other side of a pixel's centre by rounding.
assert (apart > 2e-3).float().mean() < 2e-3, ((apart > 2e-3).float().mean(), apart.max())

strength, grain = torch.tensor([0.0, 0.1, 0.3, 0.2]), draw_grain(chance, 4, height, width)
soft = soften(drawn.flatten(0, 1), strength.repeat_interleave(3)).view_as(drawn)
wanted = (soft + grain.value * grain.tint).clamp(0, 1) * 2 - 1
torch.testing.assert_close(kernels_draw.finish(drawn, strength, grain, torch.float32), wanted, rtol=0, atol=2e-5)
print("equal")
"""

_JOINT = """
import json
from pathlib import Path
import torch
from test_draw_samples import synthetic_atlas
from cpmv.inputs.text import Tokenizer
from cpmv.train import kernels_joint
from cpmv.train.draw import Drawer, Grid
from cpmv.train.draw.tokenizer import write_tokenizer
import tempfile

folder = Path(tempfile.mkdtemp())
golden = Path(r"GOLDEN")
write_tokenizer(folder, json.loads((golden / "tokenizer_config.json").read_text()))
tokenizer = Tokenizer.from_folder(folder)
plain, fused = (Drawer(synthetic_atlas(), tokenizer) for _ in range(2))
for name, kernel in fused.FUSED.items():
    setattr(fused, name, getattr(kernels_joint, kernel))
for kind, grid in (("text", Grid(4, 7)), ("scene", Grid(5, 4)), ("clip", Grid(3, 4))):
    a, b = (d.draw(kind, 3, grid, torch.Generator().manual_seed(2)) for d in (plain, fused))
    assert torch.equal(a.labels, b.labels) and torch.equal(a.dense, b.dense)
    apart = (a.pixels - b.pixels).abs()
    assert a.pixels.std() > 0.05 and a.pixels.dtype == b.pixels.dtype
    # An outline, or the border between two glyphs, may fall on the other side of a pixel's centre by rounding.
    assert (apart > 5e-3).float().mean() < 3e-3, (kind, float((apart > 5e-3).float().mean()), float(apart.max()))
print("equal")
"""


@pytest.mark.parametrize("program", [_PROGRAM, _JOINT], ids=["sheets", "joint"])
def test_kernels_draw_what_the_plain_forms_draw(program: str) -> None:
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    program = program.replace("GOLDEN", str(here.parent / "golden" / "tiny_a"))
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300)
    assert ran.stdout.strip() == "equal", ran.stderr[-3000:]
