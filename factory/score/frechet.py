"""Frechet distance of two sets of features, its interval, and what it would be without the bias of small samples.

d^2 = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Dowson and Landau 1982; Heusel et al. 2017, Eq. 6), as everyone
reports it, unrooted. With factors S = F' F the last trace is the sum of the singular values of F1 F2': no root of a
matrix, no complex numbers, and exact where there are fewer tiles than features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numpy as np

from factory.core.statistics import Floats, Places, draw_groups, enough_groups, percentile_interval

_FEWEST = 8  # tiles in the smallest subsets of the extrapolation


def frechet_distance(features: Floats, others: Floats) -> float:
    """Frechet distance of two sets of vectors; symmetric, 0 for equal ones.

    Args:
        features, others: float64 [n, d] and [m, d], n and m at least 2; S is unbiased (n - 1).
    """
    difference = features.mean(0) - others.mean(0)
    first, second = _factor(features), _factor(others)
    cross = np.linalg.svd(first @ second.T, compute_uv=False).sum()
    spread = np.square(first).sum() + np.square(second).sum()
    return float(max(0.0, difference @ difference + spread - 2 * cross))


def _factor(features: Floats) -> Floats:
    """F with F' F = the covariance, float64 [min(n, d), d]."""
    centred: Floats = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    if len(centred) <= centred.shape[1]:
        return centred
    return np.asarray(np.linalg.qr(centred, mode="r"), np.float64)


@dataclass(frozen=True)
class Extrapolation:
    """The distance over sample sizes, and what its line reaches at 1 / N = 0.

    Attributes:
        sizes: N. distances: their mean distances. limit: the intercept. slope: per 1 / N. r_squared: of the fit.
        reliable: whether the smallest N is above the number of features, below which the bias is no line in 1 / N.
    """

    sizes: tuple[int, ...]
    distances: tuple[float, ...]
    limit: float
    slope: float
    r_squared: float
    reliable: bool


def extrapolate(features: Floats, others: Floats, rng: np.random.Generator, sizes: int = 10) -> Extrapolation:
    """Frechet distance extrapolated to endless samples (Chong and Forsyth 2020, section 4).

    Their line is fitted over sizes evenly spread in N with one random subset each, one side being fixed. Here both
    sides are small, so both are cut to N; sizes are evenly spread in 1 / N from a quarter of the tiles up; and at each
    size the tiles are shuffled and cut into disjoint subsets, two rounds of it, so that every tile counts alike.

    Args:
        features, others: float64 [n, d] and [m, d]; the smaller number counts. rng: of the draws. sizes: how many N.
    """
    count = min(len(features), len(others))
    least = min(count, max(_FEWEST, -(-count // 4)))
    inverse = np.linspace(1 / count, 1 / least, sizes)
    chosen = list(dict.fromkeys(int(size) for size in np.round(1 / inverse)))
    distances = np.array([_mean_distance(features, others, size, rng) for size in chosen])
    over = 1 / np.array(chosen, np.float64)
    if len(chosen) < 3:
        return Extrapolation(tuple(chosen), tuple(distances.tolist()), nan, nan, nan, False)
    slope, limit = np.polyfit(over, distances, 1)
    residual = np.square(distances - (limit + slope * over)).sum()
    total = np.square(distances - np.mean(distances)).sum()
    r_squared = 1 - residual / total if total > 0 else 1.0
    reliable = chosen[-1] > features.shape[1]
    return Extrapolation(
        tuple(chosen), tuple(distances.tolist()), float(limit), float(slope), float(r_squared), bool(reliable)
    )


def _mean_distance(features: Floats, others: Floats, size: int, rng: np.random.Generator) -> float:
    found = []
    for _ in range(2):
        first, second = rng.permutation(len(features)), rng.permutation(len(others))
        for start in range(0, min(len(first), len(second)) - size + 1, size):
            part = slice(start, start + size)
            found.append(frechet_distance(features[first[part]], others[second[part]]))
    return float(np.mean(found))


def bootstrap_interval(
    fakes: Floats,
    reals: Floats,
    rng: np.random.Generator,
    *,
    groups: Sequence[str] | None = None,
    resamples: int = 200,
    level: float = 0.95,
) -> tuple[float, float]:
    """Interval of the Frechet distance at this number of tiles.

    Fakes are drawn with replacement one by one, reals too, or by whole groups where there are at least five. A draw
    holds tiles twice, which by itself makes the distance larger; so the draws are moved to have their mean at the
    estimate. The interval says how much the distance of so many tiles varies, not how far it is from its limit.

    Args:
        fakes, reals: float64 [n, d] and [m, d]. rng: of the draws. groups: of the reals. resamples, level: as they say.
    """
    estimate = frechet_distance(fakes, reals)
    draws = np.array(
        [
            frechet_distance(fakes[_draw(rng, len(fakes), None)], reals[_draw(rng, len(reals), groups)])
            for _ in range(resamples)
        ]
    )
    ends = percentile_interval(draws - draws.mean() + estimate, level)
    return max(0.0, ends.low), ends.high


def _draw(rng: np.random.Generator, count: int, groups: Sequence[str] | None) -> Places:
    if groups is None or not enough_groups(groups):
        return rng.integers(0, count, count)
    _, members = np.unique(np.asarray(groups), return_inverse=True)
    while True:
        places = draw_groups(rng, members)
        if len(places) > 1:  # a covariance needs two
            return places
