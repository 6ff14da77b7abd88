"""Label stacks in NPY: PanNuke (Gamper et al. 2020) and CoNIC (Graham et al. 2021), many images in one file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from factory.core.images.files import UnreadableError
from factory.core.images.stacks import open_stack
from factory.core.label_files.base import CellMap, LabelFormat, as_ids, check_size, classes_by_majority, once_per_file

PANNUKE = ("neoplastic", "inflammatory", "connective", "dead", "epithelial")
"""Channels of PanNuke's masks; a last one is background."""

CONIC = ("neutrophil", "epithelial", "lymphocyte", "plasma", "eosinophil", "connective")
"""Classes 1-6 of CoNIC's label maps."""


class PanNuke(LabelFormat):
    """``masks.npy`` [N, H, W, 6] beside ``images.npy`` and ``types.npy``, or in PanNuke's folders of each.

    A channel holds the ids of one class; where channels overlap the later one counts. Another number of channels, the
    last of them background, is read as well: classes are then named "1", "2", ..., and a single one has no name.
    """

    suffixes = ("masks.npy",)
    scheme = "nuclei_types"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """By the shape."""
        return path.name.lower() == "masks.npy" and len(shape := open_stack(path).shape) == 4 and shape[3] > 1

    @classmethod
    def stack(cls, path: Path) -> Path:
        """The images beside the masks, or in the folder ``images`` where the masks are in ``masks``."""
        return _beside(path, "images.npy")

    @classmethod
    def beside(cls, path: Path) -> Sequence[Path]:
        """The tissues."""
        return (_beside(path, "types.npy"),)

    @classmethod
    def stems(cls, path: Path) -> Sequence[str]:
        """``FOLDER-TISSUE-00012``, or ``FOLDER-00012`` without ``types.npy``."""
        return list(_numbers(path))

    @classmethod
    def read(cls, path: Path, stem: str, size: tuple[int, int], *, nuclei: bool) -> CellMap:
        """Ids as in the file; 1, 2, 3, ... by channel where two channels share an id."""
        channels = np.asarray(open_stack(path)[_numbers(path)[stem]])
        check_size(channels.shape[:2], size)
        instance = np.zeros(size, np.int64)
        classes: dict[int, str | None] = {}
        count = channels.shape[2] - 1
        numbered = [str(number) for number in range(1, count + 1)] if count > 1 else [None]
        maps = [as_ids(channels[:, :, channel]) for channel in range(count)]
        present = [np.unique(ids[ids > 0]) for ids in maps]
        are_apart = np.unique(np.concatenate(present)).size == sum(map(len, present))
        for ids, own, name in zip(maps, present, PANNUKE if count == len(PANNUKE) else numbered, strict=True):
            numbers = own if are_apart else np.arange(own.size) + len(classes) + 1
            inside = ids > 0
            instance[inside] = numbers[np.searchsorted(own, ids[inside])]
            classes |= dict.fromkeys(numbers.tolist(), name)
        return CellMap(instance, classes)


class Conic(LabelFormat):
    """``labels.npy`` [N, H, W, 2], ids and classes, beside ``images.npy`` and ``patch_info.csv``."""

    suffixes = ("labels.npy",)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """By the shape."""
        return path.name.lower() == "labels.npy" and len(shape := open_stack(path).shape) == 4 and shape[3] == 2

    @classmethod
    def stack(cls, path: Path) -> Path:
        """The images beside the labels."""
        return _beside(path, "images.npy")

    @classmethod
    def beside(cls, path: Path) -> Sequence[Path]:
        """The names of the images."""
        return (path.with_name("patch_info.csv"),)

    @classmethod
    def stems(cls, path: Path) -> Sequence[str]:
        """Names of ``patch_info.csv``, whose part before the last ``-`` is the source image, else ``FOLDER-00012``."""
        return list(_patches(path))

    @classmethod
    def read(cls, path: Path, stem: str, size: tuple[int, int], *, nuclei: bool) -> CellMap:
        """Ids as in the file; the class of an object is that of most of its pixels."""
        both = np.asarray(open_stack(path)[_patches(path)[stem]])
        check_size(both.shape[:2], size)
        instance, types = as_ids(both[:, :, 0]), as_ids(both[:, :, 1])
        classes, notes = classes_by_majority(instance, types, dict(enumerate(CONIC, 1)))
        return CellMap(instance, classes, notes)


@once_per_file
def _numbers(path: Path) -> dict[str, int]:
    """Stem -> number of the image."""
    count, folder, types = len(open_stack(path)), path.parent.name, [""] * len(open_stack(path))
    try:
        listed = open_stack(_beside(path, "types.npy"))
        types = [f"{str(name).lower()}-" for name in listed]
    except UnreadableError:
        pass  # the tissue is only a help to the reader
    if len(types) != count:
        raise UnreadableError(f"expected {count} types in types.npy, got {len(types)}")
    return {f"{folder}-{kind}{number:05d}": number for number, kind in enumerate(types)}


@once_per_file
def _patches(path: Path) -> dict[str, int]:
    """Stem -> number of the image."""
    count, info = len(open_stack(path)), path.with_name("patch_info.csv")
    names = [f"{path.parent.name}-{number:05d}" for number in range(count)]
    if info.is_file():
        with info.open(newline="", encoding="utf-8-sig") as stream:
            names = [row[-1].strip() for row in csv.reader(stream) if row][1:]
    if len(set(names)) != count:
        raise UnreadableError(f"expected {count} different names in {info.name}, got {len(set(names))}")
    return {name: number for number, name in enumerate(names)}


def _beside(path: Path, name: str) -> Path:
    """A file of the same data set: beside this one, or in the folder ``images`` for that of ``masks``."""
    parts = ["images" if part.lower() == "masks" else part for part in path.parent.parts]
    places = (path.with_name(name), Path(*parts) / name)
    return next((place for place in places if place.is_file()), places[0])
