"""A checkpoint as a list of tensors: opened and compared with what the model expects, before anything is read.

`checkpoint.load` fills a model from it, `checking` reports on it, and `cpmv info` plans memory with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import CheckpointError
from ..model.config import ModelConfig, from_hf
from ..model.layers import Embedding, Linear
from ..model.minicpmv import MiniCPMV
from .cpu import repacked_bytes
from .gguf_pair import read_pair, read_tokenizer
from .hub import Source
from .names import ignored
from .packed import PackedWeight
from .plan import WeightBytes
from .quantize import collect_packed
from .shards import open_shards, read_json
from .stored import Problem, Stored

if TYPE_CHECKING:
    from ..inputs.text import Tokenizer

FLOATS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
_NAMED = 5  # tensors that an error names before it counts the rest


@dataclass
class Catalogue:
    """A checkpoint's tensors under released names.

    plain: read as they are; packed: stay quantised. format: "bf16", "fp16", "fp32", "nf4", "awq" or "gguf".
    problems: what the files themselves have wrong; `compare` adds what does not suit the model.
    """

    source: Source
    config: ModelConfig
    format: str
    plain: dict[str, Stored]
    packed: dict[str, PackedWeight]
    files: list[Path]
    problems: list[Problem]
    read_tokenizer: Callable[[], Tokenizer]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors as stored."""
        return sum(t.nbytes for t in self.plain.values()) + sum(w.nbytes for w in self.packed.values())

    def in_file_order(self) -> list[tuple[str, Stored | PackedWeight]]:
        """List all weights in the order in which reading their files is sequential."""
        weights: list[tuple[str, Stored | PackedWeight]] = [*self.plain.items(), *self.packed.items()]
        return sorted(weights, key=lambda item: item[1].place)


def open_catalogue(source: Source) -> Catalogue:
    """Read configuration and headers. Raises CheckpointError if the checkpoint cannot even be listed."""
    return _open_pair(source) if source.kind == "gguf" else _open_folder(source)


def _open_folder(source: Source) -> Catalogue:
    folder = source.path
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} has no config.json; point at a complete MiniCPM-V 4.5 checkpoint")
    preprocessor = folder / "preprocessor_config.json"
    config = _read_config(folder, read_json(folder / "config.json"), preprocessor)
    tensors, files, problems = open_shards(folder)
    packed, wrong = collect_packed(tensors, config.quantization)
    stored = _stored_dtype(tensors)
    formats = {w.format for w in packed.values()}
    if stored is not None:
        config = replace(config, torch_dtype=str(stored).removeprefix("torch."))

    generation = folder / "generation_config.json"
    if generation.is_file():
        config = replace(config, greedy=read_json(generation).get("do_sample") is False)

    def tokenizer() -> Tokenizer:
        from ..inputs.text import Tokenizer

        return Tokenizer.from_folder(folder)

    label = "+".join(sorted(formats)) or FLOATS.get(stored or torch.float32, str(stored))
    return Catalogue(source, config, label, tensors, packed, files, problems + wrong, tokenizer)


def _read_config(where: Path, config: dict[str, Any], preprocessor: Path) -> ModelConfig:
    try:
        return from_hf(config, read_json(preprocessor) if preprocessor.is_file() else None)
    except CheckpointError:
        raise
    except (TypeError, ValueError, AttributeError, OverflowError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{where}: config.json has a value of a wrong kind ({error}); download it again"
        ) from error


def _open_pair(source: Source) -> Catalogue:
    assert source.mmproj is not None
    pair = read_pair(source.path, source.mmproj)
    config = from_hf(pair.config, pair.preprocessor)
    files = [source.path, source.mmproj]
    language = pair.language
    stored = None if pair.packed else _stored_dtype(pair.plain)
    if stored is not None:
        config = replace(config, torch_dtype=str(stored).removeprefix("torch."))
    return Catalogue(
        source, config, "gguf", pair.plain, pair.packed, files, pair.problems, lambda: read_tokenizer(language)
    )


def _stored_dtype(tensors: dict[str, Stored]) -> torch.dtype | None:
    """The floating dtype that most bytes of the unquantised tensors have."""
    bytes_of: Counter[torch.dtype] = Counter()
    for tensor in tensors.values():
        if tensor.dtype in FLOATS:
            bytes_of[tensor.dtype] += tensor.nbytes
    return bytes_of.most_common(1)[0][0] if bytes_of else None


