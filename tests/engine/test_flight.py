"""Steps launched before the tokens of the last are known: same answers, whatever ends, joins, leaves or gives way."""

from __future__ import annotations

import torch
from engine_cases import DRAWN, GREEDY, MIXED, alone, assert_same, cache_of
from reference_cases import CASES, prompt
from test_graphs import recorded

from cpmv.engine.engine import Engine
from cpmv.engine.flight import Flight
from cpmv.engine.sampling import SamplingParams
from cpmv.model.minicpmv import MiniCPMV


def counted(engine: Engine) -> list[Flight | None]:
    """Every attempt to launch a next step, as it is made."""
    attempts: list[Flight | None] = []
    launch = engine._launch_next

    def launch_next(flight: Flight) -> Flight | None:
        attempts.append(launch(flight))
        return attempts[-1]

    engine._launch_next = launch_next  # type: ignore[method-assign]
    return attempts


def test_steps_are_launched_ahead_and_answers_stay(tiny_network: MiniCPMV) -> None:
    engine = recorded(tiny_network)
    attempts = counted(engine)
    params = {"text.fast": GREEDY, "text_zh.fast": DRAWN, "system.fast": DRAWN.replace(seed=3, repetition_penalty=1.3)}
    requests = {key: engine.add(prompt(key), one) for key, one in params.items()}
    for key, request in requests.items():
        assert_same(engine.wait(request), alone(tiny_network, key, params[key]))
    assert sum(flight is not None for flight in attempts) > len(attempts) // 2
    engine.check_integrity()
    assert engine.stats().used_blocks == 0


def test_whatever_the_host_must_see_first_is_not_launched_ahead(tiny_network: MiniCPMV) -> None:
    for params in (GREEDY.replace(logprobs=0), GREEDY.replace(min_new_tokens=31)):
        engine = recorded(tiny_network)
        attempts = counted(engine)
        assert_same(engine.wait(engine.add(prompt("text.fast"), params)), alone(tiny_network, "text.fast", params))
        assert sum(flight is not None for flight in attempts) <= 1


def test_mixed_requests_that_come_and_end_at_different_times(tiny_network: MiniCPMV) -> None:
    engine = recorded(tiny_network, rows=3)
    attempts = counted(engine)
    requests = {key: engine.add(prompt(key), params) for key, params in MIXED.items()}
    for key, request in requests.items():
        assert_same(engine.wait(request), alone(tiny_network, key, MIXED[key]))
    assert any(attempts)
    engine.check_integrity()


def test_an_answer_that_ends_leaves_its_neighbours_alone(tiny_network: MiniCPMV) -> None:
    # The stop string comes in the middle; the step that was launched with that row in it is still right for the other.
    text = alone(tiny_network, "text.fast", GREEDY).raw_text
    stopping = GREEDY.replace(stop=text[len(text) // 2 : len(text) // 2 + 2])
    engine = recorded(tiny_network)
    short, long = engine.add(prompt("text.fast"), stopping), engine.add(prompt("system.fast"), GREEDY)
    assert_same(engine.wait(short), alone(tiny_network, "text.fast", stopping))
    later = engine.add(prompt("text.fast"), GREEDY)  # takes the blocks that the stopped row was writing to
    assert engine.wait(long).token_ids == CASES["system.fast"]["greedy"]
    assert engine.wait(later).token_ids == CASES["text.fast"]["greedy"]
    engine.check_integrity()


def test_a_cancel_between_launch_and_arrival(tiny_network: MiniCPMV) -> None:
    engine = recorded(tiny_network)
    dropped, kept = engine.add(prompt("text.fast"), GREEDY), engine.add(prompt("system.fast"), GREEDY)
    while engine._flight is None:
        engine.step()
    known = dropped.num_generated
    engine.cancel(dropped)
    assert engine.wait(dropped).finish_reason == "cancelled" and len(engine.wait(dropped).token_ids) == known
    assert engine.wait(kept).token_ids == CASES["system.fast"]["greedy"]
    engine.check_integrity()
    assert engine.stats().used_blocks == 0


def test_rows_that_give_way_for_want_of_blocks(tiny_network: MiniCPMV) -> None:
    from reference_cases import TOKENIZER
    from test_graphs import run_again

    from cpmv.engine.graphs import DecodeGraphs

    longest = max(len(prompt(key)) for key in ("text.fast", "system.fast", "text_zh.fast")) + 40
    engine = Engine(tiny_network, TOKENIZER, max_batch=3, block_size=8, cache_bytes=cache_of(tiny_network, 2 * longest))
    runner = engine._runner
    runner.graphs = DecodeGraphs(tiny_network, runner._decoder, runner._pool, 3, run_again)
    params = {"text.fast": GREEDY, "system.fast": DRAWN, "text_zh.fast": GREEDY}
    requests = {key: engine.add(prompt(key), one) for key, one in params.items()}
    for key, request in requests.items():
        assert_same(engine.wait(request), alone(tiny_network, key, params[key]))
    engine.check_integrity()


def test_new_weights_take_effect_after_the_step_that_computes(tiny_network: MiniCPMV) -> None:
    engine = recorded(tiny_network)
    request = engine.add(prompt("text.fast"), GREEDY)
    while engine._flight is None:
        engine.step()
    known = request.num_generated
    engine.forget()
    assert engine._flight is None and request.num_generated == known + 1
    assert engine.wait(request).token_ids == CASES["text.fast"]["greedy"]


def test_a_background_thread_launches_ahead_as_well(tiny_network: MiniCPMV) -> None:
    engine = recorded(tiny_network)
    engine.start()
    greedy = SamplingParams(temperature=0, max_new_tokens=24)
    requests = [engine.add(prompt(key), greedy) for key in ("text.fast", "system.fast")]
    for request, key in zip(requests, ("text.fast", "system.fast"), strict=True):
        assert engine.wait(request).token_ids == CASES[key]["greedy"][:24]
    engine.close()
    engine.check_integrity()
    assert torch.is_grad_enabled()
