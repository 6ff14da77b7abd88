"""Calibration of the stain count on real images: stain vectors, threshold of a positive nucleus, and finder of nuclei.

Where the real data set has positive and negative cells, the threshold is the one with the highest balanced accuracy on
the cells of its train and val splits. Otherwise it is Otsu's threshold, which is not validated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from factory.core.statistics import otsu_threshold, youden_threshold
from manifests.dataset import Dataset, Sample
from manifests.errors import UserError
from manifests.labels import IGNORE
from segment.audit.annotated import AnnotatedCells, annotated_cells
from segment.audit.stain_count import (
    Floats,
    StainVectors,
    count_nuclei,
    estimate_vectors,
    find_nuclei,
    smooth_dab,
    stain_densities,
)

MOST_TILES = 100
"""Most tiles that are used; of a larger data set, tiles at equal distances."""

FEWEST_CELLS = 20
"""Fewest annotated cells of a tile whose TPS error counts: of fewer, one cell would be more than 5 %."""

_SAMPLED_PIXELS = 5_000

FindNuclei = Callable[[npt.NDArray[np.uint8], Floats, float], npt.NDArray[np.int32]]
"""Image uint8 [H, W, 3], stain densities [H, W, 2] and mpp -> instance map."""


@dataclass(frozen=True)
class StainCalibration:
    """Constants of the stain count, and how they were validated.

    Attributes:
        vectors: of the two stains.
        nucleus_dab: mean DAB density from which a nucleus is positive.
        area_dab: smoothed DAB density from which a pixel of membranous staining is positive (Otsu, never validated).
        finder: of the counted nuclei: "segmenter", or "stain" for those found by stain alone.
        validated: whether `nucleus_dab` was chosen on annotated cells.
        balanced_accuracy: of that choice on those cells, None where there are none.
        tps_error: mean absolute TPS error by finder, on the same tiles for all; where a finder finds no nucleus, the
            larger error of the answers 0 and 1.
        tps_error_tiles: number of tiles of these means: those with `FEWEST_CELLS` annotated cells.
        cells_positive, cells_negative: nuclei found on annotated cells. tiles: their number. source: the data set.
    """

    vectors: StainVectors
    nucleus_dab: float
    area_dab: float
    finder: str
    validated: bool
    balanced_accuracy: float | None
    tps_error: Mapping[str, float]
    tps_error_tiles: int
    cells_positive: int
    cells_negative: int
    tiles: int
    source: str


@dataclass(frozen=True)
class _Measured:
    """Counted nuclei of a tile: DAB density and annotated kind of each, and the tile's TPS (NaN: too few cells)."""

    dab: npt.NDArray[np.float64]
    kind: npt.NDArray[np.int8]
    tps: float


def calibration_tiles(dataset: Dataset) -> Dataset:
    """Tiles for a calibration: one or more, not of the test split, at most `MOST_TILES`."""
    usable = np.flatnonzero([split != "test" for split in dataset.table["split"].to_pylist()])
    if not usable.size:
        raise UserError(
            f"{dataset.root}: expected tiles with split train or val to estimate the stains from, got none. "
            "Name another with --stain-from."
        )
    chosen = usable[np.linspace(0, usable.size - 1, min(MOST_TILES, usable.size)).astype(np.intp)]
    return dataset.where(np.isin(np.arange(len(dataset)), chosen))


