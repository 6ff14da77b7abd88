"""Scanner of a real image, measured from its pixels: point spread, noise and JPEG quality."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Luma = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scan:
    """Standard deviation of the point spread (px), noise (grey levels) and JPEG quality (1-100)."""

    blur_px: float
    grain: float
    jpeg_quality: float


def fit_scan(image: npt.NDArray[np.uint8]) -> Scan:
    """Measure a scanned image, uint8 [H, W, 3] RGB."""
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return Scan(round(_blur_px(luma), 3), round(_grain(luma), 3), round(_jpeg_quality(luma), 1))


def _blur_px(luma: Luma) -> float:
    """Width of the steepest edges: a step of height a under a Gaussian of sigma s has a slope of a / (s sqrt(2 pi))."""
    if min(luma.shape) < 16:
        return 0.8
    dx, dy = cv2.Scharr(luma, cv2.CV_32F, 1, 0) / 32, cv2.Scharr(luma, cv2.CV_32F, 0, 1) / 32
    slope = np.hypot(dx, dy)
    box = np.ones((9, 9), np.uint8)
    height = cv2.dilate(luma, box) - cv2.erode(luma, box)
    crest = (slope >= cv2.dilate(slope, np.ones((5, 5), np.uint8))) & (height > 40)
    if crest.sum() < 30:
        return 0.8
    sigma = height[crest] / (np.maximum(slope[crest], 1e-3) * math.sqrt(2 * math.pi))
    # the sharpest edges show the optics, the others the tissue
    return float(np.clip(_EDGE_SLOPE * np.percentile(sigma, 15) - _EDGE_BIAS_PX, 0.4, 2.5))


# A nucleus is no step, and Scharr's own width adds: a line through the medians of tiles that were rendered with 0.6 to
# 1.2 px (`experiments.stain_constants`), which come back within 0.1 px.
_EDGE_SLOPE, _EDGE_BIAS_PX = 1.6, 0.95


def _grain(luma: Luma) -> float:
    """Noise in the flattest parts: Immerkaer's estimate (1996) in blocks of 16 px, its lower decile."""
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    rough = np.abs(cv2.filter2D(luma, -1, kernel))
    rows, columns = (length // 16 for length in luma.shape)
    if rows == 0 or columns == 0:
        return 1.0
    blocks = rough[: rows * 16, : columns * 16].reshape(rows, 16, columns, 16).mean(axis=(1, 3))
    return float(np.clip(np.percentile(blocks, 10) * math.sqrt(math.pi / 2) / 6 / _LEFT_BY_JPEG, 0.2, 8.0))


_LEFT_BY_JPEG = 0.26
"""Share of the noise that compression and the blur of the codec's colours leave, on rendered tiles."""


def _jpeg_quality(luma: Luma) -> float:
    """From the extra steps at borders of 8 px blocks; an image that was cropped off the grid or resized shows none."""
    steps = np.abs(np.diff(luma, n=1, axis=1)).mean(axis=0)
    if len(steps) < 64:
        return 90.0
    by_phase = np.array([steps[phase::8].mean() for phase in range(8)])
    blockiness = by_phase.max() / max(float(np.median(by_phase)), 1e-3) - 1
    return float(np.clip(98 - 90 * blockiness, 60, 98))
