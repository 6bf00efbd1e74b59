"""Time fine-tuning steps at the released dimensions on random weights: milliseconds, tokens/s, MFU, memory.

    python benchmarks/train_speed.py --format bf16|nf4 [--scale real|tiny] [--rows N] [--recompute] [--no-compile]

LoRA (rank 64) on every linear of the language model. A step is N packed rows of 4,096 tokens; a row has samples of one
448x448 picture (64 tokens) and words, 512 tokens each, a quarter of them learnt. MFU counts the operations of the model
once forward and once back through activations (weights that are frozen have no gradient; recomputation and the adapters
themselves are not counted), over the peak of `metrics.PEAK_TFLOPS`, which is a measured matrix product's. JSON last.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from cpmv.bench.random_model import random_network  # noqa: E402
from cpmv.model.config import ModelInputs  # noqa: E402
from cpmv.model.lora import LoraConfig, apply_lora, lora_parameters  # noqa: E402
from cpmv.model.minicpmv import MiniCPMV  # noqa: E402
from cpmv.train.distributed import World  # noqa: E402
from cpmv.train.metrics import peak_flops, peak_memory_bytes  # noqa: E402
from cpmv.train.optim import Optimizer  # noqa: E402
from cpmv.train.recompute import compile_blocks, recompute_blocks  # noqa: E402
from cpmv.train.step import Step, own_stream  # noqa: E402
from cpmv.train.supervised import FinetuneObjective  # noqa: E402

ROW, SAMPLE = 4096, 512


def sample(model: MiniCPMV, generator: torch.Generator) -> ModelInputs:
    config, side = model.config, 32
    queries = config.resampler.query_num
    ids = torch.randint(config.language.vocab_size, (SAMPLE,), generator=generator)
    labels = ids.masked_fill(torch.arange(SAMPLE) < SAMPLE * 3 // 4, -100)
    size = config.vision.patch_size
    patches = torch.randint(256, (side * side, 3, size, size), generator=generator, dtype=torch.uint8)
    return ModelInputs(
        ids, torch.tensor([[1, 1 + queries]]), patches, torch.tensor([[side, side]]), [[-1]], "", labels=labels
    )


def measure(options: argparse.Namespace) -> dict[str, object]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    own_stream(device)
    model = random_network(options.scale, options.format)
    apply_lora(model, LoraConfig(rank=64, alpha=64.0), 0)
    for parameter in lora_parameters(model):
        parameter.requires_grad_(True)
    if options.compile:
        compile_blocks(model)
    if options.recompute:
        recompute_blocks(model)
    generator = torch.Generator().manual_seed(0)
    samples = [sample(model, generator) for _ in range(options.rows * ROW // SAMPLE)]
    objective = FinetuneObjective(model.train(), lambda step: samples, ROW, len(samples), 0)
    optimizer = Optimizer(objective.named_parameters(), adam_scale=1.0, muon=False)
    optimizer.lr.fill_(1e-4)
    autocast = torch.bfloat16 if device.type == "cuda" else None
    step = Step(objective, optimizer, World(), torch.Generator(device).manual_seed(0), autocast=autocast)
    started, times = time.perf_counter(), []
    for number in range(options.steps):
        begun = time.perf_counter()
        step.run(number, number)
        loss = step.read()["lm"]  # waits for the device
        times.append(time.perf_counter() - begun)
        print(f"step {number}: {times[-1] * 1e3:8.1f} ms  loss {loss:.3f}", file=sys.stderr, flush=True)
        if time.perf_counter() - started > options.seconds:
            break
    took = sorted(times[2:] or times)
    seconds = took[len(took) // 2]
    tokens, peak = options.rows * ROW, peak_flops(device, None)
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "weights": "random",
        "format": options.format,
        "scale": options.scale,
        "rows": options.rows,
        "recompute": options.recompute,
        "compiled": options.compile,
        "ms": round(seconds * 1e3, 1),
        "ms_min_max": [round(took[0] * 1e3, 1), round(took[-1] * 1e3, 1)],
        "first_ms": round(times[0] * 1e3),
        "tokens_per_s": round(tokens / seconds),
        "mfu": round(objective.flops(0) / seconds / peak, 4) if peak else None,
        "memory_gb": round(peak_memory_bytes(device) / 1e9, 2),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", default="bf16", choices=("bf16", "nf4", "awq"))
    parser.add_argument("--scale", default="real", choices=("real", "tiny"))
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0, help="stop after the step that passes this")
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    print(json.dumps(measure(parser.parse_args())))
