"""Stripes in images: fine lines of one direction that a network draws in every tile.

Tissue lies in any direction, and a network sees it in all eight symmetries: over many tiles a pattern and its mirror
image have equal power. The convolutions of a network prefer directions, wherever and whatever they draw. So the power
at every frequency is compared with that at the mirrored frequency. Sharpness, grain, colour, compression and the rows
of a scanner are the same in a mirror and do not count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

PERIODS_PX = (2.0, 5.0)
"""Shortest and longest period: finer than chromatin and fibres at 0.25 to 0.5 um per pixel."""

_LEAST_PX = 32

_WIDTH = 9 / 256
"""Side of the squares of frequencies whose mean is compared, in cycles per pixel."""

_FLOOR = 1e-6
"""Power of rounding, so that even tiles have no stripes."""


@dataclass(frozen=True)
class Stripes:
    """The strongest stripes.

    Attributes:
        excess: their power over that of their mirror image; 1 without stripes, a little more by chance.
        period_px: from line to line. direction_deg: of the lines, 0 to 180, counterclockwise from horizontal.
    """

    excess: float
    period_px: float
    direction_deg: float


def strongest_stripes(images: npt.NDArray[np.uint8]) -> Stripes:
    """Returns the strongest stripes of `PERIODS_PX` in the mean spectrum of grey levels; NaN for too small tiles.

    Args:
        images: uint8 [N, H, W, 3], under a Hann window. Each counts alike, whatever its contrast: at every period its
            mean power is 1.
    """
    height, width = images.shape[1:3]
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    frequency = np.hypot(rows, columns)
    sides = [max(3, int(_WIDTH * length) // 2 * 2 + 1) for length in (height, width)]
    clear = np.ones((height, width), np.bool_)  # of the axes, where a frequency is its own mirror image
    for along, side, length in ((rows, sides[0], height), (columns, sides[1], width)):
        reach = (side // 2 + 1) / length
        clear &= (np.abs(along) >= reach) & (np.abs(along) <= 0.5 - reach)
    wanted = clear & (frequency >= 1 / PERIODS_PX[1]) & (frequency <= 1 / PERIODS_PX[0])
    if min(height, width) < _LEAST_PX:
        return Stripes(math.nan, math.nan, math.nan)
    power = ndimage.uniform_filter(_mean_power(images, frequency), sides, mode="wrap") + _FLOOR
    excess = np.where(wanted, power / power[:, -np.arange(width)], 0)
    row, column = np.unravel_index(int(excess.argmax()), excess.shape)
    across = math.degrees(math.atan2(-rows[row, 0], columns[0, column]))
    return Stripes(float(excess[row, column]), float(1 / frequency[row, column]), (across + 90) % 180)


def _mean_power(images: npt.NDArray[np.uint8], frequency: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns the mean spectrum of images, each divided by its own mean at every period: float64 [H, W]."""
    height, width = frequency.shape
    window = np.outer(np.hanning(height + 1)[:-1], np.hanning(width + 1)[:-1])
    ring = np.rint(frequency * max(height, width)).astype(np.int64)
    total = np.zeros((height, width))
    for image in images:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64)
        power = np.abs(np.fft.fft2((grey - grey.mean()) * window)) ** 2
        means = np.bincount(ring.ravel(), power.ravel()) / np.bincount(ring.ravel()).clip(1)
        total += power / np.maximum(means, _FLOOR)[ring]
    return total / max(len(images), 1)
