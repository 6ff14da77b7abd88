"""Outlines of masks along the edges of their pixels: a polygon that covers exactly the pixels."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from factory.core.compiled import compiled

_STEPS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.int64)
"""(x, y) of a step right, down, left and up: clockwise on the screen, so that a turn to the right is one further."""


def outlines(mask: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.int64]]:
    """The closed outlines of a mask, with pixels on the right hand of a walker along them.

    Corners are those of pixels: pixel (y, x) covers x..x+1, y..y+1. Pixels that meet at a corner only are apart, so
    that a 4-connected mask gives its outer outline first and then its holes. The areas by the shoelace formula, holes
    negative, sum to the number of pixels.

    Args:
        mask: bool [H, W].

    Returns:
        int64 [n, 2] for each: (x, y) of its corners, the first not repeated.
    """
    padded = np.pad(mask, 1)
    tops = padded[1:, :] & ~padded[:-1, :]  # an edge along the upper side of a pixel, walked to the right
    corners = np.empty((4 * int(np.count_nonzero(tops)), 2), np.int64)
    ends = _walk(padded, tops, corners, _STEPS)
    return [corners[start:end] - 1 for start, end in itertools.pairwise([0, *ends])]


@compiled()
def _walk(
    padded: npt.NDArray[np.bool_],
    tops: npt.NDArray[np.bool_],
    corners: npt.NDArray[np.int64],
    steps: npt.NDArray[np.int64],
) -> list[int]:
    """Fill `corners` outline by outline; returns where each ends. Clears the edges in `tops` that it walks along."""
    ends, count = [0 for _ in range(0)], 0
    for row in range(tops.shape[0]):
        for column in range(tops.shape[1]):
            if not tops[row, column]:
                continue
            x, y, heading = column, row + 1, 0
            while True:
                if heading == 0:
                    if not tops[y - 1, x]:
                        break
                    tops[y - 1, x] = False
                x, y = x + steps[heading, 0], y + steps[heading, 1]
                turned = _next_heading(padded, x, y, heading)
                if turned != heading:
                    corners[count] = x, y
                    count += 1
                heading = turned
            ends.append(count)
    return ends


@compiled()
def _next_heading(padded: npt.NDArray[np.bool_], x: int, y: int, heading: int) -> int:
    """Where the outline goes on from corner (x, y): right where it can, else straight on, else left."""
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
