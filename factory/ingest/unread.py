"""Files that no rule reads: labels are named, because a data set without them would be a weak one without a word."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from factory.core.images.files import RASTERS
from factory.core.images.listing import DEEPEST, PICTURES, files_below

_ANNOTATIONS = (".xml", ".geojson", ".json", ".mat", ".npz", ".roi", ".zip", ".gz", ".ndpa", ".qpdata")
"""Formats that hold annotations where they lie among images."""

_TABLES = (".csv", ".tsv", ".txt")
_LABEL_ENDING = re.compile(
    r"(.+?)[ ._-]+(anno|annotations?|masks?|cp_masks|labels?|segmentation|seg|gt|inst|instances?|class|classes)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Unread:
    """Files below a source folder that no pattern claims, as paths relative to it.

    Attributes:
        annotations: in formats of annotation tools. partners: pictures and tables named after an image.
        pictures: all other pictures.
    """

    annotations: tuple[str, ...] = ()
    partners: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()


def find_unread(root: Path, claimed: Collection[str], stems: Collection[str], *, is_folder: bool) -> Unread:
    """Look through a folder and those in it, three levels deep; hidden files and links are passed over.

    Args:
        root: the source folder. claimed: files that are read, relative to it. stems: those of the images.
        is_folder: whether all of it is meant; else only files in it that are named after the image.
    """
    annotations, partners, pictures = [], [], []
    companions = {name[: -len(".mrxs")] for name in claimed if name.lower().endswith(".mrxs")}
    for uri in files_below(root, DEEPEST if is_folder else 0, companions):
        suffix = Path(uri).suffix.lower()
        if uri in claimed or not (is_folder or _belongs(uri, stems)):
            continue
        if suffix in _ANNOTATIONS:
            annotations.append(uri)
        elif suffix in (*RASTERS, *_TABLES) and _belongs(uri, stems):
            partners.append(uri)
        elif suffix in PICTURES:
            pictures.append(uri)
    return Unread(tuple(annotations), tuple(partners), tuple(pictures))


def labels_among(images: Mapping[str, str]) -> dict[str, str]:
    """Images that are named as labels of another one, ``x_mask`` beside ``x``: stem -> the other's path."""
    found = {}
    for stem in images:
        ending = _LABEL_ENDING.fullmatch(stem)
        if ending is not None and ending[1] in images:
            found[stem] = images[ending[1]]
    return found


def _belongs(uri: str, stems: Collection[str]) -> bool:
    """Whether a file is named after an image: by its stem, or that with an ending."""
    stem = Path(uri).stem
    return stem in stems or any(stem[: match.start()] in stems for match in re.finditer(r"[ ._-]", stem))
