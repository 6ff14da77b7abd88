"""Agreement of region labels with the marked cells that they were made of: by cells, by images, by tiles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.ingest.points import Points
from factory.ingest.region_labels import AIR_GAP_UM, NEGATIVE, POSITIVE
from manifests.labels import LabelScheme
from manifests.schema import SPLITS

MIN_CELLS = 10
"""Marked cells that a tile needs for its TPS by cells to be compared with its TPS by area."""


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


def document(
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
