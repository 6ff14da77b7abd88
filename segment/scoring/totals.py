"""Totals of scored images: mean of their figures, and figures of their summed counts, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np

from factory.core.statistics import Interval, bootstrap_means, bootstrap_pooled
from segment.metrics import Floats
from segment.scoring.image_scores import ImageScore

RESAMPLES, LEVEL = 2000, 0.95


@dataclass(frozen=True)
class Total:
    """One figure over all images.

    Attributes:
        mean: over the images where it has a value. pooled: of the summed counts, NaN where it does not pool.
        mean_interval, pooled_interval: 95 % bootstrap intervals. left_out: images without a value.
    """

    mean: float
    mean_interval: Interval
    pooled: float
    pooled_interval: Interval
    left_out: int


@dataclass(frozen=True)
class Summary:
    """Figures of each image and of all.

    Attributes:
        names: of the images. figures: per image, all with the same keys. image_counts: per image.
        totals: per figure. counts: sums over the images. labels: classes of the maps. groups: their number.
    """

    names: tuple[str, ...]
    figures: tuple[Mapping[str, float], ...]
    image_counts: tuple[Mapping[str, int], ...]
    totals: Mapping[str, Total]
    counts: Mapping[str, int]
    labels: tuple[int, ...]
    groups: int


def summarise(scores: Sequence[ImageScore], *, seed: int) -> Summary:
    """Figures of each image and of all.

    Args:
        scores: one or more, all of one kind.
        seed: of the bootstrap.
    """
    kind = type(scores[0].sums)
    labels = sorted({label for score in scores for label in score.sums.labels})
    rows = np.array([score.sums.row(labels) for score in scores])

    def pool(row: Floats) -> list[float]:
        return list(kind.from_row(row, labels).figures.values())

    # Every image has the figures of all classes, NaN for a class that is not in it.
    figures = [kind.from_row(row, labels).figures | score.alone for row, score in zip(rows, scores, strict=True)]
    pooled = kind.from_row(rows.sum(axis=0), labels).figures
    groups = [score.group for score in scores]
    values = np.array([list(of_image.values()) for of_image in figures])
    mean_intervals = bootstrap_means(
        values, rng=np.random.default_rng(seed), groups=groups, resamples=RESAMPLES, level=LEVEL
    )
    pooled_intervals = bootstrap_pooled(
        rows, pool, rng=np.random.default_rng(seed), groups=groups, resamples=RESAMPLES, level=LEVEL
    )
    interval_of = dict(zip(pooled, pooled_intervals, strict=True))
    totals = {}
    for name, column, interval in zip(figures[0], values.T, mean_intervals, strict=True):
        known = column[~np.isnan(column)]
        mean = float(known.mean()) if known.size else nan
        totals[name] = Total(
            mean, interval, pooled.get(name, nan), interval_of.get(name, Interval(nan, nan)), len(scores) - known.size
        )
    counts = {name: sum(score.counts[name] for score in scores) for name in scores[0].counts}
    return Summary(
        tuple(score.name for score in scores),
        tuple(figures),
        tuple(score.counts for score in scores),
        totals,
        counts,
        tuple(labels),
        len(set(groups)),
    )
