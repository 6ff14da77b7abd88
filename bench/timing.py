"""Timing that the benchmarks share."""

import resource
import statistics
import time
from collections.abc import Callable


def median_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Median wall time of `work` over some repeats, after one that is not counted."""
    work()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def peak_mb(who: int = resource.RUSAGE_SELF) -> float:
    """Largest resident size so far, in MB: of this process, or of the largest of its children."""
    return resource.getrusage(who).ru_maxrss / 1e3
