"""Outlines of masks along pixel edges: an outline covers exactly its pixels, and no outline touches itself."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import numpy.typing as npt

from factory.core.compiled import compiled

Ring = npt.NDArray[np.int64]
"""Corners (x, y) [n, 2] of a closed outline, the first not repeated."""

_STEPS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.int64)
"""(x, y) of a step right, down, left and up: clockwise on the screen, so that a right turn is the next entry."""


def polygons(mask: npt.NDArray[np.bool_]) -> list[list[Ring]]:
    """The polygons of a mask bool [H, W]: one for each 4-connected piece, its outline first and then its holes.

    They are valid by the rules of OGC and GeoJSON: rings are simple, and touch each other in single points at most.
    """
    rings = outlines(mask)
    if len(rings) == 1:
        return [rings]
    if sum(_doubled_area(ring) > 0 for ring in rings) > 1:
        count, pieces = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
        return [polygon for number in range(1, count) for polygon in polygons(pieces == number)]
    return [sorted(rings, key=lambda ring: _doubled_area(ring) < 0)] if rings else []


def outlines(mask: npt.NDArray[np.bool_]) -> list[Ring]:
    """Closed outlines of a mask bool [H, W], with its pixels on the right-hand side.

    Points are corners of pixels: pixel (y, x) covers x..x+1, y..y+1. Pixels that meet only at a corner are separate. An
    outline that meets itself in a corner is cut there, so a hole that touches the outside is a ring of its own. Areas
    by the shoelace formula, negative for holes, sum to the number of pixels.
    """
    padded = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), np.bool_)
    padded[1:-1, 1:-1] = mask
    tops = padded[1:, :] & ~padded[:-1, :]  # edges along the upper side of pixels, walked to the right
    corners = np.empty((4 * int(np.count_nonzero(tops)), 2), np.int64)
    ends = _walk(padded, tops, corners, _STEPS)
    rings = (corners[start:end] - 1 for start, end in itertools.pairwise([0, *ends]))
    return [simple for ring in rings for simple in _cut_where_touching(ring)]


def _cut_where_touching(ring: Ring) -> list[Ring]:
    """Rings that pass no corner twice: each loop between two passes is cut out."""
    corners = list(map(tuple, ring.tolist()))
    if len(set(corners)) == len(corners):
        return [ring]
    found: list[Ring] = []
    path: dict[tuple[int, ...], None] = {}  # in the order of the walk
    for corner in corners:
        if corner in path:
            loop = [corner]
            while (last := path.popitem()[0]) != corner:
                loop.append(last)
            found.append(np.array([corner, *loop[:0:-1]], np.int64))
        path[corner] = None
    return [np.array(list(path), np.int64), *found]


def _doubled_area(ring: Ring) -> int:
    """Twice the area by the shoelace formula; negative for holes."""
    x, y = ring.T
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())


@compiled()
def _walk(
    padded: npt.NDArray[np.bool_],
    tops: npt.NDArray[np.bool_],
    corners: npt.NDArray[np.int64],
    steps: npt.NDArray[np.int64],
) -> list[int]:
    """Fill `corners` outline by outline; returns the end of each. Clears the edges in `tops` that are walked."""
    ends, count = [0 for _ in range(0)], 0
    for row in range(tops.shape[0]):
        for column in range(tops.shape[1]):
            if not tops[row, column]:
                continue
            x, y, heading = column, row + 1, np.int64(0)  # a literal would compile `_next_heading` twice
            while True:
                if heading == 0:
                    if not tops[y - 1, x]:
                        break
                    tops[y - 1, x] = False
                x, y = x + steps[heading, 0], y + steps[heading, 1]
                turned = _next_heading(padded, x, y, heading)
                if turned != heading:
                    corners[count, 0], corners[count, 1] = x, y
                    count += 1
                heading = turned
            ends.append(count)
    return ends


@compiled()
def _next_heading(padded: npt.NDArray[np.bool_], x: int, y: int, heading: int) -> int:
    """Next direction of the outline at corner (x, y): right if possible, else straight on, else left."""
    upper_left, upper_right = padded[y - 1, x - 1], padded[y - 1, x]
    lower_left, lower_right = padded[y, x - 1], padded[y, x]
    for turn in (1, 0, 3):
        towards = (heading + turn) % 4
        if towards == 0 and lower_right and not upper_right:
            return 0
        if towards == 1 and lower_left and not lower_right:
            return 1
        if towards == 2 and upper_left and not lower_left:
            return 2
        if towards == 3 and upper_right and not upper_left:
            return 3
    return heading
