"""Relation of audited to claimed TPS, and placement of the stain in the regions of the mask, with intervals.

Intervals are percentiles of `RESAMPLES` bootstrap draws over tiles; tiles of one patient or slide are drawn together
(Efron and Tibshirani 1993, chapter 13). Below `FEWEST_GROUPS` patients (tiles, where each is its own) a figure has no
interval. `bootstrap_pooled` does not serve here: it needs a value of each tile alone, and one tile has no slope.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
import numpy.typing as npt

from factory.core.statistics import FEWEST_GROUPS, Floats, group_sums, percentile_interval, resampled_sums

RESAMPLES, LEVEL = 2000, 0.95

_FLAT = 1e-12  # a variance of TPS below it is rounding: no line goes through one value


@dataclass(frozen=True)
class Figure:
    """A value and both ends of its interval; None where undefined."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Relation:
    """Audited TPS over claimed TPS.

    Attributes:
        tiles: number with both. groups: number of their patients or slides.
        slope, intercept: of the least-squares line audited = intercept + slope x claimed. r: Pearson's.
        mae: mean |audited - claimed|. bias: mean of audited - claimed.
    """

    tiles: int
    groups: int
    slope: Figure
    intercept: Figure
    r: Figure
    mae: Figure
    bias: Figure


@dataclass(frozen=True)
class Placement:
    """Regions of the stained nuclei, of all tiles together.

    Attributes:
        tiles: number with counted nuclei. groups: number of their patients or slides.
        positive_nuclei, negative_nuclei: counted in the mask's positive and negative regions.
        in_positive, in_negative: stained share of them. difference: of both; 0 where stain ignores the mask.
    """

    tiles: int
    groups: int
    positive_nuclei: int
    negative_nuclei: int
    in_positive: Figure
    in_negative: Figure
    difference: Figure


def relate(claimed: Floats, audited: Floats, groups: Sequence[Hashable]) -> Relation | None:
    """Compare two TPS of the same tiles; None where no tile has both.

    Args:
        claimed, audited: float64 [N]; NaN leaves the tile out. groups: patient or slide of each tile.
    """
    known = ~np.isnan(claimed) & ~np.isnan(audited)
    if not known.any():
        return None
    x, y = claimed[known], audited[known]
    parts = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y, np.abs(y - x), y - x], axis=1)
    sums = group_sums(parts, _known(groups, known))
    figures = _figures(sums, _line)
    return Relation(x.size, len(sums), *figures)


def compare_regions(nuclei: Floats, stained: Floats, groups: Sequence[Hashable]) -> Placement | None:
    """Compare the stained shares of the nuclei in positive and in negative regions; None without nuclei.

    Args:
        nuclei, stained: float64 [N, 2], number of counted nuclei of each tile in positive and negative regions, and of
            stained ones among them; NaN leaves the tile out. groups: patient or slide of each tile.
    """
    known = nuclei.sum(axis=1) > 0
    if not known.any():
        return None
    sums = group_sums(np.hstack([nuclei[known], stained[known]]), _known(groups, known))
    positive, negative = nuclei[known].sum(axis=0)
    figures = _figures(sums, _shares)
    return Placement(int(known.sum()), len(sums), int(positive), int(negative), *figures)


def _line(sums: Floats) -> Floats:
    """Slope, intercept, r, mean absolute and mean difference of sums over tiles: float64 [..., 8] -> [..., 5]."""
    count, x, y, xx, yy, xy, absolute, difference = np.moveaxis(sums, -1, 0)
    var_x, var_y, both = xx / count - (x / count) ** 2, yy / count - (y / count) ** 2, xy / count - x * y / count**2
    var_x, var_y = np.where(var_x > _FLAT, var_x, np.nan), np.where(var_y > _FLAT, var_y, np.nan)
    slope = both / var_x
    intercept = (y - slope * x) / count
    r = np.clip(both / np.sqrt(var_x * var_y), -1, 1)
    return np.stack([slope, intercept, r, absolute / count, difference / count], axis=-1)


def _shares(sums: Floats) -> Floats:
    """Stained share in positive regions, in negative ones, and their difference: float64 [..., 4] -> [..., 3]."""
    nuclei, stained = sums[..., :2], sums[..., 2:]
    share = np.divide(stained, nuclei, out=np.full_like(nuclei, np.nan), where=nuclei > 0)
    return np.concatenate([share, share[..., :1] - share[..., 1:]], axis=-1)


def _known(groups: Sequence[Hashable], known: npt.NDArray[np.bool_]) -> list[Hashable]:
    """Groups of the tiles that are `known`."""
    return [group for group, is_known in zip(groups, known, strict=True) if is_known]


def _figures(sums: Floats, pool: Callable[[Floats], Floats]) -> list[Figure]:
    """Returns the figures of summed rows [G, K], with intervals over rows drawn with replacement."""
    values = pool(sums.sum(axis=0))
    if len(sums) < FEWEST_GROUPS:
        return [Figure(_or_none(value), None, None) for value in values]
    rng = np.random.default_rng(0)  # fixed, so that a report repeats
    drawn = np.concatenate([pool(block) for block in resampled_sums(sums, rng, RESAMPLES)])
    figures = []
    for value, column in zip(values, drawn.T, strict=True):
        ends = percentile_interval(column, LEVEL)  # a draw of tiles that all claim the same has no slope
        figures.append(Figure(_or_none(value), _or_none(ends.low), _or_none(ends.high)))
    return figures


def _or_none(value: float) -> float | None:
    return float(value) if isfinite(value) else None
