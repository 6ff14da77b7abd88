"""Plot of a segmenter's training: losses and validation scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from factory.core import history as course

_LOSSES = {
    "loss": "loss that is minimised",
    "dice_loss": "Dice loss",
    "cross_entropy": "cross entropy",
    "distance_loss": "distance loss",
}
_SCORES = {"val_mean_iou": "mIoU", "val_dice": "Dice", "val_aji": "AJI", "val_pq": "PQ"}
"""Columns of the history and their labels in the plot. AJI and PQ exist where nuclei are separated."""


def plot_history(out: Path, history: Sequence[dict[str, Any]]) -> Path:
    """Draw losses and validation scores over the steps; returns the PNG."""
    return course.plot_history(
        out, history, {"training": _LOSSES, "validation": _SCORES}, limits={"validation": (0.0, 1.0)}
    )
