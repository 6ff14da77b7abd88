"""All figures of one comparison, from arrays: what `factory score` and the experiments call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from factory.core.console import progress
from factory.realism.control_price import ShiftBin, price_of_control
from factory.realism.controls import ControlRow, Halves, control_row, random_draws, shuffle_patches, split_halves
from factory.realism.copies import CopyFigures, FeatureSets, find_copies, searches
from factory.realism.features import Extractor, extract, open_extractor
from factory.realism.frechet import Extrapolation, bootstrap_interval, extrapolate, frechet_distance
from factory.realism.grid import GridFigures, local_distances
from factory.realism.kernel import KernelDistance, kernel_distance
from factory.realism.mask_statistics import MaskStatistics, mask_statistics, measured_classes
from factory.realism.modes import ModeFigures, find_modes, mode_space
from factory.realism.neighbours import Neighbourhood, neighbourhood
from factory.realism.pictures import to_pictures
from factory.realism.projections import Projection, kl_divergence, ks_2d, project_pca, project_tsne
from factory.realism.settings import Settings
from factory.realism.tiles import TileSet, generator
from factory.realism.two_samples import CurveFigures, StatisticFigures, compare_curves, compare_statistics

Floats = npt.NDArray[np.float64]
Figures = TypeVar("Figures")

LEAST_TILES = 16
"""Tiles of either kind that a comparison needs."""


@dataclass(frozen=True)
class ProjectionFigures:
    """One plane: its points, what differs in it, and its grid.

    Attributes:
        projection: points of all tiles. ks, kl: between fakes and reals (`ks_2d`, `kl_divergence`). ks_floor, kl_floor:
            means of the same between real halves, where they lie in this plane. grid: its cells.
    """

    projection: Projection
    ks: float
    kl: float
    ks_floor: float
    kl_floor: float
    grid: GridFigures


@dataclass(frozen=True)
class Comparison:
    """Every figure of fakes against reals.

    Attributes:
        fakes, reals: the tiles compared, equally many. settings: all of them. extractor_origin, extractor_sha256: of the
            features. dimensions: of a feature vector. distance_name: what the Frechet distance is called.
        distance, distance_interval: Frechet distance and its 95 % interval. extrapolation: over sample sizes.
        kernel: kernel distance. neighbours: precision, recall, density, coverage. projections: pca, t-sne.
        halves_note: which halves are the floor. controls: the table at one sample size, fakes and controls.
        statistics, curves: of masks, per class; empty for images. modes: of the real tiles.
        copies: None without training tiles. price: bins of the allocation shift; empty without shifts.
        training: those tiles. measured: fakes, reals, shuffled -> statistics of every tile, per class; empty for images.
    """

    fakes: TileSet
    reals: TileSet
    settings: Settings
    extractor_origin: str
    extractor_sha256: str | None
    dimensions: int
    distance_name: str
    distance: float
    distance_interval: tuple[float, float]
    extrapolation: Extrapolation
    kernel: KernelDistance
    neighbours: Neighbourhood
    projections: tuple[ProjectionFigures, ...]
    halves_note: str
    control_size: int
    controls: tuple[ControlRow, ...]
    statistics: tuple[StatisticFigures, ...]
    curves: tuple[CurveFigures, ...]
    modes: ModeFigures
    copies: CopyFigures | None
    price: tuple[ShiftBin, ...]
    training: TileSet | None
    measured: Mapping[str, tuple[MaskStatistics, ...]]

    @property
    def floor(self) -> ControlRow:
        """The row of real halves that the fakes are held against."""
        rows = {row.name: row for row in self.controls}
        return rows.get(HALVES_BY_GROUP, rows[RANDOM_HALVES])

    def row(self, name: str) -> ControlRow:
        """The row of the table of controls with that name."""
        return next(row for row in self.controls if row.name == name)


RANDOM_HALVES, HALVES_BY_GROUP = "real halves, random", "real halves, by group"
FAKES, SHUFFLED = "fakes", "shuffled patches"


def compare_sets(
    fakes: TileSet,
    reals: TileSet,
    settings: Settings | None = None,
    *,
    n: int | None = None,
    training: TileSet | None = None,
    controls: Mapping[str, TileSet] | None = None,
    extractor: Extractor | None = None,
) -> Comparison:
    """Compare two sets of masks or images of one size, scheme and resolution.

    Args:
        fakes, reals: of either as many are drawn as the smaller has; all fakes serve the price of control.
        settings: default `Settings()`. n: tiles of either kind, at most.
        training: tiles that the generator was trained on, for copies. controls: name -> other tiles for the table.
        extractor: opened already; default what the settings name.

    Raises:
        ValueError: for sets of other sizes or schemes, or fewer than 16 tiles.
    """
    settings = settings or Settings()
    controls = controls or {}
    count = min(len(fakes), len(reals), n or len(reals))
    _check([fakes, reals, *controls.values(), *([training] if training else [])], count)
    # Without shifts the fakes beyond the number compared have no figure to go into.
    pool = fakes if fakes.shifts is not None else choose(fakes, count, settings.seed)
    fakes, reals = (choose(side, count, settings.seed) for side in (fakes, reals))
    halves = split_halves(reals.groups, count, settings.draws, settings.seed)
    shuffled = reals.with_pixels(
        shuffle_patches(reals.pixels, settings.patch_grid, generator(settings.seed, "shuffle"))
    )
    extractor = extractor or open_extractor(settings.features, _path(settings.feature_weights))
    named = {"fakes": fakes, "reals": reals, "shuffled": shuffled, "pool": pool}
    if training is not None:
        named["training"] = training
    named |= {f"control {name}": side for name, side in controls.items()}
    features = _features(extractor, named, settings)
    measured = _statistics({"fakes": fakes, "reals": reals, "shuffled": shuffled}) if fakes.scheme else {}
    f, r = features["fakes"], features["reals"]
    others = {name: features[f"control {name}"] for name in controls}
    return Comparison(
        fakes=fakes,
        reals=reals,
        settings=settings,
        extractor_origin=extractor.origin,
        extractor_sha256=extractor.sha256,
        dimensions=f.shape[1],
        distance_name=extractor.distance,
        distance=frechet_distance(f, r),
        distance_interval=bootstrap_interval(
            f, r, generator(settings.seed, "bootstrap"), groups=reals.groups, resamples=settings.bootstrap
        ),
        extrapolation=extrapolate(f, r, generator(settings.seed, "extrapolation"), settings.subset_sizes),
        kernel=kernel_distance(f, r, generator(settings.seed, "kernel"), settings.kernel_subsets),
        neighbours=neighbourhood(f, r, settings.neighbours),
        projections=_projections(f, r, halves, settings),
        halves_note=halves.note,
        control_size=halves.size,
        controls=_controls(features, others, halves, settings),
        statistics=_compare_all(measured, halves, compare_statistics),
        curves=_compare_all(measured, halves, lambda *sides: (compare_curves(*sides),)),
        modes=_modes(f, r, measured, reals.ids, settings),
        copies=_copies(fakes, reals, training, features, settings),
        price=_price(pool, features, settings),
        training=training,
        measured=measured,
    )


def choose(tiles: TileSet, count: int, seed: int) -> TileSet:
    """`count` of the tiles, drawn at random, in random order: any beginning of it is a random draw too."""
    return tiles.take(generator(seed, "choice").permutation(len(tiles))[:count])


def _check(sides: list[TileSet], count: int) -> None:
    if count < LEAST_TILES:
        raise ValueError(f"expected at least {LEAST_TILES} tiles of either kind, got {count}")
    first = sides[0]
    for side in sides[1:]:
        if side.shape != first.shape or side.scheme != first.scheme:
            raise ValueError(f"{side.name}: expected tiles of the size and scheme of {first.name}")


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _features(extractor: Extractor, sets: Mapping[str, TileSet], settings: Settings) -> dict[str, Floats]:
    """Features of each set, those of tiles that are in two sets computed once."""
    pool = {tile: place for place, tile in enumerate(sets["pool"].ids)}
    whole = {name: side for name, side in sets.items() if name != "fakes"}
    with progress("features", sum(map(len, whole.values())), unit="pictures") as bar:
        found = {
            name: extract(
                extractor,
                to_pictures(side, settings.picture_px),
                device=settings.device,
                batch=settings.batch,
                on_pictures=bar.advance,
            )
            for name, side in whole.items()
        }
    found["fakes"] = found["pool"][[pool[tile] for tile in sets["fakes"].ids]]
    return found


def _statistics(sets: Mapping[str, TileSet]) -> dict[str, tuple[MaskStatistics, ...]]:
    schemes = [side.scheme for side in sets.values() if side.scheme is not None]
    total = sum(len(side) * len(measured_classes(scheme)) for side, scheme in zip(sets.values(), schemes, strict=True))
    with progress("mask statistics", total) as bar:
        return {name: mask_statistics(side, bar.advance) for name, side in sets.items()}


def _compare_all(
    measured: Mapping[str, tuple[MaskStatistics, ...]],
    halves: Halves,
    compare: Callable[..., tuple[Figures, ...]],
) -> tuple[Figures, ...]:
    sides = zip(*(measured[name] for name in ("fakes", "reals", "shuffled")), strict=True) if measured else ()
    return tuple(figures for of_class in sides for figures in compare(*of_class, halves.floor))


def _projections(f: Floats, r: Floats, halves: Halves, settings: Settings) -> tuple[ProjectionFigures, ...]:
    found = []
    for projection in (project_pca(f, r), project_tsne(f, r, settings.seed)):
        real_pairs = [(projection.reals[a], projection.reals[b]) for a, b in halves.floor]
        found.append(
            ProjectionFigures(
                projection,
                ks_2d(projection.fakes, projection.reals),
                kl_divergence(projection.reals, projection.fakes),
                float(np.mean([ks_2d(a, b) for a, b in real_pairs])),
                float(np.mean([kl_divergence(a, b) for a, b in real_pairs])),
                local_distances(projection, f, r, cells=settings.grid, min_cell=settings.min_cell),
            )
        )
    return tuple(found)


def _controls(
    features: Mapping[str, Floats], others: Mapping[str, Floats], halves: Halves, settings: Settings
) -> tuple[ControlRow, ...]:
    reals, size, k = features["reals"], halves.size, settings.neighbours
    rng = generator(settings.seed, "halves", 1)

    def row(name: str, side: Floats) -> ControlRow:
        fitting = min(size, len(side))
        return control_row(name, side, reals, random_draws(len(side), len(reals), fitting, settings.draws, rng), k, rng)

    rows = [control_row(RANDOM_HALVES, reals, reals, halves.random, k, rng)]
    if halves.by_group:
        rows.append(control_row(HALVES_BY_GROUP, reals, reals, halves.by_group, k, rng))
    rows.append(row(FAKES, features["fakes"]))
    rows += [row(name, side) for name, side in others.items()]
    rows.append(row(SHUFFLED, features["shuffled"]))
    return tuple(rows)


def _modes(
    f: Floats, r: Floats, measured: Mapping[str, tuple[MaskStatistics, ...]], ids: tuple[str, ...], settings: Settings
) -> ModeFigures:
    tables = [
        np.stack([column for of_class in measured[name] for column in of_class.values.values()], 1)
        if measured
        else None
        for name in ("fakes", "reals")
    ]
    return find_modes(*mode_space(f, r, *tables), ids, most=settings.modes, seed=settings.seed)


def _copies(
    fakes: TileSet, reals: TileSet, training: TileSet | None, features: Mapping[str, Floats], settings: Settings
) -> CopyFigures | None:
    if training is None:
        return None
    with _searching(searches(len(fakes), len(reals), len(training), settings.planted)) as on_tile:
        return find_copies(
            fakes,
            reals,
            training,
            longest_px=settings.copy_px,
            quantile=settings.copy_quantile,
            planted=settings.planted,
            seed=settings.seed,
            features=FeatureSets(features["fakes"], features["reals"], features["training"]),
            on_tile=on_tile,
        )


@contextlib.contextmanager
def _searching(total: int) -> Iterator[Callable[[], None]]:
    with progress("copies", total) as bar:
        yield bar.advance


def _price(pool: TileSet, features: Mapping[str, Floats], settings: Settings) -> tuple[ShiftBin, ...]:
    if pool.shifts is None:
        return ()
    return price_of_control(
        features["pool"],
        pool.shifts,
        features["reals"],
        bins=settings.shift_bins,
        draws=settings.draws,
        rng=generator(settings.seed, "shift"),
    )
