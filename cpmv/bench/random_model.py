"""A model of random weights at the released dimensions, made where it runs, in any format, in a few seconds.

Speed and memory do not depend on what weights say. `random_network` fills an empty network on its device: plain
weights are normal numbers (std 0.02), norms one and biases zero; quantised ones are random codes whose scales give the
same spread. Nothing is read from a file. `benchmarks/random_checkpoint.py` writes files of the same dimensions.
"""

from __future__ import annotations

import json
import logging
import math
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..device import choose
from ..errors import CpmvError, OutOfMemoryError
from ..inputs.text import Tokenizer
from ..model.config import ModelConfig, from_hf
from ..model.layers import Linear
from ..model.minicpmv import MiniCPMV
from ..weights import awq, nf4
from ..weights.awq import AWQLinear
from ..weights.catalogue import empty_model
from ..weights.gguf import TYPES, GGUFTensor, TensorType
from ..weights.gguf_blocks import GGUFEmbedding, GGUFLinear
from ..weights.int8 import Int8Linear
from ..weights.nf4 import NF4Linear
from ..weights.packed import PackedLinear
from ..weights.plan import free_memory, gigabytes

if TYPE_CHECKING:
    from ..api import Model

log = logging.getLogger("cpmv")

STD = 0.02
_BLOCK = 1 << 23  # on a CPU, random numbers that are drawn; everything else repeats them

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
SCALES = {"real": REAL, "tiny": TINY}
FORMATS = ("bf16", "fp16", "fp32", "awq", "nf4", "int8", "q8_0", "q4_0", "q4_k")
_STORED = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def is_quantised(name: str, format: str) -> bool:
    """Whether a checkpoint of this format, as it is released or written here, quantises a linear's weight."""
    module = name.removesuffix(".weight").rpartition(".")[2]
    if format == "nf4":
        return module not in ("out_proj", "kv_proj", "lm_head")
    if format == "awq":
        return name.startswith("llm.model.layers.")
    return format not in _STORED and name.startswith(("llm.model.layers.", "llm.lm_head."))


def random_config(scale: str, format: str) -> ModelConfig:
    """Return the configuration of one of `SCALES` in one of `FORMATS`."""
    if scale not in SCALES:
        raise CpmvError(f"there are no random weights of scale {scale!r}; give {' or '.join(SCALES)}")
    if format not in FORMATS:
        raise CpmvError(f"there are no random weights of format {format!r}; give one of {', '.join(FORMATS)}")
    return from_hf({**COMMON, **SCALES[scale], "torch_dtype": _STORED.get(format, "float16")}, PREPROCESSOR)


def random_model(
    scale: str = "real",
    format: str = "bf16",
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    seed: int = 0,
) -> Model:
    """Return a `Model` of random weights whose answers never end by themselves; arguments as in `random_network`."""
    from ..api import Model

    network = random_network(scale, format, device=device, dtype=dtype, seed=seed)
    # The bundled vocabulary is smaller than the real one; ids beyond it decode to nothing.
    folder = Path(str(files("cpmv") / "bundled"))
    return Model(network, EndlessTokenizer.from_folder(folder), network.config, format)


