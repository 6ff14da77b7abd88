"""Joins the pieces of nuclei that a watershed cut: nuclei are convex, so pieces whose union is convex are one.

Two touching nuclei have a notch on either side of where they meet, and two pieces of one nucleus have none. Merging of
an oversegmentation by convexity is usual for cells, e.g. Kumar et al. 2006, "A rule-based approach for robust clump
splitting", which takes the same cue to split.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

_SADDLE = 0.6
"""Least height of the saddle between two pieces, relative to the lower of their maxima."""
_ROUNDS = 4
"""Times that pairs are joined: a nucleus in n pieces needs at most n - 1."""

Ids = npt.NDArray[np.int32]
Window = tuple[slice, ...]


def join_convex(instance: Ids, distance: npt.NDArray[np.float32], solidity: float) -> Ids:
    """Join touching objects whose union covers a share `solidity` of its convex hull, the most convex pairs first.

    Args:
        instance: int32 [H, W], 0 = background. distance: float32 [H, W], high in the middle of nuclei.
        solidity: 0..1; 1 joins nothing but pieces that leave no pixel of the hull free.

    Returns:
        int32 [H, W]; a joined object has the smaller id of both.
    """
    joined = instance.copy()
    for _ in range(_ROUNDS):
        windows = ndimage.find_objects(joined)
        ranked = []
        for one, other in _meeting_high(joined, distance):
            window = _around(windows[one - 1], windows[other - 1])
            found = _solidity((joined[window] == one) | (joined[window] == other))
            if found >= solidity:
                ranked.append((-found, one, other))
        taken: set[int] = set()
        for _, one, other in sorted(ranked):
            if not taken & {one, other}:
                taken |= {one, other}
                part = joined[windows[other - 1]]
                part[part == other] = one
        if not taken:
            break
    return joined


def _meeting_high(instance: Ids, distance: npt.NDArray[np.float32]) -> list[tuple[int, int]]:
    """Pairs of objects (smaller id first) that touch along an edge, with a saddle nearly as high as their maxima."""
    keys, heights = [], []
    for axis in (0, 1):
        (before, after), sides = _neighbours(instance, axis), _neighbours(distance, axis)
        touch = (before != after) & (before > 0) & (after > 0)
        low, high = np.minimum(before, after)[touch], np.maximum(before, after)[touch]
        keys.append(low.astype(np.int64) << 32 | high)
        heights.append(np.minimum(sides[0][touch], sides[1][touch]))
    pairs, places = np.unique(np.concatenate(keys), return_inverse=True)
    saddle = np.zeros(pairs.size, np.float32)
    np.maximum.at(saddle, places, np.concatenate(heights))
    peak = np.zeros(int(instance.max(initial=0)) + 1, np.float32)
    np.maximum.at(peak, instance.ravel(), distance.ravel())
    one, other = pairs >> 32, pairs & 0xFFFFFFFF
    kept = saddle >= _SADDLE * np.minimum(peak[one], peak[other])
    return list(zip(one[kept].tolist(), other[kept].tolist(), strict=True))


def _neighbours(pixels: npt.NDArray[Any], axis: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Every pixel that has a next one along an axis, and the next ones."""
    along = np.moveaxis(pixels, axis, 0)
    return along[:-1], along[1:]


def _around(one: Window, other: Window) -> Window:
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True))


def _solidity(mask: npt.NDArray[np.bool_]) -> float:
    """Pixels of a mask over the area of the convex hull of their corners."""
    rows, columns = np.nonzero(mask)
    corners = np.concatenate([np.stack([columns + x, rows + y], 1) for x in (0, 1) for y in (0, 1)])
    return rows.size / cv2.contourArea(cv2.convexHull(corners.astype(np.int32)))
