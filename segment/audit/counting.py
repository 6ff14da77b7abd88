"""Which of the nuclei that were found in an image count, and in what region of the mask each lies.

Calibration and judge both count here, so that the error of the one is that of the other. Where a scheme has regions of
a nuclear marker (Ki-67), the nuclei in its tumour count: TPS is by area there, but what the image shows of it can be
counted. Elsewhere every nucleus on labelled pixels counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from manifests.labels import IGNORE, LabelScheme
from manifests.tile import Tile
from segment.audit.stain_count import Floats, mean_dab

CELL = "cell"
"""The class of `ki67_cells` and `pdl1_cells` that lies over regions: its pixels are of the region around them."""


@dataclass(frozen=True)
class Counted:
    """The nuclei of one tile that count.

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
    """Whether positive tumour is a region whose stain lies in nuclei, so that these can be counted within the mask."""
    return scheme.tps_basis == "area" and bool(scheme.ids("nuclear_marker"))


def scheme_basis(scheme: LabelScheme) -> str | None:
    """What TPS is audited on: "cells", "nuclei" (counted in regions) or "area"; None where a scheme knows no TPS."""
    if not scheme.ids("tumour_positive"):
        return None
    return "nuclei" if has_marker_regions(scheme) else scheme.tps_basis


def count_nuclei(tile: Tile, nuclei: npt.NDArray[np.int32], densities: Floats) -> Counted:
    """Take the nuclei that count.

    Without regions, what lies on ignored pixels is cut off. In regions a nucleus is taken whole and counts where at
    least half of it is tumour; it is of the kind of tumour that holds more of it, a tie is negative.

    Args:
        tile: the labels. nuclei: int32 [H, W], as found, 0 = background. densities: of `stain_densities`.
    """
    if not has_marker_regions(tile.scheme):
        nuclei = np.where(tile.semantic != IGNORE, nuclei, 0).astype(np.int32)
        ids, dab = mean_dab(densities, nuclei)
        return Counted(nuclei, ids, dab, np.full(ids.size, -1, np.int8))
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
    return Counted(
        np.where(kept[nuclei], nuclei, 0), ids[counts], dab[counts], (positive > negative)[counts].astype(np.int8)
    )


def _under_cells(tile: Tile) -> npt.NDArray[np.uint8]:
    """The classes, uint8 [H, W], with the pixels of cells given to the nearest other class."""
    if CELL not in tile.scheme.names:
        return tile.semantic
    is_cell = tile.semantic == tile.scheme.names.index(CELL)
    if not is_cell.any() or is_cell.all():
        return tile.semantic
    from scipy import ndimage

    row, column = ndimage.distance_transform_edt(is_cell, return_distances=False, return_indices=True)
    filled: npt.NDArray[np.uint8] = tile.semantic[row, column]
    return filled
