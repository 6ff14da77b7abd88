"""Timing that the benchmarks share."""

import resource
import statistics
import time
from collections.abc import Callable


def median_seconds(
    work: Callable[[], object], repeats: int = 5, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Median time of `work` over some repeats, after one that is not counted; wall time, or by another clock."""
    work()
    seconds = []
    for _ in range(repeats):
        started = clock()
        work()
        seconds.append(clock() - started)
    return statistics.median(seconds)


def peak_mb(who: int = resource.RUSAGE_SELF) -> float:
    """Largest resident size so far, in MB: of this process, or of the largest of its children."""
    return resource.getrusage(who).ru_maxrss / 1e3
