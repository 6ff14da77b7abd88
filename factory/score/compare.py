"""All figures of one comparison, computed from arrays; `factory score` and the experiments call it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from threadpoolctl import threadpool_limits

from factory.core.console import progress
from factory.core.statistics import Floats
from factory.geometry.nuclear_statistics import NuclearStatistics
from factory.score.controls import (
    ControlRow,
    ShiftBin,
    control_table,
    price_of_control,
    shuffle_patches,
    split_halves,
)
from factory.score.copies import CopyFigures, find_copies, searches
from factory.score.distances import (
    Extrapolation,
    KernelDistance,
    Neighbourhood,
    bootstrap_interval,
    extrapolate,
    frechet_distance,
    kernel_distance,
    neighbourhood,
)
from factory.score.features import Extractor, extract, open_extractor
from factory.score.mask_statistics import class_fractions
from factory.score.modes import ModeFigures, find_modes, mode_space
from factory.score.periodicity import Periodicity, periodic_excess
from factory.score.projections import ProjectionFigures, project_both
from factory.score.settings import Settings, generator
from factory.score.stripes import Stripes, strongest_stripes
from factory.score.tiles import TileSet, random_crops, to_pictures
from factory.score.two_samples import (
    CurveFigures,
    Measured,
    NuclearFigures,
    StatisticFigures,
    compare_curves,
    compare_nuclei,
    compare_statistics,
    measure_masks,
    measure_nuclei,
)

LEAST_TILES = 16
"""Tiles of either kind that a comparison needs."""

POOL = 4
"""Largest number of real tiles used for the floor, per tile compared."""


@dataclass(frozen=True)
class Comparison:
    """All figures of fakes against reals.

    Attributes:
        fakes, reals: the tiles compared, equally many.
        extractor_origin, extractor_sha256: of the features. dimensions: of a feature vector.
        distance_name: name of the Frechet distance. distance, distance_interval: its value and its 95 % interval.
        extrapolation: over sample sizes. kernel: kernel distance. neighbours: precision, recall, density, coverage.
        projections: pca, t-sne. halves_note: describes the halves of the floor.
        control_size: tiles of either side in a row of `controls`, the table at one sample size.
        statistics, curves: of masks, per class; empty for images. modes: of the real tiles.
        copies: None without training tiles; the whole pool of reals sets the limit.
        price: bins of the allocation shift; empty without shifts. training: whole training tiles.
        periodicity, stripes: of images, None for masks; stripes of ``fakes`` and ``reals``.
        measured: statistics of every tile.
        nuclei: of masks with instances on both sides, else empty. nuclei_measured: fakes, reals, pool -> their nuclei.
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
    stripes: Mapping[str, Stripes] | None
    training: TileSet | None
    measured: Measured
    nuclei: tuple[NuclearFigures, ...] = ()
    nuclei_measured: Mapping[str, NuclearStatistics] = field(default_factory=dict)

    def row(self, name: str) -> ControlRow | None:
        """Returns the row of the table of controls with this name, or None."""
        return next((row for row in self.controls if row.name == name), None)


