"""Who gets in: a bound on requests under way, shared fairly between clients, and a bound on bytes held for them.

A request counts from the moment its head was read until its answer has been sent. Beyond the bound a client is told
to come back (429 with Retry-After) rather than left to wait for ever.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import ApiError, overloaded


class Admission:
    """Counts answers under way: `num_running` can be generated at once, `max_queue` more may wait.

    When three quarters are taken, a client that already has more than its equal share gets no more, so that others
    always find a place.
    """

    def __init__(self, num_running: int, max_queue: int) -> None:
        self._num_running, self._max = num_running, num_running + max_queue
        self._by_client: Counter[str] = Counter()
        self._seconds = 2.0  # what a request took, lately
        self.is_draining = False

    @property
    def num_under_way(self) -> int:
        return self._by_client.total()

    @contextmanager
    def enter(self, client: str, count: int = 1) -> Iterator[None]:
        """Hold `count` places while the request is served. Raises ApiError 429, or 503 while draining."""
        if self.is_draining:
            raise ApiError(503, "the server is shutting down", code="shutting_down", headers={"connection": "close"})
        total, own = self.num_under_way, self._by_client[client]
        if count > self._max:
            raise ApiError(400, f"n={count} is more than this server runs and queues ({self._max})", param="n")
        if total + count > self._max:
            raise overloaded("the queue is full; try again later", self._retry_after())
        clients = len([name for name, num in self._by_client.items() if num and name != client]) + 1
        share = max(self._max // (clients + 1), 1)
        if clients > 1 and total + count > self._max * 3 // 4 and own + count > share:
            raise overloaded("the queue is nearly full and you have your share of it; try later", self._retry_after())
        self._by_client[client] += count
        start = time.monotonic()
        try:
            yield
        finally:
            self._by_client[client] -= count
            if not self._by_client[client]:
                del self._by_client[client]
            self._seconds += 0.1 * (time.monotonic() - start - self._seconds)

    def _retry_after(self) -> float:
        """Seconds until about as many requests have been served as now wait."""
        waiting = max(0, self.num_under_way - self._num_running)
        return min(60.0, max(1.0, self._seconds * (1 + waiting / self._num_running)))


class ByteBudget:
    """Bounds bytes held at once. `take` refuses, `wait` waits; whoever is alone is always let in."""

    def __init__(self, max_bytes: int) -> None:
        self._max, self._held = max_bytes, 0
        self._changed = asyncio.Condition()

    def take(self, num_bytes: int) -> None:
        """Hold more bytes, or raise ApiError 429."""
        if self._held and self._held + num_bytes > self._max:
            raise overloaded("the server holds too much request data at once; try again later", 2)
        self._held += num_bytes

    async def wait(self, num_bytes: int) -> None:
        """Hold more bytes as soon as there is room."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._held or self._held + num_bytes <= self._max)
            self._held += num_bytes

    async def give_back(self, num_bytes: int) -> None:
        async with self._changed:
            self._held -= num_bytes
            self._changed.notify_all()

    def release(self, num_bytes: int) -> None:
        """As `give_back`, for bytes that nobody waits for."""
        self._held -= num_bytes
