"""The course of a training run: a Parquet table and a plot."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.files import write_atomic

HISTORY = "history.parquet"
PLOT = "history.png"

_LOSSES = {
    "loss": "loss that is minimised",
    "dice_loss": "Dice loss",
    "cross_entropy": "cross entropy",
    "distance_loss": "distance loss",
}
_SCORES = {"mean_iou": "mIoU", "dice": "Dice", "aji": "AJI", "pq": "PQ"}
"""Columns that the plot shows, and what it calls them; AJI and PQ where there are nuclei."""


def write_history(out: Path, history: Sequence[dict[str, Any]]) -> None:
    """Write one row per validation; whole or not at all."""
    # In a fixed order and type: rows restored from a checkpoint come in another, and a score may never have a value.
    names = sorted(history[0].keys() - {"step"})
    columns = {"step": pa.array([row["step"] for row in history], pa.int64())}
    columns |= {name: pa.array([row[name] for row in history], pa.float64()) for name in names}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd", write_page_checksum=True)
    write_atomic(out / HISTORY, buffer.getvalue())


def plot_history(out: Path, history: Sequence[dict[str, Any]]) -> Path:
    """Draw loss and validation scores over the steps; returns the PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    losses, scores = figure.subplots(1, 2)
    steps = [row["step"] for row in history]
    for name, label in _LOSSES.items():
        losses.plot(steps, [row[name] for row in history], marker=".", label=label)
    for name, label in _SCORES.items():
        if f"val_{name}" not in history[0]:
            continue
        values = [float("nan") if row[f"val_{name}"] is None else row[f"val_{name}"] for row in history]
        scores.plot(steps, values, marker=".", label=label)
    losses.set(xlabel="step", title="training")
    scores.set(xlabel="step", title="validation", ylim=(0, 1))
    for axes in (losses, scores):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    write_atomic(out / PLOT, buffer.getvalue())
    return out / PLOT
