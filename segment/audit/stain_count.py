"""Count of stained nuclei in an IHC image: unmix haematoxylin and DAB, find nuclei, and classify each by its stain.

Only pixels are used. The stain vectors and the threshold come from real images (`segment.audit.calibration`), so that
the count is independent of how an image was rendered.

Optical density is decadic, -log10((I + 1) / 256), above that of the tile's clear ground: a dye's density is
proportional to its amount (Beer-Lambert; Ruifrok and Johnston 2001). How the constants of `find_nuclei` were chosen is
in docs/results/stain_count.md.

Calibration and audit both count with `count_nuclei`, so that the error of the calibration is that of the audit. Where
a scheme has regions of a nuclear marker (Ki-67), the nuclei in its tumour count: its TPS is by area, but the nuclei in
the image can be counted. Elsewhere every nucleus on labelled pixels counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from manifests.labels import IGNORE, LabelScheme
from manifests.tile import Tile
from segment.data.stains import STAINED_OD, stain_directions

Floats = npt.NDArray[np.float32]

CELL = "cell"
"""Class of `ki67_cells` and `pdl1_cells` that covers regions: its pixels belong to the region around them."""

CLEAR_PERCENTILE = 5.0
"""Percentile of a tile's optical density, per channel, that is taken as its clear ground."""

PALE_OD, LEAST_OD = 0.03, 0.12
"""Density added before the logarithm, so that noise of clear ground has no contrast; and the smallest mean density of a
nucleus, both stains together."""

_SAMPLED_PIXELS = 20_000

_SMOOTH_UM, _SURROUND_UM = 0.5, 4.0
_CONTRAST = 0.15
_DEPTH_UM, _SMALLEST_UM2, _LARGEST_HOLE_UM2 = 0.25, 10.0, 15.0


@dataclass(frozen=True)
class StainVectors:
    """Directions of the two stains in optical density (red, green, blue), each of length 1."""

    haematoxylin: tuple[float, float, float]
    dab: tuple[float, float, float]


def optical_density(image: npt.NDArray[np.uint8]) -> Floats:
    """Optical density above the clear ground: uint8 [H, W, 3] -> float32 [H, W, 3], 0 or more."""
    table = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)
    density = table[image]
    ground = np.percentile(density.reshape(-1, 3), CLEAR_PERCENTILE, axis=0).astype(np.float32)
    above: Floats = np.maximum(density - ground, 0)
    return above


def estimate_vectors(images: Iterable[npt.NDArray[np.uint8]]) -> StainVectors | None:
    """Stain vectors of real images of one stain, uint8 [H, W, 3], after Macenko et al. 2009; None if they show no two.

    The plane of the stained pixels of all images (at most the same number of each) is found by singular value
    decomposition; the stains are the directions at the 1st and 99th percentile of the angle in it. Differences from the
    paper: images are pooled, because a single one may contain no DAB; a pixel is left out by the length of its density,
    not by its faintest channel, which for pure haematoxylin is near 0. Haematoxylin absorbs more red than blue.
    """
    rng = np.random.default_rng(0)  # samples pixels
    parts = []
    for image in images:
        density = optical_density(image).reshape(-1, 3)
        stained = density[np.linalg.norm(density, axis=1) > STAINED_OD]
        if len(stained) > _SAMPLED_PIXELS:
            stained = stained[rng.choice(len(stained), _SAMPLED_PIXELS, replace=False)]
        parts.append(stained)
    vectors = stain_directions(np.concatenate(parts)) if parts else None
    if vectors is None:
        return None
    haematoxylin, dab = map(tuple, vectors.tolist())
    return StainVectors(haematoxylin, dab)


def stain_densities(image: npt.NDArray[np.uint8], vectors: StainVectors) -> Floats:
    """Optical density of each stain in every pixel: float32 [H, W, 2], haematoxylin and DAB, 0 or more.

    Least squares on the two vectors; negative values are set to 0.
    """
    unmix = np.linalg.pinv(np.array([vectors.haematoxylin, vectors.dab])).astype(np.float32)  # [3, 2]
    densities: Floats = np.maximum(optical_density(image) @ unmix, 0)
    return densities


def find_nuclei(
    densities: Floats, mpp: float, *, pale_od: float = PALE_OD, least_od: float = LEAST_OD
) -> npt.NDArray[np.int32]:
    """Nuclei by stain alone: int32 [H, W], ids 1..n, 0 = background.

    A pixel belongs to a nucleus where the sum of both stains is denser than around it. Densities are compared by their
    ratio, so that pale blue nuclei are found beside dark brown ones. Touching nuclei are separated by a watershed from
    the h-maxima of the distance to the background.
    """
    from skimage.segmentation import watershed

    total = densities.sum(axis=2)
    level = np.log(_blur(total, _SMOOTH_UM / mpp) + np.float32(pale_od))
    foreground = (level - _blur(level, _SURROUND_UM / mpp) > _CONTRAST).astype(np.uint8)
    foreground = _fill_small_holes(cv2.morphologyEx(foreground, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)), mpp)
    # The border counts as inside, so that a nucleus cut by the tile keeps one maximum.
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
    """Maxima of the distance that rise by `_DEPTH_UM` above their surroundings (Soille 2003, section 6.3.4)."""
    from skimage.morphology import reconstruction

    rise = distance_um - reconstruction(distance_um - _DEPTH_UM, distance_um)
    risen: npt.NDArray[np.bool_] = rise > 0.999 * _DEPTH_UM
    return risen


