"""Boundary metrics: the 95th percentile Hausdorff distance and the boundary F1.

A boundary pixel is a labelled pixel with a neighbour (of four) that has another label or lies outside the image: the
inner boundary, as scipy's erosion, Matlab's `bwperim` and MONAI draw it. Distances are Euclidean, of pixel centres.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, nan
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segment.metrics.overlap import Floats
from segment.metrics.pooling import Sums


def boundary(labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Boundary pixels of every object of a label map [H, W] (0 = background): bool [H, W]."""
    padded = np.pad(labels, 1)
    centre = padded[1:-1, 1:-1]
    edge: npt.NDArray[np.bool_] = np.zeros(labels.shape, np.bool_)
    for neighbour in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        edge |= centre != neighbour
    edge &= centre != 0
    return edge


@dataclass(frozen=True, eq=False)
class SurfaceDistances(Sums):
    """Distances between the foreground boundaries of two maps; those of several images pool into one list.

    Attributes:
        truth_to_pred: float64 [n], from each boundary pixel of the truth to the nearest of the prediction; inf where
            the prediction is empty.
        pred_to_truth: float64 [m], likewise.
    """

    truth_to_pred: Floats = field(repr=False)
    pred_to_truth: Floats = field(repr=False)

    def __add__(self, other: SurfaceDistances) -> SurfaceDistances:
        return SurfaceDistances(
            np.concatenate([self.truth_to_pred, other.truth_to_pred]),
            np.concatenate([self.pred_to_truth, other.pred_to_truth]),
        )

    @property
    def hd95(self) -> float:
        """The larger of both directions' 95th percentiles; inf where one side is empty, NaN where both are."""
        percentiles = [_percentile_95(part) for part in (self.truth_to_pred, self.pred_to_truth) if part.size]
        return max(percentiles, default=nan)


def surface_distances(truth: npt.NDArray[Any], pred: npt.NDArray[Any], *, mpp: float = 1.0) -> SurfaceDistances:
    """Distances between the boundaries of truth and prediction, foreground against background; their `hd95` is HD95.

    HD95 is the larger of the two directed percentiles, interpolated linearly (Maier-Hein et al. 2024, "Metrics
    reloaded"; MONAI). medpy's `hd95` takes one percentile of both directions together, which is never larger.

    Args:
        truth, pred: label maps [H, W]; all labels but 0 are foreground, touching objects are one.
        mpp: micrometres per pixel, for distances in micrometres; 1 leaves them in pixels.

    Raises:
        ValueError: for unequal shapes.
    """
    truth_edge, pred_edge = _edges(truth != 0, pred != 0)
    return SurfaceDistances(
        _distance_to(pred_edge, truth_edge) * mpp,
        _distance_to(truth_edge, pred_edge) * mpp,
    )


@dataclass(frozen=True)
class BoundaryScore(Sums):
    """Boundary F1 and its sums: boundary pixels of each map, and those within the tolerance of the other's boundary."""

    truth_hits: int
    truth_px: int
    pred_hits: int
    pred_px: int

    @property
    def precision(self) -> float:
        """Share of the predicted boundary that is near the true one; NaN without a prediction."""
        return self.pred_hits / self.pred_px if self.pred_px else nan

    @property
    def recall(self) -> float:
        """Share of the true boundary that is near the predicted one; NaN without a truth."""
        return self.truth_hits / self.truth_px if self.truth_px else nan

    @property
    def f1(self) -> float:
        """Harmonic mean of both; 0 where one side is empty or nothing is near, NaN where both sides are empty."""
        if not self.truth_px and not self.pred_px:
            return nan
        if not self.truth_hits or not self.pred_hits:
            return 0.0
        return 2 * self.precision * self.recall / (self.precision + self.recall)


def boundary_f1(truth: npt.NDArray[Any], pred: npt.NDArray[Any], *, tolerance_px: float = 2.0) -> BoundaryScore:
    """Boundary F1 (Csurka et al. 2013): share of boundary pixels within a distance of the other map's boundary.

    Every object has its own boundary, so the line between touching nuclei counts. For the outline of the foreground
    alone use `labels != 0`. Csurka's tolerance, 0.75 % of the image's diagonal, is about the radius of a nucleus at
    1000 x 1000 pixels, so the default here is a distance.

    Args:
        truth, pred: label maps [H, W], 0 = background.
        tolerance_px: largest distance in pixels that counts as a hit.

    Raises:
        ValueError: for unequal shapes or a negative tolerance.
    """
    if tolerance_px < 0:
        raise ValueError(f"expected a tolerance of 0 pixels or more, got {tolerance_px}")
    truth_edge, pred_edge = _edges(truth, pred)
    truth_near = _distance_to(pred_edge, truth_edge) <= tolerance_px
    pred_near = _distance_to(truth_edge, pred_edge) <= tolerance_px
    return BoundaryScore(
        int(np.count_nonzero(truth_near)), truth_near.size, int(np.count_nonzero(pred_near)), pred_near.size
    )


def _edges(truth: npt.NDArray[Any], pred: npt.NDArray[Any]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    if truth.shape != pred.shape:
        raise ValueError(f"expected maps of one shape, got {truth.shape} and {pred.shape}")
    return boundary(truth), boundary(pred)


def _distance_to(edge: npt.NDArray[np.bool_], where: npt.NDArray[np.bool_]) -> Floats:
    """Distance to the nearest pixel of `edge`, at the pixels of `where`; inf without an edge.

    OpenCV's transform (Felzenszwalb and Huttenlocher 2012) is exact but in float32, and takes a third of the time of
    scipy's. Squared distances are integers: rounding them makes distances up to about 800 px exact, and longer ones
    right to 1e-6 (docs/results/metrics.md).
    """
    if not edge.any():
        return np.full(np.count_nonzero(where), inf)
    single = cv2.distanceTransform((~edge).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[where]
    exact: Floats = np.sqrt(np.rint(np.square(single, dtype=np.float64)))
    return exact


def _percentile_95(values: Floats) -> float:
    """95th percentile, also where some values are inf (`np.percentile` then warns and returns NaN)."""
    ordered = np.sort(values)
    rank = 0.95 * (ordered.size - 1)
    below, share = int(rank), rank - int(rank)
    if share == 0:
        return float(ordered[below])
    return float(ordered[below] + share * (ordered[below + 1] - ordered[below])) if ordered[below] < inf else inf
