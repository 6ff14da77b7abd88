"""Reference figures of a score: halves of the real tiles (floor), shuffled patches (ceiling), the price of control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from factory.core.statistics import Floats, Places
from factory.score.distances import SHARES, Neighbourhood, frechet_distance, kernel_distance, neighbourhood
from factory.score.settings import Settings, generator

Pairs = tuple[tuple[Places, Places], ...]

RANDOM_HALVES, HALVES_BY_GROUP = "real halves, random", "real halves, by group"
TRAINING, FAKES, SHUFFLED = "training tiles", "fakes", "shuffled patches"
"""Rows of the table of controls. Training tiles (crops of the fakes' size) are what a perfect generator would equal."""

MATCHED = "real tiles of their composition"
PRICE_NOTE = (
    "Bins of large shift have mostly extreme requests. Their fakes differ from the real tiles in composition, and vary "
    "less, whatever their quality. Compare them with the real tiles of the nearest class fractions, one for each fake, "
    "from the other half of the real tiles: only a distance above theirs is a price. This reference is rough where few "
    "different real tiles are used, or where the gap of fractions is large."
)
"""How to read the price of control."""

_TRIES = 400
_LEAST_GROUPS = 2
_SMALLEST_SHARE = 0.5  # of a random half; smaller halves by group are not used
_FEWEST_IN_BIN = 8


@dataclass(frozen=True)
class Halves:
    """Pairs of disjoint sets of real tiles, all of one size.

    Attributes:
        size: tiles in either half. random: pairs drawn tile by tile. by_group: pairs that share no patient or slide;
            empty where groups are unknown or too unequal. note: describes both in one sentence, for the report.
    """

    size: int
    random: Pairs
    by_group: Pairs
    note: str


@dataclass(frozen=True, kw_only=True)
class ControlRow(Neighbourhood):
    """One row of the table of controls: means over `draws`; `distance_std` is the standard deviation over them."""

    name: str
    draws: int
    distance: float
    distance_std: float
    kernel: float


def split_halves(groups: Sequence[str] | None, count: int, most: int, draws: int, seed: int) -> Halves:
    """Splits the real tiles into halves, at random and between groups.

    Two halves of one patient's tiles are more similar than fakes can be, so halves that share no group are the honest
    floor. Of many random splits of the groups, the most even ones are kept. All halves, also the random ones, are cut
    to the smallest side among them, so that all distances have the bias of one sample size.

    Args:
        groups: group of each real tile; None if unknown. count: number of real tiles. most: tiles in a half, at most.
        draws: pairs of either kind.
    """
    rng = generator(seed, "halves")
    half = min(most, count // 2)
    splits = _even_group_splits(groups, count, draws, rng) if groups is not None else []
    size = min((min(half, len(a), len(b)) for a, b in splits), default=0)
    if size < max(2, _SMALLEST_SHARE * half):
        known = len(set(groups)) if groups is not None else 0
        why = f"its {known} groups are too few or too unequal" if known else "its groups are not known"
        note = f"floor: random halves of the real tiles, {half} tiles each; none by group ({why})"
        return Halves(half, _random_pairs(count, half, draws, rng), (), note)
    by_group = tuple((rng.permutation(a)[:size], rng.permutation(b)[:size]) for a, b in splits)
    assert groups is not None
    note = (
        f"floor: halves of the real tiles, {size} tiles each, at random and so that they share none of their "
        f"{len(set(groups))} groups"
    )
    return Halves(size, _random_pairs(count, size, draws, rng), by_group, note)


def _random_pairs(count: int, size: int, draws: int, rng: np.random.Generator) -> Pairs:
    orders = [rng.permutation(count) for _ in range(draws)]
    return tuple((order[:size], order[size : 2 * size]) for order in orders)


def _even_group_splits(
    groups: Sequence[str], count: int, draws: int, rng: np.random.Generator
) -> list[tuple[Places, Places]]:
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < _LEAST_GROUPS:
        return []
    sizes = np.bincount(members)
    found: dict[bytes, tuple[int, npt.NDArray[np.bool_]]] = {}
    for _ in range(_TRIES):
        side = rng.random(len(names)) < 0.5
        side = side ^ side[0]  # a split and its mirror image are the same
        smaller = min(int(sizes[side].sum()), int(count - sizes[side].sum()))
        if smaller:
            found[side.tobytes()] = (smaller, side)
    best = sorted(found.values(), key=lambda split: (-split[0], split[1].tobytes()))[:draws]
    best = [split for split in best if split[0] >= _SMALLEST_SHARE * best[0][0]]
    return [(np.flatnonzero(side[members]), np.flatnonzero(~side[members])) for _, side in best]


def shuffle_patches(
    pixels: npt.NDArray[np.uint8], patch_grid: tuple[int, int], rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Cuts tiles into patches and shuffles these over all tiles and places: the right content in no order.

    Args:
        pixels: uint8 [N, H, W, ...]. patch_grid: rows and columns of patches; what H and W leave over stays as it is.
    """
    count, height, width = pixels.shape[:3]
    rows, columns = (max(1, min(n, side)) for n, side in zip(patch_grid, (height, width), strict=True))
    h, w = height // rows, width // columns
    rest = pixels.shape[3:]
    patches = pixels[:, : h * rows, : w * columns].reshape(count, rows, h, columns, w, *rest).swapaxes(2, 3)
    mixed = patches.reshape(-1, h, w, *rest)[rng.permutation(count * rows * columns)]
    out = pixels.copy()
    out[:, : h * rows, : w * columns] = (
        mixed.reshape(count, rows, columns, h, w, *rest).swapaxes(2, 3).reshape(count, h * rows, w * columns, *rest)
    )
    return out


def random_draws(first: int, second: int, size: int, draws: int, rng: np.random.Generator) -> Pairs:
    """Draws pairs of `size` places below `first` and below `second`, without replacement."""
    return tuple((rng.permutation(first)[:size], rng.permutation(second)[:size]) for _ in range(draws))


def control_row(
    name: str, features: Floats, reals: Floats, pairs: Pairs, k: int, rng: np.random.Generator
) -> ControlRow:
    """Computes one row of the table of controls from features [n, d] and [m, d] at pairs of places in both."""
    distances, kernels, shares = [], [], []
    for a, b in pairs:
        first, second = features[a], reals[b]
        distances.append(frechet_distance(first, second))
        kernels.append(kernel_distance(first, second, rng, subsets=2).value)
        near = neighbourhood(first, second, min(k, min(len(first), len(second)) - 1))
        shares.append(astuple(near))
    return ControlRow(
        name=name,
        draws=len(pairs),
        distance=float(np.mean(distances)),
        distance_std=float(np.std(distances)),
        kernel=float(np.mean(kernels)),
        **dict(zip(SHARES, np.mean(shares, 0).tolist(), strict=True)),
    )


def control_table(
    features: Mapping[str, Floats], fakes: Floats, others: Mapping[str, Floats], halves: Halves, settings: Settings
) -> tuple[ControlRow, ...]:
    """Computes the table of controls, all at one sample size.

    Args:
        features: of ``reals``, ``shuffled`` and, if known, ``training``: float64 [n, d] each. fakes: those compared.
        others: of further sets, by name. halves: of the reals.
    """
    reals, k = features["reals"], settings.neighbours
    rng = generator(settings.seed, "halves", 1)

    def row(name: str, side: Floats) -> ControlRow:
        size = min(halves.size, len(side))
        return control_row(name, side, reals, random_draws(len(side), len(reals), size, settings.draws, rng), k, rng)

    rows = [control_row(RANDOM_HALVES, reals, reals, halves.random, k, rng)]
    if halves.by_group:
        rows.append(control_row(HALVES_BY_GROUP, reals, reals, halves.by_group, k, rng))
    if "training" in features:
        rows.append(row(TRAINING, features["training"]))
    rows.append(row(FAKES, fakes))
    rows += [row(name, side) for name, side in others.items()]
    rows.append(row(SHUFFLED, features["shuffled"]))
    return tuple(rows)


@dataclass(frozen=True)
class ShiftBin:
    """Distances of the fakes in one bin of the absolute shift, and of real tiles with the same composition.

    Attributes:
        low, high: smallest and largest absolute shift in the bin. fakes: number in the bin.
        size: tiles of a draw, the same in all bins.
        distance, distance_std: of the fakes, mean and standard deviation over draws.
        matched, matched_std: the same of real tiles, one for each fake, with the nearest class fractions, from the half
            of the reals that is not compared with; NaN for images.
        matched_gap: mean difference of fractions between a fake and its real tile (half the sum over classes).
        matched_tiles: number of different real tiles among them, mean over draws; one may be nearest to many fakes.
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
    settings: Settings,
    fractions: tuple[Floats, Floats] | None = None,
) -> tuple[ShiftBin, ...]:
    """Computes how the Frechet distance grows with the shift that an exact composition required of the generator.

    Large shifts are mostly extreme requests. Those fakes differ from the real tiles in composition, and vary less, even
    if every mask is perfect. So the distance of real tiles with the same composition is computed for each bin too.
    Every draw halves the reals. The fakes, and the real tiles matched to them out of one half, are compared with the
    other half; all sides have the same number of tiles.

    Args:
        fakes: float64 [n, d]. shifts: float64 [n], NaN where a fake has none. reals: float64 [m, d].
        fractions: class fractions of fakes and reals, [n, c] and [m, c]; None for images.

    Returns:
        Nothing where all shifts are equal, or where there are too few tiles.
    """
    known = np.flatnonzero(np.isfinite(shifts))
    sizes = np.abs(shifts[known])
    count = min(settings.shift_bins, len(known) // _FEWEST_IN_BIN)
    if count < 2 or sizes.max() == sizes.min() or len(reals) < 2 * _FEWEST_IN_BIN:
        return ()
    parts = np.array_split(known[np.argsort(sizes, kind="stable")], count)
    size = min(len(reals) // 2, *(len(part) for part in parts))
    found, rng = [], generator(settings.seed, "shift")
    for part in parts:
        rows = []
        for _ in range(settings.draws):
            order = rng.permutation(len(reals))
            chosen, others, spare = rng.permutation(part)[:size], reals[order[:size]], order[size:]
            row = [frechet_distance(fakes[chosen], others), np.nan, np.nan, np.nan]
            if fractions is not None:
                gaps = cdist(fractions[0][chosen], fractions[1][spare], "cityblock") / 2
                nearest = (gaps + 1e-9 * rng.random(gaps.shape)).argmin(1)  # ties are broken at random
                matched = frechet_distance(reals[spare[nearest]], others)
                row[1:] = matched, float(gaps.min(1).mean()), len(np.unique(nearest))
            rows.append(row)
        (distance, matched, gap, tiles), spread = np.mean(rows, 0).tolist(), np.std(rows, 0).tolist()
        low, high = np.abs(shifts[part[[0, -1]]]).tolist()
        found.append(ShiftBin(low, high, len(part), size, distance, spread[0], matched, spread[1], gap, tiles))
    return tuple(found)
