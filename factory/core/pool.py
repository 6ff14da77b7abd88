"""Tasks on the cores of this machine, or of a cluster: small ids in, small records out, in a window.

A task owns a whole shard and may run twice without harm, so a worker that dies costs time and nothing else. The
caller's ledger, not the pool, is the truth.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait as wait_connections
from typing import TYPE_CHECKING, Any, TypeVar

from factory.core.malloc import keep_freed_memory
from manifests.errors import FaultError

if TYPE_CHECKING:
    from factory.core.cluster import Cluster

Result = TypeVar("Result")
Task = Callable[[int, Any, Callable[[], None]], Result]
"""A task: (id, payload, tick) -> record. It calls `tick` after each tile. Must be picklable."""

WINDOW = 2
MAX_CRASHES = 3
_POLL_S = 0.2

_ticks: Any = None


def run_tasks(
    task: Task[Result],
    ids: Sequence[int],
    payload_of: Callable[[int], Any],
    *,
    workers: int,
    cluster: Cluster | None = None,
    on_ticks: Callable[[int], None] = lambda ticks: None,
) -> Iterator[tuple[int, Result]]:
    """Run a task for every id; yields (id, record) as they finish, in any order.

    Args:
        task: sent to each worker with every id.
        ids: of the tasks.
        payload_of: input of a task for its id, called when the task is submitted.
        workers: processes on this machine; 1 runs in this process.
        cluster: to use instead; see `factory.core.cluster.open_cluster`.
        on_ticks: called with the number of ticks so far; not by a cluster.

    Raises:
        FaultError: when workers keep dying.
    """
    if cluster is not None:
        yield from cluster.run(task, ids, payload_of)
    elif workers <= 1 or len(ids) <= 1:
        yield from _here(task, ids, payload_of, on_ticks)
    else:
        yield from _on_processes(task, ids, payload_of, min(workers, len(ids)), on_ticks)


def _here(
    task: Task[Result], ids: Sequence[int], payload_of: Callable[[int], Any], on_ticks: Callable[[int], None]
) -> Iterator[tuple[int, Result]]:
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1
        on_ticks(ticks)

    for number in ids:
        yield number, task(number, payload_of(number), tick)


def _on_processes(
    task: Task[Result],
    ids: Sequence[int],
    payload_of: Callable[[int], Any],
    workers: int,
    on_ticks: Callable[[int], None],
) -> Iterator[tuple[int, Result]]:
    """Local processes; a pool whose worker was killed is rebuilt for the remaining ids."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["factory.core.pool", "numpy", "cv2", "numba", "pyarrow.parquet"])
    ticks = context.Value("q", 0)
    left, crashes = list(ids), 0
    while left:
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(ticks,))
        try:
            for number, result in _windowed(pool, task, left, payload_of, workers, lambda: on_ticks(ticks.value)):
                left.remove(number)
                crashes = 0
                yield number, result
            pool.shutdown()
        except BrokenProcessPool:
            crashes += 1
            pool.shutdown(wait=False, cancel_futures=True)
            if crashes >= MAX_CRASHES:
                raise FaultError(
                    f"workers: expected them to live, got {crashes} killed in a row at shards {left[: 2 * workers]}. "
                    "Memory is the usual reason: use fewer --workers and run the same command again."
                ) from None
        except BaseException:
            _stop(pool)
            raise


def _windowed(
    pool: ProcessPoolExecutor,
    task: Task[Result],
    ids: Sequence[int],
    payload_of: Callable[[int], Any],
    workers: int,
    poll: Callable[[], None],
) -> Iterator[tuple[int, Result]]:
    waiting = list(reversed(ids))
    running: dict[Future[Result], int] = {}
    while waiting or running:
        while waiting and len(running) < WINDOW * workers:
            number = waiting.pop()
            running[pool.submit(_run, task, number, payload_of(number))] = number
        finished, _ = wait(running, timeout=_POLL_S, return_when=FIRST_COMPLETED)
        poll()
        for future in finished:
            yield running.pop(future), future.result()


def _run(task: Task[Result], number: int, payload: Any) -> Result:
    return task(number, payload, _tick)


def _tick() -> None:
    with _ticks.get_lock():
        _ticks.value += 1


def _start_worker(ticks: Any) -> None:
    """Set up a worker process: one thread for each library, ignores Ctrl-C, ends with its parent."""
    global _ticks
    _ticks = ticks
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    keep_freed_memory()
    single_threaded()
    parent = mp.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()


def single_threaded() -> None:
    """Keep OpenCV to one thread: shards run in parallel. Our numba kernels have one thread anyway."""
    with suppress(ImportError):
        import cv2

        cv2.setNumThreads(1)


def _die_with(sentinel: int) -> None:
    wait_connections([sentinel])
    os._exit(1)


def _stop(pool: ProcessPoolExecutor) -> None:
    """End the workers at once; unpublished work is lost."""
    processes = list((getattr(pool, "_processes", None) or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(timeout=5)


@contextmanager
def worker_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads, for decoders, which release the interpreter's lock.

    Leaving the block waits for running tasks and drops those that have not begun, so that an interrupt ends at once.
    """
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
