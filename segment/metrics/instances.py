"""Instance metrics of one overlap table: AJI, AJI+, Dice of the foreground and of objects, and all of them together.

Results hold the sums that they are computed from, so that `pool` can score several images as one. Where there is
nothing to score (0/0) a value is NaN: leave it out of means, and count it.

The reference of the field is `metrics/stats_utils.py` of HoVer-Net (Graham et al. 2019), whose values these equal
where the definitions agree. The differences: the reference adds 1e-6 to the divisor of SQ (`panoptic_quality`), and
it fails, warns or loses a nucleus on empty maps, on ids with gaps and where no pixel is background. Here these cases
have defined values.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan

import numpy as np

from segment.metrics.overlap import Floats, Ints, Overlap, assignment, best_of_pred, best_of_truth
from segment.metrics.panoptic import Panoptic, panoptic_quality
from segment.metrics.pooling import Sums


@dataclass(frozen=True)
class AggregatedJaccard(Sums):
    """An aggregated Jaccard index and its sums: `intersection_px` / `union_px`, NaN where the union is empty."""

    intersection_px: int
    union_px: int

    @property
    def value(self) -> float:
        """The index, 0..1."""
        return self.intersection_px / self.union_px if self.union_px else nan


def aji(table: Overlap) -> AggregatedJaccard:
    """Aggregated Jaccard index (Kumar et al. 2017, Algorithm 1).

    Every truth nucleus is matched to the prediction with the highest IoU (ties: the larger, then the lowest id). A
    prediction may be matched to several nuclei; its area is then in the union each time. A nucleus that no prediction
    touches adds its area to the union (the printed algorithm leaves this open), and so does every unmatched prediction.

    Equals HoVer-Net's `get_fast_aji`, ties included.
    """
    return _aggregate(table, best_of_truth(table, _closeness(table)))


def aji_plus(table: Overlap) -> AggregatedJaccard:
    """AJI with a one-to-one matching that maximises the sum of IoU (the "AJI+" of HoVer-Net, Graham et al. 2019).

    Of matchings with the same sum of IoU the one with the larger objects is taken, as HoVer-Net's `get_fast_aji_plus`
    does, which it equals; where even these tie, either may be taken.
    """
    return _aggregate(table, assignment(table, _closeness(table)))


def _closeness(table: Overlap) -> Floats:
    """IoU with the reference's 1e-6 px in the divisor, so that of two equal IoUs that of the larger objects is higher.

    Between two pairs it decides ties alone: unequal IoUs would need unions that differ by a million pixels. In sums of
    IoU it decides differences below 1e-6.
    """
    return table.intersection_px / (table.union_px + 1e-6)


def _aggregate(table: Overlap, pairs: Ints) -> AggregatedJaccard:
    intersection_px = int(table.intersection_px[pairs].sum())
    used = np.zeros(table.pred_ids.size, np.bool_)
    used[table.pair_pred[pairs]] = True
    # A nucleus is in `pairs` at most once; its union is its area and the rest of the prediction.
    union_px = table.truth_area_px.sum() + table.pred_area_px[table.pair_pred[pairs]].sum() - intersection_px
    return AggregatedJaccard(intersection_px, int(union_px + table.pred_area_px[~used].sum()))


@dataclass(frozen=True)
class ForegroundDice(Sums):
    """Dice of the pixels of all objects, and its sums; NaN where both sides are empty."""

    intersection_px: int
    truth_px: int
    pred_px: int

    @property
    def value(self) -> float:
        """2 |T and P| / (|T| + |P|), 0..1."""
        total = self.truth_px + self.pred_px
        return 2 * self.intersection_px / total if total else nan


def foreground_dice(table: Overlap) -> ForegroundDice:
    """Dice of foreground against background, whatever the ids ("Dice" in HoVer-Net's tables, its `get_dice_1`)."""
    intersection_px, truth_px, pred_px = table.intersection_px, table.truth_area_px, table.pred_area_px
    return ForegroundDice(int(intersection_px.sum()), int(truth_px.sum()), int(pred_px.sum()))


@dataclass(frozen=True)
class ObjectDice(Sums):
    """Object-level Dice and its sums: each object's Dice times its area, and the areas, from either side."""

    truth_sum: float
    truth_px: int
    pred_sum: float
    pred_px: int

    @property
    def value(self) -> float:
        """Mean of both area-weighted means, 0..1; 0 where one side is empty, NaN where both are."""
        if self.truth_px and self.pred_px:
            return (self.truth_sum / self.truth_px + self.pred_sum / self.pred_px) / 2
        return 0.0 if self.truth_px or self.pred_px else nan


def object_dice(table: Overlap) -> ObjectDice:
    """Object-level Dice of the GlaS challenge (Sirinukunwattana et al. 2017, Sec. 5.2).

    Every object is compared with the one of the other map that covers most of its pixels (ties: the lowest id), and has
    Dice 0 where none does. The Dice values are weighted by the object's area, and both directions count half. The
    challenge's code gives 1 where both maps are empty; here that is NaN.
    """
    shared_px = table.intersection_px.astype(np.float64)
    dice_of_pair = 2 * shared_px / (table.intersection_px + table.union_px)
    of_truth, of_pred = best_of_truth(table, shared_px), best_of_pred(table, shared_px)
    return ObjectDice(
        float((table.truth_area_px[table.pair_truth[of_truth]] * dice_of_pair[of_truth]).sum()),
        int(table.truth_area_px.sum()),
        float((table.pred_area_px[table.pair_pred[of_pred]] * dice_of_pair[of_pred]).sum()),
        int(table.pred_area_px.sum()),
    )


@dataclass(frozen=True)
class InstanceScores(Sums):
    """AJI, AJI+, panoptic quality and foreground Dice of one image, or of several pooled."""

    jaccard: AggregatedJaccard
    jaccard_plus: AggregatedJaccard
    panoptic: Panoptic
    foreground: ForegroundDice

    @property
    def figures(self) -> dict[str, float]:
        """Values by name: aji, aji_plus, dq, sq, pq, dice."""
        return {
            "aji": self.jaccard.value,
            "aji_plus": self.jaccard_plus.value,
            "dq": self.panoptic.dq,
            "sq": self.panoptic.sq,
            "pq": self.panoptic.pq,
            "dice": self.foreground.value,
        }


def instance_scores(table: Overlap) -> InstanceScores:
    """AJI, AJI+, panoptic quality and foreground Dice of one table."""
    return InstanceScores(aji(table), aji_plus(table), panoptic_quality(table), foreground_dice(table))
