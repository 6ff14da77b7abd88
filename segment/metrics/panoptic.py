"""Counts of matched objects: panoptic quality, also class by class (mPQ, bPQ), and F1 at IoU thresholds.

Pooling, NaN and the reference of the field are as in `segment.metrics.instances`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.core.compiled import compiled
from segment.metrics.overlap import Ints, Overlap, assignment, best_of_truth, overlap
from segment.metrics.pooling import Sums


@dataclass(frozen=True)
class Panoptic(Sums):
    """Panoptic quality and its sums: matched, spare and missed objects, and the summed IoU of the matched pairs."""

    tp: int
    fp: int
    fn: int
    iou_sum: float

    @property
    def dq(self) -> float:
        """Detection quality TP / (TP + FP/2 + FN/2): the F1 score at IoU > 0.5; NaN where both sides are empty."""
        total = self.tp + 0.5 * self.fp + 0.5 * self.fn
        return self.tp / total if total else nan

    @property
    def sq(self) -> float:
        """Segmentation quality: mean IoU of the matched; 0 where nothing matched, NaN where both sides are empty."""
        if self.tp:
            return self.iou_sum / self.tp
        return 0.0 if self.fp or self.fn else nan

    @property
    def pq(self) -> float:
        """Panoptic quality DQ x SQ."""
        return self.dq * self.sq


def panoptic_quality(table: Overlap) -> Panoptic:
    """Panoptic quality of one class (Kirillov et al. 2019, Eq. 1): a match is IoU > 0.5, strictly, hence one-to-one.

    No small number is added to a divisor, so a perfect prediction scores exactly 1. HoVer-Net's `get_fast_pq` divides
    the IoU sum by TP + 1e-6, which lowers SQ and PQ by the factor TP / (TP + 1e-6): 5e-7 at TP = 2.
    """
    tp, iou_sum = _matches(table.intersection_px, table.union_px)
    return Panoptic(tp, table.pred_ids.size - tp, table.truth_ids.size - tp, iou_sum)


@compiled()
def _matches(intersection_px: Ints, union_px: Ints) -> tuple[int, float]:
    """How many pairs have an IoU above a half, decided in integers, and the sum of their IoU."""
    count, iou_sum = 0, 0.0
    for pair in range(intersection_px.size):
        if 2 * intersection_px[pair] > union_px[pair]:
            count += 1
            iou_sum += intersection_px[pair] / union_px[pair]
    return count, iou_sum


@dataclass(frozen=True)
class MulticlassPanoptic(Sums):
    """Panoptic quality of nuclei of several classes.

    Attributes:
        per_class: one `Panoptic` per class, in the order of the `classes` given.
        binary: of all nuclei, whatever their class.
    """

    per_class: tuple[Panoptic, ...]
    binary: Panoptic

    @property
    def absent(self) -> int:
        """Number of classes that are in neither map; `mpq` leaves them out."""
        return sum(part.tp + part.fp + part.fn == 0 for part in self.per_class)

    @property
    def mpq(self) -> float:
        """Mean PQ of the classes that are in the truth or in the prediction; NaN where none is.

        A class that is predicted but not in the truth scores 0. Of pooled sums this is the mPQ+ of the CoNIC challenge
        (Graham et al. 2021), whose script, too, sums TP, FP, FN and IoU over all images before it divides.
        """
        return _mean([part.pq for part in self.per_class if part.tp + part.fp + part.fn])

    @property
    def bpq(self) -> float:
        """PQ of all nuclei as one class; NaN where both maps are empty."""
        return self.binary.pq

    @property
    def pannuke_mpq(self) -> float:
        """The image's mPQ by the script of PanNuke (Gamper et al. 2020): mean PQ of the classes in the *truth*.

        False positives of a class that is not in the image are never counted; NaN where the truth is empty. PanNuke's
        figure is the mean of this over the images of a tissue, without NaN, and then over the tissues. Use it for
        single images, not for pooled sums. Its script shares HoVer-Net's 1e-6 in SQ.
        """
        return _mean([part.pq for part in self.per_class if part.tp + part.fn])

    @property
    def pannuke_bpq(self) -> float:
        """The image's bPQ by the script of PanNuke: `bpq`, but NaN wherever the truth is empty."""
        return self.binary.pq if self.binary.tp + self.binary.fn else nan


