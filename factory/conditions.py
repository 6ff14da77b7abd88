"""Tile -> condition map: what a renderer is given to draw from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests.labels import LabelScheme
from manifests.tile import Tile

NOISE_UM = 7.5
"""Mean distance of the pixels of the noise label: 15 px at 0.5 um, the best of the eight that the paper tried."""

Pixels = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Condition:
    """A condition map of one tile.

    Attributes:
        array: [C, H, W]; float32 for networks, int32 [2, H, W] (class ids, instance ids) for the kind ``labels``.
        mpp: micrometres per pixel.
        scheme: what class ids mean.
    """

    array: npt.NDArray[Any]
    mpp: float
    scheme: LabelScheme


def labels(tile: Tile, rng: np.random.Generator) -> Condition:
    """Class ids and instance ids as they are: int32 [2, H, W]."""
    del rng
    return Condition(np.stack([tile.semantic.astype(np.int32), tile.instance]), tile.mpp, tile.scheme)


def onehot(tile: Tile, rng: np.random.Generator) -> Condition:
    """One channel per class, 1 where the pixel has it: float32 [C, H, W]; `ignore` pixels are 0 in all."""
    del rng
    classes = np.arange(len(tile.scheme), dtype=np.uint8)[:, None, None]
    return Condition((tile.semantic[None] == classes).astype(np.float32), tile.mpp, tile.scheme)


def onehot_grid_noise(tile: Tile, rng: np.random.Generator) -> Condition:
    """`onehot` and the noise label of `grid_noise`, which replaces the class of its pixels: float32 [C + 1, H, W]."""
    return _with_noise(onehot(tile, rng), grid_noise(rng, tile.shape, NOISE_UM / tile.mpp))


def onehot_poisson_noise(tile: Tile, rng: np.random.Generator) -> Condition:
    """`onehot` and the noise label of `poisson_noise`: float32 [C + 1, H, W]."""
    return _with_noise(onehot(tile, rng), poisson_noise(rng, tile.shape, NOISE_UM / tile.mpp))


def _with_noise(condition: Condition, noise: Pixels) -> Condition:
    array = np.concatenate([np.where(noise, np.float32(0), condition.array), noise[None].astype(np.float32)])
    return Condition(array, condition.mpp, condition.scheme)


def grid_noise(rng: np.random.Generator, shape: tuple[int, int], spacing_px: float) -> Pixels:
    """Single pixels of noise, one at random in every square of a grid: bool [H, W], density 1 / spacing^2.

    This is how we read the "mean distance between noise pixels" of "Noise in the correct frequency" (4.2). The grid
    starts at a random phase, so that no place of a tile is preferred.

    Raises:
        ValueError: for a spacing below one pixel.
    """
    if spacing_px < 1:
        raise ValueError(f"spacing_px: expected at least 1, got {spacing_px}")
    phase = rng.random(2)
    squares = [math.ceil(length / spacing_px) + 1 for length in shape]
    rows, columns = np.meshgrid(np.arange(squares[0]), np.arange(squares[1]), indexing="ij")
    jitter = rng.random((2, *squares))
    y = np.floor((rows + jitter[0] - phase[0]) * spacing_px).astype(np.int64)
    x = np.floor((columns + jitter[1] - phase[1]) * spacing_px).astype(np.int64)
    inside = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
    noise = np.zeros(shape, np.bool_)
    noise[y[inside], x[inside]] = True
    return noise


def poisson_noise(rng: np.random.Generator, shape: tuple[int, int], spacing_px: float) -> Pixels:
    """Single pixels of noise, each independent of the others: bool [H, W], density 1 / (4 spacing^2).

    The other reading of "mean distance": for a planar Poisson process of density d the mean distance to the nearest
    neighbour is 1 / (2 sqrt(d)) (Clark and Evans 1954), here `spacing_px`.

    Raises:
        ValueError: for a spacing below one pixel.
    """
    if spacing_px < 1:
        raise ValueError(f"spacing_px: expected at least 1, got {spacing_px}")
    noise: Pixels = rng.random(shape) < 1.0 / (4.0 * spacing_px * spacing_px)
    return noise


CONDITIONS: dict[str, Callable[[Tile, np.random.Generator], Condition]] = {
    "labels": labels,
    "onehot": onehot,
    "onehot+noise": onehot_grid_noise,
    "onehot+noise:poisson": onehot_poisson_noise,
}
"""Kinds of condition map by name."""
