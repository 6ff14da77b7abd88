"""The metrics of this project: name in files, label for readers, unit, and which values are better."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """How a metric is shown.

    Attributes:
        label: name in the literature, with what it is of.
        short: label for a narrow column; a newline breaks it. Empty: the same as `label`.
        digits: decimals of a value. higher_is_better: direction.
    """

    label: str
    short: str = ""
    digits: int = 4
    higher_is_better: bool = True

    @property
    def short_label(self) -> str:
        """Label for a narrow column or a legend."""
        return self.short or self.label

    def show(self, value: float | None, digits: int = 4) -> str:
        """A value as text, with at most `digits` decimals; a dash where it is undefined."""
        return "-" if value is None or math.isnan(value) else f"{value:.{min(digits, self.digits)}f}"


METRICS: dict[str, Metric] = {
    "mean_iou": Metric("mIoU"),
    "wiou": Metric("wIoU"),
    "wprecision": Metric("wPrecision"),
    "wrecall": Metric("wRecall"),
    "dice": Metric("Dice, mean of classes", "Dice"),
    "cross_entropy": Metric("cross entropy", higher_is_better=False),
    "t_objective": Metric("tObjective", higher_is_better=False),
    "pixel_accuracy": Metric("pixel accuracy"),
    "dq": Metric("DQ"),
    "sq": Metric("SQ"),
    "pq": Metric("PQ"),
    "aji": Metric("AJI"),
    "aji_plus": Metric("AJI+"),
    "mpq": Metric("mPQ"),
    "bpq": Metric("bPQ"),
    "mpq_pannuke": Metric("mPQ as PanNuke's", "mPQ,\nPanNuke"),
    "foreground_dice": Metric("Dice of nuclei", "Dice"),
    "object_dice": Metric("object Dice", "object\nDice"),
    "f1_50": Metric("F1, IoU > 0.5"),
    "f1_70": Metric("F1, IoU > 0.7"),
    "f1_90": Metric("F1, IoU > 0.9"),
    "boundary_f1": Metric("boundary F1, 2 px", "edge\nF1"),
    "split": Metric("nuclei cut into pieces", "split", higher_is_better=False),
    "merged": Metric("nuclei run together", "merged", higher_is_better=False),
    "split_large": Metric("large nuclei cut into pieces", "large\nsplit", higher_is_better=False),
    "merged_large": Metric("large nuclei run together", "large\nmerged", higher_is_better=False),
    "hd95_um": Metric("HD95, um", higher_is_better=False),
    "hd95_px": Metric("HD95, px", "HD95\npx", digits=1, higher_is_better=False),
    "tps_error": Metric("TPS error", higher_is_better=False),
}
"""Metrics by their keys in JSON and Parquet files, in the order in which tables show them."""


def label(name: str) -> str:
    """Label of a metric; other names as they are."""
    return METRICS[name].label if name in METRICS else name
