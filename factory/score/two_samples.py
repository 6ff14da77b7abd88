"""Kolmogorov-Smirnov statistics between both sets: of mask statistics, two-point curves and nuclei."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import TypedDict

import numpy as np

from factory.core.console import progress
from factory.core.statistics import Floats, ks_statistic
from factory.geometry.nuclear_statistics import NUCLEAR, OF_NUCLEI, NuclearStatistics, nuclear_statistics
from factory.score.controls import Halves, Pairs
from factory.score.mask_statistics import STATISTICS, MaskStatistics
from factory.score.tiles import TileSet


@dataclass(frozen=True, kw_only=True)
class TwoSampleFigures:
    """One statistic in both sets.

    Attributes:
        name: of the statistic. fake_median, real_median: NaN without any value.
        fake_count, real_count: number of values.
        ks: two-sample statistic, NaN if a set has no value. floor: mean ks of random real halves. floor_by_group: mean
            ks of halves that share no group, NaN without such halves.
    """

    name: str
    fake_median: float
    real_median: float
    fake_count: int
    real_count: int
    ks: float
    floor: float
    floor_by_group: float


@dataclass(frozen=True, kw_only=True)
class StatisticFigures(TwoSampleFigures):
    """One of `STATISTICS` for one class; `ceiling` is the ks of shuffled patches."""

    class_name: str
    ceiling: float


@dataclass(frozen=True, kw_only=True)
class NuclearFigures(TwoSampleFigures):
    """One of `NUCLEAR`; `per` is what has a value each, ``nucleus`` or ``tile``."""

    per: str


@dataclass(frozen=True)
class CurveFigures:
    """Two-point curves of one class in both sets.

    Attributes:
        class_name: the class. lags_um: float64 [L]. fakes, reals: mean curves, float64 [L].
        distance: root mean square difference of the mean curves over the lags. mean_ks, max_ks: of the KS statistics at
            each lag. floor, floor_by_group, ceiling: mean_ks of real halves and of shuffled patches.
    """

    class_name: str
    lags_um: Floats
    fakes: Floats
    reals: Floats
    distance: float
    mean_ks: float
    max_ks: float
    floor: float
    floor_by_group: float
    ceiling: float


def compare_statistics(
    fakes: MaskStatistics, reals: MaskStatistics, shuffled: MaskStatistics, pool: MaskStatistics, halves: Halves
) -> tuple[StatisticFigures, ...]:
    """Compares the mask statistics of both sets.

    Args:
        fakes, reals, shuffled, pool: of one class; pool has all real tiles. halves: places in the pool.
    """

    def floor(name: str, pairs: Pairs) -> float:
        values = pool.values[name]
        return _mean(ks_statistic(values[a], values[b]) for a, b in pairs)

    return tuple(
        StatisticFigures(
            class_name=fakes.class_name,
            name=name,
            floor=floor(name, halves.random),
            floor_by_group=floor(name, halves.by_group),
            ceiling=ks_statistic(shuffled.values[name], reals.values[name]),
            **_both(fakes.values[name], reals.values[name]),
        )
        for name in STATISTICS
    )


def compare_curves(
    fakes: MaskStatistics, reals: MaskStatistics, shuffled: MaskStatistics, pool: MaskStatistics, halves: Halves
) -> CurveFigures:
    """Compares the two-point curves of both sets; arguments as in `compare_statistics`."""
    means = [_mean_curve(side.curves) for side in (fakes, reals)]
    by_lag = _ks_by_lag(fakes.curves, reals.curves)

    def floor(pairs: Pairs) -> float:
        return _mean(_mean(_ks_by_lag(pool.curves[a], pool.curves[b])) for a, b in pairs)

    return CurveFigures(
        class_name=fakes.class_name,
        lags_um=fakes.lags_um,
        fakes=means[0],
        reals=means[1],
        distance=float(np.sqrt(np.mean(np.square(means[0] - means[1])))),
        mean_ks=_mean(by_lag),
        max_ks=float(np.max(by_lag)) if by_lag else nan,
        floor=floor(halves.random),
        floor_by_group=floor(halves.by_group),
        ceiling=_mean(_ks_by_lag(shuffled.curves, reals.curves)),
    )


def measure_nuclei(fakes: TileSet, pool: TileSet, count: int) -> dict[str, NuclearStatistics]:
    """Measures the nuclei of both sets.

    Args:
        fakes: tiles. pool: all real tiles. count: number of real tiles that are compared, the first of the pool.

    Returns:
        Statistics of ``fakes``, ``pool`` and ``reals``; nothing where a set has no instances.
    """
    if fakes.instances is None or pool.instances is None:
        return {}
    with progress("nuclei", len(fakes) + len(pool)) as bar:
        found = {
            "fakes": nuclear_statistics(list(fakes.instances), fakes.mpp, bar.advance),
            "pool": nuclear_statistics(list(pool.instances), pool.mpp, bar.advance),
        }
    return found | {"reals": found["pool"].take(range(count))}


def compare_nuclei(measured: Mapping[str, NuclearStatistics], halves: Halves) -> tuple[NuclearFigures, ...]:
    """Compares the nuclei of both sets.

    Args:
        measured: from `measure_nuclei`. halves: of the pool.
    """
    if not measured:
        return ()
    fakes, reals = (measured[name].values for name in ("fakes", "reals"))
    random, by_group = (
        [(measured["pool"].take(a).values, measured["pool"].take(b).values) for a, b in pairs]
        for pairs in (halves.random, halves.by_group)
    )
    return tuple(
        NuclearFigures(
            name=name,
            per="nucleus" if name in OF_NUCLEI else "tile",
            floor=_mean(ks_statistic(a[name], b[name]) for a, b in random),
            floor_by_group=_mean(ks_statistic(a[name], b[name]) for a, b in by_group),
            **_both(fakes[name], reals[name]),
        )
        for name in NUCLEAR
    )


class _Both(TypedDict):
    fake_median: float
    real_median: float
    fake_count: int
    real_count: int
    ks: float


def _both(fakes: Floats, reals: Floats) -> _Both:
    """Returns the figures of both sets' values, float64 [n] and [m], NaN left out."""
    return {
        "fake_median": _median(fakes),
        "real_median": _median(reals),
        "fake_count": int(np.isfinite(fakes).sum()),
        "real_count": int(np.isfinite(reals).sum()),
        "ks": ks_statistic(fakes, reals),
    }


def _ks_by_lag(first: Floats, second: Floats) -> Sequence[float]:
    """Returns the KS statistic at each lag but 0, where every curve is 1."""
    return [ks_statistic(first[:, lag], second[:, lag]) for lag in range(1, first.shape[1])]


def _mean_curve(curves: Floats) -> Floats:
    known = curves[~np.isnan(curves).any(1)]
    return known.mean(0) if len(known) else np.full(curves.shape[1], np.nan)


def _median(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else nan


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else nan
