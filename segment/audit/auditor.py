"""Findings on one tile: claims of its labels, and measurements on its image by a segmenter and a stain count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests.dataset import Sample
from manifests.labels import IGNORE, LabelScheme
from manifests.measure import measure, measured_tps
from manifests.tile import Tile
from segment import metrics
from segment.audit.annotated import AnnotatedCells, TileCells
from segment.audit.calibration import FEWEST_CELLS, StainCalibration
from segment.audit.stain_count import (
    Floats,
    count_nuclei,
    find_nuclei,
    has_marker_regions,
    mean_dab,
    positive_area,
    scheme_basis,
    stain_densities,
)
from segment.network.head import has_instances
from segment.network.instances import read_tile
from segment.network.weights import Weights

NAN = float("nan")


@dataclass(frozen=True)
class Finding:
    """Claims on a tile and measurements on its image. NaN: not applicable, or not measurable.

    Attributes:
        requested_tps: of the plan. achieved_tps: of the mask, or of the annotated cells.
        mask_tps: of the mask's regions, by area, whether or not cells are annotated.
        tps_segmenter, tps_stain: by either method. audited_tps: by the `TpsMethod` of the audit, never by the other.
        aji, aji_plus, dq, sq, pq: nuclei of the segmenter against those of the mask. dice: mean over the classes.
        pixel_accuracy: share of the labelled pixels whose class agrees. mean_iou: of the classes.
        class_agreement: share of the matched nuclei whose class agrees, for weights with several classes of nuclei.
        stain_agreement: share of the mask's nuclei whose stain agrees with their class.
        nuclei_claimed, nuclei_found: of the mask and of the segmenter.
        stain_nuclei, stain_positive: of the stain count; with regions of a nuclear marker, in tumour alone.
        nuclei_in_positive, nuclei_in_negative: of these, those in the mask's positive and negative regions.
        stained_in_positive, stained_in_negative: those of them that are positive by stain.
        tps_method: name of the method of `audited_tps`, which is NaN where the method found nothing to count. None
            where the tile's TPS is not audited.
    """

    requested_tps: float = NAN
    achieved_tps: float = NAN
    mask_tps: float = NAN
    audited_tps: float = NAN
    tps_segmenter: float = NAN
    tps_stain: float = NAN
    aji: float = NAN
    aji_plus: float = NAN
    dq: float = NAN
    sq: float = NAN
    pq: float = NAN
    dice: float = NAN
    pixel_accuracy: float = NAN
    mean_iou: float = NAN
    class_agreement: float = NAN
    stain_agreement: float = NAN
    nuclei_claimed: float = NAN
    nuclei_found: float = NAN
    stain_nuclei: float = NAN
    stain_positive: float = NAN
    nuclei_in_positive: float = NAN
    stained_in_positive: float = NAN
    nuclei_in_negative: float = NAN
    stained_in_negative: float = NAN
    tps_method: str | None = None

    @property
    def claimed_tps(self) -> float:
        """TPS that the image should show: the requested one, else that of the labels."""
        return self.achieved_tps if np.isnan(self.requested_tps) else self.requested_tps


FIGURES = tuple(field.name for field in fields(Finding) if field.name != "tps_method")
"""Names of the numbers of a `Finding`."""

REGION_COUNTS = ("nuclei_in_positive", "stained_in_positive", "nuclei_in_negative", "stained_in_negative")
"""Counts by region of the mask."""

COUNTS = ("nuclei_claimed", "nuclei_found", "stain_nuclei", "stain_positive", *REGION_COUNTS)
"""Names of whole numbers."""


@dataclass(frozen=True)
class TpsMethod:
    """Method that measures TPS on every tile of an audit, so that the audit's own error is that of its flags.

    Attributes:
        name: "stain" or "segmenter".
        bases: of TPS ("cells", "nuclei" counted in regions, "area") in the audited tiles; on a real tile with another
            basis it is not measured.
    """

    name: str
    bases: frozenset[str]


def choose_tps_method(
    weights: LabelScheme, stain: StainCalibration | None, audited: Sequence[LabelScheme]
) -> TpsMethod | None:
    """Stain where it `is_validated`, else the segmenter, else stain not validated; None without either."""
    bases = frozenset(basis for scheme in audited if (basis := scheme_basis(scheme)) is not None)
    if not bases:
        return None
    if is_validated(stain, bases):
        return TpsMethod("stain", bases)
    if weights.ids("tumour_positive"):
        return TpsMethod("segmenter", bases)
    return None if stain is None else TpsMethod("stain", bases)


def is_validated(stain: StainCalibration | None, bases: frozenset[str]) -> bool:
    """Whether the stain count was validated on annotated cells; never where the area of membranes is measured."""
    return stain is not None and stain.validated and bool(bases) and "area" not in bases


@dataclass(frozen=True)
class Auditor:
    """Both methods of an audit: a segmenter trained on real tiles, and a stain count calibrated on real tiles.

    Attributes:
        weights: of the segmenter. stain: None where the tiles are not IHC, or without real IHC.
        tps: the method of the audited TPS; None where neither can measure it.
    """

    weights: Weights
    stain: StainCalibration | None
    tps: TpsMethod | None

    def segment(self, image: npt.NDArray[np.uint8], mpp: float) -> Tile:
        """Labels of an image, uint8 [H, W, 3], by the segmenter, in the scheme of its weights."""
        maps = self.weights.predict(image, stains=self.weights.stains_of([image]))
        return read_tile(maps, self.weights.scheme, mpp, self.weights.instances)

    def audit(self, sample: Sample, annotated: AnnotatedCells | None = None) -> Finding:
        """Measure one tile; `annotated` are the cells of real tiles, None for audited ones."""
        own = sample.tile
        found = self.segment(sample.image, own.mpp)
        known = own.semantic != IGNORE
        seen = Tile(
            np.where(known, found.semantic, IGNORE).astype(np.uint8),
            np.where(known, found.instance, 0).astype(np.int32),
            own.mpp,
            found.scheme,
        )
        cells = annotated.of(sample) if annotated is not None else None
        figures = claims(sample, cells) | agreement(own, seen)
        basis = tps_basis(own.scheme, cells)
        if self.stain is not None and basis is not None:
            figures |= stain_figures(sample, found.instance, self.stain, basis)
        name = self.tps.name if self.tps is not None and basis in self.tps.bases else None
        return Finding(**figures, audited_tps=figures.get(f"tps_{name}", NAN), tps_method=name)


def tps_basis(scheme: LabelScheme, cells: TileCells | None) -> str | None:
    """Basis of a tile's TPS: "cells" where they are annotated; None for tiles that are not IHC.

    In regions of a nuclear marker it is counted "nuclei", annotated or not, so that real tiles are measured like
    audited ones.
    """
    if cells is not None and not has_marker_regions(scheme):
        return "cells"
    return scheme_basis(scheme)


def claims(sample: Sample, cells: TileCells | None) -> dict[str, float]:
    """Claims of row and labels; `cells` are annotated ones of a real tile, which need `FEWEST_CELLS` for a TPS."""
    row, tile = sample.row, sample.tile
    of_mask = {"mask_tps": measured_tps(tile)} if has_marker_regions(tile.scheme) else {}
    if cells is not None:
        return of_mask | {
            "achieved_tps": cells.tps if cells.total >= FEWEST_CELLS else NAN,
            "nuclei_claimed": float(cells.total),
        }
    return of_mask | {
        "requested_tps": _or_nan(row["request_tps"]),
        "achieved_tps": measured_tps(tile),
        "nuclei_claimed": float(measure(tile).cells) if has_instances(tile.scheme) else NAN,
    }


def _or_nan(value: Any) -> float:
    return NAN if value is None else float(value)


def agreement(own: Tile, seen: Tile) -> dict[str, float]:
    """Agreement of the tile's own labels with those `seen` by the segmenter, `IGNORE` where `own` is unknown."""
    scheme = seen.scheme
    figures: dict[str, float] = {}
    if scheme.ids("tumour_positive"):
        figures["tps_segmenter"] = measured_tps(seen)
    if has_instances(scheme):
        figures["nuclei_found"] = float(measure(seen).cells)
    if not own.scheme.reads_as(scheme):
        return figures
    semantic = own.scheme.projection(scheme)[own.semantic]
    matrix = metrics.confusion(semantic, seen.semantic, len(scheme))
    labelled = int(matrix.sum())
    figures |= {
        "dice": metrics.dice(matrix),
        "mean_iou": metrics.mean_iou(matrix),
        "pixel_accuracy": float(np.trace(matrix)) / labelled if labelled else NAN,
    }
    if has_instances(scheme) and has_instances(own.scheme):
        truth, pred = metrics.without_ignored(own.instance, seen.instance, semantic == IGNORE)
        figures |= _nuclei_agreement(Tile(semantic, truth, own.mpp, scheme), Tile(seen.semantic, pred, own.mpp, scheme))
    return figures