def _fill_small_holes(foreground: npt.NDArray[np.uint8], mpp: float) -> npt.NDArray[np.uint8]:
    """Fill holes smaller than a nucleus, because vesicular nuclei are pale inside. uint8 [H, W] of 0 and 1."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(1 - foreground, connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] * mpp**2 <= _LARGEST_HOLE_UM2
    small[0] = False  # label 0 is the foreground
    filled: npt.NDArray[np.uint8] = foreground | small[labels]
    return filled


def mean_dab(
    densities: Floats, instance: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Ids of the nuclei in `instance`, int64 [N], ascending, and the mean DAB density of each, float64 [N]."""
    covered = instance > 0
    ids, at = np.unique(instance[covered], return_inverse=True)
    area = np.bincount(at, minlength=ids.size)
    return ids.astype(np.int64), np.bincount(at, densities[..., 1][covered], ids.size) / area


def positive_area(densities: Floats, region: npt.NDArray[np.bool_], mpp: float, threshold: float) -> float:
    """Share of a region, 0..1, whose `smooth_dab` is above the threshold; NaN where the region is empty.

    A stained membrane encloses a cell whose inside is unstained, and the whole cell counts as positive.
    """
    if not region.any():
        return float("nan")
    return float((smooth_dab(densities, region, mpp)[region] > threshold).mean())


def smooth_dab(densities: Floats, region: npt.NDArray[np.bool_], mpp: float) -> Floats:
    """DAB density averaged over the size of a cell (Gaussian, 4 um) within `region`: float32 [H, W]."""
    weight = region.astype(np.float32)
    total = _blur(densities[..., 1] * weight, _SURROUND_UM / mpp)
    covered = np.maximum(_blur(weight, _SURROUND_UM / mpp), np.float32(1e-6))
    mean: Floats = (total / covered).astype(np.float32)
    return mean


@dataclass(frozen=True)
class CountedNuclei:
    """Counted nuclei of one tile.

    Attributes:
        nuclei: int32 [H, W], their pixels, 0 elsewhere. ids: int64 [N] of them, ascending, with gaps.
        dab: float64 [N], mean DAB density of each.
        region: int8 [N], by the mask: 1 in a positive region, 0 in a negative one; -1 where the scheme has no regions.
    """

    nuclei: npt.NDArray[np.int32]
    ids: npt.NDArray[np.int64]
    dab: npt.NDArray[np.float64]
    region: npt.NDArray[np.int8]


def has_marker_regions(scheme: LabelScheme) -> bool:
    """Whether positive tumour is a region whose stain is in nuclei, which can be counted within the mask."""
    return scheme.tps_basis == "area" and bool(scheme.ids("nuclear_marker"))


def scheme_basis(scheme: LabelScheme) -> str | None:
    """Basis of the audited TPS: "cells", "nuclei" (counted in regions) or "area"; None for a scheme without TPS."""
    if not scheme.ids("tumour_positive"):
        return None
    return "nuclei" if has_marker_regions(scheme) else scheme.tps_basis


def count_nuclei(tile: Tile, nuclei: npt.NDArray[np.int32], densities: Floats) -> CountedNuclei:
    """Select the nuclei that count.

    Without regions, pixels of nuclei on ignored pixels are cut off. In regions a nucleus counts as a whole where at
    least half of it is tumour; its kind is that of the region with more of it, a tie is negative.
    """
    if not has_marker_regions(tile.scheme):
        nuclei = np.where(tile.semantic != IGNORE, nuclei, 0).astype(np.int32)
        ids, dab = mean_dab(densities, nuclei)
        return CountedNuclei(nuclei, ids, dab, np.full(ids.size, -1, np.int8))
    ids, dab = mean_dab(densities, nuclei)
    on = nuclei > 0
    at, labels = np.searchsorted(ids, nuclei[on]), _under_cells(tile)[on]
    area, positive, negative = (
        np.bincount(at[chosen], minlength=ids.size)
        for chosen in (
            slice(None),
            np.isin(labels, tile.scheme.ids("tumour_positive")),
            np.isin(labels, tile.scheme.ids("tumour_negative")),
        )
    )
    counts = 2 * (positive + negative) >= area
    kept = np.zeros(int(ids[-1]) + 1 if ids.size else 1, np.bool_)
    kept[ids[counts]] = True
    return CountedNuclei(
        np.where(kept[nuclei], nuclei, 0), ids[counts], dab[counts], (positive > negative)[counts].astype(np.int8)
    )


def _under_cells(tile: Tile) -> npt.NDArray[np.uint8]:
    """Classes, uint8 [H, W], where pixels of cells have the nearest other class."""
    if CELL not in tile.scheme.names:
        return tile.semantic
    is_cell = tile.semantic == tile.scheme.names.index(CELL)
    if not is_cell.any() or is_cell.all():
        return tile.semantic
    from scipy import ndimage

    row, column = ndimage.distance_transform_edt(is_cell, return_distances=False, return_indices=True)
    filled: npt.NDArray[np.uint8] = tile.semantic[row, column]
    return filled
