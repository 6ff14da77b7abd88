"""Plot of an audit: requested against audited TPS, or a histogram of agreement for schemes without TPS.

For masks with regions of a nuclear marker, another panel shows the stained share of the nuclei in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from factory.core.encoding import png_bytes
from segment.audit.auditor import Finding
from segment.audit.flags import Limits, column, is_beyond
from segment.audit.relation import relate
from segment.metrics.names import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_audit(
    findings: Sequence[Finding],
    real: Sequence[Finding],
    flags: Sequence[Sequence[str]],
    limits: Limits,
    placements: Mapping[str, Mapping[str, Any]],
) -> bytes:
    """PNG of the findings on audited tiles, flagged ones marked, beside those on real tiles, if any.

    `placements`: name of the tiles -> their `Placement` as in the summary; may be empty.
    """
    from matplotlib.figure import Figure

    panels = []
    if real:
        names = "within the bound", "beyond the bound"
        panels.append(("the audit's own error: real tiles", "annotated", real, is_beyond(real, limits.bound), names))
    flagged = np.array([bool(found) for found in flags], bool)
    panels.append(("audited tiles", "requested", findings, flagged, ("not flagged", "flagged")))
    has_tps = bool((~np.isnan(column(findings, "audited_tps") - column(findings, "claimed_tps"))).any())
    figure = Figure(figsize=(4.8 * (len(panels) + bool(placements)), 4.8), layout="constrained")
    all_axes = np.atleast_1d(figure.subplots(1, len(panels) + bool(placements)))
    for axes, (title, claim, tiles, marked, names) in zip(all_axes, panels, strict=False):
        if has_tps:
            _scatter(axes, tiles, marked, names, limits)
            axes.set(xlabel=f"{claim} TPS", ylabel="audited TPS")
        else:
            _histogram(axes, tiles, limits)
        axes.set_title(f"{title} ({len(tiles)})", fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8, loc="upper left")
    if placements:
        _draw_placements(all_axes[-1], placements)
    return png_bytes(figure)


def _scatter(
    axes: Axes, tiles: Sequence[Finding], marked: npt.NDArray[np.bool_], names: tuple[str, str], limits: Limits
) -> None:
    """Claimed against audited TPS; `names` label the points that are not `marked`, bool [N], and those that are."""
    line = np.array([0.0, 1.0])
    axes.fill_between(line, line - limits.bound, line + limits.bound, color="0.9", label=f"bound ±{limits.bound:g}")
    axes.plot(line, line, color="0.4", linewidth=1)
    x, y = column(tiles, "claimed_tps"), column(tiles, "audited_tps")
    axes.scatter(x[~marked], y[~marked], s=14, alpha=0.6, color="tab:blue", label=names[0] if len(x) else None)
    if marked.any():
        axes.scatter(x[marked], y[marked], s=22, marker="x", color="tab:red", label=names[1])
    _draw_line(axes, x, y)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")


def _draw_line(axes: Axes, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> None:
    """Least-squares line over the range of the claims, with its figures in the legend."""
    relation = relate(x, y, range(len(x)))
    if relation is None or relation.slope.value is None or relation.intercept.value is None:
        return
    known = x[~np.isnan(x) & ~np.isnan(y)]
    ends = np.array([known.min(), known.max()])
    slope, intercept = relation.slope.value, relation.intercept.value
    text = f"{slope:.2f} x {intercept:+.3f}, mean |error| {relation.mae.value:.3f}"
    text += "" if relation.r.value is None else f", r {relation.r.value:.3f}"
    axes.plot(ends, intercept + slope * ends, color="tab:orange", linewidth=1.2, label=text)


def _draw_placements(axes: Axes, placements: Mapping[str, Mapping[str, Any]]) -> None:
    """Stained share of the nuclei in positive and negative regions, with intervals."""
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


def _histogram(axes: Axes, tiles: Sequence[Finding], limits: Limits) -> None:
    values = column(tiles, limits.agreement)
    axes.hist(values[~np.isnan(values)], bins=np.linspace(0, 1, 41).tolist(), color="tab:blue", label="tiles")
    if limits.least_agreement is not None:
        axes.axvline(limits.least_agreement, color="tab:red", label=f"limit {limits.least_agreement:.2f}")
    axes.set(xlim=(0, 1), xlabel=label(limits.agreement), ylabel="tiles")
