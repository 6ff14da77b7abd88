"""Count stained nuclei in an IHC image: unmix haematoxylin and DAB, find nuclei, call each positive or negative.

Everything here looks at pixels only. The stain vectors and the threshold come from real images
(`segment.audit.calibration`), so that the count judges a rendered image without knowing how it was rendered.

Optical density is decadic, -log10((I + 1) / 256), above that of the tile's clear ground: a dye's density is
proportional to its amount (Beer-Lambert; Ruifrok and Johnston 2001). Of the constants of `find_nuclei`, the two
smallest densities are the choice of `bench/stain_count_constants.py`. The others were set by hand on the train and val
images of `ihc_ki67_deepliif6` and `ihc_ki67_breast29`, by AJI and by the error of TPS, in tables that also listed
rendered tiles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

CLEAR_PERCENTILE = 5.0
"""The tile's clear ground, per channel, is this percentile of its optical density."""

STAINED_OD = 0.26
"""A pixel is stained from this length of its optical density: 0.15 in each channel, as in Macenko et al. 2009."""

EXTREME_PERCENTILE = 1.0
"""Macenko et al. 2009: the stain vectors lie at this percentile of the angle, and at 100 minus it."""

PALE_OD, LEAST_OD = 0.03, 0.12
"""Added to a density before its logarithm, so that the noise of clear ground is no contrast; and the smallest mean
density of a nucleus, both stains together. Chosen by `bench/stain_count_constants.py`, on real tiles alone: 68 of 27
patients, none for test. Mean |TPS error| there 0.042; with 0.04 for the second 0.044, from 0.16 on 0.060 and more."""

_SAMPLED_PIXELS = 20_000

_SMOOTH_UM, _SURROUND_UM = 0.5, 4.0
_CONTRAST = 0.15
_DEPTH_UM, _SMALLEST_UM2, _LARGEST_HOLE_UM2 = 0.25, 10.0, 15.0


