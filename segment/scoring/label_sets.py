"""Label maps by name, of a folder or a data set; and pairs of true and predicted ones, matched and checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from factory.core.images.label_maps import find_label_files, has_label_files, label_size, read_classes, read_instances
from manifests.dataset import Dataset, open_dataset
from manifests.errors import UserError
from manifests.labels import LabelScheme, common_scheme
from manifests.store import STORE
from manifests.table import MANIFEST, PARTS

Mode = Literal["instances", "instances and classes", "semantic"]
"""Maps that are read of each image."""

Maps = dict[str, npt.NDArray[Any]]
"""``instance``: integer [H, W]; ``classes``: uint8 [H, W], 255 = ignore. Either may be absent."""


@dataclass(frozen=True)
class LabelSet:
    """Label maps by name.

    Attributes:
        root: the folder or data set. names: of the images.
        size: name -> height and width, checked without decoding. read: name -> maps, checked value by value.
        group: name -> patient or slide, None where unknown.
    """

    root: Path
    names: Collection[str]
    size: Callable[[str], tuple[int, int]]
    read: Callable[[str], Maps]
    group: Callable[[str], str | None]


def open_rows(dataset: Dataset, mode: Mode, scheme: LabelScheme | None) -> LabelSet:
    """Rows of a data set by `sample_id`, projected onto `scheme`, or each in its own scheme where that is None."""
    if not len(dataset):
        raise UserError(f"{dataset.root}: expected tiles, got none.")
    positions = {name: position for position, name in enumerate(dataset.table["sample_id"].to_pylist())}
    tables = {own.name: own.projection(scheme or own) for own in dataset.schemes}
    layout = dataset.store.layout

    def read(name: str) -> Maps:
        row = dataset.row(positions[name])
        tile = dataset.tile(row)
        classes: npt.NDArray[np.uint8] = tables[row["label_scheme"]][tile.semantic]
        return {"classes": classes} if mode == "semantic" else {"instance": tile.instance, "classes": classes}

    def group(name: str) -> str | None:
        found: str | None = dataset.row(positions[name])["group_id"]
        return found

    return LabelSet(dataset.root, positions.keys(), lambda name: (layout.height, layout.width), read, group)


def open_folder(root: Path, mode: Mode, *, is_truth: bool) -> LabelSet:
    """The label maps of `root` itself, or those of the folders `instances` and `classes` below it.

    The class maps of a truth are read wherever they exist: 255 in them is ignored, as in a data set.
    """
    if mode == "semantic":
        return _of_files(root, {"classes": find_label_files(_folder_of("classes", root))})
    here, there = _folder_of("instances", root), _below(root, "classes")
    files = {"instance": find_label_files(here)}
    if mode == "instances and classes":
        if root.is_dir() and not there.is_dir():
            raise UserError(
                f"{root}: expected a folder classes with a class map beside every instance map, got none. "
                "Add it, or leave --classes out."
            )
        files["classes"] = find_label_files(there)
        _refuse_unmatched(files["instance"], files["classes"], here, there, "Add or remove them")
    elif is_truth and there.is_dir() and has_label_files(there):
        files["classes"] = find_label_files(there)
        advice = f"255 in the maps of {there.name} is left out of the scores: add them, or rename that folder"
        _refuse_unmatched(files["instance"], files["classes"], here, there, advice)
    return _of_files(root, files)


def _of_files(root: Path, files: dict[str, dict[str, Path]]) -> LabelSet:
    """Label maps of files: kind of map (``instance``, ``classes``) -> stem -> path, with the same stems."""

    def size(name: str) -> tuple[int, int]:
        paths = [of_kind[name] for of_kind in files.values()]
        first, *others = sizes = [label_size(path) for path in paths]
        if any(other != first for other in others):
            raise UserError(
                f"{paths[1]}: expected the size of {paths[0]}, {size_text(first)}, got {size_text(sizes[1])}. "
                "Export both from the same image."
            )
        return first

    def read(name: str) -> Maps:
        readers = {"instance": read_instances, "classes": read_classes}
        return {kind: readers[kind](of_kind[name]) for kind, of_kind in files.items()}

    return LabelSet(root, next(iter(files.values())).keys(), size, read, lambda name: None)


def _folder_of(kind: str, root: Path) -> Path:
    """The folder `kind` below `root` if it exists, else `root`."""
    below = _below(root, kind)
    if not below.is_dir():
        return root
    if not has_label_files(below) and has_label_files(root):
        raise UserError(
            f"{below}: expected label maps, got none, while {root} holds some. Remove that folder, or fill it."
        )
    return below


def _below(root: Path, kind: str) -> Path:
    """The folder `kind` below `root`, whatever its capitals."""
    found = (
        [path for path in sorted(root.iterdir()) if path.name.lower() == kind and path.is_dir()]
        if root.is_dir()
        else []
    )
    return found[0] if found else root / kind


def size_text(size: tuple[int, int]) -> str:
    """``HxW``, as in messages."""
    return f"{size[0]}x{size[1]}"


def _refuse_unmatched(first: Collection[str], second: Collection[str], here: Path, there: Path, advice: str) -> None:
    unmatched = sorted(set(first) ^ set(second))
    if unmatched:
        present, missing = (here, there) if unmatched[0] in first else (there, here)
        raise UserError(
            f"{missing}: expected the same names as in {present}, got no {unmatched[0]} ({len(unmatched)} names in "
            f"only one of both folders). {advice}."
        )


@dataclass(frozen=True)
class Pairs:
    """Both sides and their common names.

    Attributes:
        truth, pred: the label maps. names: in alphabetical order.
        unpaired: names that only one side has. scheme: of the class labels, None for folders.
        notes: for the user, a line each.
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
        ignore_unpaired: leave out names that only one side has, instead of refusing.
    """
    datasets = [open_dataset(root) if _is_dataset(root) else None for root in (truth, pred)]
    schemes = [scheme for dataset in datasets if dataset is not None for scheme in dataset.schemes]
    scheme = common_scheme(schemes) if schemes and mode != "instances" else None
    if mode == "instances and classes" and scheme is not None and not scheme.ids("nucleus"):
        raise UserError(
            f"--classes: expected a label scheme with classes of nuclei, such as ihc, got {scheme.name}. "
            "Leave --classes out, or score the classes of pixels with --semantic."
        )
    for dataset in datasets:
        if mode == "instances" and dataset is not None:
            _refuse_regions(dataset)
    sides: list[LabelSet] = [
        open_rows(dataset, mode, scheme) if dataset is not None else open_folder(root, mode, is_truth=is_truth)
        for root, dataset, is_truth in zip((truth, pred), datasets, (True, False), strict=True)
    ]
    names, unpaired = _pair(sides[0], sides[1], ignore_unpaired=ignore_unpaired)
    _check_sizes(sides[0], sides[1], names)
    notes = tuple(
        f"{dataset.root}: its rows are tiles of larger images, scored one by one; a nucleus that a tile's edge cuts "
        "counts in each, so these are other numbers than those of whole images"
        for dataset in datasets[:1]
        if dataset is not None and _is_cut(dataset)
    )
    return Pairs(sides[0], sides[1], names, unpaired, scheme, notes)


def groups_of(pairs: Pairs, pattern: str | None) -> list[str]:
    """Patient, slide or region of every image, in the order of the names: unit of the bootstrap.

    Args:
        pairs: the images.
        pattern: regular expression on the name, whose first group is used; None takes the `group_id` of a data set,
            else the name itself.
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


