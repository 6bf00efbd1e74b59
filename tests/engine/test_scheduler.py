"""Who runs when: a fake runner only counts tokens, so that plans can be looked at by themselves."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from reference_cases import TOKENIZER, text_prompt

from cpmv.engine.blocks import BlockKeys, BlockPool
from cpmv.engine.image_cache import PromptMedia
from cpmv.engine.lookup import Lookup
from cpmv.engine.output import Answer
from cpmv.engine.request import Request
from cpmv.engine.sampling import SamplingParams
from cpmv.engine.scheduler import Scheduler, Work


def new_request(id: int, tokens: list[int], new_tokens: int = 4, client: str = "", draft: int = 0) -> Request:
    params = SamplingParams(temperature=0, max_new_tokens=new_tokens)
    answer = Answer(TOKENIZER, params, max_new_tokens=new_tokens, num_prompt_tokens=len(tokens))
    inputs = text_prompt(tokens)
    lookup = Lookup(tokens, draft) if draft else None
    return Request(id, inputs, answer, PromptMedia.of(inputs), BlockKeys(4), client=client, lookup=lookup)


def scheduler_of(num_blocks: int = 100, max_batch: int = 4, chunk: int = 16, **options: Any) -> Scheduler:
    return Scheduler(BlockPool(num_blocks, 4), max_batch, chunk, **options)


def run(scheduler: Scheduler, token: int = 5) -> list[Work]:
    """One step of a runner whose every answer is `token`, every guess right."""
    works = scheduler.schedule()
    for work in works:
        request = work.request
        assert work.start == request.num_computed, "tokens are computed in order, without gaps"
        assert scheduler.pool.blocks_for(work.start + work.num_tokens) <= len(request.blocks)
        scheduler.computed(request, work.start + work.count)
        if work.decides:
            for guess in [*work.drafts, token]:
                if request.answer.finish_reason is None:
                    request.append(guess, None)
            if request.answer.finish_reason is not None:
                scheduler.remove(request)
            else:
                scheduler.computed(request, len(request.tokens) - 1)
    scheduler.check_integrity()
    return works


def test_prompts_are_read_in_chunks_beside_rows_that_decode() -> None:
    scheduler = scheduler_of()
    short, long = new_request(0, [1, 2], 9), new_request(1, list(range(40)), 2)
    scheduler.add(short)
    run(scheduler)
    scheduler.add(long)
    plans = [[(w.request.id, w.count, w.decides) for w in run(scheduler)] for _ in range(4)]
    assert plans == [
        [(0, 1, True), (1, 16, False)],
        [(0, 1, True), (1, 16, False)],
        [(0, 1, True), (1, 8, True)],
        [(0, 1, True), (1, 1, True)],
    ]
    assert long.output is None and long.answer.finish_reason == "length"


def test_more_of_a_prompt_is_read_while_no_row_decodes() -> None:
    scheduler = scheduler_of(undisturbed_chunk=40)
    scheduler.add(new_request(0, list(range(50)), 9))
    assert [w.count for w in run(scheduler)] == [40]
    assert [w.count for w in run(scheduler)] == [10]
    scheduler.add(new_request(1, list(range(100, 150)), 2))
    assert [w.count for w in run(scheduler)] == [1, 16]
    assert scheduler.reduce() and scheduler.undisturbed_chunk == 0 and scheduler.budget == 16
    alone = scheduler_of(undisturbed_chunk=40, deterministic=True)
    alone.add(new_request(0, list(range(50)), 9))
    assert [w.count for w in run(alone)] == [16]


def test_rows_are_bounded_and_first_come_is_first_served() -> None:
    scheduler = scheduler_of(max_batch=2)
    requests = [new_request(id, [id, id], 1 + id) for id in range(5)]
    for request in requests:
        scheduler.add(request)
    finished: list[int] = []
    while scheduler.has_work:
        assert len(scheduler.running) <= 2
        before = [r for r in requests if r.answer.finish_reason is None]
        run(scheduler)
        finished += [r.id for r in before if r.answer.finish_reason is not None]
    assert finished == [0, 1, 2, 3, 4]


def test_a_client_with_many_requests_does_not_hold_up_another() -> None:
    scheduler = scheduler_of(max_batch=2)
    many = [new_request(id, [id] * 12, 3, "many") for id in range(20)]
    for request in many:
        scheduler.add(request)
    for _ in range(3):
        run(scheduler)
    few = new_request(100, [9] * 12, 3, "few")
    scheduler.add(few)
    while few.answer.finish_reason is None:
        run(scheduler)
    assert sum(r.answer.finish_reason is not None for r in many) < 7


def test_a_short_prompt_need_not_wait_for_another_clients_long_one() -> None:
    scheduler = scheduler_of(num_blocks=1000)
    long, short = new_request(0, list(range(400)), client="a"), new_request(1, [7, 7, 7], client="b")
    scheduler.add(long)
    for _ in range(3):
        run(scheduler)
    scheduler.add(short)
    steps = 0
    while not short.num_generated:
        run(scheduler)
        steps += 1
    assert steps <= 4 and long.num_left > 200


def test_equal_prompts_that_come_together_are_computed_once() -> None:
    scheduler = scheduler_of(chunk=8)
    requests = [new_request(id, list(range(21)), 2) for id in range(4)]
    for request in requests:
        scheduler.add(request)
    computed = 0
    while scheduler.has_work:
        computed += sum(work.count for work in run(scheduler) if work.start < 20)
    # Five whole blocks and the first one's last token once; the others compute nothing but their own last token.
    assert computed == 21 and [r.timing.num_cached_tokens for r in requests] == [0, 20, 20, 20]


def test_when_blocks_run_out_the_last_row_gives_way_and_comes_back() -> None:
    scheduler = scheduler_of(num_blocks=6)
    first, last = new_request(0, [1] * 8, 16), new_request(1, [2] * 8, 16)
    scheduler.add(first)
    scheduler.add(last)
    while first.answer.finish_reason is None:
        run(scheduler)
    assert first.timing.num_preemptions == 0 and last.timing.num_preemptions == 1 == scheduler.num_preemptions
    kept = last.num_generated
    assert 0 < kept < 16
    while scheduler.has_work:
        run(scheduler)
    assert last.num_generated == 16 and scheduler.pool.num_used == 0


def test_guesses_take_no_ones_place() -> None:
    scheduler = scheduler_of(num_blocks=4)
    request = new_request(0, [1, 2, 3, 1, 2], 8, draft=6)
    other = new_request(1, [9] * 5, 3)
    scheduler.add(request)
    scheduler.add(other)
    while scheduler.has_work:
        works = run(scheduler, token=3)
        assert all(len(work.drafts) <= 6 for work in works)
    assert scheduler.num_preemptions == 0 and request.num_generated == 8 and other.num_generated == 3


def test_less_is_planned_after_a_lack_of_memory_and_more_again_later() -> None:
    scheduler = scheduler_of(num_blocks=130, max_batch=3, chunk=64)
    for id in range(3):
        scheduler.add(new_request(id, [id] * 200, 2000))
    run(scheduler)
    assert scheduler.reduce() and scheduler.budget == 32
    assert scheduler.reduce() and scheduler.budget == 16
    while any(request.num_left > 1 for request in scheduler.running):
        run(scheduler)
    assert len(scheduler.running) == 2  # the third does not fit beside them
    assert scheduler.reduce() and len(scheduler.running) == scheduler.row_limit == 1
    assert not scheduler.reduce()
    scheduler.check_integrity()
    for _ in range(64):
        scheduler.recover()
    assert scheduler.budget == 64 and scheduler.row_limit == 3


def test_deterministic_chunks_depend_on_the_prompt_alone() -> None:
    def plan_of_last(others: int) -> list[tuple[int, int]]:
        scheduler = scheduler_of(num_blocks=60, chunk=8, deterministic=True)
        for id in range(others):
            scheduler.add(new_request(id, list(range(id, id + 30)), 20))
        watched = new_request(99, list(range(500, 521)), 6)
        scheduler.add(watched)
        plan: list[tuple[int, int]] = []
        while scheduler.has_work:
            plan += [(w.start, w.count) for w in run(scheduler) if w.request is watched]
        return plan

    alone = plan_of_last(0)
    assert alone == [(0, 8), (8, 8), (16, 5), (21, 1), (22, 1), (23, 1), (24, 1), (25, 1)]
    assert plan_of_last(1) == plan_of_last(3) == alone


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_whatever_comes_everything_ends_and_nothing_leaks(data: st.DataObject) -> None:
    blocks = data.draw(st.integers(8, 20))
    deterministic = data.draw(st.booleans())
    scheduler = scheduler_of(
        blocks, data.draw(st.integers(1, 4)), 4 * data.draw(st.integers(1, 5)), deterministic=deterministic
    )
    here: list[Request] = []
    for id in range(data.draw(st.integers(1, 12))):
        length = data.draw(st.integers(1, 2 * blocks))
        tokens = [data.draw(st.integers(0, 1)) * 100 + at for at in range(length)]
        draft = 0 if deterministic else data.draw(st.integers(0, 2))
        here.append(
            new_request(id, tokens, data.draw(st.integers(1, 2 * blocks)), data.draw(st.text("ab", max_size=1)), draft)
        )
        scheduler.add(here[-1])
        for _ in range(data.draw(st.integers(0, 3))):
            run(scheduler)
        going = [request for request in here if request.answer.finish_reason is None]
        if going and data.draw(st.integers(0, 4)) == 0:
            gone = data.draw(st.sampled_from(going))
            gone.end("cancelled")
            scheduler.remove(gone)
            scheduler.check_integrity()
    for _ in range(3000):
        if not scheduler.has_work:
            break
        assert run(scheduler), "there is work, so something is planned"
    assert all(request.answer.finish_reason is not None for request in here)
    assert scheduler.pool.num_used == 0 and not scheduler.running and scheduler.num_waiting == 0


def test_requests_show_their_pictures_keys() -> None:
    """The scheduler never sees a picture, only the keys that a request makes of it."""
    inputs = dataclasses.replace(text_prompt([1] * 8))
    media = PromptMedia.of(inputs)
    assert media.bounds == [] and media.keys == []
