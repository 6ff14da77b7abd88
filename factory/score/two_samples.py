"""Kolmogorov-Smirnov statistics between both sets: of mask statistics, two-point curves and nuclei."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import nan

import numpy as np

from factory.core.console import progress
from factory.core.statistics import Floats, ks_statistic
from factory.geometry.nuclear_statistics import NUCLEAR, OF_NUCLEI, NuclearStatistics, nuclear_statistics
from factory.score.controls import Halves
from factory.score.mask_statistics import MaskStatistics, mask_statistics, measured_classes
from factory.score.tiles import TileSet

Measured = Mapping[str, tuple[MaskStatistics, ...]]
"""fakes, reals, shuffled, pool (all real tiles) -> statistics of every tile, per class; empty for images."""


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
        lags_um: float64 [L]. fakes, reals: mean curves, float64 [L].
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


def measure_masks(sets: Mapping[str, TileSet], count: int) -> Measured:
    """Measures ``fakes``, ``shuffled`` and ``pool``; ``reals`` are the first `count` of the pool."""
    if sets["pool"].scheme is None:
        return {}
    total = sum(len(side) * len(measured_classes(side.scheme)) for side in sets.values() if side.scheme is not None)
    with progress("mask statistics", total) as bar:
        found = {name: mask_statistics(side, bar.advance) for name, side in sets.items()}
    return found | {"reals": tuple(of_class.head(count) for of_class in found["pool"])}


def measure_nuclei(fakes: TileSet, pool: TileSet, count: int) -> dict[str, NuclearStatistics]:
    """Measures ``fakes`` and ``pool``; ``reals`` are the first `count` of the pool. Nothing if a set has no ids."""
    if fakes.instances is None or pool.instances is None:
        return {}
    with progress("nuclei", len(fakes) + len(pool)) as bar:
        found = {
            "fakes": nuclear_statistics(list(fakes.instances), fakes.mpp, bar.advance),
            "pool": nuclear_statistics(list(pool.instances), pool.mpp, bar.advance),
        }
    return found | {"reals": found["pool"].take(range(count))}


def compare_statistics(measured: Measured, halves: Halves) -> tuple[StatisticFigures, ...]:
    """Compares the mask statistics of both sets, class by class."""
    found = []
    for fakes, reals, shuffled, pool in _by_class(measured):
        for name, column in pool.values.items():
            parts = [[(column[a], column[b]) for a, b in pairs] for pairs in (halves.random, halves.by_group)]
            both = _compare(name, fakes.values[name], reals.values[name], *parts)
            ceiling = ks_statistic(shuffled.values[name], reals.values[name])
            found.append(StatisticFigures(class_name=fakes.class_name, ceiling=ceiling, **vars(both)))
    return tuple(found)


def compare_nuclei(measured: Mapping[str, NuclearStatistics], halves: Halves) -> tuple[NuclearFigures, ...]:
    """Compares the nuclei of both sets, from `measure_nuclei`."""
    if not measured:
        return ()
    fakes, reals, pool = (measured[name] for name in ("fakes", "reals", "pool"))
    random, by_group = (
        [(pool.take(a).values, pool.take(b).values) for a, b in pairs] for pairs in (halves.random, halves.by_group)
    )
    found = []
    for name in NUCLEAR:
        parts = [[(a[name], b[name]) for a, b in pairs] for pairs in (random, by_group)]
        both = _compare(name, fakes.values[name], reals.values[name], *parts)
        found.append(NuclearFigures(per="nucleus" if name in OF_NUCLEI else "tile", **vars(both)))
    return tuple(found)


def compare_curves(measured: Measured, halves: Halves) -> tuple[CurveFigures, ...]:
    """Compares the two-point curves of both sets, class by class."""
    found = []
    for fakes, reals, shuffled, pool in _by_class(measured):
        means = [side.mean_curve for side in (fakes, reals)]
        by_lag = _ks_by_lag(fakes.curves, reals.curves)
        floor, floor_by_group = (
            _mean(_mean(_ks_by_lag(pool.curves[a], pool.curves[b])) for a, b in pairs)
            for pairs in (halves.random, halves.by_group)
        )
        found.append(
            CurveFigures(
                class_name=fakes.class_name,
                lags_um=fakes.lags_um,
                fakes=means[0],
                reals=means[1],
                distance=float(np.sqrt(np.mean(np.square(means[0] - means[1])))),
                mean_ks=_mean(by_lag),
                max_ks=float(np.max(by_lag)) if by_lag else nan,
                floor=floor,
                floor_by_group=floor_by_group,
                ceiling=_mean(_ks_by_lag(shuffled.curves, reals.curves)),
            )
        )
    return tuple(found)


def _by_class(measured: Measured) -> Iterator[tuple[MaskStatistics, ...]]:
    if measured:
        yield from zip(*(measured[name] for name in ("fakes", "reals", "shuffled", "pool")), strict=True)


def _compare(
    name: str,
    fakes: Floats,
    reals: Floats,
    random: Iterable[tuple[Floats, Floats]],
    by_group: Iterable[tuple[Floats, Floats]],
) -> TwoSampleFigures:
    """Compares one statistic of both sets, and of halves of the reals; NaN is left out."""
    return TwoSampleFigures(
        name=name,
        fake_median=_median(fakes),
        real_median=_median(reals),
        fake_count=int(np.isfinite(fakes).sum()),
        real_count=int(np.isfinite(reals).sum()),
        ks=ks_statistic(fakes, reals),
        floor=_mean(ks_statistic(a, b) for a, b in random),
        floor_by_group=_mean(ks_statistic(a, b) for a, b in by_group),
    )


def _ks_by_lag(first: Floats, second: Floats) -> list[float]:
    """Returns the KS statistic at each lag but 0, where every curve is 1."""
    return [ks_statistic(first[:, lag], second[:, lag]) for lag in range(1, first.shape[1])]


def _median(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else nan


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else nan
