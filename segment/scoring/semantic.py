"""Scores of class maps: the confusion matrix of one image, and the figures that matrices give."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from manifests.errors import UserError
from segment import metrics
from segment.scoring.images import ImageScore, refuse_ignored_prediction
from segment.scoring.sets import Maps


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


def score_classes(name: str, group: str, truth: Maps, pred: Maps) -> ImageScore:
    """Score one image by its ``classes``; pixels whose true class is 255 count for neither side."""
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


def refuse_binary_truth(scores: Sequence[ImageScore]) -> None:
    """Refuse truth maps of nothing but 0 and 255: binary masks, whose foreground would be left out as ignored.

    Raises:
        UserError: where no image has another true class.
    """
    has_classes = any(score.counts["classed_pixels"] for score in scores)
    if not has_classes and any(score.counts["ignored_pixels"] for score in scores):
        raise UserError(
            f"--truth: expected class labels, got only 0 and {metrics.IGNORE} (ignore) in every map. "
            "Write class 1 of a binary mask as 1."
        )
