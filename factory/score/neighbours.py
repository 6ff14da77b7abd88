"""Precision, recall, density and coverage: figures of who lies within whose k-th neighbour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Neighbourhood:
    """Four shares of one pair of sets.

    Attributes:
        precision: share of fakes within the ball of any real tile. recall: of real tiles within any fake's ball
            (Kynkaanniemi et al. 2019, Eq. 1 and 2).
        density: real balls around a fake, over k; about 1 for equal distributions, more in the thick of the real tiles.
        coverage: share of real tiles with a fake in their ball; about 1 - 2^-k for equal distributions (Naeem et al.
            2020, section 3.2).
    """

    precision: float
    recall: float
    density: float
    coverage: float


def neighbourhood(fakes: Floats, reals: Floats, k: int = 5) -> Neighbourhood:
    """Precision, recall, density and coverage; a ball reaches to the k-th neighbour within its own set.

    Args:
        fakes, reals: float64 [n, d] and [m, d], more than k of each. k: neighbours.

    Raises:
        ValueError: for fewer tiles.
    """
    if min(len(fakes), len(reals)) <= k:
        raise ValueError(f"expected more than {k} tiles of either kind, got {len(fakes)} and {len(reals)}")
    between = cdist(reals, fakes)
    real_radii, fake_radii = (kth_distance(side, k) for side in (reals, fakes))
    in_real = between <= real_radii[:, None]
    return Neighbourhood(
        precision=float(in_real.any(0).mean()),
        recall=float((between <= fake_radii[None, :]).any(1).mean()),
        density=float(in_real.sum() / (k * len(fakes))),
        coverage=float((between.min(1) <= real_radii).mean()),
    )


def kth_distance(features: Floats, k: int) -> Floats:
    """Distance of each vector to its k-th neighbour, itself not counted: float64 [n]."""
    return np.partition(cdist(features, features), k, axis=1)[:, k]
