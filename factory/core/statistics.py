"""Statistics that several reports share: bootstrap intervals, Kolmogorov-Smirnov, Wilson.

The bootstrap draws images with replacement, or groups of images (patients, slides, regions) where these are known:
images of one patient are alike, and an interval that takes them for independent is too narrow.

Intervals are percentiles of the draws (Efron and Tibshirani 1993, chapter 13). A percentile interval stays within the
range of the metric and exists where all images have the same score (BCa has no acceleration there). With few groups it
is too narrow: a nominal 95 % interval covered 89 % of 1000 samples of 8 normal scores, 92 % of 16 and 95 % of 30.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

FEWEST_GROUPS = 5
"""With fewer groups than this, draws of whole groups say little."""

_BLOCK_CELLS = 2**22  # numbers in memory at a time, for any number of images
_Z = 1.959963984540054  # quantile of the normal distribution at 0.975


@dataclass(frozen=True)
class Interval:
    """Lower and upper end of an interval; NaN where there is none."""

    low: float
    high: float


def bootstrap_means(
    values: Floats,
    *,
    rng: np.random.Generator,
    groups: Sequence[Hashable] | None = None,
    resamples: int = 2000,
    level: float = 0.95,
) -> tuple[Interval, ...]:
    """Returns intervals of the means over images of several figures, all from the same draws.

    For a paired difference of two methods on the same images, pass the differences.

    Args:
        values: float64 [n, M], M figures of n images; NaN (nothing to score) is left out of its mean.
        rng: generator of the draws.
        groups: group of each image; images of one group are drawn together. None draws single images.
        resamples: number of draws.
        level: nominal coverage.

    Returns:
        One interval per figure; NaN where fewer than two groups have a value.
    """
    known = ~np.isnan(values)
    parts = np.hstack([np.where(known, values, 0.0), known])
    figures = values.shape[1]

    def means(sums: Floats) -> Floats:
        total, count = sums[:figures], sums[figures:]
        return np.divide(total, count, out=np.full(total.shape, nan), where=count > 0)

    return bootstrap_pooled(parts, means, rng=rng, groups=groups, resamples=resamples, level=level)


def bootstrap_pooled(
    parts: Floats,
    pool: Callable[[Floats], npt.ArrayLike],
    *,
    rng: np.random.Generator,
    groups: Sequence[Hashable] | None = None,
    resamples: int = 2000,
    level: float = 0.95,
) -> tuple[Interval, ...]:
    """Returns intervals of figures that are computed from sums over images.

    Args:
        parts: float64 [n, K], what each of n images adds to K sums.
        pool: from the K sums to the figures, NaN where there is nothing to score; such draws are left out.
        rng, groups, resamples, level: as in `bootstrap_means`.

    Returns:
        One interval per figure of `pool`; NaN where fewer than two groups, each taken alone, have a value.
    """
    sums = parts if groups is None else group_sums(parts, groups)
    figures = np.array([pool(row) for block in resampled_sums(sums, rng, resamples) for row in block], np.float64)
    alone = np.array([pool(row) for row in sums], np.float64)
    counts = np.count_nonzero(~np.isnan(alone), axis=0)
    return tuple(
        percentile_interval(column, level) if count > 1 else Interval(nan, nan)
        for column, count in zip(figures.T, counts, strict=True)
    )


def group_numbers(groups: Sequence[Hashable]) -> Places:
    """Returns the number of each image's group, intp [n], counted from 0 in the order of first appearance."""
    number_of = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    return np.array([number_of[group] for group in groups], np.intp)


def group_sums(parts: Floats, groups: Sequence[Hashable]) -> Floats:
    """Sums the rows [n, K] of each group: float64 [G, K], groups in the order of first appearance."""
    if len(groups) != len(parts):
        raise ValueError(f"expected a group for each of {len(parts)} images, got {len(groups)}")
    numbers = group_numbers(groups)
    sums = np.zeros((numbers.max(initial=-1) + 1, parts.shape[1]))
    np.add.at(sums, numbers, parts)
    return sums


def resampled_sums(parts: Floats, rng: np.random.Generator, resamples: int) -> Iterator[Floats]:
    """Yields sums over as many rows as there are, drawn with replacement: float64 [resamples, K], in blocks."""
    step = max(1, _BLOCK_CELLS // max(parts.shape))
    for start in range(0, resamples, step):
        yield times_drawn(rng, len(parts), min(step, resamples - start)) @ parts


def times_drawn(rng: np.random.Generator, count: int, resamples: int) -> Floats:
    """Returns how often each of `count` items occurs in `count` draws with replacement: float64 [resamples, count]."""
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)


def enough_groups(groups: Sequence[Hashable] | None) -> bool:
    """Returns whether there are at least `FEWEST_GROUPS` groups, so that whole groups can be drawn."""
    return groups is not None and len(set(groups)) >= FEWEST_GROUPS


def draw_groups(rng: np.random.Generator, numbers: Places) -> Places:
    """Draws as many whole groups as there are, with replacement, and returns the places of their images.

    Args:
        rng: generator of the draw. numbers: intp [n], group of each image; every number from 0 occurs.
    """
    count = int(numbers.max()) + 1
    return np.concatenate([np.flatnonzero(numbers == group) for group in rng.integers(0, count, count)])


def percentile_interval(values: Floats, level: float = 0.95) -> Interval:
    """Returns the middle `level` of the values [n]; NaN values are left out, and the interval of none is NaN."""
    known = values[~np.isnan(values)]
    if not known.size:
        return Interval(nan, nan)
    low, high = np.quantile(known, ((1 - level) / 2, (1 + level) / 2))
    return Interval(float(low), float(high))


def ks_statistic(first: Floats, second: Floats) -> float:
    """Returns the largest difference of two empirical distribution functions (Kolmogorov-Smirnov), in 0..1.

    Args:
        first, second: float64 [n] and [m]; NaN values are left out.

    Returns:
        NaN where either has no value.
    """
    first, second = (np.sort(side[~np.isnan(side)]) for side in (first, second))
    if not len(first) or not len(second):
        return nan
    joint = np.concatenate([first, second])
    shares = [np.searchsorted(side, joint, "right") / len(side) for side in (first, second)]
    return float(np.abs(shares[0] - shares[1]).max())


def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """Returns the 95 % interval of a share (Wilson 1927), without continuity correction; `total` is at least 1."""
    share, z2 = count / total, _Z * _Z
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z / (1 + z2 / total) * sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    # At the ends the formula gives 0 and 1, up to rounding.
    return (0.0 if count == 0 else middle - half), (1.0 if count == total else middle + half)
