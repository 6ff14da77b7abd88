"""Scores of instance maps: what one image adds to the sums, and the figures that sums give."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import islice
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from segment import metrics
from segment.scoring.images import ImageScore, refuse_ignored_prediction
from segment.scoring.sets import Maps

Part = TypeVar("Part")

THRESHOLDS = (0.5, 0.7, 0.9)
"""IoU above which an object counts as found, for F1."""

NO_CLASS = -1


@dataclass(frozen=True)
class InstanceSums:
    """What one image, or several, add to every figure that pools."""

    scores: metrics.InstanceScores
    objects: metrics.ObjectDice
    outline: metrics.BoundaryScore
    detections: tuple[metrics.Detection, ...]
    classes: Mapping[int, metrics.Panoptic]

    @property
    def labels(self) -> Collection[int]:
        """Nucleus classes that are there; empty where classes are not scored."""
        return self.classes.keys()

    def row(self, labels: Sequence[int]) -> metrics.Floats:
        """The sums as numbers, with those of each class in `labels`: float64 [K]."""
        scores, absent = self.scores, metrics.Panoptic(0, 0, 0, 0.0)
        parts = (scores.jaccard, scores.jaccard_plus, scores.panoptic, scores.foreground, self.objects, self.outline)
        numbers = [number for part in parts for number in astuple(part)]
        numbers += [count for at in self.detections for count in (at.tp, at.fp, at.fn)]
        numbers += [number for label in labels for number in astuple(self.classes.get(label, absent))]
        return np.array(numbers, np.float64)

    @classmethod
    def from_row(cls, row: metrics.Floats, labels: Sequence[int]) -> Self:
        """The inverse of `row`; sums of rows give the sums of images."""
        numbers = iter(row.tolist())

        def take(kind: type[Part]) -> Part:
            return kind(*islice(numbers, len(fields(kind))))  # type: ignore[arg-type]  # whole numbers stay exact

        scores = metrics.InstanceScores(
            take(metrics.AggregatedJaccard),
            take(metrics.AggregatedJaccard),
            take(metrics.Panoptic),
            take(metrics.ForegroundDice),
        )
        objects, outline = take(metrics.ObjectDice), take(metrics.BoundaryScore)
        detections = tuple(metrics.Detection(threshold, *islice(numbers, 3)) for threshold in THRESHOLDS)
        return cls(scores, objects, outline, detections, {label: take(metrics.Panoptic) for label in labels})

    @property
    def figures(self) -> dict[str, float]:
        """Every figure by name; NaN where there is nothing to score."""
        figures = {**self.scores.figures, "object_dice": self.objects.value}
        figures |= {f"f1_{100 * at.threshold:.0f}": at.f1 for at in self.detections}
        figures["boundary_f1"] = self.outline.f1
        if self.classes:
            of_classes = metrics.MulticlassPanoptic(tuple(self.classes.values()), self.scores.panoptic)
            figures |= {"mpq": of_classes.mpq, "bpq": of_classes.bpq}
            figures |= {f"pq_{label}": part.pq for label, part in self.classes.items()}
        return figures


def score_instances(name: str, group: str, truth: Maps, pred: Maps, labels: Sequence[int] | None) -> ImageScore:
    """Score one image.

    Pixels whose true class is 255 are background on both sides, whether or not classes are scored.

    Args:
        name, group: of the image.
        truth, pred: ``instance`` maps; ``classes`` as well where nuclei are scored class by class, and of the truth
            where they are known.
        labels: the classes of nuclei; empty: all but 0; None: classes are not scored.
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
    scores = metrics.instance_scores(table)
    sums = InstanceSums(
        scores,
        metrics.object_dice(table),
        metrics.boundary_f1(own, seen),
        metrics.detection(table, THRESHOLDS),
        classes,
    )
    counts |= {"tp": scores.panoptic.tp, "fp": scores.panoptic.fp, "fn": scores.panoptic.fn}
    hd95_px = metrics.surface_distances(own, seen).hd95
    return ImageScore(name, group, sums, {"hd95_px": hd95_px if np.isfinite(hd95_px) else float("nan")}, counts)


def _classes_of(
    ids: metrics.Ints, instance: npt.NDArray[Any], classes: npt.NDArray[np.uint8], labels: Sequence[int]
) -> metrics.Ints:
    """The nucleus class that most of each object's pixels have, int64 [T]; `NO_CLASS` for one without such a pixel."""
    is_nucleus = np.zeros(256, np.bool_)
    is_nucleus[list(labels) if labels else slice(1, metrics.IGNORE)] = True
    classed = np.where(is_nucleus[classes], instance, instance.dtype.type(0))
    found = metrics.overlap(classed, classed).truth_ids
    of_ids: metrics.Ints = np.full(ids.size, NO_CLASS, np.int64)
    of_ids[np.searchsorted(ids, found)] = metrics.majority_classes(classed, classes)
    return of_ids
