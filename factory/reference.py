"""Real images that a synthetic data set is made like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from factory.core.images.files import IMAGE_SUFFIXES, read_rgb
from manifests.dataset import Dataset, open_dataset
from manifests.errors import UserError
from manifests.store import STORE

MAX_IMAGES = 16


@dataclass(frozen=True)
class Reference:
    """Images to fit to, and where they are from.

    Attributes:
        images: uint8 [H, W, 3] each, at most `MAX_IMAGES`.
        sources: ``name/group`` of every image used, for the metadata and the guard against leaks.
        licences: of those images.
    """

    images: tuple[npt.NDArray[np.uint8], ...]
    sources: tuple[str, ...]
    licences: tuple[str, ...]


def read_reference(path: Path) -> Reference:
    """Images of a data set (its training split, where it has one), of a folder, or of one file.

    Where there are more than `MAX_IMAGES`, they are taken at even steps.

    Raises:
        UserError: when there is no image there, or one that cannot be read.
    """
    if (path / STORE).exists():
        return _from_dataset(open_dataset(path))
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise UserError(f"--like: expected a data set, a folder of images or an image, got {path}.")
    chosen = [files[position] for position in _even_steps(len(files))]
    return Reference(tuple(read_rgb(file) for file in chosen), tuple(f"{path.name}/{f.stem}" for f in chosen), ())


def _from_dataset(dataset: Dataset) -> Reference:
    splits = dataset.table["split"].to_pylist()
    training = [row for row, split in enumerate(splits) if split == "train"] or list(range(len(dataset)))
    samples = [dataset[training[position]] for position in _even_steps(len(training))]
    name = dataset.root.resolve().name
    return Reference(
        tuple(sample.image for sample in samples),
        tuple(sorted({f"{name}/{sample.row['group_id'] or sample.row['sample_id']}" for sample in samples})),
        tuple(sorted({sample.row["licence"] for sample in samples if sample.row["licence"]})),
    )


def _even_steps(count: int) -> list[int]:
    return np.unique(np.linspace(0, count - 1, min(count, MAX_IMAGES)).astype(int)).tolist() if count else []
