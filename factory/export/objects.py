"""Cells as objects of one class each, for formats that have no other place for classes."""

from __future__ import annotations

import numpy as np

from factory.core.cells import Cells, cells_of
from factory.export.base import Export
from manifests.dataset import Sample
from manifests.errors import UserError

MIXED = "px of cells with another class than their cell"
BARE = "px of nuclei that are in no cell"


def objects_of(export: Export, sample: Sample) -> tuple[Cells, dict[str, int]]:
    """The cells of a tile, and what is lost where the cells alone are written, counted.

    Raises:
        UserError: for a cell that has no class of its own, as one on background or on ignored pixels.
    """
    cells, names = cells_of(sample.tile), [label.name for label in export.cell_classes]
    known = [label.id for label in export.cell_classes]
    stray = cells.ids[~np.isin(cells.classes, known)]
    if stray.size:
        raise UserError(
            f"sample {sample.row['sample_id']}: expected cells of {', '.join(names)}, got cell {stray[0]} on pixels of "
            "another label. Use --format png, which keeps both."
        )
    if export.holds_regions:
        return cells, {}
    is_known = np.zeros(256, np.bool_)
    is_known[known] = True
    bare = is_known[sample.tile.semantic] & (sample.tile.instance == 0)
    return cells, {MIXED: cells.mixed_px, BARE: int(np.count_nonzero(bare))}


def add(lost: dict[str, int], more: dict[str, int]) -> None:
    """Add counts to counts."""
    for what, count in more.items():
        lost[what] = lost.get(what, 0) + count
