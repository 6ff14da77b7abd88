"""Region labels from marked cells: positive and negative parts of a tumour, and their agreement with the cells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from factory.ingest.config import IngestConfig
from factory.ingest.pairing import Source, SourceError
from factory.ingest.points import Points
from factory.masks.quantiles import target_count
from manifests.labels import LabelScheme
from manifests.schema import SPLITS

SMOOTH_UM = 5.0
"""Sigma of the Gaussian that makes regions of cells. docs/results/region-labels.md compares other widths."""

MAX_SMOOTH_UM = 100.0

_REACH = 4
"""Radius of a Gaussian's support, in its sigmas."""

AIR_GAP_UM = 5.0
"""Diameter of the disc that air must hold: bright gaps between cells are narrower than that."""

POSITIVE, NEGATIVE = "positive", "negative"
"""Class names of marked cells."""

MIN_CELLS = 10
"""Marked cells that a tile needs for its TPS by cells to be compared with its TPS by area."""


def label_regions(
    source: Source,
    roi: npt.NDArray[np.bool_],
    points: Points,
    is_air: npt.NDArray[np.bool_],
    mpp: float,
    config: IngestConfig,
) -> tuple[npt.NDArray[np.uint8], Points]:
    """Region labels of an image by a configuration, and the marked cells in the ROI; see `region_labels`.

    An unknown resolution (NaN), which `geometry` reports, gives empty labels.

    Raises:
        SourceError: for cells of another class than `POSITIVE` and `NEGATIVE`, or a tumour without marked cells.
    """
    assert config.smooth_um is not None
    uri = source.uris["points"]
    strange = sorted(set(points.classes) - {POSITIVE, NEGATIVE})
    if strange:
        raise SourceError(
            [f"{uri}: expected cells {POSITIVE} or {NEGATIVE}, got {strange[0]!r}. Name them with --point-classes"]
        )
    marked = cells_within(points, roi)
    if math.isnan(mpp):
        return np.zeros(roi.shape, np.uint8), marked
    is_air = open_air(is_air, mpp)
    if not len(marked) and bool(np.any(roi & ~is_air)):
        raise SourceError(
            [
                f"{uri}: expected a marked cell in the ROI, got none: tumour of unknown kind. "
                "Mark one, or remove the file and leave the image out with --ignore-unpaired"
            ]
        )
    return region_labels(roi, marked, is_air, mpp, config.region_scheme, smooth_um=config.smooth_um), marked


def region_labels(
    roi: npt.NDArray[np.bool_],
    marked: Points,
    is_air: npt.NDArray[np.bool_],
    mpp: float,
    scheme: LabelScheme,
    *,
    smooth_um: float = SMOOTH_UM,
) -> npt.NDArray[np.uint8]:
    """Regions of an image: other, negative tumour, positive tumour and air; no pixel is `ignore`.

    Air is labelled first; then the ROI is tumour and the rest is other. Of the tumour, exactly the share that the
    marked cells have is positive (floor(share x pixels + 0.5)): the pixels with the highest local share of positive
    cells, f = G(positive) / (G(positive) + G(negative)), G the sum of a Gaussian of `smooth_um` over cells, ranked by
    its log odds. Where no cell reaches, the nearest of either class decide, as in the Gaussian's tail; of equal pixels
    the first in reading order are positive. So TPS by area and by marked cells are the same for an image, and
    `agree` measures how far regions and cells agree. A wide Gaussian makes smooth regions that mix cells, a narrow
    one a map of single cells.

    Args:
        roi: bool [H, W], where tumour was annotated. is_air: bool [H, W], see `open_air`.
        marked: cells `POSITIVE` and `NEGATIVE` in the ROI, in pixels; see `cells_within`.
        scheme: with one class each of "air", "tumour_positive" and "tumour_negative", and one without a role.

    Raises:
        ValueError: when there is tumour and no marked cell in the ROI.
    """
    (other,), (air,) = (label.id for label in scheme.classes if not label.roles), scheme.ids("air")
    (positive,), (negative,) = scheme.ids("tumour_positive"), scheme.ids("tumour_negative")
    labels = np.where(roi, np.uint8(negative), np.uint8(other))
    labels[is_air] = air
    tumour = np.flatnonzero(labels == negative)
    if not tumour.size:
        return labels
    if not len(marked):
        raise ValueError("expected a marked cell where there is tumour, got none")
    share = marked.classes.count(POSITIVE) / len(marked)
    count = target_count(share, tumour.size)
    if 0 < count < tumour.size:
        ours, theirs = (_log_density(marked, name, roi.shape, tumour, smooth_um / mpp) for name in (POSITIVE, NEGATIVE))
        chosen = tumour[_first(ours - theirs, count)]
    else:
        chosen = tumour[:count]
    labels.ravel()[chosen] = positive
    return labels


