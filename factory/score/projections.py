"""Projections of both sets into a plane (PCA, joint t-SNE), distances between the points, and a grid over the plane."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.stats import gaussian_kde

from factory.core.statistics import Floats, Places
from factory.score.controls import split_halves
from factory.score.distances import frechet_distance
from factory.score.settings import Settings

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
    """Projects both sets onto their first two joint principal components."""
    points, shares = _principal(np.concatenate([fakes, reals]), 2)
    return Projection("pca", points[: len(fakes)], points[len(fakes) :], float(shares.sum()))


def project_tsne(fakes: Floats, reals: Floats, seed: int) -> Projection:
    """Embeds both sets with one t-SNE (scikit-learn; initialised by PCA, perplexity 30 or a third of the points).

    The plane depends on the seed and on both sets, so its figures compare within one run only.
    """
    from sklearn.manifold import TSNE

    points, _ = _principal(np.concatenate([fakes, reals]), _TSNE_INPUT)
    perplexity = min(_PERPLEXITY, (len(points) - 1) / 3)
    embedded = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(points)
    placed = np.asarray(embedded, np.float64)
    return Projection("t-sne", placed[: len(fakes)], placed[len(fakes) :])


def _principal(features: Floats, count: int) -> tuple[Floats, Floats]:
    """Returns scores on the first components, float64 [n, min(count, n, d)], and their shares of the variance."""
    centred = features - features.mean(0)
    left, values, right = np.linalg.svd(centred, full_matrices=False)
    # The largest loading of each component is positive, so that signs are reproducible.
    signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(1)])
    shares = np.square(values) / max(np.square(values).sum(), np.finfo(np.float64).tiny)
    points = (left * values * signs)[:, :count]
    if points.shape[1] < 2:
        points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    return points, shares[:count]


def ks_2d(first: Floats, second: Floats) -> float:
    """Returns the two-dimensional Kolmogorov-Smirnov statistic (Fasano and Franceschini 1987), from 0 to 1.

    Each point divides the plane into four quadrants. The largest difference between the shares of the two sets in one
    quadrant is taken over all points of the first set and over all points of the second; the statistic is the mean of
    the two. In both sets, points on the axes of a quadrant count as right and above.
    """
    gaps = [np.abs(_quadrants(origins, first) - _quadrants(origins, second)).max() for origins in (first, second)]
    return float(np.mean(gaps))


def _quadrants(origins: Floats, points: Floats) -> Floats:
    """Returns the share of the points in each quadrant of each origin: float64 [n, 4]."""
    right = points[None, :, 0] >= origins[:, None, 0]
    above = points[None, :, 1] >= origins[:, None, 1]
    corners = ((right, above), (right, ~above), (~right, above), (~right, ~above))
    return np.stack([(x & y).mean(1) for x, y in corners], 1)


def kl_divergence(reals: Floats, fakes: Floats) -> float:
    """Returns KL(real || fake) in nats, between Gaussian kernel density estimates with Scott's bandwidth.

    Both densities are evaluated on 64 x 64 points over the joint range plus a margin of a tenth, and mixed with 0.1 %
    of a uniform density, so that a place without any fake has a large but finite cost.
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


@dataclass(frozen=True)
class Cell:
    """One cell: row from below, column from the left, tiles in it, and the distance if both sides have enough tiles."""

    row: int
    column: int
    reals: int
    fakes: int
    distance: float | None


@dataclass(frozen=True)
class GridFigures:
    """The cells of a grid.

    Attributes:
        cells: all cells, row by row. edges: of columns and of rows, each cells per axis + 1.
        outside: fakes outside the range of the real points. min_cell: tiles of either side that a distance needs.
        mean_distance: over the cells with a distance; None without any.
    """

    cells: tuple[Cell, ...]
    edges: tuple[tuple[float, ...], tuple[float, ...]]
    outside: int
    min_cell: int
    mean_distance: float | None

    @property
    def with_reals(self) -> int:
        """Number of cells with a real tile."""
        return sum(cell.reals > 0 for cell in self.cells)

    @property
    def covered(self) -> int:
        """Number of cells with both a real tile and a fake."""
        return sum(cell.reals > 0 and cell.fakes > 0 for cell in self.cells)


