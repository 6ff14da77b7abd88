"""Kernel distance: the unbiased squared MMD under a cubic kernel (Binkowski et al. 2018, section 4: KID).

torch-fidelity computes the same from feature matrices (`metric_kid.kid_features_to_metric`), but not as a public
function, and with assertions where sets are smaller than its subsets of 1000; a test compares the two where it is
installed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_LARGEST_SUBSET = 100


@dataclass(frozen=True)
class KernelDistance:
    """Squared MMD of all tiles, and its mean and standard deviation over random subsets of `subset_size` tiles."""

    value: float
    subset_mean: float
    subset_std: float
    subset_size: int
    subsets: int


def kernel_distance(features: Floats, others: Floats, rng: np.random.Generator, subsets: int = 50) -> KernelDistance:
    """Unbiased squared MMD with k(x, y) = (x y / d + 1)^3; about 0, and possibly below, for equal distributions.

    Args:
        features, others: float64 [n, d] and [m, d], at least 2 each. rng: of the subsets. subsets: how many; they hold
            100 tiles of either side, or half of the tiles where these are fewer.
    """
    own, cross, other = (_kernel(*pair) for pair in ((features, features), (features, others), (others, others)))
    size = max(2, min(_LARGEST_SUBSET, min(len(features), len(others)) // 2))
    values = []
    for _ in range(subsets):
        first, second = (rng.permutation(len(side))[:size] for side in (features, others))
        values.append(_mmd(own[np.ix_(first, first)], cross[np.ix_(first, second)], other[np.ix_(second, second)]))
    return KernelDistance(_mmd(own, cross, other), float(np.mean(values)), float(np.std(values)), size, subsets)


def _kernel(first: Floats, second: Floats) -> Floats:
    kernel: Floats = (first @ second.T / first.shape[1] + 1) ** 3
    return kernel


def _mmd(own: Floats, cross: Floats, other: Floats) -> float:
    """Binkowski 2018, Eq. 4: without the diagonals of the own kernels."""
    n, m = len(own), len(other)
    within = (own.sum() - np.trace(own)) / (n * (n - 1)) + (other.sum() - np.trace(other)) / (m * (m - 1))
    return float(within - 2 * cross.mean())
