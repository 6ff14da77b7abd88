"""The resolution at which a network sees an image, and how its pixels are brought there."""

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
"""An image whose resolution is this close to that of the training tiles is taken as it is."""
_MAX_ENLARGEMENT = 4.0
"""A network that knows four times finer images has nothing to say of coarser ones."""
_FILTER_PX = 4
"""Pixels beyond a region that resampling looks at: two on each side of cubic interpolation, and room for rounding."""


class Pixels(Protocol):
    """An open image: pixels of its levels, finest first."""

    def read(self, level: int, y: int, x: int, height: int, width: int) -> npt.NDArray[np.uint8]:
        """uint8 [height, width, 3]; the region lies inside the level, and is in its pixels."""
        ...


@dataclass(frozen=True)
class Frame:
    """An image as the network sees it.

    Attributes:
        height, width: in the network's pixels. mpp: micrometres per network pixel.
        own_height, own_width: of the image itself (a slide's level 0).
        level: that is read. level_height, level_width: its size.
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
        """Whether pixels are interpolated, rather than read from a level as they are."""
        return (self.height, self.width) != (self.level_height, self.level_width)

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the image per pixel of the network, along (y, x)."""
        return self.own_height / self.height, self.own_width / self.width

    @property
    def own_mpp(self) -> float:
        """Micrometres per pixel of the image."""
        return self.mpp / math.sqrt(self.scale[0] * self.scale[1])


def choose_frame(sizes: Sequence[tuple[int, int]], mpp: float | None, known: Sequence[float], where: str) -> Frame:
    """The frame in which an image fits a network.

    Args:
        sizes: (height, width) of the image's levels, finest first; one for a flat image.
        mpp: micrometres per pixel of the finest; None where nobody says, which is taken to be the network's.
        known: resolutions of the network's training tiles; empty where its card does not say.
        where: named in an error.

    Raises:
        UserError: when the resolution is needed and not known, or far too coarse.
    """
    height, width = sizes[0]
    if mpp is None and len(known) > 1:
        values = ", ".join(f"{value:g}" for value in known)
        raise UserError(
            f"{where}: expected a resolution, as the weights know several ({values} um per pixel), got none. "
            "Say it with --mpp."
        )
    mpp = mpp or (known[0] if known else 1.0)
    nearest = min(known, key=lambda value: abs(math.log(value / mpp)), default=mpp)
    for level, (level_height, level_width) in enumerate(sizes):
        level_mpp = mpp * math.sqrt(height / level_height * width / level_width)
        if abs(level_mpp / nearest - 1) <= TOLERANCE:
            size = (level_height, level_width)
            return Frame(*size, level_mpp, height, width, level, *size)
    scale = nearest / mpp
    if scale < 1 / _MAX_ENLARGEMENT:
        raise UserError(
            f"{where}: expected at most {nearest * _MAX_ENLARGEMENT:g} um per pixel for weights that were trained at "
            f"{nearest:g}, got {mpp:g}. Scan it finer, or use other weights."
        )
    fine_enough = [n for n, size in enumerate(sizes) if size[0] * scale >= height * (1 - 1e-3)]
    level = max(fine_enough, default=0)
    seen = max(1, round(height / scale)), max(1, round(width / scale))
    return Frame(*seen, nearest, height, width, level, *sizes[level])


def read_frame(pixels: Pixels, frame: Frame, y: int, x: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """A window of an image as the network sees it; beyond its lower and right side it is mirrored.

    Windows that overlap agree on the pixels they share, also where these are resampled.

    Args:
        pixels: the image. frame: of it.
        y, x: upper left corner. height, width: in network pixels.

    Returns:
        uint8 [height, width, 3].
    """
    inside = min(height, frame.height - y), min(width, frame.width - x)
    resampled = frame.is_resampled
    window = _resampled(pixels, frame, y, x, *inside) if resampled else pixels.read(frame.level, y, x, *inside)
    padding = ((0, height - inside[0]), (0, width - inside[1]), (0, 0))
    return np.pad(window, padding, mode="symmetric")


def _resampled(pixels: Pixels, frame: Frame, y: int, x: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """The window from a level of another resolution: averaged where that is finer, cubic where it is coarser."""
    scales = frame.level_height / frame.height, frame.level_width / frame.width
    spans = []
    for first, length, scale, side in zip(
        (y, x), (height, width), scales, (frame.level_height, frame.level_width), strict=True
    ):
        reach = math.ceil(_FILTER_PX * max(scale, 1.0))
        low, high = first * scale, (first + length) * scale
        spans.append((low, high, max(math.floor(low) - reach, 0), min(math.ceil(high) + reach, side)))
    (top, bottom, first_row, end_row), (left, right, first_column, end_column) = spans
    region = pixels.read(frame.level, first_row, first_column, end_row - first_row, end_column - first_column)
    box = (
        left - first_column,
        top - first_row,
        min(right, end_column) - first_column,
        min(bottom, end_row) - first_row,
    )
    way = Image.Resampling.HAMMING if max(scales) > 1 else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(region).resize((width, height), way, box=box))


def to_own_pixels(labels: npt.NDArray[_Label], frame: Frame) -> npt.NDArray[_Label]:
    """Labels [height, width] of a frame in the image's own pixels, each from the nearest pixel centre."""
    if labels.shape == (frame.own_height, frame.own_width):
        return labels
    rows = ((np.arange(frame.own_height) + 0.5) * frame.height / frame.own_height).astype(np.intp)
    columns = ((np.arange(frame.own_width) + 0.5) * frame.width / frame.own_width).astype(np.intp)
    return labels[rows[:, None], columns]
