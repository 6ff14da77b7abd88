"""Smooth fields of a tile: bent fibre coordinates, uneven staining, a fold. Drawn small, then enlarged."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

_GRID_BLUR = 1.3
_MARGIN = 4
_LONG = 0.6
"""Of (a^2 - b^2) / (a^2 + b^2): a nucleus twice as long as wide."""

Field = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Fields:
    """Fields of one tile, float32 [H, W] each.

    Attributes:
        across, along: coordinates in micrometres across and along the fibres.
        patch: unevenness of staining and thickness, unit variance, correlated over some 60 um.
        zones: unit variance, correlated over some 120 um; decides between epithelium, stroma and immune cells.
    """

    across: Field
    along: Field
    patch: Field
    zones: Field

    def fibre_angle(self) -> Field:
        """Direction of the fibres in radians, from x towards y."""
        dy, dx = np.gradient(self.across)
        return np.asarray(np.arctan2(-dx, dy), np.float32)


def draw_fields(shape: tuple[int, int], mpp: float, rng: np.random.Generator, direction: float | None = None) -> Fields:
    """Draw the fields of one tile: fibres run in a main direction (radians, or random) and bend around it."""
    height, width = shape
    # bends of some 0.5 um per um at most: with more, fibres would run in circles
    turn, bend = rng.uniform(0, np.pi), rng.uniform(4, 9)
    turn = turn if direction is None else direction
    wide = smooth_field(shape, 150 / mpp, rng)
    other = smooth_field(shape, 45 / mpp, rng)
    y = np.arange(height, dtype=np.float32)[:, None] * np.float32(mpp)
    x = np.arange(width, dtype=np.float32)[None, :] * np.float32(mpp)
    cosine, sine = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    across = cosine * y - sine * x + np.float32(bend) * wide + np.float32(1.6) * other
    along = sine * y + cosine * x + np.float32(4.0) * other
    patch = smooth_field(shape, 60 / mpp, rng)
    zones = np.float32(0.9) * smooth_field(shape, 130 / mpp, rng) + np.float32(0.4) * other
    return Fields(across, along, patch, zones)


def direction_of(instance: npt.NDArray[np.int32]) -> float | None:
    """Return the mean direction of elongated nuclei of an instance map, in radians from x towards y; None without."""
    places = np.nonzero(instance)
    _, which = np.unique(instance[places], return_inverse=True)
    if not which.size:
        return None
    area = np.bincount(which)
    y, x = (axis - (np.bincount(which, axis) / area)[which] for axis in places)
    yy, xx, yx = (np.bincount(which, product) / area for product in (y * y, x * x, y * x))
    # the axis of each as a vector of twice its angle, as long as it is elongated
    vectors = ((xx - yy) + 2j * yx) / (xx + yy + 0.1)
    long = np.abs(vectors) > _LONG
    return float(np.angle(vectors[long].sum())) / 2 if long.any() else None


def smooth_field(shape: tuple[int, int], wavelength_px: float, rng: np.random.Generator) -> Field:
    """Isotropic smooth noise, float32 [H, W], variance about 1.

    White noise on a grid of a sixth of the wavelength, blurred there and enlarged: cubic to a quarter of the size,
    where it is already smooth, then linear.
    """
    height, width = shape
    step = max(wavelength_px / 6, 1.0)
    rows, columns = (max(2, round(length / step)) for length in shape)
    grid = rng.normal(size=(rows + 2 * _MARGIN, columns + 2 * _MARGIN)).astype(np.float32)
    # a Gaussian of sigma s leaves 1 / (4 pi s^2) of the variance of white noise
    grid = cv2.GaussianBlur(grid, (0, 0), _GRID_BLUR) * np.float32(2 * math.sqrt(math.pi) * _GRID_BLUR)
    grid = np.ascontiguousarray(grid[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN])  # clear of the blur's border
    if step > 8:
        grid = cv2.resize(grid, (width // 4, height // 4), interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def fold_profile(shape: tuple[int, int], mpp: float, rng: np.random.Generator) -> Field:
    """Extra thickness along a fold, float32 [H, W]: a bent band, doubled in the middle, 0 elsewhere."""
    height, width = shape
    turn = rng.uniform(0, np.pi)
    y = np.arange(height, dtype=np.float32)[:, None] - np.float32(height * rng.uniform(0.2, 0.8))
    x = np.arange(width, dtype=np.float32)[None, :] - np.float32(width * rng.uniform(0.2, 0.8))
    bent = np.float32(np.cos(turn)) * y - np.float32(np.sin(turn)) * x
    bent = (bent + np.float32(14 / mpp) * smooth_field(shape, 80 / mpp, rng)) * np.float32(mpp)
    half_width_um = np.float32(rng.uniform(4, 10))
    extra = np.clip((half_width_um - np.abs(bent)) / 2, 0, 1) * np.float32(rng.uniform(0.6, 1.0))
    return np.asarray(extra, np.float32)
