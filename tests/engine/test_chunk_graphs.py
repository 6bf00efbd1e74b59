"""Recorded short steps that read prompts: buckets, spare rows, mixed steps, with a recording that runs again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from reference_cases import CASES, TOKENIZER, prompt

from cpmv.engine.chunk_graphs import MOST_TOKENS, ChunkGraphs, Newest
from cpmv.engine.engine import Engine
from cpmv.engine.generate import generate
from cpmv.engine.sampling import SamplingParams
from cpmv.model.minicpmv import MiniCPMV

GREEDY = SamplingParams(temperature=0, max_new_tokens=24)


def run_again(run: Callable[[], None]) -> Callable[[], None]:
    """What a recording does, without a GPU: the same launches on the same buffers."""
    run()
    return run


def recorded(network: MiniCPMV, capture: Callable[..., Callable[[], None]] = run_again, **more: int) -> Engine:
    engine = Engine(network, TOKENIZER, max_batch=6, block_size=8, **more)
    runner = engine._runner
    runner._cpu_step = None
    runner.chunks = ChunkGraphs(runner._decoder, runner._pool, capture)
    return engine


def test_recorded_steps_answer_as_the_plain_loop(tiny_network: MiniCPMV) -> None:
    engine = recorded(tiny_network)
    for _ in range(3):  # a bucket is recorded when it comes again; a known prefix makes a past
        for key in ("text.fast", "image_arg.fast", "system.fast"):
            engine._images.clear()
            answer = engine.wait(engine.add(prompt(key), GREEDY)).token_ids
            assert answer == CASES[key]["greedy"][: len(answer)], key
    chunks = engine._runner.chunks
    assert chunks is not None and len(chunks) >= 1
    engine.check_integrity()


def test_prompts_beside_rows_that_decode(tiny_network: MiniCPMV) -> None:
    engine = recorded(tiny_network, prefill_chunk=40)
    drawn = GREEDY.replace(temperature=0.9, top_p=0.9, seed=11)
    expected = {params: generate(tiny_network, TOKENIZER, prompt("text.fast"), params) for params in (GREEDY, drawn)}
    for _ in range(2):
        requests = []
        for turn in range(6):
            params = (GREEDY, drawn)[turn % 2]
            requests.append((params, engine.add(prompt("text.fast"), params)))
            engine.step()
            engine.step()
        for params, request in requests:
            assert engine.wait(request).token_ids == expected[params].token_ids
    chunks = engine._runner.chunks
    assert chunks is not None and any(bucket.sequences > 1 for bucket in chunks._graphs)
    assert engine.stats().used_blocks == 0


def test_rows_are_the_eager_ones_and_nothing_else_is_written(tiny_network: MiniCPMV) -> None:
    engine = recorded(tiny_network)
    runner = engine._runner
    chunks = runner.chunks
    assert chunks is not None
    x = torch.randn(9, tiny_network.config.language.hidden_size, generator=torch.Generator().manual_seed(0))
    # Two sequences: five tokens from their beginning, and four after three that are in the pool.
    sequences = [Newest(5, 5, [3]), Newest(4, 7, [6])]
    places, slots = [0, 1, 2, 3, 4, 3, 4, 5, 6], [24, 25, 26, 27, 28, 51, 52, 53, 54]
    with torch.inference_mode():
        for pool in (*runner._pool.keys, *runner._pool.values):
            pool.normal_(generator=torch.Generator().manual_seed(1))
        before = [pool.clone() for pool in runner._pool.keys]
        assert chunks.step(x, places, slots, sequences, [4, 8]) is None
        found = chunks.step(x, places, slots, sequences, [4, 8])
        alone = chunks.step(x[:5], places[:5], slots[:5], sequences[:1], [4])
        assert alone is None
        alone = chunks.step(x[:5], places[:5], slots[:5], sequences[:1], [4])
    assert found is not None and alone is not None
    assert torch.allclose(found[:1], alone, atol=1e-5) and not torch.allclose(found[0], found[1], atol=1e-2)
    scratch = len(before[0]) - 1
    for old, new in zip(before, runner._pool.keys, strict=True):
        changed = (old != new).flatten(2).any(2).nonzero().tolist()
        assert {tuple(at) for at in changed if at[0] != scratch} == {(slot // 8, slot % 8) for slot in slots}


def test_what_no_bucket_holds_is_done_eagerly(tiny_network: MiniCPMV) -> None:
    chunks = recorded(tiny_network)._runner.chunks
    assert chunks is not None
    assert chunks._bucket(1, [Newest(1, 1, [0])], [0]) is None
    assert chunks._bucket(MOST_TOKENS + 1, [Newest(MOST_TOKENS + 1, MOST_TOKENS + 1, [0])], []) is None
    assert chunks._bucket(100, [Newest(1, 1, [0])] * 97, []) is None
    assert chunks._bucket(100, [Newest(100, 100, [0] * 13)], []) == (128, 1, 16)


def test_a_failed_recording_is_not_tried_again(tiny_network: MiniCPMV, caplog: pytest.LogCaptureFixture) -> None:
    def fails(run: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("no graphs here")

    engine = recorded(tiny_network, fails)
    for _ in range(4):
        answer = engine.wait(engine.add(prompt("text.fast"), GREEDY)).token_ids
        assert answer == CASES["text.fast"]["greedy"][: len(answer)]
    assert caplog.text.count("cannot be recorded") <= 2 and "no graphs here" in caplog.text
