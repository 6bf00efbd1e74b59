"""Adapters as files, in PEFT's layout: `adapter_config.json` and `adapter_model.safetensors`, readable here and there.

Parts that were trained whole beside the low-rank ones (PEFT's `modules_to_save`, as the resampler) travel in the same
file. An adapter that asks for arithmetic this code does not have is refused, and no pickle is ever loaded.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import CheckpointError, CpmvError
from .lora import LinearLike, LoRALinear, is_linear, linear_names, lora_layers, replace_module

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
# What an adapter of PEFT's may ask for that changes the arithmetic, and the only value that is understood.
_PLAIN = {
    "use_rslora": False,
    "use_dora": False,
    "use_qalora": False,
    "use_bdlora": None,
    "lora_bias": False,
    "fan_in_fan_out": False,
    "bias": "none",
    "layer_replication": None,
    "trainable_token_indices": None,
    "target_parameters": None,
    "alora_invocation_tokens": None,
    "arrow_config": None,
}
# Starts that leave the base weight as it is in its file; "pissa", "olora" and the like train beside a changed one.
_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")


def save_adapter(
    model: nn.Module, folder: str | Path, *, base_model: str = "", full: tuple[str, ...] = (), dtype: str = "float32"
) -> Path:
    """Write the model's adapter in PEFT's layout; return the folder.

    base_model: name or path of the base checkpoint, written down for whoever loads it. full: modules that were trained
    whole, such as "resampler"; all their parameters go into the file.
    """
    layers = lora_layers(model)
    if not layers:
        raise CpmvError("this model carries no adapter to save; train one, or save the model itself")
    wanted = getattr(torch, dtype)
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = layer.lora_A
        tensors[f"{PREFIX}{name}.lora_B.weight"] = layer.lora_B
    for module in full:
        for name, parameter in model.get_submodule(module).named_parameters():
            if "lora_" not in name:
                tensors[f"{PREFIX}{module}.{name.replace('base_layer.', '')}"] = parameter
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    stored = {name: tensor.detach().to("cpu", wanted).contiguous() for name, tensor in tensors.items()}
    save_file(stored, out / WEIGHTS_FILE, metadata={"format": "pt"})
    config = _peft_config(layers, linear_names(model), base_model, full)
    text = json.dumps(config, indent=2, sort_keys=True)
    (out / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    return out


def _peft_config(
    layers: dict[str, LoRALinear], others: list[str], base_model: str, full: tuple[str, ...]
) -> dict[str, Any]:
    first = next(iter(layers.values()))
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base_model or None,
        "inference_mode": True,
        "r": first.rank,
        "lora_alpha": int(first.alpha) if float(first.alpha).is_integer() else first.alpha,
        "lora_dropout": first.dropout,
        "target_modules": _pattern(list(layers), others),
        "modules_to_save": list(full) or None,
        "init_lora_weights": True,
        "rank_pattern": {name: layer.rank for name, layer in layers.items() if layer.rank != first.rank},
        "alpha_pattern": {name: layer.alpha for name, layer in layers.items() if layer.alpha != first.alpha},
        "revision": None,
        **_PLAIN,
    }


def _pattern(names: list[str], others: list[str]) -> str:
    r"""Return an expression that fits `names` and none of `others`, layer numbers written as \d+ where that is true.

    A list of ends, PEFT's other form, could not tell the language model's q_proj from the vision tower's.
    """
    shapes = sorted({re.sub(r"\\\.\d+\\\.", lambda _: r"\.\d+\.", re.escape(name)) for name in names})
    pattern = "|".join(shapes)
    if any(re.fullmatch(pattern, name) for name in others):
        pattern = "|".join(re.escape(name) for name in names)
    return f"({pattern})"


@dataclass(frozen=True)
class Adapter:
    """An adapter read from its files: the products by module name, and parameters that replace the model's."""

    products: dict[str, tuple[Tensor, Tensor]]
    alphas: dict[str, float]
    full: dict[str, Tensor]
    dropout: float
    base_model: str | None

    @property
    def modules(self) -> tuple[str, ...]:
        return tuple(self.products)


