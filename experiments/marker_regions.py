"""Measures `RegionsConfig.marker_um`: positive regions of Ki-67 masks against drawn ones in the same tumour.

    python -m experiments.marker_regions data/ki67r     region masks from marked cells

In every training tile with at least a tenth tumour and a TPS of 3 to 45 %, the positive regions are drawn again, in the
tumour that the tile has and at the TPS that it has, for several `marker_um`. The table gives means over tiles.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from factory.core.seeds import Stream, generator
from factory.masks.quantiles import top
from factory.masks.regions import RegionsConfig, draw_regions
from manifests.dataset import Dataset, open_dataset
from manifests.tile import Tile

MARKER_UM = (10.0, 12.0, 13.0, 14.0, 16.0)
LEAST_TUMOUR, TPS_RANGE = 0.1, (0.03, 0.45)
LAGS_UM = (4, 8, 12, 16, 24)
COLUMNS = ("area um2", "per mm2", "border /um", "next um", *(f"r({lag} um)" for lag in LAGS_UM))

Mask = npt.NDArray[np.bool_]


def main(folder: Path) -> None:
    """Print the table."""
    tiles = list(training_tiles(open_dataset(folder)))
    print(f"{len(tiles)} tiles".ljust(16) + "".join(name.rjust(12) for name in COLUMNS))
    show("real", [figures(tile, tile.semantic == tile.scheme.ids("tumour_positive")[0]) for tile in tiles])
    for marker_um in MARKER_UM:
        show(f"drawn {marker_um:g}", [figures(tile, redrawn(tile, marker_um, n)) for n, tile in enumerate(tiles)])


def show(label: str, rows: list[list[float]]) -> None:
    """Print the means of one kind of region."""
    print(label.ljust(16) + "".join(f"{value:12.3g}" for value in np.nanmean(rows, axis=0)))


def training_tiles(dataset: Dataset) -> Iterator[Tile]:
    """Tiles of the train split with enough tumour, and neither all negative nor mostly positive."""
    for position in range(len(dataset)):
        row = dataset.row(position)
        if row["split"] == "train" and TPS_RANGE[0] < (row["tps_area"] or 0.0) < TPS_RANGE[1]:
            tile = dataset.tile(row)
            if tumour_of(tile).mean() >= LEAST_TUMOUR:
                yield tile


def tumour_of(tile: Tile) -> Mask:
    """Positive and negative tumour of a tile."""
    return np.isin(tile.semantic, [*tile.scheme.ids("tumour_positive"), *tile.scheme.ids("tumour_negative")])


def redrawn(tile: Tile, marker_um: float, seed: int) -> Mask:
    """Positive regions of `draw_regions`, as large as those of the tile."""
    rng = generator(seed, Stream.MASK)
    height, width = tile.semantic.shape
    regions = draw_regions(rng, height, width, tile.mpp, RegionsConfig(marker_um=marker_um), tile.scheme)
    tumour = tumour_of(tile)
    count = int(np.isin(tile.semantic, tile.scheme.ids("tumour_positive")).sum())
    positive = np.zeros_like(tumour)
    positive[tumour] = top(regions.at_pixels(regions.positive, height, width)[tumour], count, rng)
    return positive


def figures(tile: Tile, positive: Mask) -> list[float]:
    """Mean area of a region, regions per area of tumour, border to negative tumour per positive area, next region.

    After them the correlation of two points of the tumour some lags apart, along rows and columns.
    """
    tumour, mpp = tumour_of(tile), tile.mpp
    labels, count = ndimage.label(positive)
    centres = np.array(ndimage.center_of_mass(positive, labels, range(1, count + 1))) * mpp
    apart = np.hypot(*(centres[:, None] - centres[None]).transpose(2, 0, 1)) + np.diag(np.full(count, np.inf))
    border = sum(
        np.count_nonzero((positive[here] != positive[there]) & tumour[here] & tumour[there])
        for here, there in shifts(1)
    )
    area_um2 = positive.sum() * mpp**2
    # a straight border crosses 4 / pi times its length of pixel sides, averaged over directions
    row = [area_um2 / count, count / (tumour.sum() * mpp**2 * 1e-6), border * mpp * np.pi / 4 / area_um2]
    row.append(float(np.median(apart.min(axis=0))) if count > 1 else np.nan)
    share = positive.sum() / tumour.sum()
    centred = (positive - share) * tumour
    for lag_um in LAGS_UM:
        pairs = list(shifts(round(lag_um / mpp)))
        joint = sum(float((centred[here] * centred[there]).sum()) for here, there in pairs)
        both = sum(np.count_nonzero(tumour[here] & tumour[there]) for here, there in pairs)
        row.append(joint / both / (share * (1 - share)))
    return row


def shifts(pixels: int) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Two views of an image that lie `pixels` apart, down and to the right."""
    yield np.s_[:-pixels, :], np.s_[pixels:, :]
    yield np.s_[:, :-pixels], np.s_[:, pixels:]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
