"""Distances of two sets of feature vectors: Frechet distance, kernel distance, precision, recall, density, coverage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import nan

import numpy as np
from scipy.spatial.distance import cdist

from factory.core.statistics import Floats, Places, draw_groups, enough_groups, percentile_interval

_FEWEST = 8  # tiles in the smallest subsets of the extrapolation
_LARGEST_SUBSET = 100  # tiles in a subset of the kernel distance


def frechet_distance(features: Floats, others: Floats) -> float:
    """Returns the squared Frechet distance of two sets of vectors; symmetric, 0 for equal sets.

    d^2 = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Dowson and Landau 1982; Heusel et al. 2017, Eq. 6), without a
    root, as is usual. With factors S = F' F the last trace is the sum of the singular values of F1 F2'. This needs no
    matrix root and no complex numbers, and is exact where there are fewer tiles than features.

    Args:
        features, others: float64 [n, d] and [m, d], n and m at least 2; S is unbiased (n - 1).
    """
    difference = features.mean(0) - others.mean(0)
    first, second = _factor(features), _factor(others)
    cross = np.linalg.svd(first @ second.T, compute_uv=False).sum()
    spread = np.square(first).sum() + np.square(second).sum()
    return float(max(0.0, difference @ difference + spread - 2 * cross))


def _factor(features: Floats) -> Floats:
    """Returns F with F' F = the covariance, float64 [min(n, d), d]."""
    centred: Floats = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    if len(centred) <= centred.shape[1]:
        return centred
    return np.asarray(np.linalg.qr(centred, mode="r"), np.float64)


@dataclass(frozen=True)
class Extrapolation:
    """The Frechet distance over sample sizes N, and a line fitted over 1 / N.

    Attributes:
        sizes: every N. distances: mean distance at each N. limit: intercept, at 1 / N = 0. slope: per 1 / N.
        r_squared: of the fit.
        reliable: whether the smallest N is above the number of features; below it the bias is not linear in 1 / N.
    """

    sizes: tuple[int, ...]
    distances: tuple[float, ...]
    limit: float
    slope: float
    r_squared: float
    reliable: bool


