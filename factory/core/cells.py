"""The cells of a tile: id, class, area and bounding box of every instance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from manifests.tile import Tile

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cells:
    """The instances of a tile, ascending by id.

    Attributes:
        ids: int64 [N]. classes: of the scheme, int64 [N]. areas_px: int64 [N].
        boxes: int64 [N, 4], left, top, right and bottom; right and bottom are the first pixels outside.
        mixed_px: pixels of instances with another class than their instance.
    """

    ids: Ints
    classes: Ints
    areas_px: Ints
    boxes: Ints
    mixed_px: int

    def __len__(self) -> int:
        return len(self.ids)


def cells_of(tile: Tile) -> Cells:
    """Find the instances; the class of each is, for tumour, the majority as in `measure`, else the commonest."""
    on_cell = np.flatnonzero(tile.instance)
    ids, places = _numbered(tile.instance.ravel()[on_cell])
    areas = np.bincount(places, minlength=len(ids))
    rows, columns = np.divmod(on_cell, tile.shape[1])
    boxes = np.empty((len(ids), 4), np.int64)
    boxes[:, :2], boxes[:, 2:] = tile.instance.size, 0
    for axis, values in enumerate((columns, rows)):
        np.minimum.at(boxes[:, axis], places, values)
        np.maximum.at(boxes[:, axis + 2], places, values + 1)
    labels = tile.semantic.ravel()[on_cell]
    classes = _classes(tile, places, labels, len(ids))
    return Cells(ids, classes, areas, boxes, int(np.count_nonzero(classes[places] != labels)))


def _numbered(values: npt.NDArray[np.int32]) -> tuple[Ints, Ints]:
    """The distinct values, ascending, and the place of every value among them."""
    if values.size and int(values.max()) > 16 * values.size:  # sparse ids: do not let them size the table
        ids, places = np.unique(values, return_inverse=True)
        return ids.astype(np.int64), places
    present = np.bincount(values) > 0 if values.size else np.zeros(0, np.bool_)
    return np.flatnonzero(present), (np.cumsum(present) - 1)[values]


def _classes(tile: Tile, places: Ints, labels: npt.NDArray[np.uint8], count: int) -> Ints:
    votes = np.bincount(places * 256 + labels, minlength=count * 256).reshape(count, 256)
    classes = np.argmax(votes, axis=1)
    positive, negative = (list(tile.scheme.ids(role)) for role in ("tumour_positive", "tumour_negative"))
    if positive and negative:
        for_positive, for_negative = votes[:, positive], votes[:, negative]
        winner = np.where(
            for_positive.sum(1) > for_negative.sum(1),
            np.take(positive, for_positive.argmax(1)),
            np.take(negative, for_negative.argmax(1)),
        )
        classes = np.where(for_positive.sum(1) + for_negative.sum(1) > 0, winner, classes)
    return classes
