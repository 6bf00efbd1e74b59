"""Streams, callbacks, cancels, constraints, failures, the end of an engine: whoever is concerned and nobody else."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from engine_cases import DRAWN, GREEDY, MIXED, alone, answers, assert_same, cache_of, engine_for
from reference_cases import CASES, TOKENIZER, prompt, text_prompt

from cpmv.engine.engine import Engine
from cpmv.engine.generate import generate, stream
from cpmv.engine.request import Request
from cpmv.engine.sampling import SamplingParams
from cpmv.errors import ContextLengthError, MessageError, OutOfMemoryError
from cpmv.model.minicpmv import MiniCPMV


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


def test_an_engine_that_fails_altogether_leaves_nobody_waiting(
    tiny_network: MiniCPMV, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[Request] = []
    engine = Engine(tiny_network, TOKENIZER)
    monkeypatch.setattr(engine._scheduler, "schedule", lambda: 1 / 0)
    request = engine.add(prompt("text.fast"), GREEDY, on_piece=lambda one, piece: ended.append(one))
    engine.start()
    with pytest.raises(ZeroDivisionError):
        engine.wait(request)
    assert request.output is not None and request.output.finish_reason == "error"
    with pytest.raises(RuntimeError, match="closed"):
        engine.add(prompt("text.fast"), GREEDY)
    engine.close()
    assert ended == [request]
