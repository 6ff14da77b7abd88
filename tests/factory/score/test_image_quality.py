"""SSIM, FSIM and GMSD: the laws they keep, slow versions from the papers, and values of another library."""

import itertools
import math
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import skimage.data
from scipy.signal import convolve2d

from factory.score.image_quality import (
    Quality,
    fsim,
    gmsd,
    image_quality,
    luminance,
    phase_congruency,
    ssim,
)


def photograph(side: int = 64) -> np.ndarray:
    """A part of scikit-image's immunohistochemistry, uint8 [side, side, 3]."""
    return skimage.data.immunohistochemistry()[100 : 100 + side, 60 : 60 + side]


def slow_phase_congruency(image: np.ndarray) -> np.ndarray:
    """Kovesi 1999 pixel for pixel as the text has it, in loops; even sizes."""
    height, width = image.shape
    spectrum = np.fft.fft2(image)
    energy_of_all, amplitude_of_all = np.zeros(image.shape), np.zeros(image.shape)
    for orientation in range(4):
        filters = np.zeros((4, height, width))
        for row in range(height):
            for column in range(width):
                v = (row if row < height / 2 else row - height) / height
                u = (column if column < width / 2 else column - width) / width
                radius = math.hypot(u, v)
                if radius == 0:
                    continue
                apart = math.atan2(-v, u) - orientation * math.pi / 4
                apart = abs(math.atan2(math.sin(apart), math.cos(apart)))
                spread = math.exp(-(apart**2) / (2 * (math.pi / 4 / 1.2) ** 2))
                low = 1 / (1 + (radius / 0.45) ** 30)
                for scale in range(4):
                    centre = 1 / (6 * 2**scale)
                    gabor = math.exp(-(math.log(radius / centre) ** 2) / (2 * math.log(0.55) ** 2))
                    filters[scale, row, column] = gabor * low * spread
        even_odd = [np.fft.ifft2(spectrum * one) for one in filters]
        even, odd = sum(r.real for r in even_odd), sum(r.imag for r in even_odd)
        length = np.sqrt(even**2 + odd**2) + 1e-4
        energy = np.zeros(image.shape)
        for r in even_odd:
            energy += (r.real * even + r.imag * odd) / length - np.abs(r.real * odd - r.imag * even) / length
        noise = np.median(np.abs(even_odd[0]) ** 2) / math.log(2) / (filters[0] ** 2).sum()
        kernels = [np.fft.ifft2(one).real * math.sqrt(height * width) for one in filters]
        squares = sum((kernel**2).sum() for kernel in kernels)
        products = sum((kernels[i] * kernels[j]).sum() for i in range(4) for j in range(i + 1, 4))
        tau = math.sqrt((2 * noise * squares + 4 * noise * products) / 2)
        threshold = (tau * math.sqrt(math.pi / 2) + 2 * math.sqrt((2 - math.pi / 2) * tau**2)) / 1.7
        energy_of_all += np.maximum(energy - threshold, 0)
        amplitude_of_all += sum(np.abs(r) for r in even_odd)
    return energy_of_all / amplitude_of_all


def slow_gradient(image: np.ndarray, weights: tuple[float, float, float]) -> np.ndarray:
    kernel = np.array(weights)[:, None] * np.array([1, 0, -1])[None] / sum(weights)
    return np.hypot(convolve2d(image, kernel, "same"), convolve2d(image, kernel.T, "same"))


def test_phase_congruency_is_that_of_loops_over_frequencies() -> None:
    image = luminance(photograph(32))[:, :28]
    assert phase_congruency(image) == pytest.approx(slow_phase_congruency(image), abs=1e-9)


def test_fsim_and_gmsd_are_those_of_their_formulas() -> None:
    first, second = luminance(photograph(32)), luminance(cv2.GaussianBlur(photograph(32), (0, 0), 1.0))
    phases = [slow_phase_congruency(image) for image in (first, second)]
    slopes = [slow_gradient(image, (3, 10, 3)) for image in (first, second)]
    phase = (2 * phases[0] * phases[1] + 0.85) / (phases[0] ** 2 + phases[1] ** 2 + 0.85)
    slope = (2 * slopes[0] * slopes[1] + 160) / (slopes[0] ** 2 + slopes[1] ** 2 + 160)
    weight = np.maximum(*phases)
    assert fsim(first, second) == pytest.approx(float((phase * slope * weight).sum() / weight.sum()), abs=1e-9)

    halves = [convolve2d(image, np.full((2, 2), 0.25))[1::2, 1::2] for image in (first, second)]
    a, b = (slow_gradient(image, (1, 1, 1)) for image in halves)
    quality = (2 * a * b + 170) / (a**2 + b**2 + 170)
    assert gmsd(first, second) == pytest.approx(math.sqrt(np.mean((quality - quality.mean()) ** 2)), abs=1e-12)


