"""Statistics of reports and audits: bootstrap intervals, Kolmogorov-Smirnov, Wilson, thresholds.

The bootstrap draws images with replacement, or groups of images (patients, slides, regions) where these are known:
images of one patient are alike, and an interval that takes them for independent is too narrow.

Intervals are percentiles of the draws (Efron and Tibshirani 1993, chapter 13). A percentile interval stays within the
range of the metric and exists where all images have the same score (BCa has no acceleration there). With few groups it
is too narrow: a nominal 95 % interval covered 89 % of 1000 samples of 8 normal scores, 92 % of 16 and 95 % of 30.

Scores of several trainings (seeds) on the same images are crossed: every seed scores every image. There both seeds and
patients are resampled, independently (the pigeonhole bootstrap: Owen 2007, Annals of Applied Statistics 1(2)). The
interval of a difference resamples differences of pairs, the same seed and image in both arms, so that effects of an
image or a seed on both arms cancel out.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
import numpy.typing as npt
from pydantic import Field

from factory.core.config import Config

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


class BootstrapConfig(Config):
    """Percentile intervals by resampling seeds and patients.

    Attributes:
        resamples: their number. level: nominal coverage. seed: of the resampling.
    """

    resamples: int = Field(default=10_000, ge=100)
    level: float = Field(default=0.95, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class Estimate:
    """A mean with its percentile interval; NaN where there is nothing to average.

    Attributes:
        mean: over all pairs of seed and image with a value.
        low, high: of the interval; NaN with fewer than two patients.
        seeds, images, patients: their numbers, of those with a value.
    """

    mean: float
    low: float
    high: float
    seeds: int
    images: int
    patients: int


def crossed_bootstrap_mean(values: Floats, groups: Sequence[str], config: BootstrapConfig) -> Estimate:
    """Mean of scores (or of paired differences of scores) over seeds and images, with its interval.

    A single seed is not resampled: the interval is then of patients alone.

    Args:
        values: float64 [seeds, images]; NaN = nothing to score, left out of every mean.
        groups: patient or slide of each image; images of one group are drawn together.
        config: number of resamples, and level.

    Raises:
        ValueError: when `groups` does not match the images.
    """
    return _crossed_bootstrap(values, np.ones_like(values), groups, config)


def crossed_bootstrap_relative(
    differences: Floats, reference: Floats, groups: Sequence[str], config: BootstrapConfig
) -> Estimate:
    """Mean difference relative to the mean of the reference, with its interval.

    Both means are over the same pairs of seed and image, and both are resampled.

    Args:
        differences: float64 [seeds, images]; NaN = nothing to score. reference: the same shape, the subtracted scores.
        groups, config: as for `crossed_bootstrap_mean`.
    """
    return _crossed_bootstrap(differences, reference, groups, config)


def _crossed_bootstrap(values: Floats, divisor: Floats, groups: Sequence[str], config: BootstrapConfig) -> Estimate:
    """Sum of values over sum of divisors, of the pairs that have both; NaN where the divisors sum up to 0 or less."""
    if values.ndim != 2 or values.shape[1] != len(groups) or divisor.shape != values.shape:
        raise ValueError(f"expected [seeds, images] with a group for each image, got {values.shape}, {len(groups)}")
    known = ~np.isnan(values) & ~np.isnan(divisor)
    if not known.any() or divisor[known].sum() <= 0:
        return Estimate(nan, nan, nan, 0, 0, 0)
    rng = np.random.default_rng(config.seed)
    # With a whole seed missing (a failed training), it is not there to be drawn; likewise an image without a score.
    rows, columns = known.any(axis=1), known.any(axis=0)
    values, divisor = values[rows][:, columns], divisor[rows][:, columns]
    known = known[rows][:, columns]
    owners = group_numbers([groups[column] for column in np.flatnonzero(columns).tolist()])
    patients = int(owners.max()) + 1
    seed_weight = times_drawn(rng, values.shape[0], config.resamples)
    image_weight = times_drawn(rng, patients, config.resamples)[:, owners]
    total, count = (
        ((seed_weight @ np.where(known, array, 0.0)) * image_weight).sum(axis=1) for array in (values, divisor)
    )
    means = total[count > 0] / count[count > 0]
    ends = percentile_interval(means, config.level) if patients > 1 else Interval(nan, nan)
    mean = float(values[known].sum() / divisor[known].sum())
    seeds, images = values.shape
    return Estimate(mean, ends.low, ends.high, seeds, images, patients)


def cohens_dz(differences: Floats) -> float:
    """Cohen's d_z (Lakens 2013): mean over standard deviation of the images' differences, each averaged over seeds.

    Args:
        differences: float64 [seeds, images], of pairs; NaN left out.

    Returns:
        NaN for fewer than two images with a value, or where all differ by the same.
    """
    known = ~np.isnan(differences)
    counts = known.sum(axis=0)
    there = counts > 0
    per_image = np.where(known, differences, 0.0).sum(axis=0)[there] / counts[there]
    spread = per_image.std(ddof=1) if per_image.size > 1 else 0.0
    return float(per_image.mean() / spread) if spread > 0 else nan


def youden_threshold(values: npt.NDArray[np.float64], is_positive: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """The threshold with the highest balanced accuracy (Youden's J / 2 + 1/2), and that accuracy.

    The threshold is midway between two values. Of equally good thresholds the lowest is taken.

    Args:
        values: float64 [N]. is_positive: bool [N], with at least one of each kind.
    """
    order = np.argsort(values, kind="stable")
    ranked, positive = values[order], is_positive[order]
    below = np.cumsum(~positive) / np.count_nonzero(~positive)  # negatives at or below each value
    above = 1 - np.cumsum(positive) / np.count_nonzero(positive)
    accuracy = (below + above) / 2
    accuracy[:-1][ranked[:-1] == ranked[1:]] = -1  # equal values cannot be separated
    accuracy[-1] = 0.5
    best = int(np.argmax(accuracy))
    after = ranked[min(best + 1, ranked.size - 1)]
    return float((ranked[best] + after) / 2), float(accuracy[best])


def otsu_threshold(values: npt.NDArray[np.floating]) -> float:
    """The threshold between two groups with the largest variance between them (Otsu 1979).

    Exact, without a histogram: midway between two values. The value itself where all are equal.

    Args:
        values: [N], at least one.
    """
    ranked = np.sort(values.astype(np.float64).ravel())
    below = np.arange(1, ranked.size)
    sums = np.cumsum(ranked)
    gap = sums[:-1] / below - (sums[-1] - sums[:-1]) / (ranked.size - below)
    between = np.where(ranked[:-1] < ranked[1:], below * (ranked.size - below) * gap**2, -1.0)
    if not between.size or between.max() < 0:
        return float(ranked[0])
    best = int(np.argmax(between))
    return float((ranked[best] + ranked[best + 1]) / 2)
