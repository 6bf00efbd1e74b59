"""Make a quantised checkpoint of a 16-bit one: tensor by tensor from mapped files, so a large one needs little memory.

Only the decoder's linears are quantised (and the head, to int8); the vision tower, the resampler, embeddings and norms
stay as they are. `Folds`, when there are any, multiply weights before they are rounded (`awq_search` finds them).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from . import awq, int8, nf4
from .catalogue import Catalogue
from .saving import MAX_SHARD_BYTES, write_folder, write_json
from .shards import Writable, write_shards
from .stored import Stored

Layout = dict[str, tuple[torch.dtype, tuple[int, ...]]]  # of one weight's tensors, by the name after the module's path

_STATE_BYTES = 256  # of NF4's JSON, padded with spaces, so that sizes are known before a weight is read
_LINEAR = re.compile(r"llm\.model\.layers\.\d+\.(?:self_attn\.[qkvo]|mlp\.(?:gate|up|down))_proj\.weight")
_HEAD = "llm.lm_head.weight"
CLIP_STEP = 0.05
_UNTOUCHED = ["vpm", "resampler", "lm_head"]


@dataclass(frozen=True)
class Recipe:
    """How a format is written: which weights, what tensors each becomes, how they are made, what config.json says."""

    takes: Callable[[str, tuple[int, ...]], bool]
    layout: Callable[[tuple[int, ...]], Layout]
    quantize: Callable[[Tensor, Tensor | None], dict[str, Tensor]]  # of a weight and its clip, which awq heeds
    config: dict[str, Any]


@dataclass(frozen=True)
class Folds:
    """What weights are multiplied by before they are rounded; the products of a folded model stay what they were.

    columns: by weight name, a factor for each input; rows: for each output, biases included; norms: by weight name.
    clips: by weight name, uint8 [out, groups], how far extremes are pulled in, in steps of CLIP_STEP.
    """

    columns: Mapping[str, Tensor] = field(default_factory=dict)
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    norms: Mapping[str, Tensor] = field(default_factory=dict)
    clips: Mapping[str, Tensor] = field(default_factory=dict)

    def clip(self, name: str, device: torch.device) -> Tensor | None:
        """Return what the extremes of a weight's groups are multiplied by, float32 [out, groups], if anything."""
        steps = self.clips.get(name)
        return None if steps is None else 1 - CLIP_STEP * steps.to(device).float()

    def apply(self, name: str, value: Tensor) -> Tensor:
        """Return a tensor of the checkpoint, float32 where it was folded."""
        factor = self.norms.get(name)
        if factor is not None:
            return value.float() * factor.to(value.device)
        weight = f"{name.removesuffix('.bias')}.weight" if name.endswith(".bias") else name
        rows, columns = self.rows.get(weight), self.columns.get(name)
        if rows is not None:
            value = value.float() * (rows if value.ndim == 1 else rows[:, None]).to(value.device)
        return value if columns is None else value.float() * columns.to(value.device)


def recipe(format: str, catalogue: Catalogue, group_size: int = 128) -> Recipe:
    """Return how to write "nf4", "awq" or "int8" of a checkpoint. Raises CheckpointError for one that cannot be."""
    if format == "nf4":
        return _nf4_recipe(catalogue)
    if format == "int8":
        dtype = catalogue.config.torch_dtype
        config = {"quant_method": int8.METHOD, "bits": 8, "dtype": dtype, "modules_to_not_convert": _UNTOUCHED[:2]}
        return Recipe(
            lambda name, shape: bool(_LINEAR.fullmatch(name)) or name == _HEAD,
            lambda shape: {"weight": (torch.int8, shape), "weight_scale": (torch.float32, shape[:1])},
            lambda weight, clip: int8.quantize(weight),
            config,
        )
    if format == "awq":
        return _awq_recipe(catalogue, group_size)
    raise CheckpointError(f"format {format!r} is unknown; use nf4, awq or int8")


