"""A comparison in words and tables: score.md, and the lines that the terminal shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from factory.realism.compare import Comparison
from factory.realism.frechet import draws_by_group
from factory.realism.mask_statistics import STATISTICS
from manifests.schema import DISCLAIMER

_MOST_LISTED = 50


def headline(comparison: Comparison) -> list[tuple[str, str, str]]:
    """The main figures: name, value, and what to hold it against."""
    c = comparison
    low, high = c.distance_interval
    line = c.extrapolation
    near, floor, ceiling = c.neighbours, c.floor, c.row("shuffled patches")
    own = c.row("fakes")
    at = f"at {c.control_size} tiles"
    limit = f"fit over {line.sizes[-1]}-{line.sizes[0]} tiles, R2 {number(line.r_squared)}"
    if not line.reliable:
        limit += f"; not to be relied on below {c.dimensions} tiles, the number of features"
    rows = [
        (c.distance_name, number(c.distance), f"95 % {number(low)} to {number(high)}, {len(c.fakes)} tiles of either"),
        (
            f"{c.distance_name}, {at}",
            number(own.distance),
            f"floor {number(floor.distance)}, shuffled {number(ceiling.distance)}",
        ),
        ("... over its floor", number(own.distance / floor.distance if floor.distance else math.nan), "1 is real"),
        (f"{c.distance_name}, endless tiles", number(line.limit), limit),
        (
            "kernel distance",
            number(c.kernel.value),
            f"subsets of {c.kernel.subset_size}: {number(c.kernel.subset_mean)} +- {number(c.kernel.subset_std)}",
        ),
        (
            "precision / recall",
            f"{near.precision:.3f} / {near.recall:.3f}",
            _floor_of(floor, "precision", "recall", at),
        ),
        (
            "density / coverage",
            f"{near.density:.3f} / {near.coverage:.3f}",
            _floor_of(floor, "density", "coverage", at),
        ),
    ]
    for figures in c.projections:
        grid = figures.grid
        cells = f"{grid.covered} of {grid.with_reals} cells with real tiles have fakes"
        rows.append(
            (
                f"KS / KL on {figures.projection.name}",
                f"{figures.ks:.3f} / {number(figures.kl)}",
                f"floor {figures.ks_floor:.3f} / {number(figures.kl_floor)}; {cells}",
            )
        )
    hit = len(c.modes.modes) - len(c.modes.missing)
    rows.append(("modes hit", f"{hit} of {len(c.modes.modes)}", f"distribution off by {c.modes.variation:.0%}"))
    if c.copies is not None:
        rows.append(("copies", f"{c.copies.share:.1%}", _copies_line(c)))
    return rows


def _floor_of(floor: Any, first: str, second: str, at: str) -> str:
    return f"floor {getattr(floor, first):.3f} / {getattr(floor, second):.3f} {at}"


def _copies_line(comparison: Comparison) -> str:
    copies = comparison.copies
    assert copies is not None
    return (
        f"of {copies.fakes} fakes above similarity {copies.limit:.3f} ({copies.real_share:.1%} of held-out real tiles); "
        f"planted copies found: {copies.recall:.1%}"
    )


def markdown(comparison: Comparison, title: str, notes: Sequence[str]) -> str:
    """The whole report.

    Args:
        comparison: the figures. title: the fakes' name. notes: what was done to the data, one line each.
    """
    c = comparison
    draws = "whole groups of reals" if draws_by_group(c.reals.groups) else "reals one by one"
    parts = [
        f"# Score of {title}",
        f"{len(c.fakes)} fakes and as many real tiles of {c.fakes.shape[0]}x{c.fakes.shape[1]} at {c.fakes.mpp:g} um per "
        f"pixel, {'masks of ' + c.fakes.scheme.name if c.fakes.scheme else 'images'}. Synthetic data: {DISCLAIMER}.",
        f"Features: {c.settings.features} ({c.dimensions} per tile, {c.extractor_origin}"
        f"{', sha256 ' + c.extractor_sha256 if c.extractor_sha256 else ''}). Control: {c.halves_note}. "
        f"Bootstrap: {c.settings.bootstrap} draws, {draws}.",
        *(f"- {note}" for note in notes),
        _table(["figure", "value", "beside it"], headline(c)),
        "## Controls, all at one sample size",
        _table(
            ["set", c.distance_name, "spread", "kernel distance", "precision", "recall", "density", "coverage"],
            [
                (row.name, number(row.distance), number(row.distance_std), number(row.kernel))
                + tuple(f"{share:.3f}" for share in (row.precision, row.recall, row.density, row.coverage))
                for row in c.controls
            ],
        ),
        *_statistics(c),
        *_grids(c),
        *_modes(c),
        *_price(c),
        *_copies(c),
    ]
    return "\n\n".join(parts).replace("\n\n- ", "\n- ").replace(".\n- ", ".\n\n- ") + "\n"


def _statistics(c: Comparison) -> list[str]:
    if not c.statistics:
        return []
    rows = [
        (
            s.class_name,
            STATISTICS[s.name],
            number(s.fake_median),
            number(s.real_median),
            *(number(value) for value in (s.ks, s.floor, s.ceiling)),
            f"{s.fake_count} / {s.real_count}",
        )
        for s in c.statistics
    ]
    columns = ["class", "statistic", "median, fakes", "median, reals", "KS", "floor", "shuffled", "tiles with it"]
    curves = [
        (v.class_name, number(v.distance), number(v.mean_ks), number(v.max_ks), number(v.floor), number(v.ceiling))
        for v in c.curves
    ]
    return [
        "## Mask statistics",
        _table(columns, rows),
        "Two-point correlation: distance of the mean curves (root mean square), KS at each lag.",
        _table(["class", "distance", "mean KS", "largest KS", "mean KS, floor", "mean KS, shuffled"], curves),
    ]


def _grids(c: Comparison) -> list[str]:
    parts = ["## Local distances on the grid"]
    for figures in c.projections:
        grid = figures.grid
        rows = [
            (f"{cell.row + 1}, {cell.column + 1}", str(cell.reals), str(cell.fakes), number(cell.distance))
            for cell in grid.cells
        ]
        parts.append(
            f"On {figures.projection.name}: {grid.with_reals} cells have real tiles, {grid.covered} of them fakes; "
            f"{grid.outside} fakes lie outside the range of the real tiles. Mean local distance "
            f"{number(grid.mean_distance)}, over cells with {grid.min_cell} tiles of either kind."
        )
        parts.append(_table(["row, column", "reals", "fakes", c.distance_name], rows))
    return parts


def _modes(c: Comparison) -> list[str]:
    rows = [
        (str(mode.number), mode.sample, f"{mode.real_share:.1%}", f"{mode.fake_share:.1%}", str(mode.hits) or "0")
        for mode in c.modes.modes
    ]
    missing = ", ".join(f"mode {mode.number} ({mode.real_share:.0%}, like {mode.sample})" for mode in c.modes.missing)
    return [
        "## Modes of the real tiles",
        f"Missing: {missing or 'none'}. {c.modes.outside:.0%} of the fakes are farther from every centre than 95 % of its "
        "real tiles. See modes.png.",
        _table(["mode", "most typical tile", "reals", "fakes", "fakes within it"], rows),
    ]


def _price(c: Comparison) -> list[str]:
    if not c.price:
        return []
    rows = [
        (f"{number(b.low)} - {number(b.high)}", str(b.fakes), str(b.size), number(b.distance), number(b.distance_std))
        for b in c.price
    ]
    return [
        "## Price of control",
        "Distance over the absolute shift that the exact composition asked of the generator; equal numbers per bin.",
        _table(["shift", "fakes", "tiles per draw", c.distance_name, "spread"], rows),
    ]


def _copies(c: Comparison) -> list[str]:
    if c.copies is None:
        return ["## Copies", "Not searched: name the generator's training tiles with --train."]
    kinds = ", ".join(f"{kind} {recall:.1%}" for kind, recall in c.copies.recall_by_kind.items())
    rows = [
        (
            pair.fake,
            pair.training,
            f"{pair.similarity:.3f}",
            pair.symmetry,
            f"{pair.shift[0]:+.2f}, {pair.shift[1]:+.2f}",
        )
        for pair in c.copies.flagged[:_MOST_LISTED]
    ]
    more = len(c.copies.flagged) - len(rows)
    ratio = number(c.copies.feature_ratio)
    return [
        "## Copies",
        f"{len(c.copies.flagged)} of {c.copies.fakes} fakes ({c.copies.share:.1%}) are nearer to a training tile than "
        f"{c.copies.quantile:.0%} of held-out real tiles (similarity above {c.copies.limit:.3f}); {c.copies.blank_fakes} "
        f"have no edges to compare. Median similarity: fakes {c.copies.fake_median:.3f}, real tiles "
        f"{c.copies.real_median:.3f}. Nearest in feature space: {ratio} times a real tile's distance.",
        f"Planted copies found ({c.copies.planted} of each kind): {kinds}.",
        *([_table(["fake", "training tile", "similarity", "fake is", "shift"], rows)] if rows else []),
        *([f"{more} more in score.json."] if more > 0 else []),
    ]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def number(value: float | None) -> str:
    """Four significant digits, a dash for what has no value."""
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"
