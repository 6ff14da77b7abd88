"""SSIM, FSIM and GMSD: similarity of two images of one place, as the papers define it.

All three work on luminance Y = 0.299 R + 0.587 G + 0.114 B, float64 [H, W] from 0 to 255, as in their papers, so none
of them notices a shift of hue at equal luminance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt
from scipy import fft

from factory.core.statistics import Floats

LEAST_SIDE_PX = 11
"""Side of the window of SSIM."""

_LUMINANCE = (0.299, 0.587, 0.114)
_GREYS = 255.0

_GMSD_T = 170.0
"""Constant of the gradient similarity of GMSD for 8 bits (Xue et al. 2014)."""
_PREWITT = np.array([[1, 0, -1]] * 3, np.float64) / 3

_FSIM_T1, _FSIM_T2 = 0.85, 160.0
"""Constants of the similarities of phase congruency and of gradients (Zhang et al. 2011)."""
_SCHARR = np.array([[3, 0, -3], [10, 0, -10], [3, 0, -3]], np.float64) / 16
_FSIM_SIDE_PX = 256
"""Images are reduced by whole factors until their shorter side is about this long (Zhang et al. 2011)."""

_SCALES, _ORIENTATIONS = 4, 4
_SHORTEST_WAVE_PX = 6.0
"""Wavelengths are this and its doubles (Zhang et al. 2011: centre frequencies 1/6, 1/12, 1/24, 1/48)."""
_BANDWIDTH = -math.log(0.55)
"""sigma_r of a log-Gabor filter: 0.5978 (Zhang et al. 2011)."""
_SPREAD = math.pi / _ORIENTATIONS / 1.2
"""sigma_theta of its angle: 0.6545 (Zhang et al. 2011)."""
_LOW_PASS = (0.45, 15)
"""Cut-off and order of the Butterworth filter that removes the corners of the spectrum (Kovesi 1999)."""
_NOISE_DEVIATIONS = 2.0
_NOISE_RESCALE = 1.7
"""Energy below (mean + 2 standard deviations of the noise energy) / 1.7 counts as noise (Kovesi 1999)."""
_EPSILON = 1e-4


@dataclass(frozen=True)
class Quality:
    """Similarity of a fake to the real image of its mask.

    Attributes:
        ssim: -1 to 1, 1 for the same image. fsim: 0 to 1, 1 for the same image. gmsd: from 0, 0 for the same image.
    """

    ssim: float
    fsim: float
    gmsd: float


def image_quality(fake: npt.NDArray[np.uint8], real: npt.NDArray[np.uint8]) -> Quality:
    """Computes all three measures of two images, uint8 [H, W, 3] of one size."""
    if fake.shape != real.shape or fake.ndim != 3 or min(fake.shape[:2]) < LEAST_SIDE_PX:
        raise ValueError(
            f"expected two images [H, W, 3] of at least {LEAST_SIDE_PX} px, got {fake.shape}, {real.shape}"
        )
    first, second = luminance(fake), luminance(real)
    return Quality(ssim(first, second), fsim(first, second), gmsd(first, second))


def luminance(image: npt.NDArray[np.uint8]) -> Floats:
    """Returns Y of an RGB image uint8 [H, W, 3]: float64 [H, W], 0 to 255."""
    grey: Floats = image.astype(np.float64) @ np.array(_LUMINANCE)
    return grey


def ssim(first: Floats, second: Floats) -> float:
    """Returns the structural similarity (Wang et al. 2004): window 11 px, sigma 1.5, K1 0.01, K2 0.03; symmetric."""
    from skimage.metrics import structural_similarity

    found = structural_similarity(
        first, second, data_range=_GREYS, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    return float(found)


def gmsd(first: Floats, second: Floats) -> float:
    """Returns the gradient magnitude similarity deviation (Xue et al. 2014); symmetric.

    As in the authors' program, images are averaged over 2x2 pixels first, and are black beyond their edges. An odd last
    row or column is left out.
    """
    a, b = (_gradient(_smaller(image, 2), _PREWITT) for image in (first, second))
    return float(_similarity(a, b, _GMSD_T).std())


def fsim(first: Floats, second: Floats) -> float:
    """Returns the feature similarity (Zhang et al. 2011, without colour); symmetric.

    Rows and columns beyond a whole factor of the reduction are left out. For two images without any feature, such as
    two uniform greys, the result is the mean similarity of all pixels.
    """
    factor = max(1, math.floor(min(first.shape) / _FSIM_SIDE_PX + 0.5))
    a, b = (_smaller(image, factor) for image in (first, second))
    phase_a, phase_b = phase_congruency(a), phase_congruency(b)
    slopes = _similarity(_gradient(a, _SCHARR), _gradient(b, _SCHARR), _FSIM_T2)
    similar = _similarity(phase_a, phase_b, _FSIM_T1) * slopes
    weight = np.maximum(phase_a, phase_b)
    total = weight.sum()
    return float((similar * weight).sum() / total if total > 0 else similar.mean())


def phase_congruency(image: Floats) -> Floats:
    """Returns the phase congruency: float64 [H, W], 0 to 1, independent of contrast (Kovesi 1999; Zhang et al. 2011).

    For each of four orientations, the responses of four scales are projected onto their mean phase; their spread about
    it and the energy of noise are subtracted. The sum over orientations is divided by the sum of all amplitudes.
    """
    bank = _filters(image.shape[0], image.shape[1])  # [O, S, H, W]
    spectrum = fft.fft2(image)
    energy, amplitude = np.zeros((2, *image.shape))
    for filters in bank:
        responses = fft.ifft2(spectrum * filters)  # complex [S, H, W]
        sizes = np.abs(responses)
        summed = responses.sum(0)
        towards = summed / (np.abs(summed) + _EPSILON)  # the mean phase
        turned = responses * towards.conj()
        in_phase = (turned.real - np.abs(turned.imag)).sum(0)
        energy += np.maximum(in_phase - _noise_energy(filters, sizes[0]), 0)
        amplitude += sizes.sum(0)
    congruency: Floats = np.divide(energy, amplitude, out=np.zeros_like(energy), where=amplitude > 1e-9)
    return congruency


def _noise_energy(filters: Floats, finest: Floats) -> float:
    """Estimates an upper limit of the noise energy from the median response of the finest scale (Kovesi 1999).

    The squared amplitude of filtered white noise has an exponential distribution, so its mean is median / ln 2. From
    this noise power follows the Rayleigh distribution of the energy of all scales.
    """
    power = np.median(np.square(finest)) / math.log(2) / np.square(filters[0]).sum()
    impulse = fft.ifft2(filters.sum(0)).real
    deviation = math.sqrt(power * np.square(impulse).sum() * impulse.size)
    mean, spread = deviation * math.sqrt(math.pi / 2), deviation * math.sqrt(2 - math.pi / 2)
    return (mean + _NOISE_DEVIATIONS * spread) / _NOISE_RESCALE


@lru_cache(maxsize=4)
def _filters(height: int, width: int) -> Floats:
    """Returns log-Gabor filters in the frequency plane, zero frequency first: float64 [orientations, scales, H, W]."""
    # Frequencies of an odd length reach +-0.5, as in Kovesi's program.
    y, x = (fft.fftfreq(length, 1 / length) / (length - length % 2) for length in (height, width))
    radius = np.hypot(y[:, None], x[None])
    angle = np.arctan2(-y[:, None], x[None])
    radius[0, 0] = 1.0
    low_pass = 1 / (1 + (radius / _LOW_PASS[0]) ** (2 * _LOW_PASS[1]))
    waves = _SHORTEST_WAVE_PX * 2.0 ** np.arange(_SCALES)
    radial = np.exp(-(np.log(radius * waves[:, None, None]) ** 2) / (2 * _BANDWIDTH**2)) * low_pass
    radial[:, 0, 0] = 0.0
    towards = np.arange(_ORIENTATIONS) * (math.pi / _ORIENTATIONS)
    apart = np.abs(np.angle(np.exp(1j * (angle - towards[:, None, None]))))
    bank: Floats = radial[None] * np.exp(-(apart**2) / (2 * _SPREAD**2))[:, None]
    return bank


def _gradient(image: Floats, kernel: Floats) -> Floats:
    """Returns the length of the gradient, with black beyond the edges: float64 [H, W]."""
    sides = [cv2.filter2D(image, cv2.CV_64F, k, borderType=cv2.BORDER_CONSTANT) for k in (kernel, kernel.T)]
    lengths: Floats = np.hypot(*sides)
    return lengths


def _similarity(first: Floats, second: Floats, constant: float) -> Floats:
    """Returns 1 where two maps are equal, towards 0 where one is far above the other: float64 [H, W]."""
    return (2 * first * second + constant) / (np.square(first) + np.square(second) + constant)


def _smaller(image: Floats, factor: int) -> Floats:
    """Averages whole squares of `factor` pixels."""
    height, width = (length // factor for length in image.shape)
    squares = image[: height * factor, : width * factor].reshape(height, factor, width, factor)
    means: Floats = squares.mean((1, 3))
    return means
