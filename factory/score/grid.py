"""The grid over a projection: which cells of the real space have fakes, and how alike the two are there.

PriorPath lays 3 x 3 cells over a t-SNE of both sets and takes a Frechet distance in each ("local FID"). The paper does
not say how the plane is cut: here into cells of equal size over the range of the *real* points, so that fakes far from
all real tiles do not change the cells; such fakes count as outside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from factory.score.frechet import frechet_distance
from factory.score.projections import Projection

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """One cell: row from below, column from the left, tiles in it, and the distance where both sides have enough."""

    row: int
    column: int
    reals: int
    fakes: int
    distance: float | None


@dataclass(frozen=True)
class GridFigures:
    """The cells of a grid.

    Attributes:
        cells: all of them, row by row. edges: of columns and of rows, each cells per axis + 1.
        outside: fakes outside the range of the real points. min_cell: tiles of either side that a distance needs.
        mean_distance: over the cells that have one; None where none has.
    """

    cells: tuple[Cell, ...]
    edges: tuple[tuple[float, ...], tuple[float, ...]]
    outside: int
    min_cell: int
    mean_distance: float | None

    @property
    def with_reals(self) -> int:
        """Cells with a real tile."""
        return sum(cell.reals > 0 for cell in self.cells)

    @property
    def covered(self) -> int:
        """Cells with a real tile that have a fake too."""
        return sum(cell.reals > 0 and cell.fakes > 0 for cell in self.cells)


def local_distances(
    projection: Projection, fakes: Floats, reals: Floats, *, cells: int = 3, min_cell: int = 8
) -> GridFigures:
    """Count tiles and measure distances in the cells of a grid over a projection.

    Args:
        projection: of the same tiles in the same order. fakes, reals: their features, float64 [n, d] and [m, d].
        cells: per axis. min_cell: tiles of either side that a distance needs; so few are far from endless, so a cell's
            distance is above the global one even where nothing is wrong.
    """
    low, high = projection.reals.min(0), projection.reals.max(0)
    edges = [np.linspace(a, b, cells + 1) for a, b in zip(low, high, strict=True)]
    real_at, fake_at = (_places(points, edges) for points in (projection.reals, projection.fakes))
    found = []
    for row in range(cells):
        for column in range(cells):
            of_reals, of_fakes = (np.flatnonzero((at == (column, row)).all(1)) for at in (real_at, fake_at))
            enough = min(len(of_reals), len(of_fakes)) >= min_cell
            distance = _balanced(fakes[of_fakes], reals[of_reals]) if enough else None
            found.append(Cell(row, column, len(of_reals), len(of_fakes), distance))
    known = [cell.distance for cell in found if cell.distance is not None]
    return GridFigures(
        tuple(found),
        (tuple(edges[0].tolist()), tuple(edges[1].tolist())),
        int((fake_at < 0).any(1).sum()),
        min_cell,
        float(np.mean(known)) if known else None,
    )


def _places(points: Floats, edges: list[npt.NDArray[np.float64]]) -> npt.NDArray[np.intp]:
    """Column and row of each point, intp [n, 2]; -1 outside."""
    columns = []
    for axis, limits in enumerate(edges):
        place = np.clip(np.searchsorted(limits, points[:, axis], "right") - 1, 0, len(limits) - 2)
        inside = (points[:, axis] >= limits[0]) & (points[:, axis] <= limits[-1])
        columns.append(np.where(inside, place, -1))
    return np.stack(columns, 1)


def _balanced(fakes: Floats, reals: Floats) -> float:
    """Distance of equal numbers: the first so many of either side, whose order is random already."""
    count = min(len(fakes), len(reals))
    return frechet_distance(fakes[:count], reals[:count])
