"""Periodic patterns in images: checkerboard artefacts of upsampling layers, measured in the spectrum.

Layers that double an image leave patterns of period 2, and of 4, 8 and 16 if more layers follow (Odena et al. 2016).
They raise the power at the frequencies i/p, j/p cycles per pixel, which a photograph has no reason to prefer. It is
compared with the power around these frequencies, so that neither sharpness nor colour has an influence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np
import numpy.typing as npt

PERIODS = (2, 4, 8, 16)
"""Pixels."""

_PEAK, _GUARD, _AROUND = 1, 2, 6
"""Distances in bins: extent of a peak under a Hann window, where the peak has ended, end of the ring around it."""


@dataclass(frozen=True)
class Periodicity:
    """Excess of power at the frequencies of every period of `PERIODS`, 1 for none; NaN where tiles are too small."""

    fakes: tuple[float, ...]
    reals: tuple[float, ...]


def periodic_excess(images: npt.NDArray[np.uint8]) -> tuple[float, ...]:
    """Returns the power of grey levels at the frequencies of each period, divided by the power around them.

    Args:
        images: uint8 [N, H, W, 3]; cropped to multiples of 16, under a Hann window.

    Returns:
        For each of `PERIODS` the mean over its own frequencies (not those of a shorter period) of the mean power of all
        images; NaN where the tiles have too few bins between these frequencies.
    """
    longest = max(PERIODS)
    height, width = (side // longest * longest for side in images.shape[1:3])
    window = np.outer(np.hanning(height + 1)[:-1], np.hanning(width + 1)[:-1])
    power = np.zeros((height, width))  # frequency 0 first
    for image in images:
        grey = cv2.cvtColor(image[:height, :width], cv2.COLOR_RGB2GRAY).astype(np.float64)
        power += np.abs(np.fft.fft2((grey - grey.mean()) * window)) ** 2
    power /= max(len(images), 1)
    return tuple(_excess(power, period) for period in PERIODS)


def _excess(power: npt.NDArray[np.float64], period: int) -> float:
    height, width = power.shape
    if min(height, width) // period <= 2 * _AROUND:
        return math.nan
    ratios = [
        _ratio(power, i * height // period, j * width // period)
        for i, j in product(range(period // 2 + 1), range(period))  # half of the plane
        if math.gcd(i, j, period) == 1  # else it is a frequency of a shorter period too
    ]
    return float(np.mean(ratios))


def _ratio(power: npt.NDArray[np.float64], row: int, column: int) -> float:
    """Returns the mean power of a peak over the mean of a ring around it; the spectrum is periodic at its borders."""
    reach = np.arange(-_AROUND, _AROUND + 1)
    patch = power[np.ix_((row + reach) % power.shape[0], (column + reach) % power.shape[1])]
    distance = np.maximum(np.abs(reach)[:, None], np.abs(reach)[None, :])
    peak, ring = patch[distance <= _PEAK].mean(), patch[distance > _GUARD].mean()
    tiny = np.finfo(np.float64).tiny
    return float((peak + tiny) / (ring + tiny))
