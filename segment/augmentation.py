"""Random views of a tile: geometry that moves image, classes and instances together, and mild colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from factory.core.config import Config


class AugmentConfig(Config):
    """How far a view may be from the tile; zeros give plain random crops.

    Attributes:
        dihedral: quarter turns and mirror images, exact to the pixel.
        warp_probability: how often a view is turned and scaled beyond that.
        rotate_degrees: turn by up to this, either way. scale: magnify by up to 1 + scale, or shrink by as much.
        density_gain: spread of the stain strength per channel; white stays white.
        brightness: spread of the illumination.
    """

    dihedral: bool = True
    warp_probability: float = Field(default=0.3, ge=0, le=1)
    rotate_degrees: float = Field(default=25.0, ge=0, le=180)
    scale: float = Field(default=0.15, ge=0, lt=1)
    density_gain: float = Field(default=0.15, ge=0, lt=1)
    brightness: float = Field(default=0.05, ge=0, lt=1)


@dataclass(frozen=True)
class View:
    """Where the pixels of a crop come from, in y, x: tile = centre + matrix @ (crop - its own centre)."""

    centre: npt.NDArray[np.float64]
    matrix: npt.NDArray[np.float64]
    crop: tuple[int, int]


def draw_view(rng: np.random.Generator, tile: tuple[int, int], crop: tuple[int, int], config: AugmentConfig) -> View:
    """Choose a view of `crop` pixels in a tile of `tile` pixels that stays inside it where it can.

    A turned or shrunk view that is larger than the tile is filled by reflection.

    Raises:
        ValueError: when an upright crop does not fit.
    """
    if crop[0] > tile[0] or crop[1] > tile[1]:
        raise ValueError(f"crop {crop} does not fit in a tile of {tile}")
    matrix = np.eye(2)
    if config.dihedral:
        lies_down = crop[1] > tile[0] or crop[0] > tile[1]
        turns = 2 * int(rng.integers(2)) if lies_down else int(rng.integers(4))
        cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[turns]
        matrix = np.array([[cos, -sin], [sin, cos]]) @ np.diag([1.0, 1.0 - 2.0 * rng.integers(2)])
    if rng.random() < config.warp_probability:
        angle = math.radians(rng.uniform(-config.rotate_degrees, config.rotate_degrees))
        zoom = (1 + config.scale) ** rng.uniform(-1, 1)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        matrix = matrix @ turn / zoom
    # Whole pixels, so that a view without a warp reads pixels and interpolates nothing.
    extent = np.ceil(np.abs(matrix) @ np.array(crop) - 1e-9)
    room = np.maximum(np.array(tile) - extent, 0)
    corner = np.floor(rng.random(2) * (room + 1))
    corner = np.where(extent > tile, (np.array(tile) - extent) / 2, corner)
    return View(corner + (extent - 1) / 2, matrix, crop)


def take(
    view: View, image: npt.NDArray[np.uint8], labels: Sequence[npt.NDArray[Any]]
) -> tuple[npt.NDArray[np.uint8], list[npt.NDArray[Any]]]:
    """Cut a view out of a tile: the image bilinearly, every label map by its nearest pixel.

    Args:
        view: what to cut.
        image: uint8 [H, W, 3].
        labels: maps [H, W] of any dtype.

    Returns:
        uint8 [h, w, 3] and the label maps [h, w], dtypes kept.
    """
    import cv2

    height, width = image.shape[:2]
    h, w = view.crop
    rows, columns = np.arange(h) - (h - 1) / 2, np.arange(w) - (w - 1) / 2
    (a, b), (c, d) = view.matrix
    y = view.centre[0] + a * rows[:, None] + b * columns[None, :]
    x = view.centre[1] + c * rows[:, None] + d * columns[None, :]
    top, bottom = _window(y, height)
    left, right = _window(x, width)
    y, x = _reflect(y, height) - top, _reflect(x, width) - left
    window = np.ascontiguousarray(image[top:bottom, left:right])
    taken = cv2.remap(window, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE)
    nearest = np.rint(y).astype(np.intp), np.rint(x).astype(np.intp)
    return taken, [np.asarray(label[top:bottom, left:right])[nearest] for label in labels]


def _window(coordinates: npt.NDArray[np.float64], size: int) -> tuple[int, int]:
    """First and one past the last pixel along an axis that a view reads, reflections included."""
    reflected = _reflect(coordinates, size)
    return max(math.floor(reflected.min()), 0), min(math.ceil(reflected.max()) + 1, size)


def _reflect(coordinates: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
    """Fold positions back into 0..size-1, the border pixel not repeated."""
    if size == 1:
        return np.zeros_like(coordinates)
    period = 2 * (size - 1)
    folded = np.mod(coordinates, period)
    reflected: npt.NDArray[np.float64] = np.minimum(folded, period - folded)
    return reflected


def recolour(image: npt.NDArray[np.uint8], rng: np.random.Generator, config: AugmentConfig) -> npt.NDArray[np.uint8]:
    """Vary stain strength and illumination: uint8 [h, w, 3] -> the same.

    Optical density -log(v / 255) is multiplied per channel (Beer-Lambert: more dye, same dye), then the light as a
    whole is dimmed or raised: v' = 255 light (v / 255)^gain.
    """
    gain = 1 + config.density_gain * rng.uniform(-1, 1, 3)
    light = 1 + config.brightness * rng.uniform(-1, 1)
    levels = 255 * light * (np.arange(256)[:, None] / 255) ** gain
    table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return np.stack([table[image[..., channel], channel] for channel in range(3)], axis=-1)
