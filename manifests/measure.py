"""Composition of masks: area shares, TPS and cells. All consumers of the contract use these functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests.labels import LabelScheme
from manifests.tile import Tile


@dataclass(frozen=True)
class Composition:
    """The composition of one mask; `None` where a figure has no meaning.

    Attributes:
        tps_area: positive / (positive + negative) tumour pixels; None without tumour.
        tps_cells: the same by instances; None without tumour instances.
        positive_tissue_fraction: positive tumour pixels / tissue pixels.
        has_tumour: whether any pixel is tumour; None where the scheme has no tumour.
        tissue_fraction: 1 - air share of the labelled pixels; None where the scheme has no air.
        class_fractions: share of the labelled pixels per class, in scheme order.
        cells: instances; cells_positive and cells_negative: tumour instances of either kind.
        cells_cut: instances that reach the border of the tile: part of each may lie beyond it.
        cell_fractions: share of the cells per class, in scheme order, each by the majority of its pixels; None without
            cells, and where the scheme has not several classes of nuclei.
    """

    tps_area: float | None
    tps_cells: float | None
    positive_tissue_fraction: float | None
    has_tumour: bool | None
    tissue_fraction: float | None
    class_fractions: tuple[float, ...]
    cells: int
    cells_positive: int | None
    cells_negative: int | None
    cells_cut: int
    cell_fractions: tuple[float, ...] | None


def measure(tile: Tile) -> Composition:
    """Measure the composition of a tile's mask.

    `ignore` pixels are left out of every share. A cell's class is the majority of positive and negative tumour pixels
    under it (a tie is negative); a cell over neither counts in `cells` only.
    """
    scheme = tile.scheme
    # One vectorised comparison for each class: a histogram would first widen every pixel to eight bytes.
    counts = np.array([np.count_nonzero(tile.semantic == label.id) for label in scheme.classes])
    labelled = int(counts.sum())
    air, positive, negative = (
        int(counts[list(scheme.ids(role))].sum()) for role in ("air", "tumour_positive", "tumour_negative")
    )
    tissue, tumour = labelled - air, positive + negative
    knows_tumour = bool(scheme.ids("tumour_positive"))
    cells, cells_positive, cells_negative = count_cells(tile.semantic, tile.instance, scheme)
    return Composition(
        tps_area=positive / tumour if tumour else None,
        tps_cells=cells_positive / (cells_positive + cells_negative) if cells_positive + cells_negative else None,
        positive_tissue_fraction=positive / tissue if knows_tumour and tissue else None,
        has_tumour=tumour > 0 if knows_tumour else None,
        tissue_fraction=tissue / labelled if scheme.ids("air") and labelled else None,
        class_fractions=tuple((counts / labelled).tolist()) if labelled else (0.0,) * len(scheme),
        cells=cells,
        cells_positive=cells_positive if knows_tumour else None,
        cells_negative=cells_negative if knows_tumour else None,
        cells_cut=len(cut_cells(tile.instance)),
        cell_fractions=_cell_fractions(tile) if len(scheme.ids("nucleus")) > 1 else None,
    )


def _cell_fractions(tile: Tile) -> tuple[float, ...] | None:
    """Share of the cells per class; a cell has the class of nuclei that most of its pixels have, else the first."""
    on_cell = np.flatnonzero(tile.instance)
    if not on_cell.size:
        return None
    present, cell = np.unique(tile.instance.ravel()[on_cell], return_inverse=True)
    classes = len(tile.scheme)
    labels = tile.semantic.ravel()[on_cell].astype(np.int64)
    nuclear = list(tile.scheme.ids("nucleus"))
    inside = np.isin(labels, nuclear)
    votes = np.bincount(cell[inside] * classes + labels[inside], minlength=present.size * classes)
    chosen = np.array(nuclear)[votes.reshape(-1, classes)[:, nuclear].argmax(axis=1)]
    return tuple((np.bincount(chosen, minlength=classes) / present.size).tolist())


def measured_tps(tile: Tile) -> float:
    """TPS of a mask on the basis of its scheme, of pixels or of instances; NaN without tumour."""
    composition = measure(tile)
    tps = composition.tps_cells if tile.scheme.tps_basis == "cells" else composition.tps_area
    return float("nan") if tps is None else tps


def count_cells(
    semantic: npt.NDArray[np.uint8], instance: npt.NDArray[np.int32], scheme: LabelScheme
) -> tuple[int, int, int]:
    """Instances in all, and tumour instances by the majority of their tumour pixels: (cells, positive, negative)."""
    on_cell = np.flatnonzero(instance)
    if not on_cell.size:
        return 0, 0, 0
    labels = semantic.ravel()[on_cell]
    ids: npt.NDArray[np.integer[Any]] = instance.ravel()[on_cell]
    if int(ids.max()) > instance.size:  # sparse ids of foreign maps: do not let them size the histogram
        present, ids = np.unique(ids, return_inverse=True)
        cells = present.size
    else:
        cells = int(np.count_nonzero(np.bincount(ids)))
    votes = np.zeros(256, np.int64)
    votes[list(scheme.ids("tumour_positive"))] = 1
    votes[list(scheme.ids("tumour_negative"))] = -1
    is_tumour = votes[labels] != 0
    if not is_tumour.any():
        return cells, 0, 0
    balance = np.bincount(ids[is_tumour], weights=votes[labels[is_tumour]])
    present_tumour = np.bincount(ids[is_tumour]) > 0
    positive = int(np.count_nonzero(balance[present_tumour] > 0))
    return cells, positive, int(np.count_nonzero(present_tumour)) - positive


def cut_cells(instance: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """Ids of the instances that reach the border of their tile, ascending: part of each may lie beyond it.

    Drawn and annotated ones are kept alike; the column `cells_cut` counts them.
    """
    edges = (instance[:1], instance[-1:], instance[:, :1], instance[:, -1:])
    ids = np.unique(np.concatenate([edge.ravel() for edge in edges])).astype(np.int64)
    return ids[ids > 0]
