"""Shapes of nuclei: centroid, axes of the ellipse with the same second moments, and the outline as radii."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from factory.bank.bank import RAYS
from factory.core.compiled import compiled

Ids = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Shapes:
    """Shapes of the objects 1..N of an instance map; see `factory.bank.bank.Nuclei` for the fields.

    Attributes:
        area, centre, axes, angle, radii: as there.
        box: int32 [N, 4], first row, first column, row and column after the last one.
        cut: bool [N], whether the object touches the border of the map.
    """

    area: Floats
    centre: Floats
    axes: Floats
    angle: Floats
    radii: Floats
    box: Ids
    cut: npt.NDArray[np.bool_]


def measure_shapes(ids: Ids) -> Shapes:
    """Measure the objects of an instance map.

    Args:
        ids: int32 [H, W], 0 = background, 1..N; every id occurs.
    """
    count = int(ids.max(initial=0))
    sums, box = np.zeros((count, 6), np.int64), np.empty((count, 4), np.int32)
    _add_up(ids, sums, box)
    area = sums[:, 0].astype(np.float64)
    centre = sums[:, 1:3] / area[:, None]
    # a pixel is a square: its own variance of 1/12 keeps lines one pixel wide from having no width
    yy = sums[:, 3] / area - centre[:, 0] ** 2 + 1 / 12
    xx = sums[:, 4] / area - centre[:, 1] ** 2 + 1 / 12
    xy = sums[:, 5] / area - centre[:, 0] * centre[:, 1]
    middle, half = (yy + xx) / 2, np.hypot((xx - yy) / 2, xy)
    axes = np.sqrt(np.stack([middle + half, np.maximum(middle - half, 1 / 12)], 1))
    angle = np.arctan2(2 * xy, xx - yy) / 2
    radii = np.empty((count, RAYS), np.float32)
    places, directions = centre.astype(np.float32), angle.astype(np.float32)
    _measure_radii(ids, places, directions, radii)
    height, width = ids.shape
    cut = (box[:, 0] == 0) | (box[:, 1] == 0) | (box[:, 2] == height) | (box[:, 3] == width)
    return Shapes(area.astype(np.float32), places, axes.astype(np.float32), directions, radii, box, cut)


@compiled()
def _add_up(ids, sums, box):  # type: ignore[no-untyped-def]
    height, width = ids.shape
    box[:, 0], box[:, 1], box[:, 2], box[:, 3] = height, width, 0, 0
    for y in range(height):
        for x in range(width):
            k = ids[y, x] - 1
            if k < 0:
                continue
            sums[k, 0] += 1
            sums[k, 1] += y
            sums[k, 2] += x
            sums[k, 3] += y * y
            sums[k, 4] += x * x
            sums[k, 5] += y * x
            box[k, 0] = min(box[k, 0], y)
            box[k, 1] = min(box[k, 1], x)
            box[k, 2] = max(box[k, 2], y + 1)
            box[k, 3] = max(box[k, 3], x + 1)


@compiled()
def _measure_radii(ids, centre, angle, radii):  # type: ignore[no-untyped-def]
    """Walk outwards from each centroid, a quarter of a pixel a step, to the last pixel of the object on each ray.

    Where a ray leaves the map inside the object, the outline is unknown: the radius is the mean of the known ones.
    """
    height, width = ids.shape
    for k in range(len(centre)):
        known, total = 0, 0.0
        for ray in range(RAYS):
            direction = angle[k] + ray * (2 * math.pi / RAYS)
            dy, dx = math.sin(direction), math.cos(direction)
            last, missed, step = 0.25, 0, 1
            outside = False
            while missed < 24:  # six pixels beyond the last pixel of the object
                y = int(math.floor(centre[k, 0] + 0.25 * step * dy + 0.5))
                x = int(math.floor(centre[k, 1] + 0.25 * step * dx + 0.5))
                if y < 0 or x < 0 or y >= height or x >= width:
                    outside = missed == 0
                    break
                if ids[y, x] == k + 1:
                    last = 0.25 * step
                    missed = 0
                else:
                    missed += 1
                step += 1
            radii[k, ray] = -1.0 if outside else last + 0.125
            if not outside:
                known += 1
                total += last + 0.125
        for ray in range(RAYS):
            if radii[k, ray] < 0:
                radii[k, ray] = total / known if known else 1.0
