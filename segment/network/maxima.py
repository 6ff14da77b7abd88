"""Maxima of an image that stand out: the markers from which nuclei are flooded."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from factory.core.compiled import compiled


@compiled()
def deep_maxima(levels: npt.NDArray[np.uint8], h: int) -> npt.NDArray[np.int32]:
    """One pixel in every maximum that stands out: every way from it to a higher one goes down by `h` or more.

    These are the extended maxima of Soille 2003, section 6.3.4 (for integers, the regional maxima of the reconstruction
    from levels - (h - 1)). Pixels are joined from the highest level down, a union-find over levels in counting order;
    where two regions meet, the lower of their maxima has its dynamics (Grimaud 1992). Level 0 is no region. Of two
    equal maxima without a valley of h between them one is found, where skimage.morphology.h_maxima marks both.

    Args:
        levels: uint8 [H, W]. h: 1..255.

    Returns:
        int32 [H, W]: ids 1..n, each on one pixel, 0 elsewhere.
    """
    height, width = levels.shape
    flat = levels.ravel()
    order = _descending(flat)
    parent = np.full(flat.size, -1, np.int64)  # of a region's root: itself, which is its highest, first met pixel
    markers, found = np.zeros((height, width), np.int32), 0
    for pixel in order:
        parent[pixel] = pixel
        y, x = pixel // width, pixel % width
        for v in range(max(y - 1, 0), min(y + 2, height)):
            for u in range(max(x - 1, 0), min(x + 2, width)):
                if parent[v * width + u] < 0:
                    continue
                here, there = _root(parent, pixel), _root(parent, v * width + u)
                if here == there:
                    continue
                if flat[here] > flat[there]:
                    here, there = there, here
                if np.int64(flat[here]) - np.int64(flat[pixel]) >= h:
                    found += 1
                    markers[here // width, here % width] = found
                parent[here] = there
    for pixel in order:  # what met nothing higher falls to the background
        if parent[pixel] == pixel and flat[pixel] >= h:
            found += 1
            markers[pixel // width, pixel % width] = found
    return markers


@compiled()
def _descending(flat: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Positions of the values above 0, highest first, equal ones in their order."""
    start = np.zeros(257, np.int64)
    for value in flat:
        start[255 - value + 1] += 1
    start = np.cumsum(start)
    order = np.empty(start[255], np.int64)
    for position in range(flat.size):
        value = flat[position]
        if value:
            order[start[255 - value]] = position
            start[255 - value] += 1
    return order


@compiled()
def _root(parent: npt.NDArray[np.int64], pixel: int) -> int:
    """The root of a pixel's region; halves the way to it."""
    while parent[pixel] != pixel:
        parent[pixel] = parent[parent[pixel]]
        pixel = parent[pixel]
    return pixel
