"""score.png: projections with their grid, histograms, two-point curves, distance over sample size, price of control."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from factory.core.statistics import Floats
from factory.geometry.nuclear_statistics import NUCLEAR
from factory.score.compare import Comparison, ProjectionFigures
from factory.score.mask_statistics import STATISTICS, MaskStatistics
from factory.score.nuclear_figures import NuclearFigures
from factory.score.two_samples import CurveFigures

REAL, FAKE, SHUFFLED = "#0072B2", "#D55E00", "#999999"
"""Of Okabe and Ito's palette, which colour-blind readers tell apart."""

_COLUMNS = 4


def plot_score(comparison: Comparison) -> bytes:
    """A PNG with a panel per figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = _panels(comparison)
    rows = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(4.4 * _COLUMNS, 3.5 * rows), layout=ConstrainedLayoutEngine(rect=(0, 0, 1, 0.98)))
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for panel, place in zip(panels, axes, strict=False):
        panel(place)
    for place in axes[len(panels) :]:
        place.set_axis_off()
    title = f"{comparison.fakes.name}: {len(comparison.fakes)} fakes, as many real tiles"
    figure.suptitle(f"{title}; synthetic, not for diagnosis")
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    return buffer.getvalue()


def _panels(c: Comparison) -> list[Callable[[Any], None]]:
    panels: list[Callable[[Any], None]] = [partial(_projection, figures=figures) for figures in c.projections]
    panels += [partial(panel, c=c) for panel in (_sizes, _controls, *((_price,) if c.price else ()), _modes)]
    panels += [partial(_curves, curves=curves) for curves in c.curves]
    sides = zip(*(c.measured[name] for name in ("fakes", "reals", "shuffled")), strict=True) if c.measured else ()
    panels += [partial(_histogram, name=name, sides=of_class, c=c) for of_class in sides for name in STATISTICS]
    panels += [partial(_of_nuclei, figures=figures, c=c) for figures in c.nuclei]
    return panels


def _projection(axes: Any, figures: ProjectionFigures) -> None:
    for points, colour, label in ((figures.projection.reals, REAL, "real"), (figures.projection.fakes, FAKE, "fake")):
        axes.scatter(*points.T, s=9, c=colour, alpha=0.6, linewidths=0, label=label)
    columns, rows = figures.grid.edges
    axes.vlines(columns, rows[0], rows[-1], colors="#E6B800", linewidth=1)
    axes.hlines(rows, columns[0], columns[-1], colors="#E6B800", linewidth=1)
    for cell in figures.grid.cells:
        text = f"{cell.reals} : {cell.fakes}"
        text += f"\n{cell.distance:.3g}" if cell.distance is not None else ""
        middle = (columns[cell.column] + columns[cell.column + 1]) / 2, (rows[cell.row] + rows[cell.row + 1]) / 2
        axes.text(*middle, text, ha="center", va="center", fontsize=8, bbox={"fc": "white", "ec": "none", "alpha": 0.7})
    grid = figures.grid
    axes.set_title(
        f"{figures.projection.name}: KS {figures.ks:.2f}, KL {figures.kl:.2f}; {grid.covered}/{grid.with_reals} cells"
    )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(frameon=False, loc="upper right", fontsize=8)


def _sizes(axes: Any, c: Comparison) -> None:
    line = c.extrapolation
    over = 1 / np.array(line.sizes, float)
    axes.plot(over, line.distances, "o", color=FAKE, markersize=4)
    reach = np.array([0, over.max()])
    if np.isfinite(line.limit):
        axes.plot(reach, line.limit + line.slope * reach, color=FAKE, linewidth=1, linestyle="--")
        axes.plot(0, line.limit, "*", color=FAKE, markersize=10)
    low, high = c.distance_interval
    axes.vlines(1 / len(c.fakes), low, high, color="black", linewidth=1.5)
    axes.set(xlabel="1 / tiles", title=f"{c.distance_name}\nover sample size; star: endless tiles")
    axes.grid(alpha=0.3)


def _controls(axes: Any, c: Comparison) -> None:
    rows = c.controls[::-1]
    colours = [REAL if "real" in row.name else FAKE if row.name == "fakes" else SHUFFLED for row in rows]
    spread = [row.distance_std for row in rows]
    axes.barh([row.name for row in rows], [row.distance for row in rows], xerr=spread, color=colours, ecolor="black")
    axes.set(title=f"{c.distance_name}\nat {c.control_size} tiles")
    axes.locator_params(axis="x", nbins=5)
    axes.grid(alpha=0.3, axis="x")


def _price(axes: Any, c: Comparison) -> None:
    middles = [(b.low + b.high) / 2 for b in c.price]
    axes.errorbar(
        middles,
        [b.distance for b in c.price],
        yerr=[b.distance_std for b in c.price],
        xerr=[(b.high - b.low) / 2 for b in c.price],
        marker="o",
        color=FAKE,
        label="fakes",
    )
    if np.isfinite([b.matched for b in c.price]).all():
        spread = [b.matched_std for b in c.price]
        axes.errorbar(
            middles,
            [b.matched for b in c.price],
            yerr=spread,
            marker="s",
            linestyle="--",
            color=REAL,
            label="real tiles of their composition",
        )
    axes.legend(frameon=False, fontsize=8)
    axes.set(xlabel="absolute shift of the allocation", ylim=(0, None))
    axes.set_title(f"price of control: {c.distance_name}\nat {c.price[0].size} tiles")
    axes.grid(alpha=0.3)


def _modes(axes: Any, c: Comparison) -> None:
    places = np.arange(len(c.modes.modes))
    axes.bar(places - 0.2, [mode.real_share for mode in c.modes.modes], 0.4, color=REAL, label="real")
    axes.bar(places + 0.2, [mode.fake_share for mode in c.modes.modes], 0.4, color=FAKE, label="fake")
    axes.set_xticks(places, [f"{mode.number}" for mode in c.modes.modes])
    for mode, tick in zip(c.modes.modes, axes.get_xticklabels(), strict=True):
        tick.set_color("black" if mode.hits else "#B00000")
    axes.set(
        xlabel="mode (red: missing)",
        title=f"modes: {len(c.modes.modes) - len(c.modes.missing)} of {len(c.modes.modes)} hit",
    )
    axes.legend(frameon=False, fontsize=8)


def _curves(axes: Any, curves: CurveFigures) -> None:
    for values, colour, label in ((curves.reals, REAL, "real"), (curves.fakes, FAKE, "fake")):
        axes.plot(curves.lags_um, values, color=colour, label=label)
    axes.axhline(0, color="black", linewidth=0.5)
    axes.set(xlabel="distance, um", title=f"{curves.class_name}: two-point correlation\nmean KS {curves.mean_ks:.2f}")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.3)


def _histogram(axes: Any, name: str, sides: tuple[MaskStatistics, ...], c: Comparison) -> None:
    looks = ((FAKE, "fake", 1.5), (REAL, "real", 1.5), (SHUFFLED, "shuffled", 1.0))
    figures = next(s for s in c.statistics if (s.class_name, s.name) == (sides[0].class_name, name))
    title = f"{sides[0].class_name}: KS {figures.ks:.2f} (floor {figures.floor:.2f})"
    _steps(axes, [side.values[name] for side in sides], looks, STATISTICS[name], title)


def _of_nuclei(axes: Any, figures: NuclearFigures, c: Comparison) -> None:
    sides = [c.nuclei_measured[side].values[figures.name] for side in ("fakes", "reals")]
    title = f"each {figures.per}: KS {figures.ks:.2f} (floor {figures.floor:.2f})"
    _steps(axes, sides, ((FAKE, "fake", 1.5), (REAL, "real", 1.5)), NUCLEAR[figures.name], title)


def _steps(
    axes: Any, columns: Sequence[Floats], looks: Sequence[tuple[str, str, float]], label: str, title: str
) -> None:
    """Histograms as outlines, one for each column: its colour, name and line width."""
    values = [column[np.isfinite(column)] for column in columns]
    joint = np.concatenate(values)
    if not len(joint):
        axes.set_axis_off()
        return
    # Sizes and counts have long tails: equal steps up to where 98 % of all tiles are.
    bins = np.linspace(joint.min(), max(np.quantile(joint, 0.98), joint.min() + 1e-9), 25)
    for side, (colour, name, width) in zip(values, looks, strict=True):
        if len(side):
            weights = np.full(len(side), 1 / len(side))
            axes.hist(
                np.clip(side, bins[0], bins[-1]),
                bins,
                weights=weights,
                histtype="step",
                color=colour,
                lw=width,
                label=name,
            )
    axes.set(xlabel=label, title=title)
    axes.legend(frameon=False, fontsize=8)
