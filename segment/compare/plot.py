"""Learning curves: score over the share of real patients, one line per arm."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from factory.core.encoding import png_bytes
from segment.compare.config import ARMS, CompareConfig, double_patients
from segment.compare.summary import Level, Summary
from segment.metrics.names import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {
    "R": "#0072B2",
    "R*": "#56B4E9",
    "S": "#D55E00",
    "S*": "#009E73",
    "P*": "#CC79A7",
    "S>R": "#E69F00",
    "W*": "#000000",
    "W>R": "#F0E442",
}
"""Okabe and Ito's palette, whose colours colour-blind readers can distinguish."""

_IN_A_ROW = 3


def plot_curves(summary: Summary, config: CompareConfig, patients: dict[float, int]) -> bytes:
    """A PNG with a panel per metric, three in a row."""
    from matplotlib.figure import Figure

    metrics = list(dict.fromkeys(level.metric for level in summary.levels))
    columns = max(min(len(metrics), _IN_A_ROW), 1)
    rows = max(math.ceil(len(metrics) / columns), 1)
    figure = Figure(figsize=(1.2 + 3.8 * columns, 0.7 + 3.7 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(metrics) :]:
        axes.set_axis_off()
    for metric, axes in zip(metrics, panels, strict=False):
        for arm in config.arms:
            levels = [level for level in summary.levels if (level.arm, level.metric) == (arm, metric)]
            _draw(axes, arm, levels, config)
        _draw_more_patients(axes, [level for level in summary.levels if level.metric == metric], config, patients)
        axes.set(title=METRICS[metric].short_label, xlabel="real patients", xscale="log")
        axes.set_xticks(config.fractions, [f"{share:.0%}\n({patients[share]})" for share in config.fractions])
        axes.set_xticks([], minor=True)
        axes.set_xlim(config.fractions[0] / 1.35, config.fractions[-1] * 1.35)
        axes.grid(alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return png_bytes(figure)


def _draw(axes: Axes, arm: str, levels: list[Level], config: CompareConfig) -> None:
    """One arm: a line with its interval as a band; for synthetic tiles alone, which have no fraction, a level line."""
    left, right = config.fractions[0] / 1.35, config.fractions[-1] * 1.35
    colour, label = _COLOURS[arm], f"{arm}: {ARMS[arm]}"
    estimates = [level.estimate for level in levels]
    means, lows, highs = ([getattr(e, side) for e in estimates] for side in ("mean", "low", "high"))
    if arm == "S":
        axes.plot([left, right], means * 2, color=colour, linestyle="--", label=label)
        axes.fill_between([left, right], lows * 2, highs * 2, color=colour, alpha=0.12, linewidth=0)
        return
    # Shifted a little, so that the lines of two arms do not hide each other.
    shares = [(level.fraction or 0.0) * 1.03 ** (config.arms.index(arm) - 1) for level in levels]
    axes.plot(shares, means, color=colour, marker="o", markersize=4, label=label)
    axes.fill_between(shares, lows, highs, color=colour, alpha=0.15, linewidth=0)
    axes.vlines(shares, lows, highs, color=colour, linewidth=1)


def _draw_more_patients(axes: Axes, levels: list[Level], config: CompareConfig, patients: dict[float, int]) -> None:
    """Score that S* would need to be worth as many additional real patients: R* with twice the patients."""
    means = {level.fraction: level.estimate.mean for level in levels if level.arm == "R*"}
    pairs = double_patients({fraction: patients[fraction] for fraction in config.fractions})
    if not means or not pairs or "S*" not in config.arms:
        return
    axes.plot(
        list(pairs),
        [means[larger] for larger in pairs.values()],
        linestyle="none",
        marker="D",
        markersize=6,
        markerfacecolor="none",
        color=_COLOURS["R*"],
        label="R* with twice the real patients of this place",
    )
