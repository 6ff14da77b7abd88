"""Tileable noise, drawn once and looked up for every texture.

Tables are float32 [512, 512], zero mean, unit variance, clipped to +-3, and repeat in both directions. They are the
same in every process; tiles differ in the offsets, scales and directions in which they read them.
"""

from __future__ import annotations

import functools
import math

import numba
import numpy as np
import numpy.typing as npt

from factory.core.compiled import compiled

_BITS = 9
SIZE = 1 << _BITS
MASK = SIZE - 1
_SENSOR_BITS = 18
SENSOR_MASK = (1 << _SENSOR_BITS) - 1


@functools.cache
def noise_table(shortest_px: float, longest_px: float, number: int) -> npt.NDArray[np.float32]:
    """Draw a table of band-limited 1/f noise, with wavelengths in table pixels; other numbers, independent tables."""
    rng = np.random.Generator(np.random.PCG64([number, 7919]))
    spectrum = np.fft.rfft2(rng.standard_normal((SIZE, SIZE)))
    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None, :])
    frequency[0, 0] = np.inf
    inside = (frequency >= 1 / longest_px) & (frequency <= 1 / shortest_px)
    field = np.fft.irfft2(spectrum * np.where(inside, 1 / frequency, 0.0), s=(SIZE, SIZE))
    field = (field - field.mean()) / field.std()
    return np.ascontiguousarray(np.clip(field, -3, 3), np.float32)


def grain() -> npt.NDArray[np.float32]:
    """Clumps of 3 to 24 table pixels: chromatin, granular cytoplasm, single fibres."""
    return noise_table(3, 24, 1)


def smooth() -> npt.NDArray[np.float32]:
    """Blobs of 24 to 48 table pixels: bundles, partial rings, uneven outlines."""
    return noise_table(24, 48, 2)


@functools.cache
def sensor() -> npt.NDArray[np.int8]:
    """A run of 2^18 normal deviates times 32, int8, to be read from random places."""
    rng = np.random.Generator(np.random.PCG64([3, 7919]))
    return np.clip(np.rint(rng.standard_normal(1 << _SENSOR_BITS) * 32), -127, 127).astype(np.int8)


@numba.njit(inline="always")
def sample(table, y, x):  # type: ignore[no-untyped-def]
    """Bilinear value of a table at (y, x) in table pixels; it repeats."""
    top = math.floor(y)
    left = math.floor(x)
    down = np.float32(y - top)
    right = np.float32(x - left)
    row, column = int(top) & MASK, int(left) & MASK
    below, beside = (row + 1) & MASK, (column + 1) & MASK
    upper = table[row, column] + (table[row, beside] - table[row, column]) * right
    lower = table[below, column] + (table[below, beside] - table[below, column]) * right
    return upper + (lower - upper) * down


@compiled(fastmath=True)
def sample_many(table, ys, xs, values, count):  # type: ignore[no-untyped-def]
    """`sample` at the first `count` places of float32 `ys` and `xs`, into `values`. 32-bit throughout, for vectors."""
    flat = table.ravel()
    mask, bits, one = np.int32(MASK), np.int32(_BITS), np.int32(1)
    for i in range(count):
        top, left = np.floor(ys[i]), np.floor(xs[i])
        down, right = ys[i] - top, xs[i] - left
        row, column = np.int32(top) & mask, np.int32(left) & mask
        below, beside = (row + one) & mask, (column + one) & mask
        row, below = row << bits, below << bits
        upper, lower = flat[np.uint32(row | column)], flat[np.uint32(below | column)]
        upper += (flat[np.uint32(row | beside)] - upper) * right
        lower += (flat[np.uint32(below | beside)] - lower) * right
        values[i] = upper + (lower - upper) * down
