"""Smooth random fields, the same bytes on every machine.

A field is a lattice of random numbers read through a uniform cubic B-spline: twice continuously differentiable, so
that a cut at any level has a clean border. Only exactly rounded operations are used (+ - * / and floor, no fused
multiply-add, no reordering), in a fixed order per pixel; IEEE 754 then leaves no room for a last-bit difference
between processors, compilers or vector widths. That is why there is no Gaussian filter, exp or sin here.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from factory.core.compiled import compiled

FloatMap = npt.NDArray[np.float32]

_MARGIN = 4
"""Lattice nodes beyond the covered length: the spline reads one before and two after, and one covers rounding."""


def nodes(length: int, step: float) -> int:
    """Count the lattice nodes that a spline with nodes `step` samples apart needs to cover `length` samples."""
    return math.ceil(length / step) + _MARGIN


@compiled()
def _weights(length: int, step: float):  # type: ignore[no-untyped-def]
    """First node int64 [length] and B-spline weights float32 [4, length] of every sample, at sample centres."""
    first = np.empty(length, np.int64)
    weights = np.empty((4, length), np.float32)
    for i in range(length):
        position = (i + 0.5) / step
        node = math.floor(position)
        t = position - node
        u = 1.0 - t
        first[i] = node
        weights[0, i] = u * u * u / 6.0
        weights[1, i] = ((3.0 * t - 6.0) * t * t + 4.0) / 6.0
        weights[2, i] = ((3.0 * u - 6.0) * u * u + 4.0) / 6.0
        weights[3, i] = t * t * t / 6.0
    return first, weights


@compiled()
def spline(lattice: FloatMap, height: int, width: int, step: float) -> FloatMap:
    """Read a lattice through a cubic B-spline.

    Args:
        lattice: float32 [>= nodes(height, step), >= nodes(width, step)]; node 1 lies on the first sample's corner.
        height, width: samples wanted. step: distance of two nodes, in samples.

    Returns:
        float32 [height, width], within the range of the lattice.
    """
    rows, row_weights = _weights(height, step)
    columns, column_weights = _weights(width, step)
    used = rows[height - 1] + 4
    wide = np.empty((used, width), np.float32)
    for j in range(used):
        for x in range(width):
            k = columns[x]
            value = column_weights[0, x] * lattice[j, k] + column_weights[1, x] * lattice[j, k + 1]
            value = value + column_weights[2, x] * lattice[j, k + 2]
            wide[j, x] = value + column_weights[3, x] * lattice[j, k + 3]
    out = np.empty((height, width), np.float32)
    for y in range(height):
        k = rows[y]
        w0, w1, w2, w3 = row_weights[0, y], row_weights[1, y], row_weights[2, y], row_weights[3, y]
        for x in range(width):
            out[y, x] = w0 * wide[k, x] + w1 * wide[k + 1, x] + w2 * wide[k + 2, x] + w3 * wide[k + 3, x]
    return out


def noise(rng: np.random.Generator, height: int, width: int, scale: float) -> FloatMap:
    """Draw a smooth field, float32 [height, width] in [-1, 1], whose features are about `scale` samples wide."""
    lattice = rng.random((nodes(height, scale), nodes(width, scale)), np.float32) * np.float32(2) - np.float32(1)
    field: FloatMap = spline(lattice, height, width, scale)
    return field


@compiled()
def worley(y: FloatMap, x: FloatMap, points: FloatMap):  # type: ignore[no-untyped-def]
    """Measure distances to the nearest and second nearest of jittered points (Worley 1996).

    Args:
        y, x: float32 [H, W], coordinates in units of the point spacing, within [0, rows - 2] and [0, columns - 2].
        points: float32 [rows, columns, 2], offset (y, x) in [0, 1) of the point of every unit square; the square of
            coordinate 0 is row and column 1, so that all eight neighbours exist.

    Returns:
        (nearest float32 [H, W], second float32 [H, W], owner int32 [H, W]: flat index of the nearest point).
    """
    height, width = y.shape
    columns = points.shape[1]
    nearest = np.empty((height, width), np.float32)
    second = np.empty((height, width), np.float32)
    owner = np.empty((height, width), np.int32)
    for i in range(height):
        for j in range(width):
            v, u = y[i, j], x[i, j]
            row, column = int(math.floor(v)) + 1, int(math.floor(u)) + 1
            best, runner_up, who = np.float32(1e9), np.float32(1e9), 0
            for r in range(row - 1, row + 2):
                for c in range(column - 1, column + 2):
                    dy = points[r, c, 0] + np.float32(r - 1) - v
                    dx = points[r, c, 1] + np.float32(c - 1) - u
                    square = dy * dy + dx * dx
                    if square < best:
                        runner_up, best, who = best, square, r * columns + c
                    elif square < runner_up:
                        runner_up = square
            nearest[i, j], second[i, j], owner[i, j] = math.sqrt(best), math.sqrt(runner_up), who
    return nearest, second, owner
