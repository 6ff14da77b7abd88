"""Nucleus outlines: random polygons in fixed point, rasterised with integers.

Vertices are int32 in 1/256 px and a pixel is inside when its centre is: crossings are integer divisions, so a mask
is the same everywhere. Directions come from `DIRECTIONS`, made by halving angles with sqrt and division, which IEEE
754 rounds exactly, and never from a sine, whose last bit depends on the library.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationInfo, field_validator

from factory.core.compiled import compiled
from factory.core.config import Config

FIXED = 256
"""Fixed-point units per pixel."""
_TURN = 4096


def _directions() -> npt.NDArray[np.float64]:
    """Unit vectors (x, y) of every 1/4096 turn: float64 [4096, 2], by repeated bisection of the quarter turns."""
    circle = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    while len(circle) < _TURN:
        between = circle + np.roll(circle, -1, axis=0)
        between = between / np.sqrt(between[:, :1] * between[:, :1] + between[:, 1:] * between[:, 1:])
        circle = np.stack([circle, between], axis=1).reshape(-1, 2)
    return circle


DIRECTIONS = _directions()


_LIMITS = {
    "radius_um": (0.2, 50.0),
    "elongation": (1.0, 10.0),
    "irregularity": (0.0, 10.0),
    "spikiness": (0.0, 1.0),
    "vertices": (3.0, 64.0),
}


class OutlineConfig(Config):
    """The shape of one kind of nucleus.

    Attributes:
        radius_um: smallest and largest mean radius, drawn uniformly.
        elongation: smallest and largest ratio of length to width; the area stays.
        irregularity: 0 = vertices at equal angles, 1 = anywhere up to twice the mean step (Hou 2019).
        spikiness: smallest and largest standard deviation of a vertex' radius, as a share of the radius.
        vertices: smallest and largest number of corners before they are rounded off, 3 to 64.
        smallest_um2: outlines with less area are enlarged to this (140 px at 0.25 mpp is 8.75 um2).
    """

    radius_um: tuple[float, float] = Field(default=(3.2, 5.0))
    elongation: tuple[float, float] = Field(default=(1.0, 1.5))
    irregularity: tuple[float, float] = Field(default=(0.3, 0.7))
    spikiness: tuple[float, float] = Field(default=(0.03, 0.10))
    vertices: tuple[int, int] = Field(default=(10, 17))
    smallest_um2: float = Field(default=8.75, gt=0)

    @field_validator("radius_um", "elongation", "spikiness", "vertices", "irregularity")
    @classmethod
    def _is_range(cls, values: tuple[float, float], info: ValidationInfo) -> tuple[float, float]:
        """Refuse a reversed range and values that no outline can have."""
        low, high = _LIMITS[str(info.field_name)]
        if not low <= values[0] <= values[1] <= high:
            raise ValueError(f"expected smallest and largest within {low:g} to {high:g}")
        return values

    @property
    def mean_area_um2(self) -> float:
        """Mean area of a nucleus of this kind: that of a disc of the mean square radius."""
        return self.mean_area_at_um2(1.0)

    def mean_area_at_um2(self, bias: float) -> float:
        """Return the mean area with radii `bias` times as large, never below `smallest_um2`."""
        low, high = (bias * radius for radius in self.radius_um)
        return max(math.pi * (low * low + low * high + high * high) / 3.0, self.smallest_um2)


@dataclass(frozen=True)
class Outlines:
    """Polygons around the origin.

    Attributes:
        vertices: int32 [M, 2], (x, y) in 1/256 px, all outlines one after the other.
        offsets: int64 [N + 1]; outline i is vertices[offsets[i]:offsets[i + 1]].
        radius: float64 [N], largest distance of a vertex from the origin, in pixels, rounded up.
    """

    vertices: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    radius: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.radius)

    @property
    def areas_px(self) -> npt.NDArray[np.float64]:
        """Area of every outline in pixels: float64 [N]."""
        x, y = (self.vertices[:, axis].astype(np.int64) for axis in (0, 1))
        after = np.arange(1, len(x) + 1)
        after[self.offsets[1:] - 1] = self.offsets[:-1]
        doubled = np.concatenate([[0], np.cumsum(x * y[after] - x[after] * y)])
        return np.abs(np.diff(doubled[self.offsets])) / (2.0 * FIXED * FIXED)

    def pick(self, indices: npt.NDArray[np.int64], scale: float = 1.0) -> Outlines:
        """Return the outlines at `indices`, in that order, enlarged by `scale` (rounded to 1/256 px)."""
        sizes = np.diff(self.offsets)[indices]
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
        vertices = self.vertices[np.repeat(self.offsets[:-1][indices], sizes) + within]
        scaled = np.floor(vertices * scale + 0.5).astype(np.int32)
        return Outlines(scaled, offsets, np.ceil(self.radius[indices] * scale) + (scale != 1.0))


def draw_outlines(
    rng: np.random.Generator, count: int, mpp: float, config: OutlineConfig, bias: float = 1.0, warp: float = 1.0
) -> Outlines:
    """Draw random nucleus-like polygons after Hou et al. 2019, with corners rounded off.

    Corners lie at irregular angles and at radii spread by `spikiness` round the nucleus' own; two rounds of corner
    cutting (Chaikin 1974) then smooth them. Differs from Hou: an outline that is too small is enlarged, not dropped,
    and each nucleus has an elongation along an axis of its own.

    Args:
        rng: the number of values drawn depends on `count` only. count: outlines wanted. mpp: micrometres per pixel.
        config: the shape. bias: factor on all radii. warp: stretch along an axis that all outlines share; 1 = none.
    """
    most = config.vertices[1]
    uniform = rng.random((count, 8 + 2 * most))
    spread = np.rint(rng.standard_normal((count, most)) * 1024.0) / 1024.0
    shared = int(rng.integers(_TURN))
    low, high = np.array(config.radius_um) * (bias / mpp)
    shape = np.array([low, high, *config.elongation, *config.irregularity, *config.spikiness, *config.vertices], float)
    vertices, offsets, radius = _outlines(
        uniform, spread, shape, config.smallest_um2 / (mpp * mpp), warp, shared, DIRECTIONS
    )
    return Outlines(vertices[: offsets[-1]], offsets, radius)


@compiled()
def _outlines(uniform, spread, shape, smallest_px, warp, shared, directions):  # type: ignore[no-untyped-def]
    """Vertices int32 [M, 2], offsets int64 [N + 1] and radius float64 [N]; see `draw_outlines`."""
    count, most, turn = uniform.shape[0], spread.shape[1], directions.shape[0]
    vertices = np.empty((count * most * 4, 2), np.int32)
    offsets = np.zeros(count + 1, np.int64)
    radius = np.zeros(count, np.float64)
    rough = np.empty((most, 2), np.float64)
    for i in range(count):
        u = uniform[i]
        mean = shape[0] + (shape[1] - shape[0]) * u[0]
        stretch = math.sqrt(shape[2] + (shape[3] - shape[2]) * u[1])
        irregular = min(shape[4] + (shape[5] - shape[4]) * u[2], 1.0)
        spike = shape[6] + (shape[7] - shape[6]) * u[3]
        corners = min(int(shape[8] + (shape[9] - shape[8] + 1.0) * u[4]), most)
        total = 0.0
        for k in range(corners):
            total += 1.0 + irregular * (2.0 * u[8 + k] - 1.0)
        angle, own = u[5], directions[int(u[6] * turn)]
        for k in range(corners):
            angle += (1.0 + irregular * (2.0 * u[8 + k] - 1.0)) / total
            r = min(max(mean * (1.0 + spike * spread[i, k]), 0.3 * mean), 2.0 * mean)
            d = directions[int((angle - math.floor(angle)) * turn) % turn]
            rough[k, 0], rough[k, 1] = _stretched(r * d[0], r * d[1], own, stretch)
            if warp != 1.0:
                rough[k, 0], rough[k, 1] = _stretched(rough[k, 0], rough[k, 1], directions[shared], math.sqrt(warp))
        smooth = _cut_corners(_cut_corners(rough[:corners]))
        _centre_and_enlarge(smooth, smallest_px)
        start = offsets[i]
        for k in range(len(smooth)):
            vertices[start + k, 0] = int(math.floor(smooth[k, 0] * FIXED + 0.5))
            vertices[start + k, 1] = int(math.floor(smooth[k, 1] * FIXED + 0.5))
            radius[i] = max(radius[i], math.sqrt(smooth[k, 0] * smooth[k, 0] + smooth[k, 1] * smooth[k, 1]))
        radius[i] = math.ceil(radius[i]) + 1.0
        offsets[i + 1] = start + len(smooth)
    return vertices, offsets, radius


@compiled()
def _stretched(x, y, axis, stretch):  # type: ignore[no-untyped-def]
    """Stretch a point by `stretch` along `axis` and shrink it by as much across."""
    along = (x * axis[0] + y * axis[1]) * stretch
    across = (y * axis[0] - x * axis[1]) / stretch
    return along * axis[0] - across * axis[1], along * axis[1] + across * axis[0]


@compiled()
def _cut_corners(points):  # type: ignore[no-untyped-def]
    """Chaikin's corner cutting: every edge keeps its middle half."""
    n = len(points)
    out = np.empty((2 * n, 2), np.float64)
    for k in range(n):
        after = (k + 1) % n
        for axis in range(2):
            a, b = points[k, axis], points[after, axis]
            out[2 * k, axis] = 0.75 * a + 0.25 * b
            out[2 * k + 1, axis] = 0.25 * a + 0.75 * b
    return out


