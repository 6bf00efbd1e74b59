"""What the engine's tests share: engines that must be whole after use, requests, and answers to compare with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from reference_cases import CASES, TOKENIZER, prompt

from cpmv.engine.engine import Engine
from cpmv.engine.generate import generate
from cpmv.engine.output import Output
from cpmv.engine.sampling import SamplingParams
from cpmv.model.config import ModelInputs
from cpmv.model.minicpmv import MiniCPMV

MARGIN = 2e-3  # answers whose likeliest tokens lie closer may differ by rounding
GREEDY = SamplingParams(temperature=0, max_new_tokens=32)
DRAWN = SamplingParams(temperature=0.9, top_p=0.9, top_k=40, seed=11, max_new_tokens=16)
SINGLE = [key for key in CASES if key != "batch" and CASES[key]["mask"] != "compat_id0_masked"]


@contextmanager
def engine_for(network: MiniCPMV, **options: Any) -> Iterator[Engine]:
    """An engine that must be whole after use, with every block free."""
    engine = Engine(network, options.pop("tokenizer", TOKENIZER), **{"block_size": 8, **options})
    yield engine
    engine.check_integrity()
    engine.close()
    engine.check_integrity()
    assert engine.stats().used_blocks == engine.stats().running == engine.stats().waiting == 0


def cache_of(network: MiniCPMV, tokens: int) -> int:
    """Bytes of a cache for so many tokens."""
    return network.cache_spec().bytes_per_token * tokens


def answers(engine: Engine, prompts: Sequence[ModelInputs], params: Sequence[SamplingParams]) -> list[Output]:
    requests = [engine.add(one, options) for one, options in zip(prompts, params, strict=True)]
    return [engine.wait(request) for request in requests]


_ALONE: dict[tuple[str, SamplingParams], Output] = {}


def alone(network: MiniCPMV, key: str, params: SamplingParams) -> Output:
    """What `generate` answers, computed once."""
    found = _ALONE.get((key, params))
    if found is None:
        _ALONE[key, params] = found = generate(network, TOKENIZER, prompt(key), params)
    return found


def assert_same(found: Output, expected: Output) -> None:
    assert dataclasses.replace(found, logprobs=None) == dataclasses.replace(expected, logprobs=None)
    assert (found.logprobs is None) == (expected.logprobs is None)
    for one, other in zip(found.logprobs or [], expected.logprobs or [], strict=True):
        assert one.token_id == other.token_id and one.logprob == pytest.approx(other.logprob, abs=1e-3)
        assert [token for token, _ in one.top] == [token for token, _ in other.top]


MIXED = {
    "video_p3.fast": GREEDY,
    "text.fast": DRAWN,
    "video_and_image.fast": GREEDY.replace(max_new_tokens=3, logprobs=2),
    "few_shot.fast": DRAWN.replace(seed=12, repetition_penalty=1.3, logprobs=0),
    "system.fast": GREEDY.replace(repetition_penalty=1.3, max_new_tokens=24),
    "video_p6_id.fast": DRAWN.replace(min_p=0.05, top_k=0),
    "text_zh.fast": GREEDY.replace(min_new_tokens=30, stop="lab"),
    "multi.fast": SamplingParams.reference(True, seed=3, max_new_tokens=20),
}