def extrapolate(features: Floats, others: Floats, rng: np.random.Generator, sizes: int = 10) -> Extrapolation:
    """Extrapolates the Frechet distance to infinite samples (Chong and Forsyth 2020, section 4).

    The paper fits a line over sizes evenly spread in N, with one random subset each, and keeps one side fixed. Here
    both sides (float64 [n, d] and [m, d]) are small, so both are cut to N. Sizes are evenly spread in 1 / N, from a
    quarter of the tiles up. At each size the tiles are shuffled and cut into disjoint subsets, twice, so that every
    tile has the same weight.
    """
    count = min(len(features), len(others))
    least = min(count, max(_FEWEST, -(-count // 4)))
    inverse = np.linspace(1 / count, 1 / least, sizes)
    chosen = list(dict.fromkeys(int(size) for size in np.round(1 / inverse)))
    distances = np.array([_mean_distance(features, others, size, rng) for size in chosen])
    if len(chosen) < 3:
        return Extrapolation(tuple(chosen), tuple(distances.tolist()), nan, nan, nan, False)
    over = 1 / np.array(chosen, np.float64)
    slope, limit = np.polyfit(over, distances, 1)
    residual = np.square(distances - (limit + slope * over)).sum()
    total = np.square(distances - np.mean(distances)).sum()
    r_squared = 1 - residual / total if total > 0 else 1.0
    reliable = bool(chosen[-1] > features.shape[1])
    fit = float(limit), float(slope), float(r_squared)
    return Extrapolation(tuple(chosen), tuple(distances.tolist()), *fit, reliable)


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
    """Returns an interval of the Frechet distance at this number of tiles.

    Fakes are drawn one by one with replacement. Reals are drawn in whole groups where there are at least five groups,
    else one by one. Repeated tiles alone make the distance larger, so the draws are shifted to have their mean at the
    estimate. The interval shows how much the distance varies at this sample size, not how far it is from its limit.

    Args:
        fakes, reals: float64 [n, d] and [m, d]. groups: group of each real tile.
    """
    draws = np.zeros(resamples)
    for place in range(resamples):
        chosen, others = _draw(rng, len(fakes), None), _draw(rng, len(reals), groups)
        draws[place] = frechet_distance(fakes[chosen], reals[others])
    ends = percentile_interval(draws - draws.mean() + frechet_distance(fakes, reals), level)
    return max(0.0, ends.low), ends.high


def _draw(rng: np.random.Generator, count: int, groups: Sequence[str] | None) -> Places:
    if groups is None or not enough_groups(groups):
        return rng.integers(0, count, count)
    _, numbers = np.unique(np.asarray(groups), return_inverse=True)
    while True:
        places = draw_groups(rng, numbers)
        if len(places) > 1:  # a covariance needs two
            return places


@dataclass(frozen=True)
class KernelDistance:
    """Squared MMD of all tiles, and its mean and standard deviation over random subsets of `subset_size` tiles."""

    value: float
    subset_mean: float
    subset_std: float
    subset_size: int
    subsets: int


def kernel_distance(features: Floats, others: Floats, rng: np.random.Generator, subsets: int = 50) -> KernelDistance:
    """Computes the kernel distance (KID): unbiased squared MMD with k(x, y) = (x y / d + 1)^3.

    It is about 0, possibly below, for equal distributions (Binkowski et al. 2018, section 4). torch-fidelity computes
    the same, but not as a public function, and refuses sets smaller than its subsets. A test compares the two.

    Args:
        features, others: float64 [n, d] and [m, d], at least 2 each.
        subsets: their number, each of 100 tiles of either side, or of half of the tiles where there are fewer.
    """
    pairs = ((features, features), (features, others), (others, others))
    own, cross, other = ((first @ second.T / first.shape[1] + 1) ** 3 for first, second in pairs)
    size = max(2, min(_LARGEST_SUBSET, min(len(features), len(others)) // 2))
    values = []
    for _ in range(subsets):
        first, second = (rng.permutation(len(side))[:size] for side in (features, others))
        values.append(_mmd(own[np.ix_(first, first)], cross[np.ix_(first, second)], other[np.ix_(second, second)]))
    return KernelDistance(_mmd(own, cross, other), float(np.mean(values)), float(np.std(values)), size, subsets)


def _mmd(own: Floats, cross: Floats, other: Floats) -> float:
    """Returns the squared MMD without the diagonals of the own kernels (Binkowski 2018, Eq. 4)."""
    n, m = len(own), len(other)
    within = (own.sum() - np.trace(own)) / (n * (n - 1)) + (other.sum() - np.trace(other)) / (m * (m - 1))
    return float(within - 2 * cross.mean())


@dataclass(frozen=True, kw_only=True)
class Neighbourhood:
    """Four shares of two sets; the ball of a tile reaches to its k-th neighbour within its own set.

    Attributes:
        precision: share of fakes within the ball of any real tile. recall: share of real tiles within any fake's ball
            (Kynkaanniemi et al. 2019, Eq. 1 and 2).
        density: real balls around a fake, over k; about 1 for equal distributions, more where real tiles are dense.
        coverage: share of real tiles with a fake in their ball; about 1 - 2^-k for equal distributions (Naeem et al.
            2020, section 3.2).
    """

    precision: float
    recall: float
    density: float
    coverage: float


SHARES = tuple(field.name for field in fields(Neighbourhood))
"""Names of the shares, in the order of tables."""


def neighbourhood(fakes: Floats, reals: Floats, k: int = 5) -> Neighbourhood:
    """Computes precision, recall, density and coverage of float64 [n, d] and [m, d], more than k of each."""
    if min(len(fakes), len(reals)) <= k:
        raise ValueError(f"expected more than {k} tiles of either kind, got {len(fakes)} and {len(reals)}")
    between = cdist(reals, fakes)
    # The distance of each tile to its k-th neighbour; the tile itself is at place 0.
    real_radii, fake_radii = (np.partition(cdist(side, side), k, axis=1)[:, k] for side in (reals, fakes))
    in_real = between <= real_radii[:, None]
    return Neighbourhood(
        precision=float(in_real.any(0).mean()),
        recall=float((between <= fake_radii[None, :]).any(1).mean()),
        density=float(in_real.sum() / (k * len(fakes))),
        coverage=float((between.min(1) <= real_radii).mean()),
    )
