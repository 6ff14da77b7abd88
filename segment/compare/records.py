"""Records of trainings: one JSON beside the folder of each training that has ended."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from factory.core.encoding import json_bytes
from manifests.errors import FaultError
from manifests.files import write_atomic
from manifests.limits import read_json
from segment.compare.config import Training
from segment.compare.summary import Scores


@dataclass(frozen=True)
class ImageFigures:
    """One test image: name, patient or slide (None where unknown), and metric -> value.

    Values that are not finite (nothing to score) are read back as NaN. `test` names the external test set, and is empty
    for the test split of the real tiles.
    """

    test: str
    name: str
    group: str | None
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Record:
    """Result of a training.

    Attributes:
        training: its place in the grid. fingerprint: of everything that decides its result.
        step: of the scored weights. weights_sha256: of their file. error: that stopped it, None for a finished one.
        images: scores on the test images; empty for a failed one.
    """

    training: Training
    fingerprint: str
    step: int | None = None
    weights_sha256: str | None = None
    error: str | None = None
    images: tuple[ImageFigures, ...] = ()


def record_path(folder: Path, training: Training) -> Path:
    """Path of a record, beside the folder of its training."""
    return folder / f"{training.name}.json"


def write_record(folder: Path, record: Record) -> None:
    """Write a record, whole or not at all."""
    document = asdict(record)
    write_atomic(record_path(folder, record.training), json_bytes(document.pop("training") | document, indent=1))


def read_record(folder: Path, training: Training, fingerprint: str) -> Record | None:
    """The record of a training, None where there is none; refuses a damaged one, and one of another comparison."""
    found = read_any_record(folder, training)
    if found is not None and (found.training, found.fingerprint) != (training, fingerprint):
        path = record_path(folder, training)
        raise FaultError(f"{path}: expected a record of this comparison, got one of another. Remove it and run again.")
    return found


def read_any_record(folder: Path, training: Training) -> Record | None:
    """The record under a training's name, of any comparison; None where there is none. Refuses a damaged one."""
    path = record_path(folder, training)
    try:
        document = read_json(path)
        return Record(
            Training(document["arm"], document["fraction"], document["seed"]),
            **{name: document[name] for name in ("fingerprint", "step", "weights_sha256", "error")},
            images=tuple(_read_image(image) for image in document["images"]),
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise FaultError(f"{path}: expected a whole record, got {error!r}. Remove it and run again.") from error


def collect(records: Iterable[Record], images: Sequence[tuple[str, str]], test: str = "") -> Scores:
    """Scores of all records on one test set; refuses scores of other images.

    Args:
        records: of finished and failed trainings.
        images: (name, group) of every test image, in the order of the result. test: the set, see `ImageFigures`.
    """
    names = [name for name, _ in images]
    finished, failed = {}, {}
    for record in records:
        if record.error is not None:
            failed[record.training] = record.error
            continue
        scored = [image for image in record.images if image.test == test]
        if [image.name for image in scored] != names:
            raise FaultError(f"{record.training.name}: expected scores of the {len(names)} test images, got others.")
        metrics = list(scored[0].figures)
        finished[record.training] = {
            metric: np.array([image.figures[metric] for image in scored]) for metric in metrics
        }
    return Scores(tuple(names), tuple(group for _, group in images), finished, failed)


def _read_image(image: Mapping[str, Any]) -> ImageFigures:
    figures = {name: math.nan if value is None else float(value) for name, value in image["figures"].items()}
    return ImageFigures(image["test"], image["name"], image["group"], figures)
