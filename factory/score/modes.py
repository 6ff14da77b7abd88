"""Clusters (modes) of the real tiles, and which of them the fakes cover."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from factory.core.statistics import Floats

_TILES_PER_MODE = 8
_COMPONENTS = 20
_RADIUS_QUANTILE = 0.95


@dataclass(frozen=True)
class Mode:
    """One cluster of real tiles.

    Attributes:
        number: from 1, the largest first. medoid: place of the real tile nearest to the centre; sample: its id.
        real_share, fake_share: share of the tiles that are nearest to this centre.
        hits: fakes nearest to the centre and no farther from it than 95 % of its real tiles.
    """

    number: int
    medoid: int
    sample: str
    real_share: float
    fake_share: float
    hits: int


@dataclass(frozen=True)
class ModeFigures:
    """All modes.

    Attributes:
        modes: the largest first. outside: share of the fakes that lie within the radius of no mode.
        variation: total variation distance of the two distributions over modes, 0 to 1.
    """

    modes: tuple[Mode, ...]
    outside: float
    variation: float

    @property
    def missing(self) -> tuple[Mode, ...]:
        """Modes without a hit."""
        return tuple(mode for mode in self.modes if not mode.hits)

    @property
    def hit(self) -> str:
        """Number of modes with a hit, and of all, in words."""
        return f"{len(self.modes) - len(self.missing)} of {len(self.modes)}"

    @property
    def hit_share(self) -> float:
        """Share of the modes with a hit."""
        return 1 - len(self.missing) / len(self.modes)


def find_modes(fakes: Floats, reals: Floats, ids: tuple[str, ...], *, most: int, seed: int) -> ModeFigures:
    """Clusters the real tiles (k-means, ten starts) and assigns every fake to its nearest centre.

    Args:
        fakes, reals: float64 [n, d] and [m, d], from `mode_space`. ids: of the reals.
        most: number of modes, at most; fewer where there are fewer than eight real tiles for each.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    count = max(1, min(most, len(reals) // _TILES_PER_MODE))
    with threadpool_limits(1):  # OpenMP too: sums have one order, and threads would only wait on a busy machine
        fitted = KMeans(count, n_init=10, random_state=seed).fit(reals)
        to_reals, to_fakes = fitted.transform(reals), fitted.transform(fakes)
    own, nearest = to_reals.argmin(1), to_fakes.argmin(1)
    order = np.argsort(-np.bincount(own, minlength=count), kind="stable")
    radii = np.array([np.quantile(to_reals[own == mode, mode], _RADIUS_QUANTILE) for mode in range(count)])
    within = to_fakes[np.arange(len(fakes)), nearest] <= radii[nearest]
    modes = []
    for number, mode in enumerate(order, start=1):
        medoid = int(np.where(own == mode, to_reals[:, mode], np.inf).argmin())
        shares = float((own == mode).mean()), float((nearest == mode).mean())
        modes.append(Mode(number, medoid, ids[medoid], *shares, int((within & (nearest == mode)).sum())))
    variation = sum(abs(mode.real_share - mode.fake_share) for mode in modes) / 2
    return ModeFigures(tuple(modes), float(1 - within.mean()), float(variation))


def mode_space(
    fakes: Floats, reals: Floats, fake_statistics: Floats | None = None, real_statistics: Floats | None = None
) -> tuple[Floats, Floats]:
    """Builds the space that modes are found in: principal components of the features, and mask statistics.

    There are up to 20 components, those of the real tiles. Statistics are divided by their standard deviation, missing
    ones set to the median. Both blocks are scaled to the same total variance.

    Args:
        fakes, reals: features, float64 [n, d] and [m, d]. fake_statistics, real_statistics: [n, s] and [m, s], or None.

    Returns:
        Vectors of the fakes and of the reals, float64 [n, k] and [m, k].
    """
    middle = reals.mean(0)
    _, _, right = np.linalg.svd(reals - middle, full_matrices=False)
    blocks = [((fakes - middle) @ right[:_COMPONENTS].T, (reals - middle) @ right[:_COMPONENTS].T)]
    if fake_statistics is not None and real_statistics is not None:
        blocks.append(_standardised(fake_statistics, real_statistics))
    scaled = []
    for fake, real in blocks:
        total = np.sqrt(real.var(0).sum())
        scaled.append((fake / total, real / total) if total > 0 else (fake, real))
    return np.hstack([fake for fake, _ in scaled]), np.hstack([real for _, real in scaled])


def _standardised(fakes: Floats, reals: Floats) -> tuple[Floats, Floats]:
    columns = []
    for fake, real in zip(fakes.T, reals.T, strict=True):
        known = real[np.isfinite(real)]
        if not len(known) or not known.std() > 0:
            continue
        middle, spread = np.median(known), known.std()
        columns.append([(np.where(np.isfinite(side), side, middle) - middle) / spread for side in (fake, real)])
    if not columns:
        return np.zeros((len(fakes), 1)), np.zeros((len(reals), 1))
    return np.stack([c[0] for c in columns], 1), np.stack([c[1] for c in columns], 1)
