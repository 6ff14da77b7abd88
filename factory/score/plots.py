"""Pictures of a score: score.png (plots), nearest.png (copies), modes.png and pairs.png (tiles side by side)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.core.encoding import png_bytes
from factory.core.statistics import Floats
from factory.geometry.nuclear_statistics import NUCLEAR
from factory.score.compare import Comparison
from factory.score.controls import FAKES, MATCHED
from factory.score.copies import Pair
from factory.score.mask_statistics import STATISTICS, MaskStatistics
from factory.score.paired import PairedFigures
from factory.score.projections import ProjectionFigures
from factory.score.similarity import inverse, overlap, turned
from factory.score.tiles import to_pictures
from factory.score.two_samples import CurveFigures, NuclearFigures

REAL, FAKE, SHUFFLED = "#0072B2", "#D55E00", "#999999"
"""Colours of Okabe and Ito's palette, which colour-blind readers can tell apart."""

_COLUMNS = 4  # of plots
_MOST_PAIRS = 12
_PICTURE_PX = 256
_PER_ROW = 3  # pairs
_MODES_PER_ROW = 4

Picture = npt.NDArray[np.uint8]


def plot_score(comparison: Comparison) -> bytes:
    """Draws score.png, with a panel for each figure."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = _panels(comparison)
    rows = -(-len(panels) // _COLUMNS)
    layout = ConstrainedLayoutEngine(rect=(0, 0, 1, 0.98))
    title = f"{comparison.fakes.name}: {len(comparison.fakes)} fakes, as many real tiles"
    return _png(panels, rows, _COLUMNS, title, figsize=(4.4 * _COLUMNS, 3.5 * rows), layout=layout)


def _png(
    panels: Sequence[Callable[[Any], None]], rows: int, columns: int, title: str, title_size: int = 12, **options: Any
) -> bytes:
    """Draws panels row by row into one figure, and returns it as PNG; options are those of a matplotlib figure."""
    from matplotlib.figure import Figure

    figure = Figure(**options)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, place in zip(panels, axes, strict=False):
        panel(place)
    for place in axes[len(panels) :]:
        place.set_axis_off()
    figure.suptitle(f"{title}; synthetic, not for diagnosis", fontsize=title_size)
    return png_bytes(figure)


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
    axes.set(xlabel="1 / tiles", title=f"{c.distance_name}\nover sample size; star: infinite tiles")
    axes.grid(alpha=0.3)


def _controls(axes: Any, c: Comparison) -> None:
    rows = c.controls[::-1]
    colours = [REAL if "real" in row.name else FAKE if row.name == FAKES else SHUFFLED for row in rows]
    spread = [row.distance_std for row in rows]
    axes.barh([row.name for row in rows], [row.distance for row in rows], xerr=spread, color=colours, ecolor="black")
    axes.set(title=f"{c.distance_name}\nat {c.control_size} tiles")
    axes.locator_params(axis="x", nbins=5)
    axes.grid(alpha=0.3, axis="x")


def _price(axes: Any, c: Comparison) -> None:
    middles = [(b.low + b.high) / 2 for b in c.price]
    widths = [(b.high - b.low) / 2 for b in c.price]
    means, spread = [b.distance for b in c.price], [b.distance_std for b in c.price]
    axes.errorbar(middles, means, yerr=spread, xerr=widths, marker="o", color=FAKE, label=FAKES)
    matched, spread = [b.matched for b in c.price], [b.matched_std for b in c.price]
    if np.isfinite(matched).all():
        axes.errorbar(middles, matched, yerr=spread, marker="s", linestyle="--", color=REAL, label=MATCHED)
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
    axes.set(xlabel="mode (red: missing)", title=f"modes: {c.modes.hit} hit")
    axes.legend(frameon=False, fontsize=8)


def _curves(axes: Any, curves: CurveFigures) -> None:
    for values, colour, label in ((curves.reals, REAL, "real"), (curves.fakes, FAKE, "fake")):
        axes.plot(curves.lags_um, values, color=colour, label=label)
    axes.axhline(0, color="black", linewidth=0.5)
    axes.set(xlabel="distance, um", title=f"{curves.class_name}: two-point correlation\nmean KS {curves.mean_ks:.2f}")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.3)


def _histogram(axes: Any, name: str, sides: tuple[MaskStatistics, ...], c: Comparison) -> None:
    figures = next(s for s in c.statistics if (s.class_name, s.name) == (sides[0].class_name, name))
    title = f"{sides[0].class_name}: KS {figures.ks:.2f} (floor {figures.floor:.2f})"
    _outlines(axes, [side.values[name] for side in sides], STATISTICS[name], title)


def _of_nuclei(axes: Any, figures: NuclearFigures, c: Comparison) -> None:
    sides = [c.nuclei_measured[side].values[figures.name] for side in ("fakes", "reals")]
    title = f"each {figures.per}: KS {figures.ks:.2f} (floor {figures.floor:.2f})"
    _outlines(axes, sides, NUCLEAR[figures.name], title)


def _outlines(axes: Any, columns: Sequence[Floats], label: str, title: str) -> None:
    """Draws the histograms of fakes, reals and, where given, shuffled patches as outlines."""
    styles = ((FAKE, "fake", 1.5), (REAL, "real", 1.5), (SHUFFLED, "shuffled", 1.0))
    values = [column[np.isfinite(column)] for column in columns]
    joint = np.concatenate(values)
    if not len(joint):
        axes.set_axis_off()
        return
    # Sizes and counts have long tails: equal steps up to the 98 % quantile of all tiles.
    bins = np.linspace(joint.min(), max(np.quantile(joint, 0.98), joint.min() + 1e-9), 25)
    for side, (colour, name, width) in zip(values, styles, strict=False):
        if len(side):
            weights = np.full(len(side), 1 / len(side))
            clipped = np.clip(side, bins[0], bins[-1])
            axes.hist(clipped, bins, weights=weights, histtype="step", color=colour, lw=width, label=name)
    axes.set(xlabel=label, title=title)
    axes.legend(frameon=False, fontsize=8)


def nearest_sheet(comparison: Comparison) -> bytes | None:
    """Draws up to 12 pairs, the most similar first: fake, and the matching place of a training tile, turned alike."""
    copies, training = comparison.copies, comparison.training
    if copies is None or training is None or not copies.pairs:
        return None
    pairs = copies.pairs[:_MOST_PAIRS]
    matched = comparison.fakes.take([pair.fake_place for pair in pairs])
    windows = np.stack([_window(training.pixels[pair.training_place], pair, matched.shape) for pair in pairs])
    fakes, sources = (to_pictures(side, _PICTURE_PX) for side in (matched, matched.with_pixels(windows)))
    pictures, captions = [], []
    for pair, fake, source in zip(pairs, fakes, sources, strict=True):
        pictures.append(_beside(fake, source))
        verdict = "COPY" if pair.flagged else "below the limit"
        captions.append(f"{pair.similarity:.3f} ({verdict}), {pair.symmetry}\n{pair.fake[:28]} | {pair.training[:28]}")
    title = f"{comparison.fakes.name}: fakes (left) and the likest places of training tiles; limit {copies.limit:.3f}"
    return _sheet(pictures, captions, title, _PER_ROW)


def modes_sheet(comparison: Comparison) -> bytes:
    """Draws the most typical real tile of every mode, with the shares of reals and fakes there."""
    modes = comparison.modes.modes
    pictures = list(to_pictures(comparison.reals.take([mode.medoid for mode in modes]), _PICTURE_PX))
    captions = [
        f"mode {mode.number}{'' if mode.hits else ' MISSING'}: real {mode.real_share:.0%}, fake {mode.fake_share:.0%}"
        f"\n{mode.sample[:40]}"
        for mode in modes
    ]
    return _sheet(pictures, captions, f"{comparison.fakes.name}: modes of the real tiles", _MODES_PER_ROW)


def pairs_sheet(figures: PairedFigures, name: str) -> bytes:
    """Draws the best, median and worst pair of each measure in a row: fake, and the real image of its mask."""
    pictures, captions = [], []
    for one in figures.measures:
        for which, place in one.extremes.items():
            pair = figures.pairs[place]
            pictures.append(_beside(*figures.shown[place]))
            value = getattr(pair.quality, one.name)
            captions.append(f"{one.name.upper()} {value:.3f}, {which}\n{pair.fake[:28]} | {pair.real[:28]}")
    return _sheet(pictures, captions, f"{name}: fakes (left) and the real images of their masks", _PER_ROW)


def _window(training: Picture, pair: Pair, shape: tuple[int, int]) -> Picture:
    """Cuts out the place of a training tile that a fake matches, turned as the fake is; class 0 or black beyond it."""
    canvas = turned(np.zeros((*shape, *training.shape[2:]), np.uint8), pair.symmetry)
    inside, source = overlap(canvas, training, pair.position)
    inside[:] = source
    return turned(canvas, inverse(pair.symmetry))


def _beside(left: Picture, right: Picture) -> Picture:
    gap = np.full((left.shape[0], 6, 3), (230, 159, 0), np.uint8)
    return np.concatenate([left, gap, right], 1)


def _sheet(pictures: list[Picture], captions: list[str], title: str, per_row: int) -> bytes:
    columns = min(per_row, len(pictures))
    rows = -(-len(pictures) // columns)
    height, width = pictures[0].shape[:2]
    cell = 14.0 / per_row
    figsize = max(7.0, cell * columns), 0.5 + rows * (cell * height / width + 0.55)
    panels = [partial(_picture, picture=p, caption=c) for p, c in zip(pictures, captions, strict=True)]
    return _png(panels, rows, columns, title, 10, figsize=figsize, layout="constrained")


def _picture(axes: Any, picture: Picture, caption: str) -> None:
    axes.set_axis_off()
    axes.imshow(picture, interpolation="nearest")
    axes.set_title(caption, fontsize=7, color="#B00000" if "COPY" in caption or "MISSING" in caption else "black")
