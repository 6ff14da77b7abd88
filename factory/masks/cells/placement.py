"""Cells of a tile: their populations, where they may lie, and the instance map that holds them.

Nuclei are placed at random sites first (`packing.place_at_random`). Those that do not fit are placed where the free
space is widest (`packing.place_at_sites`), shrunk down to `Cells.shrink` if necessary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from factory.geometry.nuclear_maps import renumbered
from factory.geometry.outlines import OutlineConfig, Outlines, clearance
from factory.masks.cells.packing import PAINT, SITE, VOTE, place_at_random, place_at_sites

LEAST_MEAN_PX = 5.0
"""Least mean area of the smallest kind of nucleus. Below it a resolution is too coarse to draw cells."""

_NO_FLOW = np.zeros((1, 1, 2), np.float32)
_EVERYWHERE = np.ones((1, 1), np.float32)
_ROUNDS = 6
"""Most searches for the widest free space, for one size of nucleus."""
_SITES = 32
"""Sites that one search finds for every nucleus without a place."""


@dataclass(frozen=True)
class Population:
    """Nuclei of one kind.

    Attributes:
        name: of the kind: "tumour", "lymphocyte", "spindle".
        outlines: the nuclei, in the order in which they are drawn.
        on: classes of the region mask on which centres lie. within: classes whose pixels they may cover.
        room: distance round a centre that is kept free where there is space, in radii.
        touching: share of the nuclei that lie beside or partly behind another of their kind, approximately.
        along: whether they are turned along `Cells.flow`. attracted: whether they follow `Cells.attraction`.
        attraction: of this kind alone, in place of that one.
        label: class of the nuclei, in a scheme whose classes are types of nuclei.
    """

    name: str
    outlines: Outlines
    on: tuple[int, ...]
    within: tuple[int, ...]
    room: float = 0.0
    touching: float = 0.0
    along: bool = False
    attracted: bool = True
    attraction: npt.NDArray[np.float32] | None = None
    label: int | None = None


@dataclass(frozen=True)
class Cells:
    """The cells that a mask generator draws for one tile; `place_population` finds their places.

    Attributes:
        populations: one for each kind.
        smallest_px: smallest visible area of a nucleus in pixels, also where it is cut by the border or by others.
        overlap: largest share of a nucleus behind others. trim: largest share that is cut off where it reaches into a
            region that it may not cover. shrink: smallest factor on the radius where there is no place otherwise.
        tries: random sites that are tried for a nucleus. loss: largest share of a population that is left out where
            the request has no number.
        flow: float32 [h, w, 2], unit vectors (y, x) on nodes `flow_step_px` apart.
        attraction: float32 [H, W] in [0, 1], probability that a site is accepted; None = 1 everywhere.
        rank: float32 [H, W]; cells with the highest mean become positive first.
        drawn_as: class of the cells in a scheme in which they are a class of their own, else None.
    """

    populations: tuple[Population, ...]
    smallest_px: float
    overlap: float = 0.15
    trim: float = 0.2
    shrink: float = 0.6
    tries: int = 48
    loss: float = 0.2
    flow: npt.NDArray[np.float32] | None = None
    flow_step_px: float = 1.0
    attraction: npt.NDArray[np.float32] | None = None
    rank: npt.NDArray[np.float32] | None = None
    drawn_as: int | None = None


def too_coarse(outlines: Sequence[OutlineConfig], mpp: float) -> str | None:
    """Return why a resolution is too coarse for nuclei, or None: the smallest kind needs `LEAST_MEAN_PX`."""
    smallest_um2 = min((outline.mean_area_um2 for outline in outlines), default=float("inf"))
    if smallest_um2 / mpp**2 >= LEAST_MEAN_PX:
        return None
    most = (smallest_um2 / LEAST_MEAN_PX) ** 0.5
    return f"mpp: {mpp:g} leaves {smallest_um2 / mpp**2:.1f} px to the smallest nuclei, use {most:.2g} or less"


def place_population(
    instance: npt.NDArray[np.int32],
    regions: npt.NDArray[np.uint8],
    cells: Cells,
    population: Population,
    rng: np.random.Generator,
    *,
    first: int,
    positive: tuple[int, ...] = (),
    wanted: int = 0,
) -> int:
    """Place the nuclei of a population.

    Args:
        instance: int32 [H, W], changed in place. regions: uint8 [H, W], the region mask.
        cells, population: the nuclei and their rules. rng: of the draw.
        first: id of the first nucleus; the others follow without gaps.
        positive: classes in `population.within` whose pixels count for a positive nucleus; the others count against it.
        wanted: 1 = every nucleus shows more positive than negative pixels, -1 = none does, 0 = any.

    Returns:
        The number of nuclei placed.
    """
    outlines = population.outlines
    if not len(outlines):
        return 0
    rules = np.zeros((3, 256), np.int8)
    rules[SITE, list(population.on)] = 1
    rules[PAINT, list(population.within)] = 1
    rules[VOTE, list(population.within)] = -1
    rules[VOTE, list(positive)] = 1
    limits = np.array([cells.overlap, cells.trim, cells.smallest_px, cells.tries, wanted], np.float64)
    flow = cells.flow if population.along and cells.flow is not None else _NO_FLOW
    shared = cells.attraction if population.attracted and cells.attraction is not None else _EVERYWHERE
    attraction = shared if population.attraction is None else population.attraction
    seed = np.uint64(rng.integers(0, 2**64, dtype=np.uint64))
    partner = _partners(len(outlines), population.touching, rng)
    done = place_at_random(
        instance, regions, rules, outlines.vertices, outlines.offsets, outlines.radius, partner, attraction, flow,
        cells.flow_step_px, population.room, limits, seed, first,
    )  # fmt: skip
    placed_count = int(np.count_nonzero(done))
    waiting = np.flatnonzero(~done)
    for scale in (1.0, 0.5 * (1.0 + cells.shrink), cells.shrink):
        for _ in range(_ROUNDS if len(waiting) else 0):
            sites = _widest(instance, rules[SITE][regions] != 0, rng, _SITES * len(waiting) + 256)
            some = outlines.pick(waiting, scale)
            done = place_at_sites(
                instance, regions, rules, some.vertices, some.offsets, some.radius, sites, flow, cells.flow_step_px,
                limits, first + placed_count,
            )  # fmt: skip
            placed_count += int(np.count_nonzero(done))
            waiting = waiting[~done]
            if not done.any() or not len(waiting):
                break
    return placed_count


def _partners(count: int, touching: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Choose an earlier nucleus for each that touches one, else -1: int64 [count]."""
    # The first `touching` x `count` nuclei form chains of two or three, of four where one would be left over. A group
    # of one cannot touch, so every other tile gets a pair instead.
    partner = np.full(count, -1, np.int64)
    in_groups = int(np.floor(touching * count + 0.5))
    if in_groups == 1 and count > 1:
        in_groups = 2 * int(rng.integers(2))
    at = 0
    while in_groups - at >= 2:
        size = min(int(rng.integers(2, 4)), in_groups - at)
        size += int(in_groups - at - size == 1)
        partner[at + 1 : at + size] = np.arange(at, at + size - 1)
        at += size
    return partner


def _widest(
    instance: npt.NDArray[np.int32], allowed: npt.NDArray[np.bool_], rng: np.random.Generator, most: int
) -> npt.NDArray[np.int64]:
    """Find the `most` free allowed pixels farthest from anything else, widest first: flat indices, int64."""
    distance = clearance(allowed & (instance == 0)).ravel()
    sites = np.flatnonzero(distance)
    if len(sites) > most:
        enough = np.partition(distance[sites], len(sites) - most)[len(sites) - most]
        sites = sites[distance[sites] >= enough]
    sites = sites[rng.permutation(len(sites))]
    return sites[np.argsort(-distance[sites], kind="stable")][:most].astype(np.int64)


def remove_instances(instance: npt.NDArray[np.int32], numbers: npt.NDArray[np.int64]) -> None:
    """Remove instances from a map, in place, and close the gaps in the ids."""
    if len(numbers):
        instance[np.isin(instance, numbers)] = 0
        instance[...] = renumbered(instance)
