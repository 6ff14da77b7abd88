"""Nuclei of real tissue by their stain alone: where the density rises above its surroundings, divided at necks."""

from __future__ import annotations

import cv2
import numba
import numpy as np
import numpy.typing as npt

from factory.bank.stain_separation import FloatMap, Mask
from factory.core.compiled import compiled

_SMOOTH_UM, _SURROUND_UM = 0.5, 4.0
_CONTRAST = 0.15
"""Contrast to the surroundings, as the natural logarithm of the ratio of densities."""
_PALE, _LEAST = 0.07, 0.2
"""Density added before the logarithm, so that noise of clear ground has no contrast; least density of a nucleus."""
_APART_UM = 1.6
"""Radius within which two maxima of the distance to the outline belong to one nucleus."""
_SMALLEST_UM2, _LARGEST_HOLE_UM2 = 8.0, 15.0


def find_tissue_nuclei(density: FloatMap, mpp: float) -> npt.NDArray[np.int32]:
    """Find nuclei: int32 [H, W], ids 1..n, 0 = none. Neighbours are separated by a watershed (Meyer 1994).

    Args:
        density: float32 [H, W], haematoxylin and DAB together, natural-logarithm optical density.
        mpp: micrometres per pixel.
    """
    inside = _without_small_holes(nuclear_pixels(density, mpp).astype(np.uint8), mpp)
    padded = cv2.copyMakeBorder(inside, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    depth = cv2.GaussianBlur(depth, (0, 0), max(_SMOOTH_UM / mpp, 0.5))
    reach = 2 * round(_APART_UM / mpp) + 1
    highest = cv2.dilate(depth, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))
    peaks = (depth >= highest) & (inside > 0)
    _, markers = cv2.connectedComponents(peaks.astype(np.uint8), connectivity=8)
    shape = _flooded(markers, depth, inside)
    area = np.bincount(shape.ravel())
    mean = np.bincount(shape.ravel(), density.ravel()) / np.maximum(area, 1)
    kept = (area * mpp**2 >= _SMALLEST_UM2) & (mean >= _LEAST)
    kept[0] = False
    return np.where(kept, np.cumsum(kept), 0).astype(np.int32)[shape]


def nuclear_pixels(density: FloatMap, mpp: float) -> Mask:
    """Find the pixels that are denser than their surroundings: bool [H, W]. Pale and dark nuclei count alike."""
    level = np.log(np.maximum(_blur(density, _SMOOTH_UM / mpp), 0) + np.float32(_PALE))
    above = level - _blur_wide(level, _SURROUND_UM / mpp)
    found = cv2.morphologyEx((above > _CONTRAST).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return np.asarray(found > 0)


def _flooded(markers: npt.NDArray[np.int32], depth: FloatMap, inside: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Flood `inside` from markers 1..n, the deepest pixels first: int32 [H, W]."""
    scale = np.float32(255) / max(float(depth.max()), 1e-6)
    label = markers.astype(np.int32)
    _flood(label.ravel(), np.rint(255 - depth * scale).astype(np.uint8).ravel(), inside.ravel(), depth.shape[1])
    return label


@compiled()
def _flood(label, relief, inside, width):  # type: ignore[no-untyped-def]
    """Fill the zeros of `label` in place: a first-in, first-out queue for each of 256 levels, as linked lists."""
    first, last = np.full(256, -1, np.int32), np.full(256, -1, np.int32)
    following = np.full(label.size, -1, np.int32)
    for pixel in range(label.size):
        if label[pixel] > 0:
            _append(pixel, relief[pixel], first, last, following)
    level = 0
    while level < 256:
        pixel = first[level]
        if pixel < 0:
            level += 1
            continue
        first[level] = following[pixel]
        column = pixel % width
        for step in (-width, width, -1, 1):
            beside = pixel + step
            if (
                beside < 0
                or beside >= label.size
                or (step == -1 and column == 0)
                or (step == 1 and column == width - 1)
            ):
                continue
            if label[beside] == 0 and inside[beside] > 0:
                label[beside] = label[pixel]
                _append(beside, max(relief[beside], level), first, last, following)


@numba.njit(inline="always")
def _append(pixel, level, first, last, following):  # type: ignore[no-untyped-def]
    following[pixel] = -1
    if first[level] < 0:
        first[level] = pixel
    else:
        following[last[level]] = pixel
    last[level] = pixel


def _without_small_holes(inside: npt.NDArray[np.uint8], mpp: float) -> npt.NDArray[np.uint8]:
    """Fill holes smaller than a nucleus: vesicular nuclei are pale inside. uint8 [H, W] of 0 and 1."""
    _, hole, figures, _ = cv2.connectedComponentsWithStats(1 - inside, connectivity=4)
    small = figures[:, cv2.CC_STAT_AREA] * mpp**2 <= _LARGEST_HOLE_UM2
    small[0] = False
    return np.asarray(inside | small[hole], np.uint8)


def _blur(values: FloatMap, sigma_px: float) -> FloatMap:
    blurred: FloatMap = cv2.GaussianBlur(values, (0, 0), max(sigma_px, 0.3), borderType=cv2.BORDER_REFLECT)
    return blurred


def _blur_wide(values: FloatMap, sigma_px: float) -> FloatMap:
    """A blur over many pixels, at half of the resolution."""
    height, width = values.shape
    small = cv2.resize(values, (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(_blur(small, sigma_px / 2), (width, height), interpolation=cv2.INTER_LINEAR))
