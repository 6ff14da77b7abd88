"""Nuclei of two sets side by side: Kolmogorov-Smirnov statistics of size, form, density, neighbours and touching."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from factory.core.console import progress
from factory.core.statistics import Floats, ks_statistic
from factory.geometry.nuclear_statistics import NUCLEAR, OF_NUCLEI, NuclearStatistics, nuclear_statistics
from factory.score.controls import Halves, Pairs
from factory.score.tiles import TileSet


@dataclass(frozen=True)
class NuclearFigures:
    """One statistic of the nuclei, or of the tiles they lie in, in both sets.

    Attributes:
        name: in `NUCLEAR`. per: what has a value each, ``nucleus`` or ``tile``.
        fake_median, real_median: NaN without any value. fake_count, real_count: values.
        ks: two-sample statistic, NaN where a set has no value. floor: of random real halves. floor_by_group: of halves
            that share no group, NaN without.
    """

    name: str
    per: str
    fake_median: float
    real_median: float
    fake_count: int
    real_count: int
    ks: float
    floor: float
    floor_by_group: float


def measure_nuclei(fakes: TileSet, pool: TileSet, count: int) -> dict[str, NuclearStatistics]:
    """Nuclei of fakes, of all real tiles (``pool``) and of the first `count` of these; nothing without instances."""
    if fakes.instances is None or pool.instances is None:
        return {}
    with progress("nuclei", len(fakes) + len(pool)) as bar:
        found = {
            name: nuclear_statistics(list(side.instances), side.mpp, bar.advance)
            for name, side in (("fakes", fakes), ("pool", pool))
            if side.instances is not None
        }
    return found | {"reals": found["pool"].take(range(count))}


def compare_nuclei(measured: Mapping[str, NuclearStatistics], halves: Halves) -> tuple[NuclearFigures, ...]:
    """Statistics of both sets side by side.

    Args:
        measured: from `measure_nuclei`. halves: of the pool.
    """
    if not measured:
        return ()
    fakes, reals = (measured[name].values for name in ("fakes", "reals"))
    random, by_group = (_floors(measured["pool"], pairs) for pairs in (halves.random, halves.by_group))
    return tuple(
        NuclearFigures(
            name=name,
            per="nucleus" if name in OF_NUCLEI else "tile",
            fake_median=_median(fakes[name]),
            real_median=_median(reals[name]),
            fake_count=int(np.isfinite(fakes[name]).sum()),
            real_count=int(np.isfinite(reals[name]).sum()),
            ks=ks_statistic(fakes[name], reals[name]),
            floor=random[name],
            floor_by_group=by_group[name],
        )
        for name in NUCLEAR
    )


def _floors(pool: NuclearStatistics, pairs: Pairs) -> dict[str, float]:
    """Mean statistic of the pairs by name; NaN without pairs."""
    sides = [(pool.take(a).values, pool.take(b).values) for a, b in pairs]
    return {name: _mean([ks_statistic(a[name], b[name]) for a, b in sides]) for name in NUCLEAR}


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _median(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else float("nan")