@torch.inference_mode(False)
def random_network(
    scale: str = "real",
    format: str = "bf16",
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    seed: int = 0,
) -> MiniCPMV:
    """Make a network on its device.

    scale: "real", 8.7B parameters, or "tiny". format: one of `FORMATS`; q4_k has a Q6_K head, q4_0 a Q8_0 one, as such
    files do. device, dtype: None chooses. Raises OutOfMemoryError before anything is made when it would not fit.
    """
    config = random_config(scale, format)
    if scale == "tiny":  # the bundled tokenizer's ids must have rows
        config = from_hf({**config.hf, "vocab_size": 4096}, config.hf_preprocessor)
    network = empty_model(config)
    linears = {f"{path}.weight" for path, m in network.named_modules() if isinstance(m, Linear)}
    place = choose(device, dtype, stored_dtype=config.torch_dtype, stored_bytes=_stored_bytes(network, linears, format))
    _ensure_fits(_stored_bytes(network, linears, format, place.dtype), place.device)
    random = _Random(place.device, seed)
    for name, parameter in list(network.named_parameters()):
        path, _, leaf = name.rpartition(".")
        if name in linears and is_quantised(name, format):
            out_features, in_features = parameter.shape
            layer = _packed_layer(_kind(name, format), out_features, in_features, random)
            layer.bias = network.get_submodule(path)._parameters.get("bias")
            parent, _, child = path.rpartition(".")
            network.get_submodule(parent)._modules[child] = layer
            continue
        value = torch.empty(parameter.shape, dtype=place.dtype, device=place.device)
        if leaf.endswith("bias"):
            value.zero_()
        elif value.ndim == 1:
            value.fill_(1)
        else:
            random.fill(value)
        network.get_submodule(path)._parameters[leaf] = nn.Parameter(value, requires_grad=False)
    return network.eval()


class EndlessTokenizer(Tokenizer):
    """A tokenizer whose answers go on to their full length, whatever comes."""

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return ()

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> EndlessTokenizer:
        """Share everything with a tokenizer but where answers end."""
        endless = cls.__new__(cls)
        endless.__dict__.update(tokenizer.__dict__)
        return endless


