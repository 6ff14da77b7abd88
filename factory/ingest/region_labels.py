"""Region labels from marked cells: which part of an annotated tumour is positive, where only its cells are marked."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from factory.ingest.config import IngestConfig
from factory.ingest.pairing import Source, SourceError
from factory.ingest.points import Points
from factory.quantiles import target_count
from manifests.labels import LabelScheme

SMOOTH_UM = 5.0
"""Sigma of the Gaussian that makes regions of cells. See `region_labels` for what other widths gave."""

MAX_SMOOTH_UM = 1000.0

AIR_GAP_UM = 3.5
"""Side of the square that air must hold: bright gaps between cells are narrower than that."""

POSITIVE, NEGATIVE = "positive", "negative"
"""Class names of marked cells."""


def label_regions(
    source: Source,
    roi: npt.NDArray[np.bool_],
    points: Points,
    is_air: npt.NDArray[np.bool_],
    mpp: float,
    config: IngestConfig,
) -> tuple[npt.NDArray[np.uint8], Points]:
    """Region labels of an image as a configuration asks for them, and the marked cells in the ROI.

    Args:
        source: the image.
        roi: bool [H, W], where tumour was annotated.
        points: marked cells, in pixels.
        is_air: bool [H, W], air by grey level.
        mpp: micrometres per pixel; NaN where nobody says it, which the survey refuses.
        config: with `smooth_um`.

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
    return region_labels(roi, marked, is_air, mpp, config.label_scheme, smooth_um=config.smooth_um), marked


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

    Air goes first, then the ROI is tumour and the rest is other. Of the tumour, exactly the share that the marked cells
    in the ROI have is positive (floor(share x pixels + 0.5)): the pixels with the highest local share of positive cells
    f = G(positive) / (G(positive) + G(negative)), G the sum of a Gaussian of `smooth_um` over cells. Where no cell is
    near, the nearest of either class decide, as in the Gaussian's tail; ties go to the first in reading order. So TPS by
    area and by marked cells are the same for an image; what is measured is how far the regions agree with the cells.
    With a wide Gaussian regions are smooth and mix cells; with a narrow one they are a map of single cells.

    The 22 train cases of the Ki-67 set, for sigma 3, 5, 8, 12.5, 20, 30 um: of the positive cells .988, .944, .807,
    .642, .519, .450 lie in the positive region; of the cells in it .999, .979, .856, .679, .540, .458 are positive.
    Voting (f > 0.5) instead of the quantile loses TPS: a bias of -.011 at 5 um and -.052 at 8.

    Args:
        roi: bool [H, W], where tumour was annotated.
        marked: cells `POSITIVE` and `NEGATIVE` in the ROI, in pixels; see `cells_within`.
        is_air: bool [H, W], see `open_air`.
        mpp: micrometres per pixel.
        scheme: with one class each of "air", "tumour_positive" and "tumour_negative", and one without a role.
        smooth_um: sigma of the Gaussian.

    Returns:
        uint8 [H, W].

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
    if 0 < share < 1:
        sigma_px = smooth_um / mpp
        odds = _log_density(marked, POSITIVE, roi.shape, sigma_px) - _log_density(marked, NEGATIVE, roi.shape, sigma_px)
        tumour = tumour[np.argsort(-odds.ravel()[tumour], kind="stable")]
    labels.ravel()[tumour[: target_count(share, tumour.size)]] = positive
    return labels


def open_air(is_air: npt.NDArray[np.bool_], mpp: float) -> npt.NDArray[np.bool_]:
    """Air by grey level without what is narrower than a square of `AIR_GAP_UM` (binary opening): bool [H, W]."""
    side = 2 * round((AIR_GAP_UM / mpp - 1) / 2) + 1
    if side <= 1:
        return is_air
    opened: npt.NDArray[np.uint8] = cv2.morphologyEx(
        is_air.astype(np.uint8), cv2.MORPH_OPEN, np.ones((side, side), np.uint8)
    )
    return opened.astype(np.bool_)


def cells_within(points: Points, mask: npt.NDArray[np.bool_]) -> Points:
    """The points whose pixel lies in the image and in a mask, bool [H, W]."""
    height, width = mask.shape
    points = points.where(points.inside(0, 0, width, height))
    return points.where(mask[points.y.astype(np.intp), points.x.astype(np.intp)])


def _log_density(points: Points, name: str, shape: tuple[int, ...], sigma_px: float) -> npt.NDArray[np.float64]:
    """Log of the sum of Gaussians (peak 1) at the points of a class; far from all, that of the nearest: [H, W]."""
    mine = points.where(np.array([found == name for found in points.classes]))
    impulses = np.zeros(shape, np.float64)
    np.add.at(impulses, (mine.y.astype(np.intp), mine.x.astype(np.intp)), 1.0)
    reach = int(np.ceil(4 * sigma_px))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma_px) ** 2)
    near = cv2.sepFilter2D(impulses, cv2.CV_64F, kernel, kernel, borderType=cv2.BORDER_CONSTANT)
    far = cv2.distanceTransform((impulses == 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    with np.errstate(divide="ignore"):  # beyond the kernel: log 0, and the nearest cell counts instead
        density: npt.NDArray[np.float64] = np.maximum(np.log(near), -0.5 * (far.astype(np.float64) / sigma_px) ** 2)
    return density
