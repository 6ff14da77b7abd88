"""Scores of images, by instance maps or class maps, in threads; their totals, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import nan
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from factory.core.statistics import Interval, bootstrap_means, bootstrap_pooled
from manifests.errors import UserError
from segment import metrics
from segment.metrics import NucleiScores
from segment.scoring.label_sets import Maps

RESAMPLES, LEVEL = 2000, 0.95

NO_CLASS = -1
"""Class of an object without a pixel of a nucleus class."""


@dataclass(frozen=True, eq=False)
class Confusion:
    """Pixels by true class (row) and predicted class (column).

    Attributes:
        matrix: int64 [C, C]. labels: the C classes, ascending.
    """

    matrix: metrics.Ints
    labels: Collection[int]

    def row(self, labels: Sequence[int]) -> metrics.Floats:
        """The matrix over all of `labels` as numbers: float64 [C * C]."""
        whole = np.zeros((len(labels), len(labels)))
        at = np.searchsorted(labels, list(self.labels))
        whole[np.ix_(at, at)] = self.matrix
        return whole.reshape(-1)

    @classmethod
    def from_row(cls, row: metrics.Floats, labels: Sequence[int]) -> Self:
        """The inverse of `row`; sums of rows give the matrix of several images."""
        return cls(row.reshape(len(labels), len(labels)).astype(np.int64), labels)

    @property
    def figures(self) -> dict[str, float]:
        """Every figure by name, and the IoU of each class; NaN where there is nothing to score."""
        figures = {name: metric(self.matrix) for name, metric in metrics.SEMANTIC.items()}
        iou = metrics.class_iou(self.matrix).tolist()
        return figures | {f"iou_{label}": value for label, value in zip(self.labels, iou, strict=True)}


@dataclass(frozen=True)
class ImageScore:
    """One image.

    Attributes:
        name: shared by both sides. group: patient, slide or region. sums: of the image, for the pooled figures.
        alone: figures that have a value for one image but do not pool. counts: of objects or pixels.
    """

    name: str
    group: str
    sums: NucleiScores | Confusion
    alone: dict[str, float]
    counts: dict[str, int]


def score_all(
    names: Sequence[str], score: Callable[[str], ImageScore], *, workers: int, on_image: Callable[[], None]
) -> list[ImageScore]:
    """Score every image, in the order of the names.

    Threads run in parallel, because decoders, the overlap kernel and the distance transform release the interpreter's
    lock. Each holds the maps of one image at a time.
    """
    pool = ThreadPoolExecutor(workers)
    try:
        scores = []
        for result in pool.map(score, names):
            scores.append(result)
            on_image()
        return scores
    finally:
        pool.shutdown(cancel_futures=True)


def score_instances(name: str, group: str, truth: Maps, pred: Maps, labels: Sequence[int] | None) -> ImageScore:
    """Score one image.

    Pixels whose true class is 255 are background on both sides, also where classes are not scored.

    Args:
        name, group: of the image.
        truth, pred: ``instance`` maps. ``classes``: of both where nuclei are scored class by class, else of the truth
            where it has them.
        labels: classes of nuclei; empty for all but 0; None where classes are not scored.
    """
    own, seen, ignored_pixels = truth["instance"], pred["instance"], 0
    if "classes" in truth:
        ignored = truth["classes"] == metrics.IGNORE
        ignored_pixels = int(np.count_nonzero(ignored))
        own, seen = metrics.without_ignored(own, seen, ignored)
    table = metrics.overlap(own, seen)
    classes: dict[int, metrics.Panoptic] = {}
    counts = {"truth": table.truth_ids.size, "pred": table.pred_ids.size, "ignored_pixels": ignored_pixels}
    if labels is not None:
        refuse_ignored_prediction(name, truth["classes"], pred["classes"])
        of_truth = _classes_of(table.truth_ids, own, truth["classes"], labels)
        of_pred = _classes_of(table.pred_ids, seen, pred["classes"], labels)
        found = sorted(set(np.concatenate([of_truth, of_pred]).tolist()) - {NO_CLASS})
        parts = metrics.multiclass_panoptic_quality(table, of_truth, of_pred, found).per_class
        classes = dict(zip(found, parts, strict=True))
        counts["without_class"] = int(np.count_nonzero(of_truth < 0) + np.count_nonzero(of_pred < 0))
    sums = metrics.nuclei_scores(table, own, seen, classes)
    panoptic = sums.basic.panoptic
    counts |= {"tp": panoptic.tp, "fp": panoptic.fp, "fn": panoptic.fn}
    hd95_px = metrics.surface_distances(own, seen).hd95
    return ImageScore(name, group, sums, {"hd95_px": hd95_px if np.isfinite(hd95_px) else float("nan")}, counts)


def _classes_of(
    ids: metrics.Ints, instance: npt.NDArray[Any], classes: npt.NDArray[np.uint8], labels: Sequence[int]
) -> metrics.Ints:
    """Nucleus class of most pixels of each object, int64 [T]; `NO_CLASS` for one without a pixel of such a class."""
    is_nucleus = np.zeros(256, np.bool_)
    is_nucleus[list(labels) if labels else slice(1, metrics.IGNORE)] = True
    classed = np.where(is_nucleus[classes], instance, instance.dtype.type(0))
    found = metrics.overlap(classed, classed).truth_ids
    of_ids: metrics.Ints = np.full(ids.size, NO_CLASS, np.int64)
    of_ids[np.searchsorted(ids, found)] = metrics.majority_classes(classed, classes)
    return of_ids


def score_classes(name: str, group: str, truth: Maps, pred: Maps) -> ImageScore:
    """Score one image by its ``classes``; pixels whose true class is 255 are left out."""
    own, seen = truth["classes"], pred["classes"]
    refuse_ignored_prediction(name, own, seen)
    known = own != metrics.IGNORE
    labels = np.union1d(np.unique(own[known]), np.unique(seen[known]))
    place = np.full(256, metrics.IGNORE, np.uint8)
    place[labels] = np.arange(labels.size)
    matrix = metrics.confusion(place[own], place[seen], labels.size)
    counts = {
        "pixels": int(np.count_nonzero(known)),
        "ignored_pixels": int(np.count_nonzero(~known)),
        "classed_pixels": int(np.count_nonzero(known & (own != 0))),
    }
    return ImageScore(name, group, Confusion(matrix, labels.tolist()), {}, counts)


def refuse_ignored_prediction(name: str, truth: npt.NDArray[np.uint8], pred: npt.NDArray[np.uint8]) -> None:
    """Refuse a predicted class map with 255 (ignore) where the truth is known."""
    unknown = int(np.count_nonzero((pred == metrics.IGNORE) & (truth != metrics.IGNORE)))
    if unknown:
        raise UserError(
            f"{name}: expected a predicted class at every labelled pixel, got {metrics.IGNORE} (ignore) at "
            f"{unknown:,}. "
            f"Write class 1 of a binary mask as 1 on both sides; only a truth may hold {metrics.IGNORE}."
        )


def refuse_binary_truth(scores: Sequence[ImageScore]) -> None:
    """Refuse truth maps with only 0 and 255: binary masks, whose foreground would be ignored."""
    has_classes = any(score.counts["classed_pixels"] for score in scores)
    if not has_classes and any(score.counts["ignored_pixels"] for score in scores):
        raise UserError(
            f"--truth: expected class labels, got only 0 and {metrics.IGNORE} (ignore) in every map. "
            "Write class 1 of a binary mask as 1."
        )


@dataclass(frozen=True)
class Total:
    """One figure over all images.

    Attributes:
        mean: over the images where it has a value. pooled: of the summed counts, NaN where it does not pool.
        mean_interval, pooled_interval: 95 % bootstrap intervals. left_out: images without a value.
    """

    mean: float
    mean_interval: Interval
    pooled: float
    pooled_interval: Interval
    left_out: int


@dataclass(frozen=True)
class Summary:
    """Figures of each image and of all.

    Attributes:
        names: of the images. figures: per image, all with the same keys. image_counts: per image.
        totals: per figure. counts: sums over the images. labels: classes of the maps. groups: their number.
    """

    names: tuple[str, ...]
    figures: tuple[Mapping[str, float], ...]
    image_counts: tuple[Mapping[str, int], ...]
    totals: Mapping[str, Total]
    counts: Mapping[str, int]
    labels: tuple[int, ...]
    groups: int


def summarise(scores: Sequence[ImageScore], *, seed: int) -> Summary:
    """Figures of each image and of all."""
    kind = type(scores[0].sums)
    labels = sorted({label for score in scores for label in score.sums.labels})
    rows = np.array([score.sums.row(labels) for score in scores])

    def pool(row: metrics.Floats) -> list[float]:
        return list(kind.from_row(row, labels).figures.values())

    # Every image has the figures of all classes, NaN for a class that is not in it.
    figures = [kind.from_row(row, labels).figures | score.alone for row, score in zip(rows, scores, strict=True)]
    pooled = kind.from_row(rows.sum(axis=0), labels).figures
    groups = [score.group for score in scores]
    values = np.array([list(of_image.values()) for of_image in figures])
    mean_intervals = bootstrap_means(
        values, rng=np.random.default_rng(seed), groups=groups, resamples=RESAMPLES, level=LEVEL
    )
    pooled_intervals = bootstrap_pooled(
        rows, pool, rng=np.random.default_rng(seed), groups=groups, resamples=RESAMPLES, level=LEVEL
    )
    interval_of = dict(zip(pooled, pooled_intervals, strict=True))
    totals = {}
    for name, column, interval in zip(figures[0], values.T, mean_intervals, strict=True):
        known = column[~np.isnan(column)]
        mean = float(known.mean()) if known.size else nan
        totals[name] = Total(
            mean, interval, pooled.get(name, nan), interval_of.get(name, Interval(nan, nan)), len(scores) - known.size
        )
    counts = {name: sum(score.counts[name] for score in scores) for name in scores[0].counts}
    return Summary(
        tuple(score.name for score in scores),
        tuple(figures),
        tuple(score.counts for score in scores),
        totals,
        counts,
        tuple(labels),
        len(set(groups)),
    )
