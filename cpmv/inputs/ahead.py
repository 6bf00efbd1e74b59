"""Jobs done by threads ahead of whoever waits for their results, in order, a bounded number at a time.

Made for frames of a video: decoding (FFmpeg's own threads), resizing (Pillow) and hashing all let go of the
interpreter, so a few Python threads keep many cores busy.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
_POLL_S = 0.1  # how long a full queue is waited for before asking whether anyone still wants it


def available_cores() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_ahead(jobs: Iterable[Callable[[], T]], num_threads: int, window: int) -> Generator[T, None, None]:
    """Yield the results of jobs in their order.

    The iterable itself is advanced on one thread and jobs are run on `num_threads` others, at most `window` of them
    begun or waiting to be taken. With fewer than two of either, everything happens in the caller's thread. An exception
    of a job, or of the iterable, is raised where its result would have come. Closing the generator stops the threads.
    """
    if num_threads < 2 or window < 2:
        for job in jobs:
            yield job()
        return
    # A place in the window is held from before a job is asked for until its result has been taken.
    places = threading.Semaphore(window)
    results: queue.SimpleQueue[Future[T] | None] = queue.SimpleQueue()
    stop = threading.Event()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="cpmv-frames") as pool:
        feeder = threading.Thread(
            target=_feed, args=(jobs, pool, places, results, stop), name="cpmv-decode", daemon=True
        )
        feeder.start()
        try:
            while (future := results.get()) is not None:
                value = future.result()
                del future  # it would keep the value alive while the caller works
                yield value
                del value
                places.release()
        finally:
            stop.set()
            feeder.join()
            pool.shutdown(cancel_futures=True)


def _feed(
    jobs: Iterable[Callable[[], T]],
    pool: ThreadPoolExecutor,
    places: threading.Semaphore,
    results: queue.SimpleQueue[Future[T] | None],
    stop: threading.Event,
) -> None:
    """Ask for jobs and hand them to the pool until they end, fail, or nobody wants them any more."""
    try:
        iterator = iter(jobs)
        while True:
            while not places.acquire(timeout=_POLL_S):
                if stop.is_set():
                    return
            if stop.is_set():
                return
            job = next(iterator, None)
            if job is None:
                break
            results.put(pool.submit(job))
            del job
    except BaseException as error:
        failed: Future[T] = Future()
        failed.set_exception(error)
        results.put(failed)
    results.put(None)