def _nuclei_agreement(truth: Tile, seen: Tile) -> dict[str, float]:
    table = metrics.overlap(truth.instance, seen.instance)
    figures = metrics.instance_scores(table).figures
    del figures["dice"]  # of the foreground; that of the classes is measured already
    matched = 2 * table.intersection_px > table.union_px
    if len(truth.scheme.ids("nucleus")) > 1 and matched.any():
        own_class = metrics.majority_classes(truth.instance, truth.semantic)
        seen_class = metrics.majority_classes(seen.instance, seen.semantic)
        agree = own_class[table.pair_truth[matched]] == seen_class[table.pair_pred[matched]]
        figures["class_agreement"] = float(agree.mean())
    return figures


def stain_figures(
    sample: Sample, found: npt.NDArray[np.int32], stain: StainCalibration, basis: str
) -> dict[str, float]:
    """Measurements of the stain: positive share of the nuclei (`found` by the segmenter), or of the tumour's area.

    Stain alone cannot distinguish tumour from other tissue, so regions are those of the tile's own mask.
    """
    tile = sample.tile
    densities = stain_densities(sample.image, stain.vectors)
    if basis == "area":
        region = np.isin(tile.semantic, [*tile.scheme.ids("tumour_positive"), *tile.scheme.ids("tumour_negative")])
        return {"tps_stain": positive_area(densities, region, tile.mpp, stain.area_dab)}
    nuclei = found if stain.finder == "segmenter" else find_nuclei(densities, tile.mpp)
    counted = count_nuclei(tile, nuclei, densities)
    stained = counted.dab > stain.nucleus_dab
    figures = {
        "tps_stain": float(stained.mean()) if stained.size else NAN,
        "stain_nuclei": float(stained.size),
        "stain_positive": float(np.count_nonzero(stained)),
        "stain_agreement": _stain_agreement(tile, densities, stain),
    }
    if basis == "nuclei":
        for kind, name in ((1, "positive"), (0, "negative")):
            inside = counted.region == kind
            figures[f"nuclei_in_{name}"] = float(np.count_nonzero(inside))
            figures[f"stained_in_{name}"] = float(np.count_nonzero(stained[inside]))
    return figures


def _stain_agreement(tile: Tile, densities: Floats, stain: StainCalibration) -> float:
    """Share of the mask's classed nuclei whose stain agrees with their class, measured on their own pixels."""
    classed = np.isin(tile.semantic, [*tile.scheme.ids("tumour_positive"), *tile.scheme.ids("tumour_negative")])
    instance = np.where(classed, tile.instance, 0).astype(np.int32)
    ids, dab = mean_dab(densities, instance)
    if not ids.size:
        return NAN
    positive = np.isin(metrics.majority_classes(instance, tile.semantic), tile.scheme.ids("tumour_positive"))
    return float(((dab > stain.nucleus_dab) == positive).mean())
