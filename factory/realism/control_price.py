"""The price of control: how the distance grows with the shift that an exact composition asked of the generator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from factory.realism.controls import random_draws
from factory.realism.frechet import frechet_distance

Floats = npt.NDArray[np.float64]

_FEWEST = 8


@dataclass(frozen=True)
class ShiftBin:
    """Fakes whose absolute shift lies in one bin, compared with the same real tiles.

    Attributes:
        low, high: smallest and largest absolute shift in it. fakes: in the bin. size: of the draws, in all bins alike.
        distance, distance_std: mean and standard deviation over draws.
    """

    low: float
    high: float
    fakes: int
    size: int
    distance: float
    distance_std: float


def price_of_control(
    fakes: Floats, shifts: Floats, reals: Floats, *, bins: int, draws: int, rng: np.random.Generator
) -> tuple[ShiftBin, ...]:
    """Frechet distance of equal-count bins of the absolute shift; none where the shifts are all one value.

    Args:
        fakes: float64 [n, d]. shifts: float64 [n], NaN where a fake has none. reals: float64 [m, d]. bins: at most.
        draws: subsets of equal size per bin. rng: of these.
    """
    known = np.flatnonzero(np.isfinite(shifts))
    sizes = np.abs(shifts[known])
    count = min(bins, len(known) // _FEWEST)
    if count < 2 or sizes.max() == sizes.min() or len(reals) < _FEWEST:
        return ()
    parts = np.array_split(known[np.argsort(sizes, kind="stable")], count)
    size = min(len(reals), *(len(part) for part in parts))
    found = []
    for part in parts:
        pairs = random_draws(len(part), len(reals), size, draws, rng)
        distances = [frechet_distance(fakes[part[a]], reals[b]) for a, b in pairs]
        own = np.abs(shifts[part])
        found.append(
            ShiftBin(
                float(own.min()),
                float(own.max()),
                len(part),
                size,
                float(np.mean(distances)),
                float(np.std(distances)),
            )
        )
    return tuple(found)
