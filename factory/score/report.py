"""A comparison in words and tables: score.md, and the lines that the terminal shows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from factory.core.statistics import enough_groups
from factory.geometry.nuclear_statistics import NUCLEAR
from factory.score.compare import FAKES, HALVES_BY_GROUP, RANDOM_HALVES, SHUFFLED, TRAINING, Comparison
from factory.score.copies import FEW_REALS
from factory.score.mask_statistics import STATISTICS
from factory.score.paired import LOWER_IS_BETTER, PairedFigures
from factory.score.periodicity import PERIODS
from manifests.schema import DISCLAIMER

_MOST_LISTED = 50
MATCHED = "real tiles of their composition"
PRICE_NOTE = (
    "Bins of large shift hold mostly extreme requests, so their fakes differ from the real tiles in composition, and "
    "vary less, whatever their quality. So read them beside the real tiles with the nearest class fractions, one for "
    "each fake, from the half of the real tiles that is not compared with: only what lies above these is a price. "
    "Where few different real tiles serve, or the gap of fractions is large, that figure is itself rough."
)
"""What to hold the price of control against."""

_FLOORS = ("real halves", "by group", "shuffled")


def headline(comparison: Comparison) -> list[tuple[str, str, str]]:
    """The main figures: name, value, and what to hold it against."""
    c = comparison
    low, high = c.distance_interval
    near = c.neighbours
    rows = [
        (c.distance_name, number(c.distance), f"95 % {number(low)} to {number(high)}, {len(c.fakes)} tiles of either"),
        *_beside_floor(c),
        ("... endless tiles", number(c.extrapolation.limit), _fit(c)),
        (
            "kernel distance",
            number(c.kernel.value),
            f"subsets of {c.kernel.subset_size}: {number(c.kernel.subset_mean)} +- {number(c.kernel.subset_std)}",
        ),
        ("precision / recall", f"{near.precision:.3f} / {near.recall:.3f}", _floor_of(c, "precision", "recall")),
        ("density / coverage", f"{near.density:.3f} / {near.coverage:.3f}", _floor_of(c, "density", "coverage")),
    ]
    for figures in c.projections:
        grid = figures.grid
        rows.append(
            (
                f"KS / KL on {figures.projection.name}",
                f"{figures.ks:.3f} / {number(figures.kl)}",
                f"floor {figures.ks_floor:.3f} / {number(figures.kl_floor)}; "
                f"{grid.covered} of {grid.with_reals} cells with real tiles have fakes",
            )
        )
    hit = len(c.modes.modes) - len(c.modes.missing)
    rows.append(("modes hit", f"{hit} of {len(c.modes.modes)}", f"distribution off by {c.modes.variation:.0%}"))
    if c.nuclei:
        worst = max(c.nuclei, key=lambda f: f.ks)
        mean, floor = (sum(getattr(f, which) for f in c.nuclei) / len(c.nuclei) for which in ("ks", "floor"))
        rows.append(
            ("KS of nuclei", number(mean), f"floor {number(floor)}; largest {worst.ks:.3f}, {NUCLEAR[worst.name]}")
        )
    if c.copies is not None:
        rows.append(("copies", f"{c.copies.share:.1%}", _copies_line(c)))
    return rows


def _beside_floor(c: Comparison) -> list[tuple[str, str, str]]:
    """The distance at the sample size of the controls, and how many times the floor it is."""
    own, floor = c.row(FAKES), c.row(RANDOM_HALVES)
    assert own is not None
    assert floor is not None
    names = (RANDOM_HALVES, HALVES_BY_GROUP, TRAINING, SHUFFLED)
    beside = [f"{name} {number(row.distance)}" for name in names if (row := c.row(name))]
    times = own.distance / floor.distance if floor.distance else math.nan
    return [
        (f"... at {c.control_size} tiles", number(own.distance), ", ".join(beside)),
        ("... over real halves", number(times), "1 where fakes are as real tiles"),
    ]


def _fit(c: Comparison) -> str:
    line = c.extrapolation
    said = f"fit over {line.sizes[-1]} to {line.sizes[0]} tiles, R2 {number(line.r_squared)}"
    if line.reliable:
        return said
    return f"{said}; rough: some sizes are below the {c.dimensions} features"


def _floor_of(c: Comparison, first: str, second: str) -> str:
    floor = c.row(RANDOM_HALVES)
    return f"real halves {getattr(floor, first):.3f} / {getattr(floor, second):.3f} at {c.control_size} tiles"


def _copies_line(comparison: Comparison) -> str:
    copies = comparison.copies
    assert copies is not None
    return (
        f"of {copies.fakes} fakes above similarity {copies.limit:.3f}, {copies.real_share:.1%} of {copies.reals} "
        f"held-out real tiles{_few(comparison)}; planted copies found: {copies.recall:.1%}"
    )


def markdown(comparison: Comparison, title: str, notes: Sequence[str], paired: PairedFigures | None = None) -> str:
    """The whole report.

    Args:
        comparison: the figures. title: the fakes' name. notes: what was done to the data, one line each.
        paired: fakes against the images of their masks, where they have some.
    """
    c = comparison
    draws = "whole groups of reals" if enough_groups(c.reals.groups) else "reals one by one"
    what = f"masks of {c.fakes.scheme.name}" if c.fakes.scheme else "images"
    parts = [
        f"# Score of {title}",
        f"{len(c.fakes)} fakes and as many real tiles of {c.fakes.shape[0]}x{c.fakes.shape[1]} at {c.fakes.mpp:g} um "
        f"per pixel, {what}. Synthetic data: {DISCLAIMER}.",
        f"Features: {c.settings.features} ({c.dimensions} per tile, {c.extractor_origin}"
        f"{', sha256 ' + c.extractor_sha256 if c.extractor_sha256 else ''}). Control, {c.halves_note}. "
        f"Bootstrap: {c.settings.bootstrap} draws, {draws}.",
        *(f"- {note}" for note in notes),
        _table(["figure", "value", "beside it"], headline(c)),
        *(_pairs(paired) if paired else ()),
        "## Controls, all at one sample size",
        _table(
            ["set", c.distance_name, "spread", "kernel distance", "precision", "recall", "density", "coverage"],
            [
                (
                    row.name,
                    *(number(value) for value in (row.distance, row.distance_std, row.kernel)),
                    *(f"{share:.3f}" for share in (row.precision, row.recall, row.density, row.coverage)),
                )
                for row in c.controls
            ],
        ),
        *_statistics(c),
        *_nuclei(c),
        *_grids(c),
        *_modes(c),
        *_periodicity(c),
        *_price(c),
        *_copies(c),
    ]
    return "\n\n".join(parts).replace("\n\n- ", "\n- ").replace(".\n- ", ".\n\n- ") + "\n"


def pairs_headline(paired: PairedFigures) -> list[tuple[str, str, str]]:
    """Mean of every measure of the pairs, and what to hold it against."""
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


def _pairs(paired: PairedFigures) -> list[str]:
    rows = [
        (one.name.upper(), which, f"{getattr(pair.quality, one.name):.4f}", pair.fake, pair.real, pair.group)
        for one in paired.measures
        for which, pair in ((which, paired.pairs[getattr(one, which)]) for which in ("best", "median", "worst"))
    ]
    return [
        "## Pairs: each fake against the real image of its mask",
        "On luminance. Means weigh every pair alike; the interval says how they vary over the real tiles, not over "
        "other draws of the generator. A mask leaves stain, focus and all that it does not label open, so that no fake "
        "that was not told these comes near the same image. Every pair: pairs.parquet; these: pairs.png.",
        _table(["figure", "mean", "beside it"], pairs_headline(paired)),
        _table(["measure", "pair", "value", "fake", "real", "group"], rows),
    ]


def _periodicity(c: Comparison) -> list[str]:
    if c.periodicity is None:
        return []
    rows = [(name, *(number(value) for value in getattr(c.periodicity, name))) for name in ("fakes", "reals")]
    return [
        "## Periodic patterns",
        "Power of the spectrum at the frequencies of each period over the power around them: 1 for none, more for the "
        "checkerboards that a network's strides leave.",
        _table(["", *(f"{period} px" for period in PERIODS)], rows),
    ]


def _statistics(c: Comparison) -> list[str]:
    if not c.statistics:
        return []
    rows = [
        (
            s.class_name,
            STATISTICS[s.name],
            number(s.fake_median),
            number(s.real_median),
            *(number(value) for value in (s.ks, s.floor, s.floor_by_group, s.ceiling)),
            f"{s.fake_count} / {s.real_count}",
        )
        for s in c.statistics
    ]
    columns = ["class", "statistic", "median, fakes", "median, reals", "KS", *_FLOORS, "tiles with it"]
    curves = [
        (
            v.class_name,
            *(number(value) for value in (v.distance, v.max_ks, v.mean_ks, v.floor, v.floor_by_group, v.ceiling)),
        )
        for v in c.curves
    ]
    return [
        "## Mask statistics",
        _table(columns, rows),
        "Two-point correlation: distance of the mean curves (root mean square), KS at each lag.",
        _table(["class", "distance", "largest KS", "mean KS", *_FLOORS], curves),
    ]


def _nuclei(c: Comparison) -> list[str]:
    if not c.nuclei:
        return []
    rows = [
        (
            f.per,
            NUCLEAR[f.name],
            number(f.fake_median),
            number(f.real_median),
            *(number(value) for value in (f.ks, f.floor, f.floor_by_group)),
            f"{f.fake_count} / {f.real_count}",
        )
        for f in c.nuclei
    ]
    columns = ["of each", "statistic", "median, fakes", "median, reals", "KS", *_FLOORS[:2], "values, fakes / reals"]
    return [
        "## Nuclei",
        "By their ids. Size and form are of nuclei that no border of a tile cuts; two touch where a pixel of one is "
        "among the eight neighbours of a pixel of the other. Distances are between centres within a tile; over those "
        "of as many scattered points they are below 1 for clusters and above 1 for regular spacing.",
        _table(columns, rows),
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
        f"Missing: {missing or 'none'}. {c.modes.outside:.0%} of the fakes are farther from their nearest centre "
        "than 95 % of its real tiles. See modes.png.",
        _table(["mode", "most typical tile", "reals", "fakes", "fakes within it"], rows),
    ]


def _price(c: Comparison) -> list[str]:
    if not c.price:
        return []
    rows = [
        (
            f"{number(b.low)} - {number(b.high)}",
            str(b.fakes),
            str(b.size),
            *(number(value) for value in (b.distance, b.distance_std, b.matched, b.matched_std)),
            number(b.matched_gap),
            number(b.matched_tiles),
        )
        for b in c.price
    ]
    columns = ["shift", "fakes", "tiles per draw", f"{c.distance_name}, fakes", "spread", MATCHED, "spread"]
    return [
        "## Price of control",
        "Distance over the absolute shift that the exact composition asked of the generator; equal numbers per bin. "
        f"{PRICE_NOTE}",
        _table([*columns, "gap of fractions", "different real tiles"], rows),
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
            f"{pair.position[0]}, {pair.position[1]}",
        )
        for pair in c.copies.flagged[:_MOST_LISTED]
    ]
    more = len(c.copies.flagged) - len(rows)
    ratio = number(c.copies.feature_ratio)
    return [
        "## Copies",
        f"{len(c.copies.flagged)} of {c.copies.fakes} fakes ({c.copies.share:.1%}) are more like a place in the "
        f"{c.copies.training_tiles} whole training tiles than {c.copies.quantile:.0%} of {c.copies.reals} held-out "
        f"real tiles (similarity above {c.copies.limit:.3f}{_few(c)}); "
        f"{c.copies.blank_fakes} have no edges to compare. Median similarity: fakes {c.copies.fake_median:.3f}, real "
        f"tiles {c.copies.real_median:.3f}. Nearest in feature space: {ratio} times a real tile's distance.",
        f"Planted copies found ({c.copies.planted} of each kind, random crops in random symmetries): {kinds}.",
        *([_table(["fake", "training tile", "similarity", "fake is", "at row, column"], rows)] if rows else []),
        *([f"{more} more in score.json."] if more > 0 else []),
    ]


def _few(c: Comparison) -> str:
    few = c.copies is not None and c.copies.reals < FEW_REALS
    return f"; rough, set by fewer than {FEW_REALS} real tiles" if few else ""


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def number(value: float | None) -> str:
    """Four significant digits, a dash for what has no value."""
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"
