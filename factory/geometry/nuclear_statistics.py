"""Statistics of nuclei with ids: size, form, density, neighbours and touching. Lengths in micrometres.

Both sides of every comparison are measured on tiles of one size: a tile that cuts nuclei off has shorter distances at
its border, and fewer of its nuclei are whole. The fit of `--like` and `factory score` use these same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from factory.geometry.nuclear_maps import renumbered, touching
from manifests.measure import cut_cells

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.integer]

OF_NUCLEI = {
    "area_um2": "area, um^2",
    "elongation": "length over width",
    "solidity": "share of the convex hull",
    "neighbour_um": "distance to the nearest centre, um",
}
"""Statistics of every nucleus and their meaning; size and form of whole nuclei only."""

OF_TILES = {
    "density_per_mm2": "nuclei per mm^2",
    "touching_rate": "share of nuclei that touch another",
    "dispersion": "mean neighbour distance over that of scattered points",
}
"""Statistics of every tile; the last below 1 for clusters and above 1 for regular spacing (Clark and Evans 1954)."""

NUCLEAR = OF_NUCLEI | OF_TILES

_EDGES = np.array([[-0.5, 0], [0.5, 0], [0, -0.5], [0, 0.5]], np.float32)


@dataclass(frozen=True)
class NuclearStatistics:
    """Nuclei of a set of tiles.

    Attributes:
        tile: int64 [M], the tile that each nucleus lies in. count: tiles, also those without nuclei.
        values: name in `NUCLEAR` -> float64 [M] or [count]; NaN where it has no meaning: size and form of a nucleus
            that the border cuts, the neighbour of a lone one, the touching rate of an empty tile.
    """

    tile: npt.NDArray[np.int64]
    count: int
    values: dict[str, Floats]

    def take(self, places: npt.NDArray[np.intp] | Sequence[int]) -> NuclearStatistics:
        """Of the tiles at these places, in their order."""
        members = [np.flatnonzero(self.tile == place) for place in places]
        nuclei = np.concatenate([*members, np.zeros(0, np.intp)]).astype(np.intp)
        tile = np.repeat(np.arange(len(members)), [len(part) for part in members]).astype(np.int64)
        chosen = np.asarray(places, np.intp)
        values = {name: column[nuclei if name in OF_NUCLEI else chosen] for name, column in self.values.items()}
        return NuclearStatistics(tile, len(members), values)


def nuclear_statistics(
    instances: Sequence[Labels], mpp: float, on_tile: Callable[[], None] = lambda: None
) -> NuclearStatistics:
    """Measure the nuclei of tiles.

    Args:
        instances: [H, W] each, ids with or without gaps, 0 = background. mpp: micrometres per pixel.
        on_tile: called after each tile.
    """
    nuclei: list[Floats] = []
    tiles: list[tuple[float, ...]] = []
    for instance in instances:
        of_nuclei, of_tile = _of_tile(instance, mpp)
        nuclei.append(of_nuclei)
        tiles.append(of_tile)
        on_tile()
    joint = np.concatenate([*nuclei, np.zeros((0, len(OF_NUCLEI)))])
    table = np.array(tiles, np.float64).reshape(len(tiles), len(OF_TILES))
    values = dict(zip(OF_NUCLEI, joint.T, strict=True)) | dict(zip(OF_TILES, table.T, strict=True))
    place = np.repeat(np.arange(len(nuclei)), [len(part) for part in nuclei]).astype(np.int64)
    return NuclearStatistics(place, len(nuclei), values)


def _of_tile(instance: Labels, mpp: float) -> tuple[Floats, tuple[float, ...]]:
    """Statistics of its nuclei, float64 [n, 4], and of the tile."""
    labels = renumbered(instance)
    count = int(labels.max(initial=0))
    density = count / (labels.size * mpp * mpp * 1e-6)
    if count == 0:
        return np.zeros((0, len(OF_NUCLEI))), (0.0, np.nan, np.nan)
    centres, area, elongation = _moments(labels, count)
    neighbour = np.asarray(cKDTree(centres).query(centres, [2])[0])[:, 0] * mpp if count > 1 else np.full(count, np.nan)
    form = np.stack([area * mpp * mpp, elongation, _solidity(labels, area)], 1)
    form[cut_cells(labels) - 1] = np.nan
    # Scattered points lie 1 / (2 sqrt(density)) from their nearest neighbour on average.
    scattered = 0.5e3 / np.sqrt(density)
    rate = float(touching(labels).mean())
    return np.column_stack([form, neighbour]), (density, rate, float(neighbour.mean() / scattered))


def _moments(labels: npt.NDArray[np.int32], count: int) -> tuple[Floats, Floats, Floats]:
    """Centres float64 [n, 2] in pixels, areas in pixels, length over width of the ellipse of the same moments."""
    inside = np.flatnonzero(labels)
    number = labels.ravel()[inside] - 1
    y, x = np.divmod(inside, labels.shape[1])

    def mean(values: npt.NDArray[np.generic]) -> Floats:
        return np.bincount(number, values, count) / area

    area = np.bincount(number, minlength=count).astype(np.float64)
    centres = np.stack([mean(y), mean(x)], 1)
    dy, dx = y - centres[number, 0], x - centres[number, 1]
    # a pixel is a square and has a moment of its own
    yy, xx, xy = mean(dy * dy) + 1 / 12, mean(dx * dx) + 1 / 12, mean(dy * dx)
    middle, spread = (yy + xx) / 2, np.sqrt(np.square((yy - xx) / 2) + np.square(xy))
    return centres, area, np.sqrt((middle + spread) / np.maximum(middle - spread, 1e-9))


def _solidity(labels: npt.NDArray[np.int32], area: Floats) -> Floats:
    """Area over the area of the convex hull of the middles of the pixels' edges (as scikit-image draws it)."""
    solidity = np.ones(len(area))
    for place, box in enumerate(ndimage.find_objects(labels)):
        own = np.pad(labels[box] == place + 1, 1).view(np.uint8)
        contours, _ = cv2.findContours(own, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        pixels = np.concatenate(contours).reshape(-1, 1, 2).astype(np.float32)
        hull = cv2.convexHull((pixels + _EDGES).reshape(-1, 2))
        solidity[place] = min(1.0, area[place] / cv2.contourArea(hull))
    return solidity
