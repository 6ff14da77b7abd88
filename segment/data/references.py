"""Images whose stains are references: of a file, a folder or a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from factory.core.images.files import IMAGE_SUFFIXES, read_rgb
from manifests.dataset import Dataset, open_dataset
from manifests.errors import UserError
from manifests.labels import LabelScheme
from manifests.store import STORE
from segment.data.sources import Source, groups_of, refuse_tested_groups
from segment.data.stains import MacenkoConfig, Stains, estimate_stains, median_stains

_MOST = 64
"""Largest number of images of a reference, evenly spread over all."""

Reader = Callable[[], npt.NDArray[np.uint8]]


def refuse_ihc(scheme: LabelScheme, key: str) -> None:
    """Refuse Macenko's stains where classes differ by their stain: an image without DAB would be given some.

    Args:
        scheme: of the network. key: of the configuration, for the message.
    """
    if scheme.ids("tumour_positive"):
        raise UserError(
            f"{key}: expected a scheme of H&E, got {scheme.name}, whose classes differ by their stain. Leave it out."
        )


def macenko_references(config: MacenkoConfig, scheme: LabelScheme, sources: Sequence[Source]) -> tuple[Stains, ...]:
    """Stains of the further reference images of the augmentation, none where it is off or needs none.

    Raises:
        UserError: for a scheme of IHC, images of a group in the test split, and a path without images of tissue.
    """
    if not config.probability:
        return ()
    refuse_ihc(scheme, "augment.macenko.probability")
    if config.references is None:
        return ()
    path = Path(config.references)
    refuse_tested_references(path, sources)
    return tuple(_stains_of(path))


def refuse_tested_references(path: Path, sources: Sequence[Source]) -> None:
    """Refuse reference images of a group in the test split of a real source."""
    tested = {group for source in sources if source.role == "real" for group in source.groups("test")}
    names = groups_of(_training_rows(path)) if _is_dataset(path) else [file.name for file in _files(path)]
    refuse_tested_groups(str(path), sorted(names), tested)


def stain_reference(path: Path, scheme: LabelScheme) -> Stains:
    """Median stains of an image, of those in a folder, or of the training tiles of a data set, for a scheme of H&E."""
    refuse_ihc(scheme, "--stain-reference")
    return median_stains(_stains_of(path))


def training_reference(dataset: Dataset, scheme: LabelScheme) -> Stains:
    """Median stains of training tiles, for a scheme of H&E."""
    refuse_ihc(scheme, "inference.stain_reference")
    return median_stains(_estimated(dataset.root, _readers(dataset)))


def _stains_of(path: Path) -> list[Stains]:
    files = [] if _is_dataset(path) else _files(path)
    return _estimated(path, [partial(read_rgb, file) for file in files] or _readers(_training_rows(path)))


def _estimated(path: Path, readers: Sequence[Reader]) -> list[Stains]:
    chosen = np.unique(np.linspace(0, len(readers) - 1, min(len(readers), _MOST)).round().astype(int))
    found = [stains for place in chosen if (stains := estimate_stains([readers[place]()])) is not None]
    if not found:
        raise UserError(f"{path}: expected images of stained tissue for a stain reference, got none. Name others.")
    return found


def _is_dataset(path: Path) -> bool:
    return (path / STORE).is_dir()


def _training_rows(path: Path) -> Dataset:
    return Source("real", open_dataset(path)).split("train")


def _readers(dataset: Dataset) -> list[Reader]:
    return [partial(dataset.store.read, index, "image") for index in dataset.table["index"].to_pylist()]


def _files(path: Path) -> list[Path]:
    """A picture, or those of a folder."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    found = [file for file in files if file.is_file() and file.suffix.lower() in IMAGE_SUFFIXES]
    if not found:
        raise UserError(f"{path}: expected an image, a folder of images or a data set, got none. Name another path.")
    return found
