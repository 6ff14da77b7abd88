"""Measures the two smallest densities of `segment.audit.stain_count.find_nuclei` on training and validation images.

    python -m experiments.stain_count_constants FOLDER...     ingested IHC with positive and negative cells

Of each patient or slide of the train and val splits, `TILES_PER_GROUP` tiles with at least `FEWEST_CELLS` annotated
cells are drawn with `SEED`; no test tile and no rendered tile is used. As in the audit's calibration, each data
set has its own stain vectors, and at every point of the grid its own threshold. The choice is the smallest mean |TPS
error|; tiles are averaged within a group, then groups over all data sets, so that a patient with many tiles counts
once.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt

from factory.core.statistics import youden_threshold
from manifests.dataset import Dataset, open_dataset
from manifests.labels import IGNORE
from segment.audit.annotated import AnnotatedCells, annotated_cells
from segment.audit.calibration import FEWEST_CELLS
from segment.audit.stain_count import estimate_vectors, find_nuclei, mean_dab, stain_densities

PALE_OD = (0.01, 0.02, 0.03, 0.05, 0.08)
LEAST_OD = (0.0, 0.02, 0.04, 0.06, 0.08, 0.12, 0.16, 0.2, 0.24)
TILES_PER_GROUP, SEED = 3, 0


@dataclass(frozen=True)
class Found:
    """Nuclei of one tile at one `pale_od`: mean densities and annotated kind of each, beside the tile's annotation."""

    group: str
    dab: npt.NDArray[np.float64]
    total: npt.NDArray[np.float64]
    kind: npt.NDArray[np.int8]
    tps: float
    cells: int


@dataclass(frozen=True)
class Score:
    """One point of the grid: mean |TPS error| and mean relative error of the count, over groups."""

    pale_od: float
    least_od: float
    tps_error: float
    count_error: float


def choose_tiles(dataset: Dataset, cells: AnnotatedCells) -> Dataset:
    """Tiles of the train and val splits with enough cells: so many of each group, drawn with a seed."""
    by_group: dict[str, list[int]] = defaultdict(list)
    for index, sample in enumerate(dataset):
        if sample.row["split"] != "test" and cells.of(sample).total >= FEWEST_CELLS:
            by_group[sample.row["group_id"]].append(index)
    rng = np.random.default_rng(SEED)
    chosen = [rng.permutation(by_group[group])[:TILES_PER_GROUP] for group in sorted(by_group)]
    return dataset.where(np.isin(np.arange(len(dataset)), np.concatenate(chosen)))


def look(root: Path) -> dict[float, list[Found]]:
    """Nuclei of a data set's tiles for every `pale_od`, of any density."""
    whole = open_dataset(root)
    cells = annotated_cells(whole)
    if cells is None or whole.info.is_synthetic:
        sys.exit(f"error: {root}: expected real tiles with positive and negative cells.")
    dataset = choose_tiles(whole, cells)
    vectors = estimate_vectors(sample.image for sample in dataset)
    if vectors is None:
        sys.exit(f"error: {root}: expected two stains.")
    print(f"{root}: {len(dataset)} tiles of {len(set(dataset.table['group_id'].to_pylist()))} groups", flush=True)
    found: dict[float, list[Found]] = defaultdict(list)
    for sample in dataset:
        tile, there, densities = sample.tile, cells.of(sample), stain_densities(sample.image, vectors)
        for pale_od in PALE_OD:
            nuclei = find_nuclei(densities, tile.mpp, pale_od=pale_od, least_od=0.0)
            nuclei = np.where(tile.semantic != IGNORE, nuclei, 0).astype(np.int32)
            ids, dab = mean_dab(densities, nuclei)
            _, haematoxylin = mean_dab(densities[..., ::-1], nuclei)
            kind = there.kind_of(nuclei, ids)
            found[pale_od].append(Found(sample.row["group_id"], dab, dab + haematoxylin, kind, there.tps, there.total))
    return found


def group_errors(tiles: list[Found], least_od: float) -> Iterator[tuple[float, float]]:
    """|TPS error| and relative error of the count of each group of one data set, each a mean over its tiles."""
    kept = [tile.total >= least_od for tile in tiles]
    dab = np.concatenate([tile.dab[keep] for tile, keep in zip(tiles, kept, strict=True)])
    kind = np.concatenate([tile.kind[keep] for tile, keep in zip(tiles, kept, strict=True)])
    threshold, _ = youden_threshold(dab[kind >= 0], kind[kind >= 0] == 1)
    by_group: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for tile, keep in zip(tiles, kept, strict=True):
        count = int(np.count_nonzero(keep))
        # Where nothing is found, the error is the worse of the answers 0 and 1, as in the calibration.
        error = abs((tile.dab[keep] > threshold).mean() - tile.tps) if count else max(tile.tps, 1 - tile.tps)
        by_group[tile.group].append((float(error), count / tile.cells - 1))
    for pairs in by_group.values():
        errors, counts = np.mean(pairs, axis=0)
        yield float(errors), float(counts)


def main() -> None:
    """Print the grid and the choice."""
    if len(sys.argv) < 2:
        sys.exit("error: expected folders of ingested IHC tiles.")
    sets = [look(Path(root)) for root in sys.argv[1:]]
    scores = []
    for pale_od, least_od in product(PALE_OD, LEAST_OD):
        errors = np.array([pair for found in sets for pair in group_errors(found[pale_od], least_od)])
        scores.append(Score(pale_od, least_od, *(float(mean) for mean in errors.mean(axis=0))))
    print("pale_od  least_od  |TPS error|  count error")
    for score in scores:
        print(f"{score.pale_od:7.2f}  {score.least_od:8.2f}  {score.tps_error:11.4f}  {score.count_error:+11.3f}")
    best = min(scores, key=lambda score: score.tps_error)
    print(f"choice: pale_od {best.pale_od:g}, least_od {best.least_od:g} ({best.tps_error:.4f})")


if __name__ == "__main__":
    main()
