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

from cpmv.inputs.text import Tokenizer  # noqa: E402
from cpmv.model.config import from_hf  # noqa: E402
from cpmv.model.layers import Linear  # noqa: E402
from cpmv.weights import awq, nf4  # noqa: E402
from cpmv.weights.catalogue import empty_model  # noqa: E402
from cpmv.weights.shards import Writable, write_shards  # noqa: E402

GOLDEN = ROOT / "tests" / "golden"
STD = 0.02
BLOCK = 1 << 23  # random numbers that are drawn; everything else repeats them
SHARD_BYTES = 5_000_000_000

REAL: dict[str, Any] = {
    "vocab_size": 151748,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "vision_config": {
        "hidden_size": 1152,
        "image_size": 980,
        "intermediate_size": 4304,
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
        "model_type": "siglip",
    },
}
TINY: dict[str, Any] = {
    "vocab_size": 1105,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "bos_token_id": 1000,
    "eos_token_id": 1002,
    "vision_config": {**REAL["vision_config"], "hidden_size": 96, "image_size": 140, "intermediate_size": 200}
    | {"num_attention_heads": 6, "num_hidden_layers": 3},
}
COMMON: dict[str, Any] = {
    "architectures": ["MiniCPMV"],
    "model_type": "minicpmv",
    "version": 4.5,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "rope_scaling": None,
    "max_position_embeddings": 40960,
    "attention_bias": False,
    "use_sliding_window": False,
    "tie_word_embeddings": False,
    "query_num": 64,
    "image_size": 448,
    "patch_size": 14,
    "slice_mode": True,
    "slice_config": {"max_slice_nums": 9, "patch_size": 14, "scale_resolution": 448, "model_type": "minicpmv"},
    "use_image_id": True,
    "vision_batch_size": 16,
    "drop_vision_last_layer": False,
    "batch_3d_resampler": True,
}
PREPROCESSOR: dict[str, Any] = {
    "image_processor_type": "MiniCPMVImageProcessor",
    "processor_class": "MiniCPMVProcessor",
    "max_slice_nums": 9,
    "scale_resolution": 448,
    "patch_size": 14,
    "use_image_id": True,
    "image_feature_size": 64,
    "slice_mode": True,
    "norm_mean": [0.5] * 3,
    "norm_std": [0.5] * 3,
    "version": 4.5,
}
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


def is_quantised(name: str, format_: str) -> bool:
    """Whether the released checkpoint of this format quantises a linear's weight."""
    module = name.removesuffix(".weight").rpartition(".")[2]
    if format_ == "int4":
        return module not in ("out_proj", "kv_proj", "lm_head")
    return format_ == "awq" and name.startswith("llm.model.layers.")


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
        if name in linears and is_quantised(name, format_):
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
