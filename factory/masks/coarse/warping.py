"""Warping of maps: turned, stretched and bent coordinates, from exactly rounded operations only.

No sine, cosine or linear algebra library: their last bit differs between machines (see `factory.geometry.fields`).
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from factory.geometry.fields import FloatMap

Matrix = npt.NDArray[np.float64]
Value = TypeVar("Value", bound=np.generic)

_EIGHTH_TURN = 0.41421356
"""tan(45 degrees / 2): the end of the range of t for which ((1 - t^2), 2 t) / (1 + t^2) turns by at most 45 degrees."""


def signed(rng: np.random.Generator) -> float:
    """Uniform in -1..1."""
    return 2.0 * rng.random() - 1.0


def random_turn(rng: np.random.Generator, *, most: float = 1.0, quarters: bool = True) -> Matrix:
    """A rotation, float64 [2, 2] on (y, x): up to `most` x 45 degrees either way, and any number of quarter turns."""
    t = _EIGHTH_TURN * most * signed(rng)
    cosine, sine = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    for _ in range(int(rng.integers(4)) if quarters else 0):
        cosine, sine = -sine, cosine
    return np.array([[cosine, sine], [-sine, cosine]])


def product(left: Matrix, right: Matrix) -> Matrix:
    """Multiply two [2, 2] matrices in a fixed order of operations."""
    return left[:, :1] * right[:1] + left[:, 1:] * right[1:]


def centred(height: int, width: int) -> tuple[FloatMap, FloatMap]:
    """Pixel centres with 0 in the middle: float32 [H, 1] and [1, W]."""
    y = (np.arange(height, dtype=np.float32) + np.float32(0.5 - height / 2))[:, None]
    x = (np.arange(width, dtype=np.float32) + np.float32(0.5 - width / 2))[None, :]
    return y, x


def look_up(values: npt.NDArray[Value], y: FloatMap, x: FloatMap, matrix: Matrix) -> npt.NDArray[Value]:
    """Read values [h, w] at `matrix` x (y, x) from their middle, in pixels: [H, W], mirrored beyond the border.

    Takes the nearest pixel, so that labels never mix.
    """
    m = matrix.astype(np.float32)
    rows = m[0, 0] * y + m[0, 1] * x + np.float32(values.shape[0] / 2)
    columns = m[1, 0] * y + m[1, 1] * x + np.float32(values.shape[1] / 2)
    found: npt.NDArray[Value] = values[_mirrored(rows, values.shape[0]), _mirrored(columns, values.shape[1])]
    return found


def _mirrored(position: FloatMap, length: int) -> npt.NDArray[np.int64]:
    index = np.floor(position).astype(np.int64) % (2 * length)
    return np.minimum(index, 2 * length - 1 - index)