def _nf4_recipe(catalogue: Catalogue) -> Recipe:
    def layout(shape: tuple[int, ...]) -> Layout:
        count = math.prod(shape)
        blocks = -(-count // 64)
        return {
            "weight": (torch.uint8, (-(-count // 2), 1)),
            "weight.absmax": (torch.uint8, (blocks,)),
            "weight.quant_map": (torch.float32, (16,)),
            "weight.nested_absmax": (torch.float32, (-(-blocks // 256),)),
            "weight.nested_quant_map": (torch.float32, (256,)),
            "weight.quant_state.bitsandbytes__nf4": (torch.uint8, (_STATE_BYTES,)),
        }

    config = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_compute_dtype": catalogue.config.torch_dtype,
        "llm_int8_skip_modules": _UNTOUCHED,
        "llm_int8_threshold": 6.0,
        "llm_int8_has_fp16_weight": False,
        "llm_int8_enable_fp32_cpu_offload": False,
    }
    stored = getattr(torch, catalogue.config.torch_dtype)

    def quantize(weight: Tensor, clip: Tensor | None) -> dict[str, Tensor]:
        # The state names the dtype that dequantised values have: the checkpoint's, also after a fold in float32.
        out = nf4.quantize(weight, dtype=stored)
        state = out["weight.quant_state.bitsandbytes__nf4"]
        padding = torch.full((_STATE_BYTES - len(state),), ord(" "), dtype=torch.uint8)
        out["weight.quant_state.bitsandbytes__nf4"] = torch.cat((state, padding))
        return out

    return Recipe(lambda name, shape: bool(_LINEAR.fullmatch(name)), layout, quantize, config)


def _awq_recipe(catalogue: Catalogue, group_size: int) -> Recipe:
    for name, stored in catalogue.plain.items():
        if _LINEAR.fullmatch(name) and (stored.shape[1] % group_size or stored.shape[0] % 8):
            raise CheckpointError(
                f"{name} is {list(stored.shape)}, which cannot be AWQ with groups of {group_size} inputs; "
                "choose a group size that divides its inputs, or another format"
            )

    def layout(shape: tuple[int, ...]) -> Layout:
        outputs, inputs = shape
        return {
            "qweight": (torch.int32, (inputs, outputs // 8)),
            "qzeros": (torch.int32, (inputs // group_size, outputs // 8)),
            "scales": (torch.float16, (inputs // group_size, outputs)),
        }

    config = {
        "quant_method": "awq",
        "version": "gemm",
        "bits": 4,
        "group_size": group_size,
        "zero_point": True,
        "modules_to_not_convert": _UNTOUCHED[:2],
    }

    def quantize(weight: Tensor, clip: Tensor | None) -> dict[str, Tensor]:
        return awq.quantize(weight, group_size, clip)

    return Recipe(lambda name, shape: bool(_LINEAR.fullmatch(name)), layout, quantize, config)


class _LastWeight:
    """The tensors of the weight that was quantised last. A file holds the parts of a weight by dtype, some apart from
    the others; those are made again rather than kept, so that memory holds one weight.
    """

    def __init__(self) -> None:
        self._name, self._parts = "", dict[str, Tensor]()

    def part(self, name: str, part: str, make: Callable[[], dict[str, Tensor]]) -> Tensor:
        if self._name != name:
            self._parts = {}
            self._name, self._parts = name, make()
        return self._parts[part]


def writables(
    catalogue: Catalogue,
    how: Recipe,
    folds: Folds,
    progress: Callable[[int, int], None] | None = None,
    device: torch.device | None = None,
) -> list[Writable]:
    """List the tensors of the quantised checkpoint, each made when its turn to be written comes.

    device: where weights are rounded; a GPU is much faster. progress: called with bytes read of the source, and all.
    """
    last, out = _LastWeight(), []
    total, done = catalogue.nbytes, set[str]()
    place = device or torch.device("cpu")

    def note(name: str) -> None:
        done.add(name)
        if progress is not None:
            progress(sum(catalogue.plain[one].nbytes for one in done), total)

    def read(name: str, stored: Stored) -> Tensor:
        return folds.apply(name, stored.read())

    for name, stored in catalogue.in_file_order():
        assert isinstance(stored, Stored)
        if how.takes(name, stored.shape):
            module = name.removesuffix(".weight")

            def make(name: str = name, stored: Stored = stored) -> dict[str, Tensor]:
                folded = folds.apply(name, stored.read().to(place))
                note(name)
                return {part: value.cpu() for part, value in how.quantize(folded, folds.clip(name, place)).items()}

            for part, (dtype, shape) in how.layout(stored.shape).items():

                def one(name: str = name, part: str = part, make: Callable[[], dict[str, Tensor]] = make) -> Tensor:
                    return last.part(name, part, make)

                out.append(Writable(f"{module}.{part}", dtype, shape, one))
        else:

            def whole(name: str = name, stored: Stored = stored) -> Tensor:
                note(name)
                return read(name, stored).to(stored.dtype)

            out.append(Writable(name, stored.dtype, stored.shape, whole))
    return out


def check_source(catalogue: Catalogue) -> None:
    """Refuse what cannot be quantised. Raises CheckpointError."""
    if catalogue.packed or catalogue.source.kind == "gguf":
        raise CheckpointError(
            f"{catalogue.source.path} is {catalogue.format}, quantised already or GGUF; quantise the 16-bit "
            "checkpoint, which rounds once"
        )


def write_quantized(
    catalogue: Catalogue,
    folder: str | Path,
    how: Recipe,
    folds: Folds | None = None,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    device: torch.device | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Write the quantised checkpoint into a folder, which appears when it is complete. Raises CheckpointError."""
    check_source(catalogue)
    config = {**catalogue.config.hf, "quantization_config": how.config, "torch_dtype": catalogue.config.torch_dtype}
    config.pop("dtype", None)

    def write(temporary: Path) -> None:
        write_json(temporary, config, catalogue.config.hf_preprocessor, _generation(catalogue))
        catalogue.read_tokenizer().save(temporary)
        write_shards(temporary, writables(catalogue, how, folds or Folds(), progress, device), max_shard_bytes)

    return write_folder(folder, write, overwrite=overwrite)


def _generation(catalogue: Catalogue) -> dict[str, Any] | None:
    path = catalogue.source.path / "generation_config.json"
    if not path.is_file():
        return None
    value = json.loads(path.read_text(encoding="utf-8"))
    return value if isinstance(value, dict) else None
