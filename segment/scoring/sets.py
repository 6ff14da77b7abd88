"""What is scored: a folder of label maps or a data set, each seen as named label maps; and which belong together."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from manifests.dataset import Dataset, open_dataset
from manifests.errors import UserError
from manifests.labels import LabelScheme, common_scheme
from manifests.store import STORE
from manifests.table import MANIFEST, PARTS
from segment.scoring.files import find_label_files, label_size, read_classes, read_instances
from segment.wholes import whole_rows

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
                f"{paths[1]}: expected the size of {paths[0]}, {_said(first)}, got {_said(sizes[1])}. "
                "Export both from the same image."
            )
        return first

    def read(self, name: str) -> Maps:
        """The maps of one stem."""
        readers = {"instance": read_instances, "classes": read_classes}
        return {kind: readers[kind](of_kind[name]) for kind, of_kind in self.files.items()}

    def group(self, name: str) -> None:
        """A file says nothing of its patient."""
        return None


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


@dataclass(frozen=True)
class Pairs:
    """Both sides, and the names that both have.

    Attributes:
        truth, pred: the label maps.
        names: in alphabetical order.
        unpaired: names left out because one side lacks them.
        scheme: what class labels mean, None for folders.
        notes: what a user should know of the pairs, a line each.
    """

    truth: LabelSet
    pred: LabelSet
    names: tuple[str, ...]
    unpaired: tuple[str, ...]
    scheme: LabelScheme | None
    notes: tuple[str, ...]


def open_pairs(truth: Path, pred: Path, mode: Mode, *, ignore_unpaired: bool = False) -> Pairs:
    """Open both sides and pair them by name: the stem of a file, the `sample_id` of a row.

    Args:
        truth, pred: folders of label maps, or data sets.
        mode: what is scored.
        ignore_unpaired: leave out names that one side lacks instead of refusing.

    Raises:
        UserError: for sides that cannot be read or do not fit each other.
    """
    datasets = [open_dataset(root) if _is_dataset(root) else None for root in (truth, pred)]
    schemes = [scheme for dataset in datasets if dataset is not None for scheme in dataset.schemes]
    scheme = common_scheme(schemes) if schemes and mode != "instances" else None
    if mode == "instances and classes" and scheme is not None and not scheme.ids("nucleus"):
        raise UserError(
            f"--classes: expected a label scheme with classes of nuclei, such as ihc, got {scheme.name}. "
            "Leave --classes out, or score the classes of pixels with --semantic."
        )
    sides: list[LabelSet] = [
        _open_rows(dataset, mode, scheme) if dataset is not None else _open_folder(root, mode)
        for root, dataset in zip((truth, pred), datasets, strict=True)
    ]
    names, unpaired = _pair(sides[0], sides[1], ignore_unpaired=ignore_unpaired)
    _check_sizes(sides[0], sides[1], names)
    notes = tuple(_tile_note(dataset) for dataset in datasets[:1] if dataset is not None and _is_cut(dataset))
    return Pairs(sides[0], sides[1], names, unpaired, scheme, notes)


def groups_of(pairs: Pairs, pattern: str | None) -> list[str]:
    """Patient, slide or region of every image, in the order of the names: what is drawn together in the bootstrap.

    Args:
        pairs: the images.
        pattern: regular expression on the name, whose first group it is; None takes the `group_id` of a data set, and
            every image for itself where there is none.

    Raises:
        UserError: for a pattern that is none, or that does not fit a name.
    """
    if pattern is None:
        return [pairs.truth.group(name) or pairs.pred.group(name) or name for name in pairs.names]
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--group-pattern: expected a regular expression, got {pattern!r} ({error}).") from error
    if expression.groups < 1:
        raise UserError(f"--group-pattern: expected one group in parentheses, got {pattern!r}. Write e.g. '^(case..)'.")
    groups = []
    for name in pairs.names:
        match = expression.search(name)
        if match is None or not match[1]:
            raise UserError(f"--group-pattern: expected a pattern that fits every name, got none in {name}. Change it.")
        groups.append(match[1])
    return groups


def _is_dataset(root: Path) -> bool:
    return any((root / name).exists() for name in (STORE, MANIFEST, PARTS))


def _open_rows(dataset: Dataset, mode: Mode, scheme: LabelScheme | None) -> DatasetLabels:
    if not len(dataset):
        raise UserError(f"{dataset.root}: expected tiles, got none.")
    positions = {name: position for position, name in enumerate(dataset.table["sample_id"].to_pylist())}
    tables = {own.name: own.projection(scheme or own) for own in dataset.schemes}
    return DatasetLabels(dataset, positions, mode, tables)


def _open_folder(root: Path, mode: Mode) -> Folder:
    """`root` itself, or `instances` and `classes` below it."""
    if mode == "semantic":
        below = root / "classes"
        return Folder(root, {"classes": find_label_files(below if below.is_dir() else root)})
    below = root / "instances"
    files = {"instance": find_label_files(below if below.is_dir() else root)}
    if mode == "instances and classes":
        if root.is_dir() and not (root / "classes").is_dir():
            raise UserError(
                f"{root}: expected a folder classes with a class map beside every instance map, got none. "
                "Add it, or leave --classes out."
            )
        files["classes"] = find_label_files(root / "classes")
        _refuse_unmatched(files["instance"], files["classes"], (below if below.is_dir() else root), root / "classes")
    return Folder(root, files)


def _refuse_unmatched(first: Collection[str], second: Collection[str], here: Path, there: Path) -> None:
    lone = sorted(set(first) ^ set(second))
    if lone:
        present, missing = (here, there) if lone[0] in first else (there, here)
        raise UserError(
            f"{missing}: expected the same names as in {present}, got no {lone[0]} ({len(lone)} names in only one of "
            "both folders). Add or remove them."
        )


def _pair(truth: LabelSet, pred: LabelSet, *, ignore_unpaired: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    shared = sorted(set(truth.names) & set(pred.names))
    only_truth, only_pred = sorted(set(truth.names) - set(shared)), sorted(set(pred.names) - set(shared))
    advice = "Rename them" if not shared else "Add or rename them, or leave them out with --ignore-unpaired"
    if (only_truth or only_pred) and not (ignore_unpaired and shared):
        lacks = [
            f"{len(names)} of {len(have.names)} in {have.root} without one in {other.root} ({_some(names)})"
            for have, other, names in ((truth, pred, only_truth), (pred, truth, only_pred))
            if names
        ]
        raise UserError(f"--truth and --pred: expected the same names on both sides, got {' and '.join(lacks)}. {advice}.")
    return tuple(shared), tuple(sorted([*only_truth, *only_pred]))


def _check_sizes(truth: LabelSet, pred: LabelSet, names: Collection[str]) -> None:
    """Every header of both sides, so that what it shows is found before hours are spent on scoring."""
    sizes: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {name: (truth.size(name), pred.size(name)) for name in names}
    unequal = [name for name, (own, seen) in sizes.items() if own != seen]
    if unequal:
        own, seen = sizes[unequal[0]]
        raise UserError(
            f"{unequal[0]}: expected maps of one size, got truth {_said(own)} and prediction {_said(seen)} "
            f"({len(unequal)} of {len(sizes)} images). Score at the truth's resolution."
        )


def _is_cut(dataset: Dataset) -> bool:
    try:
        return len(whole_rows(dataset)) < len(dataset)
    except UserError:  # resampled tiles, whose place in the whole is not kept: tiles all the same
        return True


def _tile_note(dataset: Dataset) -> str:
    return (
        f"{dataset.root}: its rows are tiles of larger images and are scored one by one; nuclei that a tile's edge cuts "
        "count in each, so these are other numbers than those of whole images"
    )


def _said(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _some(names: list[str], shown: int = 3) -> str:
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")
