"""The coarse maps of data sets, read one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from factory.core.datasets import open_finished
from factory.masks.coarse.morphology import LabelMap, class_order, coarsen
from manifests.dataset import Dataset
from manifests.errors import UserError
from manifests.labels import LabelScheme, common_scheme

_SPLIT = "train"


@dataclass(frozen=True)
class CoarseMasks:
    """Coarse maps of the training masks of data sets, or of all masks where a data set has no such split.

    Attributes:
        datasets: in the order given. scheme: that all are read in. rows: (data set, row) of every mask.
    """

    datasets: tuple[Dataset, ...]
    scheme: LabelScheme
    rows: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, position: int) -> LabelMap:
        """The coarse map at a position: uint8 [H, W], ids of `scheme`."""
        part, row = self.rows[position]
        dataset = self.datasets[part]
        columns = dataset.table.slice(row, 1).select(["index", "label_scheme"]).to_pylist()[0]
        labels = dataset.store.read(columns["index"], "semantic")
        projected = dataset.info.scheme(columns["label_scheme"]).projection(self.scheme)[labels]
        return coarsen(projected, len(self.scheme), order=class_order(self.scheme))

    def name(self, position: int) -> tuple[str, str]:
        """Folder name of the data set and `sample_id` of the mask at a position."""
        part, row = self.rows[position]
        dataset = self.datasets[part]
        return dataset.root.resolve().name, dataset.table["sample_id"][row].as_py()

    @property
    def largest(self) -> tuple[int, int]:
        """Height and width that every map fits into."""
        layouts = [dataset.store.layout for dataset in self.datasets]
        return max(layout.height for layout in layouts), max(layout.width for layout in layouts)


def open_masks(paths: Sequence[Path], scheme: LabelScheme | None) -> CoarseMasks:
    """Open data sets; nothing is read yet.

    Raises:
        UserError: when one is not a finished data set, has no masks, or does not read as the scheme.
    """
    datasets = tuple(open_finished(path) for path in paths)
    for dataset in datasets:
        if not len(dataset):
            raise UserError(f"{dataset.root}: expected masks, got a data set without rows.")
    own = [one for dataset in datasets for one in dataset.schemes]
    target = scheme or common_scheme(own)
    for one in own:
        one.projection(target)
    if len(target) < 2:
        raise UserError(f"--scheme {target.name}: expected two classes or more, got one. There is nothing to draw.")
    rows = tuple((part, row) for part, dataset in enumerate(datasets) for row in training_rows(dataset))
    return CoarseMasks(datasets, target, rows)


def training_rows(dataset: Dataset) -> list[int]:
    """Rows of the training split; all where there is none."""
    splits = np.array(dataset.table["split"].to_pylist(), object)
    rows: list[int] = np.flatnonzero(splits == _SPLIT).tolist()
    return rows or list(range(len(dataset)))
