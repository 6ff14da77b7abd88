"""Intervals of scores over seeds and test images, and the size of a difference.

A score depends on the training (the seed) and on the image, and the two are crossed: every seed scores every image.
So both are resampled, independently and with replacement (the pigeonhole bootstrap: Owen 2007, Annals of Applied
Statistics 1(2)); images of one patient are resampled together. The interval of a difference resamples the differences
of pairs, the same seed and the same image in both arms, so what an image or a seed does to both cancels out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from factory.core.statistics import Floats, Interval, group_numbers, percentile_interval, times_drawn
from segment.compare.config import BootstrapConfig


@dataclass(frozen=True)
class Estimate:
    """A mean with its percentile interval; NaN where there is nothing to average.

    Attributes:
        mean: over all pairs of seed and image that have a value.
        low, high: of the interval; NaN with fewer than two patients, of which nothing can be said.
        seeds, images, patients: that have a value.
    """

    mean: float
    low: float
    high: float
    seeds: int
    images: int
    patients: int


def bootstrap_mean(values: Floats, groups: Sequence[str], config: BootstrapConfig) -> Estimate:
    """Mean of scores (or of paired differences of scores) over seeds and images, with its interval.

    A single seed is not resampled: the interval is then about patients alone.

    Args:
        values: float64 [seeds, images]; NaN = nothing to score, left out of every mean.
        groups: patient or slide of each image: those of one group are drawn together.
        config: how many resamples, which level.

    Raises:
        ValueError: when `groups` does not fit.
    """
    return _bootstrap(values, np.ones_like(values), groups, config)


def bootstrap_relative(
    differences: Floats, reference: Floats, groups: Sequence[str], config: BootstrapConfig
) -> Estimate:
    """Mean difference as a share of the mean that it is a difference to, with its interval.

    Both means are over the same pairs of seed and image, and both are drawn anew in every resample.

    Args:
        differences: float64 [seeds, images]; NaN = nothing to score. reference: the same, what was subtracted.
        groups: as for `bootstrap_mean`. config: likewise.
    """
    return _bootstrap(differences, reference, groups, config)


def _bootstrap(values: Floats, divisor: Floats, groups: Sequence[str], config: BootstrapConfig) -> Estimate:
    """Sum of values over sum of divisors, of the pairs that have both; NaN where the divisors sum up to 0 or less."""
    if values.ndim != 2 or values.shape[1] != len(groups) or divisor.shape != values.shape:
        raise ValueError(f"expected [seeds, images] with a group for each image, got {values.shape}, {len(groups)}")
    known = ~np.isnan(values) & ~np.isnan(divisor)
    if not known.any() or divisor[known].sum() <= 0:
        return Estimate(math.nan, math.nan, math.nan, 0, 0, 0)
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
    ends = percentile_interval(means, config.level) if patients > 1 else Interval(math.nan, math.nan)
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
    return float(per_image.mean() / spread) if spread > 0 else math.nan
