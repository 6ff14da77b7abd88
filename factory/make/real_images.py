"""Real images that a synthetic data set is made like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.core.images.files import IMAGE_SUFFIXES, read_rgb
from manifests.dataset import Dataset, open_dataset
from manifests.errors import UserError
from manifests.store import STORE
from manifests.tile import Tile

MAX_IMAGES = 16
MAX_LABELLED = 64


@dataclass(frozen=True)
class Layouts:
    """Tiles whose instances masks are fitted to, at most `MAX_LABELLED`, and where they are from; see `Reference`."""

    tiles: tuple[Tile, ...]
    sources: tuple[str, ...]
    licences: tuple[str, ...]


@dataclass(frozen=True)
class Reference:
    """Images to fit to, and where they are from.

    Attributes:
        images: uint8 [H, W, 3] each, at most `MAX_IMAGES`.
        sources: ``name/group`` of every image used, for the metadata and the guard against leaks.
        licences: of those images.
        layouts: tiles of the same split that have instances; None where there are none, as in a folder of images.
    """

    images: tuple[npt.NDArray[np.uint8], ...]
    sources: tuple[str, ...]
    licences: tuple[str, ...]
    layouts: Layouts | None = None


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
    images = tuple(sample.image for sample in samples)
    return Reference(images, *_provenance(dataset, [sample.row for sample in samples]), _layouts(dataset, training))


def _layouts(dataset: Dataset, training: list[int]) -> Layouts | None:
    cells = dataset.table["cells"].to_pylist()
    labelled = [row for row in training if cells[row]]
    if not labelled:
        return None
    samples = [dataset[labelled[position]] for position in _even_steps(len(labelled), MAX_LABELLED)]
    tiles = tuple(sample.tile for sample in samples)
    return Layouts(tiles, *_provenance(dataset, [sample.row for sample in samples]))


def _provenance(dataset: Dataset, rows: list[dict[str, Any]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sources and licences of rows, each once and sorted."""
    name = dataset.root.resolve().name
    sources = {f"{name}/{row['group_id'] or row['sample_id']}" for row in rows}
    return tuple(sorted(sources)), tuple(sorted({row["licence"] for row in rows if row["licence"]}))


def _even_steps(count: int, most: int = MAX_IMAGES) -> list[int]:
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)).tolist() if count else []
