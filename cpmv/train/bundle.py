"""Turn a training run's export into a checkpoint folder small enough to ship: the released layout, int4 as released.

    python -m cpmv.train.bundle RUN/final RUN/run.json TOKENIZER OUT

The decoder's linears are NF4, in the released int4 layout; everything else is float16 (the released file quantises the
tower as well; on 24 samples that read 46 % of paragraphs exactly instead of 58 %). Training heads are left out.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ..inputs.text import Tokenizer
from ..weights.nf4 import quantize
from .state import read_export

_QUANTISED = re.compile(r"llm\.model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)\.weight")
_QUANTIZATION = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "load_in_8bit": False,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_quant_storage": "uint8",
    "bnb_4bit_compute_dtype": "float16",
    "llm_int8_skip_modules": ["vpm", "resampler", "lm_head"],
}
# A model this small answers best with its likeliest tokens.
_GENERATION: dict[str, Any] = {"generation_config.json": {"do_sample": False}}


def bundle(weights: Path, run: Path, tokenizer: Path, out: Path) -> Path:
    """Write the checkpoint folder; return it. Raises CheckpointError when the export is incomplete."""
    _, tensors = read_export(weights)
    settings = json.loads(run.read_text(encoding="utf-8"))
    out.mkdir(parents=True, exist_ok=True)
    stored: dict[str, Tensor] = {}
    for name, tensor in sorted(tensors.items()):
        if not name.startswith("heads."):
            stored |= _stored(name, tensor.half())
    save_file(stored, out / "model.safetensors", metadata={"format": "pt"})
    config = {**settings["model"], "torch_dtype": "float16", "quantization_config": _QUANTIZATION}
    files = {"config.json": config, "preprocessor_config.json": settings["preprocessor"], **_GENERATION}
    for name, value in files.items():
        (out / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, out / name)
    Tokenizer.from_folder(out)  # a folder that does not load must not be shipped
    return out


def _stored(name: str, tensor: Tensor) -> dict[str, Tensor]:
    if not _QUANTISED.fullmatch(name):
        return {name: tensor}
    return {name.removesuffix("weight") + key: value.contiguous() for key, value in quantize(tensor).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    for name in ("weights", "run", "tokenizer", "out"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    out = bundle(args.weights, args.run, args.tokenizer, args.out)
    print(f"{out}: {sum(f.stat().st_size for f in out.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
