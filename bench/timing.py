"""Timing that the benchmarks share."""

import os
import resource
import statistics
import time
from collections.abc import Callable


def median_seconds(
    work: Callable[[], object], repeats: int = 5, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Median time of `work` over some repeats, after one that is not counted; wall time, or by another clock."""
    return statistics.median(seconds_of(work, repeats, clock))


def seconds_of(work: Callable[[], object], repeats: int, clock: Callable[[], float]) -> list[float]:
    """Time of every repeat, after one that is not counted."""
    work()
    seconds = []
    for _ in range(repeats):
        started = clock()
        work()
        seconds.append(clock() - started)
    return seconds


def chosen_clock() -> Callable[[], float]:
    """Wall time, or with FACTORY_BENCH_CLOCK=cpu that of the processor, for a machine that does other work too."""
    return time.process_time if os.environ.get("FACTORY_BENCH_CLOCK") == "cpu" else time.perf_counter


def peak_mb(who: int = resource.RUSAGE_SELF) -> float:
    """Largest resident size so far, in MB: of this process, or of the largest of its children."""
    return resource.getrusage(who).ru_maxrss / 1e3
