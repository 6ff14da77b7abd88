"""The audit as a picture: requested against audited TPS, or how far image and mask agree where TPS has no meaning."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from segment.audit.judge import Finding
from segment.audit.verdict import Limits, column

_NAMES = {"aji": "AJI", "mean_iou": "mIoU"}


def plot_audit(
    findings: Sequence[Finding], real: Sequence[Finding], flags: Sequence[Sequence[str]], limits: Limits
) -> bytes:
    """Draw the audit beside the same on real tiles.

    Args:
        findings: of the audited tiles. real: of real ones, empty where none were given. flags: of the audited tiles.
        limits: drawn as band and line.

    Returns:
        A PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: list[tuple[str, str, Sequence[Finding], Sequence[Sequence[str]]]] = []
    if real:
        panels.append(("the audit's own error: real tiles", "annotated", real, [[]] * len(real)))
    panels.append(("audited tiles", "requested", findings, flags))
    knows_tps = bool((~np.isnan(column(findings, "audited_tps") - column(findings, "claimed_tps"))).any())
    figure = Figure(figsize=(4.8 * len(panels), 4.8), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axes, (title, what, tiles, flagged) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        if knows_tps:
            _scatter(axes, tiles, flagged, limits)
            axes.set(xlabel=f"{what} TPS", ylabel="audited TPS")
        else:
            _histogram(axes, tiles, limits)
        axes.set_title(f"{title} ({len(tiles)})", fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8, loc="upper left")
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    return buffer.getvalue()


def _scatter(axes: Any, tiles: Sequence[Finding], flags: Sequence[Sequence[str]], limits: Limits) -> None:
    line = np.array([0.0, 1.0])
    axes.fill_between(line, line - limits.bound, line + limits.bound, color="0.9", label=f"bound ±{limits.bound:g}")
    axes.plot(line, line, color="0.4", linewidth=1)
    x, y = column(tiles, "claimed_tps"), column(tiles, "audited_tps")
    flagged = np.array([bool(found) for found in flags], bool)
    axes.scatter(x[~flagged], y[~flagged], s=14, alpha=0.6, color="tab:blue", label="not flagged" if len(x) else None)
    if flagged.any():
        axes.scatter(x[flagged], y[flagged], s=22, marker="x", color="tab:red", label="flagged")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")


def _histogram(axes: Any, tiles: Sequence[Finding], limits: Limits) -> None:
    values = column(tiles, limits.agreement)
    axes.hist(values[~np.isnan(values)], bins=np.linspace(0, 1, 41).tolist(), color="tab:blue", label="tiles")
    if limits.least_agreement is not None:
        axes.axvline(limits.least_agreement, color="tab:red", label=f"limit {limits.least_agreement:.2f}")
    axes.set(xlim=(0, 1), xlabel=_NAMES[limits.agreement], ylabel="tiles")