@compiled()
def _centre_and_enlarge(points, smallest_px):  # type: ignore[no-untyped-def]
    """Move the mean vertex to the origin and enlarge a polygon of less than `smallest_px`, in place."""
    n = len(points)
    x, y = 0.0, 0.0
    for k in range(n):
        x += points[k, 0]
        y += points[k, 1]
    doubled = 0.0
    for k in range(n):
        points[k, 0] -= x / n
        points[k, 1] -= y / n
    for k in range(n):
        after = (k + 1) % n
        doubled += points[k, 0] * points[after, 1] - points[after, 0] * points[k, 1]
    area = abs(doubled) * 0.5
    if area < smallest_px:
        scale = math.sqrt(smallest_px / max(area, 1e-6))
        for k in range(n):
            points[k, 0] *= scale
            points[k, 1] *= scale


@compiled()
def scan(polygon, crossings, counts):  # type: ignore[no-untyped-def]
    """Find where a polygon crosses the pixel rows, at pixel centres.

    Pixels crossings[i, 2 k] <= x < crossings[i, 2 k + 1] of row first + i are inside (even-odd rule; a centre on a
    left or upper edge is inside, on a right or lower one it is not, so that neighbours share no pixel).

    Args:
        polygon: int64 [V, 2], (x, y) in 1/256 px from the centre of pixel (0, 0).
        crossings: int64 [>= rows, >= V], written: pixel columns, ascending.
        counts: int64 [>= rows], written: crossings of each row, an even number.

    Returns:
        (first row, number of rows).
    """
    n = len(polygon)
    low, high = polygon[0, 1], polygon[0, 1]
    for k in range(n):
        low, high = min(low, polygon[k, 1]), max(high, polygon[k, 1])
    first = -(-low // FIXED)
    rows = -(-high // FIXED) - first
    for i in range(rows):
        counts[i] = 0
    for k in range(n):
        after = k + 1 if k + 1 < n else 0
        x0, y0, x1, y1 = polygon[k, 0], polygon[k, 1], polygon[after, 0], polygon[after, 1]
        if y0 > y1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        for row in range(-(-y0 // FIXED), -(-y1 // FIXED)):
            crossing = x0 + (row * FIXED - y0) * (x1 - x0) // (y1 - y0)
            column, i = -(-crossing // FIXED), row - first
            at = counts[i]
            while at > 0 and crossings[i, at - 1] > column:
                crossings[i, at] = crossings[i, at - 1]
                at -= 1
            crossings[i, at] = column
            counts[i] += 1
    return first, rows


def clearance(free: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Chessboard distance of every free pixel to the nearest one that is not: whole numbers, float32 [H, W].

    Pixels beyond the border count as free, since a nucleus may be cut by it.
    """
    return cv2.distanceTransform(free.view(np.uint8), cv2.DIST_C, cv2.DIST_MASK_3).astype(np.float32)
