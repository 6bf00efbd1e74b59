"""Write a checkpoint of random weights in the released layout, for measuring memory, loading and speed.

    python benchmarks/random_checkpoint.py OUT --format bf16|int4|awq [--scale real|tiny]

`real` has the dimensions of the released 8.7B model, and 17.4 GB as bf16; `tiny` those of the reference data. The
weights say nothing: one block of normal numbers (std 0.02) is repeated at another offset for every tensor, norms are
one and biases zero, and one quantised matrix of each shape is rotated for every layer. That makes a file in about the
time the disk takes, with one tensor in memory at a time. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from cpmv.bench.random_model import COMMON, PREPROCESSOR, REAL, STD, TINY, is_quantised  # noqa: E402
from cpmv.inputs.text import Tokenizer  # noqa: E402
from cpmv.model.config import from_hf  # noqa: E402
from cpmv.model.layers import Linear  # noqa: E402
from cpmv.weights import awq, nf4  # noqa: E402
from cpmv.weights.catalogue import empty_model  # noqa: E402
from cpmv.weights.shards import Writable, write_shards  # noqa: E402

GOLDEN = ROOT / "tests" / "golden"
BLOCK = 1 << 23  # random numbers that are drawn; everything else repeats them
SHARD_BYTES = 5_000_000_000

QUANTIZATION: dict[str, dict[str, Any] | None] = {
    "bf16": None,
    "int4": {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_compute_dtype": "float16",
        "llm_int8_skip_modules": ["out_proj", "kv_proj", "lm_head"],
    },
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
    | {"modules_to_not_convert": None},
}


class Random:
    """Tensors cut from one block of normal numbers, each beginning somewhere else."""

    def __init__(self, dtype: torch.dtype, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.block = (torch.randn(BLOCK, generator=generator) * STD).to(dtype)
        self.at = 0

    def values(self, shape: tuple[int, ...]) -> Tensor:
        out = torch.empty(shape, dtype=self.block.dtype)
        flat, done = out.view(-1), 0
        while done < flat.numel():
            count = min(flat.numel() - done, BLOCK - self.at)
            flat[done : done + count] = self.block[self.at : self.at + count]
            done += count
            self.at = (self.at + count) % BLOCK
        self.at = (self.at + 7919) % BLOCK
        return out


def plain(name: str, shape: tuple[int, ...], random: Random) -> Writable:
    dtype = random.block.dtype
    if name.endswith("bias"):
        return Writable(name, dtype, shape, lambda: torch.zeros(shape, dtype=dtype))
    if len(shape) == 1:  # norms
        return Writable(name, dtype, shape, lambda: torch.ones(shape, dtype=dtype))
    return Writable(name, dtype, shape, lambda: random.values(shape))


def quantised(name: str, parts: dict[str, Tensor], turn: int) -> list[Writable]:
    """The tensors of one layer: those of its shape, codes and scales rotated by `turn` places."""
    module = name.removesuffix(".weight")
    rotated = ("weight", "weight.absmax", "qweight", "scales")

    def make(part: str) -> Callable[[], Tensor]:
        return lambda: parts[part].roll(turn, 0) if part in rotated else parts[part]

    return [Writable(f"{module}.{part}", t.dtype, tuple(t.shape), make(part)) for part, t in parts.items()]


def tensors(config: dict[str, Any], format_: str, seed: int) -> list[Writable]:
    model = empty_model(from_hf(config, PREPROCESSOR))
    linears = {f"{path}.weight" for path, m in model.named_modules() if isinstance(m, Linear)}
    random = Random(torch.bfloat16 if format_ == "bf16" else torch.float16, seed)

    @cache
    def example(shape: tuple[int, ...]) -> dict[str, Tensor]:
        weight = random.values(shape)
        return nf4.quantize(weight) if format_ == "int4" else awq.quantize(weight)

    out: list[Writable] = []
    for turn, (name, parameter) in enumerate(model.named_parameters()):
        shape = tuple(parameter.shape)
        if name in linears and is_quantised(name, "nf4" if format_ == "int4" else format_):
            out += quantised(name, example(shape), turn)
        else:
            out.append(plain(name, shape, random))
    return out


def write(out: Path, format_: str, scale: str, seed: int) -> list[Path]:
    if out.exists() and any(out.iterdir()):
        raise SystemExit(f"{out} is not empty; choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    config = {**COMMON, **(REAL if scale == "real" else TINY)}
    config["torch_dtype"] = "bfloat16" if format_ == "bf16" else "float16"
    if QUANTIZATION[format_] is not None:
        config["quantization_config"] = QUANTIZATION[format_]
    for name, content in (("config.json", config), ("preprocessor_config.json", PREPROCESSOR)):
        (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    Tokenizer.from_folder(GOLDEN / ("tokenizer_full" if scale == "real" else "tiny_a")).save(out)
    return write_shards(out, tensors(config, format_, seed), SHARD_BYTES)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a checkpoint of random weights in the released layout.")
    parser.add_argument("out", type=Path, help="an empty or new folder")
    parser.add_argument("--format", choices=list(QUANTIZATION), default="bf16")
    parser.add_argument("--scale", choices=["real", "tiny"], default="real")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    start = time.perf_counter()
    files = write(args.out, args.format, args.scale, args.seed)
    seconds = time.perf_counter() - start
    size = sum(f.stat().st_size for f in files)
    print(f"{args.out}: random weights, {args.format}, {size / 1e9:.2f} GB in {seconds:.1f} s; its answers are noise")
    result = {"format": args.format, "scale": args.scale, "bytes": size, "files": len(files), "seconds": seconds}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
