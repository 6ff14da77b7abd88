"""What is kept of each training of a comparison: one JSON beside its folder, and its presence means it is finished."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manifests.errors import FaultError
from manifests.files import write_atomic
from segment.compare.config import Cell
from segment.compare.summary import CellScores, Scores


@dataclass(frozen=True)
class ImageFigures:
    """One test image: its name, its patient or slide (None where unknown), and metric -> value.

    Values that are not finite are kept as NaN: there was nothing to score. `test` names the further test set that it is
    of, and is empty for the test split of the real tiles.
    """

    name: str
    group: str | None
    figures: Mapping[str, float]
    test: str = ""


@dataclass(frozen=True)
class Record:
    """How a training ended.

    Attributes:
        cell: which one. fingerprint: of what decides its result.
        images: scores on the test images; empty for a failed one. step: of the weights that were scored.
        weights_sha256: of their file. error: what stopped it, None for a finished one.
    """

    cell: Cell
    fingerprint: str
    images: tuple[ImageFigures, ...] = ()
    step: int | None = None
    weights_sha256: str | None = None
    error: str | None = None


def record_path(folder: Path, cell: Cell) -> Path:
    """Where the record of a cell is, beside the cell's folder."""
    return folder / f"{cell.name}.json"


def write_record(folder: Path, record: Record) -> None:
    """Write a record, whole or not at all."""
    document = {
        "arm": record.cell.arm,
        "fraction": record.cell.fraction,
        "seed": record.cell.seed,
        "fingerprint": record.fingerprint,
        "step": record.step,
        "weights_sha256": record.weights_sha256,
        "error": record.error,
        "images": [
            {"test": image.test, "name": image.name, "group": image.group, "figures": _finite(image.figures)}
            for image in record.images
        ],
    }
    content = json.dumps(document, indent=1, allow_nan=False) + "\n"
    write_atomic(record_path(folder, record.cell), content.encode())


def read_record(folder: Path, cell: Cell, fingerprint: str) -> Record | None:
    """The record of a cell, None where there is none.

    Raises:
        FaultError: when it is damaged or another comparison's.
    """
    found = read_any_record(folder, cell)
    if found is not None and (found.cell, found.fingerprint) != (cell, fingerprint):
        path = record_path(folder, cell)
        raise FaultError(f"{path}: expected a record of this comparison, got another's. Remove it and run again.")
    return found


def read_any_record(folder: Path, cell: Cell) -> Record | None:
    """The record under a cell's name, whatever comparison it belongs to; None where there is none.

    Raises:
        FaultError: when it is damaged.
    """
    path = record_path(folder, cell)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return Record(
            Cell(document["arm"], document["fraction"], document["seed"]),
            document["fingerprint"],
            tuple(ImageFigures(i["name"], i["group"], _with_nan(i["figures"]), i["test"]) for i in document["images"]),
            document["step"],
            document["weights_sha256"],
            document["error"],
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FaultError(f"{path}: expected a whole record, got {error!r}. Remove it and run again.") from error


def collect(records: Iterable[Record], images: Sequence[tuple[str, str]], test: str = "") -> Scores:
    """Scores of all records on one test set.

    Args:
        records: finished and failed ones.
        images: (name, group) of every test image, in the order of the result. test: the set, see `ImageFigures`.

    Raises:
        FaultError: when a record scored other images.
    """
    names = [name for name, _ in images]
    cells, failed = {}, {}
    for record in records:
        if record.error is not None:
            failed[record.cell] = record.error
            continue
        scored = [image for image in record.images if image.test == test]
        if [image.name for image in scored] != names:
            raise FaultError(f"{record.cell.name}: expected scores of the {len(names)} test images, got others.")
        metrics = list(scored[0].figures)
        cells[record.cell] = CellScores(
            {metric: np.array([image.figures[metric] for image in scored]) for metric in metrics}
        )
    return Scores(tuple(names), tuple(group for _, group in images), cells, failed)


def _finite(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def _with_nan(figures: Mapping[str, Any]) -> dict[str, float]:
    return {name: math.nan if value is None else float(value) for name, value in figures.items()}
