"""Two ranks answer as one process does, token for token, whatever is asked; and end together."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_cases import DRAWN, GREEDY, MIXED, SINGLE, alone, answers, assert_same, cache_of
from parallel_cases import origin, record, spawn_recording, two_ranks
from reference_cases import CASES, prompt, text_prompt

sys.path.insert(0, str(Path(__file__).parents[1] / "kernels"))
from interpret import interpreted

from cpmv.engine import parallel, parallel_group
from cpmv.engine.generate import generate
from cpmv.engine.parallel_fused import FusedPart
from cpmv.engine.parallel_group import Group
from cpmv.engine.parallel_link import ParallelError
from cpmv.errors import CheckpointError, CpmvError
from cpmv.model.minicpmv import MiniCPMV
from cpmv.weights import checkpoint, hub


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    with two_ranks() as made:
        yield made


def test_every_reference_answer_comes_out_of_two_ranks(group: Group) -> None:
    engine = group.engine(block_size=8, max_batch=len(SINGLE), prefill_chunk=100)
    requests = [engine.add(prompt(key), GREEDY, thinking=CASES[key]["enable_thinking"]) for key in SINGLE]
    for key, request in zip(SINGLE, requests, strict=True):
        assert engine.wait(request).token_ids == CASES[key]["greedy"], key
    engine.check_integrity()
    engine.close()


@pytest.mark.parametrize(
    ("options", "tokens"),
    [({"prefill_chunk": 40}, None), ({"prefill_chunk": 64}, 800), ({"deterministic": True, "prefill_chunk": 64}, 800)],
)
def test_a_mixed_batch_equals_one_process(
    group: Group, tiny_network: MiniCPMV, options: dict[str, Any], tokens: int | None
) -> None:
    if tokens is not None:  # a rank holds half of what a token takes
        options = {**options, "cache_bytes": cache_of(tiny_network, tokens) // 2}
    engine = group.engine(block_size=8, **options)
    outputs = answers(engine, [prompt(key) for key in MIXED], list(MIXED.values()))
    for key, output in zip(MIXED, outputs, strict=True):
        assert_same(output, alone(tiny_network, key, MIXED[key]))
    engine.check_integrity()
    engine.close()


def test_rows_that_give_way_lose_no_token(group: Group, tiny_network: MiniCPMV) -> None:
    keys = ["text.fast", "text_zh.fast", "system.fast"]
    params = [GREEDY, DRAWN.replace(max_new_tokens=32), GREEDY.replace(repetition_penalty=1.3)]
    # The prompts fit together, their answers do not; a rank holds half of what a token takes.
    tokens = sum(len(prompt(key)) + 16 for key in keys)
    engine = group.engine(block_size=8, cache_bytes=cache_of(tiny_network, tokens) // 2)
    for key, one, output in zip(keys, params, answers(engine, [prompt(key) for key in keys], params), strict=True):
        assert_same(output, alone(tiny_network, key, one))
    assert engine.stats().preemptions > 0
    engine.check_integrity()
    engine.close()


def test_an_engine_that_nobody_holds_is_forgotten_by_all(group: Group) -> None:
    engine = group.engine(block_size=8)
    del engine
    gc.collect()
    assert len(group.retired) == 1
    engine = group.engine(block_size=8)
    assert not group.retired
    assert engine.wait(engine.add(prompt("text.fast"), GREEDY)).token_ids == CASES["text.fast"]["greedy"]
    engine.close()


def test_ctrl_c_waits_for_the_end_of_a_step() -> None:
    done = False
    with pytest.raises(KeyboardInterrupt), parallel.uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        done = True
    assert done


def test_prefixes_are_shared_and_cancelled_requests_let_go(group: Group) -> None:
    engine = group.engine(block_size=8)
    first = engine.wait(engine.add(prompt("image_arg.fast"), GREEDY))
    doomed = engine.add(prompt("video_p3.fast"), GREEDY)
    engine.step()
    engine.cancel(doomed)
    again = engine.add(prompt("image_arg.fast"), GREEDY)
    assert engine.wait(again).token_ids == first.token_ids == CASES["image_arg.fast"]["greedy"]
    assert again.timing.num_cached_tokens > 64 and doomed.output is not None
    assert doomed.output.finish_reason == "cancelled"
    engine.forget()
    assert engine.wait(engine.add(prompt("image_arg.fast"), GREEDY)).token_ids == first.token_ids
    engine.check_integrity()
    engine.close()
    assert engine.stats().used_blocks == 0


def test_guesses_and_long_plans_are_told_whole(group: Group, tiny_network: MiniCPMV) -> None:
    ids = ([5, 6, 7, 8, 9] * 1200)[:5500]  # more words than a frame
    engine = group.engine(lookup=3, prefill_chunk=6000)
    params = GREEDY.replace(max_new_tokens=6)
    expected = generate(tiny_network, engine._tokenizer, text_prompt(ids), params)
    assert engine.wait(engine.add(text_prompt(ids), params)).token_ids == expected.token_ids
    engine.close()


def test_two_engines_share_the_ranks_and_a_thread_steps(group: Group) -> None:
    one, other = group.engine(block_size=8), group.engine(block_size=16)
    one.start()
    requests = [(engine, engine.add(prompt("text.fast"), GREEDY)) for engine in (one, other)]
    for engine, request in requests:
        assert engine.wait(request).token_ids == CASES["text.fast"]["greedy"]
        engine.close()


def test_a_rank_holds_half_of_the_decoder_and_of_the_cache(group: Group, tiny_network: MiniCPMV) -> None:
    part = group.part.network
    assert part.cache_spec().bytes_per_token * 2 == tiny_network.cache_spec().bytes_per_token
    ours, whole = (sum(p.numel() for p in network.llm.parameters()) for network in (part, tiny_network))
    print(f"rank 0 has {ours} of {whole} parameters of the decoder")
    assert ours < 0.53 * whole  # the vocabulary is shared out in multiples of 64


def test_what_one_process_alone_can_do_says_so(group: Group) -> None:
    with pytest.raises(CpmvError, match="one process"):
        group.part.network.logits(prompt("text.fast"))
    with pytest.raises(CpmvError, match="one process"):
        generate(group.part.network, group.part.tokenizer, prompt("text.fast"), GREEDY.replace(num_beams=2))
    with pytest.raises(ParallelError, match="already"):
        parallel_group.start(origin(), 2)


# Below, groups of their own: one process can be in one group at a time, so the shared one must have ended before.


@pytest.fixture
def freed(request: pytest.FixtureRequest) -> None:
    if torch.distributed.is_initialized():
        request.getfixturevalue("group").close()


@pytest.mark.parametrize("name", ["tiny_awq", "tiny_int4"])
def test_quantised_weights_answer_as_in_one_process(freed: None, name: str) -> None:
    found = hub.resolve(origin(name).source)
    loaded = checkpoint.load(found, device="cpu", dtype="float32")
    params = GREEDY.replace(max_new_tokens=12)
    expected = [generate(loaded.model, loaded.tokenizer, prompt(key), params) for key in ("text.fast", "multi.fast")]
    with two_ranks(name) as group:
        engine = group.engine()
        outputs = answers(engine, [prompt("text.fast"), prompt("multi.fast")], [params, params])
        assert [output.token_ids for output in outputs] == [output.token_ids for output in expected]
        engine.close()


def test_recorded_steps_are_told_and_read_on(freed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel.ParallelRunner, "refresh", record)
    monkeypatch.setattr(parallel_group, "_spawn", spawn_recording)
    told: list[int] = []
    with two_ranks() as group:
        engine = group.engine(block_size=8, max_batch=4)
        tell = group.link.tell

        def listen(words: list[int]) -> None:
            told.append(words[0])
            tell(words)

        monkeypatch.setattr(group.link, "tell", listen)
        keys = ["text.fast", "image_arg.fast", "text_zh.fast"]
        requests = [engine.add(prompt(key), GREEDY) for key in keys]
        drawn = engine.add(prompt("text.fast"), MIXED["text.fast"])
        for key, request in zip(keys, requests, strict=True):
            assert engine.wait(request).token_ids == CASES[key]["greedy"], key
        engine.wait(drawn)
        engine.close()
    assert parallel.Order.READ_ON in told


@interpreted
def test_fused_steps_of_two_ranks_answer_as_the_plain_loop() -> None:
    parallel.ParallelRunner.refresh = record  # type: ignore[method-assign, assignment]
    parallel_group._spawn = spawn_recording
    with two_ranks() as group:
        engine = group.engine(block_size=8, max_batch=2)
        output = engine.wait(engine.add(prompt("text.fast"), GREEDY.replace(max_new_tokens=4)))
        assert output.token_ids == CASES["text.fast"]["greedy"][:4]
        graphs = engine._runner.graphs
        assert graphs is not None and len(graphs) > 0 and isinstance(graphs._fused, FusedPart)
        engine.close()


def test_a_dead_rank_ends_everything_with_one_error(freed: None, caplog: pytest.LogCaptureFixture) -> None:
    with two_ranks() as group:
        engine = group.engine()
        running = engine.add(prompt("text.fast"), GREEDY)
        engine.step()
        os.kill(group.pids[0], signal.SIGKILL)
        with pytest.raises(ParallelError, match="rank 1 ended with code -9"):
            engine.wait(running)
        with pytest.raises(ParallelError, match="must be loaded again"):
            engine.add(prompt("text.fast"), GREEDY)
        assert (
            sum("ended with code" in r.getMessage() and r.name == "cpmv" and not r.exc_info for r in caplog.records)
            == 1
        )
        engine.check_integrity()


_PARENT = """
import sys; sys.path[:0] = {paths!r}
from parallel_cases import two_ranks
with two_ranks() as group:
    print(group.pids[0], flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_its_parent(number: signal.Signals) -> None:
    here = Path(__file__).parent
    code = _PARENT.format(paths=[str(here), str(here.parent)])
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdin is not None and parent.stdout is not None
    other = int(parent.stdout.readline())
    parent.send_signal(number)
    parent.wait()
    for _ in range(200):
        if not Path(f"/proc/{other}").exists() or "Z" in Path(f"/proc/{other}/stat").read_text().split(")")[1][:3]:
            break
        time.sleep(0.05)
    else:
        pytest.fail("the other rank still runs")
    parent.stdin.close()
    parent.stdout.close()


def test_mistakes_are_told_before_anything_runs(freed: None) -> None:
    with pytest.raises(CpmvError, match="gpus=1"):
        parallel_group.start(origin(), 1)
    with pytest.raises(CpmvError, match="4 attention heads cannot be shared by 3"):
        parallel_group.start(origin(), 3)
    with pytest.raises(CheckpointError):
        parallel_group.start(origin("no_such_folder"), 2)
    if torch.cuda.device_count() < 64:
        with pytest.raises(CpmvError, match="at most that"):
            parallel_group.start(parallel_group.Origin(None), 64)
