"""Whole models from every file format, opened as a user opens them, against the reference data."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import pytest
import torch
from conftest import GOLDEN, with_images
from safetensors.torch import load_file

import cpmv

FORMATS = {"int4": "tiny_int4", "awq": "tiny_awq", "gguf": "tiny_gguf/ggml-model-Q4_K_M.gguf"}
CASES = [(name, case) for name in FORMATS for case in json.loads((GOLDEN / f"{name}.json").read_text())["cases"]]


@lru_cache(maxsize=4)
def model_of(path: str, dtype: str = "float32") -> cpmv.Model:
    return cpmv.load(GOLDEN / path, device="cpu", dtype=dtype)


def prepare(model: cpmv.Model, conversation: dict[str, Any], thinking: bool | None = False) -> Any:
    conversation = with_images(conversation)
    return model.processor(
        conversation["msgs"],
        image=conversation.get("image"),
        enable_thinking=thinking,
        max_slice_nums=conversation.get("max_slice_nums"),
        use_image_id=conversation.get("use_image_id"),
        temporal_ids=conversation.get("temporal"),
        system_prompt=conversation.get("system", ""),
    )


@pytest.mark.parametrize(("name", "case"), CASES, ids=lambda v: v if isinstance(v, str) else v["name"])
def test_a_quantised_checkpoint_answers_as_the_reference(name: str, case: dict[str, Any]) -> None:
    model = model_of(FORMATS[name])
    expected = load_file(GOLDEN / f"{name}.safetensors")
    inputs = prepare(model, case["conversation"])
    logits = model.logits(inputs)
    torch.testing.assert_close(logits[-4:], expected[f"{case['name']}.logits_tail"], atol=1e-3, rtol=0)
    if inputs.temporal_ids:
        features = model.network.encode_images(inputs.patches, inputs.tgt_sizes, inputs.temporal_ids)
        rows = expected[f"{case['name']}.vision_first_rows"]
        torch.testing.assert_close(features[: len(rows), :4].detach(), rows, atol=1e-3, rtol=0)
    output = model.generate(inputs, cpmv.SamplingParams(temperature=0.0, max_new_tokens=16))
    assert output.token_ids == case["greedy16"]


@pytest.mark.parametrize("name", ["text", "image_arg", "multi", "few_shot", "video_p3"])
def test_bfloat16_stays_within_the_references_own_distance(name: str) -> None:
    case = next(c for c in json.loads((GOLDEN / "full.json").read_text()) if c.get("key") == f"{name}.fast")
    expected = load_file(GOLDEN / "full_bf16.safetensors")[f"{name}.fast.logits_tail"].float()
    model = model_of("tiny_a", "bfloat16")
    assert model.dtype is torch.bfloat16
    logits = model.logits(prepare(model, case["conversation"]))[-4:]
    torch.testing.assert_close(logits, expected, atol=0.15, rtol=0)
    assert torch.equal(logits.argmax(-1), expected.argmax(-1))


FULL = [c for c in json.loads((GOLDEN / "full.json").read_text()) if c["name"] != "batch"]


@pytest.mark.parametrize("case", FULL, ids=lambda c: f"{c['key']}")
def test_the_whole_model_equals_the_reference(case: dict[str, Any]) -> None:
    expected = load_file(GOLDEN / "full.safetensors")
    model = model_of("tiny_a")
    inputs = prepare(model, case["conversation"], case["enable_thinking"])
    assert len(inputs) == case["n_tokens"] and inputs.image_bounds.tolist() == case["image_bound"]
    logits = model.logits(inputs, compat="reference" if case["mask"] != "real" else None)
    torch.testing.assert_close(logits[-4:], expected[f"{case['key']}.logits_tail"], atol=2e-4, rtol=0)
    means = expected[f"{case['key']}.logits_absmean_per_pos"]
    torch.testing.assert_close(logits.abs().mean(-1), means, atol=2e-4, rtol=0)
    if inputs.temporal_ids:
        features = model.network.encode_images(inputs.patches, inputs.tgt_sizes, inputs.temporal_ids).detach()
        sums = expected[f"{case['key']}.vision_sum"]
        torch.testing.assert_close(features.sum((1, 2)), sums, atol=0.05, rtol=1e-4)
        rows = expected[f"{case['key']}.vision_first_rows"]
        torch.testing.assert_close(features[: len(rows), :4], rows, atol=1e-4, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("case", FULL[:8], ids=lambda c: f"{c['key']}")
def test_the_whole_model_equals_the_reference_on_a_gpu(case: dict[str, Any]) -> None:
    model = cpmv.load(GOLDEN / "tiny_a", device="cuda", dtype="float32")
    inputs = prepare(model, case["conversation"], case["enable_thinking"])
    logits = model.logits(inputs, compat="reference" if case["mask"] != "real" else None).cpu()
    expected = load_file(GOLDEN / "full.safetensors")[f"{case['key']}.logits_tail"]
    torch.testing.assert_close(logits[-4:], expected, atol=1e-3, rtol=0)
