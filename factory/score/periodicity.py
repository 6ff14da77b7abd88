"""Do images repeat with the strides of a network? Checkerboards show as peaks of the spectrum.

Layers that double an image leave patterns of period 2, and of 4, 8, 16 below them (Odena et al. 2016): power at the
frequencies i/p, j/p cycles per pixel that a photograph has no reason to prefer. It is compared with the power around
them, so that neither sharpness nor colour counts.
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
"""Bins around a frequency: its peak under a Hann window, where that has died away, and what it is compared with."""


@dataclass(frozen=True)
class Periodicity:
    """Excess of power at the frequencies of every period of `PERIODS`, 1 for none; NaN where tiles are too small."""

    fakes: tuple[float, ...]
    reals: tuple[float, ...]


def periodic_excess(images: npt.NDArray[np.uint8]) -> tuple[float, ...]:
    """Power at the frequencies of each period, over the power around them.

    Args:
        images: uint8 [N, H, W, 3]; the longest sides that are multiples of 16 are looked at.

    Returns:
        For each of `PERIODS` the mean over its own frequencies (not those of a shorter period), of the mean
        power of all images; NaN where the tile has too few bins between them.
    """
    power = _mean_power(images)
    return tuple(_excess(power, period) for period in PERIODS)


def _mean_power(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Power of the grey levels under a Hann window, mean over images: float64 [h, w], frequency 0 first."""
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
    """(i, j) of the frequencies i/p, j/p, half of the plane, without those of a period that divides p."""
    for i in range(period // 2 + 1):
        for j in range(period):
            if math.gcd(math.gcd(i, j), period) == 1:
                yield i, j


def _ratio(power: npt.NDArray[np.float64], row: int, column: int) -> float:
    """Mean power of a peak over the mean of a ring around it; the spectrum goes round at its borders."""
    reach = np.arange(-_AROUND, _AROUND + 1)
    patch = power[np.ix_((row + reach) % power.shape[0], (column + reach) % power.shape[1])]
    distance = np.maximum(np.abs(reach)[:, None], np.abs(reach)[None, :])
    peak, ring = patch[distance <= _PEAK].mean(), patch[distance > _GUARD].mean()
    tiny = np.finfo(np.float64).tiny
    return float((peak + tiny) / (ring + tiny))