def local_distances(
    projection: Projection, fakes: Floats, reals: Floats, *, cells: int = 3, min_cell: int = 8
) -> GridFigures:
    """Counts tiles and measures distances in the cells of a grid over a projection.

    PriorPath lays 3 x 3 cells over a t-SNE of both sets and takes a Frechet distance in each ("local FID"), without
    saying how the plane is cut. Here cells have equal size over the range of the *real* points, so that fakes far from
    all real tiles do not move the cells; such fakes are counted as outside.

    Args:
        projection: of the same tiles in the same order. fakes, reals: their features, float64 [n, d] and [m, d].
        cells: number per axis. min_cell: tiles of either side that a distance needs. At such sample sizes the bias is
            large: a cell's distance is above the global one even for perfect fakes.
    """
    low, high = projection.reals.min(0), projection.reals.max(0)
    edges = [np.linspace(a, b, cells + 1) for a, b in zip(low, high, strict=True)]
    real_at, fake_at = (_places(points, edges) for points in (projection.reals, projection.fakes))
    found = []
    for row, column in product(range(cells), repeat=2):
        of_reals, of_fakes = (np.flatnonzero((at == (column, row)).all(1)) for at in (real_at, fake_at))
        size = min(len(of_reals), len(of_fakes))  # equal numbers; the order of the tiles is random already
        distance = frechet_distance(fakes[of_fakes[:size]], reals[of_reals[:size]]) if size >= min_cell else None
        found.append(Cell(row, column, len(of_reals), len(of_fakes), distance))
    known = [cell.distance for cell in found if cell.distance is not None]
    return GridFigures(
        tuple(found),
        (tuple(edges[0].tolist()), tuple(edges[1].tolist())),
        int((fake_at < 0).any(1).sum()),
        min_cell,
        float(np.mean(known)) if known else None,
    )


def _places(points: Floats, edges: list[Floats]) -> Places:
    """Returns column and row of each point, intp [n, 2]; -1 outside."""
    columns = []
    for axis, limits in enumerate(edges):
        place = np.clip(np.searchsorted(limits, points[:, axis], "right") - 1, 0, len(limits) - 2)
        inside = (points[:, axis] >= limits[0]) & (points[:, axis] <= limits[-1])
        columns.append(np.where(inside, place, -1))
    return np.stack(columns, 1)


@dataclass(frozen=True)
class ProjectionFigures:
    """One plane: its points, the distances in it, and its grid.

    Attributes:
        projection: points of all tiles. ks, kl: between fakes and reals (`ks_2d`, `kl_divergence`). ks_floor, kl_floor:
            their means over random halves of the reals in this plane. grid: its cells.
    """

    projection: Projection
    ks: float
    kl: float
    ks_floor: float
    kl_floor: float
    grid: GridFigures


def project_both(f: Floats, r: Floats, settings: Settings) -> tuple[ProjectionFigures, ...]:
    """Projects features [n, d] of fakes and reals by PCA and t-SNE, and compares them in both planes."""
    halves = split_halves(None, len(r), len(r), settings.draws, settings.seed).random
    found = []
    for projection in (project_pca(f, r), project_tsne(f, r, settings.seed)):
        pairs = [(projection.reals[a], projection.reals[b]) for a, b in halves]
        found.append(
            ProjectionFigures(
                projection,
                ks_2d(projection.fakes, projection.reals),
                kl_divergence(projection.reals, projection.fakes),
                float(np.mean([ks_2d(a, b) for a, b in pairs])),
                float(np.mean([kl_divergence(a, b) for a, b in pairs])),
                local_distances(projection, f, r, cells=settings.grid, min_cell=settings.min_cell),
            )
        )
    return tuple(found)
