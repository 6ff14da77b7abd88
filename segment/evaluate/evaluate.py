"""Scores of weights on images: of every image, and of each source as mean over images and pooled over all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.core.precision import Precision
from manifests.dataset import Dataset
from manifests.errors import UserError
from manifests.labels import IGNORE, LabelScheme
from manifests.measure import measured_tps
from manifests.tile import Tile
from segment import metrics
from segment.data.sources import Source, groups_of, projections, refuse_tested_groups
from segment.data.whole_images import WholeImage, whole_images
from segment.metrics import NucleiScores, SurfaceDistances
from segment.network.head import has_instances
from segment.network.instances import read_tile
from segment.network.weights import Weights

TPS_EDGES = (0.01, 0.5)
TPS_CLASSES = ("<1 %", "1-50 %", ">=50 %")
"""Clinical classes of the tumour proportion score; an edge belongs to the class above it."""

NUCLEI_FIGURES = (
    "aji", "aji_plus", "dq", "sq", "pq", "foreground_dice", "object_dice", "f1_50", "f1_70", "f1_90", "hd95_um",
    "boundary_f1", "mpq", "bpq",
)  # fmt: skip
"""Figures of nuclei in the order of the report; mPQ and bPQ where the scheme has several classes of nuclei."""


@dataclass(frozen=True)
class ImageScore:
    """One image: its figures by name (NaN = nothing to score), and the sums that pool.

    Attributes:
        name: of the `WholeImage`. source: real or synth. group: patient or slide. figures: metric -> value.
        confusion: int64 [C, C]. cross_entropy_sum: over the labelled pixels.
        nuclei, distances: None where the scheme has no instances.
        tps: (truth, prediction), NaN where there is no tumour; None where the scheme has no tumour classes.
    """

    name: str
    source: str
    group: str | None
    figures: dict[str, float]
    confusion: metrics.Ints
    cross_entropy_sum: float
    nuclei: NucleiScores | None
    distances: SurfaceDistances | None
    tps: tuple[float, float] | None


def check_test_leaks(weights: Weights, path: Path, parts: Sequence[tuple[Source, Dataset]], split: str) -> None:
    """Refuse to score on groups that the weights, or the generator of their training tiles, were trained on.

    Raises:
        UserError: naming the group.
    """
    known = {data["sha256"] for data in weights.card["trained_on"].values()}
    for source, _ in parts:
        if split == "all" and source.sha256 in known:
            raise UserError(
                f"{source.dataset.root}: expected weights that never saw the scored tiles, got ones trained on its "
                "train split. Use --split test."
            )
    tested = {group for _, dataset in parts for group in groups_of(dataset)}
    shared = sorted(tested & set(weights.card["groups"]))
    if shared:
        raise UserError(
            f"{path}: expected weights that never saw the scored groups, got {shared[0]!r} ({len(shared)} such) among "
            "their training or validation tiles. Score on other tiles."
        )
    refuse_tested_groups(str(path), weights.card["sources"].get("synth", []), tested)


def evaluate(
    weights: Weights,
    parts: Sequence[tuple[Source, Dataset]],
    *,
    images: Callable[[Dataset], Iterator[WholeImage]] = whole_images,
    precision: Precision = "fp32",
    on_image: Callable[[], None] = lambda: None,
) -> list[ImageScore]:
    """Score every image of every part.

    Args:
        weights: what to score.
        parts: data sets by source, each cut to the rows that count.
        images: gives the images of a data set: `whole_images`, or `tile_images` for tile-wise scores.
        precision: of the network's arithmetic.
        on_image: called after each image.
    """
    scores = []
    for source, dataset in parts:
        tables = projections(dataset, weights.scheme)
        for whole in images(dataset):
            own = whole.tile
            truth = Tile(tables[own.scheme.name][own.semantic], own.instance, own.mpp, weights.scheme)
            scores.append(_score(weights, whole, truth, source.role, precision))
            on_image()
    return scores


def _score(weights: Weights, whole: WholeImage, truth: Tile, source: str, precision: Precision) -> ImageScore:
    scheme, known = weights.scheme, truth.semantic != IGNORE
    maps = weights.predict(whole.image, precision, weights.stains_of([whole.image]))
    pred = read_tile(maps, scheme, truth.mpp, weights.instances)
    matrix = metrics.confusion(truth.semantic, pred.semantic, len(scheme))
    figures = {metric: function(matrix) for metric, function in metrics.SEMANTIC.items()}
    entropy, labelled = _cross_entropy_sum(maps.probabilities, truth.semantic), int(matrix.sum())
    figures["cross_entropy"] = entropy / labelled if labelled else float("nan")
    figures["t_objective"] = metrics.t_objective(figures["dice"], figures["cross_entropy"])

    instance = np.where(known, pred.instance, 0).astype(np.int32)
    nuclei = distances = tps = None
    if has_instances(scheme):
        nuclei, distances = _score_nuclei(truth, Tile(pred.semantic, instance, truth.mpp, scheme), known)
        figures |= _nuclei_figures(nuclei, distances)
        if nuclei.classes:
            of_classes = metrics.MulticlassPanoptic(tuple(nuclei.classes.values()), nuclei.basic.panoptic)
            figures["mpq_pannuke"] = of_classes.pannuke_mpq
    if scheme.ids("tumour_positive"):
        seen = Tile(np.where(known, pred.semantic, IGNORE).astype(np.uint8), instance, truth.mpp, scheme)
        tps = (measured_tps(truth), measured_tps(seen))
        figures |= {"tps_truth": tps[0], "tps_pred": tps[1], "tps_error": abs(tps[1] - tps[0])}
    return ImageScore(whole.name, source, whole.group, figures, matrix, entropy, nuclei, distances, tps)


def _score_nuclei(truth: Tile, pred: Tile, known: npt.NDArray[np.bool_]) -> tuple[NucleiScores, SurfaceDistances]:
    """Instance metrics of two tiles, and distances in micrometres; `known`, bool [H, W], says which pixels count."""
    own, seen = metrics.without_ignored(truth.instance, pred.instance, ~known)
    table = metrics.overlap(own, seen)
    labels, classes = truth.scheme.ids("nucleus"), {}
    if len(labels) > 1:
        of_truth, of_pred = (metrics.majority_classes(i, t.semantic) for i, t in ((own, truth), (seen, pred)))
        parts = metrics.multiclass_panoptic_quality(table, of_truth, of_pred, labels).per_class
        classes = dict(zip(labels, parts, strict=True))
    return metrics.nuclei_scores(table, own, seen, classes), metrics.surface_distances(own, seen, mpp=truth.mpp)


def _nuclei_figures(nuclei: NucleiScores, distances: SurfaceDistances) -> dict[str, float]:
    """Values by name; NaN where both sides are empty, HD95 infinite where one is."""
    figures = {**nuclei.figures, "foreground_dice": nuclei.basic.foreground.value, "hd95_um": distances.hd95}
    return {name: figures[name] for name in NUCLEI_FIGURES if name in figures}


def _cross_entropy_sum(probabilities: npt.NDArray[np.float32], truth: npt.NDArray[np.uint8]) -> float:
    """Cross entropy summed over the labelled pixels, natural logarithm.

    Args:
        probabilities: float32 [C, H, W]. truth: uint8 [H, W], 255 left out.
    """
    y, x = np.nonzero(truth != IGNORE)
    of_truth = np.maximum(probabilities[truth[y, x], y, x], np.finfo(np.float32).tiny)
    return float(-np.log(of_truth, dtype=np.float64).sum())


def summarise(scores: Sequence[ImageScore], scheme: LabelScheme) -> dict[str, Any]:
    """Figures over several images.

    Returns:
        ``images``: their number; ``mean``: over the images where a figure is finite; ``left_out``: number of images
        where it is not (nothing to score; HD95 also where one side is empty);
        ``pooled``: the same metrics of the summed counts; ``classes``: pooled IoU and Dice, and PQ of the nuclei where
        there are several classes of them; ``tps``: None where the scheme has no tumour classes.
    """
    names = list(scores[0].figures)
    values = {name: np.array([score.figures[name] for score in scores]) for name in names}
    known = {name: column[np.isfinite(column)] for name, column in values.items()}
    matrix = np.sum([score.confusion for score in scores], axis=0)
    pooled = {name: metric(matrix) for name, metric in metrics.SEMANTIC.items()}
    labelled = int(matrix.sum())
    pooled["cross_entropy"] = sum(s.cross_entropy_sum for s in scores) / labelled if labelled else float("nan")
    pooled["t_objective"] = metrics.t_objective(pooled["dice"], pooled["cross_entropy"])
    nuclei = [score.nuclei for score in scores if score.nuclei is not None]
    distances = [score.distances for score in scores if score.distances is not None]
    of_types: dict[int, float] = {}
    if nuclei:
        together = metrics.pool(nuclei)
        pooled |= _nuclei_figures(together, metrics.pool(distances))
        of_types = {label: part.pq for label, part in together.classes.items()}
    iou, dice = metrics.class_iou(matrix).tolist(), metrics.class_dice(matrix).tolist()
    return {
        "images": len(scores),
        "mean": {name: float(column.mean()) if column.size else float("nan") for name, column in known.items()},
        "left_out": {name: len(scores) - column.size for name, column in known.items() if column.size < len(scores)},
        "pooled": pooled,
        "classes": {
            label.name: {"iou": iou[label.id], "dice": dice[label.id]}
            | ({"pq": of_types[label.id]} if label.id in of_types else {})
            for label in scheme.classes
        },
        "tps": _summarise_tps([score.tps for score in scores if score.tps is not None], scheme),
    }


def _summarise_tps(pairs: Sequence[tuple[float, float]], scheme: LabelScheme) -> dict[str, Any] | None:
    """TPS error, and confusion of the clinical classes: rows truth, columns prediction, the last "no tumour found"."""
    if not pairs:
        return None
    table = np.zeros((len(TPS_CLASSES), len(TPS_CLASSES) + 1), np.int64)
    errors = []
    for truth, pred in pairs:
        if math.isnan(truth):
            continue
        column = len(TPS_CLASSES) if math.isnan(pred) else int(np.searchsorted(TPS_EDGES, pred, side="right"))
        table[int(np.searchsorted(TPS_EDGES, truth, side="right")), column] += 1
        if not math.isnan(pred):
            errors.append(abs(pred - truth))
    return {
        "basis": scheme.tps_basis,
        "mae": float(np.mean(errors)) if errors else float("nan"),
        "images": int(table.sum()),
        "without_tumour": sum(math.isnan(truth) for truth, _ in pairs),
        "classes": [*TPS_CLASSES, "no tumour found"],
        "confusion": table.tolist(),
    }