def calibrate(
    dataset: Dataset, segmenter: FindNuclei | None, on_tile: Callable[[], None] = lambda: None
) -> StainCalibration:
    """Estimate stains and threshold from real tiles.

    Args:
        dataset: of `calibration_tiles`: real IHC.
        segmenter: finds nuclei with a network; None for weights without nuclei. Where cells are annotated, the finder
            with the smaller TPS error is chosen; otherwise the segmenter.
        on_tile: called after each tile.

    Raises:
        UserError: when the images do not show two stains.
    """
    vectors = estimate_vectors(sample.image for sample in dataset)
    if vectors is None:
        raise UserError(f"{dataset.root}: expected images with haematoxylin and DAB, got none that show two stains.")
    cells = annotated_cells(dataset)
    finders: dict[str, FindNuclei] = {"stain": lambda image, densities, mpp: find_nuclei(densities, mpp)}
    if segmenter is not None:
        finders["segmenter"] = segmenter
    measured: dict[str, list[_Measured]] = {name: [] for name in finders}
    smooth = []
    rng = np.random.default_rng(0)  # samples pixels
    for sample in dataset:
        densities = stain_densities(sample.image, vectors)
        for name, find in finders.items():
            measured[name].append(_measure(sample, densities, find, cells))
        known = sample.tile.semantic != IGNORE
        values = smooth_dab(densities, known, sample.tile.mpp)[known]
        smooth.append(rng.choice(values, _SAMPLED_PIXELS) if values.size else values)
        on_tile()
    return _choose(vectors, measured, np.concatenate(smooth), dataset)


def _measure(sample: Sample, densities: Floats, find: FindNuclei, cells: AnnotatedCells | None) -> _Measured:
    tile = sample.tile
    counted = count_nuclei(tile, find(sample.image, densities, tile.mpp), densities)
    if cells is None:
        return _Measured(counted.dab, np.full(counted.ids.size, -1, np.int8), float("nan"))
    annotated = cells.of(sample)
    kind = annotated.kind_of(counted.nuclei, counted.ids)
    return _Measured(counted.dab, kind, annotated.tps if annotated.total >= FEWEST_CELLS else float("nan"))


def _choose(
    vectors: StainVectors, measured: Mapping[str, list[_Measured]], smooth: Floats, dataset: Dataset
) -> StainCalibration:
    chosen: dict[str, tuple[float, float | None, int, int]] = {}
    errors: dict[str, float] = {}
    # The annotation decides which tiles have a TPS, so all finders are compared on the same tiles.
    tiles_with_tps = sum(not np.isnan(tile.tps) for tile in next(iter(measured.values())))
    for name, tiles in measured.items():
        dab = np.concatenate([tile.dab for tile in tiles])
        kind = np.concatenate([tile.kind for tile in tiles])
        positive, negative = int(np.count_nonzero(kind == 1)), int(np.count_nonzero(kind == 0))
        if positive and negative:
            threshold, balanced = youden_threshold(dab[kind >= 0], kind[kind >= 0] == 1)
            chosen[name] = threshold, balanced, positive, negative
            if tiles_with_tps:
                with_tps = [tile for tile in tiles if not np.isnan(tile.tps)]
                errors[name] = float(np.mean([_tps_error(tile, threshold) for tile in with_tps]))
        elif dab.size:
            chosen[name] = otsu_threshold(dab), None, 0, 0
    if not chosen:
        raise UserError(f"{dataset.root}: expected images with nuclei, got none in which any was found.")
    if errors:
        finder = min(errors, key=lambda name: errors[name])
    else:  # a validated threshold before Otsu's, then the segmenter before stain
        finder = max(chosen, key=lambda name: (chosen[name][1] is not None, name == "segmenter"))
    threshold, accuracy, positive, negative = chosen[finder]
    return StainCalibration(
        vectors=vectors,
        nucleus_dab=threshold,
        area_dab=otsu_threshold(smooth),
        finder=finder,
        validated=accuracy is not None,
        balanced_accuracy=accuracy,
        tps_error=errors,
        tps_error_tiles=tiles_with_tps if errors else 0,
        cells_positive=positive,
        cells_negative=negative,
        tiles=len(dataset),
        source=str(dataset.root),
    )


def _tps_error(tile: _Measured, threshold: float) -> float:
    """|Counted - annotated TPS|; for a tile without a found nucleus, the larger error of the answers 0 and 1."""
    if not tile.dab.size:
        return max(tile.tps, 1 - tile.tps)
    return abs(float((tile.dab > threshold).mean()) - tile.tps)
