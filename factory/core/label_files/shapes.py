"""Outlined objects, and the one rule by which an outline becomes pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.core.images.files import UnreadableError

Ring = npt.NDArray[np.float64]
"""A closed outline, (x, y) [V, 2] in pixels from the upper left corner of the image."""

_FIXED = 256
_SLACK, _SLACK_PX = 0.02, 16.0
"""How far outlines may reach beyond the image: a share of its side, and at least so many pixels."""


@dataclass(frozen=True)
class Shape:
    """An object.

    Attributes:
        label: name of its class, None without one. polygons: each an outline followed by its holes.
        number: its id where the file states one.
    """

    label: str | None
    polygons: tuple[tuple[Ring, ...], ...]
    number: int | None = None


def moved(shape: Shape, by: tuple[int, int]) -> Shape:
    """The shape at another place; `by`: (x, y) in pixels."""
    return replace(shape, polygons=tuple(tuple(ring + np.array(by) for ring in rings) for rings in shape.polygons))


def rasterise(
    rings: Sequence[Ring], size: tuple[int, int], origin: tuple[int, int] = (0, 0)
) -> tuple[tuple[slice, slice], npt.NDArray[np.bool_]]:
    """Rasterise a polygon: pixels whose centres are inside by the even-odd rule over all rings, and their place.

    Corners are rounded to 1/256 pixel; from there on the answer is exact. A centre on a left or upper edge is inside
    and one on a right or lower edge is not, so that neighbours share no pixel. Every edge flips the pixel where it cuts
    a row; a running exclusive or along the row then tells inside from outside.

    Args:
        rings: of the polygon. size, origin: height and width, top and left of the window; what lies beyond is cut off.
    """
    height, width = size
    shift = np.array([origin[1] + 0.5, origin[0] + 0.5])
    fixed = [np.round((ring - shift) * _FIXED).astype(np.int64) for ring in rings]
    corners = np.concatenate(fixed)
    left, top = np.clip(corners.min(0) // _FIXED, 0, [width, height]).tolist()
    right, bottom = np.clip(corners.max(0) // _FIXED + 1, 0, [width, height]).tolist()
    flips = np.zeros((max(bottom - top, 0), max(right - left, 0) + 1), np.uint8)
    for ring in fixed:
        x0, y0 = ring.T
        x1, y1 = np.roll(ring, -1, axis=0).T
        down = y0 <= y1
        x0, x1 = np.where(down, x0, x1), np.where(down, x1, x0)
        y0, y1 = np.where(down, y0, y1), np.where(down, y1, y0)
        first, last = np.clip(-(-y0 // _FIXED), top, bottom), np.clip(-(-y1 // _FIXED), top, bottom)
        rows = last - first
        edge = np.repeat(np.arange(len(ring)), rows)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(rows) - rows, rows) + first[edge]
        drop = (y1 - y0)[edge]
        crossing = x0[edge] * drop + (row * _FIXED - y0[edge]) * (x1 - x0)[edge]  # times drop: a whole number
        column = np.clip(-(-crossing // (drop * _FIXED)), left, max(right, left)) - left
        np.bitwise_xor.at(flips, (row - top, column), 1)
    inside = np.bitwise_xor.accumulate(flips, axis=1)[:, :-1].astype(np.bool_)
    return (slice(top, top + inside.shape[0]), slice(left, left + inside.shape[1])), inside


def rings_of(mask: npt.NDArray[np.bool_], corner: Ring) -> tuple[tuple[Ring, ...], ...]:
    """The polygon of a mask bool [h, w] whose upper left pixel is the one that holds `corner`: a ring for each run."""
    steps = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    (y, x0), (_, x1) = np.nonzero(steps == 1), np.nonzero(steps == -1)
    ends = np.stack([x0, y, x1, y, x1, y + 1, x0, y + 1], 1).reshape(-1, 4, 2) + np.floor(corner)
    return (tuple(ends),) if len(ends) else ()


def ring_of(points: Any, size: tuple[int, int], *, least: int = 3) -> Ring:
    """A ring of (x, y) pairs as a file has them; they may lie outside of the image as far as a tool's brush reaches."""
    try:
        ring = np.array([[float(pair[0]), float(pair[1])] for pair in points], np.float64).reshape(-1, 2)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError) as error:
        raise UnreadableError(f"expected a list of points (x, y), got {str(points)[:60]}") from error
    if len(ring) < least or not np.isfinite(ring).all():
        wanted = "two" if least == 2 else "three"
        raise UnreadableError(f"expected {wanted} points or more, all of them numbers, got {str(points)[:60]}")
    height, width = size
    reach = np.maximum(np.array([width, height]) * _SLACK, _SLACK_PX)
    outside = ((ring < -reach) | (ring > np.array([width, height]) + reach)).any(1)
    if outside.any():
        x, y = ring[outside][0]
        raise UnreadableError(
            f"expected points within the image of {height}x{width}, got ({x:g}, {y:g}). "
            "Were these drawn on an image of another size?"
        )
    return ring
