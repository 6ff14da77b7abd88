"""Two sets of one-dimensional figures side by side: Kolmogorov-Smirnov statistics of mask statistics and curves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from factory.core.statistics import Floats, ks_statistic
from factory.score.controls import Halves, Pairs
from factory.score.mask_statistics import STATISTICS, MaskStatistics


@dataclass(frozen=True)
class StatisticFigures:
    """One statistic of one class in both sets.

    Attributes:
        class_name, name: which. fake_median, real_median: NaN without any value.
        fake_count, real_count: tiles for which it has a meaning.
        ks: two-sample statistic, NaN where a set has no value. floor: of random real halves. floor_by_group: of halves
            that share no group, NaN without. ceiling: of shuffled patches.
    """

    class_name: str
    name: str
    fake_median: float
    real_median: float
    fake_count: int
    real_count: int
    ks: float
    floor: float
    floor_by_group: float
    ceiling: float


@dataclass(frozen=True)
class CurveFigures:
    """Two-point curves of one class in both sets.

    Attributes:
        class_name: which. lags_um: float64 [L]. fakes, reals: their mean curves, float64 [L].
        distance: root mean square of the difference of the means over the lags. mean_ks, max_ks: of the KS statistics
            at each lag. floor, floor_by_group, ceiling: mean_ks of real halves and of shuffled patches.
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
    """Both sets' statistics side by side.

    Args:
        fakes, reals, shuffled, pool: of one class; pool is of all real tiles, among which the halves have their places.
        halves: of the pool.
    """

    def floor(name: str, pairs: Pairs) -> float:
        values = pool.values[name]
        return _mean([ks_statistic(values[a], values[b]) for a, b in pairs])

    return tuple(
        StatisticFigures(
            fakes.class_name,
            name,
            _median(fakes.values[name]),
            _median(reals.values[name]),
            int(np.isfinite(fakes.values[name]).sum()),
            int(np.isfinite(reals.values[name]).sum()),
            ks_statistic(fakes.values[name], reals.values[name]),
            floor(name, halves.random),
            floor(name, halves.by_group),
            ks_statistic(shuffled.values[name], reals.values[name]),
        )
        for name in STATISTICS
    )


def compare_curves(
    fakes: MaskStatistics, reals: MaskStatistics, shuffled: MaskStatistics, pool: MaskStatistics, halves: Halves
) -> CurveFigures:
    """Both sets' two-point curves side by side; arguments as for `compare_statistics`."""
    means = [_mean_curve(side.curves) for side in (fakes, reals)]
    by_lag = _ks_by_lag(fakes.curves, reals.curves)

    def floor(pairs: Pairs) -> float:
        return _mean([_mean(_ks_by_lag(pool.curves[a], pool.curves[b])) for a, b in pairs])

    return CurveFigures(
        fakes.class_name,
        fakes.lags_um,
        means[0],
        means[1],
        float(np.sqrt(np.mean(np.square(means[0] - means[1])))),
        _mean(by_lag),
        float(np.max(by_lag)) if by_lag else float("nan"),
        floor(halves.random),
        floor(halves.by_group),
        _mean(_ks_by_lag(shuffled.curves, reals.curves)),
    )


def _ks_by_lag(first: Floats, second: Floats) -> list[float]:
    """At each lag but 0, where every curve is 1."""
    return [ks_statistic(first[:, lag], second[:, lag]) for lag in range(1, first.shape[1])]


def _mean_curve(curves: Floats) -> Floats:
    known = curves[~np.isnan(curves).any(1)]
    return known.mean(0) if len(known) else np.full(curves.shape[1], np.nan)


def _median(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else float("nan")


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