def moved(image: np.ndarray) -> np.ndarray:
    return np.roll(image, 3, 1)


def darker(image: np.ndarray) -> np.ndarray:
    return (image // 2 + 20).astype(np.uint8)


def coarse(image: np.ndarray) -> np.ndarray:
    return np.repeat(np.repeat(image[::4, ::4], 4, 0), 4, 1)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (moved, Quality(0.2638541366, 0.7861225655, 0.1934210416)),
        (darker, Quality(0.7724620874, 0.8596359857, 0.0579359093)),
        (coarse, Quality(0.4524263651, 0.8488524636, 0.1681804046)),
    ],
)
def test_values_are_those_of_piq_0_8(change: Callable[[np.ndarray], np.ndarray], expected: Quality) -> None:
    # piq.ssim(downsample=False), piq.fsim(chromatic=False), piq.gmsd on luminance in float64, data_range 255, of
    # skimage.data.immunohistochemistry() whole (512x512, so that FSIM halves it). Its last release is of 2023: no
    # dependency.
    image = skimage.data.immunohistochemistry()
    found = image_quality(change(image), image)
    assert found.ssim == pytest.approx(expected.ssim, abs=1e-8)
    assert found.fsim == pytest.approx(expected.fsim, abs=2e-6)
    assert found.gmsd == pytest.approx(expected.gmsd, abs=1e-9)


@pytest.mark.parametrize("shape", [(64, 64), (63, 50), (11, 30)])
def test_the_same_image_is_perfect_and_the_order_of_two_does_not_matter(shape: tuple[int, int]) -> None:
    image = photograph()[: shape[0], : shape[1]]
    other = 255 - image
    same = image_quality(image, image)
    assert (same.ssim, same.fsim, same.gmsd) == pytest.approx((1, 1, 0), abs=1e-12)
    first, second = image_quality(image, other), image_quality(other, image)
    assert (first.ssim, first.fsim, first.gmsd) == pytest.approx((second.ssim, second.fsim, second.gmsd), abs=1e-12)
    assert -1 <= first.ssim < 1
    assert 0 <= first.fsim < 1
    assert first.gmsd > 0


@pytest.mark.parametrize("kind", ["blur", "noise"])
def test_more_blur_and_more_noise_are_worse_by_every_measure(kind: str) -> None:
    image = photograph(96)
    noise = np.random.default_rng(0).normal(size=image.shape)
    found = []
    for strength in (0.5, 1.0, 2.0, 4.0):
        if kind == "blur":
            worse = cv2.GaussianBlur(image, (0, 0), strength)
        else:
            worse = np.clip(np.round(image + 6 * strength * noise), 0, 255).astype(np.uint8)
        found.append(image_quality(worse, image))
    for better, worse_ in itertools.pairwise(found):
        assert better.ssim > worse_.ssim
        assert better.fsim > worse_.fsim
        assert better.gmsd < worse_.gmsd


def test_even_greys_have_a_value() -> None:
    grey, white = np.full((32, 32, 3), 128, np.uint8), np.full((32, 32, 3), 255, np.uint8)
    assert image_quality(grey, grey) == Quality(1, 1, 0)
    found = image_quality(grey, white)
    assert all(math.isfinite(value) for value in (found.ssim, found.fsim, found.gmsd))
    assert phase_congruency(luminance(white)).max() == 0


def test_phase_congruency_sees_no_contrast_and_gmsd_no_shift_of_hue() -> None:
    grey = luminance(photograph())
    assert phase_congruency(0.5 * grey) == pytest.approx(phase_congruency(grey), abs=1e-4)
    red, green = np.zeros((2, 16, 16, 3), np.uint8)
    red[..., 0], green[..., 1] = 250, 127  # nearly the same luminance
    assert abs(luminance(red)[0, 0] - luminance(green)[0, 0]) < 0.3


def test_images_that_do_not_fit_are_a_mistake_of_the_program() -> None:
    with pytest.raises(ValueError, match="two images"):
        image_quality(photograph(32), photograph(48))
    with pytest.raises(ValueError, match="at least 11 px"):
        image_quality(photograph(8), photograph(8))


def test_ssim_of_a_shift_of_brightness_is_its_luminance_term() -> None:
    first, second = np.full((16, 16), 100.0), np.full((16, 16), 120.0)
    constant = (0.01 * 255) ** 2
    expected = (2 * 100 * 120 + constant) / (100**2 + 120**2 + constant)
    assert ssim(first, second) == pytest.approx(expected, abs=1e-9)
