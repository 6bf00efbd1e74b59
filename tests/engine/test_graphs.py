"""Recorded decoding steps: the buffers, buckets and idle rows, with a recording that simply runs again."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from reference_cases import CASES, TOKENIZER, prompt

from cpmv.engine.engine import Engine
from cpmv.engine.generate import generate
from cpmv.engine.graphs import DecodeGraphs, row_bucket
from cpmv.engine.sampling import SamplingParams
from cpmv.model.minicpmv import MiniCPMV

GREEDY = SamplingParams(temperature=0, max_new_tokens=32)


def run_again(run: Callable[[], None]) -> Callable[[], None]:
    """What a recording does, without a GPU: the same launches on the same buffers."""
    run()

    def replay() -> None:
        with torch.inference_mode():
            run()

    return replay


def recorded(network: MiniCPMV, capture: Callable[..., Callable[[], None]] = run_again, rows: int = 6) -> Engine:
    engine = Engine(network, TOKENIZER, max_batch=rows, block_size=8)
    runner = engine._runner
    runner.graphs = DecodeGraphs(network, runner._decoder, runner._pool, rows, capture)
    return engine


def test_recorded_steps_answer_as_the_plain_loop(tiny_network: MiniCPMV, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpmv.engine.graphs._STAND_IN_STEPS", 2)
    keys = ["text.fast", "image_arg.fast", "video_p3.fast", "text_zh.fast", "system.fast"]
    drawn = SamplingParams(temperature=0.9, top_p=0.9, seed=11, max_new_tokens=16)
    penalised = GREEDY.replace(repetition_penalty=1.3, max_new_tokens=24, logprobs=1)
    engine = recorded(tiny_network)
    requests = [engine.add(prompt(key), GREEDY) for key in keys]
    others = [(one, engine.add(prompt("text.fast"), one)) for one in (drawn, penalised)]
    for key, request in zip(keys, requests, strict=True):
        assert engine.wait(request).token_ids == CASES[key]["greedy"], key
    for params, request in others:
        expected = generate(tiny_network, TOKENIZER, prompt("text.fast"), params)
        assert engine.wait(request).token_ids == expected.token_ids
    assert engine._runner.graphs is not None and len(engine._runner.graphs) >= 2
    engine.check_integrity()
    assert engine.stats().used_blocks == 0


def test_recording_writes_only_to_its_own_block_and_its_rows(tiny_network: MiniCPMV) -> None:
    engine = recorded(tiny_network)
    held = engine.add(prompt("text.fast"), GREEDY.replace(max_new_tokens=60))
    for _ in range(5):
        engine.step()
    pool, blocks = engine._runner._pool, held.blocks[:-2]
    before = [keys[blocks].clone() for keys in pool.keys]
    # Another row joins: a bucket of two is recorded, and steps with idle rows follow when it has gone.
    other = engine.add(prompt("system.fast"), GREEDY.replace(max_new_tokens=4))
    engine.wait(other)
    engine.wait(held)
    assert all(torch.equal(keys[blocks], kept) for keys, kept in zip(pool.keys, before, strict=True))


def test_a_recording_that_fails_is_said_and_steps_go_on(
    tiny_network: MiniCPMV, caplog: pytest.LogCaptureFixture
) -> None:
    attempts: list[int] = []

    def broken(run: Callable[[], None]) -> Callable[[], None]:
        attempts.append(1)
        raise RuntimeError("operation not permitted when stream is capturing")

    engine = recorded(tiny_network, broken)
    with caplog.at_level("WARNING", "cpmv"):
        output = engine.wait(engine.add(prompt("text.fast"), GREEDY))
    assert output.token_ids == CASES["text.fast"]["greedy"] and len(attempts) == 1
    assert "run eagerly, slower: operation not permitted" in caplog.text


def test_a_larger_recording_stands_in_until_a_bucket_is_wanted_often(
    tiny_network: MiniCPMV, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cpmv.engine.graphs._STAND_IN_STEPS", 8)
    monkeypatch.setattr("cpmv.engine.graphs._LEAST_BLOCKS", 64)
    engine = recorded(tiny_network)
    graphs = engine._runner.graphs
    assert graphs is not None
    first, second = engine.add(prompt("text.fast"), GREEDY), engine.add(prompt("system.fast"), GREEDY)
    while min(first.num_generated, second.num_generated) < 2:
        engine.step()
    engine.cancel(second)
    known = first.num_generated
    assert list(graphs._graphs) == [(2, 64)]
    while first.num_generated < known + 6:
        engine.step()
    assert list(graphs._graphs) == [(2, 64)]  # of two rows one is idle
    assert engine.wait(first).token_ids == CASES["text.fast"]["greedy"]
    assert list(graphs._graphs) == [(2, 64), (1, 64)]
    engine.check_integrity()


def test_buckets_hold_their_rows_and_no_more_than_there_can_be() -> None:
    for most in (1, 5, 32, 200):
        for rows in range(1, most + 1):
            assert rows <= row_bucket(rows, most) <= most
    assert [row_bucket(n, 500) for n in (1, 3, 9, 33, 65, 129)] == [1, 4, 16, 48, 128, 192]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_cuda_graphs_answer_as_eager_steps(tiny_network: MiniCPMV) -> None:
    network = copy.deepcopy(tiny_network).to("cuda")
    engine = Engine(network, TOKENIZER, block_size=8)
    keys = ["text.fast", "image_arg.fast", "video_p3.fast"]
    requests = [engine.add(prompt(key), GREEDY) for key in keys]
    for key, request in zip(keys, requests, strict=True):
        assert engine.wait(request).token_ids == CASES[key]["greedy"], key
    assert engine._runner.graphs is not None and len(engine._runner.graphs) > 0
