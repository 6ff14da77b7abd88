"""All figures of one comparison, from arrays: what `factory score` and the experiments call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from factory.core.console import progress
from factory.geometry.nuclear_statistics import NuclearStatistics
from factory.score.control_price import ShiftBin, price_of_control
from factory.score.controls import ControlRow, Halves, control_row, random_draws, shuffle_patches, split_halves
from factory.score.copies import CopyFigures, FeatureSets, find_copies, searches
from factory.score.features import Extractor, extract, open_extractor
from factory.score.frechet import Extrapolation, bootstrap_interval, extrapolate, frechet_distance
from factory.score.grid import GridFigures, local_distances
from factory.score.kernel import KernelDistance, kernel_distance
from factory.score.mask_statistics import MaskStatistics, class_fractions, mask_statistics, measured_classes
from factory.score.modes import ModeFigures, find_modes, mode_space
from factory.score.neighbours import Neighbourhood, neighbourhood
from factory.score.nuclear_figures import NuclearFigures, compare_nuclei, measure_nuclei
from factory.score.periodicity import Periodicity, periodic_excess
from factory.score.pictures import to_pictures
from factory.score.projections import Projection, kl_divergence, ks_2d, project_pca, project_tsne
from factory.score.settings import Settings
from factory.score.tiles import TileSet, generator, random_crops
from factory.score.two_samples import CurveFigures, StatisticFigures, compare_curves, compare_statistics

Floats = npt.NDArray[np.float64]
Figures = TypeVar("Figures")

LEAST_TILES = 16
"""Tiles of either kind that a comparison needs."""


POOL = 4
"""Real tiles that serve the floor, per tile compared, at most."""

RANDOM_HALVES, HALVES_BY_GROUP = "real halves, random", "real halves, by group"
TRAINING, FAKES, SHUFFLED = "training tiles", "fakes", "shuffled patches"
"""Rows of the table of controls. Training tiles (crops of the fakes' size) are what a perfect generator would equal."""


@dataclass(frozen=True)
class ProjectionFigures:
    """One plane: its points, what differs in it, and its grid.

    Attributes:
        projection: points of all tiles. ks, kl: between fakes and reals (`ks_2d`, `kl_divergence`). ks_floor, kl_floor:
            means of the same between random halves of the reals in this plane. grid: its cells.
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
        fakes, reals: the tiles compared, equally many. settings: all of them.
        extractor_origin, extractor_sha256: of the features. dimensions: of a feature vector.
        distance_name: what the Frechet distance is called. distance, distance_interval: it and its 95 % interval.
        extrapolation: over sample sizes. kernel: kernel distance. neighbours: precision, recall, density, coverage.
        projections: pca, t-sne. halves_note: which halves are the floor. control_size: tiles of either side in a row of
            `controls`, the table at one sample size.
        statistics, curves: of masks, per class; empty for images. modes: of the real tiles.
        copies: None without training tiles, which are searched whole; their limit is set by the whole pool of reals.
        price: bins of the allocation shift; empty without shifts. training: those tiles.
        periodicity: of images; None for masks.
        nuclei: of masks with instances on both sides, else empty. nuclei_measured: fakes, reals, pool -> their nuclei.
        measured: fakes, reals, shuffled, pool (all real tiles) -> statistics of every tile,
            per class; empty for images.
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
    periodicity: Periodicity | None
    training: TileSet | None
    measured: Mapping[str, tuple[MaskStatistics, ...]]
    nuclei: tuple[NuclearFigures, ...] = ()
    nuclei_measured: Mapping[str, NuclearStatistics] = field(default_factory=dict)

    def row(self, name: str) -> ControlRow | None:
        """The row of the table of controls with that name, where there is one."""
        return next((row for row in self.controls if row.name == name), None)


def compare_sets(
    fakes: TileSet,
    reals: TileSet,
    settings: Settings | None = None,
    *,
    n: int | None = None,
    training: TileSet | None = None,
    training_views: TileSet | None = None,
    controls: Mapping[str, TileSet] | None = None,
    extractor: Extractor | None = None,
) -> Comparison:
    """Compare two sets of masks or images of one size, scheme and resolution.

    Args:
        fakes, reals: of either as many are drawn as the smaller has. Reals beyond that (up to four times as many) serve
            the floor, fakes beyond it the price of control.
        settings: default `Settings()`. n: tiles of either kind, at most.
        training: whole tiles that the generator was trained on, as large as the fakes or larger, for copies.
        training_views: what it saw of them, of the fakes' size, for the table; default one random crop of each.
        controls: name -> other tiles for the table.
        extractor: opened already; default what the settings name.

    Raises:
        ValueError: for sets of other sizes or schemes, or fewer than 16 tiles.
    """
    settings, controls = settings or Settings(), controls or {}
    count = min(len(fakes), len(reals), n or len(reals))
    if training is not None and training_views is None:
        training_views = _views(training, fakes.shape, settings.seed)
    _check([fakes, reals, *controls.values(), *([training_views] if training_views else [])], count)
    sets = _pools(fakes, reals, count, settings)
    fakes, reals = (sets[name].take(range(count)) for name in ("fakes", "reals"))
    sets |= {} if training_views is None else {"training": training_views}
    sets |= {_control(name): side for name, side in controls.items()}
    extractor = extractor or open_extractor(settings.features, _path(settings.feature_weights))
    features = _features(extractor, sets, settings)
    measured = _statistics({"fakes": fakes, "pool": sets["reals"], "shuffled": sets["shuffled"]}, count)
    nuclei = measure_nuclei(fakes, sets["reals"], count)
    halves = split_halves(sets["reals"].groups, len(sets["reals"]), count, settings.draws, settings.seed)
    f, r = features["fakes"][:count], features["reals"][:count]
    # Small matrices: one thread is faster than several, and the figures do not depend on how many there are.
    with threadpool_limits(1, user_api="blas"):
        return Comparison(
            fakes=fakes,
            reals=reals,
            settings=settings,
            extractor_origin=extractor.origin,
            extractor_sha256=extractor.sha256,
            dimensions=f.shape[1],
            distance_name=extractor.distance,
            distance=frechet_distance(f, r),
            distance_interval=_interval(f, r, reals.groups, settings),
            extrapolation=extrapolate(f, r, generator(settings.seed, "extrapolation"), settings.subset_sizes),
            kernel=kernel_distance(f, r, generator(settings.seed, "kernel"), settings.kernel_subsets),
            neighbours=neighbourhood(f, r, settings.neighbours),
            projections=_projections(f, r, settings),
            halves_note=halves.note,
            control_size=halves.size,
            controls=_controls(features, f, list(controls), halves, settings),
            statistics=_compare_all(measured, halves, compare_statistics),
            curves=_compare_all(measured, halves, lambda *sides: (compare_curves(*sides),)),
            modes=_modes(f, r, measured, reals.ids, settings),
            copies=_copies(fakes, sets["reals"], training, features, settings),
            price=_price(sets["fakes"], sets["reals"], features, settings),
            periodicity=_periodicity(fakes, reals),
            training=training,
            measured=measured,
            nuclei=compare_nuclei(nuclei, halves),
            nuclei_measured=nuclei,
        )


def _periodicity(fakes: TileSet, reals: TileSet) -> Periodicity | None:
    if fakes.scheme is not None:
        return None
    return Periodicity(periodic_excess(fakes.pixels), periodic_excess(reals.pixels))


def choose(tiles: TileSet, count: int, seed: int) -> TileSet:
    """`count` of the tiles, drawn at random, in random order: any beginning of it is a random draw too."""
    return tiles.take(generator(seed, "choice").permutation(len(tiles))[:count])


def _pools(fakes: TileSet, reals: TileSet, count: int, settings: Settings) -> dict[str, TileSet]:
    """Fakes and reals of which the first `count` are compared, and the shuffled patches of those reals."""
    more = len(fakes) if fakes.shifts is not None else count
    pools = {"fakes": choose(fakes, more, settings.seed), "reals": choose(reals, POOL * count, settings.seed)}
    compared = pools["reals"].take(range(count))
    mixed = shuffle_patches(compared.pixels, settings.patch_grid, generator(settings.seed, "shuffle"))
    return pools | {"shuffled": compared.with_pixels(mixed)}


def _views(training: TileSet, shape: tuple[int, int], seed: int) -> TileSet:
    """A random crop of each training tile."""
    if training.shape[0] < shape[0] or training.shape[1] < shape[1]:
        raise ValueError(f"{training.name}: expected tiles of at least {shape[0]}x{shape[1]}, got {training.shape}")
    return training.with_pixels(random_crops(training.pixels, shape, generator(seed, "crops", 1)))


def _control(name: str) -> str:
    return f"control {name}"


def _interval(f: Floats, r: Floats, groups: tuple[str, ...] | None, settings: Settings) -> tuple[float, float]:
    rng = generator(settings.seed, "bootstrap")
    return bootstrap_interval(f, r, rng, groups=groups, resamples=settings.bootstrap)


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
    with progress("features", sum(map(len, sets.values())), unit="pictures") as bar:
        return {
            name: extract(
                extractor,
                to_pictures(side, settings.picture_px),
                device=settings.device,
                batch=settings.batch,
                on_pictures=bar.advance,
            )
            for name, side in sets.items()
        }


def _statistics(sets: Mapping[str, TileSet], count: int) -> dict[str, tuple[MaskStatistics, ...]]:
    """Statistics of each set, and as ``reals`` of the first `count` of the pool; nothing for images."""
    if sets["pool"].scheme is None:
        return {}
    schemes = [side.scheme for side in sets.values() if side.scheme is not None]
    total = sum(len(side) * len(measured_classes(scheme)) for side, scheme in zip(sets.values(), schemes, strict=True))
    with progress("mask statistics", total) as bar:
        found = {name: mask_statistics(side, bar.advance) for name, side in sets.items()}
    return found | {"reals": tuple(of_class.head(count) for of_class in found["pool"])}


def _compare_all(
    measured: Mapping[str, tuple[MaskStatistics, ...]], halves: Halves, compare: Callable[..., tuple[Figures, ...]]
) -> tuple[Figures, ...]:
    names = ("fakes", "reals", "shuffled", "pool")
    sides = zip(*(measured[name] for name in names), strict=True) if measured else ()
    return tuple(figures for of_class in sides for figures in compare(*of_class, halves))


def _projections(f: Floats, r: Floats, settings: Settings) -> tuple[ProjectionFigures, ...]:
    halves = split_halves(None, len(r), len(r), settings.draws, settings.seed).random
    found = []
    for projection in (project_pca(f, r), project_tsne(f, r, settings.seed)):
        pairs = [(projection.reals[a], projection.reals[b]) for a, b in halves]
        found.append(
            ProjectionFigures(
                projection,
                ks_2d(projection.fakes, projection.reals),
                kl_divergence(projection.reals, projection.fakes),
                float(np.mean([ks_2d(a, b) for a, b in pairs])),
                float(np.mean([kl_divergence(a, b) for a, b in pairs])),
                local_distances(projection, f, r, cells=settings.grid, min_cell=settings.min_cell),
            )
        )
    return tuple(found)


def _controls(
    features: Mapping[str, Floats], fakes: Floats, names: list[str], halves: Halves, settings: Settings
) -> tuple[ControlRow, ...]:
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
    rows += [row(name, features[_control(name)]) for name in names]
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
    with _searching(searches(len(fakes), len(reals), settings.planted)) as on_tile:
        return find_copies(
            fakes,
            reals,
            training,
            longest_px=settings.copy_px,
            quantile=settings.copy_quantile,
            planted=settings.planted,
            seed=settings.seed,
            features=FeatureSets(features["fakes"][: len(fakes)], features["reals"], features["training"]),
            on_tile=on_tile,
        )


@contextlib.contextmanager
def _searching(total: int) -> Iterator[Callable[[], None]]:
    with progress("copies", total) as bar:
        yield bar.advance


def _price(pool: TileSet, reals: TileSet, features: Mapping[str, Floats], settings: Settings) -> tuple[ShiftBin, ...]:
    if pool.shifts is None:
        return ()
    return price_of_control(
        features["fakes"],
        pool.shifts,
        features["reals"],
        fractions=None if pool.scheme is None else (class_fractions(pool), class_fractions(reals)),
        bins=settings.shift_bins,
        draws=settings.draws,
        rng=generator(settings.seed, "shift"),
    )
