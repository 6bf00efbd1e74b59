"""Configuration files are read whole, or refused in one clear line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import GOLDEN

from cpmv.errors import CheckpointError
from cpmv.model.config import from_hf

CONFIG = json.loads((GOLDEN / "tiny_a" / "config.json").read_text())
PREPROCESSOR = json.loads((GOLDEN / "tiny_a" / "preprocessor_config.json").read_text())


def test_every_size_comes_from_the_files() -> None:
    config = from_hf(CONFIG, PREPROCESSOR)
    assert (config.language.hidden_size, config.language.num_hidden_layers, config.language.head_dim) == (256, 3, 64)
    assert (config.vision.hidden_size, config.vision.grid_side, config.vision.batch_size) == (96, 70, 4)
    assert (config.resampler.num_heads, config.resampler.query_num, config.image.max_slice_nums) == (2, 64, 9)


@pytest.mark.parametrize(
    ("change", "layers"), [({"drop_vision_last_layer": True}, 2), ({"drop_vision_last_layer": None}, 3)]
)
def test_the_last_vision_block_is_dropped_when_the_file_says_so(change: dict[str, Any], layers: int) -> None:
    assert from_hf({**CONFIG, **change}, PREPROCESSOR).vision.num_hidden_layers == layers


def test_a_missing_drop_field_means_dropped_as_in_the_released_class() -> None:
    config = {k: v for k, v in CONFIG.items() if k != "drop_vision_last_layer"}
    assert from_hf(config, PREPROCESSOR).vision.num_hidden_layers == 2


def test_slices_default_to_one_when_no_file_speaks_of_them() -> None:
    config = {k: v for k, v in CONFIG.items() if k != "slice_config"}
    assert from_hf(config, {}).image.max_slice_nums == 1
    assert from_hf(CONFIG, {}).image.max_slice_nums == 9


@pytest.mark.parametrize("version", [4.5, "4.5"])
def test_the_version_may_be_a_number_or_a_string(version: Any) -> None:
    assert from_hf({**CONFIG, "version": version}, PREPROCESSOR).version == "4.5"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2.6}, "2.6"),
        ({"version": None}, "None"),
        ({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}, "qwen3"),
        ({"hidden_size": None}, "hidden_size"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"hidden_act": "relu"}, "relu"),
        ({"vision_config": {**CONFIG["vision_config"], "hidden_act": "relu"}}, "relu"),
        ({"vision_config": {**CONFIG["vision_config"], "num_attention_heads": 7}}, "multiple"),
        ({"query_num": 32}, "query_num"),
        ({"vision_config": {**CONFIG["vision_config"], "patch_size": 16}}, "patch_size"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(change: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        from_hf({**CONFIG, **change}, PREPROCESSOR)