def multiclass_panoptic_quality(
    table: Overlap, truth_classes: npt.ArrayLike, pred_classes: npt.ArrayLike, classes: Sequence[int]
) -> MulticlassPanoptic:
    """Panoptic quality class by class (mPQ) and whatever the class (bPQ), where each nucleus has one class.

    Each class is scored on its own nuclei and predictions, so a match of unequal classes (IoU > 0.5) is a false
    positive of one class and a false negative of the other. `bpq` counts all nuclei, whatever their class.

    Args:
        table: of all nuclei.
        truth_classes, pred_classes: int [T] and [P], the class of each id of the table (`majority_classes` gives them).
        classes: labels of the nucleus classes to score, without the background.
    """
    truth_class, pred_class = np.asarray(truth_classes), np.asarray(pred_classes)
    for name, given, ids in (("truth", truth_class, table.truth_ids), ("pred", pred_class, table.pred_ids)):
        if given.shape != ids.shape:
            raise ValueError(f"{name}_classes: expected one class for each of {ids.size} objects, got {given.shape}")
    pair_class = truth_class[table.pair_truth]
    same = pair_class == pred_class[table.pair_pred]
    per_class = []
    for label in classes:
        pairs = same & (pair_class == label)
        tp, iou_sum = _matches(table.intersection_px[pairs], table.union_px[pairs])
        truths, preds = int(np.count_nonzero(truth_class == label)), int(np.count_nonzero(pred_class == label))
        per_class.append(Panoptic(tp, preds - tp, truths - tp, iou_sum))
    return MulticlassPanoptic(tuple(per_class), panoptic_quality(table))


def majority_classes(instance: npt.NDArray[Any], semantic: npt.NDArray[Any]) -> Ints:
    """Class of most pixels of each object, by ascending id; ties go to the lowest label: int64 [T].

    Args:
        instance: instance map [H, W], 0 = background.
        semantic: label map [H, W] of any integer dtype, labels of 0 or more.

    Raises:
        ValueError: for negative labels, and for maps that `overlap` refuses.
    """
    if semantic.size and semantic.min() < 0:
        raise ValueError(f"semantic: expected labels of 0 or more, got {semantic.min()}")
    table = overlap(instance, semantic.astype(np.int64) + 1)  # + 1, because label 0 is a class here
    most = best_of_truth(table, table.intersection_px.astype(np.float64))
    return table.pred_ids[table.pair_pred[most]] - 1


@dataclass(frozen=True)
class Detection(Sums):
    """Numbers of objects found and missed at one IoU threshold. Precision and recall are NaN where they are 0/0.

    Attributes:
        threshold: pairs with a higher IoU are matches.
        tp, fp, fn: matched, spare and missed objects.
    """

    threshold: float
    tp: int
    fp: int
    fn: int

    def __add__(self, other: Detection) -> Detection:
        if self.threshold != other.threshold:
            raise ValueError(f"expected parts of one threshold, got {self.threshold} and {other.threshold}")
        return Detection(self.threshold, self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def precision(self) -> float:
        """Share of the predictions that are matched; NaN without predictions."""
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else nan

    @property
    def recall(self) -> float:
        """Share of the nuclei that are matched; NaN without nuclei."""
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else nan

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN); NaN where both sides are empty."""
        total = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / total if total else nan


def detection(
    table: Overlap, thresholds: Sequence[float] = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
) -> tuple[Detection, ...]:
    """F1, precision and recall at IoU thresholds, one-to-one.

    From 0.5 on, pairs above the threshold exclude each other. Below, as many pairs as possible are matched, as in
    stardist's `matching` (HoVer-Net's `get_fast_pq` maximises the sum of IoU first and then drops pairs below the
    threshold). Differences from stardist: an IoU *at* the threshold is no match, as in panoptic quality; precision and
    recall are NaN, not 0, where they are 0/0.

    Args:
        table: of all objects.
        thresholds: 0 <= threshold < 1.
    """
    found = []
    for threshold in thresholds:
        if not 0 <= threshold < 1:
            raise ValueError(f"expected IoU thresholds from 0 to below 1, got {threshold}")
        above = table.iou > threshold
        tp = int(np.count_nonzero(above)) if threshold >= 0.5 else assignment(table, above.astype(np.float64)).size
        found.append(Detection(float(threshold), tp, table.pred_ids.size - tp, table.truth_ids.size - tp))
    return tuple(found)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else nan
