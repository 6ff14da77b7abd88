"""Warping of maps: turned, stretched and bent coordinates, from exactly rounded operations only; pores.

No sine, cosine or linear algebra library: their last bit differs between machines (see `factory.geometry.fields`).
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from factory.geometry.fields import FloatMap, noise

Matrix = npt.NDArray[np.float64]
Value = TypeVar("Value", bound=np.generic)

_EIGHTH_TURN = 0.41421356
"""tan(45 degrees / 2): the end of the range of t for which ((1 - t^2), 2 t) / (1 + t^2) turns by at most 45 degrees."""


def signed(rng: np.random.Generator) -> float:
    """Draw uniformly from -1..1."""
    return 2.0 * rng.random() - 1.0


def random_turn(rng: np.random.Generator, *, most: float = 1.0, quarters: bool = True) -> Matrix:
    """Draw a rotation by up to `most` x 45 degrees either way, and quarter turns: float64 [2, 2] on (y, x)."""
    t = _EIGHTH_TURN * most * signed(rng)
    cosine, sine = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    for _ in range(int(rng.integers(4)) if quarters else 0):
        cosine, sine = -sine, cosine
    return np.array([[cosine, sine], [-sine, cosine]])


def product(left: Matrix, right: Matrix) -> Matrix:
    """Multiply two [2, 2] matrices in a fixed order of operations."""
    return left[:, :1] * right[:1] + left[:, 1:] * right[1:]


def centred(height: int, width: int) -> tuple[FloatMap, FloatMap]:
    """Return pixel centres with 0 in the middle: float32 [H, 1] and [1, W]."""
    y = (np.arange(height, dtype=np.float32) + np.float32(0.5 - height / 2))[:, None]
    x = (np.arange(width, dtype=np.float32) + np.float32(0.5 - width / 2))[None, :]
    return y, x


def look_up(values: npt.NDArray[Value], y: FloatMap, x: FloatMap, matrix: Matrix) -> npt.NDArray[Value]:
    """Read values [h, w] at the pixels nearest to `matrix` x (y, x) from their middle; mirrored at the border."""
    m = matrix.astype(np.float32)
    rows = m[0, 0] * y + m[0, 1] * x + np.float32(values.shape[0] / 2)
    columns = m[1, 0] * y + m[1, 1] * x + np.float32(values.shape[1] / 2)
    found: npt.NDArray[Value] = values[_mirrored(rows, values.shape[0]), _mirrored(columns, values.shape[1])]
    return found


def _mirrored(position: FloatMap, length: int) -> npt.NDArray[np.int64]:
    index = np.floor(position).astype(np.int64) % (2 * length)
    return np.minimum(index, 2 * length - 1 - index)


def pore_field(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    pore_px: float,
    patch_px: float,
    patchiness: float,
    stretch: float,
) -> FloatMap:
    """Draw the score field of pores, the small gaps within tissue, in patches and along fibres: float32 [H, W].

    Args:
        rng: of the draw. height, width: in pixels.
        pore_px: width of a pore. patch_px: of the areas that are rich or poor in pores.
        patchiness: how far these areas differ at most. stretch: largest elongation of pores and patches.
    """

    def at(scale: float) -> FloatMap:
        return noise(rng, height, width, max(scale, 1.0))

    fine = at(pore_px) + at(3.0 * pore_px) * np.float32(0.3)
    patches = at(patch_px) + at(0.3 * patch_px) * np.float32(0.6)
    field = fine + patches * np.float32(patchiness * rng.random())
    drawn_out = math.sqrt(1.0 + (stretch - 1.0) * rng.random())
    along = product(np.diag([drawn_out, 1.0 / drawn_out]), random_turn(rng))
    down, right = (at(1.5 * patch_px) * np.float32(0.4 * patch_px) for _ in range(2))
    y, x = centred(height, width)
    return look_up(field, y + down, x + right, along)