def read_adapter(folder: str | Path) -> Adapter:
    """Read an adapter folder. Raises CheckpointError for files that are missing, damaged, or of another method."""
    path = Path(folder)
    config, tensors = _read_config(path), _read_tensors(path)
    products: dict[str, dict[str, Tensor]] = {}
    full: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        found = re.fullmatch(r"(.+)\.lora_(A|B)(?:\.default)?\.weight", key.removeprefix(PREFIX))
        if found:
            products.setdefault(found[1], {})[found[2]] = tensor
        elif ".lora_" in key or not key.startswith(PREFIX):
            raise CheckpointError(f"{path} holds {key}, which no LoRA of a linear layer has; only such are read")
        else:
            full[key.removeprefix(PREFIX).replace("modules_to_save.default.", "").replace("base_layer.", "")] = tensor
    if not products:
        raise CheckpointError(f"{path} holds no LoRA weights; was the adapter saved before it was trained?")
    pairs, alphas = {}, {}
    for name, pair in products.items():
        if set(pair) != {"A", "B"} or pair["A"].ndim != 2 or pair["A"].shape[0] != pair["B"].shape[-1]:
            raise CheckpointError(f"{path}: lora_A and lora_B of {name} do not fit together; copy the adapter again")
        pairs[name] = (pair["A"], pair["B"])
        alphas[name] = float(_by_pattern(config.get("alpha_pattern") or {}, name, config.get("lora_alpha", 8)))
    dropout = float(config.get("lora_dropout") or 0.0)
    return Adapter(pairs, alphas, full, dropout, config.get("base_model_name_or_path"))


def _by_pattern(patterns: dict[str, Any], name: str, otherwise: Any) -> Any:
    return next((v for k, v in patterns.items() if re.fullmatch(rf"(.*\.)?({k})", name)), otherwise)


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise CheckpointError(f"{path} is no folder; give the folder that holds {CONFIG_FILE}")
    try:
        config = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} has no {CONFIG_FILE}, so it is no adapter; give an adapter's folder") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path / CONFIG_FILE} cannot be read ({error}); copy it again") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else config
        raise CheckpointError(f"{path} is a {kind!r} adapter; only LORA is supported")
    for key, value in _PLAIN.items():
        # PEFT writes a false, null or empty value where a variant is off.
        if config.get(key) not in (value, None, False, [], {}):
            raise CheckpointError(f"{path} has {key} = {config[key]!r}, which is not supported; merge it where it is")
    if config.get("init_lora_weights") not in _STARTS:
        start = config["init_lora_weights"]
        raise CheckpointError(f"{path} began as {start!r}, beside a changed base; convert it to plain LoRA where it is")
    return config


def _read_tensors(path: Path) -> dict[str, Tensor]:
    file = path / WEIGHTS_FILE
    if not file.exists():
        other = (
            " (adapter_model.bin is a pickle, which is never loaded)" if (path / "adapter_model.bin").exists() else ""
        )
        raise CheckpointError(f"{path} has no {WEIGHTS_FILE}{other}; save the adapter as safetensors")
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); copy it again") from error


def load_adapter(model: nn.Module, folder: str | Path | Adapter) -> list[str]:
    """Put an adapter from its files onto a model; return the names of the adapted linears.

    Everything is checked before the model is touched. Raises CheckpointError when it does not fit this model.
    """
    adapter = folder if isinstance(folder, Adapter) else read_adapter(folder)
    if lora_layers(model):
        raise CpmvError("this model carries an adapter already; merge it first, or load the model without it")
    _check_fits(model, adapter)
    for name, (a, b) in adapter.products.items():
        base = model.get_submodule(name)
        layer = LoRALinear(base, a.shape[0], adapter.alphas[name], adapter.dropout)
        layer.requires_grad_(False)
        layer.lora_A.copy_(a)
        layer.lora_B.copy_(b)
        replace_module(model, name, layer.train(model.training))
    for name, tensor in adapter.full.items():
        path, _, leaf = name.rpartition(".")
        owner = model.get_submodule(path)
        old = getattr(owner, leaf)
        setattr(owner, leaf, nn.Parameter(tensor.to(old.device, old.dtype), requires_grad=False))
    return list(adapter.products)


def _check_fits(model: nn.Module, adapter: Adapter) -> None:
    modules = dict(model.named_modules())
    for name, (a, b) in adapter.products.items():
        base = modules.get(name)
        if base is None or not is_linear(base):
            raise CheckpointError(f"the adapter is for {name}, which this model lacks; was it made for another?")
        want = (cast(LinearLike, base).out_features, cast(LinearLike, base).in_features)
        if (b.shape[0], a.shape[1]) != want:
            raise CheckpointError(
                f"the adapter's {name} is for a weight of {[b.shape[0], a.shape[1]]}, but the model's is {list(want)}; "
                "it was trained on another model"
            )
    parameters = dict(model.named_parameters())
    for name, tensor in adapter.full.items():
        found = parameters.get(name)
        if found is None or found.shape != tensor.shape:
            shape = "none" if found is None else list(found.shape)
            raise CheckpointError(f"the adapter brings {name} {list(tensor.shape)}, but the model has {shape}")
