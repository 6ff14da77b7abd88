"""Segmentation metrics. One overlap table feeds every instance metric, one confusion matrix every semantic one.

Nothing here knows torch, files or schemes. Every metric has a value for one image and the sums that pool over images;
where nothing can be scored (no truth and no prediction, 0/0) the value is NaN, which means leave it out and count it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

IGNORE = 255
"""The truth label that every semantic metric leaves out."""

MAX_ID = 2**31 - 1

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Overlap:
    """How the objects of two instance maps overlap. Background (0) is no object; ids may have gaps.

    Attributes:
        truth_ids, pred_ids: int64 [T] and [P], ascending.
        truth_area_px, pred_area_px: pixels of each object.
        pair_truth, pair_pred: int64 [K], positions of the pairs that share a pixel, by truth and then prediction.
        intersection_px: int64 [K], pixels that a pair shares, always above 0.
    """

    truth_ids: Ints
    pred_ids: Ints
    truth_area_px: Ints
    pred_area_px: Ints
    pair_truth: Ints
    pair_pred: Ints
    intersection_px: Ints

    @property
    def union_px(self) -> Ints:
        """Pixels that either object of a pair covers: int64 [K]."""
        return self.truth_area_px[self.pair_truth] + self.pred_area_px[self.pair_pred] - self.intersection_px

    @property
    def iou(self) -> Floats:
        """Intersection over union of every pair: float64 [K]."""
        return self.intersection_px / self.union_px


def overlap(truth: npt.NDArray[Any], pred: npt.NDArray[Any]) -> Overlap:
    """Count the pixels of every (truth id, predicted id) in one pass over both maps.

    Args:
        truth: instance map [H, W] of any integer dtype, ids 0..2^31-1, 0 = background.
        pred: likewise.

    Raises:
        ValueError: for unequal shapes, ids outside the range, or maps that are not integer.
    """
    if truth.shape != pred.shape:
        raise ValueError(f"expected maps of one shape, got {truth.shape} and {pred.shape}")
    keys, counts = _count_pairs(_as_ids(truth, "truth"), _as_ids(pred, "pred"))
    order = np.argsort(keys)
    keys, counts = keys[order], counts[order]
    truth_of, pred_of = (keys >> np.uint64(32)).astype(np.int64), (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    for name, ids in (("truth", truth_of), ("pred", pred_of)):
        if ids.size and int(ids.max()) > MAX_ID:
            raise ValueError(f"{name}: expected ids from 0 to {MAX_ID}")
    truth_ids, truth_area, truth_at = _objects(truth_of, counts)
    pred_ids, pred_area, pred_at = _objects(pred_of, counts)
    both = (truth_of > 0) & (pred_of > 0)
    return Overlap(truth_ids, pred_ids, truth_area, pred_area, truth_at[both], pred_at[both], counts[both])


def _as_ids(labels: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint32]:
    """Flat uint32 ids; negative int32 ids come out above `MAX_ID` and are found there."""
    if labels.dtype.kind not in "ui" and labels.dtype != np.bool_:
        raise ValueError(f"{name}: expected an integer instance map, got {labels.dtype}")
    flat = np.ascontiguousarray(labels).reshape(-1)
    if labels.dtype in (np.dtype(np.int32), np.dtype(np.uint32)):
        return flat.view(np.uint32)
    if labels.dtype.kind == "i" or labels.dtype.itemsize > 4:
        low, high = (int(flat.min()), int(flat.max())) if flat.size else (0, 0)
        if low < 0 or high > MAX_ID:
            raise ValueError(f"{name}: expected ids from 0 to {MAX_ID}, got {low}..{high}")
    return flat.astype(np.uint32)


def _objects(ids: Ints, counts: Ints) -> tuple[Ints, Ints, Ints]:
    """Distinct ids above 0, their pixel counts, and where each entry of `ids` stands among them (-1 for background)."""
    distinct, inverse = np.unique(ids, return_inverse=True)
    area = np.zeros(distinct.size, np.int64)
    np.add.at(area, inverse, counts)
    background = int(distinct.size > 0 and distinct[0] == 0)
    return distinct[background:], area[background:], inverse.astype(np.int64) - background


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count_pairs(truth: npt.NDArray[np.uint32], pred: npt.NDArray[np.uint32]) -> tuple[npt.NDArray[np.uint64], Ints]:
    """Pixels per (truth, pred), keyed ``truth << 32 | pred``, in no order.

    Runs of equal pairs touch the table once: an open-addressing hash table (multiplicative hashing, Knuth vol. 3, 6.4)
    that doubles when half full.
    """
    capacity = 1024
    keys, counts = np.zeros(capacity, np.uint64), np.zeros(capacity, np.int64)
    used, start, n = 0, 0, truth.size
    while start < n:
        t, p, stop = truth[start], pred[start], start + 1
        while stop < n and truth[stop] == t and pred[stop] == p:
            stop += 1
        key = (np.uint64(t) << np.uint64(32)) | np.uint64(p)
        slot = _slot(keys, counts, key)
        if counts[slot] == 0:
            keys[slot] = key
            used += 1
        counts[slot] += stop - start
        start = stop
        if 2 * used > capacity:
            capacity *= 2
            old_keys, old_counts = keys, counts
            keys, counts = np.zeros(capacity, np.uint64), np.zeros(capacity, np.int64)
            for old in range(old_keys.size):
                if old_counts[old]:
                    slot = _slot(keys, counts, old_keys[old])
                    keys[slot], counts[slot] = old_keys[old], old_counts[old]
    filled = np.flatnonzero(counts)
    return keys[filled], counts[filled]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _slot(keys: npt.NDArray[np.uint64], counts: Ints, key: np.uint64) -> np.int64:
    """Where `key` is in the table, or the free place where it belongs."""
    mask = np.int64(keys.size - 1)
    slot = np.int64((key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & mask
    while counts[slot] != 0 and keys[slot] != key:
        slot = (slot + 1) & mask
    return slot


@dataclass(frozen=True)
class AggregatedJaccard:
    """An aggregated Jaccard index and its sums: `intersection_px` / `union_px`, NaN where the union is empty."""

    intersection_px: int
    union_px: int

    @property
    def value(self) -> float:
        """The index, 0..1."""
        return self.intersection_px / self.union_px if self.union_px else float("nan")


def aji(table: Overlap) -> AggregatedJaccard:
    """Aggregated Jaccard index (Kumar et al. 2017, Algorithm 1).

    Every truth nucleus takes the prediction with the highest IoU (ties: the lowest id). A prediction may serve several
    nuclei; its area is then in the union each time. A nucleus that nothing touches adds its area to the union (the
    printed algorithm leaves it open), and so does every prediction that no nucleus took.
    """
    order = np.lexsort((table.pair_pred, -table.iou, table.pair_truth))
    first = np.ones(order.size, bool)
    first[1:] = np.diff(table.pair_truth[order]) > 0
    return _aggregate(table, order[first])


def aji_plus(table: Overlap) -> AggregatedJaccard:
    """AJI with a one-to-one matching that maximises the sum of IoU (the "AJI+" of HoVer-Net, Graham et al. 2019).

    The assignment is solved in each connected group of overlapping objects, which gives the same optimum as one over
    all objects. Where two assignments have the same sum of IoU, either may be taken.
    """
    return _aggregate(table, _assign(table))


def _aggregate(table: Overlap, pairs: Ints) -> AggregatedJaccard:
    missed = np.ones(table.truth_ids.size, bool)
    missed[table.pair_truth[pairs]] = False
    spare = np.ones(table.pred_ids.size, bool)
    spare[table.pair_pred[pairs]] = False
    union = table.union_px[pairs].sum() + table.truth_area_px[missed].sum() + table.pred_area_px[spare].sum()
    return AggregatedJaccard(int(table.intersection_px[pairs].sum()), int(union))


def _assign(table: Overlap) -> Ints:
    """Positions of the pairs of a one-to-one matching with the largest sum of IoU."""
    t, p = table.pair_truth, table.pair_pred
    truths, preds = table.truth_ids.size, table.pred_ids.size
    alone = (np.bincount(t, minlength=truths)[t] == 1) & (np.bincount(p, minlength=preds)[p] == 1)
    chosen, rest = [np.flatnonzero(alone)], np.flatnonzero(~alone)
    if rest.size:
        edges = coo_array((np.ones(rest.size, np.int8), (t[rest], truths + p[rest])), shape=(truths + preds,) * 2)
        group = connected_components(edges, directed=False)[1][t[rest]]
        rest = rest[np.argsort(group, kind="stable")]
        for pairs in np.split(rest, np.flatnonzero(np.diff(np.sort(group))) + 1):
            rows, row = np.unique(t[pairs], return_inverse=True)
            columns, column = np.unique(p[pairs], return_inverse=True)
            gain, position = np.zeros((rows.size, columns.size)), np.full((rows.size, columns.size), -1)
            gain[row, column], position[row, column] = table.iou[pairs], pairs
            matched = position[linear_sum_assignment(gain, maximize=True)]
            chosen.append(matched[matched >= 0])
    return np.concatenate(chosen)


@dataclass(frozen=True)
class Panoptic:
    """Panoptic quality and its sums: matched, spare and missed objects, and the summed IoU of the matched."""

    tp: int
    fp: int
    fn: int
    iou_sum: float

    @property
    def dq(self) -> float:
        """Detection quality TP / (TP + FP/2 + FN/2): the F1 score at IoU > 0.5; NaN where both sides are empty."""
        total = self.tp + 0.5 * self.fp + 0.5 * self.fn
        return self.tp / total if total else float("nan")

    @property
    def sq(self) -> float:
        """Segmentation quality: mean IoU of the matched; 0 where nothing matched, NaN where both sides are empty."""
        if self.tp:
            return self.iou_sum / self.tp
        return 0.0 if self.fp or self.fn else float("nan")

    @property
    def pq(self) -> float:
        """Panoptic quality DQ x SQ."""
        return self.dq * self.sq


def panoptic_quality(table: Overlap) -> Panoptic:
    """Panoptic quality of one class (Kirillov et al. 2019, Eq. 1): a match is IoU > 0.5, strictly, hence one-to-one.

    No small number is added to a divisor, so a perfect prediction scores exactly 1 (the field's common code gives
    0.9999995).
    """
    matched = 2 * table.intersection_px > table.union_px
    tp = int(np.count_nonzero(matched))
    return Panoptic(tp, table.pred_ids.size - tp, table.truth_ids.size - tp, float(table.iou[matched].sum()))


def pool_jaccard(parts: Sequence[AggregatedJaccard]) -> AggregatedJaccard:
    """The index over several images taken as one."""
    return AggregatedJaccard(sum(part.intersection_px for part in parts), sum(part.union_px for part in parts))


def pool_panoptic(parts: Sequence[Panoptic]) -> Panoptic:
    """Panoptic quality over several images taken as one."""
    tp, fp, fn = (sum(getattr(part, name) for part in parts) for name in ("tp", "fp", "fn"))
    return Panoptic(tp, fp, fn, sum(part.iou_sum for part in parts))


def confusion(truth: npt.NDArray[np.uint8], pred: npt.NDArray[np.uint8], classes: int) -> Ints:
    """Confusion matrix int64 [C, C]: pixels by true class (row) and predicted class (column), truth 255 left out.

    Raises:
        ValueError: for unequal shapes or labels outside 0..C-1.
    """
    if truth.shape != pred.shape:
        raise ValueError(f"expected maps of one shape, got {truth.shape} and {pred.shape}")
    known = truth != IGNORE
    t, p = truth[known].astype(np.int64), pred[known].astype(np.int64)
    if t.size and (max(int(t.max()), int(p.max())) >= classes or min(int(t.min()), int(p.min())) < 0):
        raise ValueError(f"expected labels 0..{classes - 1}, got {max(int(t.max()), int(p.max()))}")
    return np.bincount(t * classes + p, minlength=classes * classes).reshape(classes, classes)


def class_iou(matrix: Ints) -> Floats:
    """IoU per class: float64 [C], NaN for a class absent from both sides."""
    tp, truth, pred = _counts(matrix)
    return _ratio(tp, truth + pred - tp)


def class_dice(matrix: Ints) -> Floats:
    """Dice per class, 2 TP / (2 TP + FP + FN): float64 [C], NaN for a class absent from both sides."""
    tp, truth, pred = _counts(matrix)
    return _ratio(2 * tp, truth + pred)


def mean_iou(matrix: Ints) -> float:
    """Mean IoU of the classes that are in the truth or the prediction (noise paper Eq. 1; absent classes left out)."""
    return _mean(class_iou(matrix))


def dice(matrix: Ints) -> float:
    """Mean Dice of the classes that are in the truth or the prediction."""
    return _mean(class_dice(matrix))


def wiou(matrix: Ints) -> float:
    """IoU weighted by class share of the truth, sum of s_c / S x IoU_c.

    The noise paper's Eq. 2 divides by C as well, which would cap it at 1/C; so do its Eqs. 3 and 4.
    """
    return _weighted(matrix, class_iou(matrix))


def wprecision(matrix: Ints) -> float:
    """Precision weighted by class share (noise paper Eq. 3 without 1/C); 0 for a true class that is never predicted."""
    tp, _, pred = _counts(matrix)
    return _weighted(matrix, np.nan_to_num(_ratio(tp, pred)))


def wrecall(matrix: Ints) -> float:
    """Recall weighted by class share (noise paper Eq. 4 without 1/C); equals pixel accuracy."""
    tp, truth, _ = _counts(matrix)
    return _weighted(matrix, _ratio(tp, truth))


SEMANTIC: dict[str, Callable[[Ints], float]] = {
    "mean_iou": mean_iou,
    "wiou": wiou,
    "wprecision": wprecision,
    "wrecall": wrecall,
    "dice": dice,
}
"""Metrics of a confusion matrix by name. Adding one is a function above and a line here."""


def t_objective(mean_dice: float, cross_entropy: float) -> float:
    """The noise paper's printed Eq. 5, 1 / (mean Dice + CE / 4): it falls as Dice grows, so read it beside Dice.

    Args:
        mean_dice: of the classes that are there.
        cross_entropy: mean over the labelled pixels, natural logarithm.
    """
    total = mean_dice + cross_entropy / 4
    return 1 / total if total else float("nan")


def _counts(matrix: Ints) -> tuple[Ints, Ints, Ints]:
    """True positives, pixels of the class in the truth, pixels of the class in the prediction: int64 [C] each."""
    return np.diagonal(matrix), matrix.sum(axis=1), matrix.sum(axis=0)


def _ratio(part: Ints, whole: Ints) -> Floats:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _weighted(matrix: Ints, values: Floats) -> float:
    """Sum of values by the class's share of the truth; classes that are not in the truth weigh nothing."""
    shares, there = matrix.sum(axis=1), matrix.sum(axis=1) > 0
    return float((shares[there] * values[there]).sum() / shares.sum()) if there.any() else float("nan")
