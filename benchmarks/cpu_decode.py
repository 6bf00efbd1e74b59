"""Decode, prefill and one picture slice on a CPU, beside llama.cpp on the same file, in turns.

    python benchmarks/cpu_decode.py FOLDER [--layers 36] [--threads 2] [--rounds 3] [--only decode,prefill,slice]
        [--llama-bench PATH/llama-bench] [--llama-mtmd PATH/llama-mtmd-cli]

FOLDER gets a GGUF pair of random weights at the released dimensions (Q4_0 matrices, Q8_0 head, F16 vision) with
`--layers` decoder layers, or is used as it is; both programs read it. On a machine that others use as well, windows
are short and the best of each counts beside the median; reading memory is measured in every round. The last line is
JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import cpmv  # noqa: E402
from cpmv.api import Model  # noqa: E402
from cpmv.bench.random_model import COMMON, PREPROCESSOR, REAL, STD, EndlessTokenizer  # noqa: E402
from cpmv.engine.engine import Engine  # noqa: E402
from cpmv.engine.sampling import SamplingParams  # noqa: E402
from cpmv.inputs.text import Tokenizer  # noqa: E402
from cpmv.model.config import ModelConfig, ModelInputs, from_hf  # noqa: E402
from cpmv.weights import gguf_export  # noqa: E402
from cpmv.weights.catalogue import empty_model  # noqa: E402
from cpmv.weights.gguf_writer import U32, Entry, write_gguf  # noqa: E402

LANGUAGE, VISION = "ggml-model-Q4_0.gguf", "mmproj-model-f16.gguf"
PROMPT = 512
_BLOCK = 1 << 22


def write_pair(folder: Path, layers: int) -> ModelConfig:
    """Write the two files, unless they are there."""
    config = from_hf({**COMMON, **REAL, "num_hidden_layers": layers, "torch_dtype": "float16"}, PREPROCESSOR)
    if (folder / VISION).exists():
        return config
    folder.mkdir(parents=True, exist_ok=True)
    block = (torch.randn(_BLOCK, generator=torch.Generator().manual_seed(0)) * STD).half()

    def values(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if len(shape) == 1:
            return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
        count = torch.Size(shape).numel()
        return block.repeat(-(-count // _BLOCK))[:count].view(shape)

    class Weight:
        def __init__(self, shape: tuple[int, ...]) -> None:
            self.shape = shape

    def read(name: str, weight: Any) -> torch.Tensor:
        return values(name, weight.shape)

    language: list[Entry] = []
    vision: list[Entry] = []
    for name, parameter in empty_model(config).named_parameters():
        weight: Any = Weight(tuple(parameter.shape))
        if name.startswith("llm."):
            language.append(gguf_export._language_entry(name, weight, "Q4_0", read))  # type: ignore[arg-type]
        else:
            vision += gguf_export._vision(name, weight, "F16", read)  # type: ignore[arg-type]
    vision.append(gguf_export._position_table(config))
    tokenizer = Tokenizer.from_folder(ROOT / "tests" / "golden" / "tokenizer_full")
    write_gguf(folder / LANGUAGE, gguf_export._language_metadata(config, tokenizer, "Q4_0"), language)
    # llama.cpp asks for this number unsigned.
    metadata = gguf_export._vision_metadata(config, "F16")
    metadata["clip.minicpmv_query_num"] = U32(config.resampler.query_num)
    write_gguf(folder / VISION, metadata, vision)
    return config


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def words(length: int, seed: int) -> ModelInputs:
    ids = torch.randint(1000, 100_000, (length,), generator=torch.Generator().manual_seed(seed))
    patches = torch.empty(0, 3, 14, 14, dtype=torch.uint8)
    return ModelInputs(ids, torch.empty(0, 2, dtype=torch.int64), patches, torch.empty(0, 2, dtype=torch.int64), [], "")


def own_decode(engine: Engine, num_tokens: int, seed: int) -> float:
    """Tokens a second after a short prompt, greedy, through the engine."""
    request = engine.add(words(8, seed), SamplingParams(temperature=0, max_new_tokens=num_tokens + 1))
    while request.timing.first_token is None:
        engine.step()
    start = time.perf_counter()
    while engine.step():
        pass
    return num_tokens / (time.perf_counter() - start)


def own_prefill(engine: Engine, seed: int) -> float:
    """Prompt tokens a second until the first token."""
    request = engine.add(words(PROMPT, seed), SamplingParams(temperature=0, max_new_tokens=1))
    return PROMPT / seconds(lambda: engine.wait(request))


def own_slice(model: Model) -> float:
    """Seconds for one slice of 448x448 through tower and resampler."""
    patches = torch.randint(0, 256, (1024, 3, 14, 14), dtype=torch.uint8)
    with torch.inference_mode():
        return seconds(lambda: model.network.encode_images(patches, [(32, 32)], [[-1]]))


def llama(program: str, file: Path, threads: int, num_tokens: int, wanted: list[str]) -> dict[str, float]:
    """Tokens a second of prefill and decode by llama-bench."""
    prompt, answer = PROMPT * ("prefill" in wanted), num_tokens * ("decode" in wanted)
    options = ["-t", str(threads), "-p", str(prompt), "-n", str(answer), "-r", "1", "-o", "json"]
    run = subprocess.run([program, "-m", str(file), *options], capture_output=True, text=True, check=True)
    rows = json.loads(run.stdout)
    return {"prefill" if row["n_prompt"] else "decode": float(row["avg_ts"]) for row in rows}


def llama_slice(program: str, folder: Path, threads: int, picture: Path) -> float:
    """Seconds that llama-mtmd-cli says one slice takes to encode."""
    command = [program, "-m", str(folder / LANGUAGE), "--mmproj", str(folder / VISION), "--image", str(picture)]
    command += ["-p", "a", "-n", "1", "-t", str(threads), "--no-warmup"]
    run = subprocess.run(command, capture_output=True, text=True)
    found = re.findall(r"encoding done in (\d+) ms", run.stdout + run.stderr)
    if not found:
        raise SystemExit(f"{program} said nothing of encoding: {(run.stdout + run.stderr)[-500:]}")
    return int(found[0]) / 1000


def read_rate() -> float:
    """GB/s of reading memory, all threads."""
    data = torch.ones(1 << 27)
    data.sum()
    return data.nbytes / min(seconds(data.sum) for _ in range(3)) / 1e9


def picture_of(folder: Path) -> Path:
    from PIL import Image

    path = folder / "picture.png"
    Image.effect_noise((448, 448), 80).convert("RGB").save(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--only", default="decode,prefill,slice")
    parser.add_argument("--llama-bench")
    parser.add_argument("--llama-mtmd")
    options = parser.parse_args()
    wanted = options.only.split(",")
    torch.set_num_threads(options.threads)
    write_pair(options.folder, options.layers)
    model = cpmv.load(str(options.folder / LANGUAGE))
    engine = Engine(model.network, EndlessTokenizer.of(model.tokenizer), max_batch=1)
    print(
        f"{model}, torch {torch.__version__}, {options.threads} threads, {platform.processor()}, load {os.getloadavg()}"
    )
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(round(value, 3))
        print(f"{name}: {value:.3f}", flush=True)

    own_decode(engine, 2, 0)  # weights are repacked at their first use
    for turn in range(options.rounds):
        note("read GB/s", read_rate())
        if "decode" in wanted:
            note("decode tok/s", own_decode(engine, options.tokens, turn))
        if "prefill" in wanted:
            note("prefill tok/s", own_prefill(engine, 100 + turn))
        if "slice" in wanted:
            note("slice s", own_slice(model))
        if options.llama_bench and ("decode" in wanted or "prefill" in wanted):
            file = options.folder / LANGUAGE
            for name, value in llama(options.llama_bench, file, options.threads, options.tokens, wanted).items():
                note(f"llama.cpp {name} tok/s", value)
        if options.llama_mtmd and "slice" in wanted:
            picture = picture_of(options.folder)
            note("llama.cpp slice s", llama_slice(options.llama_mtmd, options.folder, options.threads, picture))
    rows = {
        name: {"best": min(values) if name.endswith(" s") else max(values), "median": statistics.median(values)}
        | {"all": values}
        for name, values in found.items()
    }
    for name, row in rows.items():
        print(f"{name:28} best {row['best']:8.3f}  median {row['median']:8.3f}")
    print(json.dumps({"layers": options.layers, "threads": options.threads, "tokens": options.tokens} | rows))


if __name__ == "__main__":
    main()
