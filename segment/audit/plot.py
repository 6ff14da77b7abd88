"""The audit as a picture: requested against audited TPS, or how far image and mask agree where TPS has no meaning.

Where masks have regions of a nuclear marker, a further panel shows what share of the nuclei in them is stained.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from segment.audit.judge import Finding
from segment.audit.relation import relate
from segment.audit.verdict import Limits, column, is_beyond

_NAMES = {"aji": "AJI", "mean_iou": "mIoU"}


def plot_audit(
    findings: Sequence[Finding],
    real: Sequence[Finding],
    flags: Sequence[Sequence[str]],
    limits: Limits,
    placements: Mapping[str, Mapping[str, Any]],
) -> bytes:
    """Draw the audit beside the same on real tiles.

    Args:
        findings: of the audited tiles; those with flags are marked. flags: of these.
        real: of real ones, empty where none were given; those beyond the bound are marked. limits: drawn as band and
            line. placements: what the tiles are -> its `Placement` as in the summary; empty where there are none.

    Returns:
        A PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = []
    if real:
        names = "within the bound", "beyond the bound"
        panels.append(("the audit's own error: real tiles", "annotated", real, is_beyond(real, limits.bound), names))
    flagged = np.array([bool(found) for found in flags], bool)
    panels.append(("audited tiles", "requested", findings, flagged, ("not flagged", "flagged")))
    knows_tps = bool((~np.isnan(column(findings, "audited_tps") - column(findings, "claimed_tps"))).any())
    figure = Figure(figsize=(4.8 * (len(panels) + bool(placements)), 4.8), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    all_axes = np.atleast_1d(figure.subplots(1, len(panels) + bool(placements)))
    for axes, (title, what, tiles, marked, names) in zip(all_axes, panels, strict=False):
        if knows_tps:
            _scatter(axes, tiles, marked, names, limits)
            axes.set(xlabel=f"{what} TPS", ylabel="audited TPS")
        else:
            _histogram(axes, tiles, limits)
        axes.set_title(f"{title} ({len(tiles)})", fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8, loc="upper left")
    if placements:
        _place(all_axes[-1], placements)
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    return buffer.getvalue()


def _scatter(
    axes: Any, tiles: Sequence[Finding], marked: npt.NDArray[np.bool_], names: tuple[str, str], limits: Limits
) -> None:
    """Claimed against audited TPS; `names` are those of the points that are not `marked`, bool [N], and that are."""
    line = np.array([0.0, 1.0])
    axes.fill_between(line, line - limits.bound, line + limits.bound, color="0.9", label=f"bound ±{limits.bound:g}")
    axes.plot(line, line, color="0.4", linewidth=1)
    x, y = column(tiles, "claimed_tps"), column(tiles, "audited_tps")
    axes.scatter(x[~marked], y[~marked], s=14, alpha=0.6, color="tab:blue", label=names[0] if len(x) else None)
    if marked.any():
        axes.scatter(x[marked], y[marked], s=22, marker="x", color="tab:red", label=names[1])
    _fit(axes, x, y)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")


def _fit(axes: Any, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> None:
    """The least-squares line over the range of the claims, with what the report says of it."""
    relation = relate(x, y, range(len(x)))
    if relation is None or relation.slope.value is None or relation.intercept.value is None:
        return
    known = x[~np.isnan(x) & ~np.isnan(y)]
    ends = np.array([known.min(), known.max()])
    slope, intercept = relation.slope.value, relation.intercept.value
    said = f"{slope:.2f} x {intercept:+.3f}, mean |error| {relation.mae.value:.3f}"
    said += "" if relation.r.value is None else f", r {relation.r.value:.3f}"
    axes.plot(ends, intercept + slope * ends, color="tab:orange", linewidth=1.2, label=said)


def _place(axes: Any, placements: Mapping[str, Mapping[str, Any]]) -> None:
    """Stained share of the nuclei in positive and in negative regions, with intervals."""
    for number, (name, placement) in enumerate(placements.items()):
        shares = [placement["in_positive"], placement["in_negative"]]
        for at, share in enumerate(shares):
            if share["value"] is None:
                continue
            low, high = (share["value"] if share[end] is None else share[end] for end in ("low", "high"))
            axes.errorbar(
                [at + 0.12 * number],
                [share["value"]],
                yerr=[[share["value"] - low], [high - share["value"]]],
                fmt="os^Dv"[number % 5],
                capsize=3,
                color=f"C{number}",
                label=name if at == 0 else None,
            )
    axes.set(xlim=(-0.5, 1.8), ylim=(-0.02, 1.02), ylabel="stained share of the nuclei")
    axes.set_xticks([0, 1], ["positive regions", "negative regions"])
    axes.set_title("is the stain where the mask says?", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="upper right")


def _histogram(axes: Any, tiles: Sequence[Finding], limits: Limits) -> None:
    values = column(tiles, limits.agreement)
    axes.hist(values[~np.isnan(values)], bins=np.linspace(0, 1, 41).tolist(), color="tab:blue", label="tiles")
    if limits.least_agreement is not None:
        axes.axvline(limits.least_agreement, color="tab:red", label=f"limit {limits.least_agreement:.2f}")
    axes.set(xlim=(0, 1), xlabel=_NAMES[limits.agreement], ylabel="tiles")