def open_air(is_air: npt.NDArray[np.bool_], mpp: float) -> npt.NDArray[np.bool_]:
    """Air by grey level without parts narrower than a disc of `AIR_GAP_UM` (binary opening): bool [H, W]."""
    side = 2 * round((AIR_GAP_UM / mpp - 1) / 2) + 1
    if side <= 1:
        return is_air
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    opened: npt.NDArray[np.uint8] = cv2.morphologyEx(is_air.astype(np.uint8), cv2.MORPH_OPEN, disc)
    return opened.astype(np.bool_)


def cells_within(points: Points, mask: npt.NDArray[np.bool_]) -> Points:
    """The points whose pixel lies in the image and in a mask, bool [H, W]."""
    height, width = mask.shape
    points = points.where(points.inside(0, 0, width, height))
    return points.where(mask[points.y.astype(np.intp), points.x.astype(np.intp)])


def _log_density(
    cells: Points, name: str, shape: tuple[int, ...], pixels: npt.NDArray[np.intp], sigma_px: float
) -> npt.NDArray[np.float64]:
    """Log of the sum of Gaussians (peak 1) at the cells of a class; beyond their reach, that of the nearest alone.

    It is evaluated at `pixels`, flat indices into an image of `shape`.
    """
    mine = cells.where(np.array([found == name for found in cells.classes]))
    rows, columns = mine.y.astype(np.intp), mine.x.astype(np.intp)
    reach = min(math.ceil(_REACH * sigma_px), max(shape))
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma_px) ** 2)
    stamp = bell[:, None] * bell
    total = np.zeros((shape[0] + 2 * reach, shape[1] + 2 * reach))
    for row, column in zip(rows, columns, strict=True):  # cells are few: a stamp each costs less than a convolution
        total[row : row + stamp.shape[0], column : column + stamp.shape[1]] += stamp
    near = total[reach : reach + shape[0], reach : reach + shape[1]].ravel()[pixels]
    nowhere = np.ones(shape, np.uint8)
    nowhere[rows, columns] = 0
    distance = cv2.distanceTransform(nowhere, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).ravel()[pixels]
    with np.errstate(divide="ignore"):  # log 0 where no cell reaches
        density: npt.NDArray[np.float64] = np.log(near)
    nearest: npt.NDArray[np.float64] = -0.5 * (distance.astype(np.float64) / sigma_px) ** 2
    return np.maximum(density, nearest, out=density)


def _first(scores: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.intp]:
    """Indices of the `count` largest scores, at least one and not all; of equal ones the first."""
    threshold = np.partition(scores, scores.size - count)[scores.size - count]
    above = np.flatnonzero(scores > threshold)
    return np.concatenate([above, np.flatnonzero(scores == threshold)[: count - above.size]])


@dataclass(frozen=True)
class Agreement:
    """Marked cells of an image or a tile by the region that they lie in, and its pixels of (positive) tumour.

    Attributes:
        of_positive, of_negative: such cells in (positive tumour, negative tumour, neither: on a pixel that is air).
    """

    of_positive: tuple[int, int, int]
    of_negative: tuple[int, int, int]
    positive_px: int
    tumour_px: int

    @property
    def cells(self) -> int:
        """Marked cells of both kinds."""
        return sum(self.of_positive) + sum(self.of_negative)

    @property
    def tps_error(self) -> float:
        """TPS by area less TPS by marked cells; NaN without tumour or cells."""
        if not self.tumour_px or not self.cells:
            return math.nan
        return self.positive_px / self.tumour_px - sum(self.of_positive) / self.cells


