"""Periodic patterns in images: checkerboard artefacts of upsampling layers, measured in the spectrum.

Layers that double an image leave patterns of period 2, and of 4, 8 and 16 if more layers follow (Odena et al. 2016).
They raise the power at the frequencies i/p, j/p cycles per pixel, which a photograph has no reason to prefer. It is
compared with the power around these frequencies, so that neither sharpness nor colour has an influence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

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
    """Returns the power at the frequencies of each period, divided by the power around them.

    Args:
        images: uint8 [N, H, W, 3]; cropped to multiples of 16.

    Returns:
        For each of `PERIODS` the mean over its own frequencies (not those of a shorter period) of the mean power of all
        images; NaN where the tiles have too few bins between these frequencies.
    """
    power = _mean_power(images)
    return tuple(_excess(power, period) for period in PERIODS)


def _mean_power(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Returns the mean power spectrum of grey levels under a Hann window: float64 [h, w], frequency 0 first."""
    longest = max(PERIODS)
    height, width = (side // longest * longest for side in images.shape[1:3])
    window = np.outer(np.hanning(height + 1)[:-1], np.hanning(width + 1)[:-1])
    power = np.zeros((height, width))
    for image in images:
        grey = cv2.cvtColor(image[:height, :width], cv2.COLOR_RGB2GRAY).astype(np.float64)
        power += np.abs(np.fft.fft2((grey - grey.mean()) * window)) ** 2
    return power / max(len(images), 1)


def _excess(power: npt.NDArray[np.float64], period: int) -> float:
    height, width = power.shape
    if min(height, width) // period <= 2 * _AROUND:
        return math.nan
    ratios = [_ratio(power, i * height // period, j * width // period) for i, j in _own_frequencies(period)]
    return float(np.mean(ratios))


def _own_frequencies(period: int) -> Iterator[tuple[int, int]]:
    """Yields (i, j) of the frequencies i/p, j/p in half of the plane, without those of a period that divides p."""
    for i in range(period // 2 + 1):
        for j in range(period):
            if math.gcd(math.gcd(i, j), period) == 1:
                yield i, j


def _ratio(power: npt.NDArray[np.float64], row: int, column: int) -> float:
    """Returns the mean power of a peak over the mean of a ring around it; the spectrum is periodic at its borders."""
    reach = np.arange(-_AROUND, _AROUND + 1)
    patch = power[np.ix_((row + reach) % power.shape[0], (column + reach) % power.shape[1])]
    distance = np.maximum(np.abs(reach)[:, None], np.abs(reach)[None, :])
    peak, ring = patch[distance <= _PEAK].mean(), patch[distance > _GUARD].mean()
    tiny = np.finfo(np.float64).tiny
    return float((peak + tiny) / (ring + tiny))
