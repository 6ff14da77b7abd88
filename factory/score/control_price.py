"""The price of control: how the distance grows with the shift that an exact composition asked of the generator.

Large shifts are mostly extreme requests: those fakes differ from the real tiles in composition, and vary less, even
where every mask is perfect. So beside each bin stands what real tiles of the same composition score.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from factory.score.frechet import frechet_distance

Floats = npt.NDArray[np.float64]

_FEWEST = 8


@dataclass(frozen=True)
class ShiftBin:
    """Fakes whose absolute shift lies in one bin, and real tiles of their composition, against the same real tiles.

    Attributes:
        low, high: smallest and largest absolute shift in it. fakes: in the bin. size: of the draws, in all bins alike.
        distance, distance_std: of the fakes, mean and standard deviation over draws.
        matched, matched_std: the same of the real tiles whose class fractions are nearest to those fakes', one for
            each, from the half of the reals that is not compared with; NaN for images.
        matched_gap: mean difference of fractions between a fake and its real tile (half the sum over classes).
        matched_tiles: different real tiles among them, mean over draws: one may be the nearest to many fakes.
    """

    low: float
    high: float
    fakes: int
    size: int
    distance: float
    distance_std: float
    matched: float
    matched_std: float
    matched_gap: float
    matched_tiles: float


def price_of_control(
    fakes: Floats,
    shifts: Floats,
    reals: Floats,
    *,
    fractions: tuple[Floats, Floats] | None = None,
    bins: int,
    draws: int,
    rng: np.random.Generator,
) -> tuple[ShiftBin, ...]:
    """Frechet distance of equal-count bins of the absolute shift; none where the shifts are all one value.

    Every draw halves the reals: one half is what the fakes, and the real tiles matched to them out of the other half,
    are compared with; as many tiles on every side.

    Args:
        fakes: float64 [n, d]. shifts: float64 [n], NaN where a fake has none. reals: float64 [m, d].
        fractions: of the classes in fakes and reals, [n, c] and [m, c]; None for images. bins: at most.
        draws: per bin. rng: of these.
    """
    known = np.flatnonzero(np.isfinite(shifts))
    sizes = np.abs(shifts[known])
    count = min(bins, len(known) // _FEWEST)
    if count < 2 or sizes.max() == sizes.min() or len(reals) < 2 * _FEWEST:
        return ()
    parts = np.array_split(known[np.argsort(sizes, kind="stable")], count)
    size = min(len(reals) // 2, *(len(part) for part in parts))
    found = []
    for part in parts:
        rows = []
        for _ in range(draws):
            order = rng.permutation(len(reals))
            chosen, others, spare = rng.permutation(part)[:size], reals[order[:size]], order[size:]
            row = [frechet_distance(fakes[chosen], others), np.nan, np.nan, np.nan]
            if fractions is not None:
                gaps = cdist(fractions[0][chosen], fractions[1][spare], "cityblock") / 2
                nearest = (gaps + 1e-9 * rng.random(gaps.shape)).argmin(1)  # equally near ones take turns
                matched = frechet_distance(reals[spare[nearest]], others)
                row[1:] = matched, float(gaps.min(1).mean()), len(np.unique(nearest))
            rows.append(row)
        (distance, matched, gap, tiles), spread = np.mean(rows, 0).tolist(), np.std(rows, 0).tolist()
        own = np.abs(shifts[part])
        found.append(
            ShiftBin(
                float(own.min()), float(own.max()), len(part), size, distance, spread[0], matched, spread[1], gap, tiles
            )
        )
    return tuple(found)