def compare_sets(
    fakes: TileSet,
    reals: TileSet,
    settings: Settings | None = None,
    *,
    n: int | None = None,
    training: TileSet | None = None,
    training_crops: TileSet | None = None,
    controls: Mapping[str, TileSet] | None = None,
    extractor: Extractor | None = None,
    search_copies: bool = True,
) -> Comparison:
    """Compares two sets of masks or images of one size, scheme and resolution.

    Args:
        fakes, reals: equal numbers are drawn from both. Further reals (up to four times as many in all) are used for
            the floor, further fakes for the price of control.
        settings: of all figures. n: tiles of either kind, at most.
        training: whole tiles that the generator was trained on, as large as the fakes or larger, searched for copies.
        training_crops: random parts of them of the fakes' size, for the table; default one random crop of each.
        controls: name -> other tiles for the table.
        extractor: an open extractor; default the one that the settings name.
        search_copies: whether `training` is searched for copies; not where fakes are made of real pixels.

    Raises:
        ValueError: for sets of different sizes or schemes, or with fewer than 16 tiles.
    """
    settings, controls = settings or Settings(), controls or {}
    count = min(len(fakes), len(reals), n or len(reals))
    if training is not None and training_crops is None:
        training_crops = _crops(training, fakes.shape, settings.seed)
    _check([fakes, reals, *controls.values(), *([training_crops] if training_crops else [])], count)
    sets = _pools(fakes, reals, count, settings)
    fakes, reals = (sets[name].take(range(count)) for name in ("fakes", "reals"))
    sets |= {} if training_crops is None else {"training": training_crops}
    sets |= {f"control {name}": side for name, side in controls.items()}
    extractor = extractor or open_extractor(settings.features, settings.weights_path)
    features = _features(extractor, sets, settings)
    pool = sets["reals"]
    measured = measure_masks({"fakes": fakes, "pool": pool, "shuffled": sets["shuffled"]}, count)
    nuclei = measure_nuclei(fakes, pool, count)
    halves = split_halves(pool.groups, len(pool), count, settings.draws, settings.seed)
    f, r = features["fakes"][:count], features["reals"][:count]
    # Matrices are small: one thread is fastest, and the figures do not depend on the number of threads.
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
            distance_interval=bootstrap_interval(
                f, r, generator(settings.seed, "bootstrap"), groups=reals.groups, resamples=settings.bootstrap
            ),
            extrapolation=extrapolate(f, r, generator(settings.seed, "extrapolation"), settings.subset_sizes),
            kernel=kernel_distance(f, r, generator(settings.seed, "kernel"), settings.kernel_subsets),
            neighbours=neighbourhood(f, r, settings.neighbours),
            projections=project_both(f, r, settings),
            halves_note=halves.note,
            control_size=halves.size,
            controls=control_table(
                features, f, {name: features[f"control {name}"] for name in controls}, halves, settings
            ),
            statistics=compare_statistics(measured, halves),
            curves=compare_curves(measured, halves),
            modes=_modes(f, r, measured, reals.ids, settings),
            copies=_copies(fakes, pool, training if search_copies else None, features, settings),
            price=_price(sets["fakes"], pool, features, settings),
            periodicity=None
            if fakes.scheme
            else Periodicity(periodic_excess(fakes.pixels), periodic_excess(reals.pixels)),
            stripes=None
            if fakes.scheme
            else {"fakes": strongest_stripes(fakes.pixels), "reals": strongest_stripes(reals.pixels)},
            training=training,
            measured=measured,
            nuclei=compare_nuclei(nuclei, halves),
            nuclei_measured=nuclei,
        )


def choose(tiles: TileSet, count: int, seed: int) -> TileSet:
    """Draws `count` tiles in random order, so that any first part of them is a random draw too."""
    return tiles.take(generator(seed, "choice").permutation(len(tiles))[:count])


def _pools(fakes: TileSet, reals: TileSet, count: int, settings: Settings) -> dict[str, TileSet]:
    """Returns fakes and reals, of which the first `count` are compared, and shuffled patches of those reals."""
    more = len(fakes) if fakes.shifts is not None else count
    pools = {"fakes": choose(fakes, more, settings.seed), "reals": choose(reals, POOL * count, settings.seed)}
    compared = pools["reals"].take(range(count))
    mixed = shuffle_patches(compared.pixels, settings.patch_grid, generator(settings.seed, "shuffle"))
    return pools | {"shuffled": compared.with_pixels(mixed)}


def _crops(training: TileSet, shape: tuple[int, int], seed: int) -> TileSet:
    """Cuts a random crop out of each training tile."""
    if training.shape[0] < shape[0] or training.shape[1] < shape[1]:
        raise ValueError(f"{training.name}: expected tiles of at least {shape[0]}x{shape[1]}, got {training.shape}")
    return training.with_pixels(random_crops(training.pixels, shape, generator(seed, "crops", 1)))


def _check(sides: list[TileSet], count: int) -> None:
    if count < LEAST_TILES:
        raise ValueError(f"expected at least {LEAST_TILES} tiles of either kind, got {count}")
    first = sides[0]
    for side in sides[1:]:
        if side.shape != first.shape or side.scheme != first.scheme:
            raise ValueError(f"{side.name}: expected tiles of the size and scheme of {first.name}")


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


def _modes(f: Floats, r: Floats, measured: Measured, ids: tuple[str, ...], settings: Settings) -> ModeFigures:
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
    with progress("copies", searches(len(fakes), len(reals), settings.planted)) as bar:
        of_all = features["fakes"][: len(fakes)], features["reals"], features["training"]
        return find_copies(fakes, reals, training, settings, of_all, bar.advance)


def _price(pool: TileSet, reals: TileSet, features: Mapping[str, Floats], settings: Settings) -> tuple[ShiftBin, ...]:
    if pool.shifts is None:
        return ()
    fractions = None if pool.scheme is None else (class_fractions(pool), class_fractions(reals))
    return price_of_control(features["fakes"], pool.shifts, features["reals"], settings, fractions)
