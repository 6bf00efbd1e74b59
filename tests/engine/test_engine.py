"""The engine answers as `generate` does, token for token, whatever runs beside, is shared, gives way or ends early."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_cases import CASES, TOKENIZER, ending_at, prompt, text_prompt

from cpmv.engine.engine import Engine
from cpmv.engine.generate import generate, stream
from cpmv.engine.output import Output
from cpmv.engine.request import Request
from cpmv.engine.sampling import SamplingParams
from cpmv.errors import ContextLengthError, MessageError, OutOfMemoryError
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


@pytest.mark.parametrize(
    ("options", "cache_tokens"),
    [
        ({}, None),
        ({"prefill_chunk": 40}, None),
        ({"max_batch": 2, "prefill_chunk": 16}, None),
        ({"block_size": 1}, None),
        ({"prefill_chunk": 64}, 800),  # too little for all: rows give way
        ({"image_cache_bytes": 0}, 800),
        ({"deterministic": True, "prefill_chunk": 64}, 800),
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


@pytest.mark.parametrize("started", [False, True])
def test_a_stream_adds_up_to_the_answer(tiny_network: MiniCPMV, started: bool) -> None:
    with engine_for(tiny_network) as engine:
        if started:
            engine.start()
        for key in ("text.fast", "image_arg.think", "text_zh.fast"):
            thinking = CASES[key]["enable_thinking"]
            params = GREEDY.replace(logprobs=1)
            whole = generate(tiny_network, TOKENIZER, prompt(key), params, thinking=thinking)
            parts = engine.stream(engine.add(prompt(key), params, thinking=thinking))
            pieces = list(parts)
            assert parts.output is not None
            assert_same(parts.output, whole)
            assert "".join(str(piece) for piece in pieces if piece.kind == "answer").strip() == whole.text
            assert "".join(str(piece) for piece in pieces if piece.kind == "thinking").strip() == whole.thinking
            assert [i for piece in pieces for i in piece.token_ids] == whole.token_ids
            raw = engine.stream(engine.add(prompt(key), params, thinking=thinking, raw=True))
            assert "".join(map(str, raw)) == CASES[key]["greedy_text"]
            if not started:  # a reader in step with the engine gets the pieces of the plain stream
                assert [str(piece) for piece in pieces] == [
                    str(piece) for piece in stream(tiny_network, TOKENIZER, prompt(key), params, thinking=thinking)
                ]


def test_pieces_are_called_back_and_every_request_ends_once(tiny_network: MiniCPMV) -> None:
    heard: dict[int, list[Any]] = {}

    def on_piece(request: Request, piece: Any) -> None:
        heard.setdefault(request.id, []).append(piece)
        assert (piece is None) <= (request.output is not None)

    with engine_for(tiny_network) as engine:
        engine.start()
        requests = [engine.add(prompt(key), GREEDY, on_piece=on_piece) for key in ("text.fast", "image_arg.fast")]
        cancelled = engine.add(prompt("system.fast"), GREEDY.replace(max_new_tokens=20_000), on_piece=on_piece)
        outputs = [engine.wait(request) for request in requests]
        engine.cancel(cancelled)
        engine.cancel(cancelled)
        assert engine.wait(cancelled).finish_reason == "cancelled"
        engine.cancel(requests[0])  # too late to matter
    for request, output in zip([*requests, cancelled], [*outputs, cancelled.output], strict=True):
        pieces = heard[request.id]
        assert pieces[-1] is None and None not in pieces[:-1]
        assert output is not None and "".join(map(str, pieces[:-1])).strip() == output.text


def test_a_callback_that_fails_costs_only_its_own_request(tiny_network: MiniCPMV) -> None:
    def on_piece(request: Request, piece: Any) -> None:
        raise OSError("the client has left")

    with engine_for(tiny_network) as engine:
        broken = engine.add(prompt("text.fast"), GREEDY, on_piece=on_piece)
        whole = engine.add(prompt("text_zh.fast"), GREEDY)
        assert engine.wait(whole).token_ids == CASES["text_zh.fast"]["greedy"]
        assert engine.wait(broken).finish_reason == "cancelled"


def test_a_callback_may_cancel_and_add(tiny_network: MiniCPMV) -> None:
    later: list[Request] = []
    with engine_for(tiny_network) as engine:

        def on_piece(request: Request, piece: Any) -> None:
            if piece is not None and not later:
                later.append(engine.add(prompt("text_zh.fast"), GREEDY))
                engine.cancel(request)

        first = engine.add(prompt("text.fast"), GREEDY, on_piece=on_piece)
        assert engine.wait(first).finish_reason == "cancelled"
        assert engine.wait(later[0]).token_ids == CASES["text_zh.fast"]["greedy"]


def test_a_cancelled_request_frees_its_blocks_at_once(tiny_network: MiniCPMV) -> None:
    with engine_for(tiny_network) as engine:
        running = engine.add(prompt("text.fast"), GREEDY)
        queued = engine.add(prompt("system.fast"), GREEDY)
        engine.cancel(queued)
        assert engine.wait(queued).token_ids == []
        for _ in range(5):
            engine.step()
        assert engine.stats().used_blocks > 0
        engine.cancel(running)
        assert engine.stats().used_blocks == 0
        output = engine.wait(running)
        assert output.finish_reason == "cancelled" and output.token_ids == CASES["text.fast"]["greedy"][:5]


def test_a_stream_that_is_closed_or_forgotten_cancels(tiny_network: MiniCPMV) -> None:
    with engine_for(tiny_network) as engine:
        parts = engine.stream(engine.add(prompt("text.fast"), GREEDY))
        next(parts)
        parts.close()
        assert parts.output is not None and parts.output.finish_reason == "cancelled"
        assert list(parts) == []
        request = engine.add(prompt("text.fast"), GREEDY)
        forgotten = engine.stream(request)
        next(forgotten)
        del forgotten
        assert request.output is not None and request.output.finish_reason == "cancelled"


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
    keys = ["video_and_image.fast", "text.fast", "few_shot.fast"]

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
    assert run(9, 4000)[0] == by_itself
    assert run(9, 500)[0] == by_itself  # rows gave way and were computed again
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


class Choice:
    """A constraint that allows exactly one sequence of tokens."""

    def __init__(self, tokens: list[int], vocab_size: int) -> None:
        self.left, self.vocab_size = list(tokens), vocab_size

    def allowed(self) -> torch.Tensor:
        mask = torch.zeros(self.vocab_size, dtype=torch.bool)
        mask[self.left[:1]] = True
        return mask

    def accept(self, token_id: int) -> None:
        assert token_id == self.left.pop(0)


def test_constraints_hold_beside_free_rows(tiny_network: MiniCPMV) -> None:
    vocab_size = tiny_network.config.language.vocab_size
    end = TOKENIZER.eos_token_ids[0]
    with engine_for(tiny_network, lookup=4) as engine:
        free = engine.add(prompt("text.fast"), GREEDY)
        held = engine.add(prompt("text.fast"), GREEDY, constraint=Choice([7, 8, 9, end], vocab_size))
        drawn = engine.add(
            prompt("text.fast"), DRAWN.replace(min_new_tokens=10), constraint=Choice([5, 5, end], vocab_size)
        )
        assert engine.wait(held).token_ids == [7, 8, 9, end] and engine.wait(drawn).token_ids == [5, 5, end]
        assert engine.wait(free).token_ids == CASES["text.fast"]["greedy"]


def test_an_impossible_constraint_ends_its_own_request_with_an_error(tiny_network: MiniCPMV) -> None:
    vocab_size = tiny_network.config.language.vocab_size
    with engine_for(tiny_network) as engine:
        free = engine.add(prompt("text.fast"), GREEDY)
        stuck = engine.add(prompt("text.fast"), GREEDY, constraint=Choice([7], vocab_size))
        wrong = engine.add(prompt("text.fast"), GREEDY, constraint=Choice([7], 10))
        assert engine.wait(free).token_ids == CASES["text.fast"]["greedy"]
        with pytest.raises(MessageError, match="allows no token"):
            engine.wait(stuck)
        with pytest.raises(MessageError, match=r"speaks of \(10,\) tokens"):
            engine.wait(wrong)
        assert stuck.output is not None and stuck.output.finish_reason == "error" and stuck.output.token_ids == [7]
        with pytest.raises(MessageError, match="allows no token"):
            list(engine.stream(engine.add(prompt("text.fast"), GREEDY, constraint=Choice([], vocab_size))))


def test_memory_that_runs_out_ends_nobody(tiny_network: MiniCPMV, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine_for(tiny_network, prefill_chunk=128) as engine:
        forward = engine._runner.forward
        failures: list[int] = []

        def tight(works: Any) -> Any:
            rows, tokens = len(works), sum(work.num_tokens for work in works)
            if rows > 2 or tokens > 40:
                failures.append(tokens)
                raise torch.OutOfMemoryError("no")
            return forward(works)

        monkeypatch.setattr(engine._runner, "forward", tight)
        outputs = answers(engine, [prompt(key) for key in MIXED], list(MIXED.values()))
        assert len(failures) > 3
    for key, output in zip(MIXED, outputs, strict=True):
        assert_same(output, alone(tiny_network, key, MIXED[key]))


def test_a_request_that_fits_nowhere_ends_with_an_error(
    tiny_network: MiniCPMV, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine_for(tiny_network) as engine:

        def never(works: Any) -> Any:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory")

        with monkeypatch.context() as patch:
            patch.setattr(engine._runner, "forward", never)
            requests = [engine.add(prompt(key), GREEDY) for key in ("text.fast", "system.fast")]
            for request in requests:
                with pytest.raises(OutOfMemoryError, match="does not fit in memory even alone"):
                    engine.wait(request)
        assert engine.wait(engine.add(prompt("text.fast"), GREEDY)).token_ids == CASES["text.fast"]["greedy"]


def test_a_mistake_of_ours_ends_its_step_and_not_the_engine(
    tiny_network: MiniCPMV, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine_for(tiny_network) as engine:
        engine.start()
        with monkeypatch.context() as patch:
            patch.setattr(engine._runner, "forward", lambda works: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                engine.wait(engine.add(prompt("text.fast"), GREEDY))
        assert engine.wait(engine.add(prompt("text.fast"), GREEDY)).token_ids == CASES["text.fast"]["greedy"]


def test_timing_and_stats_tell_what_happened(tiny_network: MiniCPMV) -> None:
    with engine_for(tiny_network) as engine:
        request = engine.add(prompt("text.fast"), GREEDY)
        assert engine.stats().waiting == 1 and request.timing.admitted is None
        output = engine.wait(request)
        timing = request.timing
        assert timing.admitted is not None and timing.first_token is not None and timing.finished is not None
        assert timing.arrived <= timing.admitted <= timing.first_token <= timing.finished
        stats = engine.stats()
        assert stats.generated_tokens == len(output.token_ids) == 32
        assert stats.prompt_tokens == output.num_prompt_tokens and stats.steps == 32
        assert stats.used_blocks + stats.free_blocks == stats.total_blocks
        assert "32 tokens so far" not in repr(request) and "length" in repr(request)


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


def test_changed_weights_are_seen_after_forget(tiny_network: MiniCPMV) -> None:
    network = copy.deepcopy(tiny_network)
    with engine_for(network) as engine:
        before = engine.wait(engine.add(prompt("text.fast"), GREEDY))
        with torch.no_grad():
            network.llm.model.layers[0].mlp.down_proj.weight.mul_(0.5)
        engine.forget()
        request = engine.add(prompt("text.fast"), GREEDY)
        after = engine.wait(request)
        assert request.timing.num_cached_tokens == 0
    assert_same(after, generate(network, TOKENIZER, prompt("text.fast"), GREEDY))
    assert before.token_ids != after.token_ids


def test_mistaken_requests_are_refused_at_once(tiny_network: MiniCPMV) -> None:
    with engine_for(tiny_network, cache_bytes=cache_of(tiny_network, 200)) as engine:
        with pytest.raises(MessageError, match="num_beams=3 is for generate"):
            engine.add(prompt("text.fast"), SamplingParams(num_beams=3))
        with pytest.raises(MessageError, match="the prompt is empty"):
            engine.add(text_prompt([]), GREEDY)
        with pytest.raises(
            ContextLengthError, match=r"has 300 tokens but the cache \(200, one for the answer\) allows"
        ):
            engine.add(text_prompt([5] * 300), GREEDY)
        with pytest.raises(MessageError, match="1 places for pictures but 0 groups"):
            engine.add(
                dataclasses.replace(prompt("text.fast"), image_bounds=prompt("image_arg.fast").image_bounds[:1]), GREEDY
            )
        full = engine.wait(engine.add(text_prompt([5] * 180), GREEDY))
        assert full.finish_reason == "length" and len(full.token_ids) == 20
    with pytest.raises(RuntimeError, match="closed"):
        engine.add(prompt("text.fast"), GREEDY)
    with pytest.raises(OutOfMemoryError, match="larger cache_bytes"):
        Engine(tiny_network, TOKENIZER, cache_bytes=10)
    for options in ({"max_batch": 0}, {"block_size": 0}, {"prefill_chunk": 0}, {"lookup": -1}):
        with pytest.raises(ValueError, match="is not allowed; give at least"):
            Engine(tiny_network, TOKENIZER, **options)
    with pytest.raises(ValueError, match="deterministic=True excludes"):
        Engine(tiny_network, TOKENIZER, lookup=3, deterministic=True)


def test_closing_drains_then_cancels(tiny_network: MiniCPMV) -> None:
    for started in (False, True):
        engine = Engine(tiny_network, TOKENIZER)
        if started:
            engine.start()
        short = engine.add(prompt("text.fast"), GREEDY)
        engine.close(drain_s=60)
        assert short.output is not None and short.output.token_ids == CASES["text.fast"]["greedy"]
        engine = Engine(tiny_network, TOKENIZER)
        if started:
            engine.start()
        long = engine.add(prompt("text.fast"), GREEDY.replace(max_new_tokens=30_000))
        engine.close()
        assert long.output is not None and long.output.finish_reason == "cancelled"
        assert engine.stats().used_blocks == 0
