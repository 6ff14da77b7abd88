"""Scaling of an image to a resolution of the network's training tiles, and of labels back to the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from manifests.errors import UserError

_Label = TypeVar("_Label", bound=np.integer[Any])

TOLERANCE = 0.1
"""Largest relative difference in resolution from the training tiles at which an image is not resampled."""
_MAX_ENLARGEMENT = 4.0
"""Largest factor by which an image is enlarged to the resolution of the training tiles."""
_FILTER_PX = 4
"""Pixels beyond a region that resampling reads: two on each side for cubic interpolation, and two for rounding."""


class Pixels(Protocol):
    """Pixels of an open image by level, finest first."""

    def read(self, level: int, y: int, x: int, height: int, width: int) -> npt.NDArray[np.uint8]:
        """uint8 [height, width, 3]; the region lies inside the level, and is in its pixels."""
        ...


@dataclass(frozen=True)
class Scaling:
    """Size of an image for the network and on disk.

    Attributes:
        height, width: in the network's pixels. mpp: micrometres per network pixel.
        own_height, own_width: of the image itself (level 0 of a slide).
        level: the level that is read. level_height, level_width: its size.
    """

    height: int
    width: int
    mpp: float
    own_height: int
    own_width: int
    level: int
    level_height: int
    level_width: int

    @property
    def is_resampled(self) -> bool:
        """Whether pixels are interpolated; otherwise they are those of the level."""
        return (self.height, self.width) != (self.level_height, self.level_width)

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the image per pixel of the network, along (y, x)."""
        return self.own_height / self.height, self.own_width / self.width

    @property
    def own_mpp(self) -> float:
        """Micrometres per pixel of the image."""
        return self.mpp / math.sqrt(self.scale[0] * self.scale[1])


def choose_scaling(sizes: Sequence[tuple[int, int]], mpp: float | None, known: Sequence[float], where: str) -> Scaling:
    """Choose the level and the scaling that fit a network.

    Args:
        sizes: (height, width) of the image's levels, finest first; one for a flat image.
        mpp: micrometres per pixel of the finest level; None if unknown, then that of the network.
        known: resolutions of the network's training tiles; empty if its card has none.
        where: name for an error.

    Raises:
        UserError: when the resolution is needed but unknown, or far too coarse.
    """
    height, width = sizes[0]
    if mpp is None and len(known) > 1:
        values = ", ".join(f"{value:g}" for value in known)
        raise UserError(
            f"{where}: expected a resolution, as the weights know several ({values} um per pixel), got none. "
            "Give it with --mpp."
        )
    mpp = mpp or (known[0] if known else 1.0)
    nearest = min(known, key=lambda value: abs(math.log(value / mpp)), default=mpp)
    for level, (level_height, level_width) in enumerate(sizes):
        level_mpp = mpp * math.sqrt(height / level_height * width / level_width)
        if abs(level_mpp / nearest - 1) <= TOLERANCE:
            size = (level_height, level_width)
            return Scaling(*size, level_mpp, height, width, level, *size)
    scale = nearest / mpp
    if scale < 1 / _MAX_ENLARGEMENT:
        raise UserError(
            f"{where}: expected at most {nearest * _MAX_ENLARGEMENT:g} um per pixel for weights that were trained at "
            f"{nearest:g}, got {mpp:g}. Scan it finer, or use other weights."
        )
    fine_enough = [n for n, size in enumerate(sizes) if size[0] * scale >= height * (1 - 1e-3)]
    level = max(fine_enough, default=0)
    size = max(1, round(height / scale)), max(1, round(width / scale))
    return Scaling(*size, nearest, height, width, level, *sizes[level])


def read_scaled(pixels: Pixels, scaling: Scaling, y: int, x: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Read a window in network pixels, uint8 [height, width, 3], mirrored beyond the lower and right side of the image.

    Overlapping windows have the same pixels where they overlap, also when resampled.
    """
    inside = min(height, scaling.height - y), min(width, scaling.width - x)
    resampled = scaling.is_resampled
    window = _resampled(pixels, scaling, y, x, *inside) if resampled else pixels.read(scaling.level, y, x, *inside)
    padding = ((0, height - inside[0]), (0, width - inside[1]), (0, 0))
    return np.pad(window, padding, mode="symmetric")


def _resampled(pixels: Pixels, scaling: Scaling, y: int, x: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """A window from a level of another resolution: averaged from a finer one, cubic from a coarser one."""
    scales = scaling.level_height / scaling.height, scaling.level_width / scaling.width
    spans = []
    for first, length, scale, side in zip(
        (y, x), (height, width), scales, (scaling.level_height, scaling.level_width), strict=True
    ):
        reach = math.ceil(_FILTER_PX * max(scale, 1.0))
        low, high = first * scale, (first + length) * scale
        spans.append((low, high, max(math.floor(low) - reach, 0), min(math.ceil(high) + reach, side)))
    (top, bottom, first_row, end_row), (left, right, first_column, end_column) = spans
    region = pixels.read(scaling.level, first_row, first_column, end_row - first_row, end_column - first_column)
    box = (
        left - first_column,
        top - first_row,
        min(right, end_column) - first_column,
        min(bottom, end_row) - first_row,
    )
    method = Image.Resampling.HAMMING if max(scales) > 1 else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(region).resize((width, height), method, box=box))


def to_own_pixels(labels: npt.NDArray[_Label], scaling: Scaling) -> npt.NDArray[_Label]:
    """Labels [height, width] in the network's pixels, in the image's own pixels by nearest pixel centre."""
    if labels.shape == (scaling.own_height, scaling.own_width):
        return labels
    rows = ((np.arange(scaling.own_height) + 0.5) * scaling.height / scaling.own_height).astype(np.intp)
    columns = ((np.arange(scaling.own_width) + 0.5) * scaling.width / scaling.own_width).astype(np.intp)
    return labels[rows[:, None], columns]