@dataclass(frozen=True)
class StainVectors:
    """Directions of the two stains in optical density (red, green, blue), each of length 1."""

    haematoxylin: tuple[float, float, float]
    dab: tuple[float, float, float]

    def to_dict(self) -> dict[str, list[float]]:
        """JSON-ready, the inverse of `from_dict`."""
        return {"haematoxylin": list(self.haematoxylin), "dab": list(self.dab)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> StainVectors:
        """Read the vectors back."""
        return cls(_triple(document["haematoxylin"]), _triple(document["dab"]))


def _triple(values: Sequence[float] | npt.NDArray[Any]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def optical_density(image: npt.NDArray[np.uint8]) -> Floats:
    """Optical density above the clear ground: uint8 [H, W, 3] -> float32 [H, W, 3], 0 or more."""
    table = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)
    density = table[image]
    ground = np.percentile(density.reshape(-1, 3), CLEAR_PERCENTILE, axis=0).astype(np.float32)
    above: Floats = np.maximum(density - ground, 0)
    return above


def estimate_vectors(images: Iterable[npt.NDArray[np.uint8]]) -> StainVectors | None:
    """Stain vectors of a set of images, after Macenko et al. 2009.

    The stained pixels of all images (an equal number of each, at most) span a plane, by singular value decomposition;
    the stains are the directions at the 1st and 99th percentile of the angle in it. Differs from the paper: images are
    pooled, because a single one may hold no DAB at all; a pixel is left out by the length of its density, not by its
    faintest channel, which for pure haematoxylin is near 0. Haematoxylin is the one that absorbs more red than blue.

    Args:
        images: uint8 [H, W, 3], real ones of one stain.

    Returns:
        The vectors; None where no pixel is stained or all have one colour.
    """
    rng = np.random.default_rng(0)  # of a sample of pixels, not of anything drawn
    parts = []
    for image in images:
        density = optical_density(image).reshape(-1, 3)
        stained = density[np.linalg.norm(density, axis=1) > STAINED_OD]
        if len(stained) > _SAMPLED_PIXELS:
            stained = stained[rng.choice(len(stained), _SAMPLED_PIXELS, replace=False)]
        parts.append(stained)
    pixels = np.concatenate(parts) if parts else np.empty((0, 3), np.float32)
    if len(pixels) < 2:
        return None
    _, _, directions = np.linalg.svd(pixels.T @ pixels)
    plane = directions[:2] * np.where(directions[:2].sum(axis=1, keepdims=True) < 0, -1, 1)  # [2, 3]
    angle = np.arctan2(pixels @ plane[1], pixels @ plane[0])
    extremes = np.percentile(angle, [EXTREME_PERCENTILE, 100 - EXTREME_PERCENTILE])
    if extremes[1] - extremes[0] < np.radians(1):
        return None
    vectors = np.maximum(np.stack([np.cos(extremes), np.sin(extremes)], axis=1) @ plane, 0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    first, second = sorted(vectors, key=lambda vector: float(vector[2] - vector[0]))
    return StainVectors(_triple(first), _triple(second))


def stain_densities(image: npt.NDArray[np.uint8], vectors: StainVectors) -> Floats:
    """How much of each stain a pixel holds: float32 [H, W, 2], haematoxylin and DAB, 0 or more, in optical density.

    Least squares on the two vectors; what is negative then is set to 0.
    """
    unmix = np.linalg.pinv(np.array([vectors.haematoxylin, vectors.dab])).astype(np.float32)  # [3, 2]
    densities: Floats = np.maximum(optical_density(image) @ unmix, 0)
    return densities


def find_nuclei(
    densities: Floats, mpp: float, *, pale_od: float = PALE_OD, least_od: float = LEAST_OD
) -> npt.NDArray[np.int32]:
    """Nuclei by stain alone: int32 [H, W], ids 1..n, 0 = background.

    A pixel belongs to a nucleus where the sum of both stains is denser than around it. The ratio counts, not the
    difference, so that pale blue nuclei are found beside dark brown ones. Touching nuclei are parted by a watershed
    from the h-maxima of the distance to the background.

    Args:
        densities: of `stain_densities`.
        mpp: micrometres per pixel.
        pale_od, least_od: as the constants of that name.
    """
    from skimage.segmentation import watershed

    total = densities.sum(axis=2)
    level = np.log(_blur(total, _SMOOTH_UM / mpp) + np.float32(pale_od))
    foreground = (level - _blur(level, _SURROUND_UM / mpp) > _CONTRAST).astype(np.uint8)
    foreground = _fill_small_holes(cv2.morphologyEx(foreground, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)), mpp)
    # The border counts as inside, so that a nucleus that the tile cuts keeps one maximum.
    padded = cv2.copyMakeBorder(foreground, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    distance_um = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1] * np.float32(mpp)
    distance_um = _blur(distance_um, _SMOOTH_UM / mpp)
    inside = foreground > 0
    _, markers = cv2.connectedComponents((_h_maxima(distance_um) & inside).astype(np.uint8), connectivity=8)
    labels = watershed(-distance_um, markers, mask=inside)
    area_px = np.bincount(labels.ravel())
    density = np.bincount(labels.ravel(), total.ravel()) / np.maximum(area_px, 1)
    kept = (area_px * mpp**2 >= _SMALLEST_UM2) & (density >= least_od)
    kept[0] = False
    nuclei: npt.NDArray[np.int32] = np.where(kept, np.cumsum(kept), 0).astype(np.int32)[labels]
    return nuclei


def _blur(values: Floats, sigma: float) -> Floats:
    blurred: Floats = cv2.GaussianBlur(values, (0, 0), max(sigma, 0.1), borderType=cv2.BORDER_REFLECT)
    return blurred


def _h_maxima(distance_um: Floats) -> npt.NDArray[np.bool_]:
    """Where the distance rises by `_DEPTH_UM` above what surrounds it (Soille 2003, section 6.3.4)."""
    from skimage.morphology import reconstruction

    rise = distance_um - reconstruction(distance_um - _DEPTH_UM, distance_um)
    risen: npt.NDArray[np.bool_] = rise > 0.999 * _DEPTH_UM
    return risen


def _fill_small_holes(foreground: npt.NDArray[np.uint8], mpp: float) -> npt.NDArray[np.uint8]:
    """Fill background smaller than a nucleus: vesicular nuclei are pale inside. uint8 [H, W] of 0 and 1."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(1 - foreground, connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] * mpp**2 <= _LARGEST_HOLE_UM2
    small[0] = False  # label 0 is the foreground
    filled: npt.NDArray[np.uint8] = foreground | small[labels]
    return filled


def mean_dab(
    densities: Floats, instance: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Mean DAB density of every nucleus.

    Args:
        densities: of `stain_densities`.
        instance: int32 [H, W], 0 = background; ids may have gaps.

    Returns:
        ids int64 [N], ascending, and the mean over each one's pixels, float64 [N].
    """
    covered = instance > 0
    ids, at = np.unique(instance[covered], return_inverse=True)
    area = np.bincount(at, minlength=ids.size)
    return ids.astype(np.int64), np.bincount(at, densities[..., 1][covered], ids.size) / area


def positive_area(densities: Floats, region: npt.NDArray[np.bool_], mpp: float, threshold: float) -> float:
    """Share of a region whose DAB density, averaged over the size of a cell, is above the threshold.

    A stained membrane encloses a cell whose inside is unstained, and the whole cell counts as positive.

    Args:
        densities: of `stain_densities`. region: bool [H, W], where to look. mpp: micrometres per pixel.
        threshold: of `smooth_dab`.

    Returns:
        0..1; NaN where the region is empty.
    """
    if not region.any():
        return float("nan")
    return float((smooth_dab(densities, region, mpp)[region] > threshold).mean())


def smooth_dab(densities: Floats, region: npt.NDArray[np.bool_], mpp: float) -> Floats:
    """DAB density averaged over the size of a cell (Gaussian, 4 um), over the pixels of `region` only: [H, W]."""
    weight = region.astype(np.float32)
    total = _blur(densities[..., 1] * weight, _SURROUND_UM / mpp)
    covered = np.maximum(_blur(weight, _SURROUND_UM / mpp), np.float32(1e-6))
    mean: Floats = (total / covered).astype(np.float32)
    return mean


def youden_threshold(values: npt.NDArray[np.float64], is_positive: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """The threshold with the highest balanced accuracy (Youden's J / 2 + 1/2), and that accuracy.

    Between the two values that it parts, the threshold lies in the middle. Of equally good ones the lowest is taken.

    Args:
        values: float64 [N]. is_positive: bool [N], with at least one of each kind.
    """
    order = np.argsort(values, kind="stable")
    ranked, positive = values[order], is_positive[order]
    below = np.cumsum(~positive) / np.count_nonzero(~positive)  # negatives at or below each value
    above = 1 - np.cumsum(positive) / np.count_nonzero(positive)
    accuracy = (below + above) / 2
    accuracy[:-1][ranked[:-1] == ranked[1:]] = -1  # equal values cannot be parted
    accuracy[-1] = 0.5
    best = int(np.argmax(accuracy))
    after = ranked[min(best + 1, ranked.size - 1)]
    return float((ranked[best] + after) / 2), float(accuracy[best])


def otsu_threshold(values: npt.NDArray[Any]) -> float:
    """The threshold that parts values into two groups with the largest variance between them (Otsu 1979).

    Exact, without a histogram: it lies in the middle of the two values that it parts. The value itself where all are
    equal.

    Args:
        values: [N], at least one.
    """
    ranked = np.sort(values.astype(np.float64).ravel())
    below = np.arange(1, ranked.size)
    sums = np.cumsum(ranked)
    gap = sums[:-1] / below - (sums[-1] - sums[:-1]) / (ranked.size - below)
    between = np.where(ranked[:-1] < ranked[1:], below * (ranked.size - below) * gap**2, -1.0)
    if not between.size or between.max() < 0:
        return float(ranked[0])
    best = int(np.argmax(between))
    return float((ranked[best] + ranked[best + 1]) / 2)
