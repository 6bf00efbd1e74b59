"""The engine answers as `generate` does, token for token, whatever runs beside, is shared, gives way or ends early."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from engine_cases import DRAWN, GREEDY, MARGIN, MIXED, SINGLE, alone, answers, assert_same, cache_of, engine_for
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_cases import CASES, TOKENIZER, ending_at, prompt, text_prompt

from cpmv.engine.engine import Engine
from cpmv.engine.generate import generate
from cpmv.engine.output import Output
from cpmv.engine.request import Request
from cpmv.engine.sampling import SamplingParams
from cpmv.model.config import ModelInputs
from cpmv.model.minicpmv import MiniCPMV


def test_every_reference_answer_comes_out_of_one_mixed_batch(tiny_network: MiniCPMV) -> None:
    with engine_for(tiny_network, max_batch=len(SINGLE), prefill_chunk=100) as engine:
        requests = [engine.add(prompt(key), GREEDY, thinking=CASES[key]["enable_thinking"]) for key in SINGLE]
        for key, request in zip(SINGLE, requests, strict=True):
            assert engine.wait(request).token_ids == CASES[key]["greedy"], key
        assert engine.stats().finished == len(SINGLE)


@pytest.mark.parametrize("chunk", [7, 64, 1000])
@pytest.mark.parametrize("key", ["video_and_image.fast"])
def test_chunked_prefill_equals_whole(tiny_network: MiniCPMV, key: str, chunk: int) -> None:
    with engine_for(tiny_network, prefill_chunk=chunk) as engine:
        assert engine.wait(engine.add(prompt(key), GREEDY)).token_ids == CASES[key]["greedy"]


@pytest.mark.parametrize(
    ("options", "cache_tokens"),
    [
        ({"prefill_chunk": 40}, None),
        ({"max_batch": 2, "prefill_chunk": 16}, None),
        ({"block_size": 1}, None),
        ({"prefill_chunk": 64}, 800),  # too little for all: rows give way
        ({"image_cache_bytes": 0, "deterministic": True, "prefill_chunk": 64}, 800),
    ],
)
def test_a_mixed_batch_equals_one_by_one(
    tiny_network: MiniCPMV, options: dict[str, Any], cache_tokens: int | None
) -> None:
    if cache_tokens is not None:
        options = {**options, "cache_bytes": cache_of(tiny_network, cache_tokens)}
    with engine_for(tiny_network, **options) as engine:
        outputs = answers(engine, [prompt(key) for key in MIXED], list(MIXED.values()))
        for key, output in zip(MIXED, outputs, strict=True):
            assert_same(output, alone(tiny_network, key, MIXED[key]))


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_requests_at_any_time_equal_one_by_one(tiny_network: MiniCPMV, data: st.DataObject) -> None:
    prefixes = data.draw(st.lists(st.lists(st.integers(1, 990), min_size=1, max_size=30), min_size=1, max_size=2))
    engine = Engine(
        tiny_network,
        TOKENIZER,
        block_size=data.draw(st.sampled_from([1, 4, 16])),
        max_batch=data.draw(st.integers(1, 4)),
        prefill_chunk=data.draw(st.integers(1, 20)),
        cache_bytes=cache_of(tiny_network, data.draw(st.sampled_from([64, 96, 4096]))),
        lookup=data.draw(st.sampled_from([0, 3])),
    )
    asked: list[tuple[Request, ModelInputs, SamplingParams]] = []
    for _ in range(data.draw(st.integers(1, 6))):
        ids = data.draw(st.sampled_from(prefixes)) + data.draw(st.lists(st.integers(1, 990), max_size=5))
        params = SamplingParams(temperature=0, max_new_tokens=data.draw(st.integers(1, 12)), logprobs=2)
        request = engine.add(text_prompt(ids), params, client=data.draw(st.sampled_from("ab")))
        asked.append((request, text_prompt(ids), params))
        for _ in range(data.draw(st.integers(0, 4))):
            engine.step()
            engine.check_integrity()
        if data.draw(st.integers(0, 5)) == 0:
            engine.cancel(data.draw(st.sampled_from(asked))[0])
    for _ in range(2000):
        engine.check_integrity()
        if not engine.step():
            break
    for request, inputs, params in asked:
        assert request.output is not None and request.error is None
        expected = generate(tiny_network, TOKENIZER, inputs, params)
        if min(one.top[0][1] - one.top[1][1] for one in expected.logprobs or []) < MARGIN:
            continue
        if request.output.finish_reason == "cancelled":
            assert request.output.token_ids == expected.token_ids[: len(request.output.token_ids)]
        else:
            assert_same(request.output, expected)
    assert engine.stats().used_blocks == 0


def test_rows_that_give_way_lose_no_token(tiny_network: MiniCPMV) -> None:
    keys = ["text.fast", "text_zh.fast", "system.fast"]
    params = [GREEDY, DRAWN.replace(max_new_tokens=32), GREEDY.replace(repetition_penalty=1.3)]
    # The prompts fit together, their answers do not.
    tokens = sum(len(prompt(key)) + 16 for key in keys)
    with engine_for(tiny_network, cache_bytes=cache_of(tiny_network, tokens)) as engine:
        requests = [engine.add(prompt(key), one) for key, one in zip(keys, params, strict=True)]
        outputs = [engine.wait(request) for request in requests]
        assert engine.stats().preemptions > 0
        assert sum(request.timing.num_preemptions for request in requests) == engine.stats().preemptions
    for key, one, output in zip(keys, params, outputs, strict=True):
        assert_same(output, generate(tiny_network, TOKENIZER, prompt(key), one))


def test_a_prefix_is_computed_once(tiny_network: MiniCPMV) -> None:
    inputs = prompt("video_and_image.fast")
    whole_blocks = (len(inputs) - 1) // 8 * 8
    with engine_for(tiny_network) as engine:
        first = engine.add(inputs, GREEDY)
        # Those that come together wait for the first to have computed what they share.
        others = [engine.add(inputs, GREEDY) for _ in range(3)]
        for request in (first, *others):
            assert engine.wait(request).token_ids == CASES["video_and_image.fast"]["greedy"]
        assert [request.timing.num_cached_tokens for request in (first, *others)] == [0] + [whole_blocks] * 3
        stats = engine.stats()
        assert stats.prefix_hit_tokens == 3 * whole_blocks and stats.image_misses == len(inputs.image_bounds)
        assert stats.cached_blocks > 0


def test_an_answer_is_a_prefix_too(tiny_network: MiniCPMV) -> None:
    with engine_for(tiny_network) as engine:
        inputs = prompt("text.fast")
        output = engine.wait(engine.add(inputs, GREEDY))
        longer = text_prompt(inputs.input_ids.tolist() + output.token_ids)
        request = engine.add(longer, GREEDY.replace(max_new_tokens=4))
        found = engine.wait(request)
        assert request.timing.num_cached_tokens >= (len(longer) - 9) // 8 * 8
    assert_same(found, generate(tiny_network, TOKENIZER, longer, GREEDY.replace(max_new_tokens=4)))


def test_other_pictures_under_the_same_ids_never_hit(tiny_network: MiniCPMV) -> None:
    inputs = prompt("image_arg.fast")
    darker = dataclasses.replace(inputs, patches=inputs.patches // 2, media_hashes=["other"] * len(inputs.media_hashes))
    unnamed = dataclasses.replace(darker, media_hashes=[])
    expected = generate(tiny_network, TOKENIZER, darker, GREEDY)
    start = int(inputs.image_bounds[0, 0])
    with engine_for(tiny_network) as engine:
        assert engine.wait(engine.add(inputs, GREEDY)).token_ids == CASES["image_arg.fast"]["greedy"]
        for other in (darker, unnamed):
            request = engine.add(other, GREEDY)
            assert_same(engine.wait(request), expected)
            assert request.timing.num_cached_tokens <= start
    assert expected.token_ids != CASES["image_arg.fast"]["greedy"]


def test_an_encoded_picture_serves_other_prompts(tiny_network: MiniCPMV) -> None:
    inputs = prompt("image_arg.fast")
    moved = dataclasses.replace(
        inputs,
        input_ids=torch.cat((torch.tensor([5, 6, 7]), inputs.input_ids)),
        image_bounds=inputs.image_bounds + 3,
    )
    with engine_for(tiny_network) as engine:
        engine.wait(engine.add(inputs, GREEDY))
        misses = engine.stats().image_misses
        found = engine.wait(engine.add(moved, GREEDY))
        assert engine.stats().image_misses == misses and engine.stats().image_hits > 0
        assert 0 < engine.stats().image_bytes <= 256 << 20
    assert_same(found, generate(tiny_network, TOKENIZER, moved, GREEDY))


def test_lookup_changes_no_greedy_answer_and_takes_fewer_steps(tiny_network: MiniCPMV) -> None:
    params = GREEDY.replace(max_new_tokens=200, logprobs=1)
    # The tiny network repeats itself in the long run, which is what lookup is for.
    expected = generate(tiny_network, TOKENIZER, prompt("text.fast"), params)
    with engine_for(tiny_network, lookup=5) as engine:
        found, drawn, penalised = answers(
            engine,
            [prompt("text.fast")] * 3,
            [params, DRAWN, GREEDY.replace(repetition_penalty=1.3)],
        )
        stats = engine.stats()
    assert_same(found, expected)
    assert_same(drawn, generate(tiny_network, TOKENIZER, prompt("text.fast"), DRAWN))
    assert_same(
        penalised, generate(tiny_network, TOKENIZER, prompt("text.fast"), GREEDY.replace(repetition_penalty=1.3))
    )
    assert 0 < stats.accepted <= stats.drafted and stats.steps < 200 - stats.accepted + 10


def test_lookup_ends_where_the_answer_ends(tiny_network: MiniCPMV) -> None:
    answer = CASES["image_arg.fast"]["greedy"]
    stand_in = ending_at(answer[10])
    # The prompt holds the answer, so that the guess runs beyond the terminator.
    inputs = prompt("image_arg.fast")
    with engine_for(tiny_network, lookup=8, tokenizer=stand_in) as engine:
        output = engine.wait(engine.add(inputs, GREEDY))
        longer = text_prompt(answer + prompt("text.fast").input_ids.tolist())
        assert_same(engine.wait(engine.add(longer, GREEDY)), generate(tiny_network, stand_in, longer, GREEDY))
    assert_same(output, generate(tiny_network, stand_in, inputs, GREEDY))


def test_deterministic_answers_do_not_depend_on_neighbours_to_the_bit(tiny_network: MiniCPMV) -> None:
    params = GREEDY.replace(logprobs=5, max_new_tokens=24)
    keys = ["image_arg.fast", "text.fast", "text_zh.fast"]

    def run(crowd: int, cache_tokens: int, repeats: int = 1) -> list[list[Output]]:
        cache = cache_of(tiny_network, cache_tokens)
        options: dict[str, Any] = {"deterministic": True, "prefill_chunk": 32, "cache_bytes": cache}
        with engine_for(tiny_network, **options) as engine:
            found = []
            for _ in range(repeats):
                others = [engine.add(prompt("system.fast"), DRAWN.replace(seed=n)) for n in range(crowd)]
                requests = [engine.add(prompt(key), params) for key in keys]
                found.append([engine.wait(request) for request in requests])
                for other in others:
                    engine.wait(other)
            assert (engine.stats().preemptions > 0) == (cache_tokens < 1000)
            assert (engine.stats().prefix_hit_tokens > 0) or repeats == 1
            return found

    by_itself = run(0, 4000)[0]
    assert run(4, 4000)[0] == by_itself
    assert run(4, 280)[0] == by_itself  # rows gave way and were computed again
    assert run(1, 4000, repeats=2) == [by_itself, by_itself]  # the second time out of shared blocks


def test_neighbours_change_an_answer_by_rounding_alone(tiny_network: MiniCPMV) -> None:
    params = GREEDY.replace(logprobs=3)

    def run(crowd: int) -> Output:
        with engine_for(tiny_network) as engine:
            others = [engine.add(text_prompt([7] * (3 * n + 1)), DRAWN) for n in range(crowd)]
            output = engine.wait(engine.add(prompt("video_and_image.fast"), params))
            for other in others:
                engine.wait(other)
            return output

    by_itself, crowded = run(0), run(15)
    assert by_itself.token_ids == crowded.token_ids
    for one, other in zip(by_itself.logprobs or [], crowded.logprobs or [], strict=True):
        assert [value for _, value in one.top] == pytest.approx([value for _, value in other.top], abs=1e-4)


def test_the_global_seed_is_honoured(tiny_network: MiniCPMV) -> None:
    params = SamplingParams.reference(True, max_new_tokens=12)

    def run(seed: int) -> list[Output]:
        torch.manual_seed(seed)
        with engine_for(tiny_network) as engine:
            return answers(engine, [prompt("text.fast"), prompt("image_arg.fast")], [params] * 2)

    assert run(5) == run(5) != run(6)
    torch.manual_seed(5)
    expected = generate(tiny_network, TOKENIZER, prompt("text.fast"), params)
    torch.manual_seed(5)
    with engine_for(tiny_network) as engine:
        assert_same(answers(engine, [prompt("text.fast")], [params])[0], expected)
