"""Annotated positive and negative cells of real tiles, as outlines or points: the truth for a stain count."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.dataset import Dataset, Sample
from manifests.errors import UserError
from manifests.labels import IGNORE
from manifests.limits import reads
from manifests.measure import count_cells

POINTS = "points.parquet"
"""Table beside the manifest: sample_id, x, y, class, in pixels of the tile (`factory ingest` writes it)."""

_NAMES = {"positive": True, "negative": False}
"""Class of a point -> whether the cell is positive."""


@dataclass(frozen=True)
class TileCells:
    """Annotated cells of one tile, as points or as areas.

    Attributes:
        positive, negative: their numbers.
        marks: int32 [H, W]: 1 on positive cells, -1 on negative ones, 0 elsewhere; a point marks one pixel.
    """

    positive: int
    negative: int
    marks: npt.NDArray[np.int32]

    @property
    def total(self) -> int:
        """TileCells of both kinds."""
        return self.positive + self.negative

    @property
    def tps(self) -> float:
        """Positive share of the cells, NaN without any."""
        return self.positive / self.total if self.total else float("nan")

    def kind_of(self, nuclei: npt.NDArray[np.int32], ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int8]:
        """Kind of each found nucleus by the marks on it: 1 positive, 0 negative, -1 unknown or a tie. int8 [N].

        Args:
            nuclei: int32 [H, W] instance map. ids: int64 [N], ascending, of the nuclei in question.
        """
        covered = (nuclei > 0) & (self.marks != 0)
        balance = np.bincount(
            np.searchsorted(ids, nuclei[covered]), self.marks[covered].astype(np.float64), minlength=ids.size
        )
        return np.where(balance > 0, 1, np.where(balance < 0, 0, -1)).astype(np.int8)


@dataclass(frozen=True)
class AnnotatedCells:
    """Annotated cells of the tiles of one data set.

    Attributes:
        points: sample_id -> (x, y float64 [N], is_positive bool [N]); None where cells are instances with classes.
    """

    points: dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]] | None

    def of(self, sample: Sample) -> TileCells:
        """Annotated cells of a tile; those on ignored pixels are left out."""
        tile = sample.tile
        known = tile.semantic != IGNORE
        marks = np.zeros(tile.shape, np.int32)
        if self.points is None:
            marks[np.isin(tile.semantic, tile.scheme.ids("tumour_positive"))] = 1
            marks[np.isin(tile.semantic, tile.scheme.ids("tumour_negative"))] = -1
            _, positive, negative = count_cells(tile.semantic, tile.instance, tile.scheme)
            return TileCells(positive, negative, marks)
        none = np.empty(0)
        x, y, is_positive = self.points.get(sample.row["sample_id"], (none, none, none.astype(bool)))
        column, row = x.astype(np.intp), y.astype(np.intp)
        inside = known[row, column]
        marks[row[inside], column[inside]] = np.where(is_positive[inside], 1, -1)
        positive = int(np.count_nonzero(is_positive[inside]))
        return TileCells(positive, int(np.count_nonzero(inside)) - positive, marks)


def annotated_cells(dataset: Dataset) -> AnnotatedCells | None:
    """Annotated cells of a data set, None where it has none: instances of tumour classes, else points."""
    if all(scheme.ids("tumour_positive") and scheme.ids("nucleus") for scheme in dataset.schemes):
        return AnnotatedCells(None)
    path = dataset.root / POINTS
    if not path.is_file():
        return None
    table = _read_points(path)
    table = table.filter(pc.is_in(table["class"], pa.array(list(_NAMES))))
    if not table.num_rows:
        return None
    layout = dataset.store.layout
    by_tile = {}
    ids = np.array(table["sample_id"].to_pylist())
    x, y = table["x"].to_numpy(), table["y"].to_numpy()
    if not ((x >= 0) & (x < layout.width) & (y >= 0) & (y < layout.height)).all():
        raise UserError(f"{path}: expected points inside their tiles, got some outside. Ingest the data set again.")
    is_positive = np.array([_NAMES[name] for name in table["class"].to_pylist()])
    order = np.argsort(ids, kind="stable")
    for part in np.split(order, np.flatnonzero(ids[order][1:] != ids[order][:-1]) + 1):
        by_tile[str(ids[part[0]])] = (x[part], y[part], is_positive[part])
    return AnnotatedCells(by_tile)


@reads("a table of points")
def _read_points(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, columns=["sample_id", "x", "y", "class"], page_checksum_verification=True)
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: expected a table of sample_id, x, y and class, got: {reason}.") from error
