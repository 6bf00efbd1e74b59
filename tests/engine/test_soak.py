"""The short form of benchmarks/soak.py: mixed requests with random cancels leave nothing behind."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    spec = importlib.util.spec_from_file_location("soak", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["soak"] = module
    spec.loader.exec_module(module)
    return module


def test_a_short_soak_leaves_nothing_behind(soak: ModuleType) -> None:
    tally, engine, seconds = soak.soak(150, seed=1, cache_tokens=320)
    figures = soak.judge(tally, engine, 150, seconds)
    assert figures["answers_unlike_alone"] == 0
    assert figures["prefix_hit_share"] > 0 and figures["image_hits"] > 0
    assert {"cancelled", "stop", "length"} >= set(figures["finish_reasons"]) and figures["finish_reasons"]["cancelled"]


def test_the_judge_notices_a_request_that_ended_twice(soak: ModuleType) -> None:
    tally, engine, seconds = soak.soak(5, seed=2)
    tally.ended[next(iter(tally.ended))] += 1
    with pytest.raises(AssertionError, match="more than once"):
        soak.judge(tally, engine, 5, seconds)