class _Random:
    """Random numbers on a device: normal ones and bytes."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self.device = device
        self.generator = torch.Generator(device).manual_seed(seed)
        self._block: Tensor | None = None

    def fill(self, out: Tensor) -> None:
        """Fill a contiguous tensor with normal numbers of the common spread."""
        if self.device.type != "cpu":
            out.normal_(0, STD, generator=self.generator)
            return
        if self._block is None or self._block.dtype != out.dtype:
            self._block = (torch.randn(_BLOCK, generator=self.generator) * STD).to(out.dtype)
        shift = int(torch.randint(_BLOCK, (1,), generator=self.generator))
        block = self._block.roll(shift)
        for part in out.view(-1).split(_BLOCK):
            part.copy_(block[: len(part)])

    def octets(self, *shape: int) -> Tensor:
        """Return uniform uint8."""
        # Drawn as 64-bit words, which is faster than one number a byte.
        words = torch.empty(-(-math.prod(shape) // 8), dtype=torch.int64, device=self.device)
        words.random_(-(1 << 63), None, generator=self.generator)
        return words.view(torch.uint8)[: math.prod(shape)].view(shape)

    def around(self, mean: float, *shape: int) -> Tensor:
        """Return float32 between half of `mean` and one and a half."""
        return torch.rand(shape, generator=self.generator, device=self.device).add_(0.5).mul_(mean)


def _kind(name: str, format: str) -> str:
    head = name.startswith("llm.lm_head.")
    return {"q4_0": "q8_0", "q4_k": "q6_k"}.get(format, format) if head else format


def _packed_layer(kind: str, rows: int, cols: int, random: _Random) -> PackedLinear:
    if kind == "awq":
        return _awq(rows, cols, random)
    if kind == "nf4":
        return _nf4(rows, cols, random)
    if kind == "int8":
        codes = random.octets(rows, cols).view(torch.int8)
        return Int8Linear(codes, random.around(STD / 74, rows), torch.bfloat16)  # uniform bytes spread by 74
    return _gguf(kind.upper(), rows, cols, random)


def _awq(rows: int, cols: int, random: _Random, group: int = 128) -> AWQLinear:
    zeros = torch.full((cols // group, rows), 8, dtype=torch.uint8, device=random.device)
    return AWQLinear({
        "qweight": random.octets(cols, rows // 2).view(torch.int32),
        "qzeros": awq.pack(zeros),
        "scales": random.around(STD / 4.6, cols // group, rows).half(),  # uniform codes spread by 4.6
    })  # fmt: skip


def _nf4(rows: int, cols: int, random: _Random) -> NF4Linear:
    blocks = -(-rows * cols // 64)
    fields = {"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [rows, cols]}
    fields |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": STD / 0.56}  # the book's spread
    raw = json.dumps(fields).encode()
    tensors = {
        "codes": random.octets(-(-rows * cols // 2)),
        "absmax": random.octets(blocks),
        "quant_map": torch.tensor(nf4.CODE_BOOK),
        "nested_absmax": random.around(STD / 4, -(-blocks // 256)),
        "nested_quant_map": nf4.dynamic_map(),
    }
    return NF4Linear(nf4.parse_state(raw), raw, {name: t.to(random.device) for name, t in tensors.items()})


# Of each block type: the offsets of its float16 scales and what they are for weights of the common spread.
_SCALES_AT = {
    "Q8_0": {0: STD / 74},
    "Q4_0": {0: STD / 4.6},
    "Q4_K": {0: STD / 9 / 32, 2: STD / 9 / 32 * 7.5},
    "Q6_K": {208: STD / 18.5 / 74},
}


class _InMemory:
    """Stands for a mapped file: blocks that are there already."""

    def __init__(self, raw: Tensor) -> None:
        self.raw = raw

    def tensor(self, offset: int, nbytes: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        return self.raw


def _gguf(kind: str, rows: int, cols: int, random: _Random, embedding: bool = False) -> GGUFLinear:
    type_: TensorType = next(t for t in TYPES.values() if t.name == kind)
    blocks = random.octets(rows * cols // type_.elements, type_.nbytes)
    for at, value in _SCALES_AT[kind].items():
        scales = random.around(value, len(blocks), 1).half()
        blocks[:, at : at + 2] = scales.view(torch.uint8)
    raw = blocks.view(rows, -1)
    tensor = GGUFTensor("random", type_, (rows, cols), 0, raw.numel(), _InMemory(raw))  # type: ignore[arg-type]
    return (GGUFEmbedding if embedding else GGUFLinear)(tensor, random.device)


_BITS = {"awq": 4.25, "nf4": 4.13, "int8": 8.01, "q8_0": 8.5, "q4_0": 4.5, "q4_k": 4.5, "q6_k": 6.56}


def _stored_bytes(network: MiniCPMV, linears: set[str], format: str, dtype: torch.dtype = torch.float16) -> int:
    """About how much memory the weights will take."""
    total = 0.0
    for name, parameter in network.named_parameters():
        packed = name in linears and is_quantised(name, format)
        total += parameter.numel() * (_BITS[_kind(name, format)] / 8 if packed else dtype.itemsize)
    return int(total)


def _ensure_fits(needed: int, device: torch.device) -> None:
    free = free_memory(device)
    if needed > 0.95 * free:
        raise OutOfMemoryError(
            f"random weights of this scale take {gigabytes(needed)}, but {gigabytes(free)} are free on {device}; "
            "choose a smaller format, or --random tiny"
        )


# Buffers that a step reads whole; the others are tables that stay in cache.
_STREAMED = ("qweight", "qzeros", "scales", "codes", "absmax", "nested_absmax", "raw")


def decoder_bytes(network: MiniCPMV) -> int:
    """Return the bytes of weights, as stored, that a decoding step has to read: all but the embedding table.

    Ask before anything runs: kernels may lay quantised weights out anew.
    """
    total = 0
    tied = network.config.language.tie_word_embeddings
    for name, module in network.llm.named_modules():
        if name == "model.embed_tokens" and not tied:
            continue
        tensors: list[Tensor] = list(module.parameters(recurse=False))
        if isinstance(module, PackedLinear):
            tensors += [b for name, b in module.named_buffers(recurse=False) if name in _STREAMED]
        total += sum(t.numel() * t.itemsize for t in tensors)
    return total
