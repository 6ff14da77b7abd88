"""Kinds of coarse maps: k-means on their features (PriorPath, section 2.4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from factory.sketches.features import Features

MIN_K, MAX_K = 4, 12
"""Range in which the number of kinds is chosen: fewer are uninformative, more are too many to draw for."""

_VARIANCE = 0.9
_STARTS = 20
_CONSTANT = 1e-9
_SCORED = 4000


@dataclass(frozen=True)
class Kinds:
    """A clustering.

    Attributes:
        kind: int64 [N], 0..k-1, the commonest first.
        distance: float64 [N], to the centre of the own kind.
        silhouette: mean silhouette of every k that was tried.
    """

    kind: npt.NDArray[np.int64]
    distance: npt.NDArray[np.float64]
    silhouette: dict[int, float]

    @property
    def k(self) -> int:
        """Number of kinds."""
        return int(self.kind.max()) + 1

    def members(self, kind: int) -> npt.NDArray[np.int64]:
        """Rows of a kind, the most typical first."""
        rows = np.flatnonzero(self.kind == kind)
        return rows[np.argsort(self.distance[rows], kind="stable")]


def find_kinds(features: Features, weights: Features, k: int | None, seed: int) -> Kinds:
    """Cluster feature vectors.

    Args:
        features: float64 [N, F], of `features.features`. weights: float64 [F], of `features.weights`.
        k: number of kinds; None takes the one of `MIN_K`..`MAX_K` with the largest silhouette. Never more than there
            are different maps.
        seed: of the starts of k-means.
    """
    points = components(features, weights)
    distinct = len(np.unique(points.round(9), axis=0))
    wanted = [k] if k is not None else list(range(MIN_K, MAX_K + 1))
    tried = [number for number in wanted if number <= distinct] or [distinct]
    results = {number: _cluster(points, number, seed) for number in tried}
    silhouettes = {number: _silhouette(points, kind, seed) for number, (kind, _) in results.items()}
    meaningful = [number for number in tried if np.isfinite(silhouettes[number])] or tried[-1:]
    kind, distance = results[max(meaningful, key=lambda number: (silhouettes[number], -number))]
    by_size = np.argsort(-np.bincount(kind), kind="stable")
    place = np.empty_like(by_size)
    place[by_size] = np.arange(by_size.size)
    return Kinds(place[kind], distance, silhouettes)


def components(features: Features, weights: Features) -> Features:
    """Principal components of the standardised, weighed features that hold 90 % of their variance: float64 [N, C]."""
    spread = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / np.where(spread > _CONSTANT, spread, np.inf) * weights
    left, values, _ = np.linalg.svd(scaled, full_matrices=False)
    held = np.cumsum(values**2) / max(float(np.sum(values**2)), _CONSTANT)
    kept = int(np.searchsorted(held, _VARIANCE)) + 1
    points: Features = (left * values)[:, :kept]
    return points


def _cluster(points: Features, k: int, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The kind of every point, and its distance from the centre of that kind.

    One thread keeps the order of sums fixed, and a busy machine gains nothing from more.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        fitted = KMeans(k, n_init=_STARTS, random_state=seed).fit(points)
    kind = fitted.labels_.astype(np.int64)
    return kind, np.linalg.norm(points - fitted.cluster_centers_[kind], axis=1)


def _silhouette(points: Features, kind: npt.NDArray[np.int64], seed: int) -> float:
    """Mean silhouette (Rousseeuw 1987) of at most 4000 points; NaN for one kind, or as many as points: no meaning."""
    from sklearn.metrics import silhouette_score

    if not 1 < kind.max() + 1 < len(points):
        return float("nan")
    return float(silhouette_score(points, kind, sample_size=min(len(points), _SCORED), random_state=seed))
