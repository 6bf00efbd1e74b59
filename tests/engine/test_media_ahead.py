"""Groups encoded while their prompt is being prepared are what the request finds, and nothing depends on them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from cpmv.bench.random_model import random_model
from cpmv.engine.ahead import MediaAhead
from cpmv.engine.engine import Engine
from cpmv.engine.sampling import SamplingParams
from cpmv.inputs.messages import Video as VideoPart
from cpmv.inputs.video import Video

PARAMS = SamplingParams(temperature=0, max_new_tokens=6)


@pytest.fixture(scope="module")
def model() -> Any:
    return random_model("tiny", "bf16", device="cpu", dtype="float32")


def clip(count: int = 7) -> Video:
    pixels = torch.randint(256, (count, 40, 60, 3), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    return Video([Image.fromarray(one.numpy()) for one in pixels], fps=3)


def engine_of(model: Any, **options: Any) -> Engine:
    return Engine(model.network, model.tokenizer, max_batch=2, cache_bytes=8 << 20, **options)


def ask(model: Any, engine: Engine, ahead: MediaAhead | None) -> list[int]:
    msgs = [{"role": "user", "content": [VideoPart(clip(), packing=2), "what?"]}]
    inputs = model.processor(msgs, on_group=ahead)
    return engine.wait(engine.add(inputs, PARAMS)).token_ids


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_request_finds_what_was_encoded_ahead(model: Any, deterministic: bool) -> None:
    plain = engine_of(model, deterministic=deterministic)
    want = ask(model, plain, None)
    engine = engine_of(model, deterministic=deterministic)
    assert ask(model, engine, MediaAhead(lambda: engine, slices_at_once=4)) == want
    # Groups of 2, 2, 2 and 1 frames: the first two fill a pass, the others are left to the request.
    assert plain.stats().image_hits == 0
    assert engine.stats().image_hits == 2
    engine.check_integrity()


def test_no_more_is_encoded_than_the_cache_holds(model: Any) -> None:
    c = model.config.resampler
    room = 3 * c.query_num * c.embed_dim * 4 // 2  # one group and a half
    engine = engine_of(model, image_cache_bytes=room)
    assert ask(model, engine, MediaAhead(lambda: engine, slices_at_once=1)) == ask(model, engine_of(model), None)
    assert engine.stats().image_hits == 1


def test_no_engine_is_made_before_there_is_a_picture(model: Any) -> None:
    def never() -> Engine:
        raise AssertionError("asked for")

    model.processor([{"role": "user", "content": ["words"]}], on_group=MediaAhead(never))


def test_a_model_on_a_cpu_prepares_first(model: Any) -> None:
    assert model._ahead() is None
