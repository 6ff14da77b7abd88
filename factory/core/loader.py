"""Draws batches ahead of the training that uses them."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Batch = TypeVar("Batch")


class BatchLoader(Generic[Batch]):
    """Yields the batches of steps start..stop-1 in order, drawn ahead of the one in use by background threads.

    Args:
        draw: step -> batch; a function of the step alone, so that threads change only the speed.
        start, stop: the steps.
        threads: None takes one for four cores, at most four, because what draws uses several cores by itself.
        ahead: batches in memory besides the next one; None takes one more than there are threads.

    Attributes:
        waited_s: seconds that the consumer has waited for batches.
    """

    def __init__(
        self,
        draw: Callable[[int], Batch],
        start: int,
        stop: int,
        threads: int | None = None,
        *,
        ahead: int | None = None,
    ) -> None:
        self._draw, self._next, self._stop = draw, start, stop
        threads = threads or min(max((os.cpu_count() or 1) // 4, 1), 4)
        self._ahead = threads + 1 if ahead is None else ahead
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="batches")
        self._window: deque[Future[Batch]] = deque()
        self.waited_s = 0.0

    def __enter__(self) -> BatchLoader[Batch]:
        return self

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        while self._next < self._stop and len(self._window) <= self._ahead:
            self._window.append(self._pool.submit(self._draw, self._next))
            self._next += 1
        if not self._window:
            raise StopIteration
        started = time.perf_counter()
        batch = self._window.popleft().result()
        self.waited_s += time.perf_counter() - started
        return batch

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
