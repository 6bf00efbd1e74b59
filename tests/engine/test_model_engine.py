"""A model's calls share one engine, whatever thread they come from; what only `generate` can do stays with it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from conftest import synthetic_image
from reference_cases import CASES, TOKENIZER, prompt, text_prompt

from cpmv.api import Model
from cpmv.engine.generate import generate
from cpmv.engine.sampling import SamplingParams
from cpmv.errors import ContextLengthError, MessageError
from cpmv.model.minicpmv import MiniCPMV

GREEDY = SamplingParams(temperature=0, max_new_tokens=32)
KEYS = ["text.fast", "image_arg.fast", "text_zh.fast", "system.fast", "multi.fast"]


@pytest.fixture
def model(tiny_network: MiniCPMV) -> Model:
    return Model(tiny_network, TOKENIZER, tiny_network.config, "bf16")


def test_threads_that_ask_at_once_run_together(model: Model) -> None:
    with ThreadPoolExecutor(len(KEYS)) as pool:
        outputs = list(pool.map(lambda key: model.generate(prompt(key), GREEDY), KEYS))
    assert [output.token_ids for output in outputs] == [CASES[key]["greedy"] for key in KEYS]  # type: ignore[union-attr]
    stats = model.engine.stats()
    assert stats.finished == len(KEYS) and stats.used_blocks == 0
    model.engine.check_integrity()


def test_a_list_is_one_batch_and_the_engine_is_kept(model: Model) -> None:
    outputs = model.generate([prompt(key) for key in KEYS], GREEDY)
    assert isinstance(outputs, list)
    assert [output.token_ids for output in outputs] == [CASES[key]["greedy"] for key in KEYS]
    engine = model.engine
    steps = engine.stats().steps
    assert steps < 2 * 32  # together, not one after the other
    again = model.generate(prompt(KEYS[1]), GREEDY)
    assert model.engine is engine and engine.stats().prefix_hit_tokens > 0
    assert again == outputs[1] and model.generate([], GREEDY) == []


def test_ask_stream_and_chat_give_the_same_words(model: Model) -> None:
    picture = synthetic_image(100, 80, 3)
    msgs = [{"role": "user", "content": [picture, "What is this?"]}]
    asked = model.ask(picture, "What is this?", greedy=True, max_new_tokens=12)
    pieces = list(model.stream(msgs, greedy=True, max_new_tokens=12))
    assert "".join(map(str, pieces)).strip() == asked
    torch.manual_seed(3)
    said: Any = model.chat(msgs=msgs, max_new_tokens=12)
    torch.manual_seed(3)
    streamed: Any = model.chat(msgs=msgs, max_new_tokens=12, stream=True)
    assert "".join(streamed).strip() == said
    torch.manual_seed(3)
    params = SamplingParams.reference(True, max_new_tokens=12)
    plain = generate(model.network, TOKENIZER, model.processor(msgs), params)
    assert plain.raw_text == said


def test_beams_and_the_references_mistakes_stay_with_the_plain_loop(model: Model) -> None:
    beams = SamplingParams(num_beams=2, max_new_tokens=6)
    assert model.generate(prompt("text.fast"), beams) == generate(model.network, TOKENIZER, prompt("text.fast"), beams)
    key = "bang.fast.compat_id0_masked"
    output: Any = model.generate(prompt(key), GREEDY, compat="reference")
    assert output.token_ids == CASES[key]["greedy"]
    with pytest.raises(MessageError, match="num_beams=2 cannot stream"):
        model.stream([{"role": "user", "content": ["x"]}], num_beams=2, temperature=0)
    assert model._engine is None


def test_a_longer_request_gets_a_larger_engine(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpmv.api._ENGINE_TOKENS", 256)
    model.generate(prompt("text.fast"), GREEDY)
    small = model.engine
    assert small.capacity < 600
    longer = text_prompt([5] * 700)
    output: Any = model.generate(longer, GREEDY.replace(max_new_tokens=3))
    assert len(output.token_ids) == 3 and model.engine is not small and model.engine.capacity >= 703
    with pytest.raises(ContextLengthError, match="the context"):
        model.generate(text_prompt([5] * 40_960), GREEDY)


def test_one_prompt_that_cannot_be_cancels_the_others(model: Model) -> None:
    with pytest.raises(ContextLengthError):
        model.generate([prompt("text.fast"), text_prompt([5] * 40_960)], GREEDY)
    stats = model.engine.stats()
    assert stats.running == stats.waiting == stats.used_blocks == 0


def test_moving_a_model_leaves_its_engine_behind(model: Model) -> None:
    model.generate(prompt("text.fast"), GREEDY.replace(max_new_tokens=2))
    engine = model.engine
    assert model.to("cpu").engine is not engine
