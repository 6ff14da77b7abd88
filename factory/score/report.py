"""A comparison as a Markdown report (score.md), as plain values (score.json), and as lines for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields, is_dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel

from factory.core.document import Block, Bullets, Grid, Heading, to_markdown
from factory.core.encoding import finite
from factory.core.statistics import enough_groups
from factory.geometry.nuclear_statistics import NUCLEAR
from factory.score.compare import Comparison
from factory.score.controls import FAKES, HALVES_BY_GROUP, MATCHED, PRICE_NOTE, RANDOM_HALVES, SHUFFLED, TRAINING
from factory.score.copies import FEW_REALS, CopyFigures
from factory.score.distances import SHARES
from factory.score.mask_statistics import STATISTICS
from factory.score.paired import LOWER_IS_BETTER, PairedFigures
from factory.score.periodicity import PERIODS
from factory.score.real_pixels import RealPixelFigures, real_pixel_blocks
from factory.score.stripes import PERIODS_PX
from factory.score.tiles import TileSet
from factory.score.two_samples import TwoSampleFigures
from manifests.schema import DISCLAIMER

Rows = list[tuple[str, str, str]]
Cell = str | float | None  # whole numbers are written as they are

HEADINGS = ("figure", "value", "beside it")
"""Columns of `headline` and `pairs_headline`."""

_MOST_LISTED = 50
_FLOORS = ("real halves", "by group", "shuffled")
_NOT_IN_JSON = ("measured", "nuclei_measured", "training")  # statistics of every tile and nucleus, and pixels


def headline(c: Comparison) -> Rows:
    """Returns the main figures: name, value, and reference values."""
    low, high = c.distance_interval
    near, kernel = c.neighbours, c.kernel
    subsets = f"subsets of {kernel.subset_size}: {number(kernel.subset_mean)} +- {number(kernel.subset_std)}"
    rows = [
        (c.distance_name, number(c.distance), f"95 % {number(low)} to {number(high)}, {len(c.fakes)} tiles of either"),
        *_beside_floor(c),
        ("... infinite tiles", number(c.extrapolation.limit), _fit(c)),
        ("kernel distance", number(kernel.value), subsets),
        ("precision / recall", f"{near.precision:.3f} / {near.recall:.3f}", _floor_of(c, "precision", "recall")),
        ("density / coverage", f"{near.density:.3f} / {near.coverage:.3f}", _floor_of(c, "density", "coverage")),
    ]
    for figures in c.projections:
        floor = f"floor {figures.ks_floor:.3f} / {number(figures.kl_floor)}"
        cells = f"{figures.grid.covered} of {figures.grid.with_reals} cells with real tiles have fakes"
        value = f"{figures.ks:.3f} / {number(figures.kl)}"
        rows.append((f"KS / KL on {figures.projection.name}", value, f"{floor}; {cells}"))
    rows.append(("modes hit", c.modes.hit, f"distribution off by {c.modes.variation:.0%}"))
    if c.nuclei:
        worst = max(c.nuclei, key=lambda one: one.ks)
        mean, least = (sum(values) / len(c.nuclei) for values in zip(*((f.ks, f.floor) for f in c.nuclei), strict=True))
        beside = f"floor {number(least)}; largest {worst.ks:.3f}, {NUCLEAR[worst.name]}"
        rows.append(("KS of nuclei", number(mean), beside))
    if c.copies is not None:
        rows.append(("copies", f"{c.copies.share:.1%}", _copies_line(c.copies)))
    return rows


def _beside_floor(c: Comparison) -> Rows:
    """Returns the distance at the sample size of the controls, and its ratio to the floor."""
    own, floor = c.row(FAKES), c.row(RANDOM_HALVES)
    assert own is not None
    assert floor is not None
    names = (RANDOM_HALVES, HALVES_BY_GROUP, TRAINING, SHUFFLED)
    beside = [f"{name} {number(row.distance)}" for name in names if (row := c.row(name))]
    times = own.distance / floor.distance if floor.distance else math.nan
    return [
        (f"... at {c.control_size} tiles", number(own.distance), ", ".join(beside)),
        ("... over real halves", number(times), "1 where fakes are as good as real tiles"),
    ]


def _fit(c: Comparison) -> str:
    line = c.extrapolation
    text = f"fit over {line.sizes[-1]} to {line.sizes[0]} tiles, R2 {number(line.r_squared)}"
    return text if line.reliable else f"{text}; rough: some sizes are below the {c.dimensions} features"


def _floor_of(c: Comparison, first: str, second: str) -> str:
    floor = c.row(RANDOM_HALVES)
    return f"real halves {getattr(floor, first):.3f} / {getattr(floor, second):.3f} at {c.control_size} tiles"


def _copies_line(copies: CopyFigures) -> str:
    return (
        f"of {copies.fakes} fakes above similarity {copies.limit:.3f}, {copies.real_share:.1%} of {copies.reals} "
        f"held-out real tiles{_few(copies)}; planted copies found: {copies.recall:.1%}"
    )


def _few(copies: CopyFigures) -> str:
    return f"; rough, set by fewer than {FEW_REALS} real tiles" if copies.reals < FEW_REALS else ""


def markdown(
    c: Comparison,
    title: str,
    notes: Sequence[str],
    paired: PairedFigures | None = None,
    real_pixels: RealPixelFigures | None = None,
) -> str:
    """Returns the whole report.

    Args:
        c: the figures. title: name of the fakes. notes: what was done to the data, one line each.
        paired: fakes against the images of their masks, if measured. real_pixels: in the fakes, if there are.
    """
    draws = "whole groups of reals" if enough_groups(c.reals.groups) else "reals one by one"
    what = f"masks of {c.fakes.scheme.name}" if c.fakes.scheme else "images"
    controls: list[tuple[Cell, ...]] = [
        (row.name, row.distance, row.distance_std, row.kernel, *(f"{getattr(row, share):.3f}" for share in SHARES))
        for row in c.controls
    ]
    blocks = [
        f"{len(c.fakes)} fakes and as many real tiles of {c.fakes.shape[0]}x{c.fakes.shape[1]} at {c.fakes.mpp:g} "
        f"um per pixel, {what}. Synthetic data: {DISCLAIMER}.",
        f"Features: {c.settings.features} ({c.dimensions} per tile, {c.extractor_origin}"
        f"{', sha256 ' + c.extractor_sha256 if c.extractor_sha256 else ''}). Control, {c.halves_note}. "
        f"Bootstrap: {c.settings.bootstrap} draws, {draws}.",
        *([Bullets(notes)] if notes else []),
        _table(HEADINGS, headline(c)),
        *(_pairs(paired) if paired else ()),
        Heading("Controls, all at one sample size"),
        _table(["set", c.distance_name, "spread", "kernel distance", *SHARES], controls),
        *_statistics(c),
        *_nuclei(c),
        *_grids(c),
        *_modes(c),
        *_periodicity(c),
        *_price(c),
        *(real_pixel_blocks(real_pixels) if real_pixels else ()),
        *(_copies(c.copies) if c.copies or not real_pixels else ()),
    ]
    return to_markdown(f"Score of {title}", blocks)


def pairs_headline(paired: PairedFigures) -> Rows:
    """Returns the mean of every measure of the pairs, and reference values."""
    count, draws = len(paired.pairs), f"{paired.groups} groups" if paired.by_group else "tiles"
    return [
        (
            f"{one.name.upper()} of pairs",
            f"{one.mean:.4f}",
            f"95 % {one.interval[0]:.4f} to {one.interval[1]:.4f}, {count} pairs, draws of {draws}; "
            f"{0 if one.name in LOWER_IS_BETTER else 1} for the same image",
        )
        for one in paired.measures
    ]


def _pairs(paired: PairedFigures) -> list[Block]:
    rows = [
        (one.name.upper(), which, f"{getattr(pair.quality, one.name):.4f}", pair.fake, pair.real, pair.group)
        for one in paired.measures
        for which, pair in ((which, paired.pairs[place]) for which, place in one.extremes.items())
    ]
    return [
        Heading("Pairs: each fake against the real image of its mask"),
        "On luminance. All pairs have the same weight in the means; the interval shows how these vary over real "
        "tiles, not over other draws of the generator. A mask does not determine stain, focus and everything that "
        "it does not label, so no fake made from the mask alone comes close to the real image. Every pair: "
        "pairs.parquet; these: pairs.png.",
        _table(["figure", "mean", "beside it"], pairs_headline(paired)),
        _table(["measure", "pair", "value", "fake", "real", "group"], rows),
    ]


def _periodicity(c: Comparison) -> list[Block]:
    if c.periodicity is None or c.stripes is None:
        return []
    rows = [(name, *values) for name, values in vars(c.periodicity).items()]
    return [
        Heading("Periodic patterns"),
        "Power of the spectrum at the frequencies of each period, divided by the power around them: 1 without "
        "patterns, more for the checkerboards that upsampling layers leave.",
        _table(["", *(f"{period} px" for period in PERIODS)], rows),
        f"Stripes of {PERIODS_PX[0]:g} to {PERIODS_PX[1]:g} px: power of the strongest over that of their mirror "
        "image, which is as frequent in tissue: 1 without, more by chance the fewer the tiles. That of the reals is "
        "what chance and their own lines make.",
        _table(["", "excess", "period, px", "direction, degrees"], [(n, *astuple(s)) for n, s in c.stripes.items()]),
    ]


def _statistics(c: Comparison) -> list[Block]:
    if not c.statistics:
        return []
    rows = [_two_samples(one.class_name, STATISTICS[one.name], one, one.ceiling) for one in c.statistics]
    columns = ["class", "statistic", "median, fakes", "median, reals", "KS", *_FLOORS, "tiles with it"]
    curves = [(v.class_name, v.distance, v.max_ks, v.mean_ks, v.floor, v.floor_by_group, v.ceiling) for v in c.curves]
    return [
        Heading("Mask statistics"),
        _table(columns, rows),
        "Two-point correlation: distance of the mean curves (root mean square), KS at each lag.",
        _table(["class", "distance", "largest KS", "mean KS", *_FLOORS], curves),
    ]


def _nuclei(c: Comparison) -> list[Block]:
    if not c.nuclei:
        return []
    rows = [_two_samples(one.per, NUCLEAR[one.name], one) for one in c.nuclei]
    columns = ["of each", "statistic", "median, fakes", "median, reals", "KS", *_FLOORS[:2], "values, fakes / reals"]
    return [
        Heading("Nuclei"),
        "Size and form are measured on nuclei that no border of a tile cuts. Two nuclei touch where a pixel of one "
        "is among the eight neighbours of a pixel of the other. Distances are between centres within a tile; "
        "divided by those of as many random points, they are below 1 for clusters and above 1 for regular spacing.",
        _table(columns, rows),
    ]


def _two_samples(of: str, statistic: str, one: TwoSampleFigures, *ceiling: float) -> tuple[Cell, ...]:
    values = (one.fake_median, one.real_median, one.ks, one.floor, one.floor_by_group, *ceiling)
    return (of, statistic, *values, f"{one.fake_count} / {one.real_count}")


def _grids(c: Comparison) -> list[Block]:
    blocks: list[Block] = [Heading("Local distances on the grid")]
    for figures in c.projections:
        grid = figures.grid
        rows = [(f"{cell.row + 1}, {cell.column + 1}", cell.reals, cell.fakes, cell.distance) for cell in grid.cells]
        blocks += [
            f"On {figures.projection.name}: {grid.with_reals} cells have real tiles, {grid.covered} of them fakes; "
            f"{grid.outside} fakes lie outside the range of the real tiles. Mean local distance "
            f"{number(grid.mean_distance)}, over cells with {grid.min_cell} tiles of either kind.",
            _table(["row, column", "reals", "fakes", c.distance_name], rows),
        ]
    return blocks


def _modes(c: Comparison) -> list[Block]:
    rows = [
        (mode.number, mode.sample, f"{mode.real_share:.1%}", f"{mode.fake_share:.1%}", mode.hits)
        for mode in c.modes.modes
    ]
    missing = ", ".join(f"mode {mode.number} ({mode.real_share:.0%}, like {mode.sample})" for mode in c.modes.missing)
    return [
        Heading("Modes of the real tiles"),
        f"Missing: {missing or 'none'}. {c.modes.outside:.0%} of the fakes are farther from their nearest centre "
        "than 95 % of its real tiles. See modes.png.",
        _table(["mode", "most typical tile", "reals", "fakes", "fakes within it"], rows),
    ]


def _price(c: Comparison) -> list[Block]:
    if not c.price:
        return []
    rows = [(f"{number(b.low)} - {number(b.high)}", *astuple(b)[2:]) for b in c.price]
    columns = ["shift", "fakes", "tiles per draw", f"{c.distance_name}, fakes", "spread", MATCHED, "spread"]
    return [
        Heading("Price of control"),
        "Distance over the absolute shift that the exact composition required of the generator; equal numbers per "
        f"bin. {PRICE_NOTE}",
        _table([*columns, "gap of fractions", "different real tiles"], rows),
    ]


def _copies(copies: CopyFigures | None) -> list[Block]:
    if copies is None:
        return [Heading("Copies"), "Not searched: name the generator's training tiles with --train."]
    kinds = ", ".join(f"{kind} {recall:.1%}" for kind, recall in copies.recall_by_kind.items())
    rows = [
        (pair.fake, pair.training, f"{pair.similarity:.3f}", pair.symmetry, f"{pair.position[0]}, {pair.position[1]}")
        for pair in copies.flagged[:_MOST_LISTED]
    ]
    more = len(copies.flagged) - len(rows)
    return [
        Heading("Copies"),
        f"{len(copies.flagged)} of {copies.fakes} fakes ({copies.share:.1%}) are more like a place in the "
        f"{copies.training_tiles} whole training tiles than {copies.quantile:.0%} of {copies.reals} held-out "
        f"real tiles (similarity above {copies.limit:.3f}{_few(copies)}); "
        f"{copies.blank_fakes} have no edges to compare. Median similarity: fakes {copies.fake_median:.3f}, real "
        f"tiles {copies.real_median:.3f}. Nearest in feature space: {number(copies.feature_ratio)} times a real "
        "tile's distance.",
        f"Planted copies found ({copies.planted} of each kind, random crops in random symmetries): {kinds}.",
        *([_table(["fake", "training tile", "similarity", "fake is", "at row, column"], rows)] if rows else []),
        *([f"{more} more in score.json."] if more > 0 else []),
    ]


def _table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Grid:
    def cell(value: Cell) -> str:
        return number(value) if value is None or isinstance(value, float) else str(value)

    return Grid(columns, [[cell(value) for value in row] for row in rows], aligned=False)


def number(value: float | None) -> str:
    """Formats four significant digits; a dash for None and NaN."""
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"


def to_document(comparison: Comparison) -> dict[str, Any]:
    """Returns every figure as plain values for JSON, with points and pairs but no pixels; NaN becomes None."""
    document: dict[str, Any] = {
        name: _plain(value) for name, value in vars(comparison).items() if name not in _NOT_IN_JSON
    }
    if comparison.copies is not None:
        document["copies"]["flagged"] = _plain(comparison.copies.flagged)
    for figures, own in zip(comparison.projections, document["projections"], strict=True):
        own["grid"] |= {"with_reals": figures.grid.with_reals, "covered": figures.grid.covered}
    document["modes"] |= {
        "missing": [mode.number for mode in comparison.modes.missing],
        "hit_share": comparison.modes.hit_share,
    }
    return {name: finite(value) for name, value in document.items()}


def paired_document(figures: PairedFigures) -> dict[str, Any]:
    """Returns the measures over all pairs as plain values; those of each pair are in pairs.parquet."""
    return {
        "pairs": len(figures.pairs),
        "groups": figures.groups,
        "interval_draws": "groups" if figures.by_group else "tiles",
        **{
            one.name: {
                "mean": one.mean,
                "interval": list(one.interval),
                **{which: _plain(figures.pairs[place]) for which, place in one.extremes.items()},
            }
            for one in figures.measures
        },
    }


def _plain(value: Any) -> Any:
    if isinstance(value, TileSet):
        return {"name": value.name, "tiles": len(value), "size": list(value.shape), "mpp": value.mpp, "ids": value.ids}
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
