"""The reference answers of full.json, their prompts as the model takes them, and prompts of plain tokens."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from typing import Any

import torch
from conftest import GOLDEN, read_config, with_images

from cpmv.inputs.processor import Processor
from cpmv.inputs.text import Tokenizer
from cpmv.model.config import ModelInputs

CASES: dict[str, dict[str, Any]] = {case["key"]: case for case in json.loads((GOLDEN / "full.json").read_text())}
TOKENIZER = Tokenizer.from_folder(GOLDEN / "tiny_a")
TERMINATORS = TOKENIZER.eos_token_ids


@cache
def prompt(key: str) -> ModelInputs:
    case = CASES[key]
    conversation = with_images(case["conversation"])
    inputs = Processor(read_config("tiny_a"), TOKENIZER)(
        conversation["msgs"],
        image=conversation.get("image"),
        enable_thinking=case["enable_thinking"],
        max_slice_nums=conversation.get("max_slice_nums"),
        use_image_id=conversation.get("use_image_id"),
        temporal_ids=conversation.get("temporal"),
        system_prompt=conversation.get("system", ""),
    )
    assert len(inputs) == case["n_tokens"]
    return inputs


def text_prompt(ids: list[int]) -> ModelInputs:
    """A prompt of these tokens, without pictures."""
    return dataclasses.replace(prompt("text.fast"), input_ids=torch.tensor(ids))


def ending_at(*terminators: int) -> Tokenizer:
    """The tiny tokenizer, with other tokens as terminators."""

    class Ending(Tokenizer):
        eos_token_ids = terminators  # type: ignore[assignment]

    return Ending.from_folder(GOLDEN / "tiny_a")
