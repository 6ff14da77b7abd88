"""Which label maps belong together: by name, never by order; and what is known before a pixel is decoded."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from manifests.dataset import Dataset, open_dataset
from manifests.errors import UserError
from manifests.labels import LabelScheme, common_scheme
from manifests.store import STORE
from manifests.table import MANIFEST, PARTS
from segment.scoring.sets import LabelSet, Mode, open_folder, open_rows, size_text


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
    for dataset in datasets:
        if mode == "instances" and dataset is not None:
            _refuse_regions(dataset)
    sides: list[LabelSet] = [
        open_rows(dataset, mode, scheme) if dataset is not None else open_folder(root, mode, is_truth=is_truth)
        for root, dataset, is_truth in zip((truth, pred), datasets, (True, False), strict=True)
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


def _refuse_regions(dataset: Dataset) -> None:
    """Refuse to score instances that a data set of regions does not have: every figure would be a dash."""
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
    """Every header of both sides, so that what it shows is found before hours are spent on scoring."""
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
    """Whether several rows come from one image or slide."""
    sources = dataset.table["source_uri"].drop_null()
    return len(sources.unique()) < len(sources)


def _tile_note(dataset: Dataset) -> str:
    return (
        f"{dataset.root}: its rows are tiles of larger images, scored one by one; a nucleus that a tile's edge cuts "
        "counts in each, so these are other numbers than those of whole images"
    )


def _some(names: list[str], shown: int = 3) -> str:
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")
