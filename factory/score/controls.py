"""Controls of a score: halves of the real tiles as the floor, shuffled patches as the ceiling, at one sample size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from factory.score.frechet import frechet_distance
from factory.score.kernel import kernel_distance
from factory.score.neighbours import neighbourhood
from factory.score.tiles import generator

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]
Pairs = tuple[tuple[Places, Places], ...]

_TRIES = 400
_LEAST_GROUPS = 2
_SMALLEST_SHARE = 0.5  # of a random half, below which halves by group are given up


@dataclass(frozen=True)
class Halves:
    """Pairs of disjoint sets of real tiles, all of one size.

    Attributes:
        size: tiles in either half. random: pairs drawn tile by tile. by_group: pairs that share no patient or slide;
            empty where groups are unknown or too unequal. note: says which there are, in a sentence.
    """

    size: int
    random: Pairs
    by_group: Pairs
    note: str


@dataclass(frozen=True)
class ControlRow:
    """Means over draws of `size` tiles of either side; `distance_std` is over the draws."""

    name: str
    draws: int
    distance: float
    distance_std: float
    kernel: float
    precision: float
    recall: float
    density: float
    coverage: float


def split_halves(groups: Sequence[str] | None, count: int, most: int, draws: int, seed: int) -> Halves:
    """Halve the real tiles, at random and between groups.

    Two halves of one patient's tiles are alike in a way that fakes cannot be; halves that share no group are the honest
    floor. Of many random splits of the groups the most even ones are kept, and all halves, random ones too, are cut to
    the smallest side among them, so that all distances have the bias of one sample size.

    Args:
        groups: of each real tile; None where not known. count: real tiles. most: tiles in a half, at most.
        draws: pairs of either kind. seed: of the draws.
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
        side = side ^ side[0]  # a split and its mirror image are one
        smaller = min(int(sizes[side].sum()), int(count - sizes[side].sum()))
        if smaller:
            found[side.tobytes()] = (smaller, side)
    best = sorted(found.values(), key=lambda split: (-split[0], split[1].tobytes()))[:draws]
    best = [split for split in best if split[0] >= _SMALLEST_SHARE * best[0][0]]
    return [(np.flatnonzero(side[members]), np.flatnonzero(~side[members])) for _, side in best]


def shuffle_patches(
    pixels: npt.NDArray[np.uint8], patch_grid: tuple[int, int], rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Cut tiles into patches and shuffle these over all tiles and places: the right stuff in no order.

    Args:
        pixels: uint8 [N, H, W, ...]. patch_grid: rows and columns of patches; what H and W leave over stays as it is.
        rng: of the shuffle.
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
    """Pairs of `size` places below `first` and below `second`, drawn without replacement."""
    return tuple((rng.permutation(first)[:size], rng.permutation(second)[:size]) for _ in range(draws))


def control_row(
    name: str, features: Floats, reals: Floats, pairs: Pairs, k: int, rng: np.random.Generator
) -> ControlRow:
    """Figures of one row of the table.

    Args:
        name: of the row. features: float64 [n, d] of the first of each pair. reals: float64 [m, d] of the second.
        pairs: places in both. k: neighbours. rng: of the kernel distance's subsets.
    """
    distances, kernels, shares = [], [], []
    for a, b in pairs:
        first, second = features[a], reals[b]
        distances.append(frechet_distance(first, second))
        kernels.append(kernel_distance(first, second, rng, subsets=2).value)
        near = neighbourhood(first, second, min(k, min(len(first), len(second)) - 1))
        shares.append((near.precision, near.recall, near.density, near.coverage))
    means = [float(value) for value in np.mean(shares, 0)]
    return ControlRow(
        name, len(pairs), float(np.mean(distances)), float(np.std(distances)), float(np.mean(kernels)), *means
    )
