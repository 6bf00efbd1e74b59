"""What all tests share: the reference data, and the tiny checkpoint of it as a network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file

from cpmv.model.config import ModelConfig, from_hf
from cpmv.model.minicpmv import MiniCPMV

GOLDEN = Path(__file__).parent / "golden"

torch.set_num_threads(1)  # tiny matrices: more threads only wait for each other, above all on a busy machine


def read_config(name: str) -> ModelConfig:
    folder = GOLDEN / name
    return from_hf(*(json.loads((folder / f).read_text()) for f in ("config.json", "preprocessor_config.json")))


def synthetic_image(width: int, height: int, seed: int) -> PIL.Image.Image:
    """The reference data's picture for [w, h, seed] (golden/README.md): integer arithmetic, so exact anywhere."""
    x, y = np.arange(width, dtype=np.int64)[None, :, None], np.arange(height, dtype=np.int64)[:, None, None]
    c = np.arange(3, dtype=np.int64)
    value = (
        x * (3 + 2 * c + seed % 5) + y * (5 + c + seed % 7) + (x * y) // (7 + seed % 11) + 31 * seed + 17 * c
    ) % 512
    return PIL.Image.fromarray(np.where(value < 256, value, 511 - value).astype(np.uint8))


def with_images(conversation: Any) -> Any:
    """Replace every {"image": [w, h, seed]} in reference data, and the `image` argument, by the picture it denotes."""
    if isinstance(conversation, dict):
        if set(conversation) == {"image"}:
            return synthetic_image(*conversation["image"])
        return {k: synthetic_image(*v) if k == "image" else with_images(v) for k, v in conversation.items()}
    return [with_images(item) for item in conversation] if isinstance(conversation, list) else conversation


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    return read_config("tiny_a")


@pytest.fixture(scope="session")
def tiny_network(tiny_config: ModelConfig) -> MiniCPMV:
    """The reference data's bf16 checkpoint in float32, read without the loader under test."""
    with torch.device("meta"):
        network = MiniCPMV(tiny_config)
    tensors = {k: v.float() for f in sorted((GOLDEN / "tiny_a").glob("*.safetensors")) for k, v in load_file(f).items()}
    network.load_state_dict(tensors, assign=True, strict=True)
    return network.eval()


@pytest.fixture(scope="session")
def server() -> Iterator[Any]:
    """One `cpmv serve` of the bundled model for the tests that only ask; those that stop one start their own."""
    from serve_process import ROOT, serving  # beside the tests that use it

    with serving("--allowed-local-media-path", str(ROOT / "examples" / "pictures")) as running:
        yield running
