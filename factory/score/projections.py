"""Two dimensions to look at and to count in: PCA and a joint t-SNE, with two-sample distances between the points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import gaussian_kde

Floats = npt.NDArray[np.float64]

_TSNE_INPUT = 50  # van der Maaten and Hinton 2008, section 4.2: PCA first
_PERPLEXITY = 30.0
_KDE_GRID = 64
_KDE_MARGIN = 0.1
_UNIFORM_SHARE = 1e-3


@dataclass(frozen=True)
class Projection:
    """Points of fakes and reals in one plane.

    Attributes:
        name: pca or t-sne. fakes, reals: float64 [n, 2] and [m, 2].
        explained: share of the variance in the plane; None for t-SNE.
    """

    name: str
    fakes: Floats
    reals: Floats
    explained: float | None = None


def project_pca(fakes: Floats, reals: Floats) -> Projection:
    """The first two principal components of both sets together."""
    points, shares = _principal(np.concatenate([fakes, reals]), 2)
    return Projection("pca", points[: len(fakes)], points[len(fakes) :], float(shares.sum()))


def project_tsne(fakes: Floats, reals: Floats, seed: int) -> Projection:
    """A t-SNE of both sets together (scikit-learn; started from PCA, perplexity 30 or a third of the points).

    The plane depends on the seed and on both sets: figures in it compare within one run only.
    """
    from sklearn.manifold import TSNE

    points, _ = _principal(np.concatenate([fakes, reals]), _TSNE_INPUT)
    perplexity = min(_PERPLEXITY, (len(points) - 1) / 3)
    embedded = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(points)
    placed = np.asarray(embedded, np.float64)
    return Projection("t-sne", placed[: len(fakes)], placed[len(fakes) :])


def _principal(features: Floats, count: int) -> tuple[Floats, Floats]:
    """Scores on the first components, float64 [n, min(count, n, d)], and their shares of the variance."""
    centred = features - features.mean(0)
    left, values, right = np.linalg.svd(centred, full_matrices=False)
    # A sign of its own for each component: the largest loading is positive.
    signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(1)])
    shares = np.square(values) / max(np.square(values).sum(), np.finfo(np.float64).tiny)
    points = (left * values * signs)[:, :count]
    if points.shape[1] < 2:
        points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    return points, shares[:count]


def ks_2d(first: Floats, second: Floats) -> float:
    """Two-dimensional Kolmogorov-Smirnov statistic (Fasano and Franceschini 1987), from 0 to 1.

    At each point the plane falls into four quadrants; the statistic is the largest difference between the shares of the
    two sets in one quadrant, over all points of the first set and of the second, the mean of the two. Points on the
    axes of a quadrant count as right and above, in both sets alike.

    Args:
        first, second: float64 [n, 2] and [m, 2].
    """
    return float(np.mean([_largest_difference(origins, first, second) for origins in (first, second)]))


def _largest_difference(origins: Floats, first: Floats, second: Floats) -> float:
    shares = [_quadrants(origins, points) for points in (first, second)]
    return float(np.abs(shares[0] - shares[1]).max())


def _quadrants(origins: Floats, points: Floats) -> Floats:
    """Share of the points in the quadrants at each origin: float64 [n, 4]."""
    right = points[None, :, 0] >= origins[:, None, 0]
    above = points[None, :, 1] >= origins[:, None, 1]
    corners = ((right, above), (right, ~above), (~right, above), (~right, ~above))
    return np.stack([(x & y).mean(1) for x, y in corners], 1)


def kl_divergence(reals: Floats, fakes: Floats) -> float:
    """KL(real || fake) in nats, between Gaussian kernel estimates with Scott's bandwidth of each set.

    Both densities are summed on 64 x 64 points over the joint range and a tenth beyond, and mixed with 0.1 % of a
    uniform one, so that a place without any fake costs a lot and not endlessly much.

    Args:
        reals, fakes: float64 [n, 2] and [m, 2].
    """
    joint = np.concatenate([reals, fakes])
    low, high = joint.min(0), joint.max(0)
    margin = _KDE_MARGIN * np.maximum(high - low, 1e-12)
    axes = [np.linspace(a, b, _KDE_GRID) for a, b in zip(low - margin, high + margin, strict=True)]
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")])
    p, q = (_density(side, grid) for side in (reals, fakes))
    return float((p * np.log(p / q)).sum())


def _density(points: Floats, grid: Floats) -> Floats:
    try:
        values = gaussian_kde(points.T)(grid)
    except np.linalg.LinAlgError:  # all points on a line or in one place
        values = np.zeros(grid.shape[1])
        nearest = np.square(grid[:, :, None] - points.T[:, None, :]).sum(0).argmin(0)
        np.add.at(values, nearest, 1.0)
    total = values.sum()
    share = values / total if total > 0 else np.full(len(values), 1 / len(values))
    return (1 - _UNIFORM_SHARE) * share + _UNIFORM_SHARE / len(values)
