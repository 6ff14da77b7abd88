"""What is scored: a folder of label maps or a data set, each seen as label maps with names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from manifests.dataset import Dataset
from manifests.errors import UserError
from manifests.labels import LabelScheme
from segment.scoring.files import find_label_files, holds_label_files, label_size, read_classes, read_instances

Mode = Literal["instances", "instances and classes", "semantic"]
"""What is read of each image."""

Maps = dict[str, npt.NDArray[Any]]
"""``instance``: integer [H, W]; ``classes``: uint8 [H, W], 255 = ignore. Either may be absent."""


class LabelSet(Protocol):
    """Label maps by name."""

    @property
    def root(self) -> Path: ...  # noqa: D102

    @property
    def names(self) -> Collection[str]: ...  # noqa: D102

    def size(self, name: str) -> tuple[int, int]:
        """Height and width, checked without decoding."""
        ...

    def read(self, name: str) -> Maps:
        """The maps of one image, checked value by value."""
        ...

    def group(self, name: str) -> str | None:
        """Patient or slide, None where it is not known."""
        ...


@dataclass(frozen=True)
class Folder:
    """Label maps as files.

    Attributes:
        root: the folder as given. files: kind of map (``instance``, ``classes``) -> stem -> path; the same stems.
    """

    root: Path
    files: Mapping[str, Mapping[str, Path]]

    @property
    def names(self) -> Collection[str]:
        """Stems of the files."""
        return next(iter(self.files.values())).keys()

    def size(self, name: str) -> tuple[int, int]:
        """Height and width; those of instance map and class map must agree."""
        paths = [of_kind[name] for of_kind in self.files.values()]
        first, *others = sizes = [label_size(path) for path in paths]
        if any(other != first for other in others):
            raise UserError(
                f"{paths[1]}: expected the size of {paths[0]}, {size_text(first)}, got {size_text(sizes[1])}. "
                "Export both from the same image."
            )
        return first

    def read(self, name: str) -> Maps:
        """The maps of one stem."""
        readers = {"instance": read_instances, "classes": read_classes}
        return {kind: readers[kind](of_kind[name]) for kind, of_kind in self.files.items()}

    def group(self, name: str) -> None:
        """None: a file says nothing of its patient."""


@dataclass(frozen=True)
class DatasetLabels:
    """Labels of a data set's rows, named by `sample_id`.

    Attributes:
        dataset: the rows. positions: sample_id -> row. mode: what is read.
        tables: label scheme of a row -> uint8 [256], onto the scheme that is scored.
    """

    dataset: Dataset
    positions: Mapping[str, int]
    mode: Mode
    tables: Mapping[str, npt.NDArray[np.uint8]]

    @property
    def root(self) -> Path:
        """The data set's folder."""
        return self.dataset.root

    @property
    def names(self) -> Collection[str]:
        """Every `sample_id`."""
        return self.positions.keys()

    def size(self, name: str) -> tuple[int, int]:
        """Height and width of every tile of the store."""
        return self.dataset.store.layout.height, self.dataset.store.layout.width

    def read(self, name: str) -> Maps:
        """Instance ids, unless only classes are scored, and classes; the ignored pixels are in these."""
        row = self.dataset.row(self.positions[name])
        tile = self.dataset.tile(row)
        classes = self.tables[row["label_scheme"]][tile.semantic]
        return {"classes": classes} if self.mode == "semantic" else {"instance": tile.instance, "classes": classes}

    def group(self, name: str) -> str | None:
        """The row's `group_id`."""
        group: str | None = self.dataset.row(self.positions[name])["group_id"]
        return group


def open_rows(dataset: Dataset, mode: Mode, scheme: LabelScheme | None) -> DatasetLabels:
    """The rows of a data set, read in `scheme`, or each in its own where that is None.

    Raises:
        UserError: when there are none, or they do not read as `scheme`.
    """
    if not len(dataset):
        raise UserError(f"{dataset.root}: expected tiles, got none.")
    positions = {name: position for position, name in enumerate(dataset.table["sample_id"].to_pylist())}
    tables = {own.name: own.projection(scheme or own) for own in dataset.schemes}
    return DatasetLabels(dataset, positions, mode, tables)


def open_folder(root: Path, mode: Mode, *, is_truth: bool) -> Folder:
    """The label maps of `root` itself, or those of the folders `instances` and `classes` below it.

    The class maps of a truth are read whenever they are there: 255 in them is ignored, as it is in a data set.

    Args:
        root: the folder. mode: what is scored. is_truth: whether it is the truth.

    Raises:
        UserError: when there are none, or instance maps and class maps have other names.
    """
    if mode == "semantic":
        return Folder(root, {"classes": find_label_files(_folder_of("classes", root))})
    here, there = _folder_of("instances", root), root / "classes"
    files = {"instance": find_label_files(here)}
    if mode == "instances and classes":
        if root.is_dir() and not there.is_dir():
            raise UserError(
                f"{root}: expected a folder classes with a class map beside every instance map, got none. "
                "Add it, or leave --classes out."
            )
        files["classes"] = find_label_files(there)
        _refuse_unmatched(files["instance"], files["classes"], here, there, "Add or remove them")
    elif is_truth and there.is_dir() and holds_label_files(there):
        files["classes"] = find_label_files(there)
        advice = f"255 in the maps of {there.name} is left out of the scores: add them, or rename that folder"
        _refuse_unmatched(files["instance"], files["classes"], here, there, advice)
    return Folder(root, files)


def _folder_of(kind: str, root: Path) -> Path:
    """The folder `kind` below `root` where there is one, else `root`."""
    below = root / kind
    if not below.is_dir():
        return root
    if not holds_label_files(below) and holds_label_files(root):
        raise UserError(
            f"{below}: expected label maps, got none, while {root} holds some. Remove that folder, or fill it."
        )
    return below


def size_text(size: tuple[int, int]) -> str:
    """``HxW``, as in messages."""
    return f"{size[0]}x{size[1]}"


def _refuse_unmatched(first: Collection[str], second: Collection[str], here: Path, there: Path, advice: str) -> None:
    lone = sorted(set(first) ^ set(second))
    if lone:
        present, missing = (here, there) if lone[0] in first else (there, here)
        raise UserError(
            f"{missing}: expected the same names as in {present}, got no {lone[0]} ({len(lone)} names in only one of "
            f"both folders). {advice}."
        )
