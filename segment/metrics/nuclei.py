"""All instance metrics of one image of nuclei together, as `segment evaluate` and `segment score` report them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import islice
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from segment.metrics.boundaries import BoundaryScore, boundary_f1
from segment.metrics.cuts import Cuts, cuts
from segment.metrics.instances import (
    AggregatedJaccard,
    ForegroundDice,
    InstanceScores,
    ObjectDice,
    instance_scores,
    object_dice,
)
from segment.metrics.overlap import Floats, Overlap
from segment.metrics.panoptic import Detection, MulticlassPanoptic, Panoptic, detection
from segment.metrics.pooling import Sums

F1_THRESHOLDS = (0.5, 0.7, 0.9)
"""IoU above which a nucleus counts as found; at 0.5 the F1 score is DQ."""

Part = TypeVar("Part")


@dataclass(frozen=True)
class NucleiScores(Sums):
    """Instance metrics of one image, or of several pooled.

    Attributes:
        basic: AJI, AJI+, DQ, SQ, PQ and foreground Dice. objects: object Dice. outline: boundary F1.
        detections: F1 at `F1_THRESHOLDS`. cut: split and merged nuclei.
        classes: label -> panoptic quality; empty where classes are not scored.
    """

    basic: InstanceScores
    objects: ObjectDice
    outline: BoundaryScore
    detections: tuple[Detection, ...]
    cut: Cuts
    classes: Mapping[int, Panoptic]

    @property
    def labels(self) -> Collection[int]:
        """Scored classes of nuclei."""
        return self.classes.keys()

    @property
    def figures(self) -> dict[str, float]:
        """Values by name, NaN where there is nothing to score; with classes also mpq, bpq and pq_<label>."""
        figures = {**self.basic.figures, "object_dice": self.objects.value}
        figures |= {f"f1_{100 * at.threshold:.0f}": at.f1 for at in self.detections}
        figures |= {"boundary_f1": self.outline.f1, **self.cut.figures}
        if self.classes:
            of_classes = MulticlassPanoptic(tuple(self.classes.values()), self.basic.panoptic)
            figures |= {"mpq": of_classes.mpq, "bpq": of_classes.bpq}
            figures |= {f"pq_{label}": part.pq for label, part in self.classes.items()}
        return figures

    def row(self, labels: Sequence[int]) -> Floats:
        """The sums as numbers, with those of every class in `labels`: float64 [K]."""
        basic, absent = self.basic, Panoptic(0, 0, 0, 0.0)
        parts = (basic.jaccard, basic.jaccard_plus, basic.panoptic, basic.foreground, self.objects, self.outline)
        numbers = [number for part in parts for number in astuple(part)]
        numbers += [count for at in self.detections for count in (at.tp, at.fp, at.fn)]
        numbers += astuple(self.cut)
        numbers += [number for label in labels for number in astuple(self.classes.get(label, absent))]
        return np.array(numbers, np.float64)

    @classmethod
    def from_row(cls, row: Floats, labels: Sequence[int]) -> Self:
        """The inverse of `row`; sums of rows give the sums of images."""
        numbers = iter(row.tolist())
        basic = InstanceScores(
            _take(AggregatedJaccard, numbers),
            _take(AggregatedJaccard, numbers),
            _take(Panoptic, numbers),
            _take(ForegroundDice, numbers),
        )
        objects, outline = _take(ObjectDice, numbers), _take(BoundaryScore, numbers)
        detections = tuple(Detection(threshold, *islice(numbers, 3)) for threshold in F1_THRESHOLDS)
        cut = Cuts(*(int(number) for number in islice(numbers, len(fields(Cuts)))))
        return cls(basic, objects, outline, detections, cut, {label: _take(Panoptic, numbers) for label in labels})


def _take(kind: type[Part], numbers: Iterator[float]) -> Part:
    return kind(*islice(numbers, len(fields(kind))))  # type: ignore[arg-type]  # whole numbers stay exact


def nuclei_scores(
    table: Overlap, truth: npt.NDArray[Any], pred: npt.NDArray[Any], classes: Mapping[int, Panoptic]
) -> NucleiScores:
    """Score one image.

    Args:
        table: overlap of `truth` and `pred`, instance maps [H, W]. classes: label -> panoptic quality.
    """
    return NucleiScores(
        instance_scores(table),
        object_dice(table),
        boundary_f1(truth, pred),
        detection(table, F1_THRESHOLDS),
        cuts(table),
        classes,
    )
