"""Who gets in: the bound, fairness between clients, turns at the decoders, and bytes held."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from cpmv.serve.admission import Admission, ByteBudget
from cpmv.serve.decoders import Turns
from cpmv.serve.errors import ApiError


def test_the_queue_has_an_end_and_says_when_to_come_back() -> None:
    admission = Admission(num_running=2, max_queue=2)
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(admission.enter("a"))
        with pytest.raises(ApiError) as refusal, admission.enter("a"):
            pass
        assert refusal.value.status == 429 and int(refusal.value.headers["retry-after"]) >= 1
    assert admission.num_under_way == 0
    with admission.enter("a"):
        assert admission.num_under_way == 1


def test_several_answers_take_several_places() -> None:
    admission = Admission(2, 2)
    with admission.enter("a", 3):
        with pytest.raises(ApiError), admission.enter("a", 2):
            pass
        with admission.enter("a", 1):
            pass
    with pytest.raises(ApiError) as refusal, admission.enter("a", 5):
        pass
    assert refusal.value.status == 400


def test_a_nearly_full_queue_keeps_places_for_those_with_few() -> None:
    admission = Admission(4, 12)
    with ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(admission.enter("greedy"))
        stack.enter_context(admission.enter("modest"))
        with pytest.raises(ApiError) as refusal, admission.enter("greedy"):
            pass
        assert refusal.value.status == 429
        stack.enter_context(admission.enter("modest"))
        stack.enter_context(admission.enter("newcomer"))


def test_draining_takes_nobody() -> None:
    admission = Admission(2, 2)
    admission.is_draining = True
    with pytest.raises(ApiError) as refusal, admission.enter("a"):
        pass
    assert refusal.value.status == 503


def test_clients_take_turns_at_the_decoders() -> None:
    async def go() -> list[str]:
        turns, order = Turns(1), []

        async def one(client: str, name: str) -> None:
            await turns.acquire(client)
            order.append(name)
            await asyncio.sleep(0)
            turns.release()

        await turns.acquire("x")
        tasks = [asyncio.create_task(one("a", f"a{i}")) for i in range(3)]
        await asyncio.sleep(0)
        tasks += [asyncio.create_task(one("b", f"b{i}")) for i in range(2)]
        await asyncio.sleep(0)
        assert turns.num_waiting == 5
        turns.release()
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(go()) == ["a0", "b0", "a1", "b1", "a2"]


def test_a_waiter_that_leaves_loses_no_place() -> None:
    async def go() -> None:
        turns = Turns(1)
        await turns.acquire("x")
        waiting = [asyncio.create_task(turns.acquire(name)) for name in "ab"]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        turns.release()
        waiting[1].cancel()  # just as the place is given to it
        await asyncio.gather(*waiting, return_exceptions=True)
        await asyncio.wait_for(turns.acquire("c"), 1)
        assert turns.num_waiting == 0

    asyncio.run(go())


def test_bytes_are_bounded_but_one_alone_always_fits() -> None:
    async def go() -> None:
        budget = ByteBudget(100)
        budget.take(500)
        with pytest.raises(ApiError) as refusal:
            budget.take(1)
        assert refusal.value.status == 429
        waiting = asyncio.create_task(budget.wait(60))
        await asyncio.sleep(0)
        assert not waiting.done()
        await budget.give_back(500)
        await asyncio.wait_for(waiting, 1)
        budget.take(40)
        with pytest.raises(ApiError):
            budget.take(1)

    asyncio.run(go())