def _refuse_regions(dataset: Dataset) -> None:
    """Refuse to score instances of a data set of regions, which has none."""
    if not any(scheme.ids("nucleus") for scheme in dataset.schemes) and not any(dataset.table["cells"].to_pylist()):
        names = ", ".join(scheme.name for scheme in dataset.schemes)
        raise UserError(
            f"{dataset.root}: expected instances of nuclei, got none in a data set of regions ({names}). "
            "Score the classes of its pixels with --semantic."
        )


def _is_dataset(root: Path) -> bool:
    return any((root / name).exists() for name in (STORE, MANIFEST, PARTS))


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
        raise UserError(
            f"--truth and --pred: expected the same names on both sides, got {' and '.join(lacks)}. {advice}."
        )
    return tuple(shared), tuple(sorted([*only_truth, *only_pred]))


def _check_sizes(truth: LabelSet, pred: LabelSet, names: Collection[str]) -> None:
    """Compare all headers of both sides before the scoring starts."""
    sizes: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
        name: (truth.size(name), pred.size(name)) for name in names
    }
    unequal = [name for name, (own, seen) in sizes.items() if own != seen]
    if unequal:
        own, seen = sizes[unequal[0]]
        raise UserError(
            f"{unequal[0]}: expected maps of one size, got truth {size_text(own)} and prediction {size_text(seen)} "
            f"({len(unequal)} of {len(sizes)} images). Score at the truth's resolution."
        )


def _is_cut(dataset: Dataset) -> bool:
    """Whether several rows come from the same image or slide."""
    sources = dataset.table["source_uri"].drop_null()
    return len(sources.unique()) < len(sources)


def _some(names: list[str], shown: int = 3) -> str:
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")