def empty_model(config: ModelConfig) -> MiniCPMV:
    """Build the network without storage. Raises CheckpointError for sizes that make no network."""
    sizes = (config.vision.num_hidden_layers, config.language.num_hidden_layers)
    if not all(0 < n <= 4096 for n in sizes):
        raise CheckpointError(
            f"config.json asks for {sizes[1]} decoder and {sizes[0]} vision layers; that is impossible"
        )
    try:
        with torch.device("meta"):
            return MiniCPMV(config)
    except (RuntimeError, ZeroDivisionError, OverflowError, TypeError) as error:
        raise CheckpointError(f"config.json has sizes that make no network ({str(error).splitlines()[0]})") from error


def matrices(model: MiniCPMV) -> dict[str, nn.Module]:
    """The layers that may hold a weight in its stored dtype, or packed: linears and embeddings, by weight name."""
    return {f"{path}.weight": m for path, m in model.named_modules() if isinstance(m, (Linear, Embedding))}


def compare(catalogue: Catalogue, model: MiniCPMV) -> list[Problem]:
    """List everything that is missing, unexpected or misshapen; ignored leftovers are removed from the catalogue."""
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    is_ignored, layers = ignored(catalogue.config), matrices(model)
    for tensors in (catalogue.plain, catalogue.packed):
        for name in [n for n in tensors if n not in expected and is_ignored(n)]:
            del tensors[name]
    damaged = {p.tensor for p in catalogue.problems}
    problems = list(catalogue.problems)
    for name, shape in expected.items():
        stored = catalogue.packed.get(name) or catalogue.plain.get(name)
        if stored is None:
            if name not in damaged:
                problems.append(Problem(name, None, "is missing"))
        elif stored.shape != shape:
            problems.append(Problem(name, None, f"is {list(stored.shape)} but config.json makes it {list(shape)}"))
        elif isinstance(stored, Stored):
            if stored.dtype not in FLOATS:
                problems.append(Problem(name, stored.file, f"has dtype {stored.dtype}, which is no stored weight's"))
        elif not isinstance(layers.get(name), Embedding if stored.embedding else Linear):
            problems.append(Problem(name, None, f"is stored as {stored.format}, which only linear layers can be"))
    for name in (*catalogue.plain, *catalogue.packed):
        if name not in expected and name not in damaged:
            problems.append(Problem(name, None, "is unexpected"))
    return problems


def raise_problems(catalogue: Catalogue, problems: list[Problem]) -> None:
    """Raise one CheckpointError for all problems, naming the first few of each kind."""
    if not problems:
        return
    whole = [p for p in problems if p.tensor is None]
    if whole:
        # With a file unreadable its tensors count as missing; the file is the news.
        more = f" (and {len(whole) - 1} more files)" if len(whole) > 1 else ""
        raise CheckpointError(whole[0].text + more)
    kinds: dict[str, list[str]] = {"missing": [], "unexpected": [], "wrong": []}
    for problem in problems:
        kind = problem.text.removeprefix("is ")
        name = problem.tensor or ""
        kinds[kind if kind in kinds else "wrong"].append(name if kind in kinds else f"{name} {problem.text}")
    parts = []
    for kind, names in kinds.items():
        if names:
            listed = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
            parts.append(f"{len(names)} {'tensor' if len(names) == 1 else 'tensors'} {kind}: {listed}")
    raise CheckpointError(f"{catalogue.source.path} does not fit its config.json; " + "; ".join(parts))


@dataclass(frozen=True)
class Placing:
    """Where weights go and in what dtype they are held.

    Small tensors always take the compute dtype. Matrices do too on a GPU, and on a CPU when `cast_matrices`; else
    they stay in their files and are cast as they are used.
    """

    device: torch.device
    dtype: torch.dtype
    cast_matrices: bool

    def held_dtype(self, stored: Stored, is_matrix: bool) -> torch.dtype:
        stays = is_matrix and self.device.type == "cpu" and not self.cast_matrices
        return stored.dtype if stays and stored.dtype in FLOATS else self.dtype

    def weight_bytes(self, catalogue: Catalogue, model: MiniCPMV) -> WeightBytes:
        """Add up what the weights take in memory and what stays in mapped files."""
        on_cpu, names = self.device.type == "cpu", matrices(model)
        packed = sum(w.nbytes for w in catalogue.packed.values())
        repacked = repacked_bytes(catalogue.packed.values()) if on_cpu else 0
        resident, mapped, cast = (repacked, max(0, packed - repacked), False) if on_cpu else (packed, 0, False)
        for name, stored in catalogue.plain.items():
            held = self.held_dtype(stored, name in names)
            if on_cpu and held == stored.dtype:
                mapped += stored.nbytes
                cast = cast or held != self.dtype
            else:
                resident += torch.Size(stored.shape).numel() * held.itemsize
        return WeightBytes(resident, mapped, unpacked=bool(packed) or cast)
