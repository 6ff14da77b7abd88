"""History of a training run: a Parquet table and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from factory.core.encoding import parquet_bytes, png_bytes
from manifests.files import write_atomic

HISTORY = "history.parquet"
PLOT = "history.png"


def write_history(out: Path, history: Sequence[dict[str, Any]]) -> None:
    """Write one row per checkpoint, keyed by ``step``, as Parquet; whole or not at all."""
    # Fixed order and types: restored rows have another order, and a score may be None in every row.
    names = sorted(history[0].keys() - {"step"})
    columns = {"step": pa.array([row["step"] for row in history], pa.int64())}
    columns |= {name: pa.array([row[name] for row in history], pa.float64()) for name in names}
    write_atomic(out / HISTORY, parquet_bytes(pa.table(columns)))


def plot_history(
    out: Path,
    history: Sequence[dict[str, Any]],
    panels: Mapping[str, Mapping[str, str]],
    limits: Mapping[str, tuple[float, float]] | None = None,
) -> Path:
    """Plot columns of the history over the steps; returns the path of the PNG.

    Args:
        out: the run's folder. history: rows as for `write_history`.
        panels: title -> column -> label in the plot; missing columns are left out.
        limits: title -> range of the vertical axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(panels), 3.6), layout="constrained")
    steps = [row["step"] for row in history]
    for axes, (title, columns) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name, label in columns.items():
            if name in history[0]:
                values = [float("nan") if row[name] is None else row[name] for row in history]
                axes.plot(steps, values, marker=".", label=label)
        axes.set(xlabel="step", title=title, ylim=(limits or {}).get(title))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(frameon=False)
    write_atomic(out / PLOT, png_bytes(figure))
    return out / PLOT