@dataclass(frozen=True)
class ImageAgreement:
    """The agreement of a whole image, and of each tile that is kept of it."""

    whole: Agreement
    tiles: tuple[Agreement, ...]


def agree(semantic: npt.NDArray[np.uint8], cells: Points, scheme: LabelScheme) -> Agreement:
    """Find the region of every marked cell, in pixels of a mask that `region_labels` made."""
    (positive,), (negative,) = scheme.ids("tumour_positive"), scheme.ids("tumour_negative")
    found = semantic[cells.y.astype(np.intp), cells.x.astype(np.intp)]
    names = np.array(cells.classes, np.str_)
    rows = []
    for name in (POSITIVE, NEGATIVE):
        mine = found[names == name]
        in_positive, in_negative = int(np.count_nonzero(mine == positive)), int(np.count_nonzero(mine == negative))
        rows.append((in_positive, in_negative, mine.size - in_positive - in_negative))
    positive_px = int(np.count_nonzero(semantic == positive))
    return Agreement(rows[0], rows[1], positive_px, positive_px + int(np.count_nonzero(semantic == negative)))


def summary(images: Sequence[ImageAgreement]) -> dict[str, Any]:
    """Figures of several images together, all cells as one; a figure without a meaning is None.

    Sensitivity is the share of positive cells that lie in positive tumour, precision the share of the cells in positive
    tumour that are positive, kappa Cohen's over all marked cells, where a cell on neither region is a disagreement.
    """
    wholes = [image.whole for image in images]
    of_positive, of_negative = (
        np.array([getattr(whole, kind) for whole in wholes], np.int64).reshape(-1, 3).sum(axis=0).tolist()
        for kind in ("of_positive", "of_negative")
    )
    tiles = [tile for image in images for tile in image.tiles if tile.cells >= MIN_CELLS]
    return {
        "images": len(images),
        "of_positive": of_positive,
        "of_negative": of_negative,
        "sensitivity": _share(of_positive[0], sum(of_positive)),
        "precision": _share(of_positive[0], of_positive[0] + of_negative[0]),
        "kappa": cohen_kappa(of_positive, of_negative),
        "image_tps_error": _error(wholes),
        "tile_tps_error": _error(tiles) | {"tiles": len(tiles), "min_cells": MIN_CELLS},
    }


def cohen_kappa(of_positive: Sequence[int], of_negative: Sequence[int]) -> float | None:
    """Cohen's kappa of kind of cell and region (Cohen 1960, Eq. 1); None where chance alone would agree on all."""
    total = sum(of_positive) + sum(of_negative)
    if not total:
        return None
    agreed = (of_positive[0] + of_negative[1]) / total
    chance = sum(
        sum(row) * (of_positive[column] + of_negative[column]) for column, row in enumerate((of_positive, of_negative))
    ) / (total * total)
    return (agreed - chance) / (1 - chance) if chance < 1 else None


def agreement_document(
    images: Mapping[str, ImageAgreement], splits: Mapping[str, str], scheme: LabelScheme, smooth_um: float
) -> dict[str, Any]:
    """The agreement as the data set stores it, JSON-ready, of images and splits by the image's uri."""
    parts = {name: [images[uri] for uri in images if splits[uri] == name] for name in SPLITS}
    return {
        "scheme": scheme.name,
        "smooth_um": smooth_um,
        "air_gap_um": AIR_GAP_UM,
        "all": summary(list(images.values())),
        "splits": {name: summary(part) for name, part in parts.items() if part},
        "images": [{"source_uri": uri, "split": splits[uri], **summary([image])} for uri, image in images.items()],
    }


def _share(part: int, total: int) -> float | None:
    return part / total if total else None


def _error(parts: Sequence[Agreement]) -> dict[str, float | None]:
    """Mean and largest size of the TPS error, and its mean with the sign; None where no part has one."""
    errors = np.array([part.tps_error for part in parts], np.float64)
    errors = errors[~np.isnan(errors)]
    if not errors.size:
        return {"mean_absolute": None, "largest": None, "bias": None}
    size = np.abs(errors)
    return {"mean_absolute": float(size.mean()), "largest": float(size.max()), "bias": float(errors.mean())}
