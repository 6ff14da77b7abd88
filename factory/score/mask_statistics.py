"""Statistics of masks: areas, boundaries, components, holes, and two-point correlation.

The measured class is connected by 8 neighbours, its background by 4: two components that touch at a corner are one, and
the gap between them is no hole (the usual complementary pair; Kong and Rosenfeld 1989).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy import fft

from factory.core.statistics import Floats
from factory.score.tiles import TileSet, reduction, shrink
from manifests.labels import LabelScheme

STATISTICS = {
    "area_fraction": "share of the tile",
    "perimeter_density_per_um": "boundary length per area, 1/um",
    "components": "pieces per tile",
    "component_area_um2": "mean area of a piece, um^2",
    "largest_component_share": "share of the area in the largest piece",
    "holes": "holes per tile",
    "hole_area_um2": "mean area of a hole, um^2",
    "euler_number": "pieces minus holes",
    "correlation_length_um": "two-point correlation length, um",
}
"""Statistics per tile and class, with the names that reports and plots show."""

_CURVE_PX = 256  # largest length of the longer side for two-point curves
_LARGEST_LAG = 0.25  # of the shorter side


@dataclass(frozen=True)
class MaskStatistics:
    """Statistics of the tiles of a set, for one class.

    Attributes:
        values: name in `STATISTICS` -> float64 [N]; NaN where a tile has no value (the mean area without components).
        lags_um: float64 [L]. curves: float64 [N, L], the two-point correlation of each tile, NaN where the class fills
            the tile or is absent.
    """

    class_name: str
    values: dict[str, Floats]
    lags_um: Floats
    curves: Floats

    @property
    def mean_curve(self) -> Floats:
        """Mean of the curves that are known: float64 [L]."""
        known = self.curves[~np.isnan(self.curves).any(1)]
        return known.mean(0) if len(known) else np.full(self.curves.shape[1], np.nan)

    def head(self, count: int) -> MaskStatistics:
        """Returns the statistics of the first `count` tiles."""
        values = {name: column[:count] for name, column in self.values.items()}
        return MaskStatistics(self.class_name, values, self.lags_um, self.curves[:count])


def measured_classes(scheme: LabelScheme) -> tuple[int, ...]:
    """Returns the class ids that are measured: all classes, or only the second of a scheme with two."""
    return (1,) if len(scheme) == 2 else tuple(range(len(scheme)))


def class_fractions(tiles: TileSet) -> Floats:
    """Returns the share of every class in every mask: float64 [N, classes], rows sum up to 1."""
    if tiles.scheme is None:
        raise ValueError(f"{tiles.name}: expected masks, got images")
    counts = [np.bincount(mask.ravel(), minlength=len(tiles.scheme)) for mask in tiles.pixels]
    fractions: Floats = np.array(counts, np.float64) / np.prod(tiles.shape)
    return fractions


def mask_statistics(tiles: TileSet, on_tile: Callable[[], None] = lambda: None) -> tuple[MaskStatistics, ...]:
    """Measures every mask, class by class; `on_tile` is called after each tile and class."""
    scheme = tiles.scheme
    if scheme is None:
        raise ValueError(f"{tiles.name}: expected masks, got images")
    return tuple(_of_class(tiles, scheme.names[label], label, on_tile) for label in measured_classes(scheme))


def _of_class(tiles: TileSet, name: str, label: int, on_tile: Callable[[], None]) -> MaskStatistics:
    factor = reduction(tiles.shape, _CURVE_PX)
    rows, curves = [], []
    for mask in tiles.pixels:
        indicator = mask == label
        shrunk = shrink(indicator[None].view(np.uint8), factor)[0]
        curve = two_point_curve(shrunk)
        rows.append([*shape_figures(indicator, tiles.mpp), correlation_length(curve) * factor * tiles.mpp])
        curves.append(curve)
        on_tile()
    table = np.array(rows, np.float64).reshape(len(tiles), len(STATISTICS))
    lags = len(curves[0]) if curves else 0
    return MaskStatistics(
        name,
        dict(zip(STATISTICS, table.T, strict=True)),
        np.arange(lags, dtype=np.float64) * (factor * tiles.mpp),
        np.array(curves, np.float64).reshape(len(tiles), lags),
    )


def shape_figures(indicator: npt.NDArray[np.bool_], mpp: float) -> tuple[float, ...]:
    """Computes the statistics of one mask, bool [H, W], in the order of `STATISTICS` up to the Euler number.

    The boundary is counted inside the tile, not along its edge. A hole is background that the class encloses within the
    tile. Components cut by the edge of the tile count with their visible part.
    """
    pixel = mpp * mpp
    areas = _component_areas(indicator, 8)
    # A margin of background connects all background at the edge of the tile; the other components are enclosed.
    holes = _component_areas(np.pad(~indicator, 1, constant_values=True), 4, without_corner=True)
    covered = int(areas.sum())
    return (
        covered / indicator.size,
        perimeter_px(indicator) * mpp / (indicator.size * pixel),
        float(len(areas)),
        float(areas.mean() * pixel) if len(areas) else np.nan,
        float(areas.max() / covered) if len(areas) else np.nan,
        float(len(holes)),
        float(holes.mean() * pixel) if len(holes) else np.nan,
        float(len(areas) - len(holes)),
    )


def _component_areas(
    indicator: npt.NDArray[np.bool_], connectivity: int, *, without_corner: bool = False
) -> npt.NDArray[np.int64]:
    """Returns the areas of the components in pixels, with or without the component of the upper left pixel."""
    picture = np.ascontiguousarray(indicator).view(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(picture, connectivity=connectivity, ltype=cv2.CV_32S)
    left_out = [0, int(labels[0, 0])] if without_corner else [0]
    return np.delete(stats[:, cv2.CC_STAT_AREA], left_out).astype(np.int64)


def perimeter_px(indicator: npt.NDArray[np.bool_]) -> float:
    """Returns the boundary length of a mask, bool [H, W]: the number of edges between unlike pixels times pi / 4.

    The number of edges is the city-block length, on average over all directions 4 / pi of the true one (Crofton's
    formula with two directions): a circle is exact, a vertical line 21 % too short.
    """
    edges = np.count_nonzero(indicator[1:] != indicator[:-1]) + np.count_nonzero(indicator[:, 1:] != indicator[:, :-1])
    return float(edges * np.pi / 4)


def two_point_curve(field: npt.NDArray[np.float32]) -> Floats:
    """Computes the radial two-point correlation of one tile: (S2(r) - p^2) / (p - p^2), 1 at r = 0, 0 if uncorrelated.

    S2(r) is the probability that two points at distance r both lie in the class (Torquato 2002, section 2.1), here over
    all pairs within the tile (zero-padded FFT divided by the number of pairs), averaged over directions in rings one
    pixel wide. For a field of shares (averaged pixels, [h, w]), the denominator is the variance of the shares.

    Returns:
        float64 [L], lags of 0, 1, ... pixels up to a quarter of the shorter side; NaN for a constant field.
    """
    height, width = field.shape
    lags = max(2, int(min(field.shape) * _LARGEST_LAG) + 1)
    variance = float(field.var(dtype=np.float64))
    if variance < 1e-9:
        return np.full(lags, np.nan)
    size = (fft.next_fast_len(height + lags, real=True), fft.next_fast_len(width + lags, real=True))
    centred = field - field.mean(dtype=np.float64)
    power = np.square(np.abs(fft.rfft2(centred, size)))
    sums = fft.irfft2(power, size)
    y, x = np.arange(-lags + 1, lags), np.arange(lags)
    pairs = (height - np.abs(y))[:, None] * (width - x)[None, :]
    covariance = sums[np.ix_(y, x)] / pairs
    ring = np.rint(np.hypot(y[:, None], x[None, :])).astype(np.intp)
    inside = ring < lags
    total = np.bincount(ring[inside], covariance[inside], lags)
    return total / np.bincount(ring[inside], minlength=lags) / variance


def correlation_length(curve: Floats) -> float:
    """Returns the lag in pixels where a two-point curve falls below 1 / e, interpolated; at most the last lag."""
    if np.isnan(curve).any():
        return float("nan")
    below = np.flatnonzero(curve < np.exp(-1))
    if not len(below):
        return float(len(curve) - 1)
    right = int(below[0])
    if right == 0:
        return 0.0
    a, b = curve[right - 1], curve[right]
    return float(right - 1 + (a - np.exp(-1)) / (a - b))
