"""Who runs next. No tensors here: requests with token counts in, a list of `Work` out, once a step.

Rows that decode come first, so that answers keep flowing; prompts are read beside them, `prefill_chunk` tokens a step
in all. Between clients, whoever has been given the least work goes first; within one, first come, first served.
When blocks run out, the row admitted last gives up its own and is computed again later, its tokens kept. The row
admitted first never gives way, so something always finishes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import islice

from .blocks import BlockPool
from .request import Request

# After a lack of memory: prompts are read at least so many tokens a step, and so many good steps restore something.
_LEAST_BUDGET = 16
_STEPS_TO_RECOVER = 32


@dataclass
class Work:
    """Compute tokens [start, start + count) of a request, then the drafts after them.

    decides: whether its last token is reached, so that the next one can be chosen. `drafts` are guesses to verify.
    """

    request: Request
    start: int
    count: int
    decides: bool
    drafts: list[int] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return self.count + len(self.drafts)


class Scheduler:
    """max_batch: rows that run together. prefill_chunk: prompt tokens a step; undisturbed_chunk: in a step in which no
    row decodes, if that is more.

    deterministic: nothing may depend on what else runs. Prompts are read in whole chunks from their beginning, only
    whole chunks are shared, and a row that gave way decodes its answer again token by token.
    """

    def __init__(
        self,
        pool: BlockPool,
        max_batch: int,
        prefill_chunk: int,
        *,
        undisturbed_chunk: int = 0,
        deterministic: bool = False,
    ) -> None:
        self.pool, self.max_batch = pool, max_batch
        self.prefill_chunk, self.undisturbed_chunk = prefill_chunk, undisturbed_chunk
        self.budget, self.row_limit = prefill_chunk, max_batch  # of the coming step; smaller after a lack of memory
        self._good_steps = 0
        self.deterministic = deterministic
        self.running: list[Request] = []  # in order of admission
        self._waiting: dict[str, deque[Request]] = {}
        self._served: dict[str, int] = {}  # tokens of work given to each client that is here
        self._slots = list(range(max_batch - 1, -1, -1))
        self._pending: dict[bytes, Request] = {}  # keys of prompt blocks that a running row will publish
        self.num_waiting = 0  # counted, because other threads ask while queues change
        self.num_preemptions = 0
        self.num_cached_tokens = 0
        self.num_prompt_tokens = 0

    @property
    def has_work(self) -> bool:
        return bool(self.running) or bool(self._waiting)

    def requests(self) -> list[Request]:
        """All requests here, running ones first."""
        return [*self.running, *(request for queue in self._waiting.values() for request in queue)]

    def add(self, request: Request) -> None:
        """Queue a request that fits the pool."""
        self._enter(request).append(request)
        self.num_waiting += 1

    def _enter(self, request: Request) -> deque[Request]:
        client = request.client
        if client not in self._served:
            # A newcomer starts level with the least served, so it neither waits for nor overtakes the past.
            self._served[client] = min(self._served.values(), default=0)
        return self._waiting.setdefault(client, deque())

    def remove(self, request: Request) -> None:
        """Let a request go, finished or not; its blocks are free."""
        if request.slot is not None:
            self.running.remove(request)
            self._vacate(request)
        else:
            queue = self._waiting[request.client]
            queue.remove(request)
            self.num_waiting -= 1
            if not queue:
                del self._waiting[request.client]
        client = request.client
        if client not in self._waiting and all(other.client != client for other in self.running):
            del self._served[client]

    def _vacate(self, request: Request) -> None:
        assert request.slot is not None
        self._slots.append(request.slot)
        request.slot = None
        self.pool.release(request.blocks)
        request.blocks = []
        request.num_computed = request.num_published = 0
        self._stop_pending(request)

    def _stop_pending(self, request: Request) -> None:
        for key in request.keys.keys:
            if self._pending.get(key) is request:
                del self._pending[key]

    def schedule(self) -> list[Work]:
        """Plan one step. Blocks for everything planned are owned when it returns."""
        works: list[Work] = []
        for request in list(self.running):
            if request.slot is not None and request.num_left == 1:  # it may have given way to one before it
                self._plan_decode(request, works)
        self._plan_prompts(works)
        return works

    def plan_next(self, works: list[Work]) -> list[Work] | None:
        """Plan the step after one of these works alone, whose tokens are not known yet: one more for each row.

        None, when blocks would have to be taken from someone.
        """
        if not all(self._grow(work.request, work.start + work.count + 1) for work in works):
            return None
        for work in works:
            self._served[work.request.client] += 1
        return [Work(work.request, work.start + work.count, 1, True) for work in works]

    def _plan_prompts(self, works: list[Work]) -> None:
        """Spend the budget on prompts: those being read and those still waiting, the least served client's first."""
        budget = self.budget
        if not works and budget == self.prefill_chunk and not self.deterministic:
            budget = max(budget, self.undisturbed_chunk)
        reading = [request for request in self.running if request.num_left > 1]
        may_admit = True
        while budget > 0:
            may_admit = may_admit and bool(self._waiting) and len(self.running) < self.row_limit
            request = min(reading, key=lambda one: self._served[one.client], default=None)
            if may_admit and (request is None or self._least_served_waiting() < self._served[request.client]):
                request = self._admit()
                if request is None:
                    may_admit = False
                    continue
            elif request is None:
                return
            else:
                reading.remove(request)
            budget -= self._plan_prefill(request, works, budget)

    def _least_served_waiting(self) -> int:
        return min(self._served[client] for client in self._waiting)

    def _plan_decode(self, request: Request, works: list[Work]) -> None:
        while not self._grow(request, len(request.tokens)):
            victim = self.running[-1]
            works[:] = [work for work in works if work.request is not victim]
            self.preempt(victim)
            if victim is request:
                return
        drafts: list[int] = []
        if request.lookup is not None:
            drafts = request.lookup.draft(request.max_tokens - len(request.tokens) - 1)
            if drafts and not self._grow(request, len(request.tokens) + len(drafts)):
                drafts = []  # guesses are not worth anyone's place
        works.append(Work(request, request.num_computed, 1, True, drafts))
        self._served[request.client] += works[-1].num_tokens

    def _plan_prefill(self, request: Request, works: list[Work], budget: int) -> int:
        count = min(request.num_left, budget)
        if self.deterministic:
            if request.num_computed >= request.num_prompt:
                count = 1  # its answer was decoded token by token, and is again
            else:
                # The chunk in which a position is computed depends on the prompt alone.
                chunk = self.prefill_chunk
                end = min(request.num_prompt, (request.num_computed // chunk + 1) * chunk)
                count = end - request.num_computed
        decides = count == request.num_left
        works.append(Work(request, request.num_computed, count, decides))
        self._served[request.client] += count
        return count

    def _grow(self, request: Request, num_tokens: int) -> bool:
        """Own blocks for so many tokens; false, with nothing changed, when there are none."""
        missing = self.pool.blocks_for(num_tokens) - len(request.blocks)
        if missing <= 0:
            return True
        taken = self.pool.take(missing)
        if taken is None:
            return False
        request.blocks += taken
        return True

    def preempt(self, request: Request) -> None:
        """Take a running row's place and blocks; it waits first in its client's queue, its tokens kept."""
        self.running.remove(request)
        self._vacate(request)
        self._waiting.setdefault(request.client, deque()).appendleft(request)
        self.num_waiting += 1
        request.timing.num_preemptions += 1
        self.num_preemptions += 1

    def _admit(self) -> Request | None:
        """Let the next request in that may and can run."""
        for client in sorted(self._waiting, key=lambda name: self._served[name]):
            # A bounded look: thousands may wait for one beginning.
            for request in islice(self._waiting[client], 2 * self.max_batch):
                if self._awaits_another(request):
                    continue  # what it shares will be there in a moment; those behind it need not wait
                if not self._seat(request):
                    return None  # whoever is next in turn gets the next free blocks
                self._waiting[client].remove(request)
                self.num_waiting -= 1
                if not self._waiting[client]:
                    del self._waiting[client]
                return request
        return None

    def _shareable(self, request: Request) -> list[bytes]:
        """Keys of the blocks it could take from others: never its last token, whose logits must be computed."""
        keys = request.keys.extend(request.tokens)
        size = self.pool.block_size
        count = (len(request.tokens) - 1) // size
        if self.deterministic:
            # Only whole chunks come out of the same computation whoever asked first.
            whole = (request.num_prompt - 1) // self.prefill_chunk * self.prefill_chunk
            count = min(count, whole // size)
        return keys[:count]

    def _awaits_another(self, request: Request) -> bool:
        """Whether a running row is about to publish a block that this request would otherwise compute as well."""
        keys = self._shareable(request)
        known = len(self.pool.match(keys))
        return known < len(keys) and keys[known] in self._pending

    def _seat(self, request: Request) -> bool:
        """Give a request a row and blocks for all it has so far, shared ones first; false when they do not suffice."""
        keys = self._shareable(request)
        shared = self.pool.match(keys)
        if self.deterministic:
            # Up to a whole chunk: the rest of a partly known one is computed as if nothing were known.
            per_chunk = self.prefill_chunk // self.pool.block_size
            shared = shared[: len(shared) // per_chunk * per_chunk]
        fresh = self.pool.blocks_for(len(request.tokens)) - len(shared)
        # One block to spare for each row that runs, or it would be pushed out again at once.
        spare = len(self.running)
        if fresh + self.pool.num_unowned(shared) + spare > self.pool.num_free:
            return False
        self.pool.share(shared)
        taken = self.pool.take(fresh)
        assert taken is not None
        request.blocks = shared + taken
        request.num_computed = len(shared) * self.pool.block_size
        request.num_published = len(shared)
        request.slot = self._slots.pop()
        self.running.append(request)
        for key in keys[len(shared) :]:
            self._pending.setdefault(key, request)
        if request.timing.num_preemptions == 0:
            request.timing.num_cached_tokens = request.num_computed
            self.num_cached_tokens += request.num_computed
            self.num_prompt_tokens += request.num_prompt
        return True

    def computed(self, request: Request, num_tokens: int) -> None:
        """Note that so many tokens are in the cache now, and publish the blocks that they fill."""
        request.num_computed = num_tokens
        size = self.pool.block_size
        full = num_tokens // size
        if self.deterministic:
            # A block is shared when every one of its positions came out of a whole chunk.
            full = min(full, request.num_prompt // self.prefill_chunk * self.prefill_chunk // size)
        if full <= request.num_published:
            return
        keys = request.keys.extend(request.tokens)
        for at in range(request.num_published, full):
            self.pool.publish(request.blocks[at], keys[at])
            if self._pending.get(keys[at]) is request:
                del self._pending[keys[at]]
        request.num_published = full

    def reduce(self) -> bool:
        """Plan less at once, for want of memory: shorter chunks first, then fewer rows. False when nothing is left."""
        self._good_steps = 0
        if self.undisturbed_chunk > self.prefill_chunk and any(request.num_left > 1 for request in self.running):
            self.undisturbed_chunk = 0
        elif self.budget > _LEAST_BUDGET and any(request.num_left > 1 for request in self.running):
            self.budget = max(_LEAST_BUDGET, self.budget // 2)
        elif len(self.running) > 1:
            self.row_limit = len(self.running) - 1
            self.preempt(self.running[-1])
        else:
            return False
        return True

    def recover(self) -> None:
        """Note a step that went well; after many of them, plan more at once again."""
        self._good_steps += 1
        if self._good_steps % _STEPS_TO_RECOVER == 0:
            self.budget = min(self.prefill_chunk, 2 * self.budget)
            self.row_limit = min(self.max_batch, self.row_limit + 1)

    def check_integrity(self) -> None:
        """Assert that rows, queues and blocks agree."""
        self.pool.check_integrity([request.blocks for request in self.requests()])
        slots = [request.slot for request in self.running]
        assert sorted([*self._slots, *(s for s in slots if s is not None)]) == list(range(self.max_batch))
        assert all(not r.blocks and r.slot is None for queue in self._waiting.values() for r in queue)
        assert all(request in self.running for request in self._pending.values()), "a key awaits a row that left"
        assert self.num_waiting == sum(map(len, self._waiting.values()))
        assert set(self._served) == {request.client for request in self.requests()}
