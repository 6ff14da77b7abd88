"""Nuclei cut into pieces and nuclei run together, over all and over large ones."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan

import numpy as np

from segment.metrics.overlap import Overlap
from segment.metrics.pooling import Sums

_PIECE = 0.1
"""Least share of a nucleus that a prediction covers to be a piece of it."""
_LARGE = 2.0
"""Area of a large nucleus, in medians of its image."""


@dataclass(frozen=True)
class Cuts(Sums):
    """Numbers of true nuclei: all, split ones, merged ones; and the same of those larger than twice the image's median.

    A nucleus is *split* where two predictions or more each cover a tenth of it and lie in it by more than half of their
    own area. It is *merged* where the prediction that covers more than half of it covers more than half of another too.
    """

    nuclei: int
    split: int
    merged: int
    large: int
    large_split: int
    large_merged: int

    @property
    def figures(self) -> dict[str, float]:
        """Shares by name, NaN where there is no such nucleus."""

        def share(part: int, whole: int) -> float:
            return part / whole if whole else nan

        return {
            "split": share(self.split, self.nuclei),
            "merged": share(self.merged, self.nuclei),
            "split_large": share(self.large_split, self.large),
            "merged_large": share(self.large_merged, self.large),
        }


def cuts(table: Overlap) -> Cuts:
    """Count split and merged nuclei of one image."""
    truths, shared = table.truth_ids.size, table.intersection_px
    truth_px, pred_px = table.truth_area_px[table.pair_truth], table.pred_area_px[table.pair_pred]
    is_piece = (2 * shared > pred_px) & (shared >= _PIECE * truth_px)
    split = np.bincount(table.pair_truth[is_piece], minlength=truths) > 1
    holds = 2 * shared > truth_px
    held = np.bincount(table.pair_pred[holds], minlength=table.pred_ids.size)
    merged = np.zeros(truths, np.bool_)
    merged[table.pair_truth[holds]] = held[table.pair_pred[holds]] > 1
    large = table.truth_area_px > _LARGE * np.median(table.truth_area_px) if truths else merged
    return Cuts(truths, *(int(np.count_nonzero(of)) for of in (split, merged, large, large & split, large & merged)))
