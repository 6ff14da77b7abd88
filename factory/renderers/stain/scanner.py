"""From light to file: point spread, sharpening, focus, noise and JPEG. Images are uint8 [H, W, 3], BGR as in cv2."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from factory.core.compiled import compiled
from factory.renderers.stain.appearance import StainAppearance
from factory.renderers.stain.config import Scanner
from factory.renderers.stain.noise_tables import SENSOR_MASK, sensor

Image = npt.NDArray[np.uint8]


def scan(light: Image, appearance: StainAppearance, scanner: Scanner, rng: np.random.Generator) -> Image:
    """Scan the light that comes through a slide: RGB, uint8 [H, W, 3]."""
    image = _blurred(light, appearance.blur_px)
    if appearance.sharpen > 0:
        image = cv2.addWeighted(
            image, 1 + appearance.sharpen, cv2.GaussianBlur(image, (5, 5), 1.3), -appearance.sharpen, 0
        )
    defocused, slope = rng.random() < scanner.focus, rng.normal(size=2)
    if defocused:
        image = _defocus(image, slope, appearance.blur_px)
    _add_grain(image, sensor(), rng.integers(0, SENSOR_MASK, image.shape[0]), np.float32(appearance.grain / 32))
    half_chroma = rng.random() < scanner.half_chroma
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if half_chroma else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    options = [cv2.IMWRITE_JPEG_QUALITY, appearance.jpeg_quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    _, stream = cv2.imencode(".jpg", image, options)
    scanned: Image = cv2.cvtColor(cv2.imdecode(stream, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return scanned


def _blurred(image: Image, sigma_px: float) -> Image:
    blurred: Image = cv2.GaussianBlur(image, (0, 0), sigma_px) if sigma_px > 0.2 else image
    return blurred


def _defocus(image: Image, slope: npt.NDArray[np.float64], blur_px: float) -> Image:
    """Blend into a blurred copy along a direction: the slide was not level."""
    height, width = image.shape[:2]
    ramp = np.array([[0, slope[0]], [slope[1], slope[0] + slope[1]]], np.float32)
    ramp = (ramp - ramp.min()) / (np.ptp(ramp) + 1e-6)
    weight = cv2.resize(ramp, (width, height), interpolation=cv2.INTER_LINEAR)
    soft = _blurred(image, 1.2 + blur_px)
    blended: Image = cv2.blendLinear(image, soft, 1 - weight, weight)
    return blended


@compiled(fastmath=True)
def _add_grain(image, deviates, offsets, scale):  # type: ignore[no-untyped-def]
    """Add sensor noise in place: half of it common to the channels, growing with the root of the light (shot noise)."""
    height, width, _ = image.shape
    root = np.empty(256, np.float32)
    for level in range(256):
        root[level] = scale * np.sqrt((level + 8) / np.float32(263))
    for y in range(height):
        at = offsets[y]
        for x in range(width):
            common = np.float32(0.75) * deviates[(at + x) & SENSOR_MASK]
            for c in range(3):
                own = np.float32(0.66) * deviates[(at + 4 * x + c + 70001) & SENSOR_MASK]
                level = image[y, x, c]
                value = level + (common + own) * root[level]
                image[y, x, c] = np.uint8(min(max(value + np.float32(0.5), np.float32(0)), np.float32(255)))
